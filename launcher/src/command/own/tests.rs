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
    security(&own("acme.pem", "acme-leaf.pem", "acme-leaf.key"), None, &warn).unwrap();
    assert!(warned.borrow().is_empty());
    let key = fs_err::read_to_string(dir.path().join("acme-leaf.key")).unwrap();
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    fs_err::write(dir.path().join("locked.key"), encrypted).unwrap();
    let ca = fs_err::read_to_string(dir.path().join("acme.pem")).unwrap();
    fs_err::write(dir.path().join("both.pem"), ca + &key).unwrap();
    fs_err::write(dir.path().join("der.pem"), [0x30, 0x82, 0xff, 0xfe]).unwrap();
    for (ca, cert, key, what) in [
        (
            "both.pem",
            "acme-leaf.pem",
            "acme-leaf.key",
            "both.pem: holds a private key",
        ),
        ("der.pem", "acme-leaf.pem", "acme-leaf.key", "der.pem: is not PEM"),
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
        let e = security(&own(ca, cert, key), None, &warn).unwrap_err();
        assert!(e.message.contains(what), "{}", e.message);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = dir.path().join("acme-leaf.key");
        fs_err::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
        security(&own("acme.pem", "acme-leaf.pem", "acme-leaf.key"), None, &warn).unwrap();
        assert_eq!(warned.borrow().len(), 1, "once for three roles");
    }
}

#[test]
fn a_key_between_certificates_stays_out_of_them() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "acme");
    let read = |file: &str| fs_err::read_to_string(dir.path().join(file)).unwrap();
    let all = format!(
        "words\n{}{}{}",
        read("acme-leaf.pem"),
        read("acme-leaf.key"),
        read("acme.pem")
    );
    let kept = certificates(&all);
    assert_eq!(kept.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!kept.contains("PRIVATE") && !kept.contains("words"));
}

#[test]
fn an_end_before_the_clusters_is_said() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "acme");
    let pair = (dir.path().join("acme-leaf.pem"), dir.path().join("acme-leaf.key"));
    let own = OwnCertificates {
        ca: dir.path().join("acme.pem"),
        scheduler: pair.clone(),
        worker: pair.clone(),
        client: pair,
    };
    let warned = std::cell::RefCell::new(Vec::new());
    let warn = |w: &str| warned.borrow_mut().push(w.to_owned());
    security(&own, Some(Duration::from_secs(3600)), &warn).unwrap();
    assert!(warned.borrow().is_empty());
    // rcgen's certificates end in the year 4096.
    security(&own, Some(Duration::from_secs(3000 * 366 * 86400)), &warn).unwrap();
    assert_eq!(warned.borrow().len(), 1, "{warned:?}");
}
