//! Settings, flags of every verb, and text from nodes, with the real program.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use herdsman_tests::home::{Home, Ran, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Carries its input and output to an address, as `ssh -W` does.
const RELAY: &str = "
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)
";

#[test]
fn a_users_file_keeps_its_comments_and_a_project_is_found_from_below() -> Result<()> {
    let home = Home::new()?;
    let file = home.path().join(".config/herdsman/config.toml");
    home.ok(&["config", "set", "limits.idle", "30m"])?;
    let mode = std::fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let text = std::fs::read_to_string(&file)?.replace("idle", "# for lunch\nidle");
    std::fs::write(&file, &text)?;
    home.ok(&["config", "set", "limits.idle", "40m"])?;
    home.ok(&["config", "set", "tags.a.b", "c"])?;
    let text = std::fs::read_to_string(&file)?;
    ensure!(
        text.contains("# for lunch\nidle = \"40m\"") && text.contains("\"a.b\" = \"c\""),
        "{text}"
    );

    let below = home.path().join("repo/sub");
    std::fs::create_dir_all(&below)?;
    std::fs::create_dir_all(home.path().join("repo/.git"))?;
    std::fs::write(home.path().join("repo/herdsman.toml"), "[limits]\nno_client = \"2h\"\n")?;
    let ran: Ran = home
        .command(&["config", "get", "limits.no_client", "--why"])?
        .current_dir(&below)
        .output()?
        .into();
    ensure!(ran.out.contains("repo/herdsman.toml:2"), "{ran:?}");
    Ok(())
}

#[test]
fn the_most_workers_hold_for_scale_as_for_up() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["config", "set", "limits.max_workers", "3"])?;
    for verb in [&["up", "demo", "--workers", "4"][..], &["scale", "demo", "4"]] {
        let ran = home.run(verb)?;
        ensure!(ran.code == 2 && ran.err.contains("E-USAGE"), "{ran:?}");
        ensure!(
            ran.err.contains("4 workers are more than the most allowed, 3"),
            "{ran:?}"
        );
    }
    Ok(())
}

#[test]
fn no_error_tells_a_secret() -> Result<()> {
    let home = Home::new()?;
    for args in [
        &["up", "demo", "dop_v1_0123456789abcdef0123456789abcdef"][..],
        &["up", "--env-var", "DB_PASSWORD=0123456789abcdef"],
        &["up", "--secret", "DB_PASSWORD=0123456789abcdef"],
        &["config", "set", "hetzner.token", "0123456789abcdef"],
    ] {
        let ran = home.run(args)?;
        ensure!(ran.code == 2, "{ran:?}");
        ensure!(!format!("{}{}", ran.out, ran.err).contains("0123456789"), "{ran:?}");
    }
    home.assert_clean()
}

#[test]
fn a_program_carries_the_channel_and_text_from_nodes_is_clean() -> Result<()> {
    let home = Home::new()?;
    std::fs::write(home.path().join("relay.py"), RELAY)?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let python = home.python().to_str().context("a path of UTF-8")?;
    let relay = format!("{python} relay.py %h %p");
    let status = home.json(&["status", "demo", "--proxy-command", &relay])?;
    ensure!(status["status"]["name"] == "demo", "{status}");
    let ran = home.run(&["status", "demo", "--proxy-command", "false"])?;
    ensure!(ran.code == 3, "the program is used: {ran:?}");

    home.compute(
        "demo",
        "
from dask.distributed import Client
print(Client().submit(print, '\\x1b[31mred\\x1b[0m \\x1b[2Jmarked\\x07', flush=True).result())
",
    )?;
    let line = wait_for("the line of the task", || {
        let ran = home.ok(&["logs", "demo", "--worker", "--grep", "marked"])?;
        Ok(Some(ran.out).filter(|t| !t.is_empty()))
    })?;
    ensure!(!line.contains(['\u{1b}', '\u{7}']), "{line:?}");
    ensure!(
        home.ok(&["logs", "demo", "--scheduler", "--grep", "marked"])?
            .out
            .is_empty(),
        "workers only"
    );
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn the_users_own_deadline_and_signals_end_a_command() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let ran = home.run(&["logs", "demo", "-f", "--timeout", "2s"])?;
    ensure!(ran.code == 6 && ran.err.contains("--timeout"), "{ran:?}");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = home
            .command(&["status", "demo", "--watch"])?
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // It listens for signals before it prints.
        let mut out = child.stdout.take().context("its output")?;
        std::io::Read::read_exact(&mut out, &mut [0])?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let ended = child.wait()?;
        ensure!(ended.code() == Some(code), "{signal}: {ended}");
    }
    let offline = home.json(&["status", "demo", "--offline"])?;
    ensure!(offline["stage"] == "up", "{offline}");
    home.ok(&["exec", "--", "true"])?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
