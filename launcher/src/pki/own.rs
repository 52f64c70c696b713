//! The user's own certificates for Dask's traffic, read and looked at before
//! anything is made: what OpenSSL would refuse on a node minutes later, without
//! a word about the file, is told here with its path.

use std::path::Path;
use std::time::Duration;

use herdsman_wire::spec::OwnCertificate;
use herdsman_wire::{ApiError, Code, Secret, Timestamp, pki, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Largest file that is read, bytes: a bundle of all public authorities has a
/// quarter of it.
const FILE_MAX: u64 = 1024 * 1024;

/// Certificates that end sooner than this get a warning.
const SOON: Duration = Duration::from_secs(24 * 3600);

/// Reads the user's files one after the other.
#[derive(Debug)]
pub struct Reader {
    now: Timestamp,
    /// When the cluster ends at the latest.
    until: Timestamp,
    ca: String,
    /// What is not good, and yet works.
    pub warnings: Vec<String>,
}

impl Reader {
    /// Reads the certificates that Dask shall trust. `lifetime` is the cluster's.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Disk`], [`Code::Permission`] or
    /// [`Code::Certificate`], each naming the file.
    pub fn new(ca: &Path, now: Timestamp, lifetime: Option<Duration>) -> Result<Self, ApiError> {
        let mut reader = Self {
            now,
            until: now.plus(lifetime.unwrap_or(SOON)),
            ca: String::new(),
            warnings: Vec::new(),
        };
        let text = read(ca)?;
        if text.reveal().contains("PRIVATE KEY-----") {
            return Err(bad(
                ca,
                "holds a private key; it goes to every node, so name the certificates alone",
            ));
        }
        let chain = certificates(ca, text.reveal())?;
        // One that still holds is enough: bundles keep old ones for long.
        let ends: Vec<Timestamp> = chain.iter().filter_map(|c| Some(validity(c)?.1)).collect();
        match ends.iter().max() {
            Some(end) if *end <= now => {
                return Err(bad(
                    ca,
                    &format!("all certificates in it have ended; the last on {}", day(*end)),
                ));
            }
            Some(_) => {}
            None => return Err(bad(ca, "holds no certificate that can be read")),
        }
        reader.ca = text.reveal().to_owned();
        Ok(reader)
    }

    /// What Dask shall trust, PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Reads the chain and key of a role; both may stand in one file.
    ///
    /// # Errors
    /// As for [`Reader::new`], also when the key is not the certificate's.
    pub fn pair(&mut self, role: &str, chain: &Path, key: &Path) -> Result<OwnCertificate, ApiError> {
        let chain_text = read(chain)?;
        let certificates = certificates(chain, chain_text.reveal())?;
        self.times(role, chain, &certificates)?;
        self.issuer(role, chain, &certificates);
        let key_text = read(key)?;
        let key_pem = private_key(key_text.reveal()).ok_or_else(|| bad(key, "holds no private key in PEM"))?;
        self.fits(role, (chain, key), certificates, key_pem)?;
        self.mode(key);
        Ok(OwnCertificate {
            certificate: sections(chain_text.reveal(), "CERTIFICATE"),
            key: Secret::new(format!("{}\n", key_pem.trim_end())),
        })
    }

    fn times(&mut self, role: &str, path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), ApiError> {
        let Some((begin, end)) = chain.first().and_then(validity) else {
            return Err(bad(path, "the first certificate in it cannot be read"));
        };
        if end <= self.now {
            return Err(bad(path, &format!("the {role}'s certificate ended on {}", day(end))));
        }
        if begin > self.now {
            let e = bad(
                path,
                &format!("the {role}'s certificate holds from {} on only", day(begin)),
            );
            return Err(e.with_hint("look whether this computer's clock is right"));
        }
        if end < self.until {
            self.warnings.push(format!(
                "{}: the {role}'s certificate ends on {}, maybe before the cluster does",
                path.display(),
                day(end)
            ));
        }
        Ok(())
    }

    /// Whether some certificate that is trusted has the name of the issuer. The
    /// signature is for OpenSSL to check.
    fn issuer(&mut self, role: &str, path: &Path, chain: &[CertificateDer<'_>]) {
        let Ok(trusted) = pki::pem_chain(&self.ca) else { return };
        let Some(last) = chain.last() else { return };
        let leaf_is_trusted = chain.iter().any(|c| trusted.contains(c));
        let issued = || {
            let (_, last) = X509Certificate::from_der(last).ok()?;
            let issuer = last.issuer().as_raw();
            let names = trusted.iter().filter_map(|t| X509Certificate::from_der(t).ok());
            Some(names.into_iter().any(|(_, t)| t.subject().as_raw() == issuer))
        };
        if !leaf_is_trusted && issued() == Some(false) {
            self.warnings.push(format!(
                "{}: the {role}'s certificate was issued by none of those that Dask shall trust",
                path.display()
            ));
        }
    }

    fn fits(
        &mut self,
        role: &str,
        (chain, key): (&Path, &Path),
        certificates: Vec<CertificateDer<'static>>,
        pem: &str,
    ) -> Result<(), ApiError> {
        if pem.contains("ENCRYPTED") {
            return Err(bad(
                key,
                "the key needs a passphrase, and nobody is there to type it on a node",
            )
            .with_hint(format!(
                "openssl pkey -in {} -out plain.pem     takes it away",
                key.display()
            )));
        }
        let der =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad(key, "the private key in it is damaged"))?;
        // OpenSSL knows more kinds of keys than we do; those are its to check.
        let Ok(signing) = tls::provider().key_provider.load_private_key(der) else {
            self.warnings.push(format!(
                "{}: the {role}'s key is of a kind that cannot be checked here",
                key.display()
            ));
            return Ok(());
        };
        match CertifiedKey::new(certificates, signing).keys_match() {
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => Err(bad(
                key,
                &format!("the key is not that of the {role}'s certificate in {}", chain.display()),
            )),
            _ => Ok(()),
        }
    }

    /// A key that others can read may have been read. It is the user's own
    /// matter, and Dask alone would take it: a warning.
    fn mode(&mut self, path: &Path) {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let Ok(facts) = std::fs::metadata(path) else { return };
            if facts.permissions().mode() & 0o004 != 0 {
                let shown = path.display();
                let warning = format!("{shown}: everybody on this computer can read the key; chmod 600 {shown}");
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
        #[cfg(not(unix))]
        let _ = path;
    }
}

fn bad(path: &Path, what: &str) -> ApiError {
    ApiError::new(Code::Certificate, format!("{}: {what}", path.display()))
}

fn read(path: &Path) -> Result<Secret, ApiError> {
    use std::io::{ErrorKind, Read as _};
    let failed = |e: std::io::Error| {
        let code = match e.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Disk,
        };
        ApiError::new(code, format!("{}: cannot be read: {e}", path.display()))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    match file.take(FILE_MAX + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > FILE_MAX => Err(bad(path, "is larger than any file of certificates")),
        Ok(_) => Ok(Secret::new(text)),
        Err(e) if e.kind() == ErrorKind::InvalidData => {
            let e = bad(path, "is no PEM text");
            Err(e.with_hint(format!(
                "openssl x509 -inform der -in {} -out cert.pem     turns DER into PEM",
                path.display()
            )))
        }
        Err(e) => Err(failed(e)),
    }
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(bad(path, "holds no certificate in PEM"));
    }
    pki::pem_chain(text).map_err(|_| bad(path, "a certificate in it is damaged"))
}

fn validity(der: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |t: x509_parser::time::ASN1Time| Timestamp(u64::try_from(t.timestamp()).unwrap_or(0) * 1000);
    let validity = certificate.validity();
    Some((at(validity.not_before), at(validity.not_after)))
}

fn day(t: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(t.0).unwrap_or(i64::MAX))
        .map_or_else(|_| t.0.to_string(), |t| format!("{t:.0}"))
}

/// All sections of a PEM text with this label, without what stands between.
fn sections(text: &str, label: &str) -> String {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut out = String::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let Some((body, behind)) = after.split_once(&end) else {
            break;
        };
        out.push_str(&format!("{begin}{body}{end}\n"));
        rest = behind;
    }
    out
}

/// The first private key of a PEM text that may hold certificates too.
fn private_key(text: &str) -> Option<&str> {
    let label = text.find("PRIVATE KEY-----")?;
    let from = text[..label].rfind("-----BEGIN ")?;
    let end = text[label + 16..].find("PRIVATE KEY-----")? + label + 32;
    text.get(from..end)
}

#[cfg(test)]
mod tests;
