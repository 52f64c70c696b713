//! Making certificates. Time and serial numbers are arguments.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, CidrSubnet,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use crate::identity::{Identity, Kind};
use crate::limits;
use crate::name::{ClusterId, Role, SCHEDULER_LABEL};
use crate::secret::Secret;
use crate::time::Timestamp;

/// A certificate or request could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be generated or signed.
    #[error("certificate cannot be made: {0}")]
    Make(String),
    /// A certificate signing request is no good.
    #[error("certificate request: {0}")]
    Request(String),
    /// A certificate does not parse or lacks what ours have.
    #[error("certificate: {0}")]
    Read(String),
}

impl From<rcgen::Error> for PkiError {
    fn from(e: rcgen::Error) -> Self {
        Self::Make(e.to_string())
    }
}

/// Which issuing domain an authority belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Agents, operators, bootstraps.
    Control,
    /// The scheduler's Dask certificate.
    Scheduler,
    /// Workers' and clients' Dask certificates.
    Node,
}

impl Authority {
    /// All three, in the order of messages.
    pub const ALL: [Self; 3] = [Self::Control, Self::Scheduler, Self::Node];

    const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Scheduler => "scheduler",
            Self::Node => "node",
        }
    }

    /// The authority that signs this kind of certificate.
    #[must_use]
    pub const fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Boot(_) | Kind::Agent { .. } | Kind::Operator(_) => Self::Control,
            Kind::Dask(Role::Scheduler) => Self::Scheduler,
            Kind::Dask(Role::Worker) | Kind::Client(_) => Self::Node,
        }
    }
}

/// What is to be signed: everything comes from the signer, nothing from the CSR
/// but the public key.
#[derive(Clone, Debug)]
pub struct SignRequest<'a> {
    /// Who the holder is.
    pub identity: &'a Identity,
    /// DNS label of a node (its name); users have none.
    pub node: Option<&'a str>,
    /// From when it is valid (before the skew is taken off).
    pub now: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// A signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The certificate alone, PEM.
    pub certificate: String,
    /// Its serial, lower-case hex.
    pub serial: String,
}

/// A new P-256 key.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// A self-signed root. Its key never leaves the memory of the caller.
///
/// # Errors
/// When signing fails.
pub fn new_root(
    cluster: &ClusterId,
    authority: Authority,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<(Issuer<'static, KeyPair>, String), PkiError> {
    let key = new_key()?;
    let mut params = base(&format!("{} root {cluster}", authority.label()), now, not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key)?;
    Ok((Issuer::new(params, key), cert.pem()))
}

/// A request for an issuing certificate. Only its public key counts.
///
/// # Errors
/// When signing fails.
pub fn new_issuing_csr(cluster: &ClusterId, authority: Authority, key: &KeyPair) -> Result<String, PkiError> {
    new_csr(&format!("{} issuing {cluster}", authority.label()), key)
}

/// A request that proves possession of a key. Names in requests are never
/// believed, so it has none but a subject for people.
///
/// # Errors
/// When signing fails.
pub fn new_csr(subject: &str, key: &KeyPair) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject_name(subject);
    Ok(params.serialize_request(key)?.pem()?)
}

/// Signs an issuing certificate.
///
/// # Errors
/// [`PkiError::Request`] when the request does not parse, its signature is
/// wrong or its key is no P-256 key.
pub fn issuing_from_csr(
    csr: &str,
    cluster: &ClusterId,
    authority: Authority,
    root: &Issuer<'_, KeyPair>,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<Chain, PkiError> {
    let request = read_csr(csr)?;
    let mut params = base(&format!("{} issuing {cluster}", authority.label()), now, not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{cluster}.{}", crate::name::DOMAIN))],
        // No certificate of ours names an address, so none may.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    finish(params, &request.public_key, root)
}

/// Signs a leaf for the key of a request.
///
/// # Errors
/// [`PkiError::Request`] when the request does not parse, its signature is
/// wrong or its key is no P-256 key.
pub fn leaf_from_csr(csr: &str, what: &SignRequest<'_>, issuer: &Issuer<'_, KeyPair>) -> Result<Chain, PkiError> {
    let request = read_csr(csr)?;
    finish(leaf(what)?, &request.public_key, issuer)
}

/// Makes a key and signs a leaf for it; for bootstrap certificates and for the
/// launcher's own.
///
/// # Errors
/// When signing fails.
pub fn leaf_with_key(what: &SignRequest<'_>, issuer: &Issuer<'_, KeyPair>) -> Result<(Chain, Secret), PkiError> {
    let key = new_key()?;
    let chain = finish(leaf(what)?, &key, issuer)?;
    Ok((chain, Secret::new(key.serialize_pem())))
}

/// A revoked certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlEntry {
    /// Serial, lower-case hex.
    pub serial: String,
    /// When it was revoked.
    pub at: Timestamp,
}

/// Signs a CRL, PEM.
///
/// # Errors
/// When a serial is no hex or signing fails.
pub fn crl(
    number: u64,
    entries: &[CrlEntry],
    now: Timestamp,
    next_update: Timestamp,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, PkiError> {
    let revoked_certs = entries
        .iter()
        .map(|e| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(&e.serial)?),
                revocation_time: date(e.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        })
        .collect::<Result<_, PkiError>>()?;
    let params = CertificateRevocationListParams {
        this_update: date(now.minus(limits::CLOCK_SKEW))?,
        next_update: date(next_update)?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

fn leaf(what: &SignRequest<'_>) -> Result<CertificateParams, PkiError> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let identity = what.identity;
    let label = match (&identity.kind, what.node) {
        (Kind::Client(_) | Kind::Operator(_), _) => None,
        (
            Kind::Boot(Role::Scheduler)
            | Kind::Agent {
                role: Role::Scheduler, ..
            }
            | Kind::Dask(Role::Scheduler),
            _,
        ) => Some(SCHEDULER_LABEL),
        (_, Some(node)) => Some(node),
        (_, None) => return Err(PkiError::Make(format!("{identity} needs a node's name"))),
    };
    let subject = match (&identity.kind, label) {
        (Kind::Client(user) | Kind::Operator(user), _) => user.clone(),
        (_, Some(label)) => label.to_owned(),
        (_, None) => identity.cluster.to_string(),
    };
    let mut params = base(&subject, what.now, what.not_after)?;
    params.subject_alt_names.push(SanType::URI(ia5(&identity.to_string())?));
    if let Some(label) = label {
        params
            .subject_alt_names
            .push(SanType::DnsName(ia5(&identity.cluster.dns(label))?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match &identity.kind {
        Kind::Boot(Role::Scheduler) => vec![ServerAuth],
        Kind::Boot(Role::Worker) | Kind::Client(_) | Kind::Operator(_) => vec![ClientAuth],
        Kind::Agent { .. } | Kind::Dask(_) => vec![ServerAuth, ClientAuth],
    };
    Ok(params)
}

fn base(common_name: &str, now: Timestamp, not_after: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject_name(common_name);
    params.not_before = date(now.minus(limits::CLOCK_SKEW))?;
    params.not_after = date(not_after)?;
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| PkiError::Make("no randomness".into()))?;
    // Positive and of full length, so that hex texts compare as numbers do.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn subject_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 limits a common name to 64 characters; OpenSSL refuses longer ones.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name.push(DnType::OrganizationName, "herdsman");
    name
}

fn finish(
    params: CertificateParams,
    key: &impl rcgen::PublicKeyData,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Chain, PkiError> {
    let serial = params
        .serial_number
        .as_ref()
        .map(|s| hex(&s.to_bytes()))
        .unwrap_or_default();
    let certificate = params.signed_by(key, issuer)?.pem();
    Ok(Chain { certificate, serial })
}

pub(super) fn read_csr(pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    let bad = |why: &str| PkiError::Request(why.to_owned());
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad("is no PEM"))?;
    let (_, read) = X509CertificationRequest::from_der(&der).map_err(|_| bad("does not parse"))?;
    // rcgen goes by the signature's algorithm, which says nothing of the curve.
    let key = &read.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let is_point = matches!(key.subject_public_key.data.as_ref(), [4, point @ ..] if point.len() == 64);
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) || !is_point {
        return Err(bad("its key is not ECDSA P-256"));
    }
    let request = CertificateSigningRequestParams::from_der(&der).map_err(|e| bad(&e.to_string()))?;
    if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(bad("it is not signed with SHA-256"));
    }
    Ok(request)
}

fn date(t: Timestamp) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(t.seconds()).map_err(|_| PkiError::Make(format!("{} ms is no date", t.0)))
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, PkiError> {
    text.try_into().map_err(|e: rcgen::Error| PkiError::Make(e.to_string()))
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn unhex(text: &str) -> Result<Vec<u8>, PkiError> {
    let bad = || PkiError::Make("a serial is no hex number".into());
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad()))
        .collect()
}
