//! Ending nodes. Every step goes on after a failure of another node, and finds
//! its work by looking, so that it can be repeated after any interruption.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use herdsman_wire::{ClusterId, Code, NodeName};
use rustix::process::Signal;

use super::super::super::{ClusterRef, Deleted, Machine, ProviderError};
use super::record::ClusterRecord;
use super::{Local, blocking, cgroup, lock, netns, process, record};

/// Time for keepers to end their nodes in order.
const GRACE: Duration = Duration::from_secs(10);
/// Time for killed processes to be gone: what hangs in the kernel takes longer
/// than anybody wants to wait.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// What is to end.
#[derive(Debug)]
struct Target {
    name: String,
    owner: process::Owner,
    reason: Option<String>,
}

impl Local {
    pub(in super::super) async fn delete(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut clusters: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for m in machines {
            let nodes = clusters.entry(m.cluster.id.clone()).or_default();
            nodes.push((m.cluster.clone(), m.node.clone()));
        }
        let me = self.clone();
        self.making.settled().await;
        blocking(move || {
            // Each waits for its own nodes to end, so none for another.
            let ended: Vec<Deleted> = std::thread::scope(|scope| {
                let running: Vec<_> = clusters
                    .iter()
                    .map(|(id, nodes)| (nodes, scope.spawn(|| me.delete_of(id, nodes))))
                    .collect();
                running
                    .into_iter()
                    .map(|(nodes, thread)| thread.join().unwrap_or_else(|_| left(nodes, "a helper thread died")))
                    .collect()
            });
            ended.into_iter().fold(Deleted::default(), |mut all, one| {
                all.deleted.extend(one.deleted);
                all.left.extend(one.left);
                all
            })
        })
        .await
    }

    pub(in super::super) async fn delete_rest(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let (me, cluster) = (self.clone(), cluster.clone());
        self.making.settled().await;
        blocking(move || {
            let _lock = lock::take_existing(&me.layout.cluster(&cluster.id))?;
            Ok(me.delete_rest_now(&cluster))
        })
        .await?
    }

    fn delete_of(&self, id: &ClusterId, nodes: &[(ClusterRef, NodeName)]) -> Deleted {
        match lock::take_existing(&self.layout.cluster(id)) {
            Ok(_lock) => self.delete_locked(nodes),
            Err(e) => left(nodes, &e.message),
        }
    }

    /// Ends nodes and removes what is theirs. The caller holds the lock of their
    /// cluster, if that has a folder.
    pub(super) fn delete_locked(&self, nodes: &[(ClusterRef, NodeName)]) -> Deleted {
        let groups = cgroup::find(|name| nodes.iter().any(|(c, n)| name == cgroup::name(&c.id, n)));
        let mut targets = Vec::new();
        let mut keepers = Vec::new();
        for (cluster, node) in nodes {
            let keeper = super::keeper(&self.layout.node(&cluster.id, node));
            let group = cgroup::name(&cluster.id, node);
            let mut owner = process::Owner {
                marker: process::marker(&cluster.id, node),
                netns: netns::inode(&netns::name(&cluster.id, node)).into_iter().collect(),
                cgroups: groups.iter().filter(|g| g.ends_with(&group)).cloned().collect(),
                ..process::Owner::default()
            };
            if let Some(k) = keeper {
                if process::boot_id().is_some_and(|b| b == k.boot_id) {
                    owner.keepers.push((k.pid, k.start_ticks));
                }
                keepers.push(k);
            }
            targets.push(Target {
                name: node.to_string(),
                owner,
                reason: None,
            });
        }

        keepers.retain(process::runs);
        for k in &keepers {
            // What cannot be told to end is killed below.
            let _ = process::signal(k.pid, k.start_ticks, Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while !keepers.is_empty() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
            keepers.retain(process::runs);
        }
        kill(&mut targets);
        let gone: Vec<_> = targets.iter().zip(nodes).filter(|(t, _)| t.reason.is_none()).collect();
        self.remove_networks(gone.into_iter().map(|(_, node)| node));

        let mut result = Deleted::default();
        for (target, (cluster, node)) in targets.into_iter().zip(nodes) {
            // The folder stays while a process does: it is how it is found again.
            let reason = target
                .reason
                .or_else(|| self.remove_node(cluster, node, &target.owner.cgroups).err());
            match reason {
                None => result.deleted.push(target.name),
                Some(reason) => result.left.push((target.name, reason)),
            }
        }
        self.forget(nodes);
        result
    }

    /// Namespaces of many nodes at once. What fails is tried again, and told, for
    /// each node by itself.
    fn remove_networks<'a>(&self, nodes: impl Iterator<Item = &'a (ClusterRef, NodeName)>) {
        let mut names = Vec::new();
        let mut ports: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (cluster, node) in nodes {
            let name = netns::name(&cluster.id, node);
            if !netns::file(&name).exists() {
                continue;
            }
            if let Ok(found) = self.node(&cluster.id, node) {
                ports.entry(cluster.id.clone()).or_default().push(found.record.address);
            }
            names.push(name);
        }
        for (id, ports) in ports {
            netns::remove_ports(&id, &ports);
        }
        let _ = netns::remove(&names);
    }

    fn remove_node(&self, cluster: &ClusterRef, node: &NodeName, groups: &[PathBuf]) -> Result<(), String> {
        cgroup::remove(groups)?;
        netns::remove(&[netns::name(&cluster.id, node)])?;
        remove(&self.layout.run(&cluster.id, node))?;
        // Last, as its tags are what `list` finds.
        remove(&self.layout.node(&cluster.id, node).dir)
    }

    /// Gives up the places of nodes that are gone, and empty folders. Best
    /// effort: a place too many does no harm.
    fn forget(&self, nodes: &[(ClusterRef, NodeName)]) {
        let mut gone: BTreeMap<_, Vec<&NodeName>> = BTreeMap::new();
        for (cluster, node) in nodes {
            if !self.layout.node(&cluster.id, node).dir.exists() {
                gone.entry(cluster.id.clone()).or_default().push(node);
            }
        }
        let Ok(_lock) = lock::take_existing(&self.layout.base) else {
            return;
        };
        for (id, nodes) in gone {
            let path = self.layout.cluster_file(&id);
            if let Ok(Some(mut record)) = record::read::<ClusterRecord>(&path) {
                record.places.retain(|n, _| !nodes.contains(&n));
                let _ = record::write_json(&path, &record);
            }
            let _ = fs::remove_dir(self.layout.run_cluster(&id));
        }
    }

    fn delete_rest_now(&self, cluster: &ClusterRef) -> Deleted {
        let id = &cluster.id;
        let names = netns::of_cluster(id);
        let mut owner = process::Owner {
            marker: format!("{id}/"),
            netns: names.iter().filter_map(|n| netns::inode(n)).collect(),
            cgroups: cgroup::find(|name| name.starts_with(&cgroup::prefix(id))),
            ..process::Owner::default()
        };
        let boot = process::boot_id();
        for node in super::names::<NodeName>(&self.layout.cluster(id)).unwrap_or_default() {
            if let Some(k) = super::keeper(&self.layout.node(id, &node))
                && boot.as_ref() == Some(&k.boot_id)
            {
                owner.keepers.push((k.pid, k.start_ticks));
            }
        }
        let mut targets = [Target {
            name: format!("processes of {id}"),
            owner,
            reason: None,
        }];
        let mut result = Deleted::default();
        let killed = kill(&mut targets);
        let [processes] = targets;
        for group in &processes.owner.cgroups {
            let name = group.display().to_string();
            match cgroup::remove(std::slice::from_ref(group)) {
                Ok(()) => result.deleted.push(name),
                Err(why) => result.left.push((name, why)),
            }
        }
        match processes.reason {
            Some(reason) => result.left.push((processes.name, reason)),
            None if killed => result.deleted.push(processes.name),
            None => {}
        }
        for name in names {
            match netns::remove(std::slice::from_ref(&name)) {
                Ok(()) => result.deleted.push(format!("network namespace {name}")),
                Err(why) => result.left.push((format!("network namespace {name}"), why)),
            }
        }
        // What is left is found again by the folder, so it stays as well.
        if result.left.is_empty() {
            for dir in [self.layout.run_cluster(id), self.layout.cluster(id)] {
                let name = dir.display().to_string();
                let there = dir.exists();
                match remove(&dir) {
                    Ok(()) if there => result.deleted.push(name),
                    Ok(()) => {}
                    Err(why) => result.left.push((name, why)),
                }
            }
        }
        for dir in [&self.layout.run_base, &self.layout.base] {
            // Only if empty.
            let _ = fs::remove_dir(dir);
        }
        result
    }
}

/// Nothing of this was done.
fn left(nodes: &[(ClusterRef, NodeName)], why: &str) -> Deleted {
    Deleted {
        left: nodes.iter().map(|(_, n)| (n.to_string(), why.to_owned())).collect(),
        ..Deleted::default()
    }
}

/// Kills all processes of the targets, again until none is found twice in a
/// row: between two looks one may have started another. Says in each target what
/// is left; answers whether there was any.
fn kill(targets: &mut [Target]) -> bool {
    let with_netns = targets.iter().any(|t| !t.owner.netns.is_empty());
    let deadline = Instant::now() + KILL_DEADLINE;
    let mut any = false;
    let mut clean = 0;
    loop {
        let table = process::Table::read(with_netns);
        let mut left = false;
        for target in &mut *targets {
            let found = table.of(&target.owner);
            target.reason = None;
            if found.is_empty() {
                continue;
            }
            left = true;
            let mut refused = None;
            for p in &found {
                refused = process::signal(p.pid, p.start_ticks, Signal::KILL).err().or(refused);
            }
            let pids: Vec<String> = found.iter().map(|p| p.pid.to_string()).collect();
            target.reason = Some(format!(
                "processes {} {}",
                pids.join(", "),
                refused.map_or_else(|| "do not end".to_owned(), |e| format!("cannot be killed: {e}")),
            ));
        }
        any |= left;
        clean = if left { 0 } else { clean + 1 };
        // The first look is enough where nothing was running.
        if clean == 2 || (clean == 1 && !any) || Instant::now() >= deadline {
            return any;
        }
        std::thread::sleep(LOOK);
    }
}

fn remove(dir: &Path) -> Result<(), String> {
    // What is being deleted may still be written to by a process that is just
    // ending: a second try finds it settled.
    let again = |e: io::Error| {
        tracing::debug!(error = %e, code = %Code::Disk, "trying again to remove a folder");
        std::thread::sleep(LOOK);
        record::remove_dir(dir)
    };
    record::remove_dir(dir)
        .or_else(again)
        .map_err(|e| format!("{}: {e}", dir.display()))
}
