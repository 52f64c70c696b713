//! Machines as they are: looked at with one call for all of them.

use std::net::IpAddr;

use herdsman_wire::{Role, limits};
use serde_json::json;

use super::super::cloud::http::query;
use super::super::cloud::labels;
use super::super::{Hardware, Machine, ProviderError};
use super::OpenStack;
use super::answers::{Console, Server};
use super::api::{Service, WITH_TAGS};
use super::launch::{BY_FLOATING, OURS, REACH, tag_of};

/// States of machines that are not at work.
const IDLE: [&str; 7] = [
    "ERROR",
    "PAUSED",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "STOPPED",
    "SUSPENDED",
];
/// States of machines that are gone.
const GONE: [&str; 2] = ["DELETED", "SOFT_DELETED"];

impl OpenStack {
    /// Servers of one cluster, or of all that are ours.
    pub(super) async fn servers(&self, cluster: Option<&str>) -> Result<Vec<Server>, ProviderError> {
        let tag = cluster.map_or_else(|| OURS.to_owned(), tag_of);
        let path = |version: u32| match version {
            WITH_TAGS.. => format!("/servers/detail{}", query(&[("tags", tag.as_str())])),
            // There the servers that we make have no tags.
            _ => "/servers/detail".to_owned(),
        };
        let asked = path(self.api.version());
        let mut all: Vec<Server> = self.api.list(Service::Compute, &asked, "servers").await?;
        // The first call may find out that Nova is an old one.
        let now = path(self.api.version());
        if now != asked {
            all = self.api.list(Service::Compute, &now, "servers").await?;
        }
        // A long name is cut in tags.
        all.retain(|s| {
            let of = s.metadata.get(labels::CLUSTER);
            of.is_some_and(|of| cluster.is_none_or(|c| of == c)) && !GONE.contains(&s.status.as_str())
        });
        Ok(all)
    }

    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let servers = self.servers(cluster).await?;
        let mut all: Vec<Machine> = servers.iter().filter_map(|s| self.machine(s)).collect();
        all.sort_by(|a, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    /// A server as a machine; what has no metadata of ours is none.
    pub(super) fn machine(&self, s: &Server) -> Option<Machine> {
        let tags = s.metadata.clone();
        let cluster = labels::cluster_of(&tags)?;
        let address = |floating: bool| {
            let all = s.addresses.values().flatten();
            let of_kind = all.filter(|a| (a.kind.as_deref() == Some("floating")) == floating);
            let mut ips: Vec<IpAddr> = of_kind.filter_map(|a| a.addr.parse().ok()).collect();
            // The older kind first, which everybody has.
            ips.sort_by_key(IpAddr::is_ipv6);
            ips.first().copied()
        };
        let (fixed, floating) = (address(false), address(true));
        let by_floating = tags.get(REACH).map(String::as_str) == Some(BY_FLOATING);
        let reached = match floating {
            _ if self.settings.common.private => fixed,
            Some(ip) => Some(ip),
            None => fixed.filter(|ip| !by_floating || is_global(*ip)),
        };
        let role = labels::role_of(&tags);
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        let deleting = s.task_state.as_deref() == Some("deleting");
        Some(Machine {
            node: labels::node_of(&tags, &s.id)?,
            id: s.id.clone(),
            cluster,
            role,
            address: fixed,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            running: !deleting && !IDLE.contains(&s.status.as_str()),
            hardware: Hardware {
                kind: s.flavor.original_name.clone().or_else(|| s.flavor.id.clone()),
                zone: s.zone.clone().filter(|z| !z.is_empty()),
                spot: false,
            },
            tags,
        })
    }

    /// The address by which the laptop reaches a machine.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        if machine.agent.is_some() || machine.role != Role::Scheduler {
            return Ok(machine.clone());
        }
        let ip = self.float(machine).await?;
        Ok(Machine {
            agent: Some((ip, limits::AGENT_PORT).into()),
            scheduler: Some((ip, limits::SCHEDULER_PORT).into()),
            ..machine.clone()
        })
    }

    pub(super) async fn output(&self, machine: &Machine) -> Result<String, ProviderError> {
        let path = format!("/servers/{}/action", machine.id);
        let body = json!({"os-getConsoleOutput": {}});
        let console: Console = self.api.read_by_post("get console output", &path, &body).await?;
        Ok(console.output.unwrap_or_default())
    }
}

/// Whether an address is reached from anywhere.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    /// `servers-details-resp.json` of Nova's own documentation, version 2.63, with our
    /// metadata in it.
    fn server(status: &str, addresses: &str, more: &[(&str, &str)]) -> Server {
        let text = include_str!("../../../../tests/data/openstack/servers-details-2.63.json");
        let page: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut server: Server = serde_json::from_value(page["servers"][0].clone()).unwrap();
        for (k, v) in [
            (labels::CLUSTER, "demo"),
            (labels::ID, "abcdefghij"),
            (labels::ROLE, "scheduler"),
            (labels::NODE, "demo-s"),
        ]
        .iter()
        .chain(more)
        {
            server.metadata.insert((*k).into(), (*v).into());
        }
        server.status = status.into();
        if !addresses.is_empty() {
            server.addresses = serde_json::from_str(addresses).unwrap();
        }
        server
    }

    fn cloud(private: bool) -> OpenStack {
        OpenStack::new(Common {
            private,
            env: [("OS_AUTH_URL", "https://k.example")].into_iter().collect(),
            ..Common::default()
        })
        .unwrap()
    }

    #[test]
    fn nova_s_own_example_is_a_machine() {
        let m = cloud(false).machine(&server("ACTIVE", "", &[])).unwrap();
        assert_eq!(m.node.as_str(), "demo-s");
        assert_eq!(m.address, Some("192.168.1.30".parse().unwrap()));
        assert_eq!(m.agent, Some("192.168.1.30:8785".parse().unwrap()));
        assert!(m.running);
        assert_eq!(m.hardware.kind.as_deref(), Some("m1.tiny.specs"));
        assert_eq!(m.hardware.zone.as_deref(), Some("us-west"));
        for (status, running) in [("BUILD", true), ("SHUTOFF", false), ("ERROR", false), ("REBOOT", true)] {
            assert_eq!(cloud(false).machine(&server(status, "", &[])).unwrap().running, running);
        }
    }

    #[test]
    fn a_machine_is_reached_by_the_address_that_leads_to_it() {
        let floating = r#"{"net": [{"addr": "fd00::1", "OS-EXT-IPS:type": "fixed"}, {"addr": "10.0.0.5", "OS-EXT-IPS:type": "fixed"}, {"addr": "198.51.100.9", "OS-EXT-IPS:type": "floating"}]}"#;
        let public = r#"{"net": [{"addr": "198.51.100.8", "OS-EXT-IPS:type": "fixed"}]}"#;
        let agent = |private, addresses: &str, more: &[(&str, &str)]| {
            let m = cloud(private).machine(&server("ACTIVE", addresses, more)).unwrap();
            m.agent.map(|a| a.ip().to_string())
        };
        let wants = [(REACH, BY_FLOATING)];
        assert_eq!(agent(false, floating, &[]).as_deref(), Some("198.51.100.9"));
        assert_eq!(agent(true, floating, &wants).as_deref(), Some("10.0.0.5"));
        assert_eq!(agent(false, public, &wants).as_deref(), Some("198.51.100.8"));
        assert_eq!(agent(false, "", &wants), None);
        assert_eq!(agent(false, public, &[(labels::ROLE, "worker")]), None);
    }
}
