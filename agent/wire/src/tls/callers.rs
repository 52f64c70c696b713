//! Who may call: the usual verification of a client's certificate, with the issuing
//! certificates that the server has anyway.
//!
//! A machine's user-data holds a certificate that the hub has signed. Its issuer's
//! would be as large again, and the hub knows it best.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::pki::{PkiError, pem_chain};

/// Issuing certificates that callers need not show. Being known makes none of
/// them trusted: each must lead to the root, at the time of the call.
#[derive(Clone, Debug, Default)]
pub struct KnownIssuers(Arc<OnceLock<Vec<CertificateDer<'static>>>>);

impl KnownIssuers {
    /// Tells them, once.
    ///
    /// # Errors
    /// When they do not parse.
    pub fn tell(&self, pem: &str) -> Result<(), PkiError> {
        let _ = self.0.set(pem_chain(pem)?);
        Ok(())
    }

    fn get(&self) -> &[CertificateDer<'static>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

pub(super) fn verifier(
    roots: Arc<RootCertStore>,
    known: KnownIssuers,
) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let inner = WebPkiClientVerifier::builder_with_provider(roots, super::provider())
        .build()
        .map_err(|e| super::read("client verifier", e))?;
    Ok(Arc::new(Callers { inner, known }))
}

#[derive(Debug)]
struct Callers {
    inner: Arc<dyn ClientCertVerifier>,
    known: KnownIssuers,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Whoever shows a chain is judged by that chain alone.
        let intermediates = match intermediates {
            [] => self.known.get(),
            shown => shown,
        };
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }
}

#[cfg(test)]
#[path = "callers_tests.rs"]
mod tests;
