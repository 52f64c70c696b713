//! `scale`: more workers, or fewer without losing what they have computed.

use std::collections::BTreeSet;
use std::time::Duration;

use herdsman_wire::api::{Done, Expect, Invite, Invited, Nodes, Retire, Retired};
use herdsman_wire::report::{ClusterStatus, NodeState, NodeStatus};
use herdsman_wire::{ApiError, ClusterName, Code, NodeName, Role, limits};
use tokio::time::Instant;

use super::access::{Access, open, scheduler};
use super::create::{self, Alike};
use super::names::{batch_name, next_number, worker_name};
use super::watch::{self, Goal};
use super::{Context, Observe, Step, ready_workers};
use crate::bootstrap::Node;
use crate::link::SOON;
use crate::provider::{Machine, MachineSpec};
use herdsman_wire::join::Bootstrap;

/// Longest wait for data to move.
const RETIRE_WITHIN: Duration = Duration::from_secs(600);

/// Longest wait for tasks that run on workers which go; after it they are run again.
const RUNNING_WITHIN: Duration = Duration::from_secs(60);

/// How many workers, or which to give up.
#[derive(Clone, Debug)]
pub enum Target {
    /// So many.
    Count(u32),
    /// Without these nodes.
    Without {
        /// Which.
        nodes: Vec<NodeName>,
        /// Those that have something to do stay.
        idle: bool,
    },
}

/// What scaling did.
#[derive(Clone, Debug)]
pub struct ScaleReport {
    /// Nodes made.
    pub added: Vec<NodeName>,
    /// Nodes emptied and deleted.
    pub removed: Vec<NodeName>,
    /// Nodes that had to stay, with the reason.
    pub kept: Vec<(NodeName, String)>,
    /// The hub's status afterwards.
    pub status: ClusterStatus,
}

/// Whether a node counts as one of the workers that there are.
pub(super) fn counts(node: &NodeStatus) -> bool {
    node.role == Role::Worker
        && !matches!(
            node.state,
            NodeState::Stopped | NodeState::Revoked | NodeState::Draining | NodeState::Lost
        )
}

/// Brings a cluster to a number of workers. New ones are waited for as long as
/// `within`, or not at all.
///
/// # Errors
/// [`Code::NotFound`], [`Code::Conflict`] when another command is at work on it,
/// or the cause why new workers did not come; those are deleted again then.
pub async fn scale(
    ctx: &Context,
    name: &ClusterName,
    target: Target,
    within: Option<Duration>,
    see: Observe<'_>,
) -> Result<ScaleReport, ApiError> {
    let _lock = ctx.store.lock(name, "scale")?;
    let access = open(ctx, name).await?;
    scale_open(ctx, &access, target, within, see).await
}

/// [`scale`] for a caller that holds the lock.
pub(super) async fn scale_open(
    ctx: &Context,
    access: &Access,
    target: Target,
    within: Option<Duration>,
    see: Observe<'_>,
) -> Result<ScaleReport, ApiError> {
    sweep(ctx, access).await?;
    let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
    let have = u32::try_from(status.nodes.iter().filter(|n| counts(n)).count()).unwrap_or(u32::MAX);
    let retire = |nodes, count: u32| Retire {
        nodes,
        count: count as usize,
        idle: false,
        running_seconds: RUNNING_WITHIN.as_secs(),
        timeout_seconds: RETIRE_WITHIN.as_secs(),
    };
    match target {
        Target::Count(n) if n > have => grow(ctx, access, &status, n - have, n, within, see).await,
        Target::Count(n) if n < have => shrink(ctx, access, retire(Vec::new(), have - n), see).await,
        Target::Count(_) => Ok(ScaleReport {
            added: Vec::new(),
            removed: Vec::new(),
            kept: Vec::new(),
            status,
        }),
        Target::Without { nodes, idle } => {
            let request = Retire {
                idle,
                ..retire(nodes, 0)
            };
            shrink(ctx, access, request, see).await
        }
    }
}

/// Machines that the hub knows to be emptied or gone, but that an interrupted
/// command did not delete; members whose machine is gone; and those who were invited
/// and whose machine was never made. They would count as workers.
async fn sweep(ctx: &Context, access: &Access) -> Result<(), ApiError> {
    let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
    let machines = ctx.provider.list(Some(&access.record.cluster.name)).await?;
    let over = |n: &&NodeStatus| is_over(n, machines.iter().any(|m| m.node == n.name));
    let mut over: Vec<NodeName> = status.nodes.iter().filter(over).map(|n| n.name.clone()).collect();
    // Machines of an interrupted `scale` up that the hub does not expect.
    let unknown = |m: &&Machine| m.role == Role::Worker && !status.nodes.iter().any(|n| n.name == m.node);
    over.extend(machines.iter().filter(unknown).map(|m| m.node.clone()));
    if over.is_empty() {
        return Ok(());
    }
    remove(ctx, access, &over, "ended").await.map(|_| ())
}

/// Whether nothing comes of a node any more: `exists` says whether the provider has a
/// machine of it. Machines that others made are not the provider's to know.
fn is_over(node: &NodeStatus, exists: bool) -> bool {
    let ended = matches!(node.state, NodeState::Stopped | NodeState::Revoked | NodeState::Lost);
    node.role == Role::Worker && (ended || !(exists || node.anywhere))
}

async fn grow(
    ctx: &Context,
    access: &Access,
    status: &ClusterStatus,
    more: u32,
    total: u32,
    within: Option<Duration>,
    see: Observe<'_>,
) -> Result<ScaleReport, ApiError> {
    let cluster = &access.record.cluster;
    let machines = ctx.provider.list(Some(&cluster.name)).await?;
    let hub = scheduler(&machines)
        .and_then(|m| m.address)
        .ok_or_else(|| ApiError::new(Code::NotFound, "the scheduler's machine is gone"))?;
    let known = status
        .nodes
        .iter()
        .map(|n| &n.name)
        .chain(machines.iter().map(|m| &m.node));
    let first = next_number(&cluster.name, known);
    let names: Vec<NodeName> = (first..first + more)
        .map(|n| worker_name(&cluster.name, n))
        .collect::<Result<_, _>>()
        .map_err(|e| ApiError::new(Code::Usage, e.to_string()))?;
    let alike = super::create::alike(ctx, more);
    let invite = Invite {
        nodes: if alike {
            let label = batch_name(&cluster.name, first);
            vec![label.map_err(|e| ApiError::new(Code::Usage, e.to_string()))?]
        } else {
            names.clone()
        },
        ttl_seconds: limits::BOOTSTRAP_LIFE.as_secs(),
        any_address: false,
        uses: alike.then_some(more),
    };
    let mut invited: Invited = access.link.post("/v1/invites", &invite, SOON).await?;
    let mut specs = Vec::new();
    let mut serials = Vec::new();
    if alike && let Some(shared) = invited.invites.pop() {
        let alike = Alike {
            cluster,
            roots: &access.record.roots,
            tags: &access.record.tags,
            hub: (hub, limits::AGENT_PORT).into(),
            bootstrap: Bootstrap {
                certificate: shared.certificate,
                key: shared.key,
            },
            deadline: shared.not_after,
        };
        specs = alike.specs(ctx, names.clone())?;
        serials = vec![
            create::Invited {
                serial: shared.serial,
                batch: Some(shared.node),
            };
            specs.len()
        ];
    }
    for (invitation, number) in invited.invites.into_iter().zip(first..) {
        let placement = ctx.provider.place(cluster, &invitation.node, number + 1)?;
        let node = Node {
            cluster,
            name: Some(&invitation.node),
            role: Role::Worker,
            hub: Some((hub, limits::AGENT_PORT).into()),
            placement: &placement,
            roots: &access.record.roots,
            bootstrap: Bootstrap {
                certificate: invitation.certificate,
                key: invitation.key,
            },
            deadline: invitation.not_after,
            allow: &[],
        };
        let user_data = ctx.boot.user_data(node, ctx.provider.user_data_form())?;
        let mut tags = access.record.tags.clone();
        tags.insert("herdsman-role".to_owned(), Role::Worker.as_str().to_owned());
        tags.insert("herdsman-node".to_owned(), invitation.node.to_string());
        serials.push(create::Invited {
            serial: invitation.serial,
            batch: None,
        });
        specs.push(MachineSpec {
            node: invitation.node,
            role: Role::Worker,
            user_data,
            tags,
        });
    }
    let attempt = async {
        let made = create::create(ctx, cluster, &specs, serials, see).await?;
        let (machines, expected): (Vec<Machine>, Vec<_>) = made.into_iter().unzip();
        let added: Vec<NodeName> = machines.iter().map(|m| m.node.clone()).collect();
        see(&Step::Made(added.clone()));
        let _: Done = access
            .link
            .post("/v1/expect", &Expect { nodes: expected }, SOON)
            .await?;
        let Some(within) = within else {
            let status = access.link.get("/v1/status", SOON).await?;
            return Ok((added, status));
        };
        let until = Instant::now() + within;
        let goal = Goal {
            workers: total,
            nodes: added.iter().cloned().collect::<BTreeSet<_>>(),
            wanted: total,
            after: status.events,
        };
        let status = watch::wait(ctx, &access.link, &machines, &goal, until, see).await?;
        Ok::<_, ApiError>((added, status))
    };
    match attempt.await {
        Ok((added, status)) => {
            watch::enrolled(ctx, cluster, Some(&status));
            Ok(ScaleReport {
                added,
                removed: Vec::new(),
                kept: Vec::new(),
                status,
            })
        }
        Err(mut e) => {
            let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
            let fine = |n: &NodeName| status.nodes.iter().any(|s| s.name == *n && s.state == NodeState::Ready);
            // Machines of a batch have other names than they were to have.
            let now = ctx.provider.list(Some(&cluster.name)).await?;
            let new = now.into_iter().filter(|m| machines.iter().all(|old| old.id != m.id));
            let mut failed: Vec<NodeName> = names.into_iter().chain(new.map(|m| m.node)).collect();
            failed.sort();
            failed.dedup();
            failed.retain(|n| !fine(n));
            give_up(access, &status, &failed).await;
            match remove(ctx, access, &failed, "did not start").await {
                Ok(left) if left.is_empty() => {
                    // The logs of what is deleted are gone as well.
                    e.hint.retain(|h| !h.starts_with("herdsman logs"));
                    e.message += &format!(
                        "\n  done: {} new workers that did not start were deleted; {} workers are ready",
                        failed.len(),
                        ready_workers(&status)
                    );
                }
                Ok(left) => e.message += &format!("\n  {} machines could not be deleted", left.len()),
                Err(cause) => e.message += &format!("\n  the new machines could not be deleted: {}", cause.message),
            }
            Err(e)
        }
    }
}

/// Tells the hub that nothing comes of nodes any more, before their machines are deleted:
/// a vendor's list may still show those when the next command looks, and that command
/// must not take them for workers if this one dies here. What cannot be told is removed
/// all the same.
async fn give_up(access: &Access, status: &ClusterStatus, nodes: &[NodeName]) {
    let waiting = |n: &&NodeStatus| {
        n.role == Role::Worker && n.state == NodeState::Expected && n.workers.is_empty() && nodes.contains(&n.name)
    };
    let request = Retire {
        nodes: status.nodes.iter().filter(waiting).map(|n| n.name.clone()).collect(),
        count: 0,
        idle: false,
        running_seconds: 0,
        timeout_seconds: 1,
    };
    if !request.nodes.is_empty()
        && let Err(e) = access.link.post::<_, Retired>("/v1/retire", &request, SOON).await
    {
        tracing::debug!("nodes that did not start were not retired: {}", e.message);
    }
}

async fn shrink(ctx: &Context, access: &Access, request: Retire, see: Observe<'_>) -> Result<ScaleReport, ApiError> {
    see(&Step::Note("moving results off the workers that go".into()));
    let within = RETIRE_WITHIN + SOON;
    let retired: Retired = access.link.post("/v1/retire", &request, within).await?;
    let mut kept = retired.kept;
    let left = remove(ctx, access, &retired.retired, "scaled down").await?;
    for (node, why) in left {
        if let Ok(node) = node.parse() {
            kept.push((node, why));
        }
    }
    let status = access.link.get("/v1/status", SOON).await?;
    Ok(ScaleReport {
        added: Vec::new(),
        removed: retired.retired,
        kept,
        status,
    })
}

/// Deletes machines and makes the hub forget their nodes, in this order: a node
/// that is forgotten first could not be found by the next command.
pub(super) async fn remove(
    ctx: &Context,
    access: &Access,
    nodes: &[NodeName],
    why: &str,
) -> Result<Vec<(String, String)>, ApiError> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let machines = ctx.provider.list(Some(&access.record.cluster.name)).await?;
    let gone: Vec<Machine> = machines.into_iter().filter(|m| nodes.contains(&m.node)).collect();
    let deleted = if gone.is_empty() {
        crate::provider::Deleted::default()
    } else {
        ctx.provider.delete(&gone).await?
    };
    let forget = Nodes {
        nodes: nodes.to_vec(),
        why: why.to_owned(),
    };
    let _: Done = access.link.post("/v1/remove", &forget, SOON).await?;
    Ok(deleted.left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_machine_is_over_unless_others_make_it() {
        let node = |role: &str, state: &str, anywhere: bool| -> NodeStatus {
            let text = serde_json::json!({"name": "d-w1", "role": role, "state": state, "anywhere": anywhere});
            serde_json::from_value(text).unwrap()
        };
        for (state, anywhere, exists, over) in [
            ("ready", false, true, false),
            ("ready", false, false, true),
            ("expected", false, true, false),
            ("expected", false, false, true),
            ("expected", true, false, false),
            ("ready", true, false, false),
            ("lost", true, false, true),
            ("stopped", false, true, true),
        ] {
            assert_eq!(
                is_over(&node("worker", state, anywhere), exists),
                over,
                "{state} {anywhere} {exists}"
            );
        }
        assert!(!is_over(&node("scheduler", "lost", false), false));
    }
}
