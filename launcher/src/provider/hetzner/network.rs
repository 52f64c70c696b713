//! What machines of a cluster share: a private network of its own or an existing
//! one, and two firewalls for the public side. One lets nobody in; the other, of the
//! scheduler, lets the owner's networks reach it. The vendor's firewalls do not look
//! at private networks, so a network of its own keeps others out.

use std::collections::BTreeMap;

use herdsman_wire::{Code, limits};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cloud::{Resource, error, labels};
use super::super::token::Patience;
use super::super::{ClusterRef, Deleted, ProviderError, Tags};
use super::answers::{Location, Thing};
use super::settings;
use super::{Hetzner, failure};

/// Machines in one group that keeps them apart, the vendor's limit.
const GROUP: usize = 10;
/// Paths of what is made besides machines, with what people call it. Deleted in this
/// order.
const KINDS: [(&str, &str); 3] = [
    ("/placement_groups", "placement group"),
    ("/firewalls", "firewall"),
    ("/networks", "network"),
];

/// What machines of a cluster are put into.
#[derive(Clone, Debug)]
pub(super) struct Net {
    pub(super) network: u64,
    /// Firewall that lets nobody in; absent where nothing is public.
    pub(super) closed: Option<u64>,
    /// Firewall of the scheduler.
    pub(super) entry: Option<u64>,
    /// The user's own.
    pub(super) others: Vec<u64>,
}

#[derive(serde::Deserialize)]
struct Firewall {
    firewall: Thing,
}

#[derive(serde::Deserialize)]
struct Network {
    network: Thing,
}

#[derive(serde::Deserialize)]
struct Group {
    placement_group: Thing,
}

/// Name of what belongs to a cluster.
fn name_of(cluster: &ClusterRef, what: &str) -> String {
    format!("herdsman-{}-{}{what}", cluster.name, cluster.id)
}

impl Hetzner {
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let labels = settings::labels(tags);
        let network = async {
            match &self.settings.common.network {
                Some(name) => Ok(self.existing(name).await?.id),
                None => self.own_network(cluster, &labels).await,
            }
        };
        let firewalls = async {
            if self.settings.common.private {
                return Ok((None, None));
            }
            let names = [name_of(cluster, ""), name_of(cluster, "-in")];
            let closed = self.firewall(&names[0], &labels, &[]);
            let entry = async {
                if allowed.is_empty() {
                    return Ok(None);
                }
                self.firewall(&names[1], &labels, &allowed).await.map(Some)
            };
            let (closed, entry) = tokio::try_join!(closed, entry)?;
            Ok((Some(closed), entry))
        };
        let (network, (closed, entry), others) = tokio::try_join!(network, firewalls, self.own_firewalls())?;
        self.remember(
            cluster,
            Net {
                network,
                closed,
                entry,
                others,
            },
        );
        Ok(())
    }

    /// The network of a cluster that is there.
    pub(super) async fn net(&self, cluster: &ClusterRef) -> Result<Net, ProviderError> {
        if let Some(net) = self.remembered(cluster) {
            return Ok(net);
        }
        let selector = format!("{}=={}", labels::ID, cluster.id);
        let pairs = [("label_selector", selector.as_str())];
        let network = async {
            match &self.settings.common.network {
                Some(name) => Ok(self.existing(name).await?.id),
                None => {
                    let found: Vec<Thing> = self.api.all("/networks", &pairs).await?;
                    let name = name_of(cluster, "");
                    found.first().map(|n| n.id).ok_or_else(|| {
                        error(Code::NotFound, format!("the cluster's network {name} is gone"))
                            .with_hint("--network NAME, as when it was made, where it was made in an existing one")
                    })
                }
            }
        };
        let firewalls = self.api.all::<Thing>("/firewalls", &pairs);
        let (network, firewalls, others) = tokio::try_join!(network, firewalls, self.own_firewalls())?;
        let id = |what: &str| {
            firewalls
                .iter()
                .find(|f| f.name == name_of(cluster, what))
                .map(|f| f.id)
        };
        let (closed, entry) = (id(""), id("-in"));
        if closed.is_none() && !self.settings.common.private {
            let name = name_of(cluster, "");
            return Err(error(Code::NotFound, format!("the cluster's firewall {name} is gone")));
        }
        let net = Net {
            network,
            closed,
            entry,
            others,
        };
        self.remember(cluster, net.clone());
        Ok(net)
    }

    async fn own_network(&self, cluster: &ClusterRef, labels: &Tags) -> Result<u64, ProviderError> {
        let zone = self.zone().await?;
        let range = self.settings.own.ip_range;
        let name = name_of(cluster, "");
        let body = json!({
            "name": name,
            "ip_range": range,
            "labels": labels,
            "subnets": [{"type": "cloud", "network_zone": zone, "ip_range": range}],
        });
        match self.api.post::<_, Network>("/networks", &body).await {
            Ok(made) => Ok(made.network.id),
            Err(e) if e.code == Code::Conflict => Ok(self.named("/networks", &name).await?.ok_or(e)?.id),
            Err(e) => Err(e),
        }
    }

    async fn firewall(&self, name: &str, labels: &Tags, allowed: &[IpNet]) -> Result<u64, ProviderError> {
        let body = json!({"name": name, "labels": labels, "rules": rules(allowed)});
        match self.api.post::<_, Firewall>("/firewalls", &body).await {
            Ok(made) => Ok(made.firewall.id),
            Err(e) if e.code == Code::Conflict => {
                let id = self.named("/firewalls", name).await?.ok_or(e)?.id;
                let path = format!("/firewalls/{id}/actions/set_rules");
                let _: Value = self.api.post(&path, &json!({"rules": rules(allowed)})).await?;
                Ok(id)
            }
            Err(e) => Err(e),
        }
    }

    /// The one zone of all locations: a network's part lies in one.
    pub(super) async fn zone(&self) -> Result<String, ProviderError> {
        let all = self
            .locations
            .get_or_try_init(|| self.api.all::<Location>("/locations", &[]))
            .await?;
        let mut zones = Vec::new();
        for wanted in &self.settings.locations {
            let found = all.iter().find(|l| l.name == *wanted).ok_or_else(|| {
                let known: Vec<&str> = all.iter().map(|l| l.name.as_str()).collect();
                error(
                    Code::Usage,
                    format!("there is no location {wanted}; there are {}", known.join(", ")),
                )
            })?;
            zones.push(&found.network_zone);
        }
        zones.dedup();
        match zones.as_slice() {
            [one] => Ok((*one).clone()),
            _ => Err(error(
                Code::Usage,
                format!(
                    "{} are not in one network zone, and a cluster's network lies in one",
                    self.settings.locations.join(", ")
                ),
            )),
        }
    }

    /// An existing network, by id or name.
    pub(super) async fn existing(&self, wanted: &str) -> Result<Thing, ProviderError> {
        if wanted.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(self.api.get::<Network>(&format!("/networks/{wanted}")).await?.network);
        }
        self.named("/networks", wanted)
            .await?
            .ok_or_else(|| error(Code::NotFound, format!("the project has no network {wanted}")))
    }

    async fn named(&self, path: &str, name: &str) -> Result<Option<Thing>, ProviderError> {
        let found: Vec<Thing> = self.api.all(path, &[("name", name)]).await?;
        Ok(found.into_iter().next())
    }

    /// Ids of the user's own firewalls.
    async fn own_firewalls(&self) -> Result<Vec<u64>, ProviderError> {
        let mut ids = Vec::new();
        for wanted in &self.settings.common.security_groups {
            ids.push(match wanted.parse() {
                Ok(id) => id,
                Err(_) => {
                    let missing = || error(Code::NotFound, format!("the project has no firewall {wanted}"));
                    self.named("/firewalls", wanted).await?.ok_or_else(missing)?.id
                }
            });
        }
        Ok(ids)
    }

    /// A placement group for each of so many machines, made where there is no room in
    /// those there are.
    pub(super) async fn groups(
        &self,
        cluster: &ClusterRef,
        tags: &Tags,
        machines: usize,
    ) -> Result<Vec<Option<u64>>, ProviderError> {
        let wanted = match self.settings.own.placement_group.as_deref() {
            None => return Ok(vec![None; machines]),
            Some("spread") => None,
            Some(other) => Some(other),
        };
        if let Some(wanted) = wanted {
            let id = match wanted.parse() {
                Ok(id) => id,
                Err(_) => {
                    let missing = || error(Code::NotFound, format!("the project has no placement group {wanted}"));
                    self.named("/placement_groups", wanted).await?.ok_or_else(missing)?.id
                }
            };
            return Ok(vec![Some(id); machines]);
        }
        let selector = format!("{}=={}", labels::ID, cluster.id);
        let there: Vec<Thing> = self
            .api
            .all("/placement_groups", &[("label_selector", &selector)])
            .await?;
        let mut places: Vec<Option<u64>> = Vec::new();
        for group in &there {
            let free = GROUP.saturating_sub(group.servers.len());
            places.extend(std::iter::repeat_n(Some(group.id), free));
        }
        let mut labels = settings::labels(tags);
        labels.retain(|k, _| k != labels::NODE && k != labels::ROLE);
        let taken: BTreeMap<&str, ()> = there.iter().map(|g| (g.name.as_str(), ())).collect();
        let mut number = 0;
        while places.len() < machines {
            let name = name_of(cluster, &format!("-p{number}"));
            number += 1;
            if taken.contains_key(name.as_str()) {
                continue;
            }
            let body = json!({"name": name, "type": "spread", "labels": labels});
            let made: Group = self.api.post("/placement_groups", &body).await?;
            places.extend(std::iter::repeat_n(Some(made.placement_group.id), GROUP));
        }
        places.truncate(machines);
        Ok(places)
    }

    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let selector = selector(cluster);
        let lists = KINDS.map(|(path, kind)| {
            let selector = selector.clone();
            async move {
                let all: Vec<Thing> = self.api.all(path, &[("label_selector", &selector)]).await?;
                Ok::<_, ProviderError>((kind, all))
            }
        });
        let lists = futures_util::future::try_join_all(lists).await?;
        let resource = |kind: &str, thing: Thing| {
            Some(Resource {
                cluster: labels::cluster_of(&thing.labels)?,
                kind: kind.to_owned(),
                id: thing.id.to_string(),
                name: thing.name,
                tags: thing.labels,
            })
        };
        let found = lists
            .into_iter()
            .flat_map(|(kind, all)| all.into_iter().map(move |t| (kind, t)));
        Ok(found.filter_map(|(kind, t)| resource(kind, t)).collect())
    }

    /// Deletes what machines shared, once they have gone.
    pub(super) async fn delete_network(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let mut patience = Patience::long();
        for r in self.resources(Some(cluster.name.as_str())).await? {
            let Some((path, _)) = KINDS.iter().find(|(_, kind)| *kind == r.kind) else {
                continue;
            };
            if r.cluster.id != cluster.id {
                continue;
            }
            let path = format!("{path}/{}", r.id);
            let done = loop {
                match self.api.delete(&path).await {
                    // A machine on its way out may still be in it, or one that was made a
                    // moment ago and that no list showed before.
                    Err(e) if failure::is(&e, "resource_in_use") => {
                        if !patience.goes_on().await {
                            break Err(e);
                        }
                        let late = self.late(cluster).await?;
                        report.deleted.extend(late.deleted);
                        if let Some((name, why)) = late.left.into_iter().next() {
                            break Err(error(Code::Conflict, format!("{name} is in it: {why}")));
                        }
                    }
                    other => break other.map(|_| ()),
                }
            };
            match done {
                Ok(()) => report.deleted.push(format!("{} {}", r.kind, r.name)),
                Err(e) if e.code == Code::NotFound => report.deleted.push(format!("{} {}", r.kind, r.name)),
                Err(e) => report
                    .left
                    .push((format!("{} {} ({})", r.kind, r.name, r.id), e.message)),
            }
        }
        self.forget(cluster);
        Ok(report)
    }
}

impl Hetzner {
    /// Deletes machines of a cluster whose rest is being deleted.
    async fn late(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut late = self.machines(Some(cluster.name.as_str())).await?;
        late.retain(|m| m.cluster.id == cluster.id);
        self.remove_all(&late).await
    }
}

/// What has our labels, of one cluster or of all.
pub(super) fn selector(cluster: Option<&str>) -> String {
    match cluster {
        Some(name) => format!("{}=={name}", labels::CLUSTER),
        None => labels::CLUSTER.to_owned(),
    }
}

/// The two ports, from these networks; without any, nobody gets in.
fn rules(allowed: &[IpNet]) -> Vec<Value> {
    /// Most networks of one rule.
    const MOST: usize = 100;
    let (first, last) = (
        limits::AGENT_PORT.min(limits::SCHEDULER_PORT),
        limits::AGENT_PORT.max(limits::SCHEDULER_PORT),
    );
    allowed
        .chunks(MOST)
        .map(|nets| {
            json!({
                "direction": "in",
                "protocol": "tcp",
                "port": format!("{first}-{last}"),
                "source_ips": nets,
                "description": "herdsman: the owner",
            })
        })
        .collect()
}
