//! Keeping strangers out: live connections of nodes that are no members any
//! more are cut here; the packet filter joins them.
//!
//! A certificate on the CRL stops new handshakes only. What is established goes
//! on until somebody ends it, so that is done in the kernel, whatever program
//! holds the socket.

mod destroy;

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Ports of a node that belong to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<RangeInclusive<u16>>);

impl Ports {
    /// The ports that a specification gives to agents and Dask.
    #[must_use]
    pub fn of(spec: &herdsman_wire::spec::DaskSpec) -> Self {
        let each = spec.workers_per_node.max(1) - 1;
        let range = |first: u16| first..=first.saturating_add(each);
        let hub = herdsman_wire::limits::AGENT_PORT;
        Self(vec![
            hub..=hub,
            spec.scheduler_port..=spec.scheduler_port,
            range(spec.worker_port),
            range(spec.nanny_port),
        ])
    }

    fn holds(&self, port: u16) -> bool {
        self.0.iter().any(|r| r.contains(&port))
    }
}

/// Cuts all TCP connections of the cluster's ports with these addresses. Without
/// the right to do so (no root) the certificates alone decide, and it is logged.
pub fn cut(addresses: &[IpAddr], ports: &Ports) {
    if addresses.is_empty() {
        return;
    }
    match destroy::all(|s| {
        addresses.contains(&s.remote.ip()) && (ports.holds(s.local.port()) || ports.holds(s.remote.port()))
    }) {
        Ok(0) => {}
        Ok(n) => tracing::info!(?addresses, "cut {n} connections of nodes that are no members any more"),
        Err(e) => tracing::debug!(?addresses, "connections cannot be cut here: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_specification() {
        let spec = herdsman_wire::spec::DaskSpec {
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
    }
}
