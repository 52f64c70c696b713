//! The user's own certificates for Dask: read, and checked here, so that what
//! Dask would refuse on its nodes is refused before there are any.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::spec::{DaskSecurity, OwnCertificate};
use herdsman_wire::{Code, Secret, Timestamp, pki, tls};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::OwnCertificates;
use crate::ui::Error;

/// Largest file that is read, bytes: a bundle of all public authorities has a
/// quarter of it.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads all files and checks that they can work together. `warn` is told of
/// what works but should not be.
///
/// # Errors
/// [`Code::Usage`] naming the file and what is wrong with it.
pub(super) fn security(
    own: &OwnCertificates,
    lifetime: Option<Duration>,
    warn: &dyn Fn(&str),
) -> Result<DaskSecurity, Error> {
    let ca = read(&own.ca)?;
    let trusted = chain(&own.ca, &ca)?;
    if ca.contains("PRIVATE KEY-----") {
        return Err(bad(
            &own.ca,
            "holds a private key too, and goes to every node; name the certificates alone",
        ));
    }
    let mut ends = Vec::new();
    let mut checked = |files: &(std::path::PathBuf, std::path::PathBuf), listens| {
        let pair = certificate(files)?;
        ends.push((files.0.clone(), check(files, &pair, listens, &own.ca, &trusted)?));
        Ok::<_, Error>(pair)
    };
    let (scheduler, worker) = (checked(&own.scheduler, true)?, checked(&own.worker, true)?);
    checked(&own.client, false)?;
    for (n, (path, end)) in ends.iter().enumerate() {
        let is_told = ends[..n].iter().any(|(earlier, _)| earlier == path);
        if !is_told && lifetime.is_some_and(|l| Timestamp::now().plus(l) > *end) {
            warn(&format!(
                "the certificate in {} ends on {end}, maybe before the cluster does",
                path.display()
            ));
        }
    }
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
    let failed = |e: std::io::Error| bad(path, e.kind());
    let file = fs_err::File::open(path).map_err(failed)?;
    let mut text = String::new();
    match file.take(FILE_MAX + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > FILE_MAX => Err(bad(path, "is larger than any file of certificates")),
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(bad(path, "is not PEM").with_hint(format!(
            "openssl x509 -inform der -in {} -out cert.pem     turns DER into PEM",
            path.display()
        ))),
        Err(e) => Err(failed(e)),
    }
}

fn chain(path: &Path, text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let all = pki::pem_chain(text).map_err(|_| bad(path, "holds no certificate in PEM"))?;
    Ok(all.into_iter().map(|c| c.to_vec()).collect())
}

/// Files travel, not their paths.
fn certificate((chain, key): &(std::path::PathBuf, std::path::PathBuf)) -> Result<OwnCertificate, Error> {
    let text = Secret::new(read(chain)?);
    let key_text = Secret::new(read(key)?);
    let certificate = certificates(text.reveal());
    if certificate.is_empty() {
        return Err(bad(chain, "holds no certificate in PEM"));
    }
    let key_pem = private_key(key_text.reveal()).ok_or_else(|| bad(key, "holds no private key in PEM"))?;
    if key_pem.contains("ENCRYPTED") {
        return Err(
            bad(key, "its key is encrypted, and Dask has nobody to ask for the password")
                .with_hint("openssl pkey -in KEY -out PLAIN      writes it without one; keep that file to yourself"),
        );
    }
    Ok(OwnCertificate {
        certificate,
        key: Secret::new(format!("{key_pem}\n")),
    })
}

/// All certificates of a PEM text, without what stands between them: that may be
/// their key.
fn certificates(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = String::new();
    let mut rest = text;
    while let Some((body, behind)) = rest.split_once(BEGIN).and_then(|(_, after)| after.split_once(END)) {
        out += &format!("{BEGIN}{body}{END}\n");
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

/// Checks a pair; gives the end of its certificate.
fn check(
    (path, key): &(std::path::PathBuf, std::path::PathBuf),
    pair: &OwnCertificate,
    listens: bool,
    ca: &Path,
    trusted: &[Vec<u8>],
) -> Result<Timestamp, Error> {
    let shown = chain(path, &pair.certificate)?;
    let parsed = |der: &[u8]| X509Certificate::from_der(der).map(|(_, c)| c.subject().to_string());
    let (_, leaf) = X509Certificate::from_der(&shown[0]).map_err(|_| bad(path, "its certificate does not parse"))?;
    let now = Timestamp::now();
    let (from, to) = (time(&leaf.validity().not_before), time(&leaf.validity().not_after));
    if now > to {
        return Err(bad(path, format!("its certificate expired at {to}; it is {now} now")));
    }
    if now < from {
        let what = format!("its certificate is not valid before {from}; it is {now} now");
        return Err(bad(path, what));
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
    // Whatever its kind, it is a sequence of DER.
    if read.secret_der().first() != Some(&0x30) {
        return Err(bad(key, "its key is damaged"));
    }
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
    usage(path, &leaf, listens)?;
    Ok(to)
}

/// Everybody connects; scheduler and workers are connected to as well.
fn usage(path: &Path, leaf: &X509Certificate<'_>, listens: bool) -> Result<(), Error> {
    let Ok(Some(usage)) = leaf.extended_key_usage() else {
        return Ok(());
    };
    let usage = usage.value;
    if !usage.any && !usage.client_auth {
        return Err(bad(path, "is not for clients (extendedKeyUsage has no clientAuth)"));
    }
    if listens && !usage.any && !usage.server_auth {
        return Err(bad(path, "is for clients only (extendedKeyUsage has no serverAuth)"));
    }
    Ok(())
}

fn time(t: &x509_parser::time::ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(t.timestamp()).unwrap_or(0) * 1000)
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
mod tests;
