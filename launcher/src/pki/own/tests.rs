use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use time::{Duration as Days, OffsetDateTime};

use super::*;

struct Files {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
            ca,
        };
        files.write("ca.pem", &files.ca.pem());
        files
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        path
    }

    /// A chain and its key, valid between these days from now.
    fn leaf(&self, from: i64, to: i64) -> (String, String) {
        let mut params = CertificateParams::new(vec!["scheduler".into()]).unwrap();
        params.not_before = OffsetDateTime::now_utc() + Days::days(from);
        params.not_after = OffsetDateTime::now_utc() + Days::days(to);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.ca).unwrap();
        (chain.pem(), key.serialize_pem())
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.dir.path().join("ca.pem"), Timestamp::now(), None).unwrap()
    }

    fn pair(&self, chain: &str, key: &str) -> Result<(OwnCertificate, Vec<String>), ApiError> {
        let mut reader = self.reader();
        let (chain, key) = (self.write("chain.pem", chain), self.write("key.pem", key));
        let pair = reader.pair("scheduler", &chain, &key)?;
        Ok((pair, reader.warnings))
    }
}

#[test]
fn good_files_are_taken_without_a_word() {
    let files = Files::new();
    let (chain, key) = files.leaf(-1, 90);
    let (pair, warnings) = files.pair(&format!("words before\n{chain}"), &key).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    assert_eq!(pair.certificate.replace('\r', ""), chain.replace('\r', ""));
    // Both in one file, as Dask allows.
    let both = files.write("both.pem", &format!("{key}{chain}"));
    let pair = files.reader().pair("client", &both, &both).unwrap();
    assert!(!pair.certificate.contains("PRIVATE") && pair.key.reveal().starts_with("-----BEGIN PRIVATE KEY"));
    assert!(!pair.key.reveal().contains("CERTIFICATE"));
}

#[test]
fn what_a_node_would_refuse_is_refused_here() {
    let files = Files::new();
    let (chain, key) = files.leaf(-1, 90);
    let (other, other_key) = files.leaf(-1, 90);
    let (old, old_key) = files.leaf(-9, -1);
    let (young, young_key) = files.leaf(5, 9);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (chain, key, words) in [
        (
            chain.as_str(),
            other_key.as_str(),
            "not that of the scheduler's certificate",
        ),
        (&other, &key, "not that of"),
        (&old, &old_key, "ended on"),
        (&young, &young_key, "holds from"),
        (&chain, &chain, "no private key"),
        (&key, &key, "no certificate in PEM"),
        ("", &key, "no certificate in PEM"),
        (&chain, "", "no private key"),
        (&chain, encrypted, "passphrase"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n", &key, "damaged"),
        (
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            &key,
            "cannot be read",
        ),
    ] {
        let e = files.pair(chain, key).unwrap_err();
        assert!(
            e.message.contains(words) && e.message.contains(".pem"),
            "{words}: {e:?}"
        );
        assert!(!format!("{e:?}").contains("BEGIN"), "{e:?}");
    }
}

#[test]
fn files_that_trust_nothing_are_refused() {
    let files = Files::new();
    let (_, key) = files.leaf(-1, 90);
    let mut params = CertificateParams::default();
    params.not_after = OffsetDateTime::now_utc() - Days::days(1);
    let old = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    for (text, words) in [
        (old.as_str(), "have ended"),
        (&format!("{}{key}", files.ca.pem()), "holds a private key"),
        ("", "no certificate"),
    ] {
        let path = files.write("ca2.pem", text);
        let e = Reader::new(&path, Timestamp::now(), None).unwrap_err();
        assert!(e.message.contains(words), "{e:?}");
    }
    std::fs::write(files.dir.path().join("der"), [0x30, 0x82, 0xff, 0xfe]).unwrap();
    let e = Reader::new(&files.dir.path().join("der"), Timestamp::now(), None).unwrap_err();
    assert!(e.message.contains("no PEM"), "{e:?}");
    let e = Reader::new(&files.dir.path().join("none"), Timestamp::now(), None).unwrap_err();
    assert_eq!(e.code, Code::NotFound);
}

#[test]
fn what_works_for_now_is_a_warning() {
    let files = Files::new();
    let (chain, key) = files.leaf(-1, 2);
    let week = Some(Duration::from_secs(7 * 24 * 3600));
    let mut reader = Reader::new(&files.dir.path().join("ca.pem"), Timestamp::now(), week).unwrap();
    let (chain_path, key_path) = (files.write("c", &chain), files.write("k", &key));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    reader.pair("worker", &chain_path, &key_path).unwrap();
    reader.pair("worker", &chain_path, &key_path).unwrap();
    let text = reader.warnings.join("\n");
    assert!(text.contains("maybe before the cluster does"), "{text}");
    #[cfg(unix)]
    assert_eq!(text.matches("chmod 600").count(), 1, "{text}");
    let stranger = Files::new();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "somebody else");
    stranger.write(
        "ca.pem",
        &params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem(),
    );
    let (_, warnings) = stranger
        .pair(&files.leaf(-1, 90).0, &key)
        .map_or_else(|_| ((), Vec::new()), |(_, w)| ((), w));
    assert!(warnings.is_empty(), "a wrong key comes first");
    let (chain, key) = files.leaf(-1, 90);
    let (_, warnings) = stranger.pair(&chain, &key).unwrap();
    assert!(warnings[0].contains("issued by none"), "{warnings:?}");
}
