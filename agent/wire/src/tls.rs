//! TLS of port 8785: version 1.3, certificates on both sides, no tickets and no
//! session cache anywhere. A ticket outlives the expiry and the revocation of
//! the certificate that it was given for, so none is ever given.

use std::sync::{Arc, RwLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};

use crate::error::{ApiError, Code};
use crate::pki::{PkiError, pem_chain};
use crate::secret::Secret;

mod callers;

pub use callers::KnownIssuers;

/// The one cryptography provider of both programs.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(what: &str, e: impl std::fmt::Display) -> PkiError {
    PkiError::Read(format!("{what}: {e}"))
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>, PkiError> {
    let mut store = RootCertStore::empty();
    for root in pem_chain(pem)? {
        store.add(root).map_err(|e| read("root", e))?;
    }
    Ok(Arc::new(store))
}

/// A chain and its key, ready for handshakes.
///
/// # Errors
/// When a part does not parse or the key is not the certificate's.
pub fn certified_key(chain_pem: &str, key_pem: &Secret) -> Result<CertifiedKey, PkiError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.reveal().as_bytes()).map_err(|_| read("key", "not PEM"))?;
    CertifiedKey::from_der(pem_chain(chain_pem)?, key, &provider()).map_err(|e| read("chain and key", e))
}

/// Client side: trusts one root, shows one certificate, resumes nothing.
///
/// # Errors
/// When a part does not parse or does not fit.
pub fn client_config(root_pem: &str, chain_pem: &str, key_pem: &Secret) -> Result<ClientConfig, PkiError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.reveal().as_bytes()).map_err(|_| read("key", "not PEM"))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| read("TLS", e))?
        .with_root_certificates(roots(root_pem)?)
        .with_client_auth_cert(pem_chain(chain_pem)?, key)
        .map_err(|e| read("chain and key", e))?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Server side: trusts one root, wants a client certificate, gives no tickets. A
/// caller may leave out the issuing certificates that are in `known`.
///
/// # Errors
/// When the root does not parse.
pub fn server_config(
    root_pem: &str,
    identity: Arc<SwapIdentity>,
    known: KnownIssuers,
) -> Result<ServerConfig, PkiError> {
    let verifier = callers::verifier(roots(root_pem)?, known)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| read("TLS", e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A server's certificate that can be exchanged while connections live.
#[derive(Debug)]
pub struct SwapIdentity(RwLock<Arc<CertifiedKey>>);

impl SwapIdentity {
    /// Starts with this one.
    #[must_use]
    pub fn new(first: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(first))))
    }

    /// New handshakes show this one from now on.
    pub fn swap(&self, next: CertifiedKey) {
        match self.0.write() {
            Ok(mut slot) => *slot = Arc::new(next),
            Err(poisoned) => *poisoned.into_inner() = Arc::new(next),
        }
    }
}

impl ResolvesServerCert for SwapIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.0.read() {
            Ok(slot) => Some(slot.clone()),
            Err(poisoned) => Some(poisoned.into_inner().clone()),
        }
    }
}

/// Checks that a chain leads to a root and stands for a name at a time, exactly
/// as a peer will; so that a node never publishes what nobody would accept.
///
/// # Errors
/// When a peer would refuse it.
pub fn check_chain(root_pem: &str, chain_pem: &str, name: &str, now: crate::Timestamp) -> Result<(), PkiError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(root_pem)?, provider())
        .build()
        .map_err(|e| read("verifier", e))?;
    let chain = pem_chain(chain_pem)?;
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| read("chain", "is empty"))?;
    let name = ServerName::try_from(name).map_err(|e| read("name", e))?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    use rustls::client::danger::ServerCertVerifier;
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], now)
        .map_err(|e| read("chain", e))?;
    Ok(())
}

/// Says in our own words why a TLS connection failed. In TLS 1.3 a client ends
/// its handshake before the server has looked at its certificate, so a refusal
/// often comes with the first read.
#[must_use]
pub fn explain(e: &std::io::Error, whom: &str) -> ApiError {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(tls) = inner else {
        let why = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "refuses the connection: nothing listens there".to_owned(),
            std::io::ErrorKind::TimedOut => "does not answer in time".to_owned(),
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::BrokenPipe => "closed the connection".to_owned(),
            _ => e.to_string(),
        };
        return ApiError::new(Code::Unreachable, format!("{whom} {why}"));
    };
    explain_tls(tls, whom)
}

fn explain_tls(e: &rustls::Error, whom: &str) -> ApiError {
    let clock = "check the clocks of both machines; the certificates live for hours, the bootstrap one for minutes";
    match e {
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => ApiError::new(
                Code::Certificate,
                format!("{whom} refuses our certificate: it is expired or not yet valid"),
            )
            .with_hint(clock),
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError => {
                ApiError::new(
                    Code::Certificate,
                    format!("{whom} refuses our certificate: it belongs to another cluster"),
                )
            }
            AlertDescription::CertificateRevoked => {
                ApiError::new(Code::Revoked, format!("{whom} refuses our certificate: it is revoked"))
            }
            other => ApiError::new(Code::Certificate, format!("{whom} ended the handshake: {other:?}")),
        },
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ApiError::new(Code::Certificate, format!("the certificate of {whom} is expired")).with_hint(clock)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => ApiError::new(
                Code::Clock,
                format!("the certificate of {whom} is not valid yet: a clock is wrong"),
            )
            .with_hint(clock),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => ApiError::new(
                Code::Certificate,
                format!(
                    "{whom} shows a certificate of somebody else: it is not this cluster's, or somebody sits in between"
                ),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => ApiError::new(
                Code::Certificate,
                format!("{whom} is another node of this cluster, not the one we want to speak to"),
            ),
            other => ApiError::new(
                Code::Certificate,
                format!("the certificate of {whom} is no good: {other}"),
            ),
        },
        other => ApiError::new(Code::Unreachable, format!("TLS with {whom}: {other}")),
    }
}
