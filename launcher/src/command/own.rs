//! The user's own certificates for Dask: read, and checked here, so that what
//! Dask would refuse on its nodes is refused before there are any.

use std::path::Path;

use herdsman_wire::spec::{DaskSecurity, OwnCertificate};
use herdsman_wire::{Code, Secret, Timestamp, pki, tls};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::OwnCertificates;
use crate::ui::Error;

/// Reads all files and checks that they can work together. `warn` is told of
/// what works but should not be.
///
/// # Errors
/// [`Code::Usage`] naming the file and what is wrong with it.
pub(super) fn security(own: &OwnCertificates, warn: &dyn Fn(&str)) -> Result<DaskSecurity, Error> {
    let ca = read(&own.ca)?;
    let trusted = chain(&own.ca, &ca)?;
    let checked = |files: &(std::path::PathBuf, std::path::PathBuf)| {
        let pair = certificate(files)?;
        check(files, &pair, &own.ca, &trusted)?;
        Ok::<_, Error>(pair)
    };
    let (scheduler, worker) = (checked(&own.scheduler)?, checked(&own.worker)?);
    checked(&own.client)?;
    let mut keys = [&own.scheduler.1, &own.worker.1, &own.client.1];
    keys.sort();
    for (n, key) in keys.iter().enumerate() {
        if (n == 0 || keys[n - 1] != *key) && others_can_read(key) {
            let key = key.display();
            warn(&format!(
                "other users of this computer can read the key {key}: chmod 600 {key}"
            ));
        }
    }
    Ok(DaskSecurity::Own { ca, scheduler, worker })
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Code::Usage, format!("certificate file {}: {what}", path.display()))
}

fn read(path: &Path) -> Result<String, Error> {
    fs_err::read_to_string(path).map_err(|e| bad(path, e.kind()))
}

fn chain(path: &Path, text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let all = pki::pem_chain(text).map_err(|_| bad(path, "holds no certificate in PEM"))?;
    Ok(all.into_iter().map(|c| c.to_vec()).collect())
}

/// Files travel, not their paths.
fn certificate((chain, key): &(std::path::PathBuf, std::path::PathBuf)) -> Result<OwnCertificate, Error> {
    let text = Secret::new(read(chain)?);
    let key_text = Secret::new(read(key)?);
    let at = text.reveal().find("-----BEGIN CERTIFICATE");
    let from = at.ok_or_else(|| bad(chain, "holds no certificate in PEM"))?;
    let end = text.reveal().rfind("-----END CERTIFICATE-----").unwrap_or(from);
    let certificate = text.reveal()[from..].get(..end + 25 - from).unwrap_or_default();
    let key_pem = private_key(key_text.reveal()).ok_or_else(|| bad(key, "holds no private key in PEM"))?;
    if key_pem.contains("ENCRYPTED") {
        return Err(
            bad(key, "its key is encrypted, and Dask has nobody to ask for the password")
                .with_hint("openssl pkey -in KEY -out PLAIN      writes it without one; keep that file to yourself"),
        );
    }
    Ok(OwnCertificate {
        certificate: format!("{}\n", certificate.trim_end()),
        key: Secret::new(format!("{key_pem}\n")),
    })
}

/// The first private key of a PEM text that may hold certificates too.
fn private_key(text: &str) -> Option<&str> {
    let label = text.find("PRIVATE KEY-----")?;
    let from = text[..label].rfind("-----BEGIN ")?;
    let end = text[label + 16..].find("PRIVATE KEY-----")? + label + 32;
    text.get(from..end)
}

fn check(
    (path, key): &(std::path::PathBuf, std::path::PathBuf),
    pair: &OwnCertificate,
    ca: &Path,
    trusted: &[Vec<u8>],
) -> Result<(), Error> {
    let shown = chain(path, &pair.certificate)?;
    let parsed = |der: &[u8]| X509Certificate::from_der(der).map(|(_, c)| c.subject().to_string());
    let (_, leaf) = X509Certificate::from_der(&shown[0]).map_err(|_| bad(path, "its certificate does not parse"))?;
    let now = Timestamp::now();
    let at = |t: &x509_parser::time::ASN1Time| Timestamp(u64::try_from(t.timestamp()).unwrap_or(0) * 1000);
    let (from, to) = (at(&leaf.validity().not_before), at(&leaf.validity().not_after));
    if now < from || now > to {
        return Err(bad(
            path,
            format!("its certificate is good from {from} to {to}, and it is {now} now"),
        ));
    }
    // Who signs is looked for by name: Dask's OpenSSL takes kinds of keys and
    // certificates that this program cannot verify, and has the last word.
    let issuer = leaf.issuer().to_string();
    let known = |der: &Vec<u8>| parsed(der).is_ok_and(|subject| subject == issuer);
    if !shown[1..].iter().chain(trusted).any(known) {
        let ca = ca.display();
        return Err(bad(path, format!("was signed by `{issuer}`, which is not in {ca}")));
    }
    // Keys of kinds that this program does not know are left to Dask as well.
    let read =
        PrivateKeyDer::from_pem_slice(pair.key.reveal().as_bytes()).map_err(|_| bad(key, "its key is not PEM"))?;
    let public = tls::provider().key_provider.load_private_key(read).ok().and_then(|k| {
        let spki = k.public_key()?;
        Some(spki.to_vec())
    });
    if public.is_some_and(|spki| spki != leaf.public_key().raw) {
        return Err(bad(
            key,
            format!("its key does not belong to the certificate in {}", path.display()),
        ));
    }
    Ok(())
}

#[cfg(unix)]
fn others_can_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs_err::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn others_can_read(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;

    /// An authority and a leaf of it in a folder: `NAME.pem`, `NAME-leaf.pem`, `NAME-leaf.key`.
    fn authority(folder: &Path, name: &str) {
        let named = |cn: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, cn);
            params
        };
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ca = named(name).self_signed(&ca_key).unwrap();
        let leaf = named(&format!("{name}-leaf"));
        let leaf = leaf.signed_by(&key, &Issuer::new(named(name), ca_key)).unwrap();
        let write = |file: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.join(format!("{name}{file}"));
            fs_err::write(&path, text).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(".pem", &ca.pem());
        write("-leaf.pem", &leaf.pem());
        write("-leaf.key", &key.serialize_pem());
    }

    #[test]
    fn what_dask_would_refuse_is_named() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path(), "acme");
        authority(dir.path(), "other");
        let own = |ca: &str, cert: &str, key: &str| {
            let pair = (dir.path().join(cert), dir.path().join(key));
            OwnCertificates {
                ca: dir.path().join(ca),
                scheduler: pair.clone(),
                worker: pair.clone(),
                client: pair,
            }
        };
        let warned = std::cell::RefCell::new(Vec::new());
        let warn = |w: &str| warned.borrow_mut().push(w.to_owned());
        security(&own("acme.pem", "acme-leaf.pem", "acme-leaf.key"), &warn).unwrap();
        assert!(warned.borrow().is_empty());
        let key = fs_err::read_to_string(dir.path().join("acme-leaf.key")).unwrap();
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        fs_err::write(dir.path().join("locked.key"), encrypted).unwrap();
        for (ca, cert, key, what) in [
            (
                "acme.pem",
                "acme-leaf.pem",
                "other-leaf.key",
                "other-leaf.key: its key does not belong",
            ),
            (
                "other.pem",
                "acme-leaf.pem",
                "acme-leaf.key",
                "acme-leaf.pem: was signed by `CN=acme`",
            ),
            (
                "acme-leaf.key",
                "acme-leaf.pem",
                "acme-leaf.key",
                "acme-leaf.key: holds no certificate",
            ),
            (
                "acme.pem",
                "acme-leaf.pem",
                "acme.pem",
                "acme.pem: holds no private key",
            ),
            (
                "acme.pem",
                "acme-leaf.pem",
                "locked.key",
                "locked.key: its key is encrypted",
            ),
            (
                "acme.pem",
                "nowhere.pem",
                "acme-leaf.key",
                "nowhere.pem: entity not found",
            ),
        ] {
            let e = security(&own(ca, cert, key), &warn).unwrap_err();
            assert!(e.message.contains(what), "{}", e.message);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let open = dir.path().join("acme-leaf.key");
            fs_err::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
            security(&own("acme.pem", "acme-leaf.pem", "acme-leaf.key"), &warn).unwrap();
            assert_eq!(warned.borrow().len(), 1, "once for three roles");
        }
    }
}
