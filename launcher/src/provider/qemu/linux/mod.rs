//! Virtual machines on Linux. Public calls here.

mod args;
mod create;
mod image;
mod iso;
mod net;
mod process;
mod qmp;
mod record;
mod seed;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use herdsman_wire::{ClusterId, ClusterName, Code, NodeName, Role};

use super::super::local::linux::tail;
use super::super::{ClusterRef, Deleted, Machine, MachineSpec, Placement, ProviderError, Tags};
use super::{Accel, QemuSettings};
use crate::bootstrap::UserDataForm;
use crate::files;
use qmp::Qmp;
use record::{ClusterRecord, Layout, NodeRecord, VERSION};

/// Tag that only strays have; its value says what is wrong.
const STRAY: &str = "herdsman-stray";

/// The provider.
#[derive(Debug)]
pub struct Qemu {
    settings: QemuSettings,
    layout: Layout,
    /// QEMU takes one connection to its control channel at a time.
    monitor: tokio::sync::Mutex<()>,
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
    move |e| fail(Code::Disk, format!("{}: {e}", path.display()))
}

/// Runs what blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| fail(Code::Internal, format!("a thread of provider qemu died: {e}")))
}

impl Qemu {
    /// A provider with these settings; touches nothing yet.
    #[must_use]
    pub fn new(settings: QemuSettings) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            layout: Layout {
                base: absolute(&settings.base),
                run_base: absolute(&settings.run_base),
            },
            settings,
            monitor: tokio::sync::Mutex::default(),
        }
    }

    /// In which form its machines take what they are told.
    #[must_use]
    pub const fn user_data_form(&self) -> UserDataForm {
        self.settings.form
    }

    /// Says where a node will be, and notes it for [`Self::create`].
    ///
    /// # Errors
    /// `E-QUOTA` when the network is full, `E-DISK`.
    pub fn place(&self, cluster: &ClusterRef, node: &NodeName, index: u32) -> Result<Placement, ProviderError> {
        let mut record = self.layout.cluster(&cluster.id)?.ok_or_else(|| {
            fail(
                Code::NotFound,
                format!("the records of `{}` are gone from this computer", cluster.name),
            )
        })?;
        let address = net::address(index)?;
        if record.places.insert(node.clone(), index) != Some(index) {
            self.layout.save_cluster(&record)?;
        }
        Ok(Placement {
            address: Some(address.into()),
            laptop: net::OUTSIDE_GATEWAY.parse().ok(),
            ..Placement::default()
        })
    }

    /// Looks at the image and settles what a cluster keeps for its life. The
    /// network itself comes with the scheduler's machine.
    ///
    /// # Errors
    /// As the image's check says; `E-PERM` when KVM was asked for and cannot be
    /// used; `E-DISK`, `E-PORT`.
    pub async fn ensure_network(&self, cluster: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        if self.layout.cluster(&cluster.id)?.is_some() {
            return Ok(());
        }
        let image = image::look(&self.settings).await?;
        let kvm = match (self.settings.accel, kvm()) {
            (Accel::Tcg, _) => false,
            (Accel::Auto, usable) => usable.is_ok(),
            (Accel::Kvm, Ok(())) => true,
            (Accel::Kvm, Err(why)) => {
                return Err(ProviderError {
                    hint: vec!["write qemu.accel = \"auto\": it also works without KVM, about ten times slower".into()],
                    ..fail(Code::Permission, format!("KVM cannot be used: {why}"))
                });
            }
        };
        self.layout.save_cluster(&ClusterRecord {
            version: VERSION,
            cluster: cluster.clone(),
            image,
            kvm,
            scheduler: self.settings.scheduler,
            worker: self.settings.worker,
            ports: Self::free_ports()?,
            places: std::collections::BTreeMap::new(),
        })
    }

    /// Starts machines that [`Self::place`] has placed. One that runs is answered
    /// as it is.
    pub async fn create(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        self.create_all(cluster, machines).await
    }

    /// These machines are nodes: their user-data is overwritten.
    pub fn enrolled(&self, cluster: &ClusterRef, nodes: &[NodeName]) {
        for node in nodes {
            let Ok(Some(mut record)) = self.layout.record(&cluster.id, node) else {
                continue;
            };
            if record.user_data.is_none() {
                continue;
            }
            let seed = self.layout.node(&cluster.id, node).seed();
            let spent = seed::spend(&seed, &record).map_err(disk(&seed)).and_then(|()| {
                record.user_data = None;
                self.layout.save(&record)
            });
            if let Err(e) = spent {
                tracing::warn!(%node, "its user-data stays: {}", e.message);
            }
        }
    }

    /// All machines, or those of one cluster. What is damaged is among them as a
    /// stray, so that it can be deleted.
    ///
    /// # Errors
    /// `E-DISK` when the folder cannot be read.
    pub async fn list(&self, cluster: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        let base = self.layout.base.clone();
        let running = blocking(move || process::running(&base)).await?;
        let mut machines = Vec::new();
        let mut seen = BTreeSet::new();
        for id in self.layout.clusters()? {
            let of = self.layout.cluster(&id).unwrap_or_else(|e| {
                tracing::warn!("{}", e.message);
                None
            });
            for node in self.layout.nodes(&id)? {
                let key = (id.clone(), node.clone());
                let runs = running.contains_key(&key);
                machines.push(match self.layout.record(&id, &node) {
                    Ok(Some(record)) => self.machine(of.as_ref(), &record, runs),
                    Ok(None) => stray(of.as_ref(), key.clone(), "it has no tags.json", runs),
                    Err(e) => stray(of.as_ref(), key.clone(), &e.message, runs),
                });
                seen.insert(key);
            }
        }
        for key in running.into_keys().filter(|k| !seen.contains(k)) {
            let of = self.layout.cluster(&key.0).unwrap_or_default();
            machines.push(stray(of.as_ref(), key, "its folder is gone", true));
        }
        machines.retain(|m| cluster.is_none_or(|c| *c == m.cluster.name));
        machines.sort_by(|a, b| {
            let key = |m: &Machine| (m.cluster.name.clone(), m.cluster.id.clone(), m.role, m.address);
            key(a).cmp(&key(b))
        });
        Ok(machines)
    }

    /// Ends machines and removes all that is theirs. Workers first: the scheduler's
    /// has their network.
    ///
    /// # Errors
    /// None at present: what failed is in [`Deleted::left`].
    pub async fn delete(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let mut order: Vec<&Machine> = machines.iter().collect();
        order.sort_by_key(|m| m.role == Role::Scheduler);
        let all: BTreeSet<_> = order.iter().map(|m| (&m.cluster.id, m.role)).collect();
        for machine in &order {
            let name = machine.node.to_string();
            match self.remove_node(&machine.cluster.id, &machine.node).await {
                Ok(index) => {
                    report.deleted.push(name);
                    let hub_goes = all.contains(&(&machine.cluster.id, Role::Scheduler));
                    if let Some(index) = index.filter(|i| *i > 0 && !hub_goes) {
                        self.unplug(&machine.cluster.id, index).await;
                    }
                }
                Err(why) => report.left.push((name, why)),
            }
        }
        Ok(report)
    }

    /// Removes what is left of a cluster without machines.
    ///
    /// # Errors
    /// None at present: what failed is in [`Deleted::left`].
    pub fn delete_rest(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        if !self.layout.nodes(&cluster.id)?.is_empty() {
            return Ok(report);
        }
        for folder in [self.layout.run(&cluster.id), self.layout.of_cluster(&cluster.id)] {
            let existed = folder.exists();
            match files::remove_dir(&folder) {
                Ok(()) if existed => report.deleted.push(folder.display().to_string()),
                Ok(()) => {}
                Err(e) => report.left.push((folder.display().to_string(), e.message)),
            }
        }
        Ok(report)
    }

    /// The last of what a machine wrote to its serial port, at most 256 KiB.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when it has no console, `E-DISK`.
    pub async fn console(&self, machine: &Machine) -> Result<String, ProviderError> {
        let path = self.layout.node(&machine.cluster.id, &machine.node).console();
        blocking(move || tail(&path)).await?.map_err(|(path, e)| {
            if e.kind() == io::ErrorKind::NotFound {
                fail(Code::NotFound, format!("there is no console: {}", path.display()))
            } else {
                disk(&path)(e)
            }
        })
    }

    /// Ends a machine and removes its folder; gives its number, if that is known.
    async fn remove_node(&self, id: &ClusterId, node: &NodeName) -> Result<Option<u32>, String> {
        let index = self.layout.record(id, node).ok().flatten().map(|r| r.index);
        let known = || self.layout.cluster(id).ok()??.places.get(node).copied();
        let index = index.or_else(known);
        let (base, key) = (self.layout.base.clone(), (id.clone(), node.clone()));
        let ended = blocking(move || process::running(&base).get(&key).map_or(Ok(()), |p| process::end(p))).await;
        ended.map_err(|e| e.message)??;
        for socket in index
            .into_iter()
            .flat_map(|i| [self.layout.qmp(id, i), self.layout.port(id, i)])
        {
            let _ = std::fs::remove_file(socket);
        }
        files::remove_dir(&self.layout.node(id, node).dir).map_err(|e| e.message)?;
        Ok(index)
    }

    /// Takes a deleted worker's place at the hub away. If that fails, a socket
    /// that nobody connects to is left in a process that goes with the cluster.
    async fn unplug(&self, id: &ClusterId, index: u32) {
        let hub = self.layout.qmp(id, 0);
        let _one = self.monitor.lock().await;
        let done = blocking(move || Qmp::open(&hub).map(|mut q| q.unplug(index))).await;
        if let Ok(Err(e)) = done {
            tracing::debug!("the hub does not answer: {e}");
        }
    }

    fn machine(&self, cluster: Option<&ClusterRecord>, record: &NodeRecord, running: bool) -> Machine {
        let reached = |which: usize| {
            let ports = cluster.filter(|_| record.role == Role::Scheduler)?.ports;
            Some((std::net::Ipv4Addr::LOCALHOST, *ports.get(which)?).into())
        };
        Machine {
            id: format!("{}/{}", record.cluster.id, record.node),
            cluster: record.cluster.clone(),
            node: record.node.clone(),
            role: record.role,
            address: Some(record.address.into()),
            agent: reached(0),
            scheduler: reached(1),
            tags: record.tags.clone(),
            running,
            hardware: Default::default(),
        }
    }
}

fn stray(cluster: Option<&ClusterRecord>, key: (ClusterId, NodeName), why: &str, running: bool) -> Machine {
    let (id, node) = key;
    let cluster = cluster.map_or_else(
        || ClusterRef {
            // Always a name: a letter, then what an id is made of.
            name: format!("stray-{id}")
                .parse()
                .unwrap_or_else(|_| unreachable!("an id is a label")),
            id: id.clone(),
        },
        |c| c.cluster.clone(),
    );
    Machine {
        id: format!("{id}/{node}"),
        tags: Tags::from([
            ("herdsman-cluster".to_owned(), cluster.name.to_string()),
            ("herdsman-node".to_owned(), node.to_string()),
            (STRAY.to_owned(), why.to_owned()),
        ]),
        cluster,
        role: if node.as_str().ends_with("-scheduler") {
            Role::Scheduler
        } else {
            Role::Worker
        },
        node,
        address: None,
        agent: None,
        scheduler: None,
        running,
        hardware: Default::default(),
    }
}

/// Whether KVM can be used. The device alone says little: where the processor has
/// no support for it, machines on it hang or die.
fn kvm() -> Result<(), String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    if !flags.split_ascii_whitespace().any(|f| f == "vmx" || f == "svm") {
        return Err("the processor does not support it, or this is a virtual machine itself".into());
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(|_| ())
        .map_err(|e| format!("/dev/kvm: {e}"))
}
