//! The files of a local cluster and where they lie.
//!
//! ```text
//! <base>/environments/                 shared by all clusters, kept
//! <base>/<cluster id>/cluster.json     network and places: [`ClusterRecord`]
//! <base>/<cluster id>/<node>/          tags.json       [`NodeRecord`], first of all
//!                                      join.json       user-data as given
//!                                      keeper.json     [`KeeperConfig`]
//!                                      keeper-state.json, boot.log   the keeper's
//!                                      state/          the agent's
//! <run base>/<cluster id>/<node>/      the agent's, in memory
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use herdsman_wire::{ClusterId, NodeName, Role};
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::super::{ClusterRef, Tags};

/// Version of all documents here.
pub(super) const VERSION: u32 = 1;
/// No document of ours is near this large; foreign files may be.
const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// Socket paths are limited to 107 bytes (unix(7)); the agent's names in its
/// folder need the rest.
const RUN_PATH_MAX: usize = 80;

/// How a cluster's nodes are joined, once decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Namespace,
    Loopback,
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    pub(super) network: Kind,
    /// Prefix of the names of all its network namespaces.
    pub(super) namespaces: String,
    /// Addresses that nodes have or are about to get.
    #[serde(default)]
    pub(super) places: BTreeMap<NodeName, Ipv4Addr>,
    /// With namespaces: the loopback address on which the host reaches the
    /// scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outer: Option<Ipv4Addr>,
}

/// `tags.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    pub(super) node: NodeName,
    pub(super) role: Role,
    pub(super) address: Ipv4Addr,
    pub(super) network: Kind,
    pub(super) tags: Tags,
}

/// `keeper.json`; the agent's crate has the reading side.
#[derive(Debug, Serialize)]
pub(super) struct KeeperConfig {
    pub(super) version: u32,
    pub(super) agent: PathBuf,
    pub(super) config: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) netns: Option<PathBuf>,
    pub(super) forwards: Vec<Forward>,
    pub(super) boot_log: PathBuf,
}

/// A port of the host that leads into a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forward {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) to: SocketAddr,
}

/// `keeper-state.json`, as far as it is used here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct KeeperState {
    pub(super) version: u32,
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    pub(super) boot_id: String,
    pub(super) forwards: Vec<Forward>,
}

/// Documents that carry a version.
pub(super) trait Document: DeserializeOwned {
    fn version(&self) -> u32;
}

macro_rules! document {
    ($($t:ty),*) => {$(
        impl Document for $t {
            fn version(&self) -> u32 {
                self.version
            }
        }
    )*};
}
document!(ClusterRecord, NodeRecord, KeeperState);

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) base: PathBuf,
    pub(super) run_base: PathBuf,
}

impl Layout {
    pub(super) fn environments(&self) -> PathBuf {
        self.base.join("environments")
    }

    pub(super) fn cluster(&self, id: &ClusterId) -> PathBuf {
        self.base.join(id.as_str())
    }

    pub(super) fn cluster_file(&self, id: &ClusterId) -> PathBuf {
        self.cluster(id).join("cluster.json")
    }

    pub(super) fn run_cluster(&self, id: &ClusterId) -> PathBuf {
        self.run_base.join(id.as_str())
    }

    /// The node's folder in memory; under a short name where its own would make
    /// the paths of sockets too long.
    pub(super) fn run(&self, id: &ClusterId, node: &NodeName) -> PathBuf {
        let path = self.run_cluster(id).join(node.as_str());
        if path.as_os_str().len() <= RUN_PATH_MAX {
            return path;
        }
        let hash = digest(&SHA256, node.as_str().as_bytes());
        let short: String = hash.as_ref().iter().take(4).map(|b| format!("{b:02x}")).collect();
        self.run_cluster(id).join(format!("n-{short}"))
    }

    pub(super) fn node(&self, id: &ClusterId, node: &NodeName) -> NodeFiles {
        NodeFiles {
            dir: self.cluster(id).join(node.as_str()),
        }
    }
}

/// Files of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    pub(super) dir: PathBuf,
}

impl NodeFiles {
    pub(super) fn tags(&self) -> PathBuf {
        self.dir.join("tags.json")
    }
    pub(super) fn join(&self) -> PathBuf {
        self.dir.join("join.json")
    }
    pub(super) fn keeper(&self) -> PathBuf {
        self.dir.join("keeper.json")
    }
    pub(super) fn keeper_state(&self) -> PathBuf {
        self.dir.join("keeper-state.json")
    }
    pub(super) fn boot_log(&self) -> PathBuf {
        self.dir.join("boot.log")
    }
    pub(super) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
}

/// Reads a document; `None` when there is no such file.
pub(super) fn read<T: Document>(path: &Path) -> io::Result<Option<T>> {
    let file = match fs::File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(DOCUMENT_MAX).read_to_end(&mut bytes)?;
    let document: T = serde_json::from_slice(&bytes)?;
    if document.version() != VERSION {
        return Err(io::Error::other(format!(
            "has version {}, this herdsman reads version {VERSION}",
            document.version()
        )));
    }
    Ok(Some(document))
}

/// Replaces a file as a whole; nobody else can read it at any time.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    // No fsync: what these files tell of does not survive a crash of the
    // machine either.
    fs::rename(&new, path)
}

/// [`write`] of a value.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?)
}

/// Makes a folder and those above it, for this user only.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a folder with all in it; one that is not there is fine.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Opens a file of ours to append to it.
pub(super) fn append(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
