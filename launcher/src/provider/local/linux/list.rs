//! What there is: nodes by their tags, and strays, which are what is left of
//! nodes whose folders were damaged or removed by somebody else. A stray is a
//! machine as well, so that whoever deletes all that is listed leaves nothing.

use std::collections::BTreeSet;

use herdsman_wire::{ClusterId, ClusterName, NodeName, Role};

use super::super::super::{ClusterRef, Machine, ProviderError, Tags};
use super::record::ClusterRecord;
use super::{Local, machine, names, owner, process, record};

/// Tag that only strays have; its value says what is wrong.
const STRAY: &str = "herdsman-stray";

impl Local {
    pub(super) fn list_now(&self, wanted: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        let table = process::Table::read(false);
        let mut machines = Vec::new();
        let mut seen = BTreeSet::new();
        for id in names::<ClusterId>(&self.layout.base)? {
            let mut cluster = None;
            for node in names::<NodeName>(&self.layout.cluster(&id))? {
                let marker = process::marker(&id, &node);
                machines.push(match self.node(&id, &node) {
                    Ok(f) => {
                        let mut machine = machine(&f.record, f.keeper.as_ref());
                        machine.running = f.keeper.as_ref().is_some_and(process::runs)
                            || !table.of(&owner(&f.record, f.keeper.as_ref())).is_empty();
                        machine
                    }
                    Err(why) => {
                        let folder = self.layout.node(&id, &node).dir;
                        tracing::warn!(folder = %folder.display(), %why, "a local node is damaged");
                        let cluster = cluster.get_or_insert_with(|| self.cluster_ref(&id));
                        let running = table.marked().any(|(m, _)| m == marker);
                        stray(cluster.clone(), node, Role::Worker, &why, running)
                    }
                });
                seen.insert(marker);
            }
        }
        machines.extend(self.orphans(&table, &seen));
        machines.retain(|m| wanted.is_none_or(|w| *w == m.cluster.name));
        machines.sort_by(|a, b| {
            let key = |m: &Machine| (m.cluster.name.clone(), m.cluster.id.clone(), m.role);
            key(a).cmp(&key(b)).then_with(|| a.address.cmp(&b.address))
        });
        Ok(machines)
    }

    /// Nodes of which only processes are left: their folder was under ours.
    fn orphans(&self, table: &process::Table, seen: &BTreeSet<String>) -> Vec<Machine> {
        let mut seen = seen.clone();
        let mut found = Vec::new();
        for (marker, process) in table.marked() {
            if seen.contains(marker) {
                continue;
            }
            let Some((id, node)) = parse_marker(marker) else {
                continue;
            };
            let expected = self.layout.node(&id, &node).dir;
            if process.dir.as_deref() != Some(expected.as_path()) {
                continue;
            }
            let (name, role) = process.of.as_deref().and_then(parse_of).unzip();
            let cluster = match name {
                Some(name) => ClusterRef { name, id },
                None => self.cluster_ref(&id),
            };
            let role = role.unwrap_or(Role::Worker);
            found.push(stray(cluster, node, role, "its folder is gone", true));
            seen.insert(marker.to_owned());
        }
        found
    }

    /// The cluster by its own file; where that tells nothing, under a name that
    /// says so.
    fn cluster_ref(&self, id: &ClusterId) -> ClusterRef {
        let known: Option<ClusterRecord> = record::read(&self.layout.cluster_file(id)).unwrap_or_default();
        known.filter(|r| r.cluster.id == *id).map_or_else(
            || ClusterRef {
                // Always a name: a letter, then what an id is made of.
                name: format!("stray-{id}")
                    .parse()
                    .unwrap_or_else(|_| unreachable!("an id is a label")),
                id: id.clone(),
            },
            |r| r.cluster,
        )
    }
}

fn parse_marker(marker: &str) -> Option<(ClusterId, NodeName)> {
    let (id, node) = marker.split_once('/')?;
    Some((id.parse().ok()?, node.parse().ok()?))
}

fn parse_of(of: &str) -> Option<(ClusterName, Role)> {
    let (name, role) = of.split_once('/')?;
    let role = [Role::Scheduler, Role::Worker]
        .into_iter()
        .find(|r| r.as_str() == role)?;
    Some((name.parse().ok()?, role))
}

fn stray(cluster: ClusterRef, node: NodeName, role: Role, why: &str, running: bool) -> Machine {
    let tags = Tags::from([
        ("herdsman-cluster".to_owned(), cluster.name.to_string()),
        ("herdsman-node".to_owned(), node.to_string()),
        (STRAY.to_owned(), why.to_owned()),
    ]);
    Machine {
        id: process::marker(&cluster.id, &node),
        cluster,
        node,
        role,
        address: None,
        agent: None,
        scheduler: None,
        tags,
        running,
        hardware: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_back() {
        let (id, node) = parse_marker("aaaaaaaaaa/demo-w0").unwrap();
        assert_eq!(process::marker(&id, &node), "aaaaaaaaaa/demo-w0");
        for bad in ["", "aaaaaaaaaa", "aaaaaaaaaa/", "x/y", "aaaaaaaaaa/../x"] {
            assert!(parse_marker(bad).is_none(), "{bad}");
        }
        assert_eq!(parse_of("demo/scheduler").unwrap().1, Role::Scheduler);
        assert!(parse_of("demo/king").is_none() && parse_of("Demo/worker").is_none());
    }
}
