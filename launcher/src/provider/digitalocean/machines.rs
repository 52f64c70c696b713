//! Machines that are there: listed, and deleted by their tag.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herdsman_wire::{Code, Role, limits};

use super::super::cloud::{error, http, labels};
use super::super::token::Patience;
use super::super::{Deleted, Hardware, Machine, ProviderError};
use super::answers::{Droplet, OneDroplet};
use super::launch::ROUNDS;
use super::{DigitalOcean, tags};

pub(super) const DROPLETS: &str = "/v2/droplets";
/// So many are deleted by their tag, if they are all there are.
const MANY: usize = 5;

impl DigitalOcean {
    /// All droplets of the account. Those with graphics processors are a list of their
    /// own, which cannot be asked for by tag.
    pub(super) async fn droplets(&self) -> Result<Vec<Droplet>, ProviderError> {
        let plain = self.api.all::<Droplet>(DROPLETS, "droplets", &[]);
        let graphics = self.api.all::<Droplet>(DROPLETS, "droplets", &[("type", "gpus")]);
        let (mut all, graphics) = tokio::try_join!(plain, graphics)?;
        let known: BTreeSet<u64> = all.iter().map(|d| d.id).collect();
        all.extend(graphics.into_iter().filter(|d| !known.contains(&d.id)));
        Ok(all)
    }

    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let found = self.droplets().await?;
        let there = found.iter().filter(|d| d.status != "archive");
        let mut all: Vec<Machine> = there.filter_map(|d| self.machine(d)).collect();
        all.retain(|m| cluster.is_none_or(|name| m.cluster.name.as_str() == name));
        all.sort_by(|a, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    /// A droplet as a machine; what has no tags of ours is none.
    pub(super) fn machine(&self, d: &Droplet) -> Option<Machine> {
        let (cluster, tags) = tags::read(&d.name, &d.tags)?;
        let role = labels::role_of(&tags);
        let of = |kind: &str| d.networks.v4.iter().find(|n| n.kind == kind).map(|n| n.ip_address);
        let private: Option<IpAddr> = of("private");
        let public = of("public").or_else(|| {
            let v6 = d.networks.v6.iter().find(|n| n.kind == "public");
            v6.map(|n| n.ip_address)
        });
        let reached = if self.settings.common.private { private } else { public };
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        Some(Machine {
            node: labels::node_of(&tags, &d.name)?,
            id: d.id.to_string(),
            cluster,
            role,
            address: private,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            tags,
            running: matches!(d.status.as_str(), "new" | "active"),
            hardware: Hardware {
                kind: Some(d.size_slug.clone()).filter(|s| !s.is_empty()),
                zone: d.region.as_ref().map(|r| r.slug.clone()),
                spot: false,
            },
        })
    }

    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        let mut now = machine.clone();
        let mut patience = Patience::short();
        while now.role == Role::Scheduler && now.agent.is_none() {
            if !patience.goes_on().await {
                let text = format!("{} has no address that this computer reaches", machine.node);
                return Err(error(Code::Deadline, text)
                    .with_hint("herdsman up … --private        if this computer is inside of the network"));
            }
            match self.api.get::<OneDroplet>(&format!("{DROPLETS}/{}", machine.id)).await {
                Ok(one) => now = self.machine(&one.droplet).unwrap_or(now),
                Err(e) if e.code == Code::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(now)
    }

    pub(super) async fn remove_all(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut why: BTreeMap<&str, String> = BTreeMap::new();
        if !self.by_tag(machines).await {
            self.by_ids(machines.iter(), &mut why).await;
        }
        let mut left: Vec<&Machine> = machines.iter().collect();
        let mut patience = Patience::long();
        let mut round = 0;
        loop {
            match self.droplets().await {
                Ok(there) => {
                    let there: BTreeSet<String> = there.iter().map(|d| d.id.to_string()).collect();
                    left.retain(|m| there.contains(&m.id));
                }
                Err(e) => {
                    for m in &left {
                        why.insert(&m.id, e.message.clone());
                    }
                }
            }
            let refused = left.iter().all(|m| why.contains_key(m.id.as_str()));
            if left.is_empty() || (refused && round >= 2 * ROUNDS) || !patience.goes_on().await {
                break;
            }
            round += 1;
            // One that was busy, or that the tag did not reach.
            if round % ROUNDS == 0 {
                self.by_ids(left.iter().copied(), &mut why).await;
            }
        }
        let is_left = |m: &Machine| left.iter().any(|l| l.id == m.id);
        let mut report = Deleted::default();
        for m in machines {
            if is_left(m) {
                let why = why.get(m.id.as_str()).cloned();
                let why = why.unwrap_or_else(|| "it is still on its way out".to_owned());
                report.left.push((format!("{} ({})", m.node, m.id), why));
            } else {
                report.deleted.push(m.node.to_string());
            }
        }
        Ok(report)
    }

    /// One call for all, where they are all machines of one cluster.
    async fn by_tag(&self, machines: &[Machine]) -> bool {
        let Some(first) = machines.first().filter(|_| machines.len() >= MANY) else {
            return false;
        };
        if machines.iter().any(|m| m.cluster.id != first.cluster.id) {
            return false;
        }
        let Ok(there) = self.machines(Some(first.cluster.name.as_str())).await else {
            return false;
        };
        let known = |id: &str| machines.iter().any(|m| m.id == id);
        if there.iter().any(|m| m.cluster.id == first.cluster.id && !known(&m.id)) {
            return false;
        }
        let pair = [("tag_name", tags::all(&first.cluster))];
        let path = format!("{DROPLETS}{}", http::query(&pair));
        self.api.delete(&path).await.is_ok()
    }

    async fn by_ids<'m>(&self, machines: impl Iterator<Item = &'m Machine>, why: &mut BTreeMap<&'m str, String>) {
        let asked = machines.map(|m| async move { (m, self.api.delete(&format!("{DROPLETS}/{}", m.id)).await) });
        for (m, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(()) => why.remove(m.id.as_str()),
                Err(e) if e.code == Code::NotFound => why.remove(m.id.as_str()),
                Err(e) => why.insert(&m.id, e.message),
            };
        }
    }

    pub(super) async fn remove(&self, id: u64) -> Result<(), ProviderError> {
        match self.api.delete(&format!("{DROPLETS}/{id}")).await {
            Err(e) if e.code == Code::NotFound => Ok(()),
            other => other,
        }
    }
}
