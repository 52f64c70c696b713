//! Machines that do not get their agent, or have no room for it: what never runs,
//! and what is said about it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herdsman_tests::home::Ran;
use herdsman_tests::machines::cluster::{Going, NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Serve, Setup, available};

use super::cluster;

const W0: &str = "demo-w0";
const W1: &str = "demo-w1";
const W2: &str = "demo-w2";

/// Makes the machine of a node as soon as its user-data is there.
fn make(cluster: &mut Cluster, node: &str, going: &mut Going, setup: Setup) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Some(text) = cluster.wanted()?.get(node) {
            let text = text.clone();
            return cluster.make(node, text.as_str(), setup);
        }
        let ended = going.ended()?;
        ensure!(
            ended.is_none() && started.elapsed() < LONG,
            "no user-data of {node} ({ended:?})\n{}",
            going.said()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for a command's end; `meanwhile` runs all the time.
fn end(going: &mut Going, mut meanwhile: impl FnMut() -> Result<()>) -> Result<Ran> {
    let started = Instant::now();
    loop {
        meanwhile()?;
        if let Some(code) = going.ended()? {
            let said = going.said();
            return Ok(Ran {
                code,
                out: said.clone(),
                err: said,
            });
        }
        ensure!(started.elapsed() < 3 * LONG, "it does not end\n{}", going.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_is_not_the_agent_never_runs_on_a_machine() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    let console = cluster.laptop.home.path().join("console");
    std::fs::write(&console, "")?;
    cluster.configure(&format!("console = [\"cat\", \"{}\"]\n", console.display()))?;

    // The scheduler: absent, cut off, not the same; then whole.
    cluster.files.serve("agent", Serve::Absent);
    let mut up = cluster.start(&["up", NAME, "--workers", "1", "--env", "copy"])?;
    make(&mut cluster, SCHEDULER, &mut up, Setup::default())?;
    for (serve, cause) in [
        (Serve::Absent, "404"),
        (Serve::Truncated, "exit 18"),
        (Serve::Tampered, "SHA-256 is "),
    ] {
        cluster.files.serve("agent", serve);
        let machine = cluster.machine(SCHEDULER)?;
        machine.wait_for(&format!("{serve:?} on the console"), LONG, |m| {
            let console = m.console();
            let mut ours = console
                .lines()
                .filter(|l| l.starts_with("herdsman: no agent from http://"));
            Ok(ours.any(|l| l.contains(cause)).then_some(()))
        })?;
        let here = machine.exec("test -e /usr/local/bin/herdsman-agent || pgrep herdsman-agent")?;
        ensure!(here.code != 0, "{serve:?}: it runs\n{}", machine.console());
    }
    cluster.files.serve("agent", Serve::Whole);
    make(&mut cluster, W0, &mut up, Setup::default())?;
    let ended = end(&mut up, || Ok(()))?;
    ensure!(ended.code == 0, "{}{}", ended.out, cluster.consoles());

    // A worker: the command ends with the cause, and the node is not expected any more.
    cluster.files.serve("agent", Serve::Tampered);
    let mut scale = cluster.start(&["scale", NAME, "2", "--start-timeout", "25s"])?;
    make(&mut cluster, W1, &mut scale, Setup::default())?;
    let machine = cluster.machine(W1)?;
    let ended = end(&mut scale, || Ok(std::fs::write(&console, machine.console())?))?;
    for words in [
        "demo-w1: was never heard of",
        "herdsman: no agent from",
        "SHA-256 is ",
        "herdsman logs demo demo-w1 --boot",
    ] {
        ensure!(
            ended.code != 0 && ended.err.contains(words),
            "no `{words}`: {}",
            ended.err
        );
    }
    let boot = cluster.ok(&["logs", NAME, W1, "--boot"])?.out;
    ensure!(boot.contains("herdsman: no agent from"), "{boot}");
    cluster.files.serve("agent", Serve::Whole);
    cluster.machine(W1)?.wait_for("that it is not let in", LONG, |m| {
        Ok(m.console().contains("not enrolled yet: the hub at ").then_some(()))
    })?;
    ensure!(!cluster.status()?.to_string().contains(W1));

    // A machine without room for the environment.
    let tight = Setup {
        disk: Some(32 << 20),
        ..Setup::default()
    };
    let mut scale = cluster.start(&["scale", NAME, "2", "--start-timeout", "60s"])?;
    make(&mut cluster, W2, &mut scale, tight)?;
    let ended = end(&mut scale, || Ok(()))?;
    ensure!(
        ended.code != 0 && ended.err.contains(W2) && ended.err.contains("No space left on device"),
        "{}{}",
        ended.err,
        cluster.consoles()
    );
    Ok(())
}
