//! Against the real kernel, each test in a network namespace of its thread's own.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::*;

/// A network namespace for this thread and the programs that it starts. Without
/// root there is none, and the test says so.
fn own_network() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    true
}

fn nft(args: &[&str], input: &str) -> String {
    let mut child = Command::new("/usr/sbin/nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nft, package nftables");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "nft {args:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn ours() -> String {
    nft(&["list", "table", "inet", "herdsman"], "")
}

fn policy() -> Policy {
    let nets = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect();
    Policy {
        owners: nets(&["203.0.113.7/32", "203.0.113.8/31", "2001:db8::/48", "198.51.100.0/24"]),
        joining: nets(&["10.1.0.0/16", "10.1.7.0/24"]),
        members: ["10.0.0.2", "10.0.0.3", "fd00::2"]
            .map(|a| a.parse::<IpAddr>().unwrap())
            .into(),
        ..Policy::default()
    }
}

/// Without what depends on the order in which it was filled.
fn shown(text: &str) -> BTreeSet<String> {
    text.split([',', '\n', '{', '}']).map(|l| l.trim().to_owned()).collect()
}

#[test]
fn the_kernel_has_what_the_text_says() {
    if !own_network() {
        return;
    }
    let run = tempfile::tempdir().unwrap();
    for policy in [
        Policy::default(),
        policy(),
        Policy {
            metadata_open: true,
            ..policy()
        },
    ] {
        let mut firewall = Firewall::close(run.path()).unwrap();
        firewall.apply(policy.clone()).unwrap();
        let mut by_netlink = ours();
        // The one thing that the text does not have.
        let comment = by_netlink.lines().nth(1).unwrap().to_owned() + "\n";
        assert!(comment.contains("made by herdsman-agent"), "{comment}");
        by_netlink = by_netlink.replacen(&comment, "", 1);
        firewall.remove().unwrap();
        nft(&["-f", "-"], &table(&policy).to_string());
        let by_text = ours();
        nft(&["delete", "table", "inet", "herdsman"], "");
        assert_eq!(shown(&by_netlink), shown(&by_text), "{by_netlink}\n---\n{by_text}");
        let rules =
            |t: &str| -> Vec<String> { t.lines().filter(|l| l.contains("comment")).map(str::to_owned).collect() };
        assert_eq!(rules(&by_netlink), rules(&by_text), "the order of rules");
    }
}

#[test]
fn the_order_of_rules_is_what_protects() {
    let t = table(&policy());
    let chain = |name: &str| t.chains.iter().find(|c| c.name == name).unwrap();
    let last = |name: &str| chain(name).rules.last().unwrap().parts.clone();
    use rules::Part;
    assert_eq!(
        last("cluster"),
        [Part::Count("strangers"), Part::Drop],
        "who is not let in ends here"
    );
    // A chain that is jumped to lets nobody through by itself: its end leads back
    // to that drop.
    for name in ["agent", "scheduler", "workers"] {
        for rule in &chain(name).rules {
            assert!(matches!(rule.parts[0], Part::From(..)), "{name}: {rule}");
        }
    }
    let input: Vec<_> = chain("input").rules.iter().map(|r| r.parts[0].clone()).collect();
    assert_eq!(
        input,
        [Part::Loopback, Part::Ports(6, "ports")],
        "no other port is judged"
    );
    assert_eq!(
        last("metadata"),
        [Part::Count("metadata_denied"), Part::Reject],
        "what is not allowed is refused"
    );
    let forwarded = &chain("forwarded").rules;
    assert!(
        forwarded.iter().all(|r| !r.parts.contains(&Part::ByRoot)),
        "root in a container is not root"
    );
}

#[test]
fn changes_lead_to_the_same_table_as_a_new_one() {
    if !own_network() {
        return;
    }
    let run = tempfile::tempdir().unwrap();
    let mut firewall = Firewall::close(run.path()).unwrap();
    let many = |from: u32, to: u32| Policy {
        members: (from..to)
            .map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()))
            .collect(),
        ..policy()
    };
    for next in [
        policy(),
        many(0, 5000),
        many(100, 5100),
        many(4999, 5000),
        Policy::default(),
    ] {
        firewall.apply(next.clone()).unwrap();
        let changed = ours();
        assert_eq!(firewall.check().unwrap(), None, "{changed}");
        let elsewhere = std::thread::spawn(move || {
            assert!(own_network());
            let run = tempfile::tempdir().unwrap();
            let mut fresh = Firewall::close(run.path()).unwrap();
            fresh.apply(next).unwrap();
            ours()
        });
        assert_eq!(shown(&changed), shown(&elsewhere.join().unwrap()));
    }
}

#[test]
fn what_somebody_takes_away_or_changes_is_put_back() {
    if !own_network() {
        return;
    }
    let run = tempfile::tempdir().unwrap();
    let mut firewall = Firewall::close(run.path()).unwrap();
    firewall.apply(policy()).unwrap();
    let whole = ours();
    for (blow, word) in [
        ("flush ruleset", "taken away"),
        ("delete table inet herdsman", "taken away"),
        ("flush chain inet herdsman cluster", "chain cluster"),
        ("insert rule inet herdsman cluster accept", "chain cluster"),
        ("add chain inet herdsman surprise", "chains"),
        ("flush set inet herdsman owners4", "owners4"),
        ("add element inet herdsman members4 { 192.0.2.9 }", "members4"),
        ("add element inet herdsman owners4 { 192.0.2.0/24 }", "owners4"),
    ] {
        nft(&["-f", "-"], blow);
        let said = firewall.check().unwrap();
        assert!(said.as_ref().is_some_and(|s| s.contains(word)), "{blow}: {said:?}");
        assert_eq!(shown(&ours()), shown(&whole), "{blow}");
        assert_eq!(firewall.check().unwrap(), None, "{blow}");
    }
    // A rule with another inside and the same comment.
    let handle = |text: &str| text.rsplit("# handle ").next().unwrap().trim().to_owned();
    let list = nft(&["-a", "list", "chain", "inet", "herdsman", "cluster"], "");
    let drop = list.lines().find(|l| l.contains("comment \"strangers\"")).unwrap();
    let replace = format!(
        "replace rule inet herdsman cluster handle {} counter name \"strangers\" accept comment \"strangers\"",
        handle(drop)
    );
    nft(&["-f", "-"], &replace);
    assert_eq!(firewall.check().unwrap().as_deref(), Some("a rule was changed"));
    assert_eq!(shown(&ours()), shown(&whole));
    assert_eq!(firewall.report().repaired, 9);
}

#[test]
fn an_agent_that_starts_anew_goes_on_with_what_there_was() {
    if !own_network() {
        return;
    }
    let run = tempfile::tempdir().unwrap();
    let mut first = Firewall::close(run.path()).unwrap();
    first.apply(policy()).unwrap();
    let handles = || nft(&["-a", "list", "table", "inet", "herdsman"], "");
    let before = handles();
    drop(first);
    let second = Firewall::close(run.path()).unwrap();
    assert_eq!(second.policy(), &policy());
    assert_eq!(handles(), before, "not a single rule was made anew");
    // Of another boot nothing is known: everything is closed.
    let boot = tempfile::tempdir().unwrap();
    let third = Firewall::close(boot.path()).unwrap();
    assert_eq!(third.policy(), &Policy::default());
    assert!(!ours().contains("203.0.113.7"));
}

#[test]
fn rules_of_others_stay_as_they_were() {
    if !own_network() {
        return;
    }
    let others = "table ip filter {\n chain INPUT {\n type filter hook input priority filter; policy drop;\n\
                  tcp dport 22 counter accept\n }\n}\n\
                  table inet herd {\n set members4 {\n type ipv4_addr\n elements = { 192.0.2.1 }\n }\n\
                  chain input {\n type filter hook input priority filter - 10; policy accept;\n }\n}\n";
    nft(&["-f", "-"], others);
    let before = nft(&["list", "ruleset"], "");
    let run = tempfile::tempdir().unwrap();
    let mut firewall = Firewall::close(run.path()).unwrap();
    firewall.apply(policy()).unwrap();
    firewall.check().unwrap();
    assert!(
        nft(&["list", "ruleset"], "").starts_with(&before),
        "ours is behind theirs, whole"
    );
    firewall.remove().unwrap();
    assert_eq!(nft(&["list", "ruleset"], ""), before);
    // Removing what is not there is no error.
    remove(run.path()).unwrap();
}

#[tokio::test]
async fn a_change_by_somebody_else_is_heard_of() {
    if !own_network() {
        return;
    }
    let news = News::open().unwrap();
    nft(&["-f", "-"], "add table ip somebody");
    tokio::time::timeout(std::time::Duration::from_secs(20), news.next())
        .await
        .unwrap();
}

#[test]
fn without_the_right_the_error_says_so() {
    if !nix::unistd::geteuid().is_root() {
        let run = tempfile::tempdir().unwrap();
        assert!(Firewall::close(run.path()).unwrap_err().is_permission());
    }
}
