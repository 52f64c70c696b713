//! Reading the table back: is it what was applied, and what did it count.

use std::collections::{BTreeMap, BTreeSet};

use super::encode::{COUNTER, Counts, comment_of, kind, next};
use super::message::{Attributes, Message};
use super::netlink::{Error, Socket};
use super::rules::{Fill, PRIORITY, TABLE, Table};

/// Chain, comment, expressions.
type ReadRule = (String, String, Vec<u8>);

/// What the kernel has of our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    comment: String,
    /// Name; hook and priority of a base chain.
    chains: BTreeSet<(String, Option<(u32, i32)>)>,
    rules: Vec<ReadRule>,
    /// Keys of the sets that we fill, with their mark of an end.
    keys: BTreeMap<String, BTreeSet<(Vec<u8>, bool)>>,
}

/// Reads our table; `None` when there is none. `like` says which sets to read.
pub(super) fn read(socket: &mut Socket, like: &Table) -> Result<Option<Found>, Error> {
    let question = |kind, what: &str| Message::new(kind, 0, format!("to read {what}"));
    let tables = socket.dump(&question(kind::GET_TABLE, "tables"), |a| {
        (a.name(1) == Some(TABLE)).then(|| a.get(6).and_then(comment_of).unwrap_or_default().to_owned())
    })?;
    let Some(comment) = tables.into_iter().next() else {
        return Ok(None);
    };
    let chains = socket.dump(&question(kind::GET_CHAIN, "chains"), |a| {
        (a.name(1) == Some(TABLE)).then(|| {
            let hook = a.inside(4);
            let at = hook.number(1).zip(hook.number(2));
            (
                a.name(3).unwrap_or_default().to_owned(),
                at.map(|(h, p)| (h, p.cast_signed())),
            )
        })
    })?;
    let mut rules_of = question(kind::GET_RULE, "rules");
    rules_of.name(1, TABLE);
    let rules = socket.dump(&rules_of, |a| {
        (a.name(1) == Some(TABLE)).then(|| {
            (
                a.name(2).unwrap_or_default().to_owned(),
                a.get(7).and_then(comment_of).unwrap_or_default().to_owned(),
                a.get(4).unwrap_or_default().to_vec(),
            )
        })
    })?;
    let mut keys = BTreeMap::new();
    for set in like.sets.iter().filter(|s| is_ours(s.fill)) {
        let mut question = question(kind::GET_ELEMENTS, &set.name);
        question.name(1, TABLE).name(2, &set.name);
        let lists = match socket.dump(&question, |a| Some(elements(a))) {
            Ok(lists) => lists,
            Err(e) if e.is_missing() => continue,
            Err(e) => return Err(e),
        };
        keys.insert(set.name.clone(), lists.into_iter().flatten().collect());
    }
    Ok(Some(Found {
        comment,
        chains: chains.into_iter().collect(),
        rules,
        keys,
    }))
}

const fn is_ours(fill: Fill) -> bool {
    matches!(fill, Fill::Keys | Fill::Ranges)
}

fn elements(a: Attributes<'_>) -> Vec<(Vec<u8>, bool)> {
    a.inside(3)
        .filter_map(|(_, element)| {
            let element = Attributes::of(element);
            let key = element.inside(1).get(1)?.to_vec();
            Some((key, element.number(3).unwrap_or(0) & 1 == 1))
        })
        .collect()
}

impl Found {
    /// Says in which way this is not `wanted`, if it is not.
    pub(super) fn differs(&self, wanted: &Table, comment: &str) -> Option<String> {
        // Kernels before 5.10 keep no comment of a table.
        if !self.comment.is_empty() && self.comment != comment {
            return Some("the table is of another kind".into());
        }
        let chains: BTreeSet<_> = wanted
            .chains
            .iter()
            .map(|c| (c.name.to_owned(), c.hook.map(|h| (h as u32, PRIORITY))))
            .collect();
        if self.chains != chains {
            return Some("chains are not as they should be".into());
        }
        for chain in &wanted.chains {
            let there = self.rules.iter().filter(|r| r.0 == chain.name).map(|r| r.1.as_str());
            if !there.eq(chain.rules.iter().map(|r| r.comment)) {
                return Some(format!("rules of chain {} are not as they should be", chain.name));
            }
        }
        for set in wanted.sets.iter().filter(|s| is_ours(s.fill)) {
            let mut keys = BTreeSet::new();
            for (from, to) in &set.elements {
                keys.insert((from.clone(), false));
                if set.fill == Fill::Ranges {
                    keys.extend(next(to).map(|behind| (behind, true)));
                }
            }
            if self.keys.get(&set.name) != Some(&keys) {
                return Some(format!("set {} is not as it should be", set.name));
            }
        }
        None
    }

    /// Whether the table says that it is of this kind.
    pub(super) fn is_of(&self, comment: &str) -> bool {
        self.comment == comment
    }

    /// Whether the rules are the same to the last expression.
    pub(super) fn has_rules_of(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

/// Packets and bytes of each counter.
pub(super) fn counters(socket: &mut Socket) -> Result<BTreeMap<String, Counts>, Error> {
    let mut question = Message::new(kind::GET_OBJECT, 0, "to read counters");
    question.name(1, TABLE).number(3, COUNTER);
    let list = socket.dump(&question, |a| {
        if a.name(1) != Some(TABLE) {
            return None;
        }
        let data = a.inside(4);
        Some((a.name(2)?.to_owned(), (data.long(2)?, data.long(1)?)))
    })?;
    Ok(list.into_iter().collect())
}
