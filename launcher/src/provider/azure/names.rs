//! Names and ids of resources. A thing's id is its path in the API.

use herdsman_wire::NodeName;

use super::super::ClusterRef;

/// Most characters of a node's name in a machine's, whose limit is 64.
const NODE: usize = 48;

/// Prefix of all that a cluster's machines share; lists are narrowed by it.
pub(super) const PREFIX: &str = "herdsman-";
/// Ends the names of the group of machines that the owner reaches.
pub(super) const ENTRY: &str = "-in";
/// Ends the names of the gateway and its address.
pub(super) const NAT: &str = "-nat";

/// Name of what a cluster's machines share.
pub(super) fn shared(cluster: &ClusterRef) -> String {
    format!("{PREFIX}{}-{}", cluster.name, cluster.id)
}

/// Name of a machine. Another try gets another name, as the first may not be gone yet.
pub(super) fn machine(cluster: &ClusterRef, node: &NodeName, attempt: usize) -> String {
    let node = node.as_str();
    let end = node.len().saturating_sub(NODE);
    let short = node.get(end..).unwrap_or(node).trim_start_matches('-');
    match attempt {
        0 => format!("{short}-{}", cluster.id),
        n => format!("{short}-{}-{n}", cluster.id),
    }
}

/// Whether a name is one of a machine, or of a thing that hangs on it.
pub(super) fn is_of(cluster: &ClusterRef, name: &str) -> bool {
    let id = format!("-{}", cluster.id);
    let mut found = name.match_indices(&id);
    found.any(|(at, _)| matches!(name.as_bytes().get(at + id.len()), None | Some(b'-' | b'_')))
}

/// Path of a resource group.
pub(super) fn group(subscription: &str, group: &str) -> String {
    format!("/subscriptions/{subscription}/resourceGroups/{group}")
}

/// Path of a resource: `kind` is as in `Microsoft.Network/virtualNetworks`.
pub(super) fn resource(subscription: &str, group_name: &str, kind: &str, name: &str) -> String {
    format!("{}/providers/{kind}/{name}", group(subscription, group_name))
}

/// A part of an id: `resourceGroups`, `virtualMachines` …; case does not matter to the
/// vendor, and changes from answer to answer.
pub(super) fn part<'i>(id: &'i str, key: &str) -> Option<&'i str> {
    let mut parts = id.split('/');
    while let Some(part) = parts.next() {
        if part.eq_ignore_ascii_case(key) {
            return parts.next().filter(|p| !p.is_empty());
        }
    }
    None
}

/// Whether two ids are the same thing's.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether a text is an id, and not a name.
pub(super) fn is_id(text: &str) -> bool {
    text.len() > 1
        && text.starts_with('/')
        && text
            .split('/')
            .nth(1)
            .is_some_and(|p| p.eq_ignore_ascii_case("subscriptions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterRef {
        ClusterRef {
            name: "demo".parse().unwrap(),
            id: "abcdefghij".parse().unwrap(),
        }
    }

    #[test]
    fn names_fit_the_vendors_limits_and_are_known_again() {
        let c = cluster();
        let long: NodeName = format!("{}-w1234", "a".repeat(57)).parse().unwrap();
        let name = machine(&c, &long, 12);
        assert!(name.len() <= 62 && name.ends_with("-w1234-abcdefghij-12"), "{name}");
        assert_eq!(machine(&c, &"demo-w1".parse().unwrap(), 0), "demo-w1-abcdefghij");
        for ours in ["demo-w1-abcdefghij", "demo-w1-abcdefghij-os", "x-abcdefghij-1-nic-12ab"] {
            assert!(is_of(&c, ours), "{ours}");
        }
        for other in ["demo-w1-abcdefghik", "abcdefghij-x", "x-abcdefghijk"] {
            assert!(!is_of(&c, other), "{other}");
        }
    }

    #[test]
    fn ids_are_read_whatever_their_case() {
        let id = "/subscriptions/S/RESOURCEGROUPS/Mine/providers/Microsoft.Compute/virtualMachines/x";
        assert_eq!(part(id, "resourceGroups"), Some("Mine"));
        assert_eq!(part(id, "virtualMachines"), Some("x"));
        assert_eq!(part(id, "disks"), None);
        assert!(is_id(id) && !is_id("Mine/x") && !is_id("/Mine"));
    }
}
