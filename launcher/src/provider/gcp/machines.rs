//! Machines: made in as few calls as can be, and listed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use herdsman_wire::{Code, Role, Timestamp, limits};

use super::super::cloud::{Made, Offer, Spot, error, labels};
use super::super::{ClusterRef, Hardware, Machine, MachineSpec, ProviderError};
use super::Gcp;
use super::answers::{Instance, Operation, Serial, project_in, tail};
use super::catalogue::Chosen;
use super::launch::Launch;
use super::network::Net;
use super::operations::{Patience, Place, failed, request_id};

/// Machines that one call makes: those that are told the same.
struct Batch<'a> {
    /// Their places among those asked for, and their names.
    members: Vec<(usize, &'a str)>,
    spec: &'a MachineSpec,
}

/// What is the same for all calls of one [`Gcp::make`].
struct Site<'a> {
    cluster: &'a ClusterRef,
    net: &'a Net,
    image: &'a Chosen,
}

/// A place among those asked for, and that it was made or why not.
type Fates = Vec<(usize, Result<(), ProviderError>)>;

impl Gcp {
    pub(super) async fn make(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
        made: Made<'_>,
    ) -> Vec<Result<Machine, ProviderError>> {
        if machines.is_empty() {
            return Vec::new();
        }
        let all_failed = |e: ProviderError| {
            let results: Vec<_> = machines.iter().map(|_| Err(e.clone())).collect();
            results.iter().enumerate().for_each(|(i, r)| made(i, r));
            results
        };
        let (net, image) = match tokio::try_join!(self.net(), self.image_for_machines()) {
            Ok(found) => found,
            Err(e) => return all_failed(e),
        };
        let site = Site { cluster, net, image };
        let mut results: Vec<Option<Result<Machine, ProviderError>>> = machines.iter().map(|_| None).collect();
        let batches = batches(machines);
        let mut running: FuturesUnordered<_> = batches.iter().map(|b| self.launch(&site, b)).collect();
        while let Some(fates) = running.next().await {
            for (place, fate) in fates {
                if let Err(e) = fate {
                    let result = Err(e);
                    made(place, &result);
                    results[place] = Some(result);
                }
            }
        }
        let names: Vec<&str> = (0..machines.len())
            .filter(|i| results[*i].is_none())
            .map(|i| machines[i].node.as_str())
            .collect();
        // Answers of these calls hold no address: one look shows all of them. A machine
        // behind a firewall that is not there is none that anybody asked for.
        let mut seen = match self.settle_rules(cluster).await {
            Ok(()) => self.seen(cluster, &names).await,
            Err(e) => Err(e),
        };
        for (place, spec) in machines.iter().enumerate() {
            if results[place].is_none() {
                let result = match &mut seen {
                    Ok(there) => there
                        .remove(spec.node.as_str())
                        .ok_or_else(|| error(Code::Boot, format!("{} was made and is gone again", spec.node))),
                    Err(e) => Err(e.clone()),
                };
                made(place, &result);
                results[place] = Some(result);
            }
        }
        let lost = || Err(error(Code::Internal, "a machine was not asked for"));
        results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
    }

    /// Makes a batch wherever it can be had.
    async fn launch(&self, site: &Site<'_>, batch: &Batch<'_>) -> Fates {
        let role = batch.spec.role;
        let mut left = batch.members.clone();
        let mut fates: Fates = Vec::new();
        let mut last = match self.types(role).await {
            Ok(types) => self.attempts(site, batch, &types, &mut left, &mut fates).await,
            Err(e) => Some(e),
        };
        if let Some(e) = last.as_mut().filter(|_| !fates.is_empty() && !left.is_empty()) {
            e.message = format!("{} of {} made: {}", fates.len(), batch.members.len(), e.message);
        }
        let nothing = || error(Code::Internal, "nowhere to make a machine");
        let last = last.unwrap_or_else(nothing);
        fates.extend(left.into_iter().map(|(place, _)| (place, Err(last.clone()))));
        fates
    }

    /// Tries markets, types and zones in order, until nothing is left to make or an
    /// error is no matter of the place.
    async fn attempts<'b>(
        &self,
        site: &Site<'_>,
        batch: &Batch<'b>,
        types: &[Offer],
        left: &mut Vec<(usize, &'b str)>,
        fates: &mut Fates,
    ) -> Option<ProviderError> {
        let markets: &[bool] = match (batch.spec.role, self.settings.common.spot) {
            // The scheduler holds everything: it is never taken away.
            (Role::Scheduler, _) | (_, Spot::Never) => &[false],
            (_, Spot::Prefer) => &[true, false],
            (_, Spot::Only) => &[true],
        };
        let mut zones = self.settings.first_zones();
        let mut last = None;
        for &spot in markets {
            for offer in types {
                let mut at = 0;
                while at < zones.len() {
                    if left.is_empty() {
                        return None;
                    }
                    let zone = zones[at].clone();
                    at += 1;
                    let launch = Launch {
                        cluster: site.cluster,
                        spec: batch.spec,
                        image: site.image,
                        offer,
                        zone: &zone,
                        net: site.net,
                        spot,
                        now: Timestamp::now(),
                    };
                    let names: Vec<&str> = left.iter().map(|(_, name)| *name).collect();
                    let (made, e) = self.run(&launch, &names).await;
                    left.retain(|(place, name)| {
                        let is_made = made.iter().any(|m| m == name);
                        if is_made {
                            fates.push((*place, Ok(())));
                        }
                        !is_made
                    });
                    let Some(e) = e.filter(|_| !left.is_empty()) else {
                        continue;
                    };
                    if !is_of_the_place(&e) {
                        return Some(e);
                    }
                    tracing::debug!(kind = offer.name, zone, spot, "none left: {}", e.message);
                    last = Some(e.during(&format!("{} in {zone}", offer.name)));
                    // The region's other zones are looked up now that they are needed.
                    if self.settings.zones.is_empty() && zones.len() == 1 {
                        match self.region().await {
                            Ok(region) => zones.extend(region.zones.iter().map(|z| tail(z).to_owned())),
                            Err(e) => return Some(e),
                        }
                        zones.sort_by_key(|z| (*z != zone, z.clone()));
                        zones.dedup();
                    }
                }
            }
        }
        last.filter(|_| !left.is_empty())
    }

    /// One call and its end. Gives the names of those that are there, and what went
    /// wrong with the others.
    async fn run(&self, launch: &Launch<'_>, names: &[&str]) -> (Vec<String>, Option<ProviderError>) {
        let all = || names.iter().map(|n| (*n).to_owned()).collect();
        let action = if names.len() == 1 {
            "instances.insert"
        } else {
            "instances.bulkInsert"
        };
        let e = match self.call(launch, action, names).await {
            Ok(operation) => match failed(action, &operation) {
                None if made_by(&operation).is_none_or(|n| n >= names.len()) => return (all(), None),
                None => {
                    let text = format!("{action}: less machines were made than were asked for");
                    error(Code::Capacity, text)
                }
                Some(e) => e,
            },
            Err(e) => e,
        };
        if names.len() == 1 && e.code != Code::Conflict {
            return (Vec::new(), Some(e));
        }
        // Some may have been made; and of an interrupted command some may be there.
        match self.machines_where(&by_id(launch.cluster)).await {
            Ok(there) => {
                let there: Vec<String> = there
                    .into_iter()
                    .filter(|m| m.running && names.contains(&m.node.as_str()))
                    .map(|m| m.node.to_string())
                    .collect();
                let others = e.code == Code::Conflict && there.is_empty();
                let e = if others {
                    e.with_hint("herdsman ls --provider gcp       another cluster may have a machine of this name")
                } else {
                    e
                };
                (there, Some(e))
            }
            Err(e) => (Vec::new(), Some(e)),
        }
    }

    async fn call(&self, launch: &Launch<'_>, action: &str, names: &[&str]) -> Result<Operation, ProviderError> {
        let project = self.api.project().await?;
        let id = request_id(&launch.cluster.id)?;
        let (path, body) = if names.len() == 1 {
            // A batch that is nearly made has a member that is not its first.
            let mut body = launch.one(&self.settings)?;
            body["name"] = names[0].into();
            body["labels"][labels::NODE] = names[0].into();
            (format!("zones/{}/instances", launch.zone), body)
        } else {
            let path = format!("zones/{}/instances/bulkInsert", launch.zone);
            (path, launch.many(&self.settings, names)?)
        };
        let started = self.api.post(action, project, &path, &id, &body).await?;
        self.ended(action, Place::Zone(launch.zone), started).await
    }

    /// Machines that were just made, by name, with their addresses. They may be missing
    /// from a list for a moment.
    async fn seen(&self, cluster: &ClusterRef, names: &[&str]) -> Result<BTreeMap<String, Machine>, ProviderError> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut until = Patience::short();
        loop {
            let there: BTreeMap<String, Machine> = self
                .machines_where(&by_id(cluster))
                .await?
                .into_iter()
                .map(|m| (m.node.to_string(), m))
                .collect();
            let is_there = |n: &&str| there.get(*n).is_some_and(|m| m.address.is_some() || !m.running);
            if names.iter().all(is_there) || until.is_over() {
                return Ok(there);
            }
            until.pause().await;
        }
    }

    /// Waits for the address by which the laptop reaches a machine.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        if machine.agent.is_some() || machine.role != Role::Scheduler {
            return Ok(machine.clone());
        }
        let mut until = Patience::short();
        loop {
            let (zone, name) = place_of(&machine.id)?;
            let path = format!("zones/{zone}/instances/{name}");
            match self.api.get::<Instance>("instances.get", &path).await {
                Ok(found) => match self.machine(&found) {
                    Some(m) if m.agent.is_some() => return Ok(m),
                    Some(m) if m.running => {}
                    _ => {
                        let text = format!("{} ended before it had an address", machine.node);
                        return Err(error(Code::Boot, text));
                    }
                },
                Err(e) if e.code == Code::NotFound => {}
                Err(e) => return Err(e),
            }
            if until.is_over() {
                let text = format!(
                    "{} has no public address, so this computer cannot reach it",
                    machine.node
                );
                return Err(error(Code::Deadline, text)
                    .with_hint("herdsman up … --private        if this computer is inside of the network"));
            }
            until.pause().await;
        }
    }

    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let filter = match cluster {
            Some(name) => format!("labels.{} = {name}", labels::CLUSTER),
            None => format!("labels.{}:*", labels::CLUSTER),
        };
        let mut all = self.machines_where(&filter).await?;
        all.sort_by(|a, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    pub(super) async fn machines_where(&self, filter: &str) -> Result<Vec<Machine>, ProviderError> {
        let found: Vec<Instance> = self
            .api
            .everywhere("instances.aggregatedList", "aggregated/instances", "instances", filter)
            .await?;
        Ok(found.iter().filter_map(|i| self.machine(i)).collect())
    }

    /// An instance as a machine; what has no labels of ours is none.
    fn machine(&self, i: &Instance) -> Option<Machine> {
        let cluster = labels::cluster_of(&i.labels)?;
        let ip = |text: &Option<String>| text.as_ref()?.parse::<IpAddr>().ok();
        let interface = i.network_interfaces.first();
        // Rules of a shared network are in its project, whatever today's settings are.
        self.hosts()
            .extend(interface.and_then(|n| project_in(&n.network)).map(str::to_owned));
        let private = interface.and_then(|n| ip(&n.network_ip));
        let public = interface.and_then(|n| ip(&n.access_configs.first()?.nat_ip));
        let role = labels::role_of(&i.labels);
        let reached = if self.settings.common.private { private } else { public };
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        let zone = tail(&i.zone);
        Some(Machine {
            node: labels::node_of(&i.labels, &i.name)?,
            id: format!("{zone}/{}", i.name),
            cluster,
            role,
            address: private,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            tags: i.labels.clone(),
            running: matches!(
                i.status.as_str(),
                "PENDING" | "PROVISIONING" | "STAGING" | "RUNNING" | "REPAIRING"
            ),
            hardware: Hardware {
                kind: Some(tail(&i.machine_type).to_owned()).filter(|t| !t.is_empty()),
                zone: Some(zone.to_owned()).filter(|z| !z.is_empty()),
                spot: i.scheduling.preemptible || i.scheduling.provisioning_model.as_deref() == Some("SPOT"),
            },
        })
    }

    pub(super) async fn output(&self, machine: &Machine) -> Result<String, ProviderError> {
        let (zone, name) = place_of(&machine.id)?;
        let path = format!("zones/{zone}/instances/{name}/serialPort");
        let serial: Serial = self.api.get("instances.getSerialPortOutput", &path).await?;
        Ok(serial.contents)
    }
}

/// Zone and name of a machine's id.
pub(super) fn place_of(id: &str) -> Result<(&str, &str), ProviderError> {
    id.split_once('/')
        .ok_or_else(|| error(Code::Internal, format!("{id:?} is no machine's id")))
}

/// All that a cluster has, and no other cluster of its name.
pub(super) fn by_id(cluster: &ClusterRef) -> String {
    format!("labels.{} = {}", labels::ID, cluster.id)
}

/// How many machines a bulk call says that it made.
fn made_by(operation: &Operation) -> Option<usize> {
    let metadata = operation.instances_bulk_insert_operation_metadata.as_ref()?;
    let each = metadata
        .per_location_status
        .values()
        .map(|s| s.created_vm_count as usize);
    Some(each.sum())
}

/// Whether another type or zone may do: there is none left here, or no such thing.
fn is_of_the_place(e: &ProviderError) -> bool {
    e.code == Code::Capacity || e.code == Code::NotFound || e.code == Code::Usage && e.message.contains("nknown zone")
}

/// Those that are told the same belong together.
fn batches(machines: &[MachineSpec]) -> Vec<Batch<'_>> {
    let mut all: Vec<Batch<'_>> = Vec::new();
    for (place, spec) in machines.iter().enumerate() {
        let member = (place, spec.node.as_str());
        let same = |b: &&mut Batch<'_>| b.spec.role == spec.role && b.spec.user_data == spec.user_data;
        match all.iter_mut().find(same) {
            Some(batch) => batch.members.push(member),
            None => all.push(Batch {
                members: vec![member],
                spec,
            }),
        }
    }
    all
}
