//! Our tags in the vendor's, which have names alone, belong to the account, and stay
//! when nothing carries them any more. So a cluster has few, all with its name and id,
//! and they are deleted with it:
//!
//! ```text
//! herdsman:demo:abcdefghij                 all its droplets; the inner firewall's
//! herdsman:demo:abcdefghij:scheduler       the scheduler's; the outer firewall's
//! herdsman:demo:abcdefghij:created-17…:expires-never:ca-1f…:owner-ann
//! team:geo                                 the user's own, which are not deleted
//! ```
//!
//! A node's name is its droplet's.

use herdsman_wire::Role;

use super::super::cloud::labels;
use super::super::{ClusterRef, Tags};

/// Beginning of all of ours.
const OURS: &str = "herdsman:";
/// Marks the scheduler's.
const SCHEDULER: &str = "scheduler";
/// Beginning of our keys.
const PREFIX: &str = "herdsman-";
/// Keys that the tags' own form gives.
const OWN: [&str; 4] = [labels::CLUSTER, labels::ID, labels::NODE, labels::ROLE];
/// Most characters of a tag.
const LONGEST: usize = 255;

/// Tag of all droplets of a cluster.
pub(super) fn all(cluster: &ClusterRef) -> String {
    format!("{OURS}{}:{}", cluster.name, cluster.id)
}

/// Tag of its scheduler.
pub(super) fn scheduler(cluster: &ClusterRef) -> String {
    format!("{}:{SCHEDULER}", all(cluster))
}

/// The tag with what else is known of a cluster.
pub(super) fn facts(cluster: &ClusterRef, tags: &Tags) -> Option<String> {
    let begin = all(cluster);
    let mut facts = begin.clone();
    for (key, value) in tags.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
        let Some(key) = key.strip_prefix(PREFIX) else { continue };
        let fact = format!(":{key}-{}", fitting(value).replace(':', "_"));
        if facts.len() + fact.len() <= LONGEST {
            facts += &fact;
        }
    }
    (facts != begin).then_some(facts)
}

/// Whether it is that tag.
pub(super) fn is_facts(tag: &str) -> bool {
    tag.starts_with(OURS) && tag.matches(':').count() > 2 && !tag.ends_with(&format!(":{SCHEDULER}"))
}

/// All tags of a machine.
pub(super) fn of(cluster: &ClusterRef, role: Role, tags: &Tags) -> Vec<String> {
    let mut out = vec![all(cluster)];
    if role == Role::Scheduler {
        out.push(scheduler(cluster));
    }
    out.extend(facts(cluster, tags));
    for (key, value) in tags.iter().filter(|(k, _)| !k.starts_with(PREFIX)) {
        out.push(fitting(&format!("{key}:{value}")).chars().take(LONGEST).collect());
    }
    out
}

/// The vendor takes letters, digits, `:`, `-` and `_`.
fn fitting(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_') {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// The cluster that a tag belongs to, if it is one of ours.
pub(super) fn cluster_of(tag: &str) -> Option<ClusterRef> {
    let mut parts = tag.strip_prefix(OURS)?.split(':');
    Some(ClusterRef {
        name: parts.next()?.parse().ok()?,
        id: parts.next()?.parse().ok()?,
    })
}

/// A droplet's tags as ours; absent where it is none of ours.
pub(super) fn read(name: &str, tags: &[String]) -> Option<(ClusterRef, Tags)> {
    let cluster = tags.iter().find_map(|t| cluster_of(t))?;
    let mut out = Tags::from([
        (labels::CLUSTER.to_owned(), cluster.name.to_string()),
        (labels::ID.to_owned(), cluster.id.to_string()),
        (labels::NODE.to_owned(), name.to_owned()),
        (labels::ROLE.to_owned(), Role::Worker.as_str().to_owned()),
    ]);
    let begin = all(&cluster);
    for tag in tags {
        let Some(rest) = tag.strip_prefix(&begin) else {
            if let Some((key, value)) = tag.split_once(':') {
                out.insert(key.to_owned(), value.to_owned());
            }
            continue;
        };
        for fact in rest.split(':').filter(|f| !f.is_empty()) {
            match fact.split_once('-') {
                Some((key, value)) => out.insert(format!("{PREFIX}{key}"), value.to_owned()),
                None if fact == SCHEDULER => out.insert(labels::ROLE.to_owned(), SCHEDULER.to_owned()),
                None => None,
            };
        }
    }
    Some((cluster, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_survive_the_way_to_the_vendor_and_back() {
        let cluster = ClusterRef {
            name: "demo-1".parse().unwrap(),
            id: "abcdefghij".parse().unwrap(),
        };
        let tags: Tags = [
            ("herdsman-cluster", "demo-1"),
            ("herdsman-id", "abcdefghij"),
            ("herdsman-owner", "Ann.B@example.org"),
            ("herdsman-created", "1764000000"),
            ("herdsman-expires", "never"),
            ("herdsman-ca", "0123456789abcdef"),
            ("herdsman-version", "0.1.0"),
            ("herdsman-role", "scheduler"),
            ("herdsman-node", "demo-1-scheduler"),
            ("team", "géo physics"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let sent = of(&cluster, Role::Scheduler, &tags);
        assert_eq!(sent.len(), 4, "{sent:?}");
        let facts: Vec<&String> = sent.iter().filter(|t| is_facts(t)).collect();
        assert_eq!(facts, [&super::facts(&cluster, &tags).unwrap()]);
        let fits = |t: &String| t.len() <= 255 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_".contains(&b));
        assert!(sent.iter().all(fits), "{sent:?}");
        let (back, read) = read("demo-1-scheduler", &sent).unwrap();
        assert_eq!(back, cluster);
        for key in ["cluster", "id", "created", "expires", "ca", "role", "node"] {
            let key = format!("herdsman-{key}");
            assert_eq!(read.get(&key), tags.get(&key), "{key}");
        }
        assert_eq!(read["herdsman-owner"], "Ann_B_example_org");
        assert_eq!(read["team"], "g_o_physics");
        let worker = of(&cluster, Role::Worker, &tags);
        let (_, read) = super::read("demo-1-w0", &worker).unwrap();
        assert_eq!(read["herdsman-role"], "worker");
        assert_eq!(super::read("x", &["team:geo".into(), "herdsman:x".into()]), None);
    }
}
