//! Machines whose clock is wrong: certificates would be refused, in words that
//! nobody understands. They say what it is instead, and so does the command.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use herdsman_tests::machines::cluster::{Going, NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Setup, Vm, VmSetup, available, complete};

const WORKER: &str = "demo-w0";
/// How far off the clocks are.
const OFF: Duration = Duration::from_secs(2 * 3600);
/// How long the command waits for machines that boot without KVM.
const START: Duration = Duration::from_secs(240);

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

/// The command's end; the console is where its program looks for it.
fn end(cluster: &Cluster, going: &mut Going, vm: &Vm) -> Result<i32> {
    let started = Instant::now();
    loop {
        std::fs::write(cluster.laptop.home.path().join("console"), vm.console())?;
        if let Some(code) = going.ended()? {
            return Ok(code);
        }
        ensure!(
            started.elapsed() < START + LONG,
            "it does not end\n{}\n{}",
            going.said(),
            vm.console()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn cluster() -> Result<Cluster> {
    let cluster = super::cluster()?;
    let console = cluster.laptop.home.path().join("console");
    std::fs::write(&console, "")?;
    cluster.configure(&format!("console = [\"cat\", \"{}\"]\n", console.display()))?;
    Ok(cluster)
}

fn up(cluster: &Cluster) -> Result<Going> {
    let wait = format!("{}s", START.as_secs());
    cluster.start(&["up", NAME, "--workers", "1", "--env", "copy", "--start-timeout", &wait])
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
    let vm = boot(&cluster, SCHEDULER, text, SystemTime::now() + OFF)?;
    let code = end(&cluster, &mut going, &vm)?;
    says(
        "the console",
        &vm.console(),
        &["this machine's clock shows", "its clock is fast", "code=E-CLOCK"],
    )?;
    ensure!(code != 0, "{}", going.said());
    says(
        "`up`",
        &going.said(),
        &[
            "error[E-CLOCK]",
            SCHEDULER,
            "its clock is fast",
            "timedatectl set-ntp true",
        ],
    )?;
    // It is not tried again: a clock does not get better by that.
    let state = vm.exec(
        "systemctl show -p NRestarts -p ExecMainStatus -p ActiveState herdsman-agent; pgrep -x herdsman-agent",
        Duration::from_secs(60),
    )?;
    says(
        "the unit",
        &state.out,
        &["NRestarts=0", "ExecMainStatus=3", "ActiveState=failed"],
    )?;
    ensure!(state.code == 1, "the agent runs: {state:?}");
    Ok(())
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
    let vm = boot(&cluster, WORKER, text, SystemTime::now() - OFF)?;
    let code = end(&cluster, &mut going, &vm)?;
    says(
        "the console",
        &vm.console(),
        &["this machine's clock shows", "its clock is slow", "code=E-CLOCK"],
    )?;
    ensure!(code != 0, "{}", going.said());
    says(
        "`up`",
        &going.said(),
        &[
            "error[E-CLOCK]",
            WORKER,
            "its clock is slow",
            "timedatectl set-ntp true",
        ],
    )
}
