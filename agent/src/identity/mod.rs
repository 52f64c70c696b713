//! A node's keys and certificates: made here, never sent, checked before use.
//!
//! ```text
//! state/identity.json   agent's key and the last answer of the hub   survives a reboot
//! state/next.json       keys of a request that is under way          until its answer is stored
//! run/tls/dask.pem      Dask's chain and key in one file             in memory
//! run/tls/ca.pem        the roots that Dask trusts
//! run/tls/crl.pem       CRLs of both data domains
//! ```
//!
//! Keys of a request are on disk before the request is sent. So an answer that
//! was lost, or a crash between answer and storing, leads to the same request
//! again and the hub answers it again, instead of taking the node for a clone.

pub mod enrol;

use std::path::{Path, PathBuf};

use herdsman_wire::api::Issued;
use herdsman_wire::join::{JoinConfig, Roots};
use herdsman_wire::spec::DaskSecurity;
use herdsman_wire::{ApiError, ClusterId, Code, Role, Secret, Timestamp, limits, pki, tls};
use serde::{Deserialize, Serialize};

use crate::files;

/// Who this node is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The hub's last answer.
    pub issued: Issued,
    /// Key of the agent's certificate.
    pub agent_key: Secret,
    /// When the answer came, by our clock.
    pub since: Timestamp,
}

/// New keys for both certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewKeys {
    /// Agent's key, PEM.
    pub agent: Secret,
    /// Dask's key, PEM.
    pub dask: Secret,
}

impl NewKeys {
    /// Makes them.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, ApiError> {
        let key = || {
            pki::new_key()
                .map(|k| Secret::new(k.serialize_pem()))
                .map_err(|e| ApiError::new(Code::Internal, e.to_string()))
        };
        Ok(Self {
            agent: key()?,
            dask: key()?,
        })
    }

    /// Requests for both, agent first.
    ///
    /// # Errors
    /// When a key does not parse or signing fails.
    pub fn requests(&self) -> Result<(String, String), ApiError> {
        let csr = |subject: &str, key: &Secret| {
            let failed = |e: String| ApiError::new(Code::Internal, format!("certificate request: {e}"));
            let key = rcgen::KeyPair::from_pem(key.reveal()).map_err(|e| failed(e.to_string()))?;
            pki::new_csr(subject, &key).map_err(|e| failed(e.to_string()))
        };
        Ok((csr("agent", &self.agent)?, csr("dask", &self.dask)?))
    }
}

/// Where a node keeps them.
#[derive(Clone, Debug)]
pub struct Store {
    state: PathBuf,
    run: PathBuf,
    cluster: ClusterId,
    roots: Roots,
}

/// Paths of what Dask is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Chain and key.
    pub certificate: PathBuf,
    /// Trusted roots.
    pub ca: PathBuf,
    /// CRLs.
    pub crl: PathBuf,
}

impl Store {
    /// The store of a node.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn open(join: &JoinConfig) -> Result<Self, ApiError> {
        let store = Self {
            state: join.paths.state.clone(),
            run: join.paths.run.clone(),
            cluster: join.cluster.clone(),
            roots: join.roots.clone(),
        };
        files::make_dir(&store.state)?;
        files::make_dir(&store.run.join("tls"))?;
        Ok(store)
    }

    /// Paths of Dask's files.
    #[must_use]
    pub fn tls_files(&self) -> TlsFiles {
        let dir = self.run.join("tls");
        TlsFiles {
            certificate: dir.join("dask.pem"),
            ca: dir.join("ca.pem"),
            crl: dir.join("crl.pem"),
        }
    }

    /// The identity of an earlier run, if it is of this cluster and not expired.
    ///
    /// # Errors
    /// When the file is there but damaged.
    pub fn load(&self, now: Timestamp) -> Result<Option<Identity>, ApiError> {
        let path = self.state.join("identity.json");
        let Some(bytes) = files::read_limited(&path, limits::OPERATOR_BODY)? else {
            return Ok(None);
        };
        let identity: Identity = serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::new(Code::Malformed, format!("{}: {e}", path.display())))?;
        let facts = pki::facts_of_pem(&identity.issued.agent_chain)
            .map_err(|e| ApiError::new(Code::Certificate, format!("{}: {e}", path.display())))?;
        if facts.identity.cluster != self.cluster || facts.not_after <= now {
            return Ok(None);
        }
        Ok(Some(identity))
    }

    /// Whether Dask's own key is there; after a reboot it is not.
    #[must_use]
    pub fn has_dask_key(&self) -> bool {
        self.tls_files().certificate.is_file()
    }

    /// Keys for the next request: those of one that is under way, or new ones.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn next_keys(&self) -> Result<NewKeys, ApiError> {
        let path = self.state.join("next.json");
        if let Some(bytes) = files::read_limited(&path, limits::JOIN_CONFIG)?
            && let Ok(keys) = serde_json::from_slice(&bytes)
        {
            return Ok(keys);
        }
        let keys = NewKeys::generate()?;
        let text = serde_json::to_vec(&keys).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        files::write_atomic(&path, &text)?;
        Ok(keys)
    }

    /// Throws away the keys of a request that was refused for good.
    pub fn forget_next_keys(&self) {
        let _ = std::fs::remove_file(self.state.join("next.json"));
    }

    /// Takes an answer into use: checks it as peers will, writes Dask's files,
    /// then the identity.
    ///
    /// # Errors
    /// [`Code::Certificate`] when a peer would refuse it, [`Code::Clock`] when
    /// our clock says that it is not valid, or as the file system says. The old
    /// identity is untouched then.
    pub fn publish(&self, issued: Issued, keys: NewKeys, now: Timestamp) -> Result<Identity, ApiError> {
        let bad =
            |what: &str, e: String| ApiError::new(Code::Certificate, format!("the hub's {what} certificate: {e}"));
        let label = match issued.role {
            Role::Scheduler => herdsman_wire::name::SCHEDULER_LABEL,
            Role::Worker => issued.node.as_str(),
        };
        let name = self.cluster.dns(label);
        self.check_clock(&issued, now)?;
        tls::certified_key(&issued.agent_chain, &keys.agent).map_err(|e| bad("agent", e.to_string()))?;
        tls::certified_key(&issued.dask_chain, &keys.dask).map_err(|e| bad("Dask", e.to_string()))?;
        tls::check_chain(&self.roots.control, &issued.agent_chain, &name, now)
            .map_err(|e| bad("agent", e.to_string()))?;
        let data_root = match issued.role {
            Role::Scheduler => &self.roots.scheduler,
            Role::Worker => &self.roots.node,
        };
        tls::check_chain(data_root, &issued.dask_chain, &name, now).map_err(|e| bad("Dask", e.to_string()))?;
        self.write_dask(&issued, &keys.dask)?;
        self.write_crl(&issued.crl)?;
        let identity = Identity {
            issued,
            agent_key: keys.agent,
            since: now,
        };
        // Passwords of package indexes are not written down.
        let mut open = identity.clone();
        open.issued.spec.environment = open.issued.spec.environment.without_credentials();
        let text = serde_json::to_vec(&open).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        files::write_atomic(&self.state.join("identity.json"), &text)?;
        self.forget_next_keys();
        Ok(identity)
    }

    fn check_clock(&self, issued: &Issued, now: Timestamp) -> Result<(), ApiError> {
        let facts = pki::facts_of_pem(&issued.agent_chain)
            .map_err(|e| ApiError::new(Code::Certificate, format!("the hub's answer: {e}")))?;
        if now < facts.not_before || now >= facts.not_after {
            return Err(ApiError::new(
                Code::Clock,
                format!(
                    "this machine's clock is wrong: it shows {} s since 1970, the hub's certificates are good from {} to {}",
                    now.seconds(),
                    facts.not_before.seconds(),
                    facts.not_after.seconds()
                ),
            )
            .with_hint("set the clock (for example `timedatectl set-ntp true`), then run the command again"));
        }
        Ok(())
    }

    fn write_dask(&self, issued: &Issued, key: &Secret) -> Result<(), ApiError> {
        let files_ = self.tls_files();
        let (certificate, ca) = match &issued.spec.dask.security {
            DaskSecurity::Cluster => (
                Secret::new(format!("{}{}", issued.dask_chain, key.reveal())),
                format!("{}{}", self.roots.scheduler, self.roots.node),
            ),
            DaskSecurity::Own { ca, scheduler, worker } => {
                let own = match issued.role {
                    Role::Scheduler => scheduler,
                    Role::Worker => worker,
                };
                (
                    Secret::new(format!("{}\n{}", own.certificate.trim_end(), own.key.reveal())),
                    ca.clone(),
                )
            }
            DaskSecurity::None => return Ok(()),
        };
        files::write_atomic(&files_.ca, ca.as_bytes())?;
        // Chain and key in one file: they can never be seen as a mismatched pair.
        files::write_mode(&files_.certificate, certificate.reveal().as_bytes(), 0o400)
    }

    /// Writes a CRL bundle for Dask's guard.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write_crl(&self, pem: &str) -> Result<(), ApiError> {
        if pem.is_empty() {
            return Ok(());
        }
        files::write_atomic(&self.tls_files().crl, pem.as_bytes())
    }

    /// The control root.
    #[must_use]
    pub fn control_root(&self) -> &str {
        &self.roots.control
    }

    /// Folder of sockets and process files.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }
}
