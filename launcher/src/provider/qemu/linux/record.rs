//! The files of a cluster of virtual machines and where they lie.
//!
//! ```text
//! <base>/<cluster id>/cluster.json       image, ports, places: [`ClusterRecord`]
//! <base>/<cluster id>/<node>/            tags.json     [`NodeRecord`], first of all
//!                                        seed.iso      what it is told       0600
//!                                        disk.qcow2    its changes to the image
//!                                        console.log   its serial port
//!                                        pid           QEMU's own
//! <run base>/<cluster id>/q<N>           QMP of node number N
//!                         n<N>           its place at the cluster's hub
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use herdsman_wire::{ClusterId, Code, NodeName, Role};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::super::{ClusterRef, ProviderError, Tags};
use super::super::Size;
use super::{fail, net};
use crate::files;

/// Version of the documents here.
pub(super) const VERSION: u32 = 1;

/// A disk image that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// `qcow2` or `raw`.
    pub(super) format: String,
    /// Bytes as the machine sees them.
    pub(super) size: u64,
    #[serde(default)]
    pub(super) kernel: Option<(PathBuf, Option<PathBuf>)>,
}

/// `cluster.json`: what is settled when a cluster is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    pub(super) image: Image,
    /// Whether KVM carries out instructions.
    pub(super) kvm: bool,
    pub(super) scheduler: Size,
    pub(super) worker: Size,
    /// Ports of this computer's loopback interface that lead to 8785 and 8786.
    pub(super) ports: [u16; 2],
    /// Numbers of nodes; those of deleted ones are not used again.
    #[serde(default)]
    pub(super) places: BTreeMap<NodeName, u32>,
}

/// `tags.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    pub(super) node: NodeName,
    pub(super) role: Role,
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) tags: Tags,
    /// Offset and length of user-data in the seed.
    #[serde(default)]
    pub(super) user_data: Option<(u64, usize)>,
}

impl NodeRecord {
    pub(super) fn mac(&self) -> String {
        net::mac(self.index)
    }

    pub(super) fn outside_mac(&self) -> String {
        net::outside_mac(self.index)
    }
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) base: PathBuf,
    pub(super) run_base: PathBuf,
}

impl Layout {
    pub(super) fn of_cluster(&self, id: &ClusterId) -> PathBuf {
        self.base.join(id.as_str())
    }

    pub(super) fn run(&self, id: &ClusterId) -> PathBuf {
        self.run_base.join(id.as_str())
    }

    pub(super) fn qmp(&self, id: &ClusterId, index: u32) -> PathBuf {
        self.run(id).join(format!("q{index}"))
    }

    pub(super) fn port(&self, id: &ClusterId, index: u32) -> PathBuf {
        self.run(id).join(format!("n{index}"))
    }

    pub(super) fn node(&self, id: &ClusterId, node: &NodeName) -> NodeFiles {
        NodeFiles {
            dir: self.of_cluster(id).join(node.as_str()),
        }
    }

    pub(super) fn cluster(&self, id: &ClusterId) -> Result<Option<ClusterRecord>, ProviderError> {
        read(&self.of_cluster(id).join("cluster.json"))
    }

    pub(super) fn save_cluster(&self, record: &ClusterRecord) -> Result<(), ProviderError> {
        save(&self.of_cluster(&record.cluster.id).join("cluster.json"), record)
    }

    /// A node's record, which must be what its folder's name says.
    pub(super) fn record(&self, id: &ClusterId, node: &NodeName) -> Result<Option<NodeRecord>, ProviderError> {
        let path = self.node(id, node).tags();
        let record: Option<NodeRecord> = read(&path)?;
        match record {
            Some(r) if r.cluster.id != *id || r.node != *node => Err(fail(
                Code::Malformed,
                format!("{} is of {} in {}", path.display(), r.node, r.cluster.name),
            )),
            other => Ok(other),
        }
    }

    pub(super) fn save(&self, record: &NodeRecord) -> Result<(), ProviderError> {
        save(&self.node(&record.cluster.id, &record.node).tags(), record)
    }

    pub(super) fn clusters(&self) -> Result<Vec<ClusterId>, ProviderError> {
        names(&self.base)
    }

    pub(super) fn nodes(&self, id: &ClusterId) -> Result<Vec<NodeName>, ProviderError> {
        names(&self.of_cluster(id))
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
    pub(super) fn seed(&self) -> PathBuf {
        self.dir.join("seed.iso")
    }
    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }
    pub(super) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }
    pub(super) fn pid(&self) -> PathBuf {
        self.dir.join("pid")
    }
}

fn names<T: std::str::FromStr + Ord>(folder: &Path) -> Result<Vec<T>, ProviderError> {
    let all = files::list(folder)?;
    let mut names: Vec<T> = all.iter().filter_map(|n| n.parse().ok()).collect();
    names.sort();
    Ok(names)
}

/// Replaces a file as a whole; nobody else can read it at any time.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::write(path, bytes).map_err(|e| io::Error::other(e.message))
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), ProviderError> {
    if let Some(folder) = path.parent() {
        files::make_dir(folder)?;
    }
    let text = serde_json::to_vec_pretty(value).map_err(|e| fail(Code::Internal, e.to_string()))?;
    Ok(files::write(path, &text)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ProviderError> {
    let Some(bytes) = files::read(path)? else {
        return Ok(None);
    };
    let damaged = |e: serde_json::Error| fail(Code::Malformed, format!("{} is damaged: {e}", path.display()));
    let head: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
    if head["version"] != VERSION {
        return Err(fail(
            Code::Protocol,
            format!(
                "{} has version {}, this herdsman reads version {VERSION}",
                path.display(),
                head["version"]
            ),
        ));
    }
    serde_json::from_value(head).map(Some).map_err(damaged)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record(node: &str, index: u32) -> NodeRecord {
        NodeRecord {
            version: VERSION,
            cluster: ClusterRef {
                name: "demo".parse().unwrap(),
                id: "aaaaaaaaaa".parse().unwrap(),
            },
            node: node.parse().unwrap(),
            role: if index == 0 { Role::Scheduler } else { Role::Worker },
            index,
            address: net::address(index).unwrap(),
            tags: Tags::new(),
            user_data: None,
        }
    }

    #[test]
    fn records_are_read_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            base: dir.path().join("b"),
            run_base: dir.path().join("r"),
        };
        let r = record("demo-w0", 1);
        layout.save(&r).unwrap();
        assert_eq!(layout.record(&r.cluster.id, &r.node).unwrap().unwrap(), r);
        assert_eq!(layout.clusters().unwrap(), std::slice::from_ref(&r.cluster.id));
        let file = layout.node(&r.cluster.id, &r.node).tags();
        for (text, code) in [("{", Code::Malformed), ("{\"version\": 7}", Code::Protocol)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(layout.record(&r.cluster.id, &r.node).unwrap_err().code, code);
        }
    }
}
