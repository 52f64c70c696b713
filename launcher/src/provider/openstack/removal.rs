//! Deleting, and what is left to be deleted.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use herdsman_wire::{ClusterId, Code};

use super::super::cloud::{Resource, labels};
use super::super::{ClusterRef, Deleted, Machine, ProviderError, Tags};
use super::answers::{FloatingIp, Group, Named, Port, Server};
use super::api::Service;
use super::launch::{BY_FLOATING, REACH};
use super::ports::PORT;
use super::{OpenStack, describe, patience};

/// How often a machine is deleted again that went into error on its way out.
const AGAIN: u32 = 3;

const GROUP: &str = "security group";
const ADDRESS: &str = "floating address";
const PORT_KIND: &str = "port";
const SERVER_GROUP: &str = "server group";

impl OpenStack {
    pub(super) async fn remove(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let reached = |m: &&Machine| m.tags.get(REACH).map(String::as_str) == Some(BY_FLOATING);
        let of_machines = |f: &FloatingIp| {
            let tags = f.description.as_deref().and_then(describe::tags).unwrap_or_default();
            let is = |m: &Machine| {
                tags.get(labels::ID).map(String::as_str) == Some(m.cluster.id.as_str())
                    && tags.get(labels::NODE).map(String::as_str) == Some(m.node.as_str())
            };
            machines.iter().any(is)
        };
        let addresses = async {
            if machines.iter().filter(reached).count() == 0 {
                return Ok(Vec::new());
            }
            let mut all = self.floating().await?;
            all.retain(of_machines);
            Ok(all)
        };
        let servers = join_all(machines.iter().map(|m| self.delete_server(&m.id)));
        let (addresses, deleted): (Result<_, ProviderError>, _) = tokio::join!(addresses, servers);
        match addresses {
            Ok(addresses) => {
                let all = addresses
                    .iter()
                    .map(|f| self.drop_one(ADDRESS, &f.id, &f.floating_ip_address));
                for outcome in join_all(all).await {
                    note(&mut report, outcome);
                }
            }
            // `delete_rest` looks for them as well.
            Err(e) => tracing::debug!("floating addresses cannot be seen: {}", e.message),
        }
        let mut waiting: Vec<(&Machine, u32)> = Vec::new();
        for (m, outcome) in machines.iter().zip(deleted) {
            match outcome {
                Ok(()) => waiting.push((m, 0)),
                Err(e) => report.left.push((format!("{} ({})", m.node, m.id), e.message)),
            }
        }
        self.wait_until_gone(waiting, &mut report).await;
        self.stuck.store(!report.left.is_empty(), Ordering::Relaxed);
        let ports = machines.iter().filter_map(|m| m.tags.get(PORT));
        for (id, outcome) in join_all(ports.map(|id| async move { (id, self.delete_port(id).await) })).await {
            if let Err(e) = outcome {
                report.left.push((format!("{PORT_KIND} {id}"), e.message));
            }
        }
        Ok(report)
    }

    async fn delete_server(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/servers/{id}");
        let mut until = patience::short();
        loop {
            match self.api.delete(Service::Compute, "delete server", &path).await {
                // It is in the middle of something else.
                Err(e) if e.code == Code::Conflict && !until.is_over() => until.pause().await,
                other => return other,
            }
        }
    }

    async fn wait_until_gone(&self, mut waiting: Vec<(&Machine, u32)>, report: &mut Deleted) {
        let mut until = patience::long();
        while let Some((first, _)) = waiting.first() {
            let one = waiting.iter().all(|(m, _)| m.cluster.name == first.cluster.name);
            let name = Some(first.cluster.name.as_str()).filter(|_| one);
            let there: Vec<Server> = match self.servers(name).await {
                Ok(there) => there,
                Err(e) => {
                    let left = waiting
                        .iter()
                        .map(|(m, _)| (format!("{} ({})", m.node, m.id), e.message.clone()));
                    report.left.extend(left);
                    return;
                }
            };
            let mut still = Vec::new();
            for (m, tries) in waiting {
                match there.iter().find(|s| s.id == m.id) {
                    None => report.deleted.push(m.node.to_string()),
                    Some(s) if until.is_over() => {
                        let fault = s.fault.as_ref().map(|f| f.message.clone());
                        let why = fault.unwrap_or_else(|| format!("it is still there, in state {}", s.status));
                        report.left.push((format!("{} ({})", m.node, m.id), why));
                    }
                    Some(s) if s.status == "ERROR" && s.task_state.is_none() && tries < AGAIN => {
                        let _ = self.delete_server(&m.id).await;
                        still.push((m, tries + 1));
                    }
                    Some(_) => still.push((m, tries)),
                }
            }
            waiting = still;
            if !waiting.is_empty() {
                until.pause().await;
            }
        }
    }

    /// Everything of ours that is no machine.
    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let (all, unseen) = self.visible(cluster).await;
        unseen.into_iter().next().map_or(Ok(all), Err)
    }

    /// What can be seen of it, and why the rest cannot.
    async fn visible(&self, cluster: Option<&str>) -> (Vec<Resource>, Vec<ProviderError>) {
        let network = Service::Network;
        let (groups, addresses, ports, server_groups) = tokio::join!(
            self.api.list::<Group>(network, "/security-groups", "security_groups"),
            self.floating(),
            self.api.list::<Port>(network, "/ports", "ports"),
            self.server_groups(),
        );
        let mut unseen = Vec::new();
        let groups = groups.unwrap_or_else(|e| hidden(&mut unseen, e));
        let addresses = addresses.unwrap_or_else(|e| hidden(&mut unseen, e));
        let ports = ports.unwrap_or_else(|e| hidden(&mut unseen, e));
        let server_groups = server_groups.unwrap_or_else(|e| hidden(&mut unseen, e));
        let mut all = Vec::new();
        let mut add = |kind: &str, id: String, name: String, tags: Option<Tags>| {
            let Some((tags, of)) = tags.and_then(|t| labels::cluster_of(&t).map(|c| (t, c))) else {
                return;
            };
            if cluster.is_none_or(|c| of.name.as_str() == c) {
                all.push(Resource {
                    kind: kind.to_owned(),
                    id,
                    name,
                    cluster: of,
                    tags,
                });
            }
        };
        let of = |line: &Option<String>| line.as_deref().and_then(describe::tags);
        for f in addresses {
            add(ADDRESS, f.id, f.floating_ip_address, of(&f.description));
        }
        for p in ports {
            add(PORT_KIND, p.id, p.name.unwrap_or_default(), of(&p.description));
        }
        for g in groups {
            add(GROUP, g.id, g.name, of(&g.description));
        }
        for g in server_groups {
            let tags = of_name(&g);
            add(SERVER_GROUP, g.id, g.name, tags);
        }
        (all, unseen)
    }

    /// Deletes what is left, once machines have gone.
    pub(super) async fn delete_network(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let (mut all, unseen) = self.visible(Some(cluster.name.as_str())).await;
        // What cannot be seen is no reason to leave what can.
        let seen_not = |e: ProviderError| ("what cannot be seen".to_owned(), e.message);
        report.left.extend(unseen.into_iter().map(seen_not));
        all.retain(|r| r.cluster.id == cluster.id);
        // Groups are held by ports.
        let (first, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.kind == ADDRESS || r.kind == PORT_KIND);
        for part in [first, rest] {
            for outcome in join_all(part.iter().map(|r| self.drop_one(&r.kind, &r.id, &r.name))).await {
                note(&mut report, outcome);
            }
            if !report.left.is_empty() {
                self.stuck.store(true, Ordering::Relaxed);
            }
        }
        self.forget(cluster);
        Ok(report)
    }

    /// Deletes one thing; gives its name, and why it is left.
    async fn drop_one(&self, kind: &str, id: &str, name: &str) -> (String, Result<(), ProviderError>) {
        let (service, folder) = match kind {
            ADDRESS => (Service::Network, "floatingips"),
            PORT_KIND => (Service::Network, "ports"),
            GROUP => (Service::Network, "security-groups"),
            _ => (Service::Compute, "os-server-groups"),
        };
        let path = format!("/{folder}/{id}");
        let call = format!("delete {kind}");
        let mut until = patience::long();
        let outcome = loop {
            let stuck = self.stuck.load(Ordering::Relaxed);
            match self.api.delete(service, &call, &path).await {
                // Its last machine is on its way out.
                Err(e) if e.code == Code::Conflict && !stuck && !until.is_over() => until.pause().await,
                other => break other,
            }
        };
        (format!("{kind} {name}"), outcome)
    }
}

/// Nothing, for a reason that is kept.
fn hidden<T>(unseen: &mut Vec<ProviderError>, e: ProviderError) -> Vec<T> {
    unseen.push(e);
    Vec::new()
}

fn note(report: &mut Deleted, (name, outcome): (String, Result<(), ProviderError>)) {
    match outcome {
        Ok(()) => report.deleted.push(name),
        Err(e) => report.left.push((name, e.message)),
    }
}

/// A server group has a name and nothing else: `herdsman-<cluster>-<id>-<created>`.
fn of_name(group: &Named) -> Option<Tags> {
    let rest = group.name.strip_prefix("herdsman-")?;
    let (rest, created) = rest.rsplit_once('-')?;
    let (cluster, id) = rest.rsplit_once('-')?;
    let id: ClusterId = id.parse().ok()?;
    let tags = [
        (labels::CLUSTER, cluster),
        (labels::ID, id.as_str()),
        (labels::CREATED, created),
    ];
    Some(tags.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_group_is_known_by_its_name() {
        let group = |name: &str| Named {
            id: "1".into(),
            name: name.into(),
        };
        let tags = of_name(&group("herdsman-my-demo-abcdefghij-1700000000")).unwrap();
        assert_eq!(tags[labels::CLUSTER], "my-demo");
        assert_eq!(tags[labels::ID], "abcdefghij");
        assert_eq!(tags[labels::CREATED], "1700000000");
        for other in ["mine", "herdsman-demo", "herdsman-a-b-c"] {
            assert!(of_name(&group(other)).is_none(), "{other}");
        }
    }
}
