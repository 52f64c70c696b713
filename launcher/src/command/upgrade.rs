//! `herdsman upgrade`: this launcher's agent on all nodes, while Dask runs on.

use std::time::Duration;

use herdsman_wire::api::Done;
use herdsman_wire::report::{ClusterStatus, NodeState};
use herdsman_wire::{Code, NodeName, Role};
use serde_json::json;
use tokio::time::Instant;

use super::cli::{Output, UpgradeArgs};
use super::context::Session;
use crate::bootstrap::download::of_program;
use crate::link::{Link, SOON};
use crate::ui::Error;

/// The program is on its way over somebody's uplink for this long at most.
const SEND: Duration = Duration::from_secs(600);
/// A node has looked at its new agent within this.
const REPLACE: Duration = Duration::from_secs(90);
/// A node is ready, or its old agent back, within this: two trials of two minutes.
const BACK: Duration = Duration::from_secs(300);
/// Pause between two questions.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, args: &UpgradeArgs) -> Result<(), Error> {
    let program = match &args.agent {
        Some(path) => path.clone(),
        None => session.agent()?,
    };
    let (_, sha256) = of_program(&program)?;
    let sha256 = sha256.to_string();
    let (ctx, access) = session.open(args.name.as_ref()).await?;
    let _lock = ctx.store.lock(&access.record.cluster.name, "upgrade")?;
    access.link.put_blob(&sha256, &program, SEND).await?;
    let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
    let ready = |role| {
        let nodes = status.nodes.iter();
        nodes
            .filter(move |n| n.role == role && n.state == NodeState::Ready)
            .map(|n| n.name.clone())
    };
    // The hub last: it is what the others are reached by.
    let nodes: Vec<NodeName> = ready(Role::Worker).chain(ready(Role::Scheduler)).collect();
    let mut done = Vec::new();
    let mut first = None;
    let mut failed = 0;
    for node in &nodes {
        match upgrade(&access.link, node, &sha256).await {
            Ok(()) => {
                session.printer.note(&format!("{node} runs the new agent"));
                done.push(node);
            }
            Err(mut e) => {
                e.message = format!("{node}: {}", e.message);
                failed += 1;
                first.get_or_insert(e);
            }
        }
    }
    if session.printer.output() == Output::Json {
        session
            .printer
            .json(&json!({"agent": sha256, "nodes": done, "failed": failed}))?;
    }
    let Some(mut e) = first else { return Ok(()) };
    if nodes.len() > 1 {
        e.message = format!("{failed} of {} nodes keep their agent\n  {}", nodes.len(), e.message);
    }
    Err(e)
}

/// Asks until the node says that it runs this agent: the same request again is
/// answered by how the first one went.
async fn upgrade(link: &Link, node: &NodeName, sha256: &str) -> Result<(), Error> {
    let path = format!("/v1/nodes/{node}/upgrade/{sha256}");
    let _: Done = link.post(&path, &json!({}), REPLACE).await?;
    let until = Instant::now() + BACK;
    loop {
        // The old agent needs a moment to go.
        tokio::time::sleep(AGAIN).await;
        let Err(e) = link.post::<_, Done>(&path, &json!({}), REPLACE).await else {
            return Ok(());
        };
        let waits = matches!(e.code, Code::TooEarly | Code::Unreachable | Code::Deadline);
        if !waits {
            return Err(e.into());
        }
        if Instant::now() >= until {
            let text = format!(
                "not ready with its new agent within {} s: {}",
                BACK.as_secs(),
                e.message
            );
            return Err(Error::new(Code::Deadline, text)
                .with_hint(format!("herdsman logs --agent          shows what {node} says")));
        }
    }
}
