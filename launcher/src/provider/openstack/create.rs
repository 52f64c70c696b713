//! Making machines: one call each, all at the same time, tried elsewhere where there is no
//! room, and looked for where an answer was lost.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use herdsman_wire::{Code, Role};

use super::super::cloud::{Made, error, labels};
use super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::answers::{OneServer, Server};
use super::api::Service;
use super::catalogue::{Chosen, Kind};
use super::launch::Launch;
use super::network::Net;
use super::ports::PORT;
use super::settings::Floating;
use super::{OpenStack, failure, patience};

/// What is the same for all machines of one [`OpenStack::make`].
struct Site<'a> {
    cluster: &'a ClusterRef,
    net: Net,
    image: Chosen,
    /// Kinds and zones by role, in the order in which they are tried.
    attempts: BTreeMap<Role, Vec<(Kind, Option<String>)>>,
}

/// A machine on its way.
struct Job<'a> {
    place: usize,
    spec: &'a MachineSpec,
    attempt: usize,
    /// Its server, once it was asked for.
    id: String,
    port: Option<String>,
}

impl OpenStack {
    pub(super) async fn make(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
        made: Made<'_>,
    ) -> Vec<Result<Machine, ProviderError>> {
        let name = Some(cluster.name.as_str());
        let ready = async { tokio::try_join!(self.net(cluster), self.image(), self.machines(name)) };
        let ready = async {
            let (net, image, there) = ready.await?;
            let attempts = self.attempts(machines).await?;
            Ok::<_, ProviderError>((net, image, there, attempts))
        };
        let (net, image, there, attempts) = match ready.await {
            Ok(ready) => ready,
            Err(e) => {
                let all: Vec<_> = machines.iter().map(|_| Err(e.clone())).collect();
                all.iter().enumerate().for_each(|(i, r)| made(i, r));
                return all;
            }
        };
        let site = Site {
            cluster,
            net,
            image,
            attempts,
        };
        let mut results: Vec<Option<Result<Machine, ProviderError>>> = machines.iter().map(|_| None).collect();
        let mut tell = |place: usize, result: Result<Machine, ProviderError>| {
            made(place, &result);
            results[place] = Some(result);
        };
        let mut jobs = Vec::new();
        for (place, spec) in machines.iter().enumerate() {
            let same = |m: &&Machine| m.cluster.id == cluster.id && m.node == spec.node;
            // An interrupted command made it, and it may still be on its way.
            let id = there.iter().find(same).map(|m| m.id.clone());
            jobs.push(Job {
                place,
                spec,
                attempt: 0,
                id: id.unwrap_or_default(),
                port: None,
            });
        }
        while !jobs.is_empty() {
            jobs = self.round(&site, jobs, &mut tell).await;
        }
        let missing = || Err(error(Code::Internal, "a machine was forgotten"));
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    async fn attempts(
        &self,
        machines: &[MachineSpec],
    ) -> Result<BTreeMap<Role, Vec<(Kind, Option<String>)>>, ProviderError> {
        let zones = &self.settings.common.zones;
        let mut all = BTreeMap::new();
        for role in [Role::Scheduler, Role::Worker] {
            if !machines.iter().any(|m| m.role == role) {
                continue;
            }
            let mut attempts = Vec::new();
            for kind in self.kinds(role).await? {
                if zones.is_empty() {
                    attempts.push((kind, None));
                } else {
                    attempts.extend(zones.iter().map(|z| (kind.clone(), Some(z.clone()))));
                }
            }
            all.insert(role, attempts);
        }
        Ok(all)
    }

    /// Asks for all of these and waits for them; gives those to be tried elsewhere.
    async fn round<'a>(
        &self,
        site: &Site<'_>,
        jobs: Vec<Job<'a>>,
        tell: &mut impl FnMut(usize, Result<Machine, ProviderError>),
    ) -> Vec<Job<'a>> {
        let asked = join_all(jobs.into_iter().map(|job| self.ask(site, job))).await;
        let (mut on_their_way, mut again) = (Vec::new(), Vec::new());
        let last = |job: &Job<'_>| {
            let all = site.attempts.get(&job.spec.role).map_or(0, Vec::len);
            job.attempt + 1 >= all
        };
        let mut failed = Vec::new();
        for (job, outcome) in asked {
            match outcome {
                Ok(()) => on_their_way.push(job),
                Err(e) => failed.push((job, e)),
            }
        }
        let mut until = patience::long();
        while !on_their_way.is_empty() {
            until.pause().await;
            let there = match self.servers(Some(site.cluster.name.as_str())).await {
                Ok(there) => there,
                Err(e) => {
                    failed.extend(on_their_way.drain(..).map(|job| (job, e.clone())));
                    break;
                }
            };
            let mut waiting = Vec::new();
            for job in on_their_way {
                let server = there.iter().find(|s| s.id == job.id);
                match server.map(|s| (s.status.as_str(), self.machine(s), s)) {
                    Some(("ERROR", _, s)) => {
                        let words = s
                            .fault
                            .as_ref()
                            .map_or("the vendor says no reason", |f| f.message.as_str());
                        let e = failure::of_machine(job.spec.node.as_str(), words);
                        failed.push((job, e));
                    }
                    Some((_, Some(machine), _)) if machine.address.is_some() => {
                        tell(job.place, self.outside(site, machine).await);
                    }
                    // Made a moment ago: not in the list yet, or without an address yet.
                    _ if !until.is_over() => waiting.push(job),
                    _ => {
                        let text = format!("{} has no address after minutes", job.spec.node);
                        failed.push((job, error(Code::Deadline, text)));
                    }
                }
            }
            on_their_way = waiting;
        }
        for (job, e) in failed {
            self.clear(&job).await;
            if e.code == Code::Capacity && !last(&job) {
                tracing::debug!(node = job.spec.node.as_str(), "none left: {}", e.message);
                again.push(Job {
                    attempt: job.attempt + 1,
                    id: String::new(),
                    port: None,
                    ..job
                });
            } else {
                tell(job.place, Err(self.placed(site, &job, e)));
            }
        }
        again
    }

    /// An error with where it was.
    fn placed(&self, site: &Site<'_>, job: &Job<'_>, e: ProviderError) -> ProviderError {
        let attempt = site.attempts.get(&job.spec.role).and_then(|a| a.get(job.attempt));
        match attempt {
            Some((kind, zone)) if e.code == Code::Capacity => {
                let zone = zone.as_deref().map(|z| format!(" in {z}")).unwrap_or_default();
                e.during(&format!("{}{zone}", kind.name))
            }
            _ => e,
        }
    }

    /// A worker's own address outside, where all are to have one. The scheduler's waits
    /// until workers were asked for.
    async fn outside(&self, site: &Site<'_>, machine: Machine) -> Result<Machine, ProviderError> {
        let wanted = self.settings.floating == Floating::All && site.net.outside.is_some();
        if wanted && machine.role == Role::Worker {
            self.float(&machine).await?;
        }
        Ok(machine)
    }

    /// Takes away what is left of a machine that was not made.
    async fn clear(&self, job: &Job<'_>) {
        if !job.id.is_empty() {
            let path = format!("/servers/{}", job.id);
            if let Err(e) = self.api.delete(Service::Compute, "delete server", &path).await {
                // It has our tags: `down` sees it.
                tracing::debug!("{} is left: {}", job.id, e.message);
            }
        }
        if let Some(port) = &job.port
            && let Err(e) = self.delete_port(port).await
        {
            tracing::debug!("port {port} is left: {}", e.message);
        }
    }

    /// Asks for one machine. Nova has no key that makes a repetition harmless, so that one
    /// whose answer was lost is looked for before it is asked for again.
    async fn ask<'a>(&self, site: &Site<'_>, mut job: Job<'a>) -> (Job<'a>, Result<(), ProviderError>) {
        if !job.id.is_empty() {
            return (job, Ok(()));
        }
        let outcome = async {
            let none = || error(Code::Capacity, "there is no type for machines");
            let attempts = site.attempts.get(&job.spec.role).ok_or_else(none)?;
            let (kind, zone) = attempts.get(job.attempt).ok_or_else(none)?;
            let floating = site.net.outside.is_some()
                && (job.spec.role == Role::Scheduler || self.settings.floating == Floating::All);
            let entry = site.net.entry.iter().filter(|_| job.spec.role == Role::Scheduler);
            let groups: Vec<String> = site.net.inner.iter().chain(entry).cloned().collect();
            let mut spec = job.spec.clone();
            if !site.net.subnets.is_empty() {
                let port = self.make_port(&site.net, &spec, &groups).await?;
                spec.tags.insert(PORT.into(), port.clone());
                job.port = Some(port);
            }
            let launch = Launch {
                spec: &spec,
                cluster: site.cluster.name.as_str(),
                image: &site.image.id,
                kind,
                volume: self.volume(spec.role, kind, &site.image),
                zone: zone.as_deref(),
                net: &site.net,
                port: job.port.as_deref(),
                groups: &groups,
                floating,
                version: self.api.version(),
            };
            let body = launch.body(&self.settings);
            let mut asked = 0;
            loop {
                let made: Result<OneServer, _> = self
                    .api
                    .post(Service::Compute, "create server", "/servers", &body)
                    .await;
                asked += 1;
                match made {
                    Ok(made) => return Ok(made.server.id),
                    // A group that was made a moment ago may not be known everywhere yet.
                    Err(e)
                        if asked < patience::ASKED
                            && (failure::is_lost(&e)
                                || e.code == Code::Usage && e.message.contains("Security group")) =>
                    {
                        tracing::debug!("looked for, as the answer was lost: {}", e.message);
                    }
                    Err(e) => return Err(e),
                }
                let mut until = patience::lost();
                while !until.is_over() {
                    until.pause().await;
                    if let Some(id) = self.made(site.cluster, &spec).await? {
                        return Ok(id);
                    }
                }
            }
        };
        match outcome.await {
            Ok(id) => {
                job.id = id;
                (job, Ok(()))
            }
            Err(e) => (job, Err(e)),
        }
    }

    /// The server of a machine, where a call made it whose answer was lost.
    async fn made(&self, cluster: &ClusterRef, spec: &MachineSpec) -> Result<Option<String>, ProviderError> {
        let there = self.servers(Some(cluster.name.as_str())).await?;
        let same = |s: &&Server| {
            s.metadata.get(labels::ID).map(String::as_str) == Some(cluster.id.as_str())
                && s.metadata.get(labels::NODE).map(String::as_str) == Some(spec.node.as_str())
                && s.task_state.as_deref() != Some("deleting")
                && s.status != "ERROR"
        };
        Ok(there.iter().find(same).map(|s| s.id.clone()))
    }
}
