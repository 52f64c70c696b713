//! The launcher as the cluster's certificate authority, for the minute that it
//! is one. The three root keys live in memory only: once the scheduler's agent
//! has its issuing certificates they are dropped, and nothing that could mint
//! another issuing certificate exists any more.

pub mod own;

use std::time::Duration;

use herdsman_wire::api::CsrReply;
use herdsman_wire::join::{Bootstrap, Roots as RootPems};
use herdsman_wire::pki::{self, Authority, PkiError, SignRequest};
use herdsman_wire::{ApiError, ClusterId, Code, Identity, Kind, NodeName, Role, Secret, Timestamp, limits, tls};
use rcgen::{Issuer, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};

/// The roots' own life beyond the issuing certificates' end.
const ROOT_MARGIN: Duration = Duration::from_secs(24 * 3600);

/// Three roots with their keys.
#[derive(Debug)]
pub struct Roots {
    cluster: ClusterId,
    control: Issuer<'static, KeyPair>,
    scheduler: Issuer<'static, KeyPair>,
    node: Issuer<'static, KeyPair>,
    /// Their certificates; public.
    pub pems: RootPems,
    /// When the issuing certificates end.
    pub until: Timestamp,
}

/// A chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Chain, PEM, leaf first.
    pub chain: String,
    /// Key, PEM.
    pub key: Secret,
    /// Serial of the leaf, hex.
    pub serial: String,
}

impl Credentials {
    /// Puts a chain and its key together.
    ///
    /// # Errors
    /// [`Code::Certificate`] when they do not parse or do not belong together.
    pub fn new(chain: String, key: Secret) -> Result<Self, ApiError> {
        let bad = |e: PkiError| ApiError::new(Code::Certificate, e.to_string());
        tls::certified_key(&chain, &key).map_err(bad)?;
        let serial = pki::facts_of_pem(&chain).map_err(bad)?.serial;
        Ok(Self { chain, key, serial })
    }
}

/// SHA-256 of a certificate, hex: what people compare.
///
/// # Errors
/// [`Code::Certificate`] when the text is no certificate.
pub fn fingerprint(pem: &str) -> Result<String, ApiError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| ApiError::new(Code::Certificate, format!("certificate: {e}")))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    Ok(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// Signed issuing certificates in the order control, scheduler, node.
#[derive(Clone, Debug)]
pub struct Issuing(pub [String; 3]);

fn failed(e: &PkiError) -> ApiError {
    let code = if matches!(e, PkiError::Request(_)) {
        Code::EnrolRequest
    } else {
        Code::Internal
    };
    ApiError::new(code, e.to_string())
}

/// A new cluster identity.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_cluster_id() -> Result<ClusterId, ApiError> {
    let mut bytes = [0; 10];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ApiError::new(Code::Internal, "no randomness"))?;
    Ok(ClusterId::from_random(bytes))
}

/// How long a cluster's issuing certificates live: as long as its lifetime asks
/// for, within the cap.
#[must_use]
pub fn authority_life(lifetime: Option<Duration>) -> Duration {
    let wanted = lifetime.map_or(limits::CLUSTER_LIFE, |l| l + limits::LEAF_LIFE);
    wanted.clamp(limits::CLUSTER_LIFE, limits::CLUSTER_LIFE_MAX)
}

impl Roots {
    /// Makes the roots of a new cluster.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(cluster: &ClusterId, now: Timestamp, life: Duration) -> Result<Self, ApiError> {
        let until = now.plus(life);
        let make = |a| pki::new_root(cluster, a, now, until.plus(ROOT_MARGIN)).map_err(|e| failed(&e));
        let (control, c) = make(Authority::Control)?;
        let (scheduler, s) = make(Authority::Scheduler)?;
        let (node, n) = make(Authority::Node)?;
        let pems = RootPems {
            control: c,
            scheduler: s,
            node: n,
        };
        Ok(Self {
            cluster: cluster.clone(),
            control,
            scheduler,
            node,
            pems,
            until,
        })
    }

    const fn root(&self, authority: Authority) -> &Issuer<'static, KeyPair> {
        match authority {
            Authority::Control => &self.control,
            Authority::Scheduler => &self.scheduler,
            Authority::Node => &self.node,
        }
    }

    fn credentials(
        &self,
        kind: Kind,
        node: Option<&str>,
        now: Timestamp,
        life: Duration,
    ) -> Result<Credentials, ApiError> {
        let identity = Identity {
            cluster: self.cluster.clone(),
            kind,
        };
        let what = SignRequest {
            identity: &identity,
            node,
            now,
            not_after: now.plus(life),
        };
        let root = self.root(Authority::of(&identity.kind));
        let (chain, key) = pki::leaf_with_key(&what, root).map_err(|e| failed(&e))?;
        Ok(Credentials {
            chain: chain.certificate,
            key,
            serial: chain.serial,
        })
    }

    /// A machine's bootstrap certificate, and its serial.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bootstrap(
        &self,
        role: Role,
        node: &NodeName,
        now: Timestamp,
        life: Duration,
    ) -> Result<(Bootstrap, String), ApiError> {
        let life = life.min(limits::BOOTSTRAP_LIFE_MAX);
        let c = self.credentials(Kind::Boot(role), Some(node.as_str()), now, life)?;
        Ok((
            Bootstrap {
                certificate: c.chain,
                key: c.key,
            },
            c.serial,
        ))
    }

    /// The operator's own certificate.
    ///
    /// # Errors
    /// When signing fails.
    pub fn operator(&self, user: &str, now: Timestamp, life: Duration) -> Result<Credentials, ApiError> {
        self.credentials(Kind::Operator(user.to_owned()), None, now, life)
    }

    /// The certificate of the operator's Dask clients.
    ///
    /// # Errors
    /// When signing fails.
    pub fn client(&self, user: &str, now: Timestamp, life: Duration) -> Result<Credentials, ApiError> {
        self.credentials(Kind::Client(user.to_owned()), None, now, life)
    }

    /// Signs the hub's issuing certificates. The roots are to be dropped as soon as
    /// a hub has them in use: it may have been started anew with other keys before.
    ///
    /// # Errors
    /// [`Code::EnrolRequest`] when a request is no good.
    pub fn sign(&self, requests: &CsrReply, now: Timestamp) -> Result<Issuing, ApiError> {
        let sign = |csr: &str, a| {
            pki::issuing_from_csr(csr, &self.cluster, a, self.root(a), now, self.until)
                .map(|c| c.certificate)
                .map_err(|e| failed(&e))
        };
        Ok(Issuing([
            sign(&requests.issue_control, Authority::Control)?,
            sign(&requests.issue_scheduler, Authority::Scheduler)?,
            sign(&requests.issue_node, Authority::Node)?,
        ]))
    }
}

/// A key and a request for it, for renewals by the hub.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_request(subject: &str) -> Result<(String, Secret), ApiError> {
    let key = pki::new_key().map_err(|e| failed(&e))?;
    let csr = pki::new_csr(subject, &key).map_err(|e| failed(&e))?;
    Ok((csr, Secret::new(key.serialize_pem())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_of_the_authority() {
        let day = Duration::from_secs(86400);
        assert_eq!(authority_life(None), limits::CLUSTER_LIFE);
        assert_eq!(authority_life(Some(day / 2)), limits::CLUSTER_LIFE);
        assert_eq!(authority_life(Some(day * 10)), day * 11);
        assert_eq!(authority_life(Some(day * 100)), limits::CLUSTER_LIFE_MAX);
    }
}
