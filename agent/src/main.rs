//! Entry of `herdsman-agent`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use herdsman_agent::dask::exec_child;
use herdsman_agent::logs::LogStore;
use herdsman_agent::service::notify::Notifier;
use herdsman_agent::source::machine::{Found, Host};
use herdsman_agent::{driver, environment, firewall, keeper, service, source};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const USAGE: &str = "\
herdsman-agent: runs inside each machine of a herdsman cluster

usage: herdsman-agent run [--firewall on|off]
                                           be the node that this machine is to become:
                                           /var/lib/herdsman/join.json, NoCloud, or the
                                           cloud's metadata service; waits for one
       herdsman-agent run --config FILE [--firewall on|off]
                                           be the node of a join configuration
       herdsman-agent firewall --show|--allow CIDR|--deny CIDR|--remove
                                           see and change who may reach this machine
       herdsman-agent install [--root DIR] [--no-start]
                                           make this machine, or an image at DIR, run it as a service
       herdsman-agent environment DIR      install what `herdsman pkg pack` wrote, into an image
       herdsman-agent keep --dir DIR       keep an agent running where there is no systemd
       herdsman-agent version
";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().and_then(|v| v.into_string().ok());
    match verb.as_deref() {
        Some("run") => run(args),
        Some(service::upgrade::SETTLE) => service::upgrade::settle(),
        Some("install") => service::main(args),
        Some("environment") => environment::cli::main(args),
        Some("firewall") => firewall::cli::main(args),
        Some("keep") => keeper::main(args),
        Some(exec_child::SUBCOMMAND) => exec_child::run(),
        Some(source::seed::SUBCOMMAND) => source::seed::main(),
        Some("version" | "--version" | "-V") => say(&format!(
            "herdsman-agent {} (protocol {})\n",
            env!("CARGO_PKG_VERSION"),
            herdsman_wire::version::PROTOCOL
        )),
        Some("help" | "--help" | "-h") => say(USAGE),
        _ => usage(),
    }
}

fn say(text: &str) -> ExitCode {
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let _ = std::io::stderr().write_all(USAGE.as_bytes());
    ExitCode::from(2)
}

fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (mut config, mut wish) = (None, driver::Wish::default());
    while let Some(flag) = args.next() {
        match (flag.to_str(), args.next()) {
            (Some("--config"), Some(path)) => config = Some(PathBuf::from(path)),
            (Some("--firewall"), Some(on)) if on == "on" => wish = driver::Wish::On,
            (Some("--firewall"), Some(off)) if off == "off" => wish = driver::Wish::Off,
            _ => return usage(),
        }
    }
    // One thread: an agent waits nearly all of its life, and there is one on
    // every machine.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            let found = match config {
                Some(path) => source::from_file(&path).map(|join| Found { join, machine: None }),
                None => {
                    // The node's logs have no place before its name is known.
                    let _until_found = tracing_subscriber::registry()
                        .with(LevelFilter::INFO)
                        .with(console())
                        .set_default();
                    // A wait has no loop that could feed a watchdog.
                    Notifier::of_process().ready("looking for a join configuration", false);
                    match driver::close(wish) {
                        Ok(()) => Ok(Host::this().wait().await),
                        Err(e) => Err(e),
                    }
                }
            };
            driver::run(found, wish, log).await
        }),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: no runtime: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Events go to standard error, which is the machine's console or journal, and
/// into the node's logs.
fn log(store: Option<&LogStore>) {
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(console())
        .with(store.map(LogStore::layer))
        .init();
}

fn console<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
}
