//! Keeping strangers out: one table of the kernel's packet filter, `inet
//! herdsman`, and the end of live connections of nodes that are no members any
//! more.
//!
//! ```text
//! driver ── Policy ──▶ rules (pure) ──▶ encode ──▶ netlink ──▶ kernel
//!    ▲                    │ text: people             │
//!    └── FirewallReport ──┴───────── verify ◀────────┘ read back, counters
//! ```
//!
//! Promises:
//! * Closed before anything listens: [`Firewall::close`] is the agent's first act.
//! * A change is in force as a whole or not at all; there is no open moment.
//! * What somebody else takes away (`nft flush ruleset`) is put back.
//! * Nothing of the host's own rules is touched, and [`remove`] leaves them as
//!   they were. No other port is ours, SSH's least of all.
//! * The agent's end leaves the table in force; a machine that runs Dask without
//!   an agent stays closed.
//!
//! The messages are built here, by hand: what the few crates for it lack
//! (counters as objects, `ct count`, read-back) is more than what they save, and
//! the tool `nft` and its libraries are not on every machine.

mod destroy;
mod encode;
mod keep;
mod message;
mod netlink;
mod policy;
mod rules;
mod text;
mod verify;

pub mod cli;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use keep::{Firewall, News, remove};
pub use netlink::Error;
pub use policy::{Policy, Ports};
pub use rules::{Table, table};

/// Cuts all TCP connections of the cluster's ports with these addresses. Without
/// the right to do so (no root) the certificates alone decide, and it is logged.
pub fn cut(addresses: &[IpAddr], ports: &Ports) {
    if addresses.is_empty() {
        return;
    }
    match destroy::all(|s| {
        addresses.contains(&s.remote.ip()) && (ports.holds(s.local.port()) || ports.holds(s.remote.port()))
    }) {
        Ok(0) => {}
        Ok(n) => tracing::info!(?addresses, "cut {n} connections of nodes that are no members any more"),
        Err(e) => tracing::debug!(?addresses, "connections cannot be cut here: {e}"),
    }
}
