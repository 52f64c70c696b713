//! Machines: made in as few calls as can be, listed, deleted.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herdsman_wire::{Code, Role, limits};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::super::cloud::{Made, Offer, Spot, error, labels};
use super::super::{ClusterRef, Deleted, Hardware, Machine, MachineSpec, ProviderError};
use super::answers::{Console, Done, Instance, Instances, Reservation};
use super::api::Params;
use super::launch::Launch;
use super::network::{Net, by_tag};
use super::{Aws, failure, patience};

/// States in which a machine costs something or will.
const THERE: [&str; 4] = ["pending", "running", "stopping", "stopped"];
/// Most ids in one call.
const IDS: usize = 1000;

/// Machines that one call makes: those that are told the same.
struct Batch<'a> {
    /// Their places among those asked for.
    places: Vec<usize>,
    spec: &'a MachineSpec,
}

/// What is the same for all calls of one [`Aws::make`].
struct Site<'a> {
    cluster: &'a ClusterRef,
    net: Net,
    image: super::catalogue::Chosen,
}

type Results = Vec<Option<Result<Machine, ProviderError>>>;

impl Aws {
    pub(super) async fn make(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
        made: Made<'_>,
    ) -> Vec<Result<Machine, ProviderError>> {
        let ready = async { tokio::try_join!(self.net(cluster), self.image()) };
        let (net, image) = match ready.await {
            Ok(ready) => ready,
            Err(e) => {
                let all: Vec<_> = machines.iter().map(|_| Err(e.clone())).collect();
                all.iter().enumerate().for_each(|(i, r)| made(i, r));
                return all;
            }
        };
        let site = Site { cluster, net, image };
        let batches = batches(machines);
        let work = batches.iter().map(|batch| self.batch(&site, batch, made));
        let done = futures_util::future::join_all(work).await;
        let mut results: Results = machines.iter().map(|_| None).collect();
        for (place, result) in done.into_iter().flatten() {
            results[place] = Some(result);
        }
        let missing = || Err(error(Code::Internal, "a machine was forgotten"));
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    /// Tries kinds and places in order until all of a batch are made.
    async fn batch(
        &self,
        site: &Site<'_>,
        batch: &Batch<'_>,
        made: Made<'_>,
    ) -> Vec<(usize, Result<Machine, ProviderError>)> {
        let mut left = batch.places.clone();
        let mut done = Vec::new();
        let mut last = match self.types(batch.spec.role).await {
            Ok(types) => {
                let mut last = error(Code::Capacity, "there is no place for machines");
                for (spot, kind, subnet) in self.attempts(batch.spec.role, &types, &site.net) {
                    if left.is_empty() {
                        break;
                    }
                    match self.run(site, batch, left.len(), kind, subnet, spot).await {
                        Ok(new) => {
                            for machine in new {
                                let Some(place) = (!left.is_empty()).then(|| left.remove(0)) else {
                                    break;
                                };
                                let result = Ok(machine);
                                made(place, &result);
                                done.push((place, result));
                            }
                            let zone = &subnet.availability_zone;
                            last = error(Code::Capacity, format!("{kind} in {zone}: no more are left there"));
                        }
                        Err(e) if e.code == Code::Capacity => {
                            tracing::debug!(kind, zone = subnet.availability_zone, spot, "none left: {}", e.message);
                            last = e.during(&format!("{kind} in {}", subnet.availability_zone));
                        }
                        Err(e) => {
                            last = e;
                            break;
                        }
                    }
                }
                last
            }
            Err(e) => e,
        };
        if !done.is_empty() && !left.is_empty() {
            last.message = format!("{} of {} made: {}", done.len(), batch.places.len(), last.message);
        }
        for place in left {
            let result = Err(last.clone());
            made(place, &result);
            done.push((place, result));
        }
        done
    }

    /// Markets, kinds and places, in the order in which they are tried.
    fn attempts<'n>(
        &self,
        role: Role,
        types: &'n [Offer],
        net: &'n Net,
    ) -> Vec<(bool, &'n str, &'n super::answers::Subnet)> {
        let markets: &[bool] = match (role, self.settings.common.spot) {
            // The scheduler holds everything: it is never taken away.
            (Role::Scheduler, _) | (_, Spot::Never) => &[false],
            (_, Spot::Prefer) => &[true, false],
            (_, Spot::Only) => &[true],
        };
        let mut all = Vec::new();
        for &spot in markets {
            for kind in types {
                all.extend(net.subnets.iter().map(|s| (spot, kind.name.as_str(), s)));
            }
        }
        all
    }

    async fn run(
        &self,
        site: &Site<'_>,
        batch: &Batch<'_>,
        count: usize,
        kind: &str,
        subnet: &super::answers::Subnet,
        spot: bool,
    ) -> Result<Vec<Machine>, ProviderError> {
        let token = token()?;
        let launch = Launch {
            cluster: site.cluster,
            spec: batch.spec,
            count,
            batch: batch.places.len() > 1,
            image: &site.image,
            kind,
            subnet,
            net: &site.net,
            spot,
            token: &token,
        };
        let params = launch.params(&self.settings);
        let until = patience::short();
        loop {
            let made: Result<Reservation, _> = self.api.ec2("RunInstances", &params).await;
            match made {
                Ok(made) => {
                    let all = made.instances_set.item.iter();
                    return Ok(all.filter_map(|i| self.machine(i)).collect());
                }
                // Made a moment ago, and not known everywhere yet.
                Err(e)
                    if (failure::is(&e, "InvalidGroup.NotFound")
                        || failure::is(&e, "InvalidSecurityGroupID.NotFound"))
                        && !until.is_over() =>
                {
                    until.pause().await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for the address by which the laptop reaches a machine.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        if machine.agent.is_some() || machine.role != Role::Scheduler {
            return Ok(machine.clone());
        }
        let until = patience::short();
        loop {
            let mut params = Params::default();
            params.list("InstanceId", [&machine.id]);
            let found: Result<Instances, _> = self.api.ec2("DescribeInstances", &params).await;
            match found {
                Ok(found) => {
                    let all = found.reservation_set.item.iter().flat_map(|r| &r.instances_set.item);
                    let now = all.filter_map(|i| self.machine(i)).next();
                    match now {
                        Some(m) if m.agent.is_some() => return Ok(m),
                        Some(m) if !m.running => {
                            let text = format!("{} ended before it had an address", machine.node);
                            return Err(error(Code::Boot, text));
                        }
                        _ => {}
                    }
                }
                Err(e) if e.code == Code::NotFound => {}
                Err(e) => return Err(e),
            }
            if until.is_over() {
                return Err(error(
                    Code::Deadline,
                    format!(
                        "{} has no public address, so this computer cannot reach it",
                        machine.node
                    ),
                )
                .with_hint("herdsman up … --private        if this computer is inside of the network")
                .with_hint("herdsman up … --subnet …       names a subnet with a way to the internet"));
            }
            until.pause().await;
        }
    }

    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut params = by_tag(cluster);
            params.filter("instance-state-name", THERE);
            params.put("MaxResults", 1000);
            if let Some(token) = next {
                params.put("NextToken", token);
            }
            let page: Instances = self.api.ec2("DescribeInstances", &params).await?;
            let instances = page.reservation_set.item.iter().flat_map(|r| &r.instances_set.item);
            all.extend(instances.filter_map(|i| self.machine(i)));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                break;
            }
        }
        all.sort_by(|a: &Machine, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    /// An instance as a machine; what has no tags of ours is none.
    fn machine(&self, i: &Instance) -> Option<Machine> {
        let tags = i.tag_set.map();
        let cluster = labels::cluster_of(&tags)?;
        let ip = |text: &Option<String>| text.as_ref()?.parse::<IpAddr>().ok();
        let (private, public) = (ip(&i.private_ip_address), ip(&i.ip_address));
        let role = labels::role_of(&tags);
        let reached = if self.settings.common.private { private } else { public };
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        Some(Machine {
            node: labels::node_of(&tags, &i.instance_id)?,
            id: i.instance_id.clone(),
            cluster,
            role,
            address: private,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            tags,
            running: matches!(i.instance_state.name.as_str(), "pending" | "running"),
            hardware: Hardware {
                kind: Some(i.instance_type.clone()).filter(|t| !t.is_empty()),
                zone: Some(i.placement.availability_zone.clone()).filter(|z| !z.is_empty()),
                spot: i.instance_lifecycle.as_deref() == Some("spot"),
            },
        })
    }

    pub(super) async fn terminate(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        for chunk in machines.chunks(IDS) {
            match self.terminate_ids(chunk.iter().map(|m| &m.id)).await {
                Ok(()) => report.deleted.extend(chunk.iter().map(|m| m.node.to_string())),
                // One bad id spoils the whole call: then each by itself.
                Err(_) if chunk.len() > 1 => {
                    for m in chunk {
                        self.terminate_one(m, &mut report).await;
                    }
                }
                Err(_) => self.terminate_one(&chunk[0], &mut report).await,
            }
        }
        Ok(report)
    }

    async fn terminate_one(&self, machine: &Machine, report: &mut Deleted) {
        match self.terminate_ids([&machine.id]).await {
            Ok(()) => report.deleted.push(machine.node.to_string()),
            Err(e) if e.code == Code::NotFound => report.deleted.push(machine.node.to_string()),
            Err(e) => report
                .left
                .push((format!("{} ({})", machine.node, machine.id), e.message)),
        }
    }

    async fn terminate_ids<'i>(&self, ids: impl IntoIterator<Item = &'i String>) -> Result<(), ProviderError> {
        let mut params = Params::default();
        params.list("InstanceId", ids);
        let _: Done = self.api.ec2("TerminateInstances", &params).await?;
        Ok(())
    }

    pub(super) async fn output(&self, machine: &Machine) -> Result<String, ProviderError> {
        let mut params = Params::default();
        params.put("InstanceId", &machine.id);
        params.put("Latest", true);
        let console: Result<Console, _> = self.api.ec2("GetConsoleOutput", &params).await;
        let console = match console {
            // Older machines have only what was kept some minutes ago.
            Err(e) if failure::is(&e, "UnsupportedOperation") => {
                let mut params = Params::default();
                params.put("InstanceId", &machine.id);
                self.api.ec2("GetConsoleOutput", &params).await?
            }
            other => other?,
        };
        let text: String = console.output.unwrap_or_default().split_whitespace().collect();
        let bytes = BASE64_STANDARD
            .decode(text)
            .map_err(|e| error(Code::Provider, format!("GetConsoleOutput: {e}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Those that are told the same belong together.
fn batches(machines: &[MachineSpec]) -> Vec<Batch<'_>> {
    let mut all: Vec<Batch<'_>> = Vec::new();
    for (place, spec) in machines.iter().enumerate() {
        let same = |b: &&mut Batch<'_>| b.spec.role == spec.role && b.spec.user_data == spec.user_data;
        match all.iter_mut().find(same) {
            Some(batch) => batch.places.push(place),
            None => all.push(Batch {
                places: vec![place],
                spec,
            }),
        }
    }
    all
}

/// A client token: random, as a name may be used again and its machine must not be
/// taken for the old one.
fn token() -> Result<String, ProviderError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| error(Code::Internal, "the system gives no randomness"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
