//! Our tags as a description. Neutron's things have no key-value pairs, and its tags are
//! set by a second call, so that a launcher that dies between the two would leave what
//! nobody finds. The description is part of the call that creates; 255 bytes at most.

use super::super::Tags;
use super::super::cloud::labels;

/// How each begins.
const HEAD: &str = "herdsman:";
/// What our keys begin with, and is left out.
const PREFIX: &str = "herdsman-";
/// The vendor's limit.
const MOST: usize = 255;
/// Those that `down` and `reap` need come first; the rest as far as there is room.
const FIRST: [&str; 6] = [
    labels::CLUSTER,
    labels::ID,
    labels::NODE,
    labels::ROLE,
    labels::CREATED,
    labels::EXPIRES,
];

/// Tags in one line.
pub(super) fn line(tags: &Tags) -> String {
    let mut out = HEAD.to_owned();
    let first = FIRST.iter().filter_map(|k| tags.get_key_value(*k));
    let rest = tags.iter().filter(|(k, _)| !FIRST.contains(&k.as_str()));
    for (key, value) in first.chain(rest) {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'=';
        let Some(key) = key.strip_prefix(PREFIX) else { continue };
        if value.bytes().all(plain) && out.len() + key.len() + value.len() + 2 <= MOST {
            out += &format!(" {key}={value}");
        }
    }
    out
}

/// The line's tags; absent where it is none of ours.
pub(super) fn tags(line: &str) -> Option<Tags> {
    let rest = line.strip_prefix(HEAD)?;
    let pairs = rest.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    Some(pairs.map(|(k, v)| (format!("{PREFIX}{k}"), v.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(cluster: &str) -> Tags {
        [
            (labels::CLUSTER, cluster),
            (labels::ID, "abcdefghij"),
            (labels::CREATED, "1700000000"),
            (labels::EXPIRES, "never"),
            ("herdsman-owner", "ann@example.org"),
            ("herdsman-ca", "0123456789abcdef"),
            ("herdsman-version", "0.1.0"),
            ("team", "geo"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
    }

    #[test]
    fn tags_come_back_from_a_description() {
        let before = some("demo");
        let after = tags(&line(&before)).unwrap();
        for (key, value) in before.iter().filter(|(k, _)| k.starts_with(PREFIX)) {
            assert_eq!(after.get(key), Some(value), "{key}");
        }
        assert_eq!(tags("made by hand"), None);
    }

    #[test]
    fn what_counts_fits_always() {
        let mut long = some(&"a".repeat(40));
        long.insert(labels::NODE.into(), "b".repeat(48));
        long.insert("herdsman-owner".into(), "o".repeat(200));
        long.insert("herdsman-ca".into(), "a b".into());
        let text = line(&long);
        assert!(text.len() <= MOST);
        let after = tags(&text).unwrap();
        assert!(labels::cluster_of(&after).is_some());
        assert_eq!(after[labels::EXPIRES], "never");
        assert!(!after.contains_key("herdsman-owner") && !after.contains_key("herdsman-ca"));
    }
}
