//! What nodes say about themselves, and what the hub makes of it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::name::{ClusterId, ClusterName, NodeName, Role};
use crate::time::Timestamp;

/// The phases of a node's start, in the order in which they usually end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseName {
    /// The provider makes the machine.
    Create,
    /// The machine boots and its user-data runs, up to the agent's start.
    Boot,
    /// The agent reads its join configuration and starts.
    Agent,
    /// The agent gets its certificates.
    Enrol,
    /// The Python environment is made or checked.
    Environment,
    /// 8786 and 8785 are closed to strangers.
    Firewall,
    /// Dask's process starts and is heard of: the scheduler answers, the worker
    /// is registered at the scheduler.
    Dask,
}

impl PhaseName {
    /// Lower-case name as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Boot => "boot",
            Self::Agent => "agent",
            Self::Enrol => "enrol",
            Self::Environment => "environment",
            Self::Firewall => "firewall",
            Self::Dask => "dask",
        }
    }
}

/// Where a phase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseStatus {
    /// Under way.
    Started,
    /// Ended well.
    Done,
    /// Ended badly; [`Phase::error`] says why.
    Failed,
}

/// One phase of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub phase: PhaseName,
    /// Where it stands.
    pub status: PhaseStatus,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Its deadline: after this it counts as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What it is busy with, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Cause of its failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// State of a node as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Expected, not heard of yet.
    Expected,
    /// Enrolled, on its way.
    Starting,
    /// Dask runs and is registered.
    Ready,
    /// Being emptied before it ends.
    Draining,
    /// A phase failed, or Dask keeps dying.
    Failed,
    /// Silent for longer than [`crate::limits::NODE_SILENT`].
    Lost,
    /// Ended in order.
    Stopped,
    /// Its certificates are revoked.
    Revoked,
}

/// Measurements of a machine. Bytes and per cent; rates are per second since
/// the report before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Share of all processors in use, 0 to 100.
    pub cpu_percent: f32,
    /// Load average over a minute.
    pub load: f32,
    /// Processors that may be used.
    pub cpus: u32,
    /// Memory of the machine or of its control group's limit.
    pub memory_total: u64,
    /// Memory that could be had.
    pub memory_available: u64,
    /// Size of the file system that holds the state folder.
    pub disk_total: u64,
    /// What is free on it.
    pub disk_free: u64,
    /// Received by all interfaces but loopback.
    pub net_rx_rate: f64,
    /// Sent by all interfaces but loopback.
    pub net_tx_rate: f64,
    /// Resident memory of the agent.
    pub agent_rss: u64,
}

/// Dask's process as its supervisor sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaskHealth {
    /// `starting`, `running`, `backoff`, `stopped`.
    pub state: String,
    /// Process id, where one runs.
    pub pid: Option<u32>,
    /// When it started.
    pub since: Option<Timestamp>,
    /// Starts after the first.
    pub restarts: u32,
    /// Why it ended last.
    pub last_exit: Option<String>,
    /// Whether the agent found it running and took it over.
    pub adopted: bool,
    /// Address that Dask uses, `tls://…`.
    pub address: Option<String>,
    /// Versions that the process told: python, dask, distributed.
    pub versions: Option<Versions>,
    /// Tasks running on this node.
    pub executing: Option<u64>,
    /// Its processes that the kernel ended for lack of memory since the agent started.
    pub out_of_memory: u64,
}

/// Versions that must agree between laptop and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// For example `3.11.7`.
    pub python: String,
    /// For example `2026.8.0`.
    pub dask: String,
    /// For example `2026.8.0`.
    pub distributed: String,
}

/// Counts of the scheduler's tasks by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tasks {
    /// Waiting for others.
    pub waiting: u64,
    /// Queued on the scheduler.
    pub queued: u64,
    /// Sent to a worker.
    pub processing: u64,
    /// Results in memory.
    pub memory: u64,
    /// Failed.
    pub erred: u64,
    /// Runnable nowhere.
    pub no_worker: u64,
}

/// What a cloud announced for a node's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whether the machine goes, or only may.
    pub kind: NoticeKind,
    /// For people: who announced what.
    pub text: String,
    /// When it happens, as far as the cloud tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// How serious a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// The machine is taken back: the node leaves.
    Preempted,
    /// Something may happen; the node goes on.
    Warning,
}

/// What a node sends to the hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// The node's phases, complete.
    pub phases: Vec<Phase>,
    /// The machine.
    pub health: Health,
    /// Dask.
    pub dask: DaskHealth,
    /// Environment id in use.
    pub environment: Option<String>,
    /// Number of the CRL in force on the node.
    pub crl: u64,
    /// What the node's cloud announced last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// The packet filter.
    pub firewall: FirewallReport,
    /// What is wrong with a node that goes on all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<ApiError>,
}

/// The packet filter of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirewallReport {
    /// How it is.
    pub state: FirewallState,
    /// Why it is off or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it kept out.
    pub dropped: Dropped,
    /// How often it was put back after somebody else took it away.
    pub repaired: u64,
}

/// Whether a packet filter works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallState {
    /// Not told yet, or by an agent that has none.
    #[default]
    Unknown,
    /// The rules are in force.
    On,
    /// There is none, on purpose.
    Off,
    /// It cannot be read or changed.
    Failed,
}

/// Packets that a node kept out, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dropped {
    /// From somebody who is not let in.
    pub strangers: u64,
    /// New connections that came too fast.
    pub too_fast: u64,
    /// New connections of a source that has too many.
    pub too_many: u64,
    /// To a metadata address, by others than root.
    pub metadata: u64,
}

/// One node in the hub's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// State as the hub sees it.
    pub state: NodeState,
    /// Whether it was invited from anywhere: its machine is made by somebody else, and
    /// the provider does not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anywhere: bool,
    /// Its address, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// When it was heard of last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// Generation of its identity.
    #[serde(default)]
    pub generation: u64,
    /// When its certificates end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_until: Option<Timestamp>,
    /// Version of its agent.
    #[serde(default)]
    pub agent_version: String,
    /// Its last report.
    #[serde(default)]
    pub report: NodeReport,
    /// Names under which Dask knows its workers, with what the scheduler says.
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
}

/// A Dask worker as the scheduler knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Dask's name of it: the node's name, or `NODE-0`, `NODE-1` ….
    pub name: String,
    /// `tls://…`
    pub address: String,
    /// Threads.
    pub nthreads: u32,
    /// Memory limit, bytes; 0 is none.
    pub memory_limit: u64,
    /// Tasks sent to it and not finished.
    pub processing: u64,
    /// Results it holds.
    pub memory_tasks: u64,
    /// Bytes of its process.
    pub memory_bytes: u64,
}

/// When and how a cluster will end by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ending {
    /// Since when there is nothing to do.
    pub idle_since: Option<Timestamp>,
    /// Seconds of idleness after which it ends.
    pub idle_seconds: Option<u64>,
    /// When it ends if it stays idle.
    pub idle_ends: Option<Timestamp>,
    /// When it ends whatever happens.
    pub lifetime_ends: Option<Timestamp>,
    /// Set once it is ending, with the reason.
    pub ending: Option<String>,
}

/// The hub's answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// The hub's clock.
    pub now: Timestamp,
    /// When the cluster was installed.
    pub started: Timestamp,
    /// All nodes, the scheduler first.
    pub nodes: Vec<NodeStatus>,
    /// Task counts, once the scheduler told.
    #[serde(default)]
    pub tasks: Option<Tasks>,
    /// Connected Dask clients.
    #[serde(default)]
    pub clients: u64,
    /// When it will end by itself.
    pub ending: Ending,
    /// Number of the newest event.
    pub events: u64,
    /// When the issuing certificates end, after which nothing can be renewed.
    pub authority_until: Timestamp,
    /// Dask's address as nodes use it.
    pub scheduler_address: String,
    /// Id of the copied environment that nodes shall have, where they have one.
    #[serde(default)]
    pub environment: Option<String>,
    /// Version of the hub's agent.
    pub agent_version: String,
    /// Networks from which people are let in.
    #[serde(default)]
    pub allowed: Vec<IpNet>,
    /// Misused certificates, the newest last; absent from hubs that do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
    /// The asker's address as the hub sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub you: Option<IpAddr>,
}

/// Certificates of a node that somebody misused, and was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The audit log's word for it: `double-use`, `wrong-address`, `wrong-name` or
    /// `clone`; others may follow.
    pub kind: String,
    /// Whose certificate it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Where it was used.
    pub from: IpAddr,
    /// How often. After a restart of the hub only what is in the audit log counts,
    /// which leaves out floods.
    pub count: u64,
    /// When it was used so first.
    pub first: Timestamp,
    /// When it was used so last.
    pub last: Timestamp,
    /// What the caller was told.
    pub why: String,
}

/// Something that happened, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1.
    pub seq: u64,
    /// When.
    pub t: Timestamp,
    /// At which node; absent for the cluster as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What, and its details.
    #[serde(flatten)]
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A phase started or ended.
    Phase(Phase),
    /// A node's state changed.
    State {
        /// The new state.
        state: NodeState,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Something people should know.
    Note {
        /// The text.
        text: String,
    },
}

/// Where a log line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The agent.
    Agent,
    /// Dask's process.
    Dask,
    /// The machine's boot.
    Boot,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, by the node's clock.
    pub t: Timestamp,
    /// The node.
    pub node: NodeName,
    /// Where from.
    pub source: LogSource,
    /// The text without its line end.
    pub text: String,
}
