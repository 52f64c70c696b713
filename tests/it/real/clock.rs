//! Machines whose clock is wrong: certificates would be refused, in words that
//! nobody understands. They say what it is instead, and so does the command.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use herdsman_tests::machines::cluster::{Going, NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Setup, Vm, VmSetup, available, complete};
use herdsman_wire::limits::{BOOTSTRAP_LIFE, BOOTSTRAP_LIFE_MAX};
use serde_json::json;

const WORKER: &str = "demo-w0";
/// How far off the clocks are.
const OFF: Duration = Duration::from_secs(2 * 3600);

/// A machine of a kernel of its own, with its clock at `now`.
fn boot(cluster: &Cluster, node: &str, text: String, now: SystemTime) -> Result<Vm> {
    let seconds = now.duration_since(UNIX_EPOCH)?.as_secs();
    let setup = VmSetup {
        // As `-rtc base=` takes it: UTC.
        clock: Some(
            herdsman_wire::Timestamp(seconds * 1000)
                .to_string()
                .trim_end_matches('Z')
                .to_owned(),
        ),
        ..VmSetup::default()
    };
    Vm::boot(&cluster.network, node, cluster.address(node)?, text, &setup)
}

/// User-data of a node, once the command has written it.
fn user_data(cluster: &Cluster, node: &str, going: &mut Going) -> Result<String> {
    let started = Instant::now();
    loop {
        if let Some(text) = cluster.wanted()?.remove(node) {
            return Ok(text);
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

/// What the laptop's programs see of the machines: all run, but those of `off`.
fn seen(cluster: &Cluster, off: &[&str], console: &str) -> Result<()> {
    let machines: Vec<_> = [SCHEDULER, WORKER]
        .iter()
        .map(|node| json!({"id": node, "node": node, "running": !off.contains(node)}))
        .collect();
    let home = cluster.laptop.home.path();
    std::fs::write(home.join("machines"), json!({"machines": machines}).to_string())?;
    Ok(std::fs::write(home.join("console"), console)?)
}

fn cluster() -> Result<Cluster> {
    let cluster = super::cluster()?;
    let home = cluster.laptop.home.path().display();
    cluster.configure(&format!(
        "console = [\"cat\", \"{home}/console\"]\nlist = [\"cat\", \"{home}/machines\"]\n"
    ))?;
    seen(&cluster, &[], "")?;
    Ok(cluster)
}

fn up(cluster: &Cluster) -> Result<Going> {
    let wait = format!("{}s", BOOTSTRAP_LIFE.as_secs());
    cluster.start(&["up", NAME, "--workers", "1", "--env", "copy", "--start-timeout", &wait])
}

/// The machine has said what it is and is off; the command ends with the same words.
fn ends(cluster: &Cluster, node: &str, console: &str, mut going: Going, words: &[&str]) -> Result<()> {
    says("the console", console, &["this machine's clock shows", "code=E-CLOCK"])?;
    says("the console", console, words)?;
    ensure!(going.ended()?.is_none(), "{}", going.said());
    seen(cluster, &[node], console)?;
    let started = Instant::now();
    let code = loop {
        if let Some(code) = going.ended()? {
            break code;
        }
        ensure!(started.elapsed() < LONG, "it does not end\n{}", going.said());
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(code != 0, "{}", going.said());
    let named = ["error[E-CLOCK]", node, words[0], "timedatectl set-ntp true"];
    says("`up`", &going.said(), &named)
}

/// All of `words` in what was said.
fn says(what: &str, text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "{what} has no `{word}`:\n{text}");
    }
    Ok(())
}

#[test]
fn a_scheduler_whose_clock_is_fast_says_so_and_so_does_up() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    let cluster = cluster()?;
    let mut going = up(&cluster)?;
    let text = user_data(&cluster, SCHEDULER, &mut going)?;
    let mut vm = boot(&cluster, SCHEDULER, text, SystemTime::now() + OFF)?;
    vm.wait_for_console("code=E-CLOCK")?;
    // By its clock it is too late for everything.
    vm.wait_for_end(LONG)?;
    let words = ["its clock is fast", "powering this machine off"];
    ends(&cluster, SCHEDULER, &vm.console(), going, &words)
}

#[test]
fn a_worker_whose_clock_is_slow_says_so_and_so_does_up() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    let mut going = up(&cluster)?;
    let text = user_data(&cluster, SCHEDULER, &mut going)?;
    cluster.make(SCHEDULER, text, Setup::default())?;
    let text = user_data(&cluster, WORKER, &mut going)?;
    let mut vm = boot(&cluster, WORKER, text, SystemTime::now() - OFF)?;
    // By its clock there are more than two hours left.
    let kept = format!("stays up for {} s to be looked at", BOOTSTRAP_LIFE_MAX.as_secs());
    vm.wait_for_console(&kept)?;
    let console = vm.console();
    drop(vm);
    ends(&cluster, WORKER, &console, going, &["its clock is slow", &kept])
}
