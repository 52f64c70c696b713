//! Misused certificates, as `status` and `doctor` tell of them.

use std::net::IpAddr;

use herdsman_wire::report::{ClusterStatus, Incident, NodeState};
use herdsman_wire::{ClusterName, NodeName};

/// Incidents that `status` shows; `doctor` shows them all.
const SHOWN: usize = 3;

/// What `status` says: the newest ones, each with what to do about it.
pub(super) fn text(status: &ClusterStatus) -> String {
    let mut out = String::new();
    for incident in status.incidents.iter().rev().take(SHOWN) {
        out += &format!("refused: {}\n", sentence(incident));
        if let Some(hint) = hint(status, incident).lines().next() {
            out += &format!("  try: {hint}\n");
        }
    }
    match status.incidents.len().saturating_sub(SHOWN) {
        0 => {}
        n => out += &format!("and {n} more incidents; `herdsman doctor {}` tells them\n", status.name),
    }
    out
}

/// What happened: how often, from where, with whose certificate, and when.
pub(super) fn sentence(incident: &Incident) -> String {
    let whose = incident.node.as_ref().map_or("a node", NodeName::as_str);
    let what = match incident.kind.as_str() {
        "double-use" => format!("the bootstrap certificate of {whose} was used again, with other keys"),
        "wrong-address" => format!("a certificate of {whose} was used from an address that is not its own"),
        "wrong-name" => format!("a bootstrap certificate that was made for another node was used as {whose}"),
        "clone" => format!("an old generation of the identity of {whose} was used"),
        _ => incident.why.clone(),
    };
    let Incident {
        count,
        from,
        first,
        last,
        ..
    } = incident;
    match count {
        0 | 1 => format!("{what}, once from {from}, at {last}"),
        n => format!("{what}, {n} times from {from}, first at {first} and last at {last}"),
    }
}

/// Whether it can still matter: its node belongs to the cluster.
pub(super) fn is_open(status: &ClusterStatus, incident: &Incident) -> bool {
    let Some(name) = &incident.node else { return true };
    let node = status.nodes.iter().find(|n| n.name == *name);
    node.is_some_and(|n| n.state != NodeState::Revoked)
}

/// What to do about it, a line each; nothing where it is over.
pub(super) fn hint(status: &ClusterStatus, incident: &Incident) -> String {
    let (true, Some(node)) = (is_open(status, incident), &incident.node) else {
        return String::new();
    };
    let address = status.nodes.iter().find(|n| n.name == *node).and_then(|n| n.address);
    hints(&status.name, node, incident, address == Some(incident.from)).join("\n")
}

fn hints(cluster: &ClusterName, node: &NodeName, incident: &Incident, is_own: bool) -> Vec<String> {
    let from: IpAddr = incident.from;
    let remove = |why: &str| format!("herdsman remove {cluster} {node}     {why}; `herdsman scale` makes a new one");
    match (incident.kind.as_str(), is_own) {
        ("double-use", true) => vec![remove("where its machine was made anew or lost its keys")],
        ("double-use", false) => vec![
            remove("unless you know who that was"),
            format!(
                "find out who at {from} can read {node}'s user-data: in the cloud's console and API, on its disk, \
                 in an image or a snapshot of it"
            ),
        ],
        ("wrong-address", _) => vec![
            remove("where its machine has another address now"),
            format!("otherwise find out who at {from} has got a key of {node}"),
        ],
        ("wrong-name", _) => vec![format!(
            "give each machine the user-data of its own node; {node} stays out"
        )],
        ("clone", _) => vec![remove("where it still runs")],
        _ => vec![format!("herdsman logs {cluster} {node}")],
    }
}

#[cfg(test)]
mod tests {
    use herdsman_wire::Timestamp;

    use super::*;

    fn incident(kind: &str, count: u64) -> Incident {
        Incident {
            kind: kind.into(),
            node: "demo-w0".parse().ok(),
            from: IpAddr::from([10, 0, 0, 9]),
            count,
            first: Timestamp(0),
            last: Timestamp(60_000),
            why: "the hub's words".into(),
        }
    }

    #[test]
    fn sentences() {
        assert_eq!(
            sentence(&incident("double-use", 3)),
            "the bootstrap certificate of demo-w0 was used again, with other keys, 3 times from 10.0.0.9, first at \
             1970-01-01T00:00:00Z and last at 1970-01-01T00:01:00Z"
        );
        // A hub that is newer than this program knows more kinds.
        let unknown = sentence(&incident("teleport", 1));
        assert_eq!(unknown, "the hub's words, once from 10.0.0.9, at 1970-01-01T00:01:00Z");
    }

    #[test]
    fn a_machine_s_own_address_is_no_thief_s() {
        let (cluster, node) = ("demo".parse().unwrap(), "demo-w0".parse().unwrap());
        let hints = |kind, is_own| hints(&cluster, &node, &incident(kind, 1), is_own);
        let (own, other) = (hints("double-use", true), hints("double-use", false));
        assert!(
            own[0].starts_with("herdsman remove demo demo-w0 ") && own.len() == 1,
            "{own:?}"
        );
        assert!(other[0].starts_with("herdsman remove demo demo-w0 "), "{other:?}");
        assert!(other[1].contains("10.0.0.9 can read demo-w0's user-data"), "{other:?}");
    }
}
