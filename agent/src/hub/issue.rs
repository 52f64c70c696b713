//! Signing on the hub: its issuing keys, made here, never elsewhere.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::api::Issued;
use herdsman_wire::pki::{self, Authority, Chain, PkiError, SignRequest};
use herdsman_wire::spec::{ClusterSpec, Lives};
use herdsman_wire::{ApiError, ClusterId, Code, Identity, Kind, NodeName, Role, Secret, Timestamp};
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::files;

/// One issuing certificate with its key.
#[derive(Debug)]
pub struct IssuingPair {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate, PEM; goes behind each leaf.
    pub certificate: String,
}

/// The three issuing certificates of a hub.
#[derive(Debug)]
pub struct Issuers {
    cluster: ClusterId,
    control: IssuingPair,
    scheduler: IssuingPair,
    node: IssuingPair,
    /// When the first of them ends; nothing lives longer.
    pub until: Timestamp,
}

/// Puts a certificate error into the API's form.
#[must_use]
pub fn pki_error(e: &PkiError) -> ApiError {
    let code = match e {
        PkiError::Request(_) => Code::EnrolRequest,
        PkiError::Make(_) => Code::Internal,
        PkiError::Read(_) => Code::Certificate,
    };
    ApiError::new(code, e.to_string())
}

/// The key pairs of the issuing certificates before they are signed.
#[derive(Debug)]
pub struct IssuingKeys {
    keys: [KeyPair; 3],
}

impl IssuingKeys {
    /// Makes them.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, ApiError> {
        let key = || pki::new_key().map_err(|e| pki_error(&e));
        Ok(Self {
            keys: [key()?, key()?, key()?],
        })
    }

    /// Requests in the order control, scheduler, node.
    ///
    /// # Errors
    /// When signing fails.
    pub fn requests(&self, cluster: &ClusterId) -> Result<[String; 3], ApiError> {
        let [c, s, n] = &self.keys;
        let csr = |a, k| pki::new_issuing_csr(cluster, a, k).map_err(|e| pki_error(&e));
        Ok([
            csr(Authority::Control, c)?,
            csr(Authority::Scheduler, s)?,
            csr(Authority::Node, n)?,
        ])
    }

    /// Writes keys and signed certificates where [`Issuers::load`] finds them.
    ///
    /// # Errors
    /// When a certificate is not for its key, or as the file system says.
    pub fn store(&self, folder: &Path, certificates: [&str; 3]) -> Result<(), ApiError> {
        for ((key, certificate), name) in self.keys.iter().zip(certificates).zip(FILES) {
            let key = Secret::new(key.serialize_pem());
            herdsman_wire::tls::certified_key(certificate, &key).map_err(|e| {
                ApiError::new(
                    Code::Malformed,
                    format!("field `{}`: {e}", name.replace(".pem", "").replace('-', "_")),
                )
            })?;
            let text = format!("{}{}", certificate, key.reveal());
            files::write_atomic(&folder.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

const FILES: [&str; 3] = ["issue-control.pem", "issue-scheduler.pem", "issue-node.pem"];

impl Issuers {
    /// Loads what [`IssuingKeys::store`] wrote.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn load(cluster: &ClusterId, folder: &Path) -> Result<Self, ApiError> {
        let mut until = Timestamp(u64::MAX);
        let mut pair = |name: &str| {
            let path = folder.join(name);
            let bad = |what: String| ApiError::new(Code::Malformed, format!("{}: {what}", path.display()));
            let bytes = files::read_limited(&path, 64 * 1024)?.ok_or_else(|| bad("is missing".into()))?;
            let text = Secret::new(String::from_utf8(bytes).map_err(|_| bad("is no text".into()))?);
            let at = text.reveal().find("-----BEGIN PRIVATE KEY").unwrap_or_default();
            let key = KeyPair::from_pem(&text.reveal()[at..]).map_err(|e| bad(e.to_string()))?;
            let der = CertificateDer::from_pem_slice(text.reveal().as_bytes()).map_err(|e| bad(e.to_string()))?;
            let end = expiry(&der).ok_or_else(|| bad("its certificate does not parse".into()))?;
            until = until.min(end);
            let certificate = text
                .reveal()
                .split_inclusive("-----END CERTIFICATE-----")
                .next()
                .unwrap_or_default();
            let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| bad(e.to_string()))?;
            Ok::<_, ApiError>(IssuingPair {
                issuer,
                certificate: format!("{}\n", certificate.trim()),
            })
        };
        let (control, scheduler, node) = (pair(FILES[0])?, pair(FILES[1])?, pair(FILES[2])?);
        Ok(Self {
            cluster: cluster.clone(),
            control,
            scheduler,
            node,
            until,
        })
    }

    const fn pair(&self, kind: &Kind) -> &IssuingPair {
        match Authority::of(kind) {
            Authority::Control => &self.control,
            Authority::Scheduler => &self.scheduler,
            Authority::Node => &self.node,
        }
    }

    fn identity(&self, kind: Kind) -> Identity {
        Identity {
            cluster: self.cluster.clone(),
            kind,
        }
    }

    /// Signs a request; the chain has the issuing certificate behind the leaf.
    ///
    /// # Errors
    /// [`Code::EnrolRequest`] when the request is no good.
    pub fn sign(
        &self,
        csr: &str,
        kind: Kind,
        node: Option<&str>,
        now: Timestamp,
        life: Duration,
    ) -> Result<Chain, ApiError> {
        let issuing = &self.pair(&kind).certificate;
        let mut chain = self.leaf(csr, kind, node, now, life)?;
        chain.certificate.push_str(issuing);
        Ok(chain)
    }

    fn leaf(
        &self,
        csr: &str,
        kind: Kind,
        node: Option<&str>,
        now: Timestamp,
        life: Duration,
    ) -> Result<Chain, ApiError> {
        let identity = self.identity(kind);
        let pair = self.pair(&identity.kind);
        let what = SignRequest {
            identity: &identity,
            node,
            now,
            not_after: now.plus(life).min(self.until),
        };
        pki::leaf_from_csr(csr, &what, &pair.issuer).map_err(|e| pki_error(&e))
    }

    /// The certificate that signs agents, people and bootstrap certificates, PEM.
    #[must_use]
    pub fn control(&self) -> &str {
        &self.control.certificate
    }

    /// A bootstrap certificate with its key for a node to come. It goes without the
    /// issuing certificate, which the hub knows: user-data has to be small.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bootstrap(&self, node: &NodeName, now: Timestamp, life: Duration) -> Result<(Chain, Secret), ApiError> {
        let identity = self.identity(Kind::Boot(Role::Worker));
        let not_after = now.plus(life).min(self.until);
        let what = SignRequest {
            identity: &identity,
            node: Some(node.as_str()),
            now,
            not_after,
        };
        pki::leaf_with_key(&what, &self.control.issuer).map_err(|e| pki_error(&e))
    }

    /// Both certificates of a node, without the issuing ones behind them; see
    /// [`Self::complete`].
    ///
    /// # Errors
    /// [`Code::EnrolRequest`] when a request is no good.
    #[expect(clippy::too_many_arguments, reason = "each is a different fact of the answer")]
    pub fn node(
        &self,
        node: &NodeName,
        role: Role,
        generation: u64,
        csr_agent: &str,
        csr_dask: &str,
        spec: &ClusterSpec,
        scheduler: SocketAddr,
        now: Timestamp,
    ) -> Result<(Issued, [String; 2]), ApiError> {
        let lives = &spec.lives;
        let life = Duration::from_secs(lives.leaf_seconds);
        let label = Some(node.as_str());
        let agent = self.leaf(csr_agent, Kind::Agent { role, generation }, label, now, life)?;
        let dask = self.leaf(csr_dask, Kind::Dask(role), label, now, life)?;
        let issued = Issued {
            node: node.clone(),
            role,
            agent_chain: agent.certificate,
            dask_chain: dask.certificate,
            generation,
            not_after: now.plus(life).min(self.until),
            renew_after_seconds: lives.renew_seconds,
            crl: String::new(),
            crl_number: 0,
            scheduler,
            spec: spec.clone(),
        };
        Ok((issued, [agent.serial, dask.serial]))
    }

    /// Puts the issuing certificates behind a node's own. They are the same for
    /// all, so the journal and the registry do without.
    pub fn complete(&self, answer: &mut Issued) {
        answer.agent_chain.push_str(&self.control.certificate);
        let pair = self.pair(&Kind::Dask(answer.role));
        answer.dask_chain.push_str(&pair.certificate);
    }

    /// A CRL bundle: one CRL for each issuing certificate of Dask's channel.
    ///
    /// # Errors
    /// When signing fails.
    pub fn crl(
        &self,
        number: u64,
        revoked: &[pki::CrlEntry],
        lives: &Lives,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let next = now.plus(Duration::from_secs(lives.crl_seconds));
        let mut bundle = String::new();
        for pair in [&self.scheduler, &self.node] {
            bundle.push_str(&pki::crl(number, revoked, now, next, &pair.issuer).map_err(|e| pki_error(&e))?);
        }
        Ok(bundle)
    }
}

fn expiry(der: &CertificateDer<'_>) -> Option<Timestamp> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let seconds = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
    Some(Timestamp(seconds * 1000))
}
