//! Machines: asked for all at once, looked at by lists, and tried in the next place
//! where one has none left.

use std::time::Duration;

use futures_util::future::join_all;
use herdsman_wire::{Code, Role};
use tokio::time::Instant;

use super::super::cloud::{Made, Offer, Spot, error};
use super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::answers::Vm;
use super::api::{Pending, version};
use super::catalogue::Image;
use super::launch::{Launch, identity};
use super::look::Look;
use super::network::Net;
use super::{Azure, failure, names, patience};

/// Longest time from asking for a machine to its address.
const BORN: Duration = Duration::from_secs(300);
/// So long after it was asked for, a machine with an address has its place on a host:
/// the vendor says within seconds when there is none. It is not waited for its boot,
/// which the vendor counts as a part of making it.
const PLACED: Duration = Duration::from_secs(15);

/// Markets, kinds and places, in the order in which they are tried.
struct Attempt<'a> {
    spot: bool,
    kind: &'a str,
    zone: Option<String>,
}

/// What is the same for all machines of one [`Azure::make`].
struct Site<'a> {
    cluster: &'a ClusterRef,
    subscription: String,
    net: Net,
    image: Image,
    key: String,
    role: Option<String>,
    scheduler: Vec<Offer>,
    workers: Vec<Offer>,
}

/// A machine that was asked for.
struct Asked {
    place: usize,
    attempt: usize,
    id: String,
    pending: Pending,
    since: Instant,
}

impl Azure {
    pub(super) async fn make(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
        made: Made<'_>,
    ) -> Vec<Result<Machine, ProviderError>> {
        let site = match self.site(cluster, machines).await {
            Ok(site) => site,
            Err(e) => {
                let all: Vec<_> = machines.iter().map(|_| Err(e.clone())).collect();
                all.iter().enumerate().for_each(|(i, r)| made(i, r));
                return all;
            }
        };
        let mut results: Vec<Option<Result<Machine, ProviderError>>> = machines.iter().map(|_| None).collect();
        let mut settle = |place: usize, result: Result<Machine, ProviderError>| {
            made(place, &result);
            results[place] = Some(result);
        };
        // Which attempt each is to begin with, and what the last one failed of.
        let mut wanted: Vec<(usize, usize)> = (0..machines.len()).map(|place| (place, 0)).collect();
        let mut asked: Vec<Asked> = Vec::new();
        let mut rest = patience::short();
        while !wanted.is_empty() || !asked.is_empty() {
            let new = join_all(
                wanted
                    .drain(..)
                    .map(|(place, from)| self.ask(&site, machines, place, from)),
            )
            .await;
            for (place, result) in new {
                match result {
                    Ok(one) => {
                        asked.push(one);
                        rest = patience::short();
                    }
                    Err(e) => settle(place, Err(e)),
                }
            }
            if asked.is_empty() {
                break;
            }
            rest.pause().await;
            let look = match self.look_at_group(&site.net.group).await {
                Ok(look) => look,
                Err(e) => {
                    for a in asked.drain(..) {
                        settle(a.place, Err(e.clone()));
                    }
                    break;
                }
            };
            let mut left = Vec::new();
            for a in asked.drain(..) {
                let attempts = self.attempts(&site, machines[a.place].role);
                match self
                    .fate(&site, machines, &a, &look, a.attempt + 1 < attempts.len())
                    .await
                {
                    Fate::Open => left.push(a),
                    Fate::Made(machine) => settle(a.place, Ok(*machine)),
                    Fate::Again => wanted.push((a.place, a.attempt + 1)),
                    Fate::Failed(e) => settle(a.place, Err(e)),
                }
            }
            asked = left;
        }
        let missing = || Err(error(Code::Internal, "a machine was forgotten"));
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    /// Everything that is looked up before machines are asked for.
    async fn site<'a>(&self, cluster: &'a ClusterRef, machines: &[MachineSpec]) -> Result<Site<'a>, ProviderError> {
        let subscription = self.subscription()?.to_owned();
        let types = async |role: Role| {
            if machines.iter().any(|m| m.role == role) {
                self.types(role).await
            } else {
                Ok(Vec::new())
            }
        };
        let (net, key, scheduler, workers) = tokio::try_join!(
            self.net(cluster),
            self.public_key(),
            types(Role::Scheduler),
            types(Role::Worker)
        )?;
        let wanted = self.settings.common.role.as_deref();
        let role = wanted.and_then(|r| identity(&subscription, self.settings.group.as_deref(), r));
        if wanted.is_some() && role.is_none() {
            let text = "a managed identity's name says nothing without its resource group";
            return Err(error(Code::Usage, text).with_hint("--role GROUP/NAME, its whole id, or `system`"));
        }
        Ok(Site {
            cluster,
            subscription,
            net,
            image: self.image()?,
            key,
            role,
            scheduler,
            workers,
        })
    }

    fn attempts<'s>(&self, site: &'s Site<'_>, role: Role) -> Vec<Attempt<'s>> {
        let markets: &[bool] = match self.is_spot(role) {
            Spot::Never => &[false],
            Spot::Prefer => &[true, false],
            Spot::Only => &[true],
        };
        let types = match role {
            Role::Scheduler => &site.scheduler,
            Role::Worker => &site.workers,
        };
        let zones = self.settings.zones();
        let zones: Vec<Option<String>> = if zones.is_empty() {
            vec![None]
        } else {
            zones.into_iter().map(Some).collect()
        };
        let mut all = Vec::new();
        for &spot in markets {
            for kind in types {
                all.extend(zones.iter().map(|zone| Attempt {
                    spot,
                    kind: &kind.name,
                    zone: zone.clone(),
                }));
            }
        }
        all
    }

    /// Asks for a machine, in one place after the other, until one takes the request.
    async fn ask(
        &self,
        site: &Site<'_>,
        machines: &[MachineSpec],
        place: usize,
        from: usize,
    ) -> (usize, Result<Asked, ProviderError>) {
        let spec = &machines[place];
        let mut last = error(Code::Capacity, "there is no place for machines");
        for (attempt, a) in self.attempts(site, spec.role).iter().enumerate().skip(from) {
            let name = names::machine(site.cluster, &spec.node, attempt);
            let id = names::resource(
                &site.subscription,
                &site.net.group,
                "Microsoft.Compute/virtualMachines",
                &name,
            );
            let launch = Launch {
                name: &name,
                spec,
                image: &site.image,
                kind: a.kind,
                zone: a.zone.as_deref(),
                net: &site.net,
                spot: a.spot,
                key: &site.key,
                role: site.role.as_deref(),
            };
            let body = launch.body(&self.settings);
            let asked = self
                .api
                .put("VirtualMachines_CreateOrUpdate", &id, version::COMPUTE, &body)
                .await;
            let pending = match asked {
                Ok(pending) => pending,
                // It is there already, from a command that was interrupted: as it was
                // told at its birth, so it stays.
                Err(e) if failure::is(&e, "PropertyChangeNotAllowed") => Pending::none(),
                Err(e) if e.code == Code::Capacity => {
                    tracing::debug!(a.kind, a.zone, a.spot, "none left: {}", e.message);
                    last = e.during(&self.where_of(a));
                    continue;
                }
                Err(e) => return (place, Err(e)),
            };
            let since = Instant::now();
            return (
                place,
                Ok(Asked {
                    place,
                    attempt,
                    id,
                    pending,
                    since,
                }),
            );
        }
        (place, Err(last))
    }

    fn where_of(&self, a: &Attempt<'_>) -> String {
        let zone = a.zone.as_ref().map_or_else(String::new, |z| format!("-{z}"));
        let market = if a.spot { " spot" } else { "" };
        format!("{}{market} in {}{zone}", a.kind, self.settings.region)
    }

    /// What has become of a machine.
    async fn fate(
        &self,
        site: &Site<'_>,
        machines: &[MachineSpec],
        asked: &Asked,
        look: &Look,
        has_next: bool,
    ) -> Fate {
        let node = &machines[asked.place].node;
        let age = asked.since.elapsed();
        let late = age >= BORN;
        let Some(vm) = look.vms.iter().find(|v| names::same(&v.id, &asked.id)) else {
            // A list knows it a moment later than the call that made it; or it failed so
            // early that nothing of it is left.
            return match self.api.failure(node.as_str(), &asked.pending).await {
                Ok(Some(e)) => self.failed(site, machines, asked, e, has_next).await,
                Err(e) if late => Fate::Failed(e),
                Ok(None) if late => {
                    let text = format!("{node} was asked for, and is not there");
                    Fate::Failed(error(Code::Deadline, text))
                }
                Ok(None) | Err(_) => Fate::Open,
            };
        };
        if vm.properties.provisioning_state.eq_ignore_ascii_case("Failed") {
            let told = self.api.failure(node.as_str(), &asked.pending).await;
            let e = match told {
                Ok(Some(e)) => e,
                Ok(None) | Err(_) => self.why(vm).await,
            };
            return self.failed(site, machines, asked, e, has_next).await;
        }
        let machine = self.machine(vm, look).filter(|m| m.address.is_some());
        let is_placed = !has_next || vm.is_made() || age >= PLACED;
        match machine {
            Some(machine) if is_placed => Fate::Made(Box::new(machine)),
            _ if late => {
                let text = format!("{node} has no address after {}s", age.as_secs());
                let e = error(Code::Deadline, text);
                self.abandon(asked).await;
                Fate::Failed(e)
            }
            _ => Fate::Open,
        }
    }

    /// A machine that will never be: what is left of it goes, and the next place is
    /// tried where that may help.
    async fn failed(
        &self,
        site: &Site<'_>,
        machines: &[MachineSpec],
        asked: &Asked,
        e: ProviderError,
        has_next: bool,
    ) -> Fate {
        self.abandon(asked).await;
        let attempts = self.attempts(site, machines[asked.place].role);
        let during = attempts.get(asked.attempt).map(|a| self.where_of(a));
        tracing::debug!(id = asked.id, "failed: {}", e.message);
        if e.code == Code::Capacity && has_next {
            return Fate::Again;
        }
        Fate::Failed(match during {
            Some(during) => e.during(&during),
            None => e,
        })
    }

    async fn abandon(&self, asked: &Asked) {
        if let Err(e) = self.delete_machine(&asked.id).await {
            tracing::debug!(id = asked.id, "not deleted: {}", e.message);
        }
    }

    /// Waits for the address by which the laptop reaches a machine.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        if machine.agent.is_some() || machine.role != Role::Scheduler {
            return Ok(machine.clone());
        }
        let group = names::part(&machine.id, "resourceGroups").unwrap_or_default();
        let until = patience::short();
        loop {
            let look = self.look_at_group(group).await?;
            let vm = look.vms.iter().find(|v| names::same(&v.id, &machine.id));
            if let Some(now) = vm.and_then(|v| self.machine(v, &look))
                && now.agent.is_some()
            {
                return Ok(now);
            }
            if vm.is_some_and(|v| v.properties.provisioning_state.eq_ignore_ascii_case("Failed")) {
                return Err(match vm {
                    Some(vm) => self.why(vm).await,
                    None => error(Code::Boot, format!("{} ended before it had an address", machine.node)),
                });
            }
            if until.is_over() {
                let text = format!("{} has no address that this computer can reach", machine.node);
                return Err(error(Code::Deadline, text)
                    .with_hint("herdsman up … --private        if this computer is inside of the network"));
            }
            until.pause().await;
        }
    }
}

/// What has become of a machine that was asked for.
enum Fate {
    /// Nobody knows yet.
    Open,
    Made(Box<Machine>),
    /// The next place is to be tried.
    Again,
    Failed(ProviderError),
}

impl Vm {
    /// Whether the vendor has nothing more to do for it.
    fn is_made(&self) -> bool {
        self.properties.provisioning_state.eq_ignore_ascii_case("Succeeded")
    }
}
