//! The HTTP client below: rustls with ring, the system's certificates, HTTP/2, and
//! no redirections, as an API that redirects would be given our credentials.

use std::time::Duration;

use herdsman_wire::{Code, tls};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;

use super::super::{ProviderError, error};
use super::Options;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A client for questions without credentials.
pub(super) fn plain() -> Result<reqwest::Client, ProviderError> {
    client(&Options::new("web"))
}

pub(super) fn client(options: &Options) -> Result<reqwest::Client, ProviderError> {
    let failed = |e: &dyn std::fmt::Display| error(Code::Internal, format!("no HTTP client: {e}"));
    let extra: Vec<CertificateDer<'static>> = match &options.extra_roots {
        None => Vec::new(),
        Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| error(Code::Usage, format!("the certificates to trust are not PEM: {e:?}")))?,
    };
    let verifier = Verifier::new_with_extra_roots(extra, tls::provider()).map_err(|e| failed(&e))?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("herdsman/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| failed(&e))
}
