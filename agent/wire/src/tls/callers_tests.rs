use std::time::Duration;

use rcgen::{Issuer, KeyPair};

use super::*;
use crate::identity::{Identity, Kind};
use crate::name::{ClusterId, Role};
use crate::pki::{self, Authority, SignRequest};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn cluster() -> ClusterId {
    ClusterId::from_random([3; 10])
}

/// A root, its issuing certificate that lives for `life`, and a certificate by that.
struct Made {
    root: String,
    issuing: String,
    leaf: String,
}

fn make(life: Duration) -> Made {
    let (root_issuer, root) = pki::new_root(&cluster(), Authority::Control, NOW, NOW.plus(DAY)).unwrap();
    let key: KeyPair = pki::new_key().unwrap();
    let csr = pki::new_issuing_csr(&cluster(), Authority::Control, &key).unwrap();
    let until = NOW.plus(life);
    let issuing = pki::issuing_from_csr(&csr, &cluster(), Authority::Control, &root_issuer, NOW, until).unwrap();
    let der = pem_chain(&issuing.certificate).unwrap().remove(0);
    let issuer = Issuer::from_ca_cert_der(&der, key).unwrap();
    let identity = Identity {
        cluster: cluster(),
        kind: Kind::Boot(Role::Worker),
    };
    let what = SignRequest {
        identity: &identity,
        node: Some("demo-w0"),
        now: NOW,
        not_after: NOW.plus(DAY),
    };
    let (leaf, _) = pki::leaf_with_key(&what, &issuer).unwrap();
    Made {
        root,
        issuing: issuing.certificate,
        leaf: leaf.certificate,
    }
}

fn ask(root: &str, known: Option<&str>, shown: &str, later: Duration) -> Result<(), Error> {
    let issuers = KnownIssuers::default();
    let verifier = verifier(super::super::roots(root).unwrap(), issuers.clone()).unwrap();
    // As in the agent: a server may have begun before it knows.
    if let Some(pem) = known {
        issuers.tell(pem).unwrap();
    }
    let chain = pem_chain(shown).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(NOW.plus(later).0));
    verifier.verify_client_cert(&chain[0], &chain[1..], now).map(drop)
}

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_known_issuer_need_not_be_shown() {
    let made = make(DAY);
    assert!(ask(&made.root, Some(&made.issuing), &made.leaf, SOON).is_ok());
    let both = made.leaf.clone() + &made.issuing;
    assert!(ask(&made.root, None, &both, SOON).is_ok());
    assert!(ask(&made.root, Some(&made.issuing), &both, SOON).is_ok());
    assert!(ask(&made.root, None, &made.leaf, SOON).is_err(), "nobody knows it");
}

#[test]
fn a_known_issuer_is_not_a_trusted_one() {
    let (made, other) = (make(DAY), make(DAY));
    // Of the same names, by other keys.
    assert!(ask(&made.root, Some(&made.issuing), &other.leaf, SOON).is_err());
    assert!(ask(&made.root, Some(&other.issuing), &other.leaf, SOON).is_err());
    assert!(ask(&made.root, Some(&other.issuing), &made.leaf, SOON).is_err());
    let mixed = other.leaf + &made.issuing;
    assert!(ask(&made.root, Some(&made.issuing), &mixed, SOON).is_err());
}

#[test]
fn the_end_of_a_known_issuer_is_the_end_of_what_it_signed() {
    let short = make(Duration::from_secs(600));
    let after = Duration::from_secs(601);
    assert!(ask(&short.root, Some(&short.issuing), &short.leaf, SOON).is_ok());
    assert!(ask(&short.root, Some(&short.issuing), &short.leaf, after).is_err());
}
