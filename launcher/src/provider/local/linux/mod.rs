//! Local nodes on Linux. Public calls here; each does its blocking part on a
//! thread for that.

mod cgroup;
mod create;
mod delete;
mod list;
mod lock;
mod netns;
mod place;
pub(in crate::provider) mod process;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herdsman_wire::join::Paths;
use herdsman_wire::{ClusterId, ClusterName, Code, NodeName, Role, limits};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::super::{ClusterRef, LocalSettings, Machine, Placement, ProviderError, Tags};
use super::Network;
use record::{ClusterRecord, KeeperState, Kind, Layout, NodeFiles, NodeRecord, VERSION};

/// Most that [`Local::console`] answers.
const CONSOLE_TAIL: u64 = 256 * 1024;

/// The provider; cheap to clone, so that calls can take it to other threads.
#[derive(Clone, Debug)]
pub(super) struct Local {
    agent: PathBuf,
    layout: Layout,
    network: Network,
    making: Making,
}

/// Work on a thread of its own goes on when the caller is interrupted. What
/// deletes waits for it, or it would make things behind the deletion's back.
#[derive(Clone, Debug, Default)]
struct Making(Arc<RwLock<()>>);

impl Making {
    /// Held by the work itself.
    async fn begin(&self) -> OwnedRwLockReadGuard<()> {
        self.0.clone().read_owned().await
    }

    /// Ends when nothing is being made.
    async fn settled(&self) {
        drop(self.0.write().await);
    }
}

fn fail(code: Code, message: impl Into<String>) -> ProviderError {
    ProviderError {
        code,
        message: message.into(),
        hint: vec![],
        retryable: false,
    }
}

fn disk(path: &Path) -> impl Fn(io::Error) -> ProviderError + '_ {
    move |e| ProviderError {
        hint: match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => vec!["free some space and try again".into()],
            _ => vec![],
        },
        ..fail(Code::Disk, format!("{}: {e}", path.display()))
    }
}

/// Runs what blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| fail(Code::Internal, format!("a thread of the local provider died: {e}")))
}

/// A node's record with what goes with it.
#[derive(Debug)]
struct Found {
    record: NodeRecord,
    keeper: Option<KeeperState>,
}

impl Local {
    pub(super) fn new(settings: LocalSettings) -> Self {
        // Nodes start in another folder, so relative paths would mislead them.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Self {
            agent: absolute(settings.agent),
            layout: Layout {
                base: absolute(settings.base),
                run_base: absolute(settings.run_base),
            },
            network: settings.network,
            making: Making::default(),
        }
    }

    pub(super) fn environments(&self) -> PathBuf {
        self.layout.environments()
    }

    pub(super) fn place(&self, cluster: &ClusterRef, node: &NodeName, index: u32) -> Result<Placement, ProviderError> {
        let _lock = lock::take(&self.layout.base)?;
        let mut record = self.cluster_record(cluster)?;
        let before = record.clone();
        let exists = self.layout.node(&cluster.id, node).tags().exists();
        let used = self.used_loopback(&record, node)?;
        let address = match (record.places.get(node), record.network) {
            (Some(address), _) if exists => *address,
            (_, Kind::Namespace) => place::in_namespace(index)?,
            (_, Kind::Loopback) => place::free_loopback(&cluster.id, index, &|a| used.contains(&a))?,
        };
        if record.network == Kind::Namespace && index == 0 && record.outer.is_none() {
            // None is fine: the forwards then get ports that are free.
            record.outer = place::free_loopback(&cluster.id, 0, &|a| used.contains(&a)).ok();
        }
        record.places.insert(node.clone(), address);
        if record != before {
            self.write_cluster(&record)?;
        }
        let address = IpAddr::V4(address);
        Ok(Placement {
            address: Some(address),
            listen: (index == 0).then(|| SocketAddr::new(address, limits::AGENT_PORT)),
            bind: (record.network == Kind::Loopback).then_some(address),
            paths: Some(Paths {
                state: self.layout.node(&cluster.id, node).state(),
                run: self.layout.run(&cluster.id, node),
                environments: self.layout.environments(),
            }),
            // It comes through the keeper, from the machine itself.
            laptop: None,
        })
    }

    pub(super) async fn ensure_network(&self, cluster: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        let (me, cluster) = (self.clone(), cluster.clone());
        let making = self.making.begin().await;
        blocking(move || {
            let _making = making;
            let record = {
                let _lock = lock::take(&me.layout.base)?;
                me.cluster_record(&cluster)?
            };
            let _lock = lock::take(&me.layout.cluster(&cluster.id))?;
            match record.network {
                Kind::Loopback => Ok(()),
                Kind::Namespace => netns::ensure_bridge(&cluster.id).map_err(|e| fail(Code::Provider, e)),
            }
        })
        .await?
    }

    pub(super) async fn list(&self, cluster: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        let (me, cluster) = (self.clone(), cluster.cloned());
        self.making.settled().await;
        blocking(move || me.list_now(cluster.as_ref())).await?
    }

    pub(super) async fn console(&self, machine: &Machine) -> Result<String, ProviderError> {
        let path = self.layout.node(&machine.cluster.id, &machine.node).boot_log();
        blocking(move || tail(&path)).await?.map_err(|(path, e)| {
            if e.kind() == io::ErrorKind::NotFound {
                fail(Code::NotFound, format!("there is no console: {}", path.display()))
            } else {
                disk(&path)(e)
            }
        })
    }

    /// The cluster's record; made, with the choice of its network, where there
    /// is none.
    fn cluster_record(&self, cluster: &ClusterRef) -> Result<ClusterRecord, ProviderError> {
        let path = self.layout.cluster_file(&cluster.id);
        if let Some(record) = record::read(&path).map_err(disk(&path))? {
            return Ok(record);
        }
        let record = ClusterRecord {
            version: VERSION,
            cluster: cluster.clone(),
            network: self.choose(&cluster.id)?,
            namespaces: netns::prefix(&cluster.id),
            places: BTreeMap::new(),
            outer: None,
        };
        self.write_cluster(&record)?;
        Ok(record)
    }

    fn write_cluster(&self, record: &ClusterRecord) -> Result<(), ProviderError> {
        let path = self.layout.cluster_file(&record.cluster.id);
        record::make_dir(&self.layout.cluster(&record.cluster.id))
            .and_then(|()| record::write_json(&path, record))
            .map_err(disk(&path))
    }

    fn choose(&self, id: &ClusterId) -> Result<Kind, ProviderError> {
        if self.network == Network::Loopback {
            return Ok(Kind::Loopback);
        }
        match netns::usable(id) {
            Ok(()) => Ok(Kind::Namespace),
            Err(why) if self.network == Network::Auto => {
                tracing::debug!(why, "local nodes are joined on the loopback interface");
                Ok(Kind::Loopback)
            }
            Err(why) => Err(ProviderError {
                hint: vec!["let herdsman choose the network: nodes are then joined on the loopback interface".into()],
                ..fail(Code::Permission, why)
            }),
        }
    }

    /// Loopback addresses of all clusters, save that of this node. What cannot
    /// be read is left to the look whether its ports are free.
    fn used_loopback(&self, ours: &ClusterRecord, node: &NodeName) -> Result<BTreeSet<Ipv4Addr>, ProviderError> {
        let others = names::<ClusterId>(&self.layout.base)?
            .into_iter()
            .filter(|id| *id != ours.cluster.id)
            .filter_map(|id| record::read::<ClusterRecord>(&self.layout.cluster_file(&id)).ok()?);
        let mut used = BTreeSet::new();
        for record in others.chain([ours.clone()]) {
            used.extend(record.outer);
            if record.network == Kind::Loopback {
                let mine = record.cluster.id == ours.cluster.id;
                used.extend(
                    record
                        .places
                        .iter()
                        .filter(|(n, _)| !mine || *n != node)
                        .map(|(_, a)| *a),
                );
            }
        }
        Ok(used)
    }

    /// A node's record, which must be what its folder's name says.
    fn node(&self, id: &ClusterId, node: &NodeName) -> Result<Found, String> {
        let files = self.layout.node(id, node);
        let record: NodeRecord = record::read(&files.tags())
            .map_err(|e| format!("tags.json: {e}"))?
            .ok_or("it has no tags.json")?;
        if record.cluster.id != *id || record.node != *node {
            return Err(format!("its tags are those of {}/{}", record.cluster.id, record.node));
        }
        Ok(Found {
            record,
            keeper: keeper(&files),
        })
    }
}

/// The keeper's state; a damaged one counts as none, as the marker finds what
/// its number would have.
fn keeper(files: &NodeFiles) -> Option<KeeperState> {
    record::read(&files.keeper_state()).unwrap_or_default()
}

/// How the processes of a node are known. Namespaces and control groups are the
/// deleter's affair.
fn owner(record: &NodeRecord, keeper: Option<&KeeperState>) -> process::Owner {
    process::Owner {
        marker: process::marker(&record.cluster.id, &record.node),
        keepers: keeper
            .filter(|k| process::boot_id().is_some_and(|b| b == k.boot_id))
            .map(|k| (k.pid, k.start_ticks))
            .into_iter()
            .collect(),
        ..process::Owner::default()
    }
}

/// Names of a folder's folders, as far as they are names of the kind asked for.
fn names<T: std::str::FromStr + Ord>(dir: &Path) -> Result<Vec<T>, ProviderError> {
    let entries = match fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(disk(dir)(e)),
    };
    let mut names: Vec<T> = entries
        .filter_map(Result::ok)
        // Not through symbolic links: those are nobody's node.
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn machine(record: &NodeRecord, keeper: Option<&KeeperState>) -> Machine {
    let reached = |name: &str, port: u16| match (record.role, record.network) {
        (Role::Worker, _) => None,
        (Role::Scheduler, Kind::Loopback) => Some(SocketAddr::new(record.address.into(), port)),
        (Role::Scheduler, Kind::Namespace) => keeper?.forwards.iter().find(|f| f.name == name).map(|f| f.listen),
    };
    Machine {
        id: process::marker(&record.cluster.id, &record.node),
        cluster: record.cluster.clone(),
        node: record.node.clone(),
        role: record.role,
        address: Some(record.address.into()),
        agent: reached(create::FORWARD_AGENT, limits::AGENT_PORT),
        scheduler: reached(create::FORWARD_SCHEDULER, limits::SCHEDULER_PORT),
        tags: record.tags.clone(),
        running: false,
        hardware: Default::default(),
    }
}

/// The end of a file, from a line's beginning on.
pub(in crate::provider) fn tail(path: &Path) -> Result<String, (PathBuf, io::Error)> {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(CONSOLE_TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(CONSOLE_TAIL).read_to_end(&mut bytes)?;
        let from = match bytes.iter().position(|b| *b == b'\n') {
            Some(end) if start > 0 => end + 1,
            _ => 0,
        };
        Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
    };
    read().map_err(|e| (path.to_owned(), e))
}
