//! `herdsman version`: ours, and the agent's that would be used.

use std::time::Duration;

use serde_json::json;

use super::cli::Output;
use super::context::Session;
use crate::ui::Error;

pub(super) async fn run(session: &Session) -> Result<(), Error> {
    let agent = session.agent().ok();
    let says = match &agent {
        Some(path) => ask(path).await,
        None => None,
    };
    let own = env!("CARGO_PKG_VERSION");
    let protocol = herdsman_wire::version::PROTOCOL;
    if session.printer.output() == Output::Json {
        return session.printer.json(&json!({
            "herdsman": own, "protocol": protocol, "program_protocol": crate::config::PROGRAM_PROTOCOL, "agent": agent, "agent_version": says,
        }));
    }
    let agent = match (&agent, says) {
        (Some(path), Some(says)) => format!("{says} at {}", path.display()),
        (Some(path), None) => format!("{} does not answer", path.display()),
        (None, _) => "no agent was found on this computer".to_owned(),
    };
    session
        .printer
        .text(&format!("herdsman {own} (protocol {protocol})\n{agent}\n"))
}

async fn ask(agent: &std::path::Path) -> Option<String> {
    let run = tokio::process::Command::new(agent)
        .arg("version")
        .kill_on_drop(true)
        .output();
    let out = tokio::time::timeout(Duration::from_secs(5), run).await.ok()?.ok()?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}
