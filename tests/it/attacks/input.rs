//! Join configurations that are no good, given to the real program.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herdsman_tests::attack::{Hub, agent, join};
use herdsman_tests::home::LONG;
use herdsman_wire::{Role, Timestamp, limits};
use serde_json::{Value, json};

/// Runs the agent with this file; gives exit code and words.
fn run(hub: &Hub, bytes: Option<&[u8]>) -> Result<(i32, String)> {
    let dir = hub.dir().join("bad");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join("join.json");
    match bytes {
        Some(bytes) => std::fs::write(&path, bytes)?,
        None => std::fs::remove_file(&path)?,
    }
    let console = dir.join("console");
    let mut child = agent(&path, &console)?;
    let started = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait()? {
            break status.code().unwrap_or(-1);
        }
        if started.elapsed() > LONG {
            child.kill()?;
            child.wait()?;
            bail!("it runs: {}", std::fs::read_to_string(&console)?);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ok((code, std::fs::read_to_string(&console)?))
}

#[tokio::test]
async fn join_configurations_that_are_no_good() -> Result<()> {
    let hub = Hub::fresh().await?;
    let dir = hub.dir().join("w");
    std::fs::create_dir(&dir)?;
    let name = "demo-w0".parse()?;
    let now = Timestamp::now();
    let (bootstrap, _) = hub.roots.bootstrap(Role::Worker, &name, now, limits::BOOTSTRAP_LIFE)?;
    let key = bootstrap.key.reveal().to_owned();
    let own = std::net::SocketAddr::new(hub.node_address(2), 0);
    let at = (Some(hub.address), own);
    let file = join(&hub.cluster, &hub.roots, &dir, &name, Role::Worker, at, bootstrap)?;
    let text = std::fs::read_to_string(file)?;
    let good: Value = serde_json::from_str(&text)?;
    let with = |pointer: &str, value: Value| -> Result<Vec<u8>> {
        let mut changed = good.clone();
        match changed.pointer_mut(pointer) {
            Some(slot) => *slot = value,
            None => changed[pointer.trim_start_matches('/')] = value,
        }
        Ok(serde_json::to_vec(&changed)?)
    };
    let without = |field: &str| -> Result<Vec<u8>> {
        let mut changed = good.clone();
        changed.as_object_mut().context("no object")?.remove(field);
        Ok(serde_json::to_vec(&changed)?)
    };
    let past = now.minus(Duration::from_secs(7200));
    let (old, _) = hub
        .roots
        .bootstrap(Role::Worker, &name, past, Duration::from_secs(60))?;
    let other_key = herdsman_agent::identity::NewKeys::generate()?.agent;
    let mut huge = text.clone().into_bytes();
    huge.resize(limits::JOIN_CONFIG + 1, b' ');
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "join configuration"),
        ("garbage", b"\x00\xff\xfe garbage".to_vec(), "join configuration"),
        ("a script", b"#!/bin/sh\necho hello\n".to_vec(), "join configuration"),
        (
            "half of it",
            text.as_bytes()[..text.len() / 2].to_vec(),
            "join configuration",
        ),
        (
            "all but the last byte",
            text.as_bytes()[..text.len() - 1].to_vec(),
            "EOF",
        ),
        ("huge", huge, "65536"),
        ("version of the future", with("/version", json!(2))?, "version 2"),
        ("version as a text", with("/version", json!("1"))?, "join configuration"),
        ("no version", without("version")?, "`version`"),
        ("an unknown field", with("/surprise", json!(1))?, "`surprise`"),
        ("cluster", with("/cluster", json!("UPPER"))?, "UPPER"),
        ("node", with("/node", json!("scheduler"))?, "scheduler"),
        ("role", with("/role", json!("king"))?, "king"),
        (
            "hub as a name",
            with("/hub", json!("example.org:8785"))?,
            "socket address",
        ),
        ("no hub", without("hub")?, "`hub`"),
        ("no roots", without("roots")?, "`roots`"),
        ("no bootstrap", without("bootstrap")?, "`bootstrap`"),
        ("no deadline", without("deadline")?, "`deadline`"),
        ("deadline as a text", with("/deadline", json!("soon"))?, "`deadline`"),
        (
            "a relative path",
            with("/paths/state", json!("state"))?,
            "`paths.state`",
        ),
        (
            "a root that is none",
            with("/roots/control", json!("x"))?,
            "roots.control",
        ),
        (
            "a broken key in the place of the root",
            with("/roots/control", json!(key.replace("BEGIN PRIVATE KEY", "BEGIN")))?,
            "roots.control",
        ),
        (
            "a certificate that is none",
            with("/bootstrap/certificate", json!("x"))?,
            "bootstrap",
        ),
        ("a key that is none", with("/bootstrap/key", json!("x"))?, "key"),
        (
            "somebody else's key",
            with("/bootstrap/key", json!(other_key.reveal()))?,
            "key",
        ),
        (
            "a certificate of yesterday",
            with("/bootstrap", serde_json::to_value(&old)?)?,
            "clock",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, word) in cases {
        let (code, said) = run(&hub, Some(&bytes)).with_context(|| what.to_owned())?;
        let secret = key.lines().filter(|l| l.len() > 30).any(|l| said.contains(l));
        ensure!(
            !secret && !said.contains("PRIVATE KEY"),
            "{what}: a secret is told: {said}"
        );
        ensure!(!said.contains("panicked"), "{what}: {said}");
        if code != 3 || !said.contains(word) {
            wrong.push(format!("{what}: wanted exit 3 and `{word}`, got {code}: {said}"));
        }
    }
    let (code, said) = run(&hub, None)?;
    if code != 3 || !said.contains("join.json") {
        wrong.push(format!("no file: {code}: {said}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
