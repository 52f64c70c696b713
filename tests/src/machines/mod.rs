//! Test machines: real Debian machines with systemd, cloud-init and a network of
//! their own, in seconds.
//!
//! A [`Network`] is a network namespace with a bridge. A [`Machine`] is a boot of
//! the cached root file system under systemd-nspawn, over an overlay, with a leg in
//! that bridge and its user-data in a NoCloud seed. The test itself stands in no
//! network: it runs programs at a [`Place`], which is the network's own namespace
//! (the laptop) or that of a stranger on the same bridge.
//!
//! Everything is taken down on drop, also after a panic. What a killed run left is
//! found by the lock file that nobody holds any more, and is removed by the next
//! run.

pub mod bake;
pub mod cgroup;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod files;
pub mod machine;
pub mod network;
pub mod place;
pub mod probe;
pub mod run;
pub mod seed;
pub mod vm;

pub use bake::bake;
pub use cluster::Cluster;
pub use files::{Files, Serve};
pub use machine::{LONG, Machine, Setup};
pub use network::Network;
pub use place::Place;
pub use probe::{Scan, scan};
pub use seed::UserData;
pub use vm::{Vm, VmSetup};

/// Whether test machines can run here. Says why not: a test that is skipped must
/// be seen to be skipped.
#[must_use]
pub fn available() -> bool {
    let missing: Vec<_> = ["systemd-nspawn", "ip", "nsenter", "timeout", "unshare"]
        .into_iter()
        .filter(|tool| !place::installed(tool))
        .collect();
    let why = if !nix::unistd::geteuid().is_root() {
        "the tests do not run as root".to_owned()
    } else if !missing.is_empty() {
        format!("not installed: {}", missing.join(", "))
    } else {
        return true;
    };
    skipped(&format!("no test machines: {why}"))
}

/// Whether the complete suite runs (`scripts/test complete`), which takes longer
/// than a change should wait.
#[must_use]
pub fn complete() -> bool {
    is_complete() || skipped("only in the complete suite")
}

/// Whether clouds are tested from all sides (`scripts/test ci`, and with it the complete
/// suite), which takes longer than somebody at work should wait.
#[must_use]
pub fn thorough() -> bool {
    is_complete() || std::env::var_os("HERDSMAN_TEST_CI").is_some() || skipped("only with `scripts/test ci`")
}

/// As [`complete`], for a test that is only shorter otherwise, and so not skipped.
#[must_use]
pub fn is_complete() -> bool {
    std::env::var_os("HERDSMAN_TEST_COMPLETE").is_some()
}

/// Straight to stderr: the harness would keep what is printed by a test that passes.
pub(crate) fn skipped(why: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED {test}: {why}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    false
}
