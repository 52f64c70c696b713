//! Provider `manual`: machines that somebody else makes.
//!
//! ```text
//! with programs of the user's            without
//! up ─▶ user-data file ─▶ create ─▶ …    up ─▶ user-data file ─▶ a person ─▶ …
//!       document in, document out              address by flag, setting or file
//! ```
//!
//! Promises:
//! - A record of each machine is on disk before anybody is asked to make it.
//! - The secret of user-data is in one file of mode 0600, whose path the programs
//!   are told, and which is removed once the machine is a node.
//! - A program gets one JSON document on its standard input ([`call`]) and has a
//!   deadline. It is asked again with the same node after an interruption.
//! - What cannot be seen is never called deleted: without a program that deletes,
//!   machines stay on the list until the user says that they are gone.
//! - The programs of a cluster are remembered with it, so that `down` works in any
//!   folder; settings that are in force come first.

mod call;
mod create;
mod delete;
mod list;
mod record;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::{ApiError, ClusterName, Code, NodeName, Role};

use super::{ClusterRef, Deleted, Machine, MachineSpec, Placement, ProviderError, Tags};
use crate::bootstrap::UserDataForm;
use call::{Request, Verb};
pub use record::Programs;
use record::{ClusterRecord, Layout, Remembered, VERSION};

/// A list or a console comes within this.
const SOON: Duration = Duration::from_secs(60);
/// Deleting may wait for a machine's orderly end.
const DELETION: Duration = Duration::from_secs(300);

/// What the provider is given; it reads no environment itself.
#[derive(Clone, Debug, Default)]
pub struct ManualSettings {
    /// Form of user-data.
    pub form: UserDataForm,
    /// Folder of its records.
    pub base: PathBuf,
    /// The user's programs.
    pub programs: Programs,
    /// Folder for user-data; absent: beside the records.
    pub user_data_dir: Option<PathBuf>,
    /// The scheduler's address as workers reach it.
    pub scheduler_address: Option<IpAddr>,
    /// The scheduler's address as this computer reaches it.
    pub public_address: Option<IpAddr>,
    /// How long the user's programs may take, where that is set.
    pub timeout: Option<Duration>,
    /// How long a machine's making may take, a person's part included.
    pub patience: Duration,
    /// The user says that machines which only they can delete are gone.
    pub forget: bool,
}

/// The provider.
#[derive(Debug)]
pub struct Manual {
    settings: ManualSettings,
    layout: Layout,
}

fn fail(code: Code, message: impl Into<String>) -> ProviderError {
    ProviderError {
        code,
        message: message.into(),
        hint: vec![],
        retryable: false,
    }
}

impl From<ApiError> for ProviderError {
    fn from(e: ApiError) -> Self {
        Self {
            code: e.code,
            message: e.message,
            hint: e.hint,
            retryable: e.retryable,
        }
    }
}

impl Manual {
    /// A provider with these settings; touches nothing yet.
    #[must_use]
    pub fn new(settings: ManualSettings) -> Self {
        let base = std::path::absolute(&settings.base).unwrap_or_else(|_| settings.base.clone());
        Self {
            layout: Layout { base },
            settings,
        }
    }

    /// In which form its machines take what they are told.
    #[must_use]
    pub const fn user_data_form(&self) -> UserDataForm {
        self.settings.form
    }

    /// Says where the scheduler will be, if somebody said so. Nothing is known of
    /// workers.
    ///
    /// # Errors
    /// None at present.
    pub fn place(&self, _: &ClusterRef, _: &NodeName, index: u32) -> Result<Placement, ProviderError> {
        Ok(Placement {
            address: self.settings.scheduler_address.filter(|_| index == 0),
            ..Placement::default()
        })
    }

    /// Remembers the cluster, with the programs that make and delete its machines.
    ///
    /// # Errors
    /// `E-DISK`.
    pub fn ensure_network(&self, cluster: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        let record = ClusterRecord {
            version: VERSION,
            cluster: cluster.clone(),
            programs: self.settings.programs.clone(),
            timeout_seconds: self.settings.timeout.map(|t| t.as_secs()),
        };
        self.layout.save_cluster(&record)
    }

    /// Writes user-data, and says what there is to do for a person.
    ///
    /// # Errors
    /// `E-DISK`.
    pub fn prepare(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Result<Vec<String>, ProviderError> {
        self.write_all(cluster, machines)
    }

    /// Makes machines with the user's program, or waits until the scheduler's
    /// address is known. A machine that was made already is answered as it is.
    pub async fn create(&self, cluster: &ClusterRef, machines: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        self.create_all(cluster, machines).await
    }

    /// These machines are nodes: their user-data is worthless and removed.
    pub fn enrolled(&self, cluster: &ClusterRef, nodes: &[NodeName]) {
        for node in nodes {
            if let Err(e) = self.layout.remove_user_data(&cluster.id, node) {
                tracing::warn!(%node, "its user-data stays: {}", e.message);
            }
        }
    }

    /// Machines by the user's program, or by what is remembered of them.
    ///
    /// # Errors
    /// `E-DISK`, or `E-PROVIDER` and `E-DEADLINE` with the program's words.
    pub async fn list(&self, cluster: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        self.list_all(cluster).await
    }

    /// Deletes machines with the user's program. Without one they are
    /// [`Deleted::left`], or [`Deleted::forgotten`] when the user says so.
    ///
    /// # Errors
    /// None at present: what failed is in [`Deleted::left`].
    pub async fn delete(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        Ok(self.delete_all(machines).await)
    }

    /// Forgets a cluster that has no machine any more.
    ///
    /// # Errors
    /// `E-DISK`.
    pub fn delete_rest(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        if self.layout.nodes(&cluster.id)?.is_empty() {
            self.layout.remove_cluster(&cluster.id)?;
        }
        Ok(Deleted::default())
    }

    /// What the user's program shows of a machine's console.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when there is no such program; else as the program says.
    pub async fn console(&self, machine: &Machine) -> Result<String, ProviderError> {
        let programs = self.programs(&machine.cluster);
        let Some(argv) = &programs.console else {
            return Err(ProviderError {
                hint: vec![
                    "look at the machine's console where you made it".into(),
                    "or name a program that prints it: [manual] console = \"…\" in herdsman.toml".into(),
                ],
                ..fail(
                    Code::NotFound,
                    format!(
                        "herdsman cannot see the console of {}: somebody else made it",
                        machine.node
                    ),
                )
            });
        };
        let record = self.layout.node(&machine.cluster.id, &machine.node)?;
        let request = Request::of_machine(Verb::Console, machine, record.as_ref());
        call::text(argv, &request, self.within(&machine.cluster, SOON)).await
    }

    /// The programs for a cluster: what is set now, else what is remembered.
    fn programs(&self, cluster: &ClusterRef) -> Programs {
        let known = self.remembered(cluster).map(|r| r.programs).unwrap_or_default();
        self.settings.programs.clone().or(known)
    }

    /// How long a program may take.
    fn within(&self, cluster: &ClusterRef, default: Duration) -> Duration {
        let known = || Some(Duration::from_secs(self.remembered(cluster)?.timeout_seconds?));
        self.settings.timeout.or_else(known).unwrap_or(default)
    }

    fn remembered(&self, cluster: &ClusterRef) -> Option<ClusterRecord> {
        self.layout.cluster(&cluster.id).unwrap_or_else(|e| {
            tracing::warn!("{}", e.message);
            None
        })
    }

    /// A machine as far as it is remembered.
    fn machine(&self, record: &Remembered, running: bool) -> Machine {
        let scheduler = record.role == Role::Scheduler;
        let reached = record.public.or(record.address).filter(|_| scheduler);
        Machine {
            id: record.id.clone().unwrap_or_else(|| record.node.to_string()),
            cluster: record.cluster.clone(),
            node: record.node.clone(),
            role: record.role,
            address: record.address,
            agent: reached.map(|ip| (ip, herdsman_wire::limits::AGENT_PORT).into()),
            scheduler: reached.map(|ip| (ip, herdsman_wire::limits::SCHEDULER_PORT).into()),
            tags: record.tags.clone(),
            running,
            hardware: Default::default(),
        }
    }
}
