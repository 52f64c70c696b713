//! Commands that meet, are killed, or ask for something special.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn two_commands_on_one_cluster_do_not_mix() -> Result<()> {
    let home = Home::new()?;
    let first = home
        .command(&["up", "demo", "--workers", "2"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = first.id();
    wait_for("the first command is at work", || {
        Ok(home.path().join("s/clusters/demo").exists().then_some(()))
    })?;
    let second = home.run(&["down", "demo"])?;
    let out: Ran = first.wait_with_output()?.into();
    ensure!(out.code == 0, "{out:?}");
    ensure!(
        second.code == 8 && second.err.contains("up") && second.err.contains(&pid.to_string()),
        "{second:?}"
    );
    // Another cluster is nobody's business.
    home.ok(&["status", "demo"])?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

/// Kills `up` after a while, or when `done` says so.
fn killed_up(home: &Home, after: Duration) -> Result<()> {
    let mut child = home
        .command(&["up", "demo", "--workers", "2"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(after);
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
    child.wait()?;
    Ok(())
}

/// From the first moments to the last ones of a start; where exactly they fall
/// does not matter, each must be recovered from.
const MOMENTS: [u64; 5] = [15, 60, 200, 600, 1300];

#[test]
fn after_a_killed_up_the_next_one_makes_it_whole() -> Result<()> {
    let home = Home::new()?;
    for millis in MOMENTS {
        killed_up(&home, Duration::from_millis(millis))?;
        let up = home.json(&["up", "demo", "--workers", "2"])?;
        ensure!(up["workers"]["ready"] == 2, "after {millis} ms: {up}");
        let out = home.compute(
            "demo",
            "from dask.distributed import Client; print(Client().submit(sum, [1, 2]).result())",
        )?;
        ensure!(out.trim() == "3", "after {millis} ms: {out}");
        home.ok(&["down", "demo"])?;
        home.assert_clean()?;
    }
    Ok(())
}

#[test]
fn after_a_killed_up_down_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    for millis in MOMENTS {
        killed_up(&home, Duration::from_millis(millis))?;
        let down = home.run(&["down", "demo"])?;
        // 3: there was nothing yet.
        ensure!(matches!(down.code, 0 | 3), "after {millis} ms: {down:?}");
        home.assert_clean()?;
    }
    Ok(())
}

#[test]
fn worker_settings_reach_dask_and_names_may_be_left_out() -> Result<()> {
    let home = Home::new()?;
    let refused = home.run(&["up", "demo", "--worker-option", "--nthreads=3"])?;
    ensure!(
        refused.code == 2 && refused.err.contains("use --threads"),
        "{refused:?}"
    );
    std::fs::write(
        home.path().join("herdsman.toml"),
        "[[workers]]\nresources = { GPU = 2 }\n",
    )?;
    let up = [
        "up",
        "demo",
        "--workers",
        "1",
        "--workers-per-node",
        "2",
        "--threads",
        "3",
        "--env-var",
        "MY_SETTING=hello there",
    ];
    home.ok(&up)?;
    let said = home.compute(
        "demo",
        "
import os
from dask.distributed import Client
client = Client()
client.wait_for_workers(2, timeout=60)
workers = client.scheduler_info()['workers'].values()
print(sorted(w['name'] for w in workers), {w['nthreads'] for w in workers}, [w['resources'] for w in workers])
print(set(client.run(os.getenv, 'MY_SETTING').values()))
print(client.submit(abs, -4, resources={'GPU': 2}).result())
",
    )?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        lines[0] == "['demo-w0-0', 'demo-w0-1'] {3} [{'GPU': 2.0}, {'GPU': 2.0}]",
        "{said}"
    );
    ensure!(lines[1] == "{'hello there'}" && lines[2] == "4", "{said}");

    ensure!(home.json(&["status"])?["status"]["name"] == "demo");
    home.ok(&["up", "other", "--workers", "0"])?;
    let both = home.run(&["status"])?;
    ensure!(
        both.code == 2 && both.err.contains("demo") && both.err.contains("other"),
        "{both:?}"
    );
    home.ok(&["down", "--all", "-y"])?;
    home.assert_clean()
}

/// Every line of a stream is JSON.
fn lines(text: &str) -> Result<Vec<Value>> {
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[test]
fn programs_read_what_happens_and_what_went_wrong() -> Result<()> {
    let home = Home::new()?;
    let up = home.ok(&["up", "demo", "--workers", "1", "-o", "json", "--events", "jsonl"])?;
    let result: Value = serde_json::from_str(&up.out)?;
    ensure!(result["workers"]["ready"] == 1, "{result}");
    let events = lines(&up.err)?;
    for node in ["demo-scheduler", "demo-w0"] {
        for phase in ["enrol", "environment", "dask"] {
            let told = events.iter().any(|e| {
                let text = e.to_string();
                text.contains(&format!("\"{node}\"")) && text.contains(&format!("\"{phase}\""))
            });
            ensure!(told, "nothing of {phase} of {node}: {}", up.err);
        }
    }
    for args in [
        ["status", "demo"].as_slice(),
        &["ls"],
        &["doctor", "demo"],
        &["env", "demo"],
        &["config", "get"],
        &["version"],
        &["scale", "demo", "2"],
        &["remove", "demo", "demo-w1"],
    ] {
        let ran = home.ok(&[args, &["-o", "json"]].concat())?;
        let value: Value = serde_json::from_str(&ran.out).with_context(|| format!("{args:?}: {ran:?}"))?;
        ensure!(value.is_object(), "{args:?}: {value}");
    }
    let logs = home.ok(&["logs", "demo", "-o", "json"])?.out;
    ensure!(
        lines(&logs)?
            .iter()
            .all(|l| l["node"].is_string() && l["text"].is_string()),
        "{logs}"
    );
    let down = home.json(&["down", "demo"])?;
    ensure!(
        down["clusters"][0]["left"].as_array().is_some_and(Vec::is_empty),
        "{down}"
    );

    let failed = home.run(&["status", "demo", "-o", "json"])?;
    ensure!(failed.code == 3, "{failed:?}");
    let error = &lines(&failed.out)?[0]["error"];
    ensure!(
        error["code"].as_str().is_some_and(|c| c.starts_with("E-"))
            && error["message"].is_string()
            && error["try"].is_array(),
        "{error}"
    );
    home.assert_clean()
}

#[test]
fn logs_are_followed_until_the_reader_has_enough() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let mut child = home
        .command(&["logs", "demo", "demo-w0", "--follow"])?
        .stdout(Stdio::from(std::fs::File::create(home.path().join("followed"))?))
        .stderr(Stdio::null())
        .spawn()?;
    home.compute(
        "demo",
        "
from dask.distributed import Client
def say():
    import logging
    logging.getLogger('distributed.worker').warning('a line of a task')
Client().submit(say).result()
",
    )?;
    wait_for("the line arrives through the hub", || {
        let text = std::fs::read_to_string(home.path().join("followed"))?;
        Ok(text.contains("a line of a task").then_some(()))
    })?;
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let code = child.wait()?.code();
    ensure!(matches!(code, Some(0 | 130)), "{code:?}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
