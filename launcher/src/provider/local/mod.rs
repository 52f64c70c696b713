//! Provider `local`: the cloud on this machine. The same agent, user-data and
//! enrolment as anywhere, each node a process tree of its own:
//!
//! ```text
//! keeper ── agent ── dask        HERDSMAN_NODE=<cluster id>/<node> in all of them
//! ```
//!
//! Promises:
//! - A cluster lives in `<base>/<cluster id>/` and `<run base>/<cluster id>/`;
//!   folders are 0700 and files 0600. What `tags` are for a cloud is a file
//!   `tags.json` in each node's folder, written before anything else of it.
//! - Nodes outlive the launcher. They are joined by network namespaces of the
//!   cluster's own or by addresses of the loopback interface; the network of
//!   the host is never changed. A new cluster's choice is written down, so that
//!   every later command makes the same.
//! - Deleting is complete: no process, namespace or file of a node is left, even
//!   where its keeper or the launcher was killed half-way. Processes are known
//!   by the marker above, by their namespace, or by descent, never by a number
//!   alone.
//! - Commands at the same time are kept apart by locks on these folders; the
//!   addresses of two clusters never meet.
//! - User-data is opaque: it goes to `join.json` as it is.
//!
//! Linux only; elsewhere every call says so.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
pub(super) mod linux;

#[cfg(not(target_os = "linux"))]
use elsewhere as system;
#[cfg(target_os = "linux")]
use linux as system;

use herdsman_wire::{ClusterName, NodeName};

use super::{ClusterRef, Deleted, LocalSettings, Machine, MachineSpec, Placement, ProviderError, Tags};

/// How local nodes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Namespaces where the user is root and they work, else loopback.
    Auto,
    /// A network namespace each.
    Namespace,
    /// Addresses of the loopback interface.
    Loopback,
}

/// Makes nodes on this machine.
#[derive(Debug)]
pub struct Local {
    system: system::Local,
}

impl Local {
    /// A provider with these parts; touches nothing yet.
    #[must_use]
    pub fn new(settings: LocalSettings) -> Self {
        Self {
            system: system::Local::new(settings),
        }
    }

    /// Folder of environments, shared by all nodes of all clusters.
    #[must_use]
    pub fn environments(&self) -> std::path::PathBuf {
        self.system.environments()
    }

    /// Says where a node will be, and notes it for [`Self::create`]. The same
    /// answer for the same node, unless its ports were taken meanwhile.
    ///
    /// # Errors
    /// `E-PORT` when no address is free, `E-PERM` when namespaces were asked for
    /// and cannot be made, `E-DISK` when it cannot be noted.
    pub fn place(&self, cluster: &ClusterRef, node: &NodeName, index: u32) -> Result<Placement, ProviderError> {
        self.system.place(cluster, node, index)
    }

    /// Makes the cluster's folder and, with namespaces, its bridge.
    ///
    /// # Errors
    /// `E-DISK`, `E-PERM`, or `E-PROVIDER` with what `ip` said.
    pub async fn ensure_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        self.system.ensure_network(cluster, tags).await
    }

    /// Starts nodes that [`Self::place`] has placed; answers when their keepers
    /// listen. What fails leaves nothing behind. A node that runs and was made
    /// with the same user-data is answered as it is, with other user-data it is
    /// `E-CONFLICT`; what is left of one that died is removed first.
    pub async fn create(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        self.system.create(cluster, machines).await
    }

    /// All nodes of this machine, or of one cluster. Nodes whose folders are
    /// damaged or gone are among them as strays, with the tag `herdsman-stray`
    /// saying why, so that they can be deleted; where nothing tells the name of
    /// their cluster it is `stray-<cluster id>`.
    ///
    /// # Errors
    /// `E-DISK` when the base folder cannot be read.
    pub async fn list(&self, cluster: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        self.system.list(cluster).await
    }

    /// Ends nodes, with grace and then without, and removes all that is theirs.
    ///
    /// # Errors
    /// None at present: what failed is in [`Deleted::left`].
    pub async fn delete(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        self.system.delete(machines).await
    }

    /// Removes whatever else is the cluster's: namespaces, folders, processes.
    ///
    /// # Errors
    /// None at present: what failed is in [`Deleted::left`].
    pub async fn delete_rest(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        self.system.delete_rest(cluster).await
    }

    /// The last of what agent and keeper printed, at most 256 KiB.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when the node has no console, `E-DISK`.
    pub async fn console(&self, machine: &Machine) -> Result<String, ProviderError> {
        self.system.console(machine).await
    }
}
