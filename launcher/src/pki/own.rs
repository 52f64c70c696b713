//! The user's own certificates: what Dask would refuse on its nodes is refused
//! here, before anything is made. Only what is surely wrong counts; OpenSSL knows
//! more kinds of keys and chains than this does.

use herdsman_wire::{Secret, Timestamp, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate has to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The scheduler's and the workers' connect and are connected to.
    Node,
    /// Clients only connect.
    Client,
}

/// Checks a chain with its key against what Dask is told to trust.
///
/// # Errors
/// What is wrong, in words for the name of the chain's file.
pub fn check(ca: &str, chain: &str, key: &Secret, wanted: Use, now: Timestamp) -> Result<(), String> {
    let chain_der = certificates(chain)?;
    let parsed = parse(&chain_der)?;
    for cert in &parsed {
        dates(cert, now)?;
    }
    let (Some(leaf), Some(last)) = (parsed.first(), parsed.last()) else {
        return Err("holds no certificate in PEM".into());
    };
    usage(leaf, wanted)?;
    if key.reveal().contains("ENCRYPTED") {
        return Err("its key is protected by a password, which the nodes cannot be asked for".into());
    }
    // Whatever its kind, it is a sequence of DER.
    let key_der = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes());
    if !key_der.is_ok_and(|k| k.secret_der().first() == Some(&0x30)) {
        return Err("its key is damaged".into());
    }
    let public = leaf.public_key().subject_public_key.data.as_ref();
    if tls::public_key(key).is_some_and(|k| k != public) {
        return Err("its key is another one's: the two do not belong together".into());
    }
    let ca_der = certificates(ca).map_err(|e| format!("the certificates to trust: the file {e}"))?;
    let trusted = parse(&ca_der).map_err(|e| format!("the certificates to trust: the file {e}"))?;
    // By name: the signature is for OpenSSL to check. There may be several of one
    // name, of which one has been renewed.
    let by_name = trusted
        .iter()
        .filter(|t| t.subject().as_raw() == last.issuer().as_raw());
    let mut why = format!(
        "is issued by `{}`, which is not among the certificates to trust",
        last.issuer()
    );
    for issuer in by_name {
        match dates(issuer, now) {
            Ok(()) => return Ok(()),
            Err(e) => why = format!("is issued by `{}`, whose own certificate {e}", issuer.subject()),
        }
    }
    Err(why)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err("holds no certificate in PEM".into()),
    }
}

fn parse<'a>(all: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, String> {
    let one = |der: &'a CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(der).map(|(_, cert)| cert);
        parsed.map_err(|_| "holds a certificate that does not parse".to_owned())
    };
    all.iter().map(one).collect()
}

fn dates(cert: &X509Certificate<'_>, now: Timestamp) -> Result<(), String> {
    let stamp = |t: i64| Timestamp(u64::try_from(t).unwrap_or(0).saturating_mul(1000));
    let validity = cert.validity();
    let (from, until) = (
        stamp(validity.not_before.timestamp()),
        stamp(validity.not_after.timestamp()),
    );
    if now >= until {
        return Err(format!("expired at {}", crate::ui::iso(until)));
    }
    if now < from {
        return Err(format!("is not valid before {}", crate::ui::iso(from)));
    }
    Ok(())
}

fn usage(leaf: &X509Certificate<'_>, wanted: Use) -> Result<(), String> {
    let Ok(Some(usage)) = leaf.extended_key_usage() else {
        return Ok(());
    };
    let usage = usage.value;
    if !usage.any && !usage.client_auth {
        return Err("is not for clients (extendedKeyUsage has no clientAuth)".into());
    }
    if !usage.any && !usage.server_auth && wanted == Use::Node {
        return Err("is for clients only (extendedKeyUsage has no serverAuth)".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    use std::time::Duration;

    struct Made {
        ca: String,
        leaf: String,
        key: Secret,
    }

    fn make(uses: Vec<ExtendedKeyUsagePurpose>) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(params, ca_key);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a leaf");
        params.extended_key_usages = uses;
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        let key = Secret::new(key.serialize_pem());
        Made { ca, leaf, key }
    }

    #[test]
    fn what_dask_accepts_is_accepted() {
        let now = Timestamp::now();
        let made = make(vec![]);
        for wanted in [Use::Node, Use::Client] {
            assert_eq!(check(&made.ca, &made.leaf, &made.key, wanted, now), Ok(()));
        }
        // A chain up to the root.
        let chain = format!("{}{}", made.leaf, made.ca);
        assert_eq!(check(&made.ca, &chain, &made.key, Use::Node, now), Ok(()));

        let client = make(vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(check(&client.ca, &client.leaf, &client.key, Use::Client, now), Ok(()));
    }

    #[test]
    fn what_dask_refuses_is_told() {
        let now = Timestamp::now();
        let made = make(vec![]);
        let other = make(vec![]);
        let client = make(vec![ExtendedKeyUsagePurpose::ClientAuth]);
        let said = |m: &Made, wanted| check(&m.ca, &m.leaf, &m.key, wanted, now).unwrap_err();
        assert!(said(&client, Use::Node).contains("serverAuth"));
        let swapped = check(&made.ca, &made.leaf, &other.key, Use::Node, now).unwrap_err();
        assert!(swapped.contains("do not belong together"), "{swapped}");
        let foreign = check(&client.leaf, &made.leaf, &made.key, Use::Node, now).unwrap_err();
        assert!(foreign.contains("not among"), "{foreign}");
        let damaged = Secret::new("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let damaged = check(&made.ca, &made.leaf, &damaged, Use::Node, now).unwrap_err();
        assert!(damaged.contains("damaged"), "{damaged}");
        let late = now.plus(Duration::from_secs(u64::from(u32::MAX) * 1000));
        let expired = check(&made.ca, &made.leaf, &made.key, Use::Node, late).unwrap_err();
        assert!(expired.contains("expired at "), "{expired}");
        let early = check(&made.ca, &made.leaf, &made.key, Use::Node, Timestamp(0)).unwrap_err();
        assert!(early.contains("not valid before"), "{early}");
        let none = check("nothing", &made.leaf, &made.key, Use::Node, now).unwrap_err();
        assert!(none.contains("certificates to trust"), "{none}");
    }
}
