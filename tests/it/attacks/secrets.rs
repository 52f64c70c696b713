//! What lies about on a hub's machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Hub, no_dask};
use herdsman_wire::Secret;

const VARIABLE: &str = "hunter2-in-a-variable";

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(walk(&path)?);
        }
        all.push(path);
    }
    Ok(all)
}

/// Lines of a key that cannot stand anywhere by chance.
fn body(key: &Secret) -> Vec<String> {
    let lines = key.reveal().lines().filter(|l| !l.starts_with("-----"));
    lines.filter(|l| l.len() > 20).map(str::to_owned).collect()
}

#[tokio::test]
async fn no_secret_lies_where_it_should_not() -> Result<()> {
    let mut spec = no_dask();
    let secret = Secret::new(VARIABLE);
    spec.dask.variables.insert("TOKEN".into(), secret);
    let mut hub = Hub::start_with(spec).await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let member = hub.enrol(&machine, &keys).await?;
    ensure!(
        member.issued.spec.dask.variables["TOKEN"].reveal() == VARIABLE,
        "nodes need it"
    );
    // Everything that writes: refusals, renewals, invitations, revocations, changes.
    let invited = serde_json::json!({"nodes": ["demo-w1"], "ttl_seconds": 60});
    let answer = hub.ask(&hub.owner(), "POST", "/v1/invites", &invited).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let invited: herdsman_wire::api::Invited = answer.json()?;
    let thief = NewKeys::generate()?;
    ensure!(hub.enrol(&machine, &thief).await.is_err());
    let next = NewKeys::generate()?;
    hub.renew(&member, &next).await?;
    let garbage = format!("{{\"csr_agent\": {:?}}}", keys.agent.reveal());
    let raw = herdsman_tests::attack::request("POST", "/v1/enrol", garbage.as_bytes());
    ensure!(hub.send(&machine.caller, &raw).await?.status == 400);
    let environment = serde_json::json!({"environment": {"mode": "image", "python": "/nonexistent/other"}});
    let answer = hub.ask(&hub.owner(), "POST", "/v1/environment", &environment).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let revoked = serde_json::json!({"nodes": ["demo-w0"]});
    ensure!(hub.ask(&hub.owner(), "POST", "/v1/revoke", &revoked).await?.status == 200);

    let mut seen = vec![
        ("console".to_owned(), hub.console()),
        ("audit".to_owned(), hub.link.get_text("/v1/audit").await?),
        ("events".to_owned(), hub.link.get_text("/v1/events").await?),
        ("status".to_owned(), hub.link.get_text("/v1/status").await?),
    ];
    let pid = hub.pid()?;
    for file in ["cmdline", "environ", "comm"] {
        let text = std::fs::read(format!("/proc/{pid}/{file}"))?;
        seen.push((file.into(), String::from_utf8_lossy(&text).into_owned()));
    }
    // Keys lie in these, of mode 0600 and for root: the hub has to come back.
    let holders = [
        "join.json",
        "identity.json",
        "dask.pem",
        "issue-control.pem",
        "issue-scheduler.pem",
        "issue-node.pem",
    ];
    let spec_holders = ["installed.json", "identity.json"];
    for path in walk(hub.dir())? {
        let mode = std::fs::symlink_metadata(&path)?.permissions().mode() & 0o777;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The console is the test's own.
        if name == "console" {
            continue;
        }
        if path.is_dir() {
            ensure!(mode == 0o700, "{} has mode {mode:o}", path.display());
            continue;
        }
        if !path.is_file() {
            ensure!(mode & 0o007 == 0, "{} has mode {mode:o}", path.display());
            continue;
        }
        // Logs may be read by the group of people who read logs, were it not for
        // their folder.
        let others = if name.ends_with(".log") { 0o037 } else { 0o077 };
        ensure!(mode & others == 0, "{} has mode {mode:o}", path.display());
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        ensure!(
            !text.contains("PRIVATE KEY") || holders.contains(&name.as_str()),
            "a key in {}",
            path.display()
        );
        ensure!(
            !text.contains(VARIABLE) || spec_holders.contains(&name.as_str()),
            "a variable's value in {}",
            path.display()
        );
        if !holders.contains(&name.as_str()) && !spec_holders.contains(&name.as_str()) {
            seen.push((path.display().to_string(), text));
        }
    }
    let mut secrets = vec![VARIABLE.to_owned()];
    for key in [
        &hub.operator.key,
        &machine.caller.key,
        &keys.agent,
        &keys.dask,
        &next.agent,
        &invited.invites[0].key,
    ] {
        secrets.extend(body(key));
    }
    for (place, text) in &seen {
        ensure!(!text.contains("PRIVATE KEY"), "a key in {place}");
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "a secret in {place}");
        }
    }
    // Nobody else's keys are on the hub at all.
    for path in walk(hub.dir())?.iter().filter(|p| p.is_file()) {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        for secret in &secrets[1..] {
            ensure!(!text.contains(secret.as_str()), "a secret in {}", path.display());
        }
    }
    Ok(())
}
