use super::*;
use crate::identity::{Identity, Kind};
use crate::name::{ClusterId, Role};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const LATER: Timestamp = Timestamp(1_800_086_400_000);

fn cluster() -> ClusterId {
    ClusterId::from_random([3; 10])
}

#[test]
fn names_and_use_come_from_the_signer_not_from_the_request() {
    let (root, _) = new_root(&cluster(), Authority::Node, NOW, LATER).unwrap();
    let key = new_key().unwrap();
    let mut evil = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    evil.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    evil.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let csr = evil.serialize_request(&key).unwrap().pem().unwrap();
    let identity = Identity {
        cluster: cluster(),
        kind: Kind::Client("ann".into()),
    };
    let what = SignRequest {
        identity: &identity,
        node: None,
        now: NOW,
        not_after: LATER,
    };
    let made = leaf_from_csr(&csr, &what, &root).unwrap();
    let der = pem_chain(&made.certificate).unwrap().remove(0);
    let text = String::from_utf8_lossy(&der);
    assert!(!text.contains("evil.example"));
    let facts = facts(&der).unwrap();
    assert_eq!(facts.identity, identity);
    assert_eq!(facts.serial, made.serial);
    assert_eq!(facts.key, public_key_hash(&csr).unwrap());
    assert_eq!(facts.not_after, LATER);
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    assert!(!cert.is_ca());
    let eku = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.client_auth && !eku.server_auth && !eku.code_signing);
}

#[test]
fn a_request_with_a_broken_signature_or_other_key_type_is_refused() {
    let (root, _) = new_root(&cluster(), Authority::Node, NOW, LATER).unwrap();
    let identity = Identity {
        cluster: cluster(),
        kind: Kind::Dask(Role::Worker),
    };
    let what = SignRequest {
        identity: &identity,
        node: Some("w0"),
        now: NOW,
        not_after: LATER,
    };
    let good = new_csr("w0", &new_key().unwrap()).unwrap();
    assert!(leaf_from_csr(&good, &what, &root).is_ok());

    let der = {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(good.as_bytes())
            .unwrap()
            .to_vec()
    };
    let mut broken = der;
    *broken.last_mut().unwrap() ^= 1;
    let pem = pem_of(&broken);
    assert!(matches!(
        leaf_from_csr(&pem, &what, &root),
        Err(PkiError::Request(_) | PkiError::Make(_))
    ));

    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let e = leaf_from_csr(&new_csr("w0", &ed).unwrap(), &what, &root).unwrap_err();
    assert!(e.to_string().contains("P-256"), "{e}");
    for junk in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(leaf_from_csr(junk, &what, &root).is_err());
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn a_worker_cannot_be_signed_under_the_schedulers_label() {
    // The label is the node's name, and no node may be called `scheduler`.
    assert!("scheduler".parse::<crate::NodeName>().is_err());
    let (root, _) = new_root(&cluster(), Authority::Scheduler, NOW, LATER).unwrap();
    let identity = Identity {
        cluster: cluster(),
        kind: Kind::Dask(Role::Scheduler),
    };
    let what = SignRequest {
        identity: &identity,
        node: Some("demo-scheduler"),
        now: NOW,
        not_after: LATER,
    };
    let made = leaf_from_csr(&new_csr("x", &new_key().unwrap()).unwrap(), &what, &root).unwrap();
    assert_eq!(
        facts_of_pem(&made.certificate).unwrap().label.as_deref(),
        Some("scheduler")
    );
}
