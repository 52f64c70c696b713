use herdsman_wire::Kind;

use super::super::decisions::{Decision, Refusal};
use super::*;
use herdsman_wire::spec::ClusterSpec;
use herdsman_wire::{ClusterId, Identity};

const NOW: Timestamp = Timestamp(1_000_000);

fn name(n: &str) -> NodeName {
    n.parse().unwrap()
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn cert(kind: Kind, label: &str, serial: &str) -> CertificateFacts {
    CertificateFacts {
        identity: Identity {
            cluster: ClusterId::from_random([0; 10]),
            kind,
        },
        label: Some(label.into()),
        serial: serial.into(),
        not_before: Timestamp(0),
        not_after: Timestamp(2_000_000),
        key: "bootkey".into(),
    }
}

fn boot(label: &str, serial: &str) -> CertificateFacts {
    cert(Kind::Boot(Role::Worker), label, serial)
}

fn agent(label: &str, serial: &str, generation: u64) -> CertificateFacts {
    cert(
        Kind::Agent {
            role: Role::Worker,
            generation,
        },
        label,
        serial,
    )
}

fn issued(node: &str, generation: u64) -> Issued {
    Issued {
        node: name(node),
        role: Role::Worker,
        agent_chain: format!("agent {generation}"),
        dask_chain: String::new(),
        generation,
        not_after: Timestamp(2_000_000),
        renew_after_seconds: 1,
        crl: String::new(),
        crl_number: 0,
        scheduler: "10.0.0.1:8786".parse().unwrap(),
        spec: ClusterSpec::default(),
    }
}

fn expect(r: &mut Registry, node: &str, serial: &str, address: Option<IpAddr>) {
    let nodes = vec![Expected {
        node: name(node),
        serial: serial.into(),
        address,
        any_address: false,
        batch: None,
    }];
    r.apply(&Entry::Expected { nodes }, NOW);
}

fn enrol(r: &mut Registry, node: &str, serial: &str, keys: &str, address: IpAddr) {
    let e = Entry::Enrolled {
        node: name(node),
        serial: serial.into(),
        keys: keys.into(),
        address,
        at: NOW,
    };
    r.apply(&e, NOW);
    give(r, node, keys, 1, ["a1", "d1"]);
}

fn give(r: &mut Registry, node: &str, keys: &str, generation: u64, serials: [&str; 2]) {
    let e = Entry::Issued {
        answer: Box::new(issued(node, generation)),
        keys: keys.into(),
        serials: serials.map(str::to_owned),
        agent: "0.1".into(),
    };
    r.apply(&e, NOW);
}

fn refused(r: Result<impl std::fmt::Debug, Refusal>) -> (Code, Option<&'static str>) {
    let e = r.unwrap_err();
    (e.error.code, e.incident)
}

#[test]
fn one_use_and_the_same_answer_for_the_same_keys() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    let (n, d) = r.decide_enrol(&boot("w0", "s0"), ip(2), "k1", NOW).unwrap();
    assert_eq!(n, name("w0"));
    assert!(matches!(d, Decision::Sign));
    // The hub died between spending and answering.
    let spent = Entry::Enrolled {
        node: n,
        serial: "s0".into(),
        keys: "k1".into(),
        address: ip(2),
        at: NOW,
    };
    r.apply(&spent, NOW);
    assert!(matches!(
        r.decide_enrol(&boot("w0", "s0"), ip(2), "k1", NOW).unwrap().1,
        Decision::Sign
    ));
    give(&mut r, "w0", "k1", 1, ["a1", "d1"]);
    let (_, d) = r.decide_enrol(&boot("w0", "s0"), ip(2), "k1", NOW).unwrap();
    assert!(matches!(d, Decision::Again(a) if a.agent_chain == "agent 1"));
    // A replay from anywhere with other keys is an incident and gets nothing.
    for from in [ip(2), ip(9)] {
        let got = refused(r.decide_enrol(&boot("w0", "s0"), from, "k2", NOW));
        assert_eq!(got, (Code::EnrolSpent, Some("double-use")));
    }
}

#[test]
fn who_may_not_enrol() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    expect(&mut r, "w1", "s1", None);
    let e = |c: &CertificateFacts, from, now| refused(r.decide_enrol(c, from, "k", now)).0;
    assert_eq!(e(&agent("w0", "s0", 1), ip(2), NOW), Code::Forbidden);
    assert_eq!(
        e(&cert(Kind::Boot(Role::Scheduler), "w0", "s0"), ip(2), NOW),
        Code::Forbidden
    );
    assert_eq!(e(&boot("w0", "s0"), ip(2), Timestamp(2_000_001)), Code::EnrolExpired);
    assert_eq!(e(&boot("w0", "zz"), ip(2), NOW), Code::EnrolUnexpected);
    assert_eq!(e(&boot("w1", "s0"), ip(2), NOW), Code::EnrolUnexpected);
    assert_eq!(e(&boot("w0", "s0"), ip(3), NOW), Code::EnrolAddress);
    assert_eq!(e(&boot("w1", "s1"), ip(3), NOW), Code::TooEarly);
    // The address becomes known; a v4 address mapped into v6 is the same.
    expect(&mut r, "w1", "s1", Some(ip(3)));
    let mapped: IpAddr = "::ffff:10.0.0.3".parse().unwrap();
    assert!(r.decide_enrol(&boot("w1", "s1"), mapped, "k", NOW).is_ok());
    // But an announcement cannot rename a known serial.
    expect(&mut r, "other", "s1", Some(ip(7)));
    assert_eq!(
        r.decide_enrol(&boot("w1", "s1"), ip(7), "k", NOW).unwrap().0,
        name("w1")
    );
}

#[test]
fn renewal_counts_generations_and_sees_clones() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    enrol(&mut r, "w0", "s0", "k1", ip(2));
    let (_, g, d) = r.decide_renew(&agent("w0", "a1", 1), ip(2), "k2").unwrap();
    assert_eq!(g, 2);
    assert!(matches!(d, Decision::Sign));
    give(&mut r, "w0", "k2", 2, ["a2", "d2"]);
    // The answer was lost: the same keys get it again.
    let (_, g, d) = r.decide_renew(&agent("w0", "a1", 1), ip(2), "k2").unwrap();
    assert_eq!(g, 2);
    assert!(matches!(d, Decision::Again(a) if a.generation == 2));
    // Anybody else with the old generation is a clone.
    assert_eq!(
        refused(r.decide_renew(&agent("w0", "a1", 1), ip(2), "evil")),
        (Code::Clone, Some("clone"))
    );
    assert_eq!(
        refused(r.decide_renew(&agent("w0", "a2", 2), ip(8), "k3")).0,
        Code::EnrolAddress
    );
    // Revocation covers the bootstrap and every generation that has not expired.
    give(&mut r, "w0", "k3", 3, ["a3", "d3"]);
    let mut serials = r.serials_of(&name("w0"));
    serials.sort();
    assert_eq!(serials, ["a1", "a2", "a3", "d1", "d2", "d3", "s0"]);
    let e = Entry::Revoked {
        node: Some(name("w0")),
        serials,
        why: String::new(),
        at: NOW,
    };
    r.apply(&e, NOW);
    assert_eq!(
        refused(r.decide_renew(&agent("w0", "a3", 3), ip(2), "k4")).0,
        Code::Revoked
    );
    assert_eq!(
        refused(r.decide_enrol(&boot("w0", "s0"), ip(2), "k1", NOW)).0,
        Code::Revoked
    );
    assert!(r.members().is_empty());
    assert_eq!(r.crl_entries().len(), 7);
}

#[test]
fn names_of_dask_workers_lead_to_their_node() {
    let mut r = Registry::default();
    expect(&mut r, "demo-w1", "s1", None);
    expect(&mut r, "demo-w1-2", "s2", None);
    assert_eq!(r.node_of_worker("demo-w1"), Some(name("demo-w1")));
    assert_eq!(r.node_of_worker("demo-w1-3"), Some(name("demo-w1")));
    assert_eq!(r.node_of_worker("demo-w1-2"), Some(name("demo-w1-2")));
    assert_eq!(r.node_of_worker("demo-w7"), None);
    assert_eq!(r.node_of_worker("demo-w1-x"), None);
}

#[test]
fn silence_then_loss_then_back() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    enrol(&mut r, "w0", "s0", "k1", ip(2));
    r.node_mut(&name("w0")).unwrap().seen = Some(NOW);
    let later = NOW.plus(limits::NODE_SILENT).plus(std::time::Duration::from_secs(1));
    assert!(r.mark_silent(NOW).is_empty());
    assert_eq!(r.mark_silent(later), [name("w0")]);
    assert!(r.mark_silent(later).is_empty());
    assert!(r.members().is_empty());
    assert!(r.gone(later).is_empty());
    assert_eq!(
        r.gone(later.plus(limits::NODE_GONE).plus(limits::NODE_SILENT)),
        [name("w0")]
    );
}

#[test]
fn a_newer_invitation_takes_the_place_of_an_older_one() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "old", Some(ip(2)));
    expect(&mut r, "w0", "new", Some(ip(2)));
    let e = |serial| refused(r.decide_enrol(&boot("w0", serial), ip(2), "k", NOW)).0;
    assert_eq!(e("old"), Code::EnrolUnexpected);
    assert!(r.decide_enrol(&boot("w0", "new"), ip(2), "k", NOW).is_ok());
    if let Some(n) = r.node_mut(&name("w0")) {
        n.role = Role::Scheduler;
    }
    let e = |serial| refused(r.decide_enrol(&boot("w0", serial), ip(2), "k", NOW)).0;
    assert_eq!(e("new"), Code::EnrolUnexpected);
}

#[test]
fn an_answer_that_arrived_is_not_given_again() {
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    enrol(&mut r, "w0", "s0", "k1", ip(2));
    give(&mut r, "w0", "k2", 2, ["a2", "d2"]);
    let again = |r: &Registry| r.decide_renew(&agent("w0", "a1", 1), ip(2), "k2");
    r.has_arrived(&name("w0"), 1);
    assert!(matches!(again(&r), Ok((_, 2, Decision::Again(_)))));
    r.has_arrived(&name("w0"), 2);
    assert_eq!(refused(again(&r)), (Code::Clone, Some("clone")));
    assert!(r.decide_renew(&agent("w0", "a2", 2), ip(2), "k3").is_ok());
}

#[test]
fn nodes_on_their_way_may_come_from_their_address_and_for_a_while_only() {
    let net = |n: u8| IpNet::from(ip(n));
    let mut r = Registry::default();
    expect(&mut r, "w0", "s0", Some(ip(2)));
    expect(&mut r, "w1", "s1", None);
    assert_eq!(r.joining(NOW), ([net(2)].into(), Unplaced::Later));
    // Its address becomes known.
    expect(&mut r, "w1", "s1", Some(ip(3)));
    assert_eq!(r.joining(NOW), ([net(2), net(3)].into(), Unplaced::None));
    // Behind a NAT: the address that was given is not the one it comes from.
    let nodes = vec![Expected {
        node: name("w2"),
        serial: "s2".into(),
        address: Some(ip(9)),
        any_address: true,
        batch: None,
    }];
    r.apply(&Entry::Expected { nodes }, NOW);
    assert_eq!(r.joining(NOW), ([net(2), net(3)].into(), Unplaced::Anywhere));
    // Who has enrolled comes as a member.
    enrol(&mut r, "w0", "s0", "k", ip(2));
    give(&mut r, "w0", "k", 1, ["a", "b"]);
    assert_eq!(r.members(), [ip(2)].into());
    assert_eq!(r.joining(NOW).0, [net(3)].into());
    // No certificate is good any more.
    let late = NOW.plus(limits::BOOTSTRAP_LIFE_MAX * 2);
    assert_eq!(r.joining(late), (BTreeSet::new(), Unplaced::None));
    // A silent node is no member, but must be able to come back.
    if let Some(n) = r.node_mut(&name("w0")) {
        n.seen = Some(NOW);
    }
    r.mark_silent(late);
    assert_eq!((r.members(), r.joining(late).0), (BTreeSet::new(), [net(2)].into()));
    // Who was invited again has time again.
    r.apply(
        &Entry::Expected {
            nodes: vec![Expected {
                node: name("w1"),
                serial: "s9".into(),
                address: Some(ip(7)),
                any_address: false,
                batch: None,
            }],
        },
        late,
    );
    assert_eq!(r.joining(late).0, [net(2), net(7)].into());
    // Whom nobody trusts any more stays out.
    r.apply(
        &Entry::Revoked {
            node: Some(name("w0")),
            serials: vec!["a".into(), "b".into()],
            why: String::new(),
            at: late,
        },
        late,
    );
    assert_eq!(r.joining(late).0, [net(7)].into());
}

#[test]
fn networks_are_let_in_and_out_in_order() {
    let nets = |list: &[&str]| -> Vec<IpNet> { list.iter().map(|n| n.parse().unwrap()).collect() };
    let mut r = Registry::default();
    for (add, remove) in [
        (&["10.0.0.0/8", "192.0.2.1/32"][..], &[][..]),
        (&["fd00::/8"], &["10.0.0.0/8"]),
    ] {
        let entry = Entry::Allowed {
            add: nets(add),
            remove: nets(remove),
        };
        r.apply(&entry, NOW);
    }
    assert_eq!(
        r.allowed.iter().copied().collect::<Vec<_>>(),
        nets(&["192.0.2.1/32", "fd00::/8"])
    );
}

fn announce(r: &mut Registry, node: &str, address: IpAddr) {
    let nodes = vec![Expected {
        node: name(node),
        serial: "batch".into(),
        address: Some(address),
        any_address: false,
        batch: Some(name("demo-batch")),
    }];
    r.apply(&Entry::Expected { nodes }, NOW);
}

#[test]
fn a_batch_gives_each_announced_address_one_node_and_nobody_else_anything() {
    let mut r = Registry::default();
    let boot = boot("demo-batch", "batch");
    assert_eq!(refused(r.decide_enrol(&boot, ip(2), "k", NOW)).0, Code::EnrolUnexpected);
    r.apply(
        &Entry::Batch {
            serial: "batch".into(),
            label: name("demo-batch"),
            uses: 2,
        },
        NOW,
    );
    // A machine may boot before its address is announced.
    assert_eq!(refused(r.decide_enrol(&boot, ip(2), "k", NOW)), (Code::TooEarly, None));
    announce(&mut r, "i-1", ip(2));
    assert_eq!(refused(r.decide_enrol(&boot, ip(3), "k", NOW)), (Code::TooEarly, None));
    announce(&mut r, "i-2", ip(3));
    let (n, d) = r.decide_enrol(&boot, ip(2), "k1", NOW).unwrap();
    assert!(n == name("i-1") && matches!(d, Decision::Sign));
    enrol(&mut r, "i-1", "batch", "k1", ip(2));
    // Again with the same keys, never with others, as with any bootstrap certificate.
    assert!(matches!(
        r.decide_enrol(&boot, ip(2), "k1", NOW).unwrap().1,
        Decision::Again(_)
    ));
    let got = refused(r.decide_enrol(&boot, ip(2), "k9", NOW));
    assert_eq!(got, (Code::EnrolSpent, Some("double-use")));
    // The other's use is its own.
    assert_eq!(r.decide_enrol(&boot, ip(3), "k2", NOW).unwrap().0, name("i-2"));
    let got = refused(r.decide_enrol(&boot, ip(9), "k3", NOW));
    assert_eq!(got, (Code::EnrolAddress, Some("wrong-address")));
    let other = super::tests::boot("demo-w0", "batch");
    let got = refused(r.decide_enrol(&other, ip(3), "k2", NOW));
    assert_eq!(got, (Code::EnrolUnexpected, Some("wrong-name")));
    // Who is revoked takes nobody's certificate along, and does not come back.
    let serials = r.serials_of(&name("i-1"));
    assert!(!serials.contains(&"batch".to_owned()), "{serials:?}");
    r.apply(
        &Entry::Revoked {
            node: Some(name("i-1")),
            serials,
            why: String::new(),
            at: NOW,
        },
        NOW,
    );
    assert_eq!(refused(r.decide_enrol(&boot, ip(2), "k1", NOW)).0, Code::EnrolAddress);
    assert!(r.decide_enrol(&boot, ip(3), "k2", NOW).is_ok());
    // A removed node's address may be another machine's later.
    r.apply(
        &Entry::Removed {
            node: name("i-2"),
            at: NOW,
        },
        NOW,
    );
    assert_eq!(refused(r.decide_enrol(&boot, ip(3), "k2", NOW)).0, Code::EnrolAddress);
}
