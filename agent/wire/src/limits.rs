//! Limits that both sides keep, in one place so that a sender can never be
//! surprised by a receiver.

use std::time::Duration;

/// Port of the agent's API.
pub const AGENT_PORT: u16 = 8785;
/// Port of Dask's scheduler.
pub const SCHEDULER_PORT: u16 = 8786;
/// Port of the scheduler's dashboard, on loopback only.
pub const DASHBOARD_PORT: u16 = 8787;
/// First port of workers; each worker process takes one.
pub const WORKER_PORT: u16 = 8788;
/// First port of nannies.
pub const NANNY_PORT: u16 = 8838;
/// Most worker processes on one node (the width of the two ranges above).
pub const MAX_WORKERS_PER_NODE: u16 = 50;

/// Largest body of a request by a caller that is not an operator, bytes.
pub const SMALL_BODY: usize = 16 * 1024;
/// Largest JSON body of an operator's request, bytes (10,000 expected nodes fit).
pub const OPERATOR_BODY: usize = 4 * 1024 * 1024;
/// Largest environment blob, bytes.
pub const BLOB: u64 = 512 * 1024 * 1024;
/// Largest frame of a node's session, bytes.
pub const FRAME: usize = 256 * 1024;
/// Largest join configuration, bytes.
pub const JOIN_CONFIG: usize = 64 * 1024;
/// Largest log line; what is longer is cut and marked, bytes.
pub const LOG_LINE: usize = 8 * 1024;

/// TLS handshake and request head together.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// A large body of an operator's may take this long: laptops have slow uplinks.
pub const OPERATOR_BODY_WITHIN: Duration = Duration::from_secs(60);
/// TLS handshakes in flight at once; more wait in the kernel's backlog.
pub const HANDSHAKES_IN_FLIGHT: usize = 64;
/// Connections from one address that may be unauthenticated at once.
pub const HANDSHAKES_PER_SOURCE: usize = 16;

/// Life of a bootstrap certificate unless asked otherwise.
pub const BOOTSTRAP_LIFE: Duration = Duration::from_secs(20 * 60);
/// Longest life of a bootstrap certificate.
pub const BOOTSTRAP_LIFE_MAX: Duration = Duration::from_secs(30 * 60);
/// Life of a node's agent and Dask certificates.
pub const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Age at which a node renews.
pub const LEAF_RENEW: Duration = Duration::from_secs(8 * 3600);
/// Life of operator and client certificates.
pub const OPERATOR_LIFE: Duration = Duration::from_secs(12 * 3600);
/// A CRL's `nextUpdate` lies this far ahead.
pub const CRL_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A CRL is issued anew this often, revocations or not.
pub const CRL_REISSUE: Duration = Duration::from_secs(3600);
/// Longest life of a cluster's issuing certificates.
pub const CLUSTER_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Life of a cluster's issuing certificates unless the lifetime asks for more.
pub const CLUSTER_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Certificates are valid from this long before their signing, so that clocks
/// that differ by a few minutes do not refuse each other.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// A node reports at least this often (jittered), and at once on change.
pub const REPORT_EVERY: Duration = Duration::from_secs(5);
/// A node that is silent for this long is shown as lost and leaves the members.
pub const NODE_SILENT: Duration = Duration::from_secs(60);
/// A node that is silent for this long has its certificates revoked.
pub const NODE_GONE: Duration = Duration::from_secs(600);
/// A worker's machine that has not reached its hub for this long ends. Longer than a
/// scheduler's machine takes to come back from a reboot.
pub const NO_CONTACT: Duration = Duration::from_secs(1800);
