//! What programs read, commands on nodes, and logs: all of one cluster, which
//! none of this changes.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{pid_of, signal};

fn lines(text: &str) -> Result<Vec<Value>> {
    let parsed = text
        .lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()));
    parsed.collect()
}

/// `-o json --events jsonl`: one document on stdout, and only events on stderr.
fn both(home: &Home, args: &[&str]) -> Result<(Value, Vec<Value>)> {
    let ran = home.ok(&[args, &["-o", "json", "--events", "jsonl"]].concat())?;
    let document = serde_json::from_str(&ran.out).with_context(|| format!("{args:?}: {}", ran.out))?;
    Ok((document, lines(&ran.err).with_context(|| format!("{args:?}"))?))
}

fn phases_are_told(events: &[Value]) -> Result<()> {
    let mut told = BTreeSet::new();
    for event in events {
        ensure!(event["t"].as_str().is_some_and(|t| t.ends_with('Z')), "{event}");
        if let (Some(node), Some(phase)) = (event["node"].as_str(), event["phase"].as_str()) {
            let status = event["status"].as_str().context("status")?;
            ensure!(["started", "done"].contains(&status), "{event}");
            if status == "done" {
                ensure!(event["seconds"].is_f64(), "{event}");
                told.insert((node, phase));
            }
        }
    }
    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        for phase in ["create", "agent", "enrol", "environment", "dask"] {
            ensure!(told.contains(&(node, phase)), "{node} {phase} is not told: {told:?}");
        }
        let ready = events.iter().any(|e| e["node"] == node && e["state"] == "ready");
        ensure!(ready, "{node} is not told to be ready");
    }
    Ok(())
}

fn documents(home: &Home) -> Result<()> {
    for (args, pointer) in [
        (&["status", "demo"] as &[&str], "/status/nodes/2/name"),
        (&["ls"], "/clusters/0/name"),
        (&["scale", "demo", "2"], "/ready"),
        (&["up", "demo", "--workers", "2"], "/workers/ready"),
        (&["doctor", "demo"], "/findings/0/what"),
        (&["env", "demo"], "/DASK_SCHEDULER_ADDRESS"),
        (&["extend", "demo", "2h"], "/lifetime_ends"),
        (&["config", "path"], ""),
        (&["version"], ""),
    ] {
        let (document, _) = both(home, args)?;
        let found = document.pointer(pointer).is_some_and(|v| !v.is_null());
        ensure!(found, "{args:?}: no {pointer} in {document}");
    }
    let logs = home.ok(&["logs", "demo", "-o", "json", "--events", "jsonl"])?;
    let all = lines(&logs.out)?;
    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        let both = ["agent", "dask"].map(|s| all.iter().any(|l| l["node"] == node && l["source"] == s));
        ensure!(both == [true, true], "{node}: {both:?}");
    }
    ensure!(all.iter().all(|l| l["t"].is_u64() && l["text"].is_string()));
    ensure!(logs.err.is_empty(), "{}", logs.err);
    ensure!(home.ok(&["ls", "-o", "name"])?.out == "demo\n");
    Ok(())
}

fn errors(home: &Home) -> Result<()> {
    let cases: [(&[&str], i32); 9] = [
        (&["status", "nothing"], 3),
        (&["down", "nothing"], 3),
        (&["scale", "nothing", "3"], 3),
        (&["extend", "nothing", "2h"], 3),
        (&["env", "nothing"], 3),
        (&["logs", "demo", "demo-w9"], 3),
        (&["exec", "demo", "demo-w9", "--", "true"], 125),
        (&["up", "other", "--provider", "hetzner", "--env", "none"], 4),
        (&["up", "demo", "--insecure"], 8),
    ];
    for (args, code) in cases {
        // Options of ours end where the command begins.
        let ran = home.run(&[&["-o", "json", "--events", "jsonl"], args].concat())?;
        ensure!(ran.code == code, "{args:?}: {ran:?}");
        let document: Value = serde_json::from_str(&ran.out).with_context(|| format!("{args:?}: {ran:?}"))?;
        let e = &document["error"];
        let is_whole = e["code"].as_str().is_some_and(|c| c.starts_with("E-"))
            && e["message"].as_str().is_some_and(|m| !m.is_empty())
            && e["try"].as_array().is_some_and(|t| !t.is_empty());
        ensure!(is_whole, "{args:?}: {document}");
        let events = lines(&ran.err)?;
        ensure!(events.last() == Some(&document), "{args:?}: {ran:?}");
    }
    Ok(())
}

fn commands_on_nodes(home: &Home) -> Result<()> {
    let mut child = home
        .command(&[
            "exec",
            "demo",
            "demo-w1",
            "--",
            "sh",
            "-c",
            "wc -c; echo oh >&2; exit 41",
        ])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // More than any buffer on the way.
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(&vec![b'x'; 3_000_000])?;
    let ran: Ran = child.wait_with_output()?.into();
    ensure!(
        ran.code == 41 && ran.out.trim() == "3000000" && ran.err.trim() == "oh",
        "{ran:?}"
    );
    let big = home.ok(&["exec", "demo", "demo-w0", "--", "head", "-c", "3000000", "/dev/zero"])?;
    ensure!(big.out.len() == 3_000_000, "{}", big.out.len());
    let all = home.ok(&["exec", "demo", "--all", "--", "sh", "-c", "echo $HERDSMAN_NODE"])?;
    let nodes: Vec<&str> = all.out.lines().filter_map(|l| l.split('/').nth(1)).collect();
    ensure!(nodes == ["demo-scheduler", "demo-w0", "demo-w1"], "{all:?}");
    let missing = home.run(&["exec", "demo", "--", "/no/such/program"])?;
    ensure!(
        missing.code == 125 && missing.err.contains("/no/such/program"),
        "{missing:?}"
    );
    let killed = home.run(&["exec", "demo", "--", "sh", "-c", "kill -9 $$"])?;
    ensure!(killed.code == 137, "{killed:?}");
    Ok(())
}

/// Follows a worker's log through the hub until Ctrl-C.
fn followed(home: &Home) -> Result<()> {
    let mut child = home
        .command(&["logs", "demo", "demo-w1", "--follow", "--tail", "1"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = std::io::BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line.contains(" demo-w1 "), "{line}");
    let program = "
from dask.distributed import Client
def say():
    print('a word from a task', flush=True)
Client().submit(say, workers=['demo-w1'], pure=False).result()";
    home.compute("demo", program)?;
    while !line.contains("dask: a word from a task") {
        line.clear();
        ensure!(out.read_line(&mut line)? > 0, "the log ended");
    }
    signal(pid_of(&child)?, Signal::SIGINT)?;
    let ran: Ran = child.wait_with_output()?.into();
    ensure!(ran.code == 130 && !ran.err.contains("panicked"), "{ran:?}");
    Ok(())
}

#[test]
fn programs_can_read_everything() -> Result<()> {
    let home = Home::new()?;
    let (up, events) = both(&home, &["up", "demo", "--workers", "2"])?;
    ensure!(up["state"] == "up" && up["workers"]["want"] == 2, "{up}");
    phases_are_told(&events)?;
    documents(&home)?;
    errors(&home)?;
    commands_on_nodes(&home)?;
    followed(&home)?;
    let (down, _) = both(&home, &["down", "demo"])?;
    ensure!(down["clusters"][0]["left"] == serde_json::json!([]), "{down}");
    home.assert_clean()
}
