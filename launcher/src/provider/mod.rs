//! Providers make machines and delete them; they know nothing of Dask,
//! certificates or the command line.
//!
//! A provider that works on this computer is a folder here, a variant of
//! [`Provider`] and an arm in each of its methods; the compiler lists what is
//! missing. Clouds are one variant: each is a folder that implements
//! [`cloud::Cloud`], and a line in [`cloud::open`]. User-data is opaque to all.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use herdsman_wire::{ClusterId, ClusterName, NodeName, Role, Secret};
use serde::{Deserialize, Serialize};

use crate::bootstrap::UserDataForm;
pub use cloud::Made;
pub use route::towards;

pub mod aws;
pub mod azure;
pub mod cloud;
pub mod digitalocean;
pub mod gcp;
pub mod hetzner;
pub mod local;
pub mod manual;
pub mod openstack;
pub mod qemu;
mod route;
mod token;

/// Tags of a resource: `herdsman-cluster`, `herdsman-role` …, DESIGN section 7.
pub type Tags = BTreeMap<String, String>;

/// A cluster as providers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRef {
    /// The user's name for it.
    pub name: ClusterName,
    /// Its identity.
    pub id: ClusterId,
}

/// Where a machine will be, as far as it can be said before it exists. Clouds
/// say nothing; a provider on this machine says everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The machine's own address.
    pub address: Option<IpAddr>,
    /// Address that the agent listens on.
    pub listen: Option<SocketAddr>,
    /// Source address of the agent's own connections.
    pub bind: Option<IpAddr>,
    /// Folders of the node, when not a machine's own.
    pub paths: Option<herdsman_wire::join::Paths>,
    /// This computer's address as the machine sees it, where the provider knows.
    pub laptop: Option<IpAddr>,
}

/// A machine that is wanted.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// Its name.
    pub node: NodeName,
    /// Its role; for tags.
    pub role: Role,
    /// What it is told at its first boot.
    pub user_data: Secret,
    /// Tags, set in the call that creates it.
    pub tags: Tags,
}

/// A machine that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The provider's own id.
    pub id: String,
    /// The cluster, from its tags.
    pub cluster: ClusterRef,
    /// Its name.
    pub node: NodeName,
    /// Its role.
    pub role: Role,
    /// Address on the cluster's network.
    pub address: Option<IpAddr>,
    /// Where the laptop reaches the agent (8785), if it can at all.
    pub agent: Option<SocketAddr>,
    /// Where the laptop reaches Dask's scheduler (8786).
    pub scheduler: Option<SocketAddr>,
    /// All its tags.
    pub tags: Tags,
    /// Whether it runs.
    pub running: bool,
    /// What it is made of, where that has a price.
    #[serde(default)]
    pub hardware: Hardware,
}

/// What a cloud's machine is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// The vendor's name of its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether it can be taken away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
}

/// Why a provider could not do something. `code` is ours, the rest is the
/// provider's own words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// One of our stable codes.
    pub code: herdsman_wire::Code,
    /// What failed and why.
    pub message: String,
    /// What the user can try.
    pub hint: Vec<String>,
    /// Whether trying again can help.
    pub retryable: bool,
}

impl From<ProviderError> for herdsman_wire::ApiError {
    fn from(e: ProviderError) -> Self {
        Self {
            code: e.code,
            message: e.message,
            hint: e.hint,
            retryable: e.retryable,
        }
    }
}

/// Result of deleting: what is gone and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Names of what was deleted (machines, networks, folders).
    pub deleted: Vec<String>,
    /// What is left, with the reason.
    pub left: Vec<(String, String)>,
    /// What the user says is gone, and nobody has looked.
    pub forgotten: Vec<String>,
}

/// Everything that can make machines.
#[derive(Debug)]
pub enum Provider {
    /// Process trees on this machine.
    Local(local::Local),
    /// Machines that somebody else makes.
    Manual(manual::Manual),
    /// Virtual machines on this computer.
    Qemu(qemu::Qemu),
    /// Machines of a cloud.
    Cloud(Box<dyn cloud::Cloud>),
}

impl Provider {
    /// Name as in flags and tags.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Manual(_) => "manual",
            Self::Qemu(_) => "qemu",
            Self::Cloud(p) => p.facts().name,
        }
    }

    /// In which form its machines take what they are told.
    #[must_use]
    pub const fn user_data_form(&self) -> UserDataForm {
        match self {
            // The agent is on this computer already.
            Self::Local(_) => UserDataForm::Json,
            Self::Manual(p) => p.user_data_form(),
            Self::Qemu(p) => p.user_data_form(),
            // The smaller form; cloud-init takes both.
            Self::Cloud(_) => UserDataForm::Script,
        }
    }

    /// Folder of environments that this computer shares with all machines, where
    /// they are this computer.
    #[must_use]
    pub fn environments(&self) -> Option<PathBuf> {
        match self {
            Self::Local(p) => Some(p.environments()),
            Self::Manual(_) | Self::Qemu(_) | Self::Cloud(_) => None,
        }
    }

    /// Whether a machine may have an address that nobody here can know, behind a
    /// router that hides it. The hub then takes the node from any address.
    #[must_use]
    pub const fn hides_addresses(&self) -> bool {
        matches!(self, Self::Manual(_))
    }

    /// Says where machines will be, as far as that is known before they exist.
    /// `index` counts nodes of the cluster over its whole life: 0 is the
    /// scheduler.
    ///
    /// # Errors
    /// When no place can be found.
    pub fn place(&self, cluster: &ClusterRef, node: &NodeName, index: u32) -> Result<Placement, ProviderError> {
        match self {
            Self::Local(p) => p.place(cluster, node, index),
            Self::Manual(p) => p.place(cluster, node, index),
            Self::Qemu(p) => p.place(cluster, node, index),
            Self::Cloud(p) => Ok(Placement {
                laptop: p.laptop(),
                ..Placement::default()
            }),
        }
    }

    /// Makes what machines share: network, firewall. Idempotent.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn ensure_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        match self {
            Self::Local(p) => p.ensure_network(cluster, tags).await,
            Self::Manual(p) => p.ensure_network(cluster, tags),
            Self::Qemu(p) => p.ensure_network(cluster, tags).await,
            Self::Cloud(p) => p.ensure_network(cluster, tags).await,
        }
    }

    /// Gets ready what machines are told, and says what a person has to do before
    /// [`Self::create`] can end, if anything.
    ///
    /// # Errors
    /// As the provider says.
    pub fn prepare(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Result<Vec<String>, ProviderError> {
        match self {
            Self::Local(_) | Self::Qemu(_) | Self::Cloud(_) => Ok(Vec::new()),
            Self::Manual(p) => p.prepare(cluster, machines),
        }
    }

    /// These machines are nodes now, so what they were told at their first boot is
    /// worthless; where it lies about, it is removed.
    pub fn enrolled(&self, cluster: &ClusterRef, nodes: &[NodeName]) {
        match self {
            Self::Local(_) | Self::Cloud(_) => {}
            Self::Manual(p) => p.enrolled(cluster, nodes),
            Self::Qemu(p) => p.enrolled(cluster, nodes),
        }
    }

    /// Makes machines, at the same time where that helps, and tells `made` of each
    /// as soon as its fate is known. The answer has one entry for each, in order.
    /// Does not wait for their boot.
    pub async fn create(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
        made: Made<'_>,
    ) -> Vec<Result<Machine, ProviderError>> {
        let all = match self {
            Self::Local(p) => p.create(cluster, machines).await,
            Self::Manual(p) => p.create(cluster, machines).await,
            Self::Qemu(p) => p.create(cluster, machines).await,
            Self::Cloud(p) => return p.create(cluster, machines, made).await,
        };
        all.iter().enumerate().for_each(|(i, result)| made(i, result));
        all
    }

    /// Clusters that have anything at all, machines or not.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn clusters(&self, name: &ClusterName) -> Result<Vec<ClusterRef>, ProviderError> {
        match self {
            // What is shared there goes with the machines, or with the record.
            Self::Local(_) | Self::Manual(_) | Self::Qemu(_) => Ok(Vec::new()),
            Self::Cloud(p) => Ok(p.shared(Some(name)).await?.into_iter().map(|r| r.cluster).collect()),
        }
    }

    /// The cloud, where it is one.
    #[must_use]
    pub fn cloud(&self) -> Option<&dyn cloud::Cloud> {
        match self {
            Self::Local(_) | Self::Manual(_) | Self::Qemu(_) => None,
            Self::Cloud(p) => Some(&**p),
        }
    }

    /// A machine that was just made, with the address by which this computer reaches
    /// it; waits for that where it comes later.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn settled(&self, machine: &Machine) -> Result<Machine, ProviderError> {
        match self {
            Self::Local(_) | Self::Manual(_) | Self::Qemu(_) => Ok(machine.clone()),
            Self::Cloud(p) => p.settled(machine).await,
        }
    }

    /// How often it may be asked whether machines still run: each time is a call that
    /// a cloud counts.
    #[must_use]
    pub const fn look_again(&self) -> std::time::Duration {
        match self {
            Self::Local(_) | Self::Manual(_) | Self::Qemu(_) => std::time::Duration::from_secs(2),
            Self::Cloud(_) => std::time::Duration::from_secs(20),
        }
    }

    /// All machines of ours, or of one cluster, from their tags.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn list(&self, cluster: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        match self {
            Self::Local(p) => p.list(cluster).await,
            Self::Manual(p) => p.list(cluster).await,
            Self::Qemu(p) => p.list(cluster).await,
            Self::Cloud(p) => p.list(cluster).await,
        }
    }

    /// Deletes machines by id. What is gone already counts as deleted.
    ///
    /// # Errors
    /// Only when nothing could be tried; single failures are in [`Deleted::left`].
    pub async fn delete(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        match self {
            Self::Local(p) => p.delete(machines).await,
            Self::Manual(p) => p.delete(machines).await,
            Self::Qemu(p) => p.delete(machines).await,
            Self::Cloud(p) => p.delete(machines).await,
        }
    }

    /// Deletes what machines shared, once they are gone, and whatever else
    /// carries the cluster's tags. Idempotent.
    ///
    /// # Errors
    /// Only when nothing could be tried.
    pub async fn delete_rest(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        match self {
            Self::Local(p) => p.delete_rest(cluster).await,
            Self::Manual(p) => p.delete_rest(cluster),
            Self::Qemu(p) => p.delete_rest(cluster),
            Self::Cloud(p) => p.delete_rest(cluster).await,
        }
    }

    /// Output of a machine's boot, newest last.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn console(&self, machine: &Machine) -> Result<String, ProviderError> {
        match self {
            Self::Local(p) => p.console(machine).await,
            Self::Manual(p) => p.console(machine).await,
            Self::Qemu(p) => p.console(machine).await,
            Self::Cloud(p) => p.console(machine).await,
        }
    }
}

/// Where the provider `local` finds its parts; given by the caller, so that the
/// provider reads no environment.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The agent's program.
    pub agent: PathBuf,
    /// Folder of all local machines: what tags are for a cloud.
    pub base: PathBuf,
    /// Folder in memory for sockets and keys.
    pub run_base: PathBuf,
    /// `auto`, `namespace` or `loopback`.
    pub network: local::Network,
}
