//! Policy to rules: a description of table `inet herdsman` as a value. What it
//! means is written once, here; [`super::text`] shows it to people and
//! [`super::encode`] to the kernel.
//!
//! ```text
//! input ─ loopback: pass ─ port of the cluster? ─ no: not ours, pass
//!                                 │ yes
//!          answer to a connection of ours: pass
//!          agent:     members, owners, joining ┐
//!          scheduler: members, owners          ├▶ limits per source ▶ pass
//!          workers:   members                  ┘
//!          anybody else: counted, dropped
//! output, forward ─ metadata address, not root ─ DNS, DHCP, NTP: pass ─ else refused
//! ```
//!
//! Every packet is judged by its source, not only the first of a connection: who
//! is taken out of a set is out with all connections. A verdict `accept` holds
//! for this table only; what other tables drop stays dropped. All base chains
//! pass what is not ours, so that a fault here never locks anybody out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::policy::{ALL_OWNERS, Limit, MEMBER, OWNER, Policy};

/// Name of our table, of family inet.
pub(super) const TABLE: &str = "herdsman";
/// Before the filters of others, which run at 0, and after connection tracking.
pub(super) const PRIORITY: i32 = -10;

/// Addresses at which clouds answer a machine's questions about itself, with its
/// credentials: the common one, ECS and EKS, Azure, Alibaba.
const METADATA_4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
];
/// EC2, GCE, and the common one on a link.
const METADATA_6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];
/// What every machine needs of these addresses, whoever asks: GCE and EC2 resolve
/// names there, GCE and Azure give addresses, GCE tells the time.
const METADATA_PORTS: [u16; 3] = [53, 67, 123];

/// Names of the counters.
pub(super) mod counter {
    /// Packets to the cluster's ports from somebody who is not let in.
    pub(in super::super) const STRANGERS: &str = "strangers";
    /// New connections that came too fast.
    pub(in super::super) const TOO_FAST: &str = "too_fast";
    /// New connections of a source that has too many.
    pub(in super::super) const TOO_MANY: &str = "too_many";
    /// Packets to a metadata address.
    pub(in super::super) const METADATA: &str = "metadata_denied";
    /// All.
    pub(in super::super) const ALL: [&str; 4] = [STRANGERS, TOO_FAST, TOO_MANY, METADATA];
}

/// Internet protocol of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Four bytes.
    V4,
    /// Sixteen bytes.
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// What a set's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Addresses.
    Address(Family),
    /// Ports.
    Port,
}

/// How a set is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// By us, with single keys.
    Keys,
    /// By us, with ranges.
    Ranges,
    /// By rules, connections of each source.
    Connections,
    /// By rules, pace of each source.
    Pace,
}

/// A set with what we put into it: ranges from and to, as bytes in network
/// order; for single keys both are the same. Sorted, without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// Its name.
    pub(super) name: String,
    /// Its keys.
    pub(super) key: Key,
    /// Who fills it.
    pub(super) fill: Fill,
    /// What is in it.
    pub(super) elements: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

/// Part of a rule: a condition or what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Came in by the loopback interface.
    Loopback,
    /// Answers a connection that this machine opened.
    Reply,
    /// Belongs to a connection that was let in.
    Established,
    /// Protocol (6 TCP, 17 UDP) and one destination port.
    Port(u8, u16),
    /// Protocol and destination port in a set.
    Ports(u8, &'static str),
    /// Source address in a set.
    From(Family, String),
    /// Destination address in a set.
    To(Family, &'static str),
    /// Sent by a process of root.
    ByRoot,
    /// The source has more connections than this; counted in a set.
    TooMany(Family, String, u32),
    /// The source comes faster than this; kept in a set.
    TooFast(Family, String, Limit),
    /// All together come faster than this.
    AllTooFast(Limit),
    /// Counts.
    Count(&'static str),
    /// Ends this table's judgement.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet and tells its sender.
    Reject,
    /// Goes to another chain and comes back.
    Jump(&'static str),
    /// Goes to another chain for good.
    Goto(&'static str),
}

/// A rule and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Its parts, in order.
    pub(super) parts: Vec<Part>,
    /// Shown by `nft list`.
    pub(super) comment: &'static str,
}

/// Where a base chain hangs; `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// To this machine.
    Input = 1,
    /// Through this machine.
    Forward = 2,
    /// From this machine.
    Output = 3,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// Where it hangs; absent: others jump to it.
    pub(super) hook: Option<Hook>,
    /// Its rules, in order.
    pub(super) rules: Vec<Rule>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Sets.
    pub(super) sets: Vec<Set>,
    /// Chains; who is jumped to comes before who jumps.
    pub(super) chains: Vec<Chain>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Classes of sources with limits of their own.
const CLASSES: [(&str, Limit); 2] = [("owner", OWNER), ("member", MEMBER)];

/// The table for a policy.
#[must_use]
pub fn table(policy: &Policy) -> Table {
    Table {
        sets: sets(policy),
        chains: chains(policy),
    }
}

fn sets(policy: &Policy) -> Vec<Set> {
    let set = |name: String, key, fill, elements| Set {
        name,
        key,
        fill,
        elements,
    };
    let mut all = vec![
        set("ports".into(), Key::Port, Fill::Ranges, ports(policy.ports.all())),
        set(
            "worker_ports".into(),
            Key::Port,
            Fill::Ranges,
            ports(policy.ports.of_workers()),
        ),
    ];
    for family in Family::BOTH {
        let key = Key::Address(family);
        let digit = family.digit();
        let members = policy.members.iter().filter_map(|a| bytes(*a, family));
        all.push(set(
            format!("members{digit}"),
            key,
            Fill::Keys,
            members.map(|b| (b.clone(), b)).collect(),
        ));
        for (name, networks) in [("owners", &policy.owners), ("joining", &policy.joining)] {
            all.push(set(
                format!("{name}{digit}"),
                key,
                Fill::Ranges,
                ranges(networks, family),
            ));
        }
        for (class, _) in CLASSES {
            let empty = BTreeSet::new;
            all.push(set(
                format!("{class}_connections{digit}"),
                key,
                Fill::Connections,
                empty(),
            ));
            all.push(set(format!("{class}_pace{digit}"), key, Fill::Pace, empty()));
        }
    }
    if !policy.metadata_open {
        let one = |b: Vec<u8>| (b.clone(), b);
        let four = METADATA_4.iter().map(|a| one(a.octets().to_vec())).collect();
        let six = METADATA_6.iter().map(|a| one(a.octets().to_vec())).collect();
        let ports = METADATA_PORTS.iter().map(|p| one(p.to_be_bytes().to_vec())).collect();
        all.push(set("metadata4".into(), Key::Address(Family::V4), Fill::Keys, four));
        all.push(set("metadata6".into(), Key::Address(Family::V6), Fill::Keys, six));
        all.push(set("metadata_ports".into(), Key::Port, Fill::Keys, ports));
    }
    all
}

fn chains(policy: &Policy) -> Vec<Chain> {
    let rule = |parts: Vec<Part>, comment| Rule { parts, comment };
    let chain = |name, rules| Chain {
        name,
        hook: None,
        rules,
    };
    let base = |name, hook, rules| Chain {
        name,
        hook: Some(hook),
        rules,
    };
    let from = |list: &str, to: Part, comment| {
        Family::BOTH.map(|f| rule(vec![Part::From(f, format!("{list}{}", f.digit())), to.clone()], comment))
    };
    let members = || from("members", Part::Goto("for_members"), "enrolled nodes");
    let owners = || from("owners", Part::Goto("for_owners"), "the owner's networks");
    let joining = || from("joining", Part::Goto("for_owners"), "nodes on their way");
    let p = &policy.ports;
    let mut all = vec![
        chain("for_members", limited(CLASSES[1], None)),
        chain("for_owners", limited(CLASSES[0], Some(ALL_OWNERS))),
        chain("agent", [members(), owners(), joining()].concat()),
        chain("scheduler", [members(), owners()].concat()),
        // Data flows here: nothing but the question who it is.
        chain("workers", from("members", Part::Accept, "enrolled nodes").to_vec()),
        chain(
            "cluster",
            vec![
                rule(
                    vec![Part::Reply, Part::Accept],
                    "answers to connections of this machine's own",
                ),
                rule(vec![Part::Port(TCP, p.agent), Part::Jump("agent")], "the agent"),
                rule(
                    vec![Part::Port(TCP, p.scheduler), Part::Jump("scheduler")],
                    "Dask's scheduler",
                ),
                rule(
                    vec![Part::Ports(TCP, "worker_ports"), Part::Jump("workers")],
                    "Dask's workers",
                ),
                rule(vec![Part::Count(counter::STRANGERS), Part::Drop], "strangers"),
            ],
        ),
        base(
            "input",
            Hook::Input,
            vec![
                rule(vec![Part::Loopback, Part::Accept], "this machine itself"),
                rule(
                    vec![Part::Ports(TCP, "ports"), Part::Jump("cluster")],
                    "the cluster's ports; all others are not ours",
                ),
            ],
        ),
    ];
    if policy.metadata_open {
        return all;
    }
    all.push(chain(
        "metadata",
        vec![
            rule(
                vec![Part::Ports(UDP, "metadata_ports"), Part::Accept],
                "names, addresses, time",
            ),
            rule(vec![Part::Port(TCP, 53), Part::Accept], "names"),
            rule(
                vec![Part::Count(counter::METADATA), Part::Reject],
                "credentials and user-data",
            ),
        ],
    ));
    let to = |f: Family| Part::To(f, if f == Family::V4 { "metadata4" } else { "metadata6" });
    let closed = || Family::BOTH.map(|f| rule(vec![to(f), Part::Jump("metadata")], "metadata service"));
    let root = Family::BOTH.map(|f| rule(vec![to(f), Part::ByRoot, Part::Accept], "root may ask"));
    all.push(base("outgoing", Hook::Output, [root, closed()].concat()));
    // A packet of a container has no user: all of them are refused.
    all.push(base("forwarded", Hook::Forward, closed().to_vec()));
    all
}

/// What a source that is let in may do.
fn limited((class, limit): (&str, Limit), all: Option<Limit>) -> Vec<Rule> {
    let rule = |parts: Vec<Part>, comment| Rule { parts, comment };
    let mut rules = vec![rule(vec![Part::Established, Part::Accept], "was let in")];
    for f in Family::BOTH {
        let set = format!("{class}_pace{}", f.digit());
        rules.push(rule(
            vec![Part::TooFast(f, set, limit), Part::Count(counter::TOO_FAST), Part::Drop],
            "a source comes too fast",
        ));
    }
    for f in Family::BOTH {
        let set = format!("{class}_connections{}", f.digit());
        rules.push(rule(
            vec![
                Part::TooMany(f, set, limit.connections),
                Part::Count(counter::TOO_MANY),
                Part::Drop,
            ],
            "a source has too many connections",
        ));
    }
    if let Some(all) = all {
        rules.push(rule(
            vec![Part::AllTooFast(all), Part::Count(counter::TOO_FAST), Part::Drop],
            "all together come too fast",
        ));
    }
    rules.push(rule(vec![Part::Accept], "may come in"));
    rules
}

fn ports(list: Vec<RangeInclusive<u16>>) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let bytes = |p: u16| p.to_be_bytes().to_vec();
    list.into_iter().map(|r| (bytes(*r.start()), bytes(*r.end()))).collect()
}

fn bytes(address: IpAddr, family: Family) -> Option<Vec<u8>> {
    match (address, family) {
        (IpAddr::V4(a), Family::V4) => Some(a.octets().to_vec()),
        (IpAddr::V6(a), Family::V6) => Some(a.octets().to_vec()),
        _ => None,
    }
}

/// Networks as ranges that neither overlap nor touch.
fn ranges(networks: &BTreeSet<IpNet>, family: Family) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let mut found: Vec<(u128, u128)> = networks
        .iter()
        .filter_map(|n| {
            let number = |a: IpAddr| match a {
                IpAddr::V4(a) if family == Family::V4 => Some(u128::from(u32::from(a))),
                IpAddr::V6(a) if family == Family::V6 => Some(u128::from(a)),
                _ => None,
            };
            Some((number(n.network())?, number(n.broadcast())?))
        })
        .collect();
    found.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (from, to) in found {
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    let bytes = |n: u128| match family {
        Family::V4 => n.to_be_bytes()[12..].to_vec(),
        Family::V6 => n.to_be_bytes().to_vec(),
    };
    merged.into_iter().map(|(a, b)| (bytes(a), bytes(b))).collect()
}
