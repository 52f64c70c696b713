//! What is remembered of machines that somebody else makes.
//!
//! ```text
//! <base>/<cluster id>/cluster.json          programs: [`ClusterRecord`]
//! <base>/<cluster id>/<node>/machine.json   [`Remembered`], before anybody is asked
//!                            user-data      until the machine is a node     0600
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use herdsman_wire::{ClusterId, Code, NodeName, Role, Secret};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::{ClusterRef, ProviderError, Tags};
use super::fail;
use crate::files;

/// Version of the documents here.
pub(super) const VERSION: u32 = 1;

/// Programs of the user's, with their arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Programs {
    /// Makes a machine.
    pub create: Option<Vec<String>>,
    /// Deletes a machine.
    pub delete: Option<Vec<String>>,
    /// Lists machines.
    pub list: Option<Vec<String>>,
    /// Shows a machine's console.
    pub console: Option<Vec<String>>,
}

impl Programs {
    /// These, and for what they do not say, the others.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            create: self.create.or(other.create),
            delete: self.delete.or(other.delete),
            list: self.list.or(other.list),
            console: self.console.or(other.console),
        }
    }
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    #[serde(default)]
    pub(super) programs: Programs,
    #[serde(default)]
    pub(super) timeout_seconds: Option<u64>,
}

/// How far a machine is known to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Somebody was asked to make it, or is about to be.
    Asked,
    /// It was made.
    Made,
    /// It was told to end, and only its owner can delete it.
    Ended,
}

/// `machine.json`. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) version: u32,
    pub(super) cluster: ClusterRef,
    pub(super) node: NodeName,
    pub(super) role: Role,
    pub(super) tags: Tags,
    pub(super) stage: Stage,
    /// Where its user-data is or was.
    pub(super) user_data: PathBuf,
    /// The owner's own id of it.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// Its address on the cluster's network.
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    /// Its address from here, if that is another.
    #[serde(default)]
    pub(super) public: Option<IpAddr>,
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) base: PathBuf,
}

const CLUSTER: &str = "cluster.json";
const MACHINE: &str = "machine.json";

impl Layout {
    fn of_cluster(&self, id: &ClusterId) -> PathBuf {
        self.base.join(id.as_str())
    }

    /// A node's folder.
    pub(super) fn of_node(&self, id: &ClusterId, node: &NodeName) -> PathBuf {
        self.of_cluster(id).join(node.as_str())
    }

    /// Identities of all clusters.
    pub(super) fn clusters(&self) -> Result<Vec<ClusterId>, ProviderError> {
        names(&self.base)
    }

    /// Names of a cluster's machines.
    pub(super) fn nodes(&self, id: &ClusterId) -> Result<Vec<NodeName>, ProviderError> {
        names(&self.of_cluster(id))
    }

    pub(super) fn cluster(&self, id: &ClusterId) -> Result<Option<ClusterRecord>, ProviderError> {
        read(&self.of_cluster(id).join(CLUSTER))
    }

    pub(super) fn save_cluster(&self, record: &ClusterRecord) -> Result<(), ProviderError> {
        save(&self.of_cluster(&record.cluster.id), CLUSTER, record)
    }

    pub(super) fn node(&self, id: &ClusterId, node: &NodeName) -> Result<Option<Remembered>, ProviderError> {
        let path = self.of_node(id, node).join(MACHINE);
        let record: Option<Remembered> = read(&path)?;
        match record {
            Some(r) if r.cluster.id != *id || r.node != *node => Err(fail(
                Code::Malformed,
                format!("{} is of {} in {}", path.display(), r.node, r.cluster.name),
            )),
            other => Ok(other),
        }
    }

    pub(super) fn save(&self, record: &Remembered) -> Result<(), ProviderError> {
        save(&self.of_node(&record.cluster.id, &record.node), MACHINE, record)
    }

    /// Writes user-data where the record says.
    pub(super) fn write_user_data(record: &Remembered, text: &Secret) -> Result<(), ProviderError> {
        if let Some(folder) = record.user_data.parent() {
            files::make_dir(folder)?;
        }
        Ok(files::write(&record.user_data, text.reveal().as_bytes())?)
    }

    pub(super) fn remove_user_data(&self, id: &ClusterId, node: &NodeName) -> Result<(), ProviderError> {
        let Some(record) = self.node(id, node)? else {
            return Ok(());
        };
        for path in [record.user_data.clone(), address_file(&record.user_data)] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(fail(Code::Disk, format!("cannot remove {}: {e}", path.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets a machine, its user-data first.
    pub(super) fn remove(&self, id: &ClusterId, node: &NodeName) -> Result<(), ProviderError> {
        // A damaged record must not keep the rest alive.
        if let Err(e) = self.remove_user_data(id, node)
            && e.code != Code::Malformed
        {
            return Err(e);
        }
        Ok(files::remove_dir(&self.of_node(id, node))?)
    }

    pub(super) fn remove_cluster(&self, id: &ClusterId) -> Result<(), ProviderError> {
        Ok(files::remove_dir(&self.of_cluster(id))?)
    }
}

/// Where the scheduler's address is expected, beside its user-data.
pub(super) fn address_file(user_data: &Path) -> PathBuf {
    let mut name = user_data.as_os_str().to_owned();
    name.push(".address");
    name.into()
}

fn names<T: std::str::FromStr + Ord>(folder: &Path) -> Result<Vec<T>, ProviderError> {
    let all = files::list(folder)?;
    let mut names: Vec<T> = all.iter().filter_map(|n| n.parse().ok()).collect();
    names.sort();
    Ok(names)
}

fn save<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<(), ProviderError> {
    files::make_dir(folder)?;
    let text = serde_json::to_vec_pretty(value).map_err(|e| fail(Code::Internal, e.to_string()))?;
    Ok(files::write(&folder.join(name), &text)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ProviderError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let Some(bytes) = files::read(path)? else {
        return Ok(None);
    };
    let damaged = |e: serde_json::Error| fail(Code::Malformed, format!("{} is damaged: {e}", path.display()));
    let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
    if head.version != VERSION {
        return Err(fail(
            Code::Protocol,
            format!(
                "{} has version {}, this herdsman reads version {VERSION}",
                path.display(),
                head.version
            ),
        ));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn record(user_data: PathBuf) -> Remembered {
        Remembered {
            version: VERSION,
            cluster: ClusterRef {
                name: "demo".parse().unwrap(),
                id: "aaaaaaaaaa".parse().unwrap(),
            },
            node: "demo-w0".parse().unwrap(),
            role: Role::Worker,
            tags: Tags::new(),
            stage: Stage::Asked,
            user_data,
            id: None,
            address: None,
            public: None,
        }
    }

    #[test]
    fn records_are_read_back_and_the_secret_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            base: dir.path().join("manual"),
        };
        let user_data = dir.path().join("out/demo-w0.user-data");
        let r = record(user_data.clone());
        layout.save(&r).unwrap();
        Layout::write_user_data(&r, &Secret::new("{secret}")).unwrap();
        let mode = std::fs::metadata(&user_data).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (id, node) = (&r.cluster.id, &r.node);
        assert_eq!(layout.node(id, node).unwrap().unwrap(), r);
        assert_eq!(
            (layout.clusters().unwrap(), layout.nodes(id).unwrap()),
            (vec![id.clone()], vec![node.clone()])
        );
        layout.remove_user_data(id, node).unwrap();
        assert!(!user_data.exists() && layout.node(id, node).unwrap().is_some());
        layout.remove(id, node).unwrap();
        layout.remove(id, node).unwrap();
        assert!(layout.nodes(id).unwrap().is_empty());
    }

    #[test]
    fn damaged_and_foreign_records_say_so_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            base: dir.path().to_owned(),
        };
        let r = record(dir.path().join("x"));
        layout.save(&r).unwrap();
        let other: NodeName = "demo-w1".parse().unwrap();
        let [from, to] = [&r.node, &other].map(|n| layout.of_node(&r.cluster.id, n));
        std::fs::rename(from, &to).unwrap();
        for text in [None, Some("{"), Some("{\"version\": 9}")] {
            if let Some(text) = text {
                std::fs::write(to.join(MACHINE), text).unwrap();
            }
            let e = layout.node(&r.cluster.id, &other).unwrap_err();
            assert!(matches!(e.code, Code::Malformed | Code::Protocol), "{e}");
        }
        std::fs::write(to.join(MACHINE), "{").unwrap();
        layout.remove(&r.cluster.id, &other).unwrap();
        assert!(!to.exists());
    }
}
