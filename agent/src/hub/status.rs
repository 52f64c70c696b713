//! Everything, for people.

use herdsman_wire::Timestamp;
use herdsman_wire::report::{ClusterStatus, NodeStatus};
use herdsman_wire::spec::DaskSecurity;

use super::core::Hub;
use super::ending;

impl Hub {
    /// Everything, for people.
    pub fn status(&self) -> ClusterStatus {
        let registry = self.registry();
        let mut nodes: Vec<NodeStatus> = registry
            .nodes()
            .map(|(name, n)| NodeStatus {
                name: name.clone(),
                role: n.role,
                state: n.state,
                anywhere: n.expected.as_ref().is_some_and(|e| e.any_address),
                address: n.address.or_else(|| n.expected.as_ref().and_then(|e| e.address)),
                seen: n.seen,
                generation: n.issued.as_ref().map_or(0, |i| i.generation),
                certificate_until: n.issued.as_ref().map(|i| i.not_after),
                agent_version: n.agent.clone(),
                report: n.report.clone(),
                workers: n.workers.values().cloned().collect(),
            })
            .collect();
        nodes.sort_by(|a, b| {
            a.role
                .cmp(&b.role)
                .then_with(|| natural(a.name.as_str(), b.name.as_str()))
        });
        let allowed = registry.allowed.iter().copied().collect();
        drop(registry);
        let spec = self.spec();
        let mut ending = ending::outlook(&spec.limits, &self.activity());
        ending.ending = self.ending.borrow().clone();
        let view = self.view().clone();
        let protocol = if spec.dask.security == DaskSecurity::None {
            "tcp"
        } else {
            "tls"
        };
        ClusterStatus {
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            now: Timestamp::now(),
            started: self.created,
            nodes,
            tasks: view.tasks,
            clients: view.clients,
            ending,
            events: *self.events.newest().borrow(),
            authority_until: self.issuers.until,
            scheduler_address: format!("{protocol}://{}", self.scheduler),
            environment: spec.environment.id().map(str::to_owned),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            allowed,
            incidents: self.incidents.all(),
            you: None,
        }
    }
}

/// `w10` after `w9`.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |s: &str| {
        let front = s.trim_end_matches(|c: char| c.is_ascii_digit());
        (front.to_owned(), s[front.len()..].parse::<u64>().unwrap_or(0))
    };
    key(a).cmp(&key(b))
}
