//! The life of a cluster, from a specification to nothing left.
//!
//! ```text
//! Wanted ─▶ up ──▶ record ─▶ create ─▶ install hub ─▶ watch ─▶ up
//!            │                                 │ failure, Ctrl-C
//!            │ exists                          ▼
//!            └─▶ converge                    down ─▶ list again ─▶ record removed
//! ```
//!
//! Promises:
//! * The record and the operator's key are on disk before anything is created,
//!   so an interrupted command leaves nothing that cannot be found.
//! * Every wait has a deadline, and what it says at the deadline has a cause.
//! * `down` lists again after it deleted; it never says "deleted" of what is left.

mod access;
mod cause;
mod create;
mod down;
mod environment;
mod install;
mod invite;
mod names;
pub mod own_address;
mod scale;
mod up;
mod verdict;
mod watch;

use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, NodeState, Phase};
use herdsman_wire::spec::ClusterSpec;
use herdsman_wire::{ClusterName, NodeName};

pub use access::{Access, open, renew_when_due};
pub use cause::tail_of;
pub use down::{DownReport, down};
pub use invite::{Stranger, invite};
pub use names::{scheduler_name, worker_name};
pub use scale::{ScaleReport, Target, scale};
pub use up::{Outcome, up};
pub use watch::Goal;

use crate::link::Reach;
use crate::provider::{Provider, Tags};
use crate::state::Store;

/// What every operation needs.
#[derive(Debug)]
pub struct Context {
    /// Makes and deletes machines.
    pub provider: Provider,
    /// What this computer remembers.
    pub store: Store,
    /// Who asks: goes into certificates and tags.
    pub user: String,
    /// Program that carries connections to the hub, in place of TCP.
    pub proxy: Option<Vec<String>>,
    /// What machines are told at their first boot, besides who they are.
    pub boot: crate::bootstrap::Boot,
}

/// What `up` does with a cluster that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfExists {
    /// Brings it to what is wanted.
    #[default]
    Converge,
    /// Leaves it as it is.
    Keep,
    /// Refuses.
    Fail,
}

/// A cluster that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: ClusterName,
    /// How many workers.
    pub workers: u32,
    /// How many workers must be ready before `up` is done; absent: not even the
    /// scheduler is waited for.
    pub wait_for: Option<u32>,
    /// What is done when it is there already.
    pub if_exists: IfExists,
    /// How the nodes run.
    pub spec: ClusterSpec,
    /// Copied environment, put into the hub before any node asks for it.
    pub blobs: Vec<crate::environment::Blob>,
    /// Longest wait for all of it.
    pub start_timeout: Duration,
    /// What failed is left for a look.
    pub keep_failed: bool,
    /// Further tags.
    pub tags: Tags,
}

/// Something that a person may want to see while it happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A node's phase started or ended.
    Phase(NodeName, Phase),
    /// A node's state changed.
    State(NodeName, NodeState, Option<String>),
    /// Something else.
    Note(String),
    /// How many workers are ready of those that are wanted.
    Count(u32, u32),
    /// Machines of these nodes exist now.
    Made(Vec<NodeName>),
}

/// Who is told of steps.
pub type Observe<'a> = &'a (dyn Fn(&Step) + Send + Sync);

impl Context {
    /// How a hub is reached.
    fn reach(&self, address: std::net::SocketAddr) -> Reach {
        match &self.proxy {
            Some(argv) => Reach::Proxy(argv.iter().map(|a| filled(a, address)).collect()),
            None => Reach::Direct(address),
        }
    }
}

/// `%h`, `%p` and `%%` as in `ProxyCommand` of OpenSSH.
fn filled(argument: &str, address: std::net::SocketAddr) -> String {
    let mut out = String::with_capacity(argument.len());
    let mut chars = argument.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('%', Some('h')) => out += &address.ip().to_string(),
            ('%', Some('p')) => out += &address.port().to_string(),
            ('%', Some('%')) => out.push('%'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

/// How many workers of a cluster are ready.
#[must_use]
pub fn ready_workers(status: &ClusterStatus) -> u32 {
    let ready = status
        .nodes
        .iter()
        .filter(|n| n.role == herdsman_wire::Role::Worker && n.state == NodeState::Ready)
        .count();
    u32::try_from(ready).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_filled_into_the_proxy_command() {
        let address = "192.0.2.1:8785".parse().unwrap();
        for (given, wanted) in [
            ("%h:%p", "192.0.2.1:8785"),
            ("100%%", "100%"),
            ("%x %", "%x %"),
            ("%%h", "%h"),
            ("plain", "plain"),
        ] {
            assert_eq!(filled(given, address), wanted);
        }
    }
}
