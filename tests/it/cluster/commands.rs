//! Two commands at once, and commands that do not say which cluster they mean.

use std::io::BufRead as _;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::Home;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{computes, pid_of, signal};

/// Ends with the test, however that ends: what is frozen would outlive its home.
struct Frozen(Child);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_command_at_a_time_works_on_a_cluster() -> Result<()> {
    let home = Home::new()?;
    let first = home
        .command(&["up", "demo", "--workers", "1", "--events", "jsonl"])?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = Frozen(first);
    let pid = pid_of(&first.0)?;
    let mut events = std::io::BufReader::new(first.0.stderr.take().context("no events")?);
    let mut line = String::new();
    events.read_line(&mut line)?;
    ensure!(line.contains("\"create\""), "{line}");
    // Frozen, it cannot be done before the others have asked.
    signal(pid, Signal::SIGSTOP)?;
    let others: [&[&str]; 4] = [
        &["up", "demo", "--workers", "2"],
        &["scale", "demo", "2"],
        &["down", "demo"],
        &["up", "demo", "--workers", "1", "--insecure"],
    ];
    for args in others {
        let ran = home.run(args)?;
        let said = ran.err.contains("error[E-CONFLICT]: `herdsman up` (process ")
            && ran.err.contains(&format!("(process {pid})"))
            && ran.err.contains("try: ");
        ensure!(ran.code == 8 && said, "{args:?}: {ran:?}");
    }
    let ran = home.run(&["down", "demo", "-o", "json"])?;
    let error: Value = serde_json::from_str(&ran.out).with_context(|| format!("{ran:?}"))?;
    ensure!(
        error["error"]["code"] == "E-CONFLICT" && error["error"]["exit"] == 8,
        "{error}"
    );
    // Who only looks is not kept out.
    let state = home.json(&["ls"])?["clusters"][0]["state"].clone();
    ensure!(state == "incomplete", "{state}");
    let ran = home.run(&["status", "demo"])?;
    ensure!(ran.code == 3 && ran.err.contains("herdsman up demo"), "{ran:?}");
    // Another cluster is nobody's business.
    ensure!(home.run(&["down", "other"])?.code == 3);
    signal(pid, Signal::SIGCONT)?;
    for line in events.lines() {
        let _ = line?;
    }
    ensure!(first.0.wait()?.success());
    computes(&home, "demo")?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
