//! Whether waiting has an end: a function of what the hub says.

use std::collections::BTreeSet;

use herdsman_wire::report::{ClusterStatus, NodeState, NodeStatus};
use herdsman_wire::{NodeName, Role};

use super::ready_workers;
use super::watch::Goal;

/// Where a cluster stands against a goal.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Reached,
    Wait,
    /// These nodes failed, and the goal cannot be reached without them.
    Hopeless(Vec<NodeName>),
}

/// `gone` are nodes whose machine does not run any more. As long as other nodes
/// are on their way nothing is hopeless: they may make a cluster that can be used.
pub(super) fn judge(status: &ClusterStatus, goal: &Goal, gone: &BTreeSet<NodeName>) -> Verdict {
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

#[cfg(test)]
mod tests {
    use herdsman_wire::Timestamp;
    use herdsman_wire::report::{Ending, NodeReport};

    use super::*;

    fn node(name: &str, role: Role, state: NodeState) -> NodeStatus {
        NodeStatus {
            name: name.parse().unwrap(),
            role,
            state,
            anywhere: false,
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
            allowed: Vec::new(),
            incidents: Vec::new(),
            you: None,
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
}
