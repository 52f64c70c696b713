//! What nobody will delete any more: decided from lists, without a call.

use std::collections::BTreeSet;
use std::time::Duration;

use herdsman_wire::{ClusterId, Role, Timestamp};

use super::super::{ClusterRef, Machine, Tags};
use super::{Resource, labels};

/// Something that should not be there.
#[derive(Clone, Debug)]
pub enum Stray {
    /// A machine, and why.
    Machine(Box<Machine>, String),
    /// Something else, and why.
    Resource(Resource, String),
}

impl Stray {
    /// The cluster that it was made for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterRef {
        match self {
            Self::Machine(m, _) => &m.cluster,
            Self::Resource(r, _) => &r.cluster,
        }
    }
}

/// A cluster on its way has machines before it has a scheduler that answers, and a
/// network before it has machines; younger than this nothing is a stray.
const YOUNG: Duration = Duration::from_secs(30 * 60);

/// Strays among all that there is. With `older_than` a cluster of that age is one
/// as well, whole as it may be.
#[must_use]
pub fn strays(
    machines: &[Machine],
    resources: &[Resource],
    now: Timestamp,
    older_than: Option<Duration>,
) -> Vec<Stray> {
    let headed: BTreeSet<&ClusterId> = machines
        .iter()
        .filter(|m| m.role == Role::Scheduler && m.running)
        .map(|m| &m.cluster.id)
        .collect();
    let peopled: BTreeSet<&ClusterId> = machines.iter().map(|m| &m.cluster.id).collect();
    let why_old = |tags: &Tags| {
        let age = age(tags, now);
        older_than
            .filter(|limit| age.is_some_and(|a| a >= *limit))
            .map(|limit| format!("its cluster is older than {}h", limit.as_secs() / 3600))
    };
    let mut found = Vec::new();
    for m in machines {
        let young = age(&m.tags, now).is_some_and(|a| a < YOUNG);
        let why = if expired(&m.tags, now) {
            Some("its cluster should have ended".to_owned())
        } else if !m.running {
            Some("it is powered off and still there".to_owned())
        } else if !young && !headed.contains(&m.cluster.id) {
            Some("its cluster has no scheduler".to_owned())
        } else {
            why_old(&m.tags)
        };
        found.extend(why.map(|why| Stray::Machine(Box::new(m.clone()), why)));
    }
    for r in resources {
        let young = age(&r.tags, now).is_some_and(|a| a < YOUNG);
        let why = if !young && !peopled.contains(&r.cluster.id) {
            Some("its cluster has no machine".to_owned())
        } else {
            why_old(&r.tags).or_else(|| expired(&r.tags, now).then(|| "its cluster should have ended".to_owned()))
        };
        found.extend(why.map(|why| Stray::Resource(r.clone(), why)));
    }
    found
}

fn seconds(tags: &Tags, key: &str) -> Option<i64> {
    tags.get(key)?.parse().ok()
}

fn age(tags: &Tags, now: Timestamp) -> Option<Duration> {
    let created = seconds(tags, labels::CREATED)?;
    let age = now.seconds().saturating_sub(created);
    Some(Duration::from_secs(u64::try_from(age).unwrap_or_default()))
}

/// Past its end by more than an agent may take to notice.
fn expired(tags: &Tags, now: Timestamp) -> bool {
    seconds(tags, labels::EXPIRES).is_some_and(|end| now.seconds() > end.saturating_add(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(created: i64, expires: &str) -> Tags {
        Tags::from([
            (labels::CREATED.to_owned(), created.to_string()),
            (labels::EXPIRES.to_owned(), expires.to_owned()),
        ])
    }

    fn machine(id: &str, role: Role, running: bool, tags: Tags) -> Machine {
        Machine {
            id: format!("m-{id}"),
            cluster: ClusterRef {
                name: "demo".parse().unwrap(),
                id: id.parse().unwrap(),
            },
            node: "demo-w1".parse().unwrap(),
            role,
            address: None,
            agent: None,
            scheduler: None,
            tags,
            running,
            hardware: super::super::super::Hardware::default(),
        }
    }

    fn reasons(machines: &[Machine], resources: &[Resource], older: Option<u64>) -> Vec<String> {
        let now = Timestamp(10_000_000 * 1000);
        strays(machines, resources, now, older.map(Duration::from_secs))
            .into_iter()
            .map(|s| match s {
                Stray::Machine(m, why) => format!("{}: {why}", m.id),
                Stray::Resource(r, why) => format!("{}: {why}", r.id),
            })
            .collect()
    }

    #[test]
    fn a_whole_cluster_is_none_and_parts_of_one_are() {
        let old = 10_000_000 - 86_400;
        let whole = [
            machine("aaaaaaaaaa", Role::Scheduler, true, tags(old, "never")),
            machine("aaaaaaaaaa", Role::Worker, true, tags(old, "never")),
        ];
        let group = |id: &str, created| Resource {
            kind: "security group".into(),
            id: format!("sg-{id}"),
            name: "x".into(),
            cluster: whole[0].cluster.clone(),
            tags: tags(created, "never"),
        };
        assert_eq!(reasons(&whole, &[group("1", old)], None), Vec::<String>::new());
        assert_eq!(reasons(&whole, &[group("1", old)], Some(3600)).len(), 3);
        assert_eq!(
            reasons(&whole[1..], &[group("1", old)], None),
            ["m-aaaaaaaaaa: its cluster has no scheduler"]
        );
        assert_eq!(
            reasons(&[], &[group("1", old)], None),
            ["sg-1: its cluster has no machine"]
        );
        // One that is being made has a group first.
        assert_eq!(reasons(&[], &[group("1", 10_000_000 - 60)], None), Vec::<String>::new());
        let off = machine("aaaaaaaaaa", Role::Scheduler, false, tags(old, "never"));
        assert_eq!(reasons(&[off], &[], None).len(), 1);
        let late = machine("aaaaaaaaaa", Role::Scheduler, true, tags(old, "9990000"));
        assert_eq!(
            reasons(&[late], &[], None),
            ["m-aaaaaaaaaa: its cluster should have ended"]
        );
    }
}
