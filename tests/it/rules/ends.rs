//! How nodes and clusters end in order.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::basics::{COUNTED, executions, pid_of_agent};

/// A machine that is shut down tells its agent so; what it has computed must not
/// be lost, nor computed again.
#[test]
fn a_worker_that_is_told_to_end_is_emptied_first() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    let program = format!(
        "{COUNTED}
client = Client()
done = client.map(task, range(40), path=COUNTS, seconds=0.02)
wait(done)
print('done', flush=True)
sys.stdin.readline()
print(sum(client.gather(done)))
"
    );
    let mut client = home.client("demo", &program)?;
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    wait_for("the tasks", || Ok((executions(&home).len() == 40).then_some(())))?;
    kill(Pid::from_raw(pid_of_agent(&home, "demo-w1")?), Signal::SIGTERM)?;
    wait_for("the node's processes are gone", || {
        let left = home.processes();
        Ok((!left.iter().any(|(_, line)| line.contains("demo-w1"))).then_some(()))
    })?;
    let state = wait_for("the hub knows that it ended in order", || {
        let status = home.json(&["status", "demo"])?;
        let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.into_iter().find(|n| n["name"] == "demo-w1");
        let state = node.map(|n| n["state"].as_str().unwrap_or_default().to_owned());
        Ok(state.filter(|s| s != "ready" && s != "draining"))
    })?;
    ensure!(state == "stopped", "{state}");
    drop(child.stdin.take());
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(text.contains("20540"), "{text}");
    ensure!(
        executions(&home) == (0..40).collect::<Vec<_>>(),
        "{:?}",
        executions(&home)
    );
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn a_lifetime_ends_everything_and_can_be_put_off() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1", "--lifetime", "20s"])?;
    let ends = |what: &str| -> Result<u64> {
        let status = home.json(&["status", "demo"])?;
        status["status"]["ending"]["lifetime_ends"]
            .as_u64()
            .context(what.to_owned())
    };
    let first = ends("status does not tell the end")?;
    home.ok(&["extend", "demo", "1h"])?;
    let later = ends("status does not tell the new end")?;
    ensure!(later > first + 3_000_000, "{first} {later}");
    let text = home.ok(&["status", "demo"])?.out;
    ensure!(text.contains("ends at") && text.contains("extend"), "{text}");
    // Sooner again: it is counted from now.
    home.ok(&["extend", "demo", "3s"])?;
    wait_for("its processes are gone", || {
        Ok(home.processes().is_empty().then_some(()))
    })?;
    let state = home.json(&["ls"])?["clusters"][0]["state"].clone();
    ensure!(state == "ended", "{state}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
