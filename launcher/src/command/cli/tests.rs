use clap::{CommandFactory as _, Parser as _};

use super::*;
use crate::config::{Entries, Env, Loaded, load};

fn parsed(line: &str) -> Cli {
    match Cli::try_parse_from(line.split_whitespace()) {
        Ok(cli) => cli,
        Err(e) => panic!("{line}: {e}"),
    }
}

fn loaded(line: &str) -> Loaded {
    let cli = parsed(line);
    let Verb::Up(up) = &cli.verb else { panic!("{line}") };
    let dir = tempfile::tempdir().unwrap();
    let env: Env = [("HOME", "/nonexistent"), ("USER", "ann")].into_iter().collect();
    load(up, &cli.global, &env, dir.path()).unwrap()
}

fn text(entries: &Entries, key: &str) -> String {
    let entry = entries.get(key).unwrap();
    format!("{} from {}", entry.value, entry.origin)
}

#[test]
fn the_types_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_reaches_its_key() {
    let entries = loaded(
        "herdsman up demo --provider local --wait 50% --keep-failed --allow me --scheduler-option --preload=x.py \
         -n 2..8 --threads 4 --memory 4GiB --workers-per-node 2 --worker-class a.B --worker-option --lifetime=1h \
         --env lock:uv.lock --python python3.12 --env-var X=1 --idle 1h --no-client off --lifetime 8h --max-workers 9 \
         --start-timeout 2m --local-network loopback --insecure --tag team=geo --proxy-command nc",
    )
    .entries;
    for (key, wanted) in [
        ("name", "\"demo\" from flag NAME"),
        ("wait", "\"0.5\" from flag --wait"),
        ("keep_failed", "true from flag --keep-failed"),
        ("place.allow", "[\"me\"] from flag --allow"),
        ("scheduler.options", "[\"--preload=x.py\"] from flag --scheduler-option"),
        ("workers.count", "\"2..8\" from flag --workers"),
        ("workers.threads", "4 from flag --threads"),
        ("workers.memory", "\"4GiB\" from flag --memory"),
        ("workers.workers_per_vm", "2 from flag --workers-per-node"),
        ("workers.class", "\"a.B\" from flag --worker-class"),
        ("workers.options", "[\"--lifetime=1h\"] from flag --worker-option"),
        ("env.mode", "\"lock:uv.lock\" from flag --env"),
        ("env.python", "\"python3.12\" from flag --python"),
        ("env.variables.X", "\"1\" from flag --env-var"),
        ("limits.idle", "\"1h\" from flag --idle"),
        ("limits.no_client", "\"off\" from flag --no-client"),
        ("limits.lifetime", "\"8h\" from flag --lifetime"),
        ("limits.max_workers", "9 from flag --max-workers"),
        ("limits.start_timeout", "\"2m\" from flag --start-timeout"),
        ("local.network", "\"loopback\" from flag --local-network"),
        ("security.insecure", "true from flag --insecure"),
        ("tags.team", "\"geo\" from flag --tag"),
        ("connect.proxy_command", "[\"nc\"] from flag --proxy-command"),
    ] {
        assert_eq!(text(&entries, key), wanted, "{key}");
    }
}

#[test]
fn every_flag_that_origins_name_exists() {
    let mut root = Cli::command();
    root.build();
    let up = root.find_subcommand("up").unwrap();
    for (_, flag) in crate::config::FLAGS {
        let Some(long) = flag.strip_prefix("--") else { continue };
        assert!(up.get_arguments().any(|a| a.get_long() == Some(long)), "{flag}");
    }
}

#[test]
fn names_may_be_missing() {
    for line in [
        "herdsman down",
        "herdsman status",
        "herdsman logs -f --worker",
        "herdsman dash --open",
        "herdsman connect",
        "herdsman env",
        "herdsman exec -- true",
        "herdsman doctor",
        "herdsman scale 4",
    ] {
        parsed(line);
    }
    let Verb::Exec(args) = parsed("herdsman exec demo demo-w0 -- sh -c true").verb else {
        panic!("exec")
    };
    assert_eq!(args.node.unwrap().as_str(), "demo-w0");
    assert_eq!(args.command, ["sh", "-c", "true"]);
}

#[test]
fn flags_of_every_verb_stand_anywhere() {
    let cli = parsed("herdsman status demo --timeout 10m --offline -o json --color never");
    assert_eq!(cli.global.timeout.unwrap().get().as_secs(), 600);
    assert!(cli.global.offline && cli.global.output == Output::Json);
    assert!(Cli::try_parse_from(["herdsman", "logs", "demo", "--scheduler", "--worker"]).is_err());
}
