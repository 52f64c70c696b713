//! Machines that are there: listed, and deleted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use herdsman_wire::{Code, Role, limits};

use super::super::cloud::{error, labels};
use super::super::token::Patience;
use super::super::{ClusterRef, Deleted, Hardware, Machine, ProviderError};
use super::answers::Server;
use super::network::selector;
use super::{Hetzner, failure};

impl Hetzner {
    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let found: Vec<Server> = self
            .api
            .all("/servers", &[("label_selector", &selector(cluster))])
            .await?;
        let there = found.iter().filter(|s| s.status != "deleting");
        let mut all: Vec<Machine> = there.filter_map(|s| self.machine(s)).collect();
        all.sort_by(|a, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    /// A server as a machine; what has no labels of ours is none.
    pub(super) fn machine(&self, s: &Server) -> Option<Machine> {
        let cluster = labels::cluster_of(&s.labels)?;
        let role = labels::role_of(&s.labels);
        let private = self.private_address(&cluster, s);
        let public = s.public_net.ipv4.as_ref().and_then(|ip| ip.ip.parse::<IpAddr>().ok());
        let public = public.or_else(|| first_of(&s.public_net.ipv6.as_ref()?.ip));
        let reached = if self.settings.common.private { private } else { public };
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        let location = s
            .location
            .as_ref()
            .or_else(|| s.datacenter.as_ref().map(|d| &d.location));
        Some(Machine {
            node: labels::node_of(&s.labels, &s.name)?,
            id: s.id.to_string(),
            cluster,
            role,
            address: private,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            tags: s.labels.clone(),
            running: !matches!(s.status.as_str(), "off" | "stopping" | "deleting"),
            hardware: Hardware {
                kind: Some(s.server_type.name.clone()),
                zone: location.map(|l| l.name.clone()),
                spot: false,
            },
        })
    }

    fn private_address(&self, cluster: &ClusterRef, s: &Server) -> Option<IpAddr> {
        let ours = self.remembered(cluster).map(|net| net.network);
        let of_ours = s.private_net.iter().find(|p| ours.is_none() || p.network == ours);
        of_ours?.ip
    }

    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        #[derive(serde::Deserialize)]
        struct One {
            server: Server,
        }
        let mut now = machine.clone();
        let mut patience = Patience::short();
        while now.role == Role::Scheduler && now.agent.is_none() {
            if !patience.goes_on().await {
                let text = format!("{} has no address that this computer reaches", machine.node);
                return Err(error(Code::Deadline, text)
                    .with_hint("herdsman up … --private        if this computer is inside of the network"));
            }
            match self.api.get::<One>(&format!("/servers/{}", machine.id)).await {
                Ok(one) => now = self.machine(&one.server).unwrap_or(now),
                Err(e) if e.code == Code::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(now)
    }

    pub(super) async fn remove_all(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let asked = machines
            .iter()
            .map(|m| async move { (m, self.api.delete(&format!("/servers/{}", m.id)).await) });
        let mut going: BTreeMap<u64, &Machine> = BTreeMap::new();
        for (m, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(Some(action)) if action.status == "running" => {
                    going.insert(action.id, m);
                }
                Ok(Some(action)) if action.status == "error" => {
                    report.left.push((named(m), failure::of_action(&action).message));
                }
                Ok(_) => report.deleted.push(m.node.to_string()),
                Err(e) if e.code == Code::NotFound => report.deleted.push(m.node.to_string()),
                Err(e) => report.left.push((named(m), e.message)),
            }
        }
        let mut patience = Patience::long();
        let mut last = String::new();
        while !going.is_empty() {
            let ids: Vec<u64> = going.keys().copied().collect();
            match self.api.actions(&ids).await {
                Ok(actions) => {
                    for action in actions.iter().filter(|a| a.status != "running") {
                        let Some(m) = going.remove(&action.id) else { continue };
                        if action.status == "error" {
                            report.left.push((named(m), failure::of_action(action).message));
                        } else {
                            report.deleted.push(m.node.to_string());
                        }
                    }
                }
                Err(e) => last = format!(": {}", e.message),
            }
            if !going.is_empty() && !patience.goes_on().await {
                break;
            }
        }
        for m in going.into_values() {
            report
                .left
                .push((named(m), format!("it is still on its way out{last}")));
        }
        Ok(report)
    }

    /// Deletes a half-made server and waits until its name is free.
    pub(super) async fn remove(&self, id: u64) -> Result<(), ProviderError> {
        let action = match self.api.delete(&format!("/servers/{id}")).await {
            Ok(Some(action)) => action,
            Ok(None) => return Ok(()),
            Err(e) if e.code == Code::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut patience = Patience::short();
        while patience.goes_on().await {
            match self.api.actions(&[action.id]).await?.first() {
                Some(a) if a.status == "running" => {}
                Some(a) if a.status == "error" => return Err(failure::of_action(a)),
                _ => return Ok(()),
            }
        }
        Err(error(Code::Deadline, format!("server {id} is still on its way out")))
    }
}

fn named(machine: &Machine) -> String {
    format!("{} ({})", machine.node, machine.id)
}

/// The address that a machine takes in its own IPv6 network.
fn first_of(network: &str) -> Option<IpAddr> {
    let net: ipnet::Ipv6Net = network.parse().ok()?;
    let first = u128::from(net.network()) | 1;
    Some(IpAddr::V6(Ipv6Addr::from(first)))
}
