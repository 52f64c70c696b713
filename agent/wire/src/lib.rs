//! What crosses between the herdsman launcher and its agents.
//!
//! The types here are the protocol: the join configuration that user-data
//! carries, the messages of the agent's API on port 8785, the frames of a
//! node's session with the hub, the limits both sides keep, and the profiles of
//! the certificates both sides issue. Nothing in this crate does I/O, reads the
//! clock or knows a path.
//!
//! ```text
//! launcher ──── install, status, logs, tunnel … ────▶ hub (agent of the scheduler)
//! worker's agent ── enrol, then one session ────────▶ hub
//! ```

pub mod api;
pub mod environment;
pub mod error;
pub mod identity;
pub mod join;
pub mod limits;
pub mod name;
pub mod pki;
pub mod report;
pub mod reserved;
pub mod secret;
pub mod session;
pub mod spec;
pub mod time;
pub mod tls;
pub mod version;

pub use error::{ApiError, Code};
pub use identity::{Identity, Kind};
pub use name::{ClusterId, ClusterName, NodeName, Role};
pub use secret::Secret;
pub use time::Timestamp;
pub use version::PROTOCOL;
