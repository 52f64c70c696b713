//! Provider `qemu`: virtual machines on the user's own Linux computer, from a disk
//! image as clouds have it. Nothing here needs root.
//!
//! ```text
//!                    QEMU of the scheduler            QEMU of a worker
//!   laptop           ┌────────────────────────┐       ┌────────────────────┐
//!   127.0.0.1:P ────▶│ user network ── eth0   │       │ user network ─ eth0│
//!   (8785, 8786)     │                        │       │                    │
//!                    │ hub ─┬── eth1          │       │  eth1              │
//!                    │      │   10.89.0.16    │       │  10.89.0.17        │
//!                    │      ├─────────────────┼─ unix ┼──┘                 │
//!                    │      └── …             │ socket└────────────────────┘
//!                    └────────────────────────┘
//! ```
//!
//! User-mode networks alone do not join machines: each is alone with its gateway,
//! and Dask's workers fetch data from each other. So each machine has two
//! interfaces. One leads outside, through a user-mode network of its own, for
//! downloads. The other is on the cluster's network, a hub inside of the
//! scheduler's QEMU with a Unix socket for each worker's, plugged in through QMP
//! when it is made; addresses on it are known beforehand. The sockets lie in a
//! folder of the user's own, so nobody else on the computer can join, which a
//! multicast group on loopback would let them. The user-mode network must not be
//! on the hub as well: it answers in the name of every address that it sees
//! packets for.
//!
//! The laptop's two ports lead to the scheduler's address on the cluster's
//! network, by which Dask goes; it answers for that one on its other interface
//! too, as Linux does for all addresses of its own.
//!
//! Machines reach this computer as 10.0.2.2, services that listen on its loopback
//! interface only among them. That is how user-mode networks are made: run no
//! machines of people whom those services must not meet.
//!
//! Promises:
//! - What `tags` are for a cloud is `tags.json` in a machine's folder, written
//!   before anything else of it.
//! - Machines outlive the launcher. A machine runs when a process says on its
//!   command line that it keeps the machine's own pid file; no number alone counts.
//! - Disks are copies on write; the user's image is only read.
//! - The secret of user-data is in the machine's seed, 0600, and is overwritten
//!   there once the machine is a node.
//!
//! Linux only; elsewhere every call says so.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

use std::path::PathBuf;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::Qemu;
#[cfg(target_os = "linux")]
pub use linux::Qemu;

use serde::{Deserialize, Serialize};

use crate::bootstrap::UserDataForm;

/// Which way instructions are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// KVM where it can be used, else TCG.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Translation, everywhere.
    Tcg,
}

/// A machine's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk in bytes; the part that is not written takes no place.
    pub disk: u64,
}

impl Default for Size {
    /// What Debian and one Dask process live in.
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 2 << 30,
            disk: 20 << 30,
        }
    }
}

/// What the provider is given; it reads no environment itself.
#[derive(Clone, Debug, Default)]
pub struct QemuSettings {
    /// Form of user-data.
    pub form: UserDataForm,
    /// Folder of all machines.
    pub base: PathBuf,
    /// Folder for sockets, with a short path.
    pub run_base: PathBuf,
    /// Image that machines start from.
    pub image: Option<PathBuf>,
    /// What the image must be: SHA-256, lower-case hex.
    pub sha256: Option<String>,
    /// Kernel of an image without a boot loader, and its initial file system.
    pub kernel: Option<(PathBuf, Option<PathBuf>)>,
    /// How instructions are carried out.
    pub accel: Accel,
    /// The scheduler's machine.
    pub scheduler: Size,
    /// A worker's machine.
    pub worker: Size,
}
