//! The agent as a service of a machine: its unit, its users, and what it tells
//! systemd.
//!
//! ```text
//! herdsman-agent.service          root, few capabilities, restarted when it fails
//!   └─ dask (control group)       user dask, no capabilities, no new privileges
//! ```
//!
//! * `systemctl stop` and a shutdown of the machine mean leave: the worker is
//!   emptied first, for as long as the agent says that this goes on.
//! * `systemctl restart`, a crash and SIGKILL mean nothing to Dask: only the agent
//!   ends (`KillMode=process`), and the next one takes Dask over.
//! * The unit has no network namespace and no private `/tmp` of systemd's: both
//!   would change under a running Dask when the agent starts again. Dask has a
//!   folder of its own for temporary files.

pub mod accounts;
mod install;
pub mod notify;
pub mod unit;
pub mod upgrade;

pub use install::main;
