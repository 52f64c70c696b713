//! What this computer remembers of clusters: a cache of what the tags say, and
//! the operator's keys, which are nowhere else.
//!
//! ```text
//! <state>/clusters/<name>/record.json     what and where; written before anything is created
//!                         operator.pem    chain and key for 8785     0600
//!                         client.pem      chain and key for Dask     0600
//!                         ca.pem          what Dask clients trust
//! <state>/locks/<name>                    one command at a time
//! ```
//!
//! Files are replaced whole, never written in place; a damaged one is named in
//! the error and harms no other cluster.

mod lock;

use std::path::{Path, PathBuf};

use herdsman_wire::join::Roots;
use herdsman_wire::{ApiError, ClusterName, Code, Secret, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

use crate::files;
use crate::pki::Credentials;
use crate::provider::{ClusterRef, Tags};

pub use lock::Lock;

/// Version of `record.json` that this build writes.
const VERSION: u32 = 1;

/// How far a cluster has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Its machines are being made, or that was interrupted.
    Creating,
    /// Its hub is installed.
    Up,
    /// It is being deleted, or that was interrupted.
    Deleting,
}

impl Stage {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "its creation was interrupted",
            Self::Up => "up",
            Self::Deleting => "its deletion was interrupted",
        }
    }
}

/// What is remembered of a cluster. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name and identity.
    pub cluster: ClusterRef,
    /// Provider that has its machines.
    pub provider: String,
    /// When it was made.
    pub created: Timestamp,
    /// Where this computer reaches the hub (8785).
    #[serde(default)]
    pub agent: Option<SocketAddr>,
    /// Where this computer reaches Dask's scheduler (8786).
    #[serde(default)]
    pub scheduler: Option<SocketAddr>,
    /// The cluster's roots, PEM.
    pub roots: Roots,
    /// SHA-256 of the control root, hex.
    pub fingerprint: String,
    /// Whether Dask's own traffic is plain TCP.
    #[serde(default)]
    pub insecure: bool,
    /// Whether it is carried by certificates of the user's own.
    #[serde(default)]
    pub own: bool,
    /// Region of the provider that they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Tags of its resources.
    #[serde(default)]
    pub tags: Tags,
    /// How far it has come.
    pub stage: Stage,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// Certificates of this computer's user.
#[derive(Clone, Debug)]
pub struct UserKeys {
    /// For the hub.
    pub operator: Credentials,
    /// For Dask.
    pub client: Credentials,
}

/// Files that a Dask client is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFiles {
    /// Chain; the cluster's own with the key behind it.
    pub certificate: PathBuf,
    /// Key.
    pub key: PathBuf,
    /// What the client trusts: the scheduler's root alone, so that no worker can
    /// pose as the scheduler.
    pub ca: PathBuf,
}

/// The state folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Uses this folder, which is made if need be.
    ///
    /// # Errors
    /// [`Code::Disk`] when it cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, ApiError> {
        let folder = folder.into();
        files::make_dir(&folder.join("clusters"))?;
        files::make_dir(&folder.join("locks"))?;
        Ok(Self { folder })
    }

    /// The folder of one cluster.
    #[must_use]
    pub fn folder_of(&self, name: &ClusterName) -> PathBuf {
        self.folder.join("clusters").join(name.as_str())
    }

    /// Takes a cluster for one command.
    ///
    /// # Errors
    /// [`Code::Conflict`] naming the command that has it.
    pub fn lock(&self, name: &ClusterName, verb: &str) -> Result<Lock, ApiError> {
        Lock::take(&self.folder.join("locks").join(name.as_str()), name, verb)
    }

    /// Whether there is anything about a cluster, damaged or not.
    #[must_use]
    pub fn holds(&self, name: &ClusterName) -> bool {
        self.folder_of(name).is_dir()
    }

    /// A cluster's record.
    ///
    /// # Errors
    /// [`Code::Malformed`] naming the file when it is damaged,
    /// [`Code::Protocol`] when a newer release wrote it.
    pub fn load(&self, name: &ClusterName) -> Result<Option<Record>, ApiError> {
        let path = self.folder_of(name).join("record.json");
        let Some(bytes) = files::read(&path)? else {
            return Ok(None);
        };
        let damaged = |e: serde_json::Error| {
            ApiError::new(Code::Malformed, format!("{} is damaged: {e}", path.display())).with_hint(format!(
                "herdsman down {name}          deletes the cluster by its tags, and this record"
            ))
        };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
        if head.version != VERSION {
            return Err(ApiError::new(
                Code::Protocol,
                format!(
                    "{} has version {}, this herdsman reads version {VERSION}",
                    path.display(),
                    head.version
                ),
            )
            .with_hint("use the release that made the cluster, or a newer one"));
        }
        let read: Versioned<Record> = serde_json::from_slice(&bytes).map_err(damaged)?;
        if read.record.cluster.name != *name {
            return Err(ApiError::new(
                Code::Malformed,
                format!("{} is of the cluster `{}`", path.display(), read.record.cluster.name),
            ));
        }
        Ok(Some(read.record))
    }

    /// Writes a record and what Dask clients trust; both are on disk when this
    /// returns.
    ///
    /// # Errors
    /// [`Code::Disk`].
    pub fn save(&self, record: &Record) -> Result<(), ApiError> {
        let folder = self.folder_of(&record.cluster.name);
        files::make_dir(&folder)?;
        files::write(&folder.join("ca.pem"), record.roots.scheduler.as_bytes())?;
        let versioned = Versioned {
            version: VERSION,
            record,
        };
        let text = serde_json::to_vec_pretty(&versioned).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        files::write(&folder.join("record.json"), &text)
    }

    /// The user's certificates for a cluster.
    ///
    /// # Errors
    /// When a file is damaged, naming it.
    pub fn keys(&self, name: &ClusterName) -> Result<Option<UserKeys>, ApiError> {
        let folder = self.folder_of(name);
        let read = |file: &str| -> Result<Option<Credentials>, ApiError> {
            let path = folder.join(file);
            let Some(bytes) = files::read(&path)? else {
                return Ok(None);
            };
            let damaged = || ApiError::new(Code::Malformed, format!("{} is damaged", path.display()));
            let text = Secret::new(String::from_utf8(bytes).map_err(|_| damaged())?);
            let at = text.reveal().find("-----BEGIN PRIVATE KEY").ok_or_else(damaged)?;
            let (chain, key) = text.reveal().split_at(at);
            Credentials::new(chain.to_owned(), Secret::new(key)).map(Some)
        };
        match (read("operator.pem")?, read("client.pem")?) {
            (Some(operator), Some(client)) => Ok(Some(UserKeys { operator, client })),
            _ => Ok(None),
        }
    }

    /// Writes the user's certificates, each with its key in one file, so that
    /// they are never seen as a mismatched pair.
    ///
    /// # Errors
    /// [`Code::Disk`].
    pub fn save_keys(&self, name: &ClusterName, keys: &UserKeys) -> Result<(), ApiError> {
        let folder = self.folder_of(name);
        files::make_dir(&folder)?;
        for (file, c) in [("operator.pem", &keys.operator), ("client.pem", &keys.client)] {
            let text = Secret::new(format!("{}{}", c.chain, c.key.reveal()));
            files::write(&folder.join(file), text.reveal().as_bytes())?;
        }
        Ok(())
    }

    /// Notes that Dask's clients use the user's own certificates. Paths only: the
    /// files stay where they are.
    ///
    /// # Errors
    /// [`Code::Disk`].
    pub fn save_own(&self, name: &ClusterName, files: &ClientFiles) -> Result<(), ApiError> {
        let text = serde_json::to_vec(files).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        files::write(&self.folder_of(name).join("own.json"), &text)
    }

    /// Where a Dask client finds its files.
    ///
    /// # Errors
    /// When the note about the user's own is damaged.
    pub fn client_files(&self, name: &ClusterName) -> Result<ClientFiles, ApiError> {
        let folder = self.folder_of(name);
        let own = folder.join("own.json");
        if let Some(bytes) = files::read(&own)? {
            return serde_json::from_slice(&bytes)
                .map_err(|e| ApiError::new(Code::Malformed, format!("{} is damaged: {e}", own.display())));
        }
        Ok(ClientFiles {
            certificate: folder.join("client.pem"),
            key: folder.join("client.pem"),
            ca: folder.join("ca.pem"),
        })
    }

    /// Names of all clusters that something is remembered of.
    ///
    /// # Errors
    /// [`Code::Disk`] when the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<ClusterName>, ApiError> {
        let mut names: Vec<ClusterName> = files::list(&self.folder.join("clusters"))?
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Forgets a cluster.
    ///
    /// # Errors
    /// [`Code::Disk`].
    pub fn remove(&self, name: &ClusterName) -> Result<(), ApiError> {
        files::remove_dir(&self.folder_of(name))
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests;
