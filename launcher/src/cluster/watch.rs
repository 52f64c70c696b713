//! Waiting for nodes: events of the hub are told as they come, until the goal is
//! reached, cannot be reached any more, or the time is over. Each way it ends
//! with a cause.

use std::collections::BTreeSet;
use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, Event, EventKind, NodeState};
use herdsman_wire::{ApiError, Code, NodeName};
use tokio::time::Instant;

use super::cause::{dead_scheduler, explain};
use super::verdict::{Verdict, judge};
use super::{Context, Observe, Step, ready_workers};
use crate::link::{Link, SOON};
use crate::provider::{ClusterRef, Machine};

/// Longest wait of one question for events.
const POLL: Duration = Duration::from_secs(5);
/// Pause before a hub that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);

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
                if looked.elapsed() > ctx.provider.look_again() {
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
        if looked.elapsed() > ctx.provider.look_again() {
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

/// Tells the provider which machines have become nodes.
pub(super) fn enrolled(ctx: &Context, cluster: &ClusterRef, status: Option<&ClusterStatus>) {
    let all = status.into_iter().flat_map(|s| &s.nodes);
    let ready = all.filter(|n| n.state == NodeState::Ready).map(|n| n.name.clone());
    ctx.provider.enrolled(cluster, &ready.collect::<Vec<_>>());
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
