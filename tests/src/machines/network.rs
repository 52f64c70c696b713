//! A network of a test's own: a namespace with a bridge, and strangers on it.
//!
//! Nothing leads out of it. Several networks use the same addresses without
//! meeting.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

use super::place::{Place, run};
use super::run::Run;

/// The bridge's name inside the namespace.
pub const BRIDGE: &str = "br0";
/// The laptop's own address, which the bridge has.
pub const LAPTOP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Bits of the network part.
pub const PREFIX: u8 = 16;

/// The network. Machines on it keep it alive.
#[derive(Debug)]
pub struct Network {
    place: Place,
    run: Arc<Run>,
    strangers: AtomicU8,
}

impl Network {
    /// Makes it; needs root.
    ///
    /// # Errors
    /// When namespaces or bridges cannot be made here.
    pub fn new() -> Result<Arc<Self>> {
        let run = Run::current()?;
        let network = Self {
            place: Place::new(&format!("{}{}", run.prefix(), run.next())),
            run,
            strangers: AtomicU8::new(0),
        };
        let place = &network.place;
        make(place)?;
        place.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        // A port forwards at once, and the bridge's address does not change when
        // the first machine comes or goes.
        place.ip(&[
            "link",
            "set",
            BRIDGE,
            "type",
            "bridge",
            "stp_state",
            "0",
            "forward_delay",
            "0",
        ])?;
        place.ip(&["link", "set", BRIDGE, "address", "02:99:00:00:00:01"])?;
        place.ip(&["address", "add", &format!("{LAPTOP}/{PREFIX}"), "dev", BRIDGE])?;
        place.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(Arc::new(network))
    }

    /// The laptop: the namespace that holds the bridge, with [`LAPTOP`]'s address.
    #[must_use]
    pub fn laptop(&self) -> &Place {
        &self.place
    }

    /// The run that it belongs to.
    #[must_use]
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// An address for a machine: 10.99.1.`number`.
    #[must_use]
    pub fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 1, number)
    }

    /// Another machine on the same network that nobody invited: a namespace of its
    /// own with an address of its own, 10.99.7.1 and up. It ends with the network.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn stranger(&self) -> Result<(Place, Ipv4Addr)> {
        let number = self.strangers.fetch_add(1, Ordering::Relaxed) + 1;
        let address = Ipv4Addr::new(10, 99, 7, number);
        let place = Place::new(&format!("{}s{number}", self.place.name()));
        make(&place)?;
        let port = format!("stranger{number}");
        self.place.ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            place.name(),
        ])?;
        self.place.ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        place.ip(&["address", "add", &format!("{address}/{PREFIX}"), "dev", "eth0"])?;
        place.ip(&["link", "set", "eth0", "up"])?;
        place.ip(&["route", "add", "default", "via", &LAPTOP.to_string()])?;
        Ok((place, address))
    }

    /// Gives the laptop another address in place of the one it has.
    ///
    /// # Errors
    /// When it cannot be changed.
    pub fn move_laptop(&self, address: Ipv4Addr) -> Result<()> {
        self.place.ip(&["address", "flush", "dev", BRIDGE])?;
        self.place
            .ip(&["address", "add", &format!("{address}/{PREFIX}"), "dev", BRIDGE])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove_all(self.place.name());
    }
}

fn make(place: &Place) -> Result<()> {
    run(Command::new("ip").args(["netns", "add", place.name()])).context("a network namespace")?;
    place.ip(&["link", "set", "lo", "up"])
}

/// Removes all namespaces whose names begin so: strangers are named after their
/// network, so that one prefix finds both.
pub(super) fn remove_all(prefix: &str) {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in entries.filter_map(|e| e.file_name().into_string().ok()) {
        // `hmt1-1` must not take `hmt1-10` along.
        let rest = name.strip_prefix(prefix);
        if rest.is_some_and(|r| prefix.ends_with('-') || r.is_empty() || r.starts_with('s')) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}
