//! Reading certificates that passed a handshake: who they say they are.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::profile::{PkiError, hex};
use crate::identity::Identity;
use crate::time::Timestamp;

/// What the rest of the system wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Who its holder is.
    pub identity: Identity,
    /// The node's DNS label, where there is one.
    pub label: Option<String>,
    /// Serial, lower-case hex.
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the public key (SPKI), hex.
    pub key: String,
}

/// Reads a certificate of ours.
///
/// # Errors
/// When it does not parse, or names no or more than one identity.
pub fn facts(der: &[u8]) -> Result<CertificateFacts, PkiError> {
    let read = |why: &str| PkiError::Read(why.to_owned());
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| read("does not parse"))?;
    let san = cert
        .subject_alternative_name()
        .map_err(|_| read("alternative names do not parse"))?
        .ok_or_else(|| read("has no alternative names"))?;
    let mut uris = Vec::new();
    let mut dns = Vec::new();
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(u) => uris.push(*u),
            GeneralName::DNSName(d) => dns.push(*d),
            _ => return Err(read("has an alternative name that ours never have")),
        }
    }
    let [uri] = uris.as_slice() else {
        return Err(read("does not name exactly one identity"));
    };
    let identity: Identity = uri
        .parse()
        .map_err(|e: crate::identity::IdentityError| PkiError::Read(e.to_string()))?;
    let label = match dns.as_slice() {
        [] => None,
        [name] => {
            let suffix = format!(".{}.{}", identity.cluster, crate::name::DOMAIN);
            Some(
                name.strip_suffix(&suffix)
                    .ok_or_else(|| read("its DNS name is outside its cluster"))?
                    .to_owned(),
            )
        }
        _ => return Err(read("has more than one DNS name")),
    };
    let stamp = |t: i64| Timestamp(u64::try_from(t).unwrap_or(0).saturating_mul(1000));
    Ok(CertificateFacts {
        identity,
        label,
        serial: hex(cert.raw_serial()),
        not_before: stamp(cert.validity().not_before.timestamp()),
        not_after: stamp(cert.validity().not_after.timestamp()),
        key: sha256(cert.public_key().raw),
    })
}

/// [`facts`] of the first certificate in a PEM text.
///
/// # Errors
/// As there, and when there is no certificate in the text.
pub fn facts_of_pem(pem: &str) -> Result<CertificateFacts, PkiError> {
    let chain = pem_chain(pem)?;
    facts(
        chain
            .first()
            .ok_or_else(|| PkiError::Read("there is none in the text".into()))?,
    )
}

/// All certificates of a PEM text.
///
/// # Errors
/// When the text is no PEM or holds no certificate.
pub fn pem_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        // Without the parser's words, which quote the text: it may be a key.
        .map_err(|_| PkiError::Read("the text is no PEM".into()))?;
    if chain.is_empty() {
        return Err(PkiError::Read("there is none in the text".into()));
    }
    Ok(chain)
}

/// SHA-256 of a request's public key (SPKI), hex.
///
/// # Errors
/// [`PkiError::Request`] when the request does not parse, its signature is
/// wrong or its key is no P-256 key; so whatever has a hash can be signed.
pub fn public_key_hash(csr: &str) -> Result<String, PkiError> {
    use rustls_pki_types::CertificateSigningRequestDer;
    use x509_parser::certification_request::X509CertificationRequest;
    super::profile::read_csr(csr)?;
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes())
        .map_err(|_| PkiError::Request("is no PEM".into()))?;
    let (_, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| PkiError::Request("does not parse".into()))?;
    Ok(sha256(request.certification_request_info.subject_pki.raw))
}

fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}
