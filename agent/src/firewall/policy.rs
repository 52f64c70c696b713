//! What is wanted of the firewall, without a word about how it is done.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use herdsman_wire::limits;
use herdsman_wire::spec::DaskSpec;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Ports of a node that belong to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The agent's API.
    pub agent: u16,
    /// Dask's scheduler.
    pub scheduler: u16,
    /// The dashboard, which is for this machine only.
    pub dashboard: u16,
    /// Workers and nannies.
    pub workers: Vec<RangeInclusive<u16>>,
}

impl Default for Ports {
    /// What a node closes before it knows its specification.
    fn default() -> Self {
        Self::of(&DaskSpec {
            workers_per_node: limits::MAX_WORKERS_PER_NODE,
            ..DaskSpec::default()
        })
    }
}

impl Ports {
    /// The ports that a specification gives to agents and Dask.
    #[must_use]
    pub fn of(spec: &DaskSpec) -> Self {
        let each = spec.workers_per_node.max(1) - 1;
        let range = |first: u16| first..=first.saturating_add(each);
        Self {
            agent: limits::AGENT_PORT,
            scheduler: spec.scheduler_port,
            dashboard: spec.dashboard_port,
            workers: vec![range(spec.worker_port), range(spec.nanny_port)],
        }
    }

    /// Whether other machines may have connections to this port.
    pub(super) fn holds(&self, port: u16) -> bool {
        port == self.agent || port == self.scheduler || self.workers.iter().any(|r| r.contains(&port))
    }

    /// All of them, sorted, with no overlap.
    pub(super) fn all(&self) -> Vec<RangeInclusive<u16>> {
        let single = [self.agent, self.scheduler, self.dashboard].map(|p| p..=p);
        merged(single.into_iter().chain(self.workers.iter().cloned()))
    }

    /// Those of workers and nannies, sorted, with no overlap.
    pub(super) fn of_workers(&self) -> Vec<RangeInclusive<u16>> {
        merged(self.workers.iter().cloned())
    }
}

fn merged(ranges: impl Iterator<Item = RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    let mut sorted: Vec<_> = ranges.filter(|r| !r.is_empty()).collect();
    sorted.sort_by_key(|r| *r.start());
    let mut out: Vec<RangeInclusive<u16>> = Vec::new();
    for r in sorted {
        match out.last_mut() {
            Some(last) if u32::from(*r.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*last.end().max(r.end());
            }
            _ => out.push(r),
        }
    }
    out
}

/// What one source may do. A stock Dask scheduler keeps silent connections for
/// ever, and each handshake costs it about half a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Connections at once.
    pub(super) connections: u32,
    /// New connections a second, over a longer time.
    pub(super) per_second: u32,
    /// New connections in a burst.
    pub(super) burst: u32,
}

/// A laptop: notebooks, tunnels, dashboards.
pub(super) const OWNER: Limit = Limit {
    connections: 256,
    per_second: 50,
    burst: 200,
};
/// A node: up to 50 worker processes that come and go together.
pub(super) const MEMBER: Limit = Limit {
    connections: 2048,
    per_second: 200,
    burst: 1000,
};
/// New connections a second of all that are no members.
pub(super) const ALL_OWNERS: Limit = Limit {
    connections: 0,
    per_second: 500,
    burst: 1000,
};

/// What is wanted. The default closes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The cluster's ports.
    pub ports: Ports,
    /// Networks of the owner: the agent's and the scheduler's port.
    pub owners: BTreeSet<IpNet>,
    /// Enrolled nodes: all ports but the dashboard's.
    pub members: BTreeSet<IpAddr>,
    /// Where nodes that have not enrolled yet, or went silent, come from: the
    /// agent's port.
    pub joining: BTreeSet<IpNet>,
    /// Whether Dask may ask the cloud's metadata service, because a role of the
    /// machine was asked for.
    pub metadata_open: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_specification() {
        let spec = DaskSpec {
            workers_per_node: 3,
            ..Default::default()
        };
        let ports = Ports::of(&spec);
        for inside in [8785, 8786, 8788, 8790, 8838, 8840] {
            assert!(ports.holds(inside), "{inside}");
        }
        for outside in [22, 8787, 8791, 8841, 1] {
            assert!(!ports.holds(outside), "{outside}");
        }
        assert_eq!(ports.all(), [8785..=8790, 8838..=8840], "neighbours become one");
        assert_eq!(ports.of_workers(), [8788..=8790, 8838..=8840]);
    }

    #[test]
    fn all_that_any_specification_uses_is_closed_at_first() {
        assert_eq!(Ports::default().all(), [8785..=8887]);
    }

    #[test]
    fn odd_ranges_are_merged() {
        let ports = Ports {
            agent: 65535,
            scheduler: 1,
            dashboard: 2,
            workers: vec![100..=200, 150..=160, 201..=201, 65534..=65535],
        };
        assert_eq!(ports.all(), [1..=2, 100..=201, 65534..=65535]);
    }
}
