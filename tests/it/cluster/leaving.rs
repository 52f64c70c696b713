//! A worker's machine is shut down: what it holds is moved first.

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};
use nix::sys::signal::Signal;

use super::{Held, computes, node, pids, signal};

#[test]
fn a_worker_that_is_told_to_end_moves_its_data_first() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "3"])?;
    let held = Held::start(&home)?;
    // systemd signals the keeper's place, an administrator the agent itself.
    for (name, word) in [("demo-w0", " keep "), ("demo-w1", " run ")] {
        let all = pids(&home, name, &["herdsman-agent", word]);
        let [pid] = all.as_slice() else {
            anyhow::bail!("{name} has {} processes of `{word}`: {:?}", all.len(), home.processes());
        };
        signal(*pid, Signal::SIGTERM)?;
        wait_for("the node's processes are gone", || {
            Ok(pids(&home, name, &[]).is_empty().then_some(()))
        })?;
        let state = wait_for("the status says so", || {
            let state = node(&home, name)?["state"].clone();
            Ok((state == "stopped").then_some(state))
        });
        state.with_context(|| format!("{:?}", node(&home, name)))?;
        let text = home.ok(&["status", "demo"])?.out;
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        ensure!(line.contains("stopped"), "{text}");
    }
    held.finish(&home)?;
    computes(&home, "demo")?;
    // The next size counts the one that is left only.
    let scaled = home.json(&["scale", "demo", "2"])?;
    ensure!(scaled["ready"] == 2 && scaled["added"][0] == "demo-w3", "{scaled}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
