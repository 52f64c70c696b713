//! Our tags in a vendor's own rules, and back.

use herdsman_wire::{NodeName, Role};

use super::super::{ClusterRef, Tags};

/// Tag with a cluster's name.
pub const CLUSTER: &str = "herdsman-cluster";
/// Tag with a cluster's identity.
pub const ID: &str = "herdsman-id";
/// Tag with a node's name.
pub const NODE: &str = "herdsman-node";
/// Tag with a node's role.
pub const ROLE: &str = "herdsman-role";
/// Tag with the second of the epoch at which a cluster was made.
pub const CREATED: &str = "herdsman-created";
/// Tag with the second of the epoch at which a cluster ends, or `never`.
pub const EXPIRES: &str = "herdsman-expires";

/// The cluster that a resource belongs to, by its tags; absent where it is none of
/// ours, or damaged beyond use.
#[must_use]
pub fn cluster_of(tags: &Tags) -> Option<ClusterRef> {
    Some(ClusterRef {
        name: tags.get(CLUSTER)?.parse().ok()?,
        id: tags.get(ID)?.parse().ok()?,
    })
}

/// The role that a machine has by its tags.
#[must_use]
pub fn role_of(tags: &Tags) -> Role {
    match tags.get(ROLE).map(String::as_str) {
        Some("scheduler") => Role::Scheduler,
        _ => Role::Worker,
    }
}

/// The node's name by its tags, or else by what the vendor calls the machine.
#[must_use]
pub fn node_of(tags: &Tags, id: &str) -> Option<NodeName> {
    tags.get(NODE)
        .and_then(|n| n.parse().ok())
        .or_else(|| id.to_ascii_lowercase().parse().ok())
}

/// A value as GCP's and Hetzner's labels take it: lower-case letters, digits, `-`
/// and `_`, at most 63; an owner's `@` and `.` become `_`.
#[must_use]
pub fn narrow(value: &str) -> String {
    value
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(63)
        .collect::<String>()
        .trim_matches(['-', '_'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_the_narrowest_rules() {
        assert_eq!(narrow("Ann.B@example.org"), "ann_b_example_org");
        assert_eq!(narrow("0.1.0"), "0_1_0");
        assert_eq!(narrow(&"a".repeat(80)).len(), 63);
        assert_eq!(narrow("_x-"), "x");
    }

    #[test]
    fn what_has_no_tag_is_named_by_its_id() {
        let mut tags = Tags::new();
        assert_eq!(node_of(&tags, "i-0ABC").unwrap().as_str(), "i-0abc");
        tags.insert(NODE.into(), "demo-w1".into());
        assert_eq!(node_of(&tags, "i-0abc").unwrap().as_str(), "demo-w1");
        assert_eq!(cluster_of(&tags), None);
        tags.insert(CLUSTER.into(), "demo".into());
        tags.insert(ID.into(), "abcdefghij".into());
        assert_eq!(cluster_of(&tags).unwrap().name.as_str(), "demo");
    }
}
