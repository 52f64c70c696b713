//! Agents that are killed while a cluster starts: their keepers start them again
//! and `up` succeeds all the same.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herdsman_tests::home::{Home, LONG, Ran};
use herdsman_tests::trouble::{agents, assert_no_namespace, find, folders, strike};

/// Whether a node has logged this, on its console or in its agent's log.
fn has_logged(home: &Home, node: &str, text: &str) -> bool {
    let files = folders(home, node).into_iter().flat_map(|d| find(&d, "boot.log"));
    files
        .filter_map(|f| std::fs::read(f).ok())
        .any(|b| String::from_utf8_lossy(&b).contains(text))
}

/// Starts a cluster and kills a node's agent once, when it has logged a text.
fn up_with_a_blow(cluster: &str, role: &str, text: &str) -> Result<()> {
    let home = Home::new()?;
    let node = &format!("{cluster}-{role}");
    let child = home
        .command(&["up", cluster, "--workers", "1"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let started = Instant::now();
    let mut struck = false;
    while !struck {
        ensure!(started.elapsed() < LONG, "{node} never logged `{text}`");
        if has_logged(&home, node, text) {
            struck = agents(&home, node).into_iter().filter(|pid| strike(*pid)).count() > 0;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let ran: Ran = child.wait_with_output()?.into();
    ensure!(ran.code == 0, "{node} after `{text}`: {ran:?}");
    let sum = home.compute(
        cluster,
        "from dask.distributed import Client; print(Client().submit(sum, range(10)).result())",
    )?;
    ensure!(sum.trim() == "45", "{sum}");
    ensure!(has_logged(&home, node, "ended: SIGKILL"), "the blow missed");
    home.ok(&["down", cluster])?;
    home.assert_clean()?;
    assert_no_namespace(cluster)
}

#[test]
fn a_hub_that_just_started_is_killed() -> Result<()> {
    up_with_a_blow("thub1", "scheduler", "the agent starts")
}

#[test]
fn a_hub_that_was_just_installed_is_killed() -> Result<()> {
    up_with_a_blow("thub2", "scheduler", "installed as the cluster's hub")
}

#[test]
fn a_hub_whose_environment_is_ready_is_killed() -> Result<()> {
    up_with_a_blow("thub3", "scheduler", "environment is ready")
}

#[test]
fn a_hub_that_just_started_dask_is_killed() -> Result<()> {
    up_with_a_blow("thub4", "scheduler", "started Dask")
}

#[test]
fn a_worker_that_just_started_is_killed() -> Result<()> {
    up_with_a_blow("twrk1", "w0", "the agent starts")
}

#[test]
fn a_worker_whose_environment_is_ready_is_killed() -> Result<()> {
    up_with_a_blow("twrk2", "w0", "environment is ready")
}

#[test]
fn a_worker_that_just_started_dask_is_killed() -> Result<()> {
    up_with_a_blow("twrk3", "w0", "started Dask")
}

#[test]
fn agents_killed_at_any_moment_come_back() -> Result<()> {
    // Times, not phases: what falls between the lines of a log.
    for millis in [60, 130, 250, 600] {
        let home = Home::new()?;
        let child = home
            .command(&["up", "tany", "--workers", "2"])?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(millis));
        for node in ["tany-scheduler", "tany-w0", "tany-w1"] {
            for pid in agents(&home, node) {
                let _ = strike(pid);
            }
        }
        let ran: Ran = child.wait_with_output()?.into();
        ensure!(ran.code == 0, "after {millis} ms: {ran:?}");
        home.ok(&["down", "tany"])?;
        home.assert_clean()?;
    }
    Ok(())
}
