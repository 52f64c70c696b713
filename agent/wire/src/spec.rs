//! What the nodes of a cluster shall run, as the launcher decides it and the
//! hub hands it on at enrolment. It travels over mTLS only, so it may hold
//! secrets; user-data never does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::environment::IndexCredential;
use crate::report::Versions;
use crate::secret::Secret;

/// Everything the launcher decides about how nodes run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// How Dask's processes run.
    pub dask: DaskSpec,
    /// When the cluster ends by itself.
    pub limits: EndSpec,
    /// Which Python the nodes use.
    pub environment: EnvironmentSpec,
    /// Lives of certificates; tests shorten them.
    #[serde(default)]
    pub lives: Lives,
    /// What the machines' packet filters let through.
    #[serde(default)]
    pub firewall: FirewallSpec,
}

/// What the machines' packet filters let through, beside the nodes themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirewallSpec {
    /// Networks of the owner, from the start on; later the hub has the list.
    pub allow: Vec<IpNet>,
    /// The address from which the hub is installed is the owner's too.
    pub allow_installer: bool,
    /// Where nodes come from whose address is not known before they enrol.
    pub join: Vec<IpNet>,
    /// Dask may ask the cloud's metadata service: a role was asked for.
    pub metadata: bool,
}

/// How Dask's processes run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaskSpec {
    /// Dask's own traffic: cluster certificates, the user's, or none.
    pub security: DaskSecurity,
    /// Scheduler's port.
    pub scheduler_port: u16,
    /// Dashboard's port on loopback.
    pub dashboard_port: u16,
    /// First port of a node's workers.
    pub worker_port: u16,
    /// First port of a node's nannies.
    pub nanny_port: u16,
    /// Worker processes on a node.
    pub workers_per_node: u16,
    /// Threads of each worker process; absent: the machine's share.
    pub threads: Option<u16>,
    /// Memory limit of each worker process as Dask reads it (`auto`, `4GiB`).
    pub memory_limit: Option<String>,
    /// Abstract resources of each worker process.
    pub resources: BTreeMap<String, f64Eq>,
    /// Class of worker processes under the nanny.
    pub worker_class: Option<String>,
    /// Further arguments of `dask scheduler`.
    pub scheduler_args: Vec<String>,
    /// Further arguments of `dask worker`.
    pub worker_args: Vec<String>,
    /// Environment of all Dask processes. Values may be secret.
    pub variables: BTreeMap<String, Secret>,
}

impl Default for DaskSpec {
    fn default() -> Self {
        Self {
            security: DaskSecurity::Cluster,
            scheduler_port: crate::limits::SCHEDULER_PORT,
            dashboard_port: crate::limits::DASHBOARD_PORT,
            worker_port: crate::limits::WORKER_PORT,
            nanny_port: crate::limits::NANNY_PORT,
            workers_per_node: 1,
            threads: None,
            memory_limit: None,
            resources: BTreeMap::new(),
            worker_class: None,
            scheduler_args: Vec::new(),
            worker_args: Vec::new(),
            variables: BTreeMap::new(),
        }
    }
}

/// A float that compares by its bits, so that specifications can be compared.
#[expect(non_camel_case_types, reason = "stands for a primitive")]
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct f64Eq(pub f64);

impl PartialEq for f64Eq {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for f64Eq {}

/// What protects Dask's own traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "mode")]
pub enum DaskSecurity {
    /// Certificates of the cluster's own roots, renewed by the agent.
    #[default]
    Cluster,
    /// The user's certificates in PEM, installed as they are.
    Own {
        /// Certificates that Dask trusts.
        ca: String,
        /// The scheduler's certificate chain and key.
        scheduler: OwnCertificate,
        /// The workers' certificate chain and key.
        worker: OwnCertificate,
    },
    /// Plain TCP. The agent's channel stays as it is.
    None,
}

/// A certificate of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCertificate {
    /// Chain in PEM, leaf first.
    pub certificate: String,
    /// Key in PEM.
    pub key: Secret,
}

/// When a cluster ends by itself. Seconds; absent means never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndSpec {
    /// After this long without a task.
    pub idle_seconds: Option<u64>,
    /// After this long without a connected client, whether tasks run or not.
    pub no_client_seconds: Option<u64>,
    /// This long after its start.
    pub lifetime_seconds: Option<u64>,
}

/// Which Python a node runs Dask with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "mode")]
pub enum EnvironmentSpec {
    /// An interpreter that is already there.
    Image {
        /// Absolute path of the interpreter.
        python: PathBuf,
        /// Modules to put before all others (working directories of the laptop,
        /// for nodes on the same machine).
        #[serde(default)]
        path: Vec<PathBuf>,
        /// Versions that Dask's processes must have; empty ones are not compared.
        #[serde(default)]
        versions: Versions,
    },
    /// A locked copy of the laptop's environment, installed by its id.
    Locked {
        /// SHA-256 in hex of the manifest blob; the environment's id.
        id: String,
        /// A `uv` that is on the machine already; absent: found there.
        #[serde(default)]
        uv: Option<PathBuf>,
        /// SHA-256 in hex of a blob that is a `uv` for machines that have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uv_blob: Option<String>,
        /// An interpreter of the machine to stand on; absent: found or fetched.
        #[serde(default)]
        python: Option<PathBuf>,
        /// All packages are in uv's cache beside the environments already, and
        /// no index is to be asked: for nodes without a route to one.
        #[serde(default)]
        offline: bool,
        /// Access to private package indexes, in memory only.
        #[serde(default)]
        credentials: Vec<IndexCredential>,
    },
}

impl EnvironmentSpec {
    /// Id of a copied environment.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Locked { id, .. } => Some(id),
            Self::Image { .. } => None,
        }
    }

    /// The same with no passwords in it: what may be written to a disk.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        let mut open = self.clone();
        if let Self::Locked { credentials, .. } = &mut open {
            credentials.clear();
        }
        open
    }
}

impl Default for EnvironmentSpec {
    fn default() -> Self {
        Self::Image {
            python: "/usr/bin/python3".into(),
            path: Vec::new(),
            versions: Versions::default(),
        }
    }
}

/// Lives of certificates and pace of their renewal, seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lives {
    /// Life of agent and Dask certificates.
    pub leaf_seconds: u64,
    /// Age at which they are renewed, jittered by an eighth.
    pub renew_seconds: u64,
    /// Life of operator and client certificates.
    pub operator_seconds: u64,
    /// How far ahead a CRL's `nextUpdate` lies.
    pub crl_seconds: u64,
    /// How often a CRL is issued anew.
    pub crl_reissue_seconds: u64,
}

impl Default for Lives {
    fn default() -> Self {
        use crate::limits as l;
        Self {
            leaf_seconds: l::LEAF_LIFE.as_secs(),
            renew_seconds: l::LEAF_RENEW.as_secs(),
            operator_seconds: l::OPERATOR_LIFE.as_secs(),
            crl_seconds: l::CRL_LIFE.as_secs(),
            crl_reissue_seconds: l::CRL_REISSUE.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_holds_no_password() {
        let full = EnvironmentSpec::Locked {
            id: "ab".into(),
            uv: None,
            uv_blob: None,
            python: None,
            offline: false,
            credentials: vec![IndexCredential {
                host: "h".into(),
                user: "u".into(),
                password: Secret::new("hunter2"),
            }],
        };
        let open = full.without_credentials();
        assert_eq!(open.id(), Some("ab"));
        assert!(!serde_json::to_string(&open).unwrap().contains("hunter2"));
        // Written by an older launcher.
        let old: EnvironmentSpec = serde_json::from_str(r#"{"mode":"locked","id":"ab"}"#).unwrap();
        assert_eq!(old, open);
    }
}
