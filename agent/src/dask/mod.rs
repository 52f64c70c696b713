//! Dask's process: how it is started, kept alive, taken over, and ended.
//!
//! ```text
//!  command_line ──▶ ProcessSpec ──▶ supervisor ──▶ child ──▶ exec_child ──▶ dask
//!   (pure)                            │  ▲          (re-exec of this binary)  │
//!                        health (watch)│  │control (mpsc)                      │
//!                                      ▼  │                                   │
//!                                    agent's driver ◀── guard_link ◀── guard ─┘
//! ```
//!
//! Promises:
//! - **The agent's death never hurts Dask.** Dask writes to a file, not to a
//!   pipe of the agent's, has a session of its own, and is found again by its
//!   PID file ([`adoption`]). Nothing that survives the agent is ever signalled
//!   before its boot id, pid and start time have been compared.
//! - **No window without a PID file.** The child waits for its instructions
//!   until the PID file is on disk; when the agent dies before, it ends by itself.
//! - **Signals go through pidfds**, so a number that was given to another
//!   process in the meantime is never hit.
//! - **Nothing is left behind.** After every end, wanted or not, what remains of
//!   the process tree is killed and looked for again ([`tree`], [`cgroup`]).
//! - **No secret in any argument list**: environment variables cross to the child
//!   through a pipe.
//!
//! What a caller uses: [`command_line::process`] makes a [`spec::ProcessSpec`],
//! [`prepare::prepare`] what it needs on disk,
//! [`supervisor::start`] gives a [`supervisor::Handle`] with `control`, `health`
//! and `notes`, [`guard_link::GuardLink::bind`] gives the guard's events, and
//! `main` calls [`exec_child::run`] for the hidden subcommand
//! [`exec_child::SUBCOMMAND`].

pub mod adoption;
pub mod backoff;
pub mod cgroup;
pub mod child;
pub mod command_line;
pub mod diagnose;
pub mod exec_child;
pub mod exit;
pub mod guard_event;
pub mod guard_link;
pub mod guard_message;
pub mod orders;
pub mod prepare;
pub mod process;
pub mod procfs;
pub mod spec;
pub mod supervisor;
pub mod tree;

/// Where a node's dashboards listen: on loopback. A node whose own address is
/// a loopback address has that one to itself, so several nodes on a machine do
/// not take each other's ports. Always IPv4: Dask cannot take an IPv6 address for
/// its dashboard.
#[must_use]
pub fn dashboard_address(own: std::net::IpAddr) -> std::net::IpAddr {
    match own {
        std::net::IpAddr::V4(ip) if ip.is_loopback() => own,
        _ => std::net::Ipv4Addr::LOCALHOST.into(),
    }
}
