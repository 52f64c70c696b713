//! Making machines: records, seeds, disks, processes.

use std::net::TcpListener;
use std::path::Path;

use futures_util::StreamExt as _;
use herdsman_wire::{Code, Role, Secret, limits};
use tokio::process::Command;

use super::super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::super::Size;
use super::args::{Place, Vm};
use super::qmp::Qmp;
use super::record::{ClusterRecord, NodeRecord, VERSION};
use super::{Qemu, blocking, disk, fail, image, net, process, seed};
use crate::files;

/// Machines made at the same time.
const AT_ONCE: usize = 4;
/// Ports of this computer are free until somebody takes them.
const TRIES: u32 = 3;
/// Longest path of a socket; unix(7) has room for 107 bytes and an end.
const SOCKET_MAX: usize = 100;
/// Memory that QEMU takes besides a machine's own.
const OVERHEAD: u64 = 128 << 20;

impl Qemu {
    /// All machines; the scheduler's first, as it has the network of the others.
    pub(super) async fn create_all(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
    ) -> Vec<Result<Machine, ProviderError>> {
        let ready = self.ready(cluster, machines);
        let record = match ready {
            Ok(record) => record,
            Err(e) => return machines.iter().map(|_| Err(e.clone())).collect(),
        };
        let mut results: Vec<Option<Result<Machine, ProviderError>>> = machines.iter().map(|_| None).collect();
        for role in [Role::Scheduler, Role::Worker] {
            let wanted = machines.iter().enumerate().filter(|(_, m)| m.role == role);
            let work: Vec<_> = wanted.map(|(i, spec)| self.indexed(i, &record, spec)).collect();
            // Only the scheduler's can be there already.
            if results.iter().flatten().any(Result::is_err) {
                break;
            }
            let done: Vec<_> = futures_util::stream::iter(work)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (i, result) in done {
                results[i] = Some(result);
            }
        }
        let missing = || {
            Err(fail(
                Code::Provider,
                "not made: the scheduler's machine has its network",
            ))
        };
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    async fn indexed(
        &self,
        i: usize,
        cluster: &ClusterRecord,
        spec: &MachineSpec,
    ) -> (usize, Result<Machine, ProviderError>) {
        let result = self.create_one(cluster, spec).await;
        if result.is_err() {
            // What is half made would be in the way of the next try. Its record
            // goes last, and stays where something else does.
            if let Err(e) = self.remove_node(&cluster.cluster.id, &spec.node).await {
                tracing::warn!(node = %spec.node, "what there is of it stays: {e}");
            }
        }
        (i, result)
    }

    /// What must hold before the first machine is made.
    fn ready(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Result<ClusterRecord, ProviderError> {
        let record = self
            .layout
            .cluster(&cluster.id)?
            .ok_or_else(|| fail(Code::Internal, "the cluster's network was not made"))?;
        files::make_dir(&self.layout.run(&cluster.id))?;
        let socket = self.layout.qmp(&cluster.id, u32::from(u16::MAX));
        if socket.as_os_str().len() > SOCKET_MAX {
            return Err(ProviderError {
                hint: vec!["set XDG_RUNTIME_DIR to a folder with a short path".into()],
                ..fail(
                    Code::Provider,
                    format!("{} is too long for the path of a socket", socket.display()),
                )
            });
        }
        let wanted: u64 = machines.iter().map(|m| record.size(m.role).memory + OVERHEAD).sum();
        if let Some(free) = available_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
            && wanted > free
        {
            return Err(ProviderError {
                hint: vec![
                    "ask for fewer workers, or for less memory each: --memory 1GiB".into(),
                    "scheduler.memory in herdsman.toml is the scheduler's".into(),
                ],
                ..fail(
                    Code::Quota,
                    format!(
                        "{} machines need {} MiB of memory, and this computer has {} MiB left",
                        machines.len(),
                        wanted >> 20,
                        free >> 20
                    ),
                )
            });
        }
        Ok(record)
    }

    async fn create_one(&self, cluster: &ClusterRecord, spec: &MachineSpec) -> Result<Machine, ProviderError> {
        let id = &cluster.cluster.id;
        let index = *cluster
            .places
            .get(&spec.node)
            .ok_or_else(|| fail(Code::Internal, format!("{} was not placed", spec.node)))?;
        let base = self.layout.base.clone();
        let key = (id.clone(), spec.node.clone());
        if blocking(move || process::running(&base)).await?.contains_key(&key)
            && let Some(record) = self.layout.record(id, &spec.node)?
        {
            return Ok(self.machine(Some(cluster), &record, true));
        }
        let mut record = NodeRecord {
            version: VERSION,
            cluster: cluster.cluster.clone(),
            node: spec.node.clone(),
            role: spec.role,
            index,
            address: net::address(index)?,
            tags: spec.tags.clone(),
            user_data: None,
        };
        self.layout.save(&record)?;
        let files = self.layout.node(id, &spec.node);
        write_seed(&files.seed(), &mut record, &spec.user_data)?;
        self.layout.save(&record)?;
        // Nobody else reads it: a console may show what a program prints.
        files::write(&files.console(), b"")?;
        let size = cluster.size(spec.role);
        image::overlay(&cluster.image, &files.disk(), size.disk).await?;
        let mut vm = Vm {
            record: &record,
            files,
            image: &cluster.image,
            size,
            kvm: cluster.kvm,
            place: Place::Hub(cluster.ports),
            qmp: self.layout.qmp(id, index),
        };
        if spec.role == Role::Worker {
            let socket = self.layout.port(id, index);
            self.plug(cluster, index, &socket).await?;
            vm.place = Place::Port(socket);
        }
        start(&vm).await?;
        Ok(self.machine(Some(cluster), &record, true))
    }

    /// A place at the hub for a worker.
    async fn plug(&self, cluster: &ClusterRecord, index: u32, socket: &Path) -> Result<(), ProviderError> {
        let (hub, socket) = (self.layout.qmp(&cluster.cluster.id, 0), socket.to_owned());
        let _one = self.monitor.lock().await;
        let plugged = blocking(move || Qmp::open(&hub)?.plug(index, &socket)).await?;
        plugged.map_err(|e| ProviderError {
            hint: vec![format!(
                "herdsman logs {} --boot      shows the scheduler's console",
                cluster.cluster.name
            )],
            ..fail(
                Code::Provider,
                format!("the scheduler's machine, which has the network, does not answer: {e}"),
            )
        })
    }

    /// Ports of the loopback interface that are free now.
    pub(super) fn free_ports() -> Result<[u16; 2], ProviderError> {
        let mut last = None;
        for _ in 0..TRIES {
            let two = TcpListener::bind(("127.0.0.1", 0)).and_then(|a| {
                let b = TcpListener::bind(("127.0.0.1", 0))?;
                Ok([a.local_addr()?.port(), b.local_addr()?.port()])
            });
            match two {
                Ok(ports) => return Ok(ports),
                Err(e) => last = Some(e),
            }
        }
        let why = last.map_or_else(String::new, |e| e.to_string());
        Err(fail(
            Code::Port,
            format!("no port of the loopback interface is free: {why}"),
        ))
    }
}

impl ClusterRecord {
    pub(super) const fn size(&self, role: Role) -> Size {
        match role {
            Role::Scheduler => self.scheduler,
            Role::Worker => self.worker,
        }
    }
}

fn write_seed(path: &Path, record: &mut NodeRecord, user_data: &Secret) -> Result<(), ProviderError> {
    debug_assert!(user_data.reveal().len() <= 1 << 20, "clouds take far less");
    seed::write(path, record, user_data).map_err(disk(path))
}

/// Starts QEMU, which goes into the background once its machine runs.
async fn start(vm: &Vm<'_>) -> Result<(), ProviderError> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(vm.arguments());
    image::run(command, "qemu-system-x86_64").await.map_err(|mut e| {
        if e.message.contains("host forwarding rule") {
            e.code = Code::Port;
            e.hint.push(format!(
                "the ports were taken meanwhile; try again ({} and {} lead to the cluster)",
                limits::AGENT_PORT,
                limits::SCHEDULER_PORT
            ));
        }
        e
    })?;
    Ok(())
}

/// Bytes that can be had without swapping, of `/proc/meminfo`.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       16384 kB\nMemFree:          100 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(available_memory(text), Some(8 << 20));
        assert_eq!(available_memory(""), None);
    }
}
