//! Waiting for nodes: events of the hub are told as they come, until the goal is
//! reached, cannot be reached any more, or the time is over. Each way it ends
//! with a cause.

use std::collections::BTreeSet;
use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, Event, EventKind, LogLine, NodeState, NodeStatus, Phase, PhaseStatus};
use herdsman_wire::session::{LogQuery, StreamRequest};
use herdsman_wire::{ApiError, Code, NodeName, Role, Timestamp};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

use super::{Context, Observe, Step, ready_workers};
use crate::link::{Link, SOON};
use crate::provider::Machine;

/// Longest wait of one question for events.
const POLL: Duration = Duration::from_secs(5);
/// How often the provider is asked whether machines still run.
const LOOK_AT_MACHINES: Duration = Duration::from_secs(2);
/// Pause before a hub that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// Log lines in an error.
const LINES: u32 = 6;

/// When waiting ends well.
#[derive(Clone, Debug)]
pub struct Goal {
    /// So many workers are ready, and the scheduler.
    pub workers: u32,
    /// Nodes whose failure matters; the scheduler's always does.
    pub nodes: BTreeSet<NodeName>,
    /// How many workers are wanted in the end; for the count that is shown.
    pub wanted: u32,
    /// Events up to this number are an old story that is not told again.
    pub after: u64,
}

/// Where a cluster stands against a goal.
#[derive(Debug, PartialEq)]
enum Verdict {
    Reached,
    Wait,
    /// These nodes failed, and the goal cannot be reached without them.
    Hopeless(Vec<NodeName>),
}

/// `gone` are nodes whose machine does not run any more. As long as other nodes
/// are on their way nothing is hopeless: they may make a cluster that can be used.
fn judge(status: &ClusterStatus, goal: &Goal, gone: &BTreeSet<NodeName>) -> Verdict {
    let is_dead = |n: &&NodeStatus| matches!(n.state, NodeState::Failed | NodeState::Revoked) || gone.contains(&n.name);
    let scheduler = status.nodes.iter().find(|n| n.role == Role::Scheduler);
    if let Some(s) = scheduler.filter(is_dead) {
        return Verdict::Hopeless(vec![s.name.clone()]);
    }
    let up = scheduler.is_some_and(|s| s.state == NodeState::Ready);
    if up && ready_workers(status) >= goal.workers {
        return Verdict::Reached;
    }
    let workers = status.nodes.iter().filter(|n| n.role == Role::Worker);
    let (dead, alive): (Vec<_>, Vec<_>) = workers.partition(is_dead);
    let dead: Vec<NodeName> = dead
        .into_iter()
        .filter(|n| goal.nodes.contains(&n.name))
        .map(|n| n.name.clone())
        .collect();
    let possible = u32::try_from(alive.len()).unwrap_or(u32::MAX);
    let on_their_way = alive
        .iter()
        .any(|n| matches!(n.state, NodeState::Expected | NodeState::Starting));
    if !dead.is_empty() && possible < goal.workers && !on_their_way {
        Verdict::Hopeless(dead)
    } else {
        Verdict::Wait
    }
}

/// Waits for a goal.
///
/// # Errors
/// [`Code::Boot`] when it cannot be reached, [`Code::Deadline`] when the time is
/// over; both name nodes, their phase, and the last lines of their log.
pub(super) async fn wait(
    ctx: &Context,
    link: &Link,
    machines: &[Machine],
    goal: &Goal,
    until: Instant,
    see: Observe<'_>,
) -> Result<ClusterStatus, ApiError> {
    let mut after = goal.after;
    let mut looked = Instant::now();
    let mut counted = None;
    let mut gone = BTreeSet::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let asked = async {
            let status: ClusterStatus = link.get("/v1/status", SOON).await?;
            let last = tell(link, after, Duration::ZERO, see).await?;
            Ok::<_, ApiError>((status, last))
        };
        let status = match asked.await {
            Ok((status, last)) => {
                after = after.max(last);
                status
            }
            // An agent that died is started again within a second.
            Err(e) if e.retryable && !left.is_zero() => {
                if looked.elapsed() > LOOK_AT_MACHINES {
                    looked = Instant::now();
                    if let Some(dead) = dead_scheduler(ctx, machines).await {
                        return Err(dead);
                    }
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(e) if e.retryable => {
                let text = format!("the time is over, and the hub does not answer: {}", e.message);
                return Err(ApiError::new(Code::Deadline, text));
            }
            Err(e) => return Err(e),
        };
        let ready = ready_workers(&status);
        if counted != Some(ready) {
            counted = Some(ready);
            see(&Step::Count(ready, goal.wanted));
        }
        match judge(&status, goal, &gone) {
            Verdict::Reached => return Ok(status),
            Verdict::Hopeless(nodes) => return Err(explain(ctx, link, machines, &status, &nodes, None).await),
            Verdict::Wait if left.is_zero() => {
                let late: Vec<NodeName> = status
                    .nodes
                    .iter()
                    .filter(|n| n.state != NodeState::Ready)
                    .map(|n| n.name.clone())
                    .collect();
                return Err(explain(ctx, link, machines, &status, &late, Some(goal)).await);
            }
            Verdict::Wait => {}
        }
        if looked.elapsed() > LOOK_AT_MACHINES {
            looked = Instant::now();
            gone = dead_machines(ctx, machines, &status).await;
            if !gone.is_empty() {
                continue;
            }
        }
        if status.events <= after {
            match tell(link, after, POLL.min(left), see).await {
                Ok(last) => after = after.max(last),
                Err(e) if e.retryable => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Nodes that are not ready and whose machine is gone or does not run.
async fn dead_machines(ctx: &Context, machines: &[Machine], status: &ClusterStatus) -> BTreeSet<NodeName> {
    let Some(cluster) = machines.first().map(|m| &m.cluster.name) else {
        return BTreeSet::new();
    };
    let Ok(now) = ctx.provider.list(Some(cluster)).await else {
        return BTreeSet::new();
    };
    let runs = |node: &NodeName| now.iter().any(|m| m.node == *node && m.running);
    let ready = |node: &NodeName| {
        let state = status.nodes.iter().find(|n| n.name == *node).map(|n| n.state);
        matches!(state, Some(NodeState::Ready))
    };
    let dead = machines.iter().map(|m| &m.node).filter(|n| !runs(n) && !ready(n));
    dead.cloned().collect()
}

/// Ends when the scheduler's machine does not run any more, with the cause.
pub(super) async fn end_of_scheduler(ctx: &Context, machines: &[Machine]) -> ApiError {
    loop {
        tokio::time::sleep(LOOK_AT_MACHINES).await;
        if let Some(dead) = dead_scheduler(ctx, machines).await {
            return dead;
        }
    }
}

/// Why the scheduler's machine does not run any more, if so.
async fn dead_scheduler(ctx: &Context, machines: &[Machine]) -> Option<ApiError> {
    let scheduler = super::access::scheduler(machines)?;
    let now = ctx.provider.list(Some(&scheduler.cluster.name)).await.ok()?;
    if now.iter().any(|m| m.node == scheduler.node && m.running) {
        return None;
    }
    let console = console_tail(ctx, scheduler).await;
    let e = last_error(&console).unwrap_or_else(|| ApiError::new(Code::Boot, "its agent ended"));
    let mut text = format!("{} cannot start: {}", scheduler.node, e.message);
    if e.code == Code::Clock {
        text += &format!("\n  this computer's clock shows {}", Timestamp::now());
    }
    text += &format!("\n  last lines of {}'s console:", scheduler.node);
    for line in &console {
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

/// Tells of new events; gives the number of the last.
async fn tell(link: &Link, after: u64, wait: Duration, see: Observe<'_>) -> Result<u64, ApiError> {
    let path = format!("/v1/events?after={after}&wait={}", wait.as_secs());
    let events: Vec<Event> = link.get(&path, SOON + wait).await?;
    let mut last = after;
    for event in events {
        last = last.max(event.seq);
        match (event.node, event.what) {
            (Some(node), EventKind::Phase(phase)) => see(&Step::Phase(node, phase)),
            (Some(node), EventKind::State { state, why }) => see(&Step::State(node, state, why)),
            (None, EventKind::Note { text }) => see(&Step::Note(text)),
            (Some(node), EventKind::Note { text }) => see(&Step::Note(format!("{node}: {text}"))),
            (None, _) => {}
        }
    }
    Ok(last)
}

/// The phase that a node is stuck in or failed at.
fn stuck(node: &NodeStatus) -> Option<&Phase> {
    let phases = &node.report.phases;
    phases
        .iter()
        .find(|p| p.status == PhaseStatus::Failed)
        .or_else(|| phases.iter().rev().find(|p| p.status == PhaseStatus::Started))
}

async fn explain(
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
        let phase = node.and_then(stuck);
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
            None => text += &format!("\n  {name}: was never heard of"),
        }
        let heard = node.is_some_and(|n| n.seen.is_some());
        let shown = phase
            .and_then(|p| p.error.as_ref())
            .is_some_and(|e| e.message.contains('\n'));
        if !shown {
            let lines = last_lines(ctx, link, machines, name, heard).await;
            if let Some(e) = last_error(&lines).filter(|_| code == Code::Boot && !heard) {
                code = e.code;
                hints.extend(e.hint);
            }
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
    console_tail(ctx, machine).await
}

/// The last lines of a machine's console.
pub(super) async fn console_tail(ctx: &Context, machine: &Machine) -> Vec<String> {
    let text = ctx.provider.console(machine).await.unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES as usize);
    lines[from..].iter().map(|l| (*l).to_owned()).collect()
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
    use herdsman_wire::report::{Ending, NodeReport, PhaseName};

    use super::*;

    fn node(name: &str, role: Role, state: NodeState) -> NodeStatus {
        NodeStatus {
            name: name.parse().unwrap(),
            role,
            state,
            address: None,
            seen: None,
            generation: 1,
            certificate_until: None,
            agent_version: String::new(),
            report: NodeReport::default(),
            workers: Vec::new(),
        }
    }

    fn status(states: &[NodeState]) -> ClusterStatus {
        let mut nodes = Vec::new();
        for (i, state) in states.iter().enumerate() {
            let (name, role) = if i == 0 {
                ("d-scheduler".to_owned(), Role::Scheduler)
            } else {
                (format!("d-w{}", i - 1), Role::Worker)
            };
            nodes.push(node(&name, role, *state));
        }
        ClusterStatus {
            cluster: "aaaaaaaaaa".parse().unwrap(),
            name: "d".parse().unwrap(),
            now: Timestamp(0),
            started: Timestamp(0),
            nodes,
            tasks: None,
            clients: 0,
            ending: Ending::default(),
            events: 0,
            authority_until: Timestamp(0),
            environment: None,
            scheduler_address: String::new(),
            agent_version: String::new(),
        }
    }

    fn goal(workers: u32) -> Goal {
        Goal {
            workers,
            nodes: ["d-w0", "d-w1"].iter().map(|n| n.parse().unwrap()).collect(),
            wanted: 2,
            after: 0,
        }
    }

    #[test]
    fn verdicts() {
        use NodeState::{Failed, Ready, Starting};
        let none = BTreeSet::new();
        let w1 = BTreeSet::from(["d-w1".parse().unwrap()]);
        let hopeless = |n: &str| Verdict::Hopeless(vec![n.parse().unwrap()]);
        for (states, workers, gone, verdict) in [
            ([Ready, Ready, Ready], 2, &none, Verdict::Reached),
            ([Ready, Starting, Starting], 0, &none, Verdict::Reached),
            ([Starting, Ready, Ready], 2, &none, Verdict::Wait),
            ([Ready, Ready, Starting], 2, &none, Verdict::Wait),
            ([Ready, Failed, Starting], 1, &none, Verdict::Wait),
            ([Ready, Failed, Ready], 2, &none, hopeless("d-w0")),
            // The other one may still make a cluster that can be used.
            ([Ready, Failed, Starting], 2, &none, Verdict::Wait),
            ([Ready, Ready, Starting], 2, &w1, hopeless("d-w1")),
            ([Ready, Starting, Starting], 2, &w1, Verdict::Wait),
            ([Failed, Ready, Ready], 0, &none, hopeless("d-scheduler")),
        ] {
            let now = judge(&status(&states), &goal(workers), gone);
            assert_eq!(now, verdict, "{states:?} {workers} {gone:?}");
        }
    }

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
        let mut n = node("d-w0", Role::Worker, NodeState::Failed);
        n.report.phases = vec![
            phase(PhaseName::Enrol, PhaseStatus::Done),
            phase(PhaseName::Environment, PhaseStatus::Failed),
            phase(PhaseName::Dask, PhaseStatus::Started),
        ];
        assert_eq!(stuck(&n).unwrap().phase, PhaseName::Environment);
    }
}
