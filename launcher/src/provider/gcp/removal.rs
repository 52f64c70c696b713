//! What goes away: machines, and what they shared.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use herdsman_wire::Code;

use super::super::cloud::{Resource, error, labels};
use super::super::{ClusterRef, Deleted, Machine, ProviderError, Tags};
use super::Gcp;
use super::answers::{Disk, Operation, project_in, tail};
use super::machines::{by_id, place_of};
use super::network::{is_busy, is_gone};
use super::operations::{Patience, Place, failed, request_id};

/// Most calls at the same time.
const WINDOW: usize = 32;
const RULE: &str = "firewall rule";
const DISK: &str = "disk";

impl Gcp {
    /// Deletes machines, which is a call for each, and waits until lists say that they
    /// are gone, which is a call for all.
    pub(super) async fn terminate(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let asked = machines.iter().map(|m| async move { (m, self.ask_to_go(m).await) });
        let answers: Vec<_> = futures_util::stream::iter(asked)
            .buffer_unordered(WINDOW)
            .collect()
            .await;
        let mut going: BTreeMap<&str, (&Machine, Operation)> = BTreeMap::new();
        for (m, answer) in answers {
            match answer {
                Ok(Some(operation)) => {
                    going.insert(&m.id, (m, operation));
                }
                Ok(None) => report.deleted.push(m.node.to_string()),
                Err(e) => report.left.push((format!("{} ({})", m.node, m.id), e.message)),
            }
        }
        self.watch_them_go(going, &mut report).await?;
        report.deleted.sort();
        Ok(report)
    }

    async fn ask_to_go(&self, m: &Machine) -> Result<Option<Operation>, ProviderError> {
        let (zone, name) = place_of(&m.id)?;
        let project = self.api.project().await?;
        let path = format!("zones/{zone}/instances/{name}");
        self.patiently("instances.delete", project, &path, &m.cluster).await
    }

    async fn watch_them_go(
        &self,
        mut going: BTreeMap<&str, (&Machine, Operation)>,
        report: &mut Deleted,
    ) -> Result<(), ProviderError> {
        let clusters: BTreeSet<&str> = going.values().map(|(m, _)| m.cluster.id.as_str()).collect();
        let one = going.values().next().filter(|_| clusters.len() == 1);
        let filter = one.map_or_else(|| format!("labels.{}:*", labels::CLUSTER), |(m, _)| by_id(&m.cluster));
        let mut until = Patience::long();
        while let Some((id, (_, operation))) = going.iter().next() {
            // One call that waits is worth ten that ask.
            let (zone, _) = place_of(id)?;
            let ended = self
                .ended("instances.delete", Place::Zone(zone), operation.clone())
                .await?;
            if let Some(e) = failed("instances.delete", &ended) {
                let id = (*id).to_owned();
                if let Some((m, _)) = going.remove(id.as_str()) {
                    report.left.push((format!("{} ({})", m.node, m.id), e.message));
                }
                continue;
            }
            let there: BTreeSet<String> = self.machines_where(&filter).await?.into_iter().map(|m| m.id).collect();
            going.retain(|id, (m, _)| {
                let is_there = there.contains(*id);
                if !is_there {
                    report.deleted.push(m.node.to_string());
                }
                is_there
            });
            if going.is_empty() {
                break;
            }
            if until.is_over() {
                let left = going.values().map(|(m, _)| {
                    let why = "it is still there after five minutes".to_owned();
                    (format!("{} ({})", m.node, m.id), why)
                });
                report.left.extend(left);
                break;
            }
            until.pause().await;
        }
        Ok(())
    }

    /// A call that deletes. What is not ready to go yet is asked again; what is gone
    /// has no operation.
    async fn patiently(
        &self,
        action: &str,
        project: &str,
        path: &str,
        cluster: &ClusterRef,
    ) -> Result<Option<Operation>, ProviderError> {
        let mut until = Patience::short();
        loop {
            // Not the same id: the refusal would be the answer again.
            let id = request_id(&cluster.id)?;
            match self.api.delete(action, project, path, &id).await {
                Ok(operation) => return Ok(Some(operation)),
                Err(e) if is_gone(&e) => return Ok(None),
                Err(e) if is_busy(&e) && !until.is_over() => until.pause().await,
                Err(e) => return Err(e),
            }
        }
    }

    /// What there is besides machines. With a cluster's name that is all there will be,
    /// as whoever asks wants to delete it.
    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        if let Some(name) = cluster {
            self.all_ended_of(name).await?;
        }
        self.resources_now(cluster).await
    }

    /// Rules, and disks that outlived their machine.
    async fn resources_now(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let (rules, disks) = tokio::try_join!(self.our_rules(cluster), self.free_disks(cluster))?;
        let resource = |kind: &str, id: String, name: String, tags: Tags| {
            Some(Resource {
                cluster: labels::cluster_of(&tags)?,
                kind: kind.to_owned(),
                id,
                name,
                tags,
            })
        };
        let rules = rules.into_iter().filter_map(|r| {
            resource(
                RULE,
                format!("projects/{}/global/firewalls/{}", r.project, r.name),
                r.name,
                r.tags,
            )
        });
        let disks = disks
            .into_iter()
            .filter_map(|d| resource(DISK, format!("{}/{}", tail(&d.zone), d.name), d.name, d.labels));
        Ok(rules.chain(disks).collect())
    }

    async fn free_disks(&self, cluster: Option<&str>) -> Result<Vec<Disk>, ProviderError> {
        let filter = match cluster {
            Some(name) => format!("labels.{} = {name}", labels::CLUSTER),
            None => format!("labels.{}:*", labels::CLUSTER),
        };
        let mut all: Vec<Disk> = self
            .api
            .everywhere("disks.aggregatedList", "aggregated/disks", "disks", &filter)
            .await?;
        // Regional ones are never ours.
        all.retain(|d| d.users.is_empty() && !d.zone.is_empty());
        Ok(all)
    }

    /// Deletes rules and left disks, and machines that a command made after it was
    /// killed: what was asked for comes, whoever asked.
    pub(super) async fn delete_shared(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        if self.all_ended(&cluster.id).await? {
            let late = self.machines_where(&by_id(cluster)).await?;
            let done = self.terminate(&late).await?;
            report.deleted.extend(done.deleted);
            report.left.extend(done.left);
        }
        let all = self.resources_now(Some(cluster.name.as_str())).await?;
        let ours = all.iter().filter(|r| r.cluster.id == cluster.id);
        let asked = ours.map(|r| async move { (r, self.delete_one(cluster, r).await) });
        let answers: Vec<_> = futures_util::stream::iter(asked)
            .buffer_unordered(WINDOW)
            .collect()
            .await;
        for (r, answer) in answers {
            match answer {
                Ok(()) => report.deleted.push(format!("{} {}", r.kind, r.name)),
                Err(e) => report.left.push((format!("{} {}", r.kind, r.name), e.message)),
            }
        }
        Ok(report)
    }

    async fn delete_one(&self, cluster: &ClusterRef, r: &Resource) -> Result<(), ProviderError> {
        let ours = self.api.project().await?;
        let (action, project, path, place) = match (project_in(&r.id), r.id.split_once('/')) {
            (Some(project), _) => {
                let path = format!("global/firewalls/{}", r.name);
                ("firewalls.delete", project, path, Place::Global(project))
            }
            (None, Some((zone, name))) => {
                let path = format!("zones/{zone}/disks/{name}");
                ("disks.delete", ours, path, Place::Zone(zone))
            }
            (None, None) => return Err(error(Code::Internal, format!("{:?} is no id", r.id))),
        };
        let Some(operation) = self.patiently(action, project, &path, cluster).await? else {
            return Ok(());
        };
        let ended = self.ended(action, place, operation).await?;
        match failed(action, &ended) {
            Some(e) if e.code == Code::NotFound => Ok(()),
            Some(e) if is_busy(&e) => Err(error(Code::Busy, e.message)),
            Some(e) => Err(e),
            None => Ok(()),
        }
    }
}
