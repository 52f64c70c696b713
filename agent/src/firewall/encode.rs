//! The table as messages to the kernel. One rule part is one or more
//! expressions, as `nft --debug=netlink` shows them; numbers are those of
//! `include/uapi/linux/netfilter/nf_tables.h`.

use std::time::Duration;

use super::message::{Message, flag};
use super::rules::{Chain, Family, Fill, Key, PRIORITY, Part, Rule, Set, TABLE, Table, counter};

/// Most sources that are counted one by one; a source more is let in by the
/// limits of all together only.
pub(super) const SOURCES: u32 = 65535;
/// A source's pace is forgotten after this long without a new connection.
pub(super) const FORGET: Duration = Duration::from_secs(60);
/// Elements in one message: a list's length has 16 bits, and the longest
/// element takes 40 bytes.
const ELEMENTS: usize = 1000;

/// Types of messages.
pub(super) mod kind {
    pub(in super::super) const NEW_TABLE: u16 = 0;
    pub(in super::super) const GET_TABLE: u16 = 1;
    pub(in super::super) const DEL_TABLE: u16 = 2;
    pub(in super::super) const NEW_CHAIN: u16 = 3;
    pub(in super::super) const GET_CHAIN: u16 = 4;
    pub(in super::super) const NEW_RULE: u16 = 6;
    pub(in super::super) const GET_RULE: u16 = 7;
    pub(in super::super) const NEW_SET: u16 = 9;
    pub(in super::super) const NEW_ELEMENTS: u16 = 12;
    pub(in super::super) const GET_ELEMENTS: u16 = 13;
    pub(in super::super) const DEL_ELEMENTS: u16 = 14;
    pub(in super::super) const NEW_OBJECT: u16 = 18;
    pub(in super::super) const GET_OBJECT: u16 = 19;
}

/// Type of a note in user data: a comment, for tables and rules alike.
const COMMENT: u8 = 0;
/// `NFT_OBJECT_COUNTER`.
pub(super) const COUNTER: u32 = 1;
/// First register of 16 bytes, and that of verdicts.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

/// Packets and bytes that a counter starts with.
pub(super) type Counts = (u64, u64);

/// What makes the table anew in place of any older one. `counts` gives each
/// counter's start, so that a new table goes on counting.
pub(super) fn whole(table: &Table, comment: &str, counts: impl Fn(&str) -> Counts) -> Vec<Message> {
    // The first makes sure that there is one to delete.
    let mut all = vec![new_table(comment), delete_table(), new_table(comment)];
    for name in counter::ALL {
        let (packets, bytes) = counts(name);
        let mut m = create(kind::NEW_OBJECT, format!("counter {name}"));
        m.name(1, TABLE).name(2, name).number(3, COUNTER).nest(4, |m| {
            m.long(1, bytes).long(2, packets);
        });
        all.push(m);
    }
    for (id, set) in (1..).zip(&table.sets) {
        all.push(new_set(set, id));
    }
    all.extend(table.chains.iter().map(new_chain));
    for chain in &table.chains {
        all.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
    }
    for set in &table.sets {
        all.extend(elements(kind::NEW_ELEMENTS, set, set.elements.iter()));
    }
    all
}

/// What makes the sets of `old` those of `new`; all else is the same.
pub(super) fn changes(old: &Table, new: &Table) -> Vec<Message> {
    let mut all = Vec::new();
    for (old, new) in old.sets.iter().zip(&new.sets) {
        if old.fill == Fill::Ranges && old.elements != new.elements {
            // Ends of old ranges can be starts of new ones: few as they are, all
            // of them are put in anew.
            all.extend(elements(kind::DEL_ELEMENTS, new, old.elements.iter()));
            all.extend(elements(kind::NEW_ELEMENTS, new, new.elements.iter()));
            continue;
        }
        all.extend(elements(
            kind::DEL_ELEMENTS,
            new,
            old.elements.difference(&new.elements),
        ));
        all.extend(elements(
            kind::NEW_ELEMENTS,
            new,
            new.elements.difference(&old.elements),
        ));
    }
    all
}

/// What removes the table, which must be there.
pub(super) fn delete_table() -> Message {
    let mut m = Message::new(kind::DEL_TABLE, 0, "delete table");
    m.name(1, TABLE);
    m
}

fn create(kind: u16, what: String) -> Message {
    Message::new(kind, flag::CREATE, what)
}

fn new_table(comment: &str) -> Message {
    let mut m = create(kind::NEW_TABLE, "table".into());
    m.name(1, TABLE).number(2, 0).put(6, &note(comment));
    m
}

fn note(comment: &str) -> Vec<u8> {
    let text = &comment.as_bytes()[..comment.len().min(120)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[COMMENT, length], text, &[0]].concat()
}

/// The comment in user data.
pub(super) fn comment_of(data: &[u8]) -> Option<&str> {
    let (head, rest) = data.split_at_checked(2)?;
    let text = rest.get(..usize::from(head[1]))?;
    (head[0] == COMMENT).then(|| std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok())?
}

fn new_set(set: &Set, id: u32) -> Message {
    // Numbers of nft's own types: how it shows the keys.
    let (shown_as, length) = match set.key {
        Key::Address(Family::V4) => (7, 4),
        Key::Address(Family::V6) => (8, 16),
        Key::Port => (13, 2),
    };
    let flags = match set.fill {
        Fill::Keys => 0,
        Fill::Ranges => 0x4,
        Fill::Connections => 0x20,
        Fill::Pace => 0x20 | 0x10,
    };
    let mut m = create(kind::NEW_SET, format!("set {}", set.name));
    m.name(1, TABLE)
        .name(2, &set.name)
        .number(3, flags)
        .number(4, shown_as)
        .number(5, length)
        .number(10, id);
    if matches!(set.fill, Fill::Connections | Fill::Pace) {
        m.nest(9, |m| {
            m.number(1, SOURCES);
        });
    }
    if set.fill == Fill::Pace {
        m.long(11, u64::try_from(FORGET.as_millis()).unwrap_or(u64::MAX));
    }
    m
}

type Range = (Vec<u8>, Vec<u8>);

fn elements<'a>(kind: u16, set: &Set, list: impl Iterator<Item = &'a Range>) -> Vec<Message> {
    // A range is the key that it begins with, and the first key behind it,
    // marked as an end.
    let mut keys: Vec<(Vec<u8>, bool)> = Vec::new();
    for (from, to) in list {
        keys.push((from.clone(), false));
        if set.fill == Fill::Ranges
            && let Some(behind) = next(to)
        {
            keys.push((behind, true));
        }
    }
    keys.chunks(ELEMENTS)
        .map(|chunk| {
            let mut m = create(kind, format!("elements of {}", set.name));
            m.name(1, TABLE).name(2, &set.name).nest(3, |m| {
                for (key, is_end) in chunk {
                    m.nest(1, |m| {
                        m.nest(1, |m| {
                            m.put(1, key);
                        });
                        if *is_end {
                            m.number(3, 1);
                        }
                    });
                }
            });
            m
        })
        .collect()
}

/// The key behind; none behind the last.
pub(super) fn next(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, over) = byte.overflowing_add(1);
        *byte = sum;
        if !over {
            return Some(next);
        }
    }
    None
}

fn new_chain(chain: &Chain) -> Message {
    let mut m = create(kind::NEW_CHAIN, format!("chain {}", chain.name));
    m.name(1, TABLE).name(3, chain.name);
    if let Some(hook) = chain.hook {
        m.nest(4, |m| {
            m.number(1, hook as u32).put(2, &PRIORITY.to_be_bytes());
        })
        .name(7, "filter")
        // `NF_ACCEPT`.
        .number(5, 1);
    }
    m
}

fn new_rule(chain: &Chain, rule: &Rule) -> Message {
    let what = format!("rule \"{}\" in chain {}", rule.comment, chain.name);
    let mut m = Message::new(kind::NEW_RULE, flag::CREATE | flag::APPEND, what);
    m.name(1, TABLE)
        .name(2, chain.name)
        .nest(4, |m| rule.parts.iter().for_each(|p| part(m, p)))
        .put(7, &note(rule.comment));
    m
}

fn expression(m: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    m.nest(1, |m| {
        m.name(1, name).nest(2, fill);
    });
}

fn part(m: &mut Message, part: &Part) {
    match part {
        Part::Loopback => {
            // The loopback interface is number 1 in every network namespace.
            meta(m, 4);
            compare(m, EQUAL, &1_u32.to_ne_bytes());
        }
        Part::Reply => {
            conntrack(m, 1);
            compare(m, EQUAL, &[1]);
        }
        Part::Established => {
            // Bits 2 established, 4 related.
            conntrack(m, 0);
            expression(m, "bitwise", |m| {
                m.number(1, REGISTER).number(2, REGISTER).number(3, 4);
                data(m, 4, &6_u32.to_ne_bytes());
                data(m, 5, &0_u32.to_ne_bytes());
            });
            compare(m, NOT_EQUAL, &0_u32.to_ne_bytes());
        }
        Part::Port(protocol, port) => {
            destination_port(m, *protocol);
            compare(m, EQUAL, &port.to_be_bytes());
        }
        Part::Ports(protocol, set) => {
            destination_port(m, *protocol);
            lookup(m, set);
        }
        Part::From(family, set) => {
            address(m, *family, false);
            lookup(m, set);
        }
        Part::To(family, set) => {
            address(m, *family, true);
            lookup(m, set);
        }
        Part::ByRoot => {
            meta(m, 10);
            compare(m, EQUAL, &0_u32.to_ne_bytes());
        }
        Part::TooMany(family, set, most) => {
            address(m, *family, false);
            dynamic(m, set, 0, |m| {
                m.name(1, "connlimit").nest(2, |m| {
                    m.number(1, *most).number(2, 1);
                });
            });
        }
        Part::TooFast(family, set, limit) => {
            address(m, *family, false);
            dynamic(m, set, 1, |m| {
                m.name(1, "limit").nest(2, |m| over(m, limit.per_second, limit.burst));
            });
        }
        Part::AllTooFast(limit) => expression(m, "limit", |m| over(m, limit.per_second, limit.burst)),
        Part::Count(name) => expression(m, "objref", |m| {
            m.number(1, COUNTER).name(2, name);
        }),
        Part::Accept => verdict(m, 1, None),
        Part::Drop => verdict(m, 0, None),
        Part::Jump(chain) => verdict(m, -3, Some(chain)),
        Part::Goto(chain) => verdict(m, -4, Some(chain)),
        // Unreachable by any protocol, "administratively prohibited".
        Part::Reject => expression(m, "reject", |m| {
            m.number(1, 2).put(2, &[3]);
        }),
    }
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

fn meta(m: &mut Message, key: u32) {
    expression(m, "meta", |m| {
        m.number(1, REGISTER).number(2, key);
    });
}

fn conntrack(m: &mut Message, key: u32) {
    expression(m, "ct", |m| {
        m.number(1, REGISTER).number(2, key);
    });
}

fn data(m: &mut Message, kind: u16, value: &[u8]) {
    m.nest(kind, |m| {
        m.put(1, value);
    });
}

fn compare(m: &mut Message, how: u32, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.number(1, REGISTER).number(2, how);
        data(m, 3, value);
    });
}

fn payload(m: &mut Message, base: u32, offset: u32, length: u32) {
    expression(m, "payload", |m| {
        m.number(1, REGISTER)
            .number(2, base)
            .number(3, offset)
            .number(4, length);
    });
}

fn lookup(m: &mut Message, set: &str) {
    expression(m, "lookup", |m| {
        m.name(1, set).number(2, REGISTER);
    });
}

/// In a table for both protocols a field is only there in packets of its own.
fn address(m: &mut Message, family: Family, destination: bool) {
    // `NFPROTO_IPV4`, `NFPROTO_IPV6`; then where the addresses are in the header.
    let (protocol, offset, length) = match family {
        Family::V4 => (2, 12, 4),
        Family::V6 => (10, 8, 16),
    };
    meta(m, 15);
    compare(m, EQUAL, &[protocol]);
    let offset = if destination { offset + length } else { offset };
    payload(m, 1, offset, length);
}

fn destination_port(m: &mut Message, protocol: u8) {
    meta(m, 16);
    compare(m, EQUAL, &[protocol]);
    payload(m, 2, 2, 2);
}

fn dynamic(m: &mut Message, set: &str, operation: u32, fill: impl FnOnce(&mut Message)) {
    expression(m, "dynset", |m| {
        m.name(1, set).number(3, operation).number(4, REGISTER).nest(7, fill);
    });
}

/// More than so many packets a second.
fn over(m: &mut Message, per_second: u32, burst: u32) {
    m.long(1, u64::from(per_second))
        .long(2, 1)
        .number(3, burst)
        .number(4, 0)
        .number(5, 1);
}

fn verdict(m: &mut Message, code: i32, chain: Option<&str>) {
    expression(m, "immediate", |m| {
        m.number(1, VERDICT).nest(2, |m| {
            m.nest(2, |m| {
                m.put(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    m.name(2, chain);
                }
            });
        });
    });
}
