//! Why nodes did not start: their phase, their error, and the last lines of what
//! they wrote.

use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, LogLine, Phase, PhaseStatus};
use herdsman_wire::session::{LogQuery, StreamRequest};
use herdsman_wire::{ApiError, Code, NodeName, Timestamp};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::watch::Goal;
use super::{Context, ready_workers};
use crate::link::Link;
use crate::provider::Machine;

/// Log lines in an error.
const LINES: u32 = 6;

/// Ends when the scheduler's machine does not run any more, with the cause.
pub(super) async fn end_of_scheduler(ctx: &Context, machines: &[Machine]) -> ApiError {
    loop {
        tokio::time::sleep(ctx.provider.look_again()).await;
        if let Some(dead) = dead_scheduler(ctx, machines).await {
            return dead;
        }
    }
}

/// Why the scheduler's machine does not run any more, if so.
pub(super) async fn dead_scheduler(ctx: &Context, machines: &[Machine]) -> Option<ApiError> {
    let scheduler = super::access::scheduler(machines)?;
    let now = ctx.provider.list(Some(&scheduler.cluster.name)).await.ok()?;
    if now.iter().any(|m| m.node == scheduler.node && m.running) {
        return None;
    }
    let console = Console::of(ctx, scheduler).await;
    let e = console
        .error
        .unwrap_or_else(|| ApiError::new(Code::Boot, "its agent ended"));
    let mut text = format!("{} cannot start: {}", scheduler.node, e.message);
    if e.code == Code::Clock {
        text += &format!("\n  this computer's clock shows {}", Timestamp::now());
    }
    text += &format!("\n  last lines of {}'s console:", scheduler.node);
    for line in &console.tail {
        text += &format!("\n    {line}");
    }
    Some(ApiError { message: text, ..e })
}

/// The last error with a code that an agent wrote to its console, with its hints.
fn last_error(console: &[String]) -> Option<ApiError> {
    let at = console
        .iter()
        .rposition(|l| l.contains(" ERROR ") && l.contains(" code=E-"))?;
    let (text, code) = console[at].rsplit_once(" code=")?;
    let code = serde_json::from_value(serde_json::Value::from(code.trim())).ok()?;
    let message = text.split_once(" ERROR ")?.1.trim();
    let mut e = ApiError::new(code, message);
    e.retryable = false;
    let hints = console[at + 1..].iter().map_while(|l| l.split_once(" ERROR try: "));
    e.hint = hints.map(|(_, hint)| hint.to_owned()).collect();
    Some(e)
}

/// The phase that a node is stuck in or failed at.
fn stuck(phases: &[Phase]) -> Option<&Phase> {
    phases
        .iter()
        .find(|p| p.status == PhaseStatus::Failed)
        .or_else(|| phases.iter().rev().find(|p| p.status == PhaseStatus::Started))
}

/// An error that names nodes, their phase, and the last lines of their log. With
/// `late`, the time was over.
pub(super) async fn explain(
    ctx: &Context,
    link: &Link,
    machines: &[Machine],
    status: &ClusterStatus,
    nodes: &[NodeName],
    late: Option<&Goal>,
) -> ApiError {
    let workers = ready_workers(status);
    let mut code = Code::Boot;
    let head = match late {
        Some(goal) => {
            code = Code::Deadline;
            format!("{workers} of {} workers were ready when the time was over", goal.wanted)
        }
        None => format!("{} cannot start", join(nodes)),
    };
    let mut text = head;
    let mut hints = Vec::new();
    for name in nodes.iter().take(3) {
        let node = status.nodes.iter().find(|n| n.name == *name);
        let phase = node.and_then(|n| stuck(&n.report.phases));
        let heard = node.is_some_and(|n| n.seen.is_some());
        let mut lines = None;
        match phase {
            Some(p) => {
                let now = p.ended.unwrap_or(status.now);
                text += &format!(
                    "\n  {name}: phase `{}` for {} s",
                    p.phase.as_str(),
                    now.since(p.started).as_secs()
                );
                if let Some(e) = &p.error {
                    text += &format!(": {}", e.message);
                    let named = |h: &String| {
                        h.replace("NAME NODE", &format!("{} {name}", status.name))
                            .replace("NAME", status.name.as_str())
                    };
                    hints.extend(e.hint.iter().map(named));
                    // The cause has a code of its own, which says more than ours.
                    if code == Code::Boot && p.status == PhaseStatus::Failed {
                        code = e.code;
                    }
                } else if let Some(d) = &p.detail {
                    text += &format!(": {d}");
                }
            }
            None => {
                text += &format!("\n  {name}: was never heard of");
                // What its boot says is all that there is of it.
                if let Some(machine) = machines.iter().find(|m| m.node == *name && !heard) {
                    let console = Console::of(ctx, machine).await;
                    if let Some(e) = console.error {
                        text += &format!(": [{}] {}", e.code, e.message);
                        hints.extend(e.hint);
                        if matches!(code, Code::Boot | Code::Deadline) {
                            code = e.code;
                        }
                    }
                    lines = Some(console.tail);
                }
                hints.push(format!("herdsman logs {} {name} --boot", status.name));
            }
        }
        let shown = phase
            .and_then(|p| p.error.as_ref())
            .is_some_and(|e| e.message.contains('\n'));
        if !shown {
            let lines = match lines {
                Some(lines) => lines,
                None => last_lines(ctx, link, machines, name, heard).await,
            };
            for line in lines {
                text += &format!("\n    {line}");
            }
        }
    }
    if nodes.len() > 3 {
        text += &format!("\n  and {} more", nodes.len() - 3);
    }
    let mut error = ApiError::new(code, text);
    error.retryable = false;
    hints.dedup();
    error.hint = hints;
    error
}

fn join(nodes: &[NodeName]) -> String {
    match nodes {
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => "the cluster".to_owned(),
    }
}

/// The last lines of a node's log through the hub, or of its console where it
/// was never heard of.
async fn last_lines(ctx: &Context, link: &Link, machines: &[Machine], node: &NodeName, heard: bool) -> Vec<String> {
    if heard && let Ok(lines) = tail_of(link, node, LINES).await {
        return lines.into_iter().map(|l| l.text).collect();
    }
    let Some(machine) = machines.iter().find(|m| m.node == *node) else {
        return Vec::new();
    };
    Console::of(ctx, machine).await.tail
}

/// What a machine's console shows; empty where nobody can see it.
#[derive(Debug)]
pub(super) struct Console {
    /// Its last lines.
    pub(super) tail: Vec<String>,
    /// The last error that an agent wrote to it: the machine's own boot goes on
    /// after that, and says much.
    pub(super) error: Option<ApiError>,
}

impl Console {
    pub(super) async fn of(ctx: &Context, machine: &Machine) -> Self {
        Self::read(&ctx.provider.console(machine).await.unwrap_or_default())
    }

    fn read(text: &str) -> Self {
        let lines: Vec<String> = text
            .lines()
            .filter(|l| !l.trim().is_empty())
            .map(str::to_owned)
            .collect();
        let from = lines.len().saturating_sub(LINES as usize);
        Self {
            error: last_error(&lines),
            tail: lines[from..].to_vec(),
        }
    }
}

/// The newest lines of a node's log.
///
/// # Errors
/// The hub's own error, or why it could not be asked.
pub async fn tail_of(link: &Link, node: &NodeName, lines: u32) -> Result<Vec<LogLine>, ApiError> {
    let query = LogQuery {
        tail: lines,
        ..LogQuery::default()
    };
    let io = link.node_stream(node, &StreamRequest::Logs(query)).await?;
    let mut found = Vec::new();
    let mut reader = BufReader::new(io).lines();
    let read = async {
        while let Ok(Some(line)) = reader.next_line().await {
            if let Ok(line) = serde_json::from_str(&line) {
                found.push(line);
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use herdsman_wire::report::PhaseName;

    use super::*;

    #[test]
    fn a_console_tells_code_cause_and_hints() {
        let lines = [
            "2026-11-24T10:00:00Z  INFO the agent starts node=d-scheduler",
            "2026-11-24T10:00:05Z ERROR this machine's clock shows x code=E-CLOCK",
            "2026-11-24T10:00:05Z ERROR try: set the clock",
            "keeper: the agent (process 7) ended: exit code 3",
        ]
        .map(str::to_owned);
        let e = last_error(&lines).unwrap();
        assert_eq!(
            (e.code, e.message.as_str()),
            (Code::Clock, "this machine's clock shows x")
        );
        assert_eq!(e.hint, ["set the clock"]);
        assert!(last_error(&lines[..1]).is_none());
        // The machine has a boot of its own to tell of.
        let rest = (0..40).map(|n| format!("[   50.{n}] unit {n} is up\r\n\r\n"));
        let console = Console::read(
            &lines
                .join("\n")
                .lines()
                .map(|l| format!("[ 9.1] agent[4]: {l}\r\n"))
                .chain(rest)
                .collect::<String>(),
        );
        assert_eq!(console.error.unwrap().code, Code::Clock);
        assert_eq!(console.tail.len(), LINES as usize);
    }

    #[test]
    fn a_failed_phase_explains_more_than_a_running_one() {
        let phase = |phase, status| Phase {
            phase,
            status,
            started: Timestamp(0),
            ended: None,
            deadline: None,
            detail: None,
            error: None,
        };
        let phases = [
            phase(PhaseName::Enrol, PhaseStatus::Done),
            phase(PhaseName::Environment, PhaseStatus::Failed),
            phase(PhaseName::Dask, PhaseStatus::Started),
        ];
        assert_eq!(stuck(&phases).unwrap().phase, PhaseName::Environment);
    }
}
