//! What there is: by the user's program, and by what is remembered.

use std::collections::BTreeMap;

use herdsman_wire::{ClusterId, ClusterName, NodeName, Role};

use super::super::{ClusterRef, Machine, ProviderError, Tags};
use super::call::{self, Listed, ListedMachine, Request};
use super::record::{Remembered, Stage};
use super::{Manual, SOON};

type Key = (ClusterId, NodeName);

impl Manual {
    pub(super) async fn list_all(&self, wanted: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        let mut known: BTreeMap<Key, Remembered> = BTreeMap::new();
        let mut programs: Vec<(Vec<String>, Option<ClusterRef>)> = Vec::new();
        let mut add = |argv: &Vec<String>, cluster: Option<ClusterRef>| {
            if !programs.iter().any(|(a, _)| a == argv) {
                programs.push((argv.clone(), cluster));
            }
        };
        if let Some(argv) = &self.settings.programs.list {
            add(argv, None);
        }
        let mut unlisted = Vec::new();
        for id in self.layout.clusters()? {
            let cluster = self.layout.cluster(&id).unwrap_or_else(|e| {
                tracing::warn!("{}", e.message);
                None
            });
            for node in self.layout.nodes(&id)? {
                match self.layout.node(&id, &node) {
                    Ok(Some(record)) => {
                        known.insert((id.clone(), node), record);
                    }
                    Ok(None) => {}
                    Err(e) => {
                        tracing::warn!("{}", e.message);
                        known.extend(
                            cluster
                                .as_ref()
                                .map(|c| ((id.clone(), node.clone()), damaged(&c.cluster, node))),
                        );
                    }
                }
            }
            let Some(cluster) = cluster.filter(|c| wanted.is_none_or(|w| *w == c.cluster.name)) else {
                continue;
            };
            match self.settings.programs.clone().or(cluster.programs).list {
                Some(argv) => add(&argv, Some(cluster.cluster)),
                None => unlisted.push(cluster.cluster.id),
            }
        }
        let mut machines = Vec::new();
        for (argv, cluster) in &programs {
            let within = cluster
                .as_ref()
                .map_or_else(|| self.settings.timeout.unwrap_or(SOON), |c| self.within(c, SOON));
            let listed: Listed = call::json(argv, &Request::list(None), within).await?;
            machines.extend(listed.machines.into_iter().filter_map(|m| self.seen(m, &mut known)));
        }
        // What the program does not see any more, or what nothing looks at.
        for record in known.into_values() {
            let assumed = unlisted.contains(&record.cluster.id) && record.stage == Stage::Made;
            machines.push(self.machine(&record, assumed));
        }
        machines.retain(|m| wanted.is_none_or(|w| *w == m.cluster.name));
        machines.sort_by(|a, b| {
            let key = |m: &Machine| (m.cluster.name.clone(), m.cluster.id.clone(), m.role);
            key(a).cmp(&key(b)).then_with(|| a.node.as_str().cmp(b.node.as_str()))
        });
        Ok(machines)
    }

    /// A machine that the program sees: one that is remembered, or one whose tags
    /// tell all.
    fn seen(&self, m: ListedMachine, known: &mut BTreeMap<Key, Remembered>) -> Option<Machine> {
        let id = m.tags.get("herdsman-id").and_then(|id| id.parse::<ClusterId>().ok());
        let key = known
            .iter()
            .filter(|(key, _)| key.1 == m.node && id.as_ref().is_none_or(|id| *id == key.0))
            .filter(|(_, r)| m.cluster.as_ref().is_none_or(|c| *c == r.cluster.name))
            // An id that the program gave decides between clusters of one name.
            .find(|(_, r)| r.id.as_ref().is_none_or(|id| *id == m.id))
            .map(|(key, _)| key.clone());
        if let Some(mut record) = key.and_then(|key| known.remove(&key)) {
            record.id = Some(m.id);
            record.address = m.address.or(record.address);
            record.public = m.public_address.or(record.public);
            return Some(self.machine(&record, m.running));
        }
        let Some(cluster) = of_tags(&m.tags) else {
            tracing::debug!(node = %m.node, "a listed machine has no tags of a cluster");
            return None;
        };
        let role = match m.tags.get("herdsman-role").map(String::as_str) {
            Some("scheduler") => Role::Scheduler,
            _ => Role::Worker,
        };
        let record = Remembered {
            version: super::VERSION,
            cluster,
            node: m.node,
            role,
            tags: m.tags,
            stage: Stage::Made,
            user_data: std::path::PathBuf::new(),
            id: Some(m.id),
            address: m.address,
            public: m.public_address,
        };
        Some(self.machine(&record, m.running))
    }
}

fn of_tags(tags: &Tags) -> Option<ClusterRef> {
    Some(ClusterRef {
        name: tags.get("herdsman-cluster")?.parse().ok()?,
        id: tags.get("herdsman-id")?.parse().ok()?,
    })
}

/// A machine of which only the folder tells.
fn damaged(cluster: &ClusterRef, node: NodeName) -> Remembered {
    Remembered {
        version: super::VERSION,
        cluster: cluster.clone(),
        node,
        role: Role::Worker,
        tags: Tags::new(),
        stage: Stage::Asked,
        user_data: std::path::PathBuf::new(),
        id: None,
        address: None,
        public: None,
    }
}
