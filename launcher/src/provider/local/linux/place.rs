//! Where nodes are: addresses are functions of the cluster and the node's index;
//! what is asked of the system is only whether they are free.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use herdsman_wire::{ClusterId, Code, limits};
use ring::digest::{SHA256, digest};

use super::super::super::ProviderError;

/// The network of a cluster's namespaces. Nobody else is in it and no route
/// leads out of it, so all clusters use the same.
const NAMESPACE_NET: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 0);
/// Length of that network's prefix.
pub(super) const NAMESPACE_PREFIX: u8 = 16;
/// The bridge, in that network.
pub(super) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// Nodes per 127.a.b.0/24; the rest of it are the addresses that people expect
/// to mean something: .0, .1 and .252 to .255.
const PER_BLOCK: u32 = 250;
/// Places to try for a node: each lies in another 127.a.0.0/16.
const CANDIDATES: u32 = 8;

/// Address of a node in its cluster's own network.
pub(super) fn in_namespace(index: u32) -> Result<Ipv4Addr, ProviderError> {
    u32::from(NAMESPACE_NET)
        .checked_add(2)
        .and_then(|a| a.checked_add(index))
        .map(Ipv4Addr::from)
        .filter(|a| a.octets()[..2] == NAMESPACE_NET.octets()[..2] && *a != Ipv4Addr::new(10, 88, 255, 255))
        .ok_or_else(|| ProviderError {
            code: Code::Quota,
            message: format!("the cluster's network has no address for node number {index}"),
            hint: vec!["start a new cluster: numbers of deleted nodes are not used again".into()],
            retryable: false,
        })
}

/// Candidate number `candidate` for a node among the loopback addresses. Never
/// in 127.0.0.0/16, where names like `localhost` live.
fn on_loopback(cluster: &ClusterId, index: u32, candidate: u32) -> Ipv4Addr {
    let hash = digest(&SHA256, cluster.as_str().as_bytes());
    let hash = hash.as_ref();
    // 31 has no factor in common with 254, so the eight differ.
    let a = 1 + (u32::from(hash[0]) + candidate * 31) % 254;
    let b = (u32::from(hash[1]) + index / PER_BLOCK) % 256;
    let n = 2 + index % PER_BLOCK;
    Ipv4Addr::from(127 << 24 | a << 16 | b << 8 | n)
}

/// Ports that a node with this index will bind at its address.
const fn ports(index: u32) -> [u16; 2] {
    if index == 0 {
        [limits::AGENT_PORT, limits::SCHEDULER_PORT]
    } else {
        [limits::WORKER_PORT, limits::NANNY_PORT]
    }
}

/// A loopback address whose ports are free. `used` are addresses of the
/// cluster's other nodes.
pub(super) fn free_loopback(
    cluster: &ClusterId,
    index: u32,
    used: &dyn Fn(Ipv4Addr) -> bool,
) -> Result<Ipv4Addr, ProviderError> {
    // Beyond this, `b` would come round to the addresses of the first nodes.
    if index >= PER_BLOCK * 256 {
        return Err(ProviderError {
            code: Code::Quota,
            message: format!("there is no loopback address for node number {index}"),
            hint: vec!["start a new cluster: numbers of deleted nodes are not used again".into()],
            retryable: false,
        });
    }
    let mut taken = None;
    for candidate in 0..CANDIDATES {
        let address = on_loopback(cluster, index, candidate);
        if used(address) {
            continue;
        }
        match check_free(address, ports(index)) {
            Ok(()) => return Ok(address),
            Err(e) => taken = Some(e),
        }
    }
    Err(taken.map_or_else(
        || ProviderError {
            code: Code::Port,
            message: format!("all loopback addresses for node number {index} are taken by the cluster itself"),
            hint: vec![],
            retryable: false,
        },
        |(port, e)| refused(port, &e),
    ))
}

/// Where the host reaches a port of the scheduler's: at its usual number, or at
/// any that is free where somebody else has it.
pub(super) fn outside(address: Option<Ipv4Addr>, port: u16) -> SocketAddr {
    let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
    let at = SocketAddr::from((address, port));
    if address != Ipv4Addr::LOCALHOST && TcpListener::bind(at).is_ok() {
        at
    } else {
        SocketAddr::from((address, 0))
    }
}

fn refused(port: u16, e: &io::Error) -> ProviderError {
    if e.kind() != io::ErrorKind::AddrInUse {
        return ProviderError {
            code: Code::Port,
            message: format!("cannot listen on port {port} of a loopback address: {e}"),
            hint: vec!["addresses of 127.0.0.0/8 must be usable on the loopback interface".into()],
            retryable: false,
        };
    }
    ProviderError {
        code: Code::Port,
        message: format!("port {port} is taken on all {CANDIDATES} loopback addresses tried"),
        hint: vec![
            format!("see who listens: ss -ltnp 'sport = :{port}'; a program on 0.0.0.0 or [::] takes every address"),
            "end that program, or run as root: nodes then have ports of their own".into(),
        ],
        retryable: false,
    }
}

fn check_free(address: Ipv4Addr, ports: [u16; 2]) -> Result<(), (u16, io::Error)> {
    // Bound one after the other and closed at once: nobody was connected, so
    // nothing lingers.
    for port in ports {
        TcpListener::bind(SocketAddr::new(IpAddr::V4(address), port)).map_err(|e| (port, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn id(text: &str) -> ClusterId {
        text.parse().unwrap()
    }

    #[test]
    fn namespaces_start_behind_the_bridge_and_end_before_broadcast() {
        assert_eq!(in_namespace(0).unwrap(), Ipv4Addr::new(10, 88, 0, 2));
        assert_eq!(in_namespace(254).unwrap(), Ipv4Addr::new(10, 88, 1, 0));
        assert_eq!(in_namespace(65532).unwrap(), Ipv4Addr::new(10, 88, 255, 254));
        for beyond in [65533, 65534, u32::MAX] {
            assert_eq!(in_namespace(beyond).unwrap_err().code, Code::Quota);
        }
    }

    #[test]
    fn loopback_addresses_differ_and_avoid_the_known_ones() {
        for cluster in ["aaaaaaaaaa", "zzzzzzzzzz", "k2k3k4k5k6"] {
            let mut seen = BTreeSet::new();
            for candidate in 0..CANDIDATES {
                for index in 0..1000 {
                    let address = on_loopback(&id(cluster), index, candidate);
                    let [net, a, _, n] = address.octets();
                    assert!(net == 127 && a != 0 && a != 255 && (2..252).contains(&n), "{address}");
                    assert!(seen.insert(address), "{address} twice");
                }
            }
        }
        assert!(free_loopback(&id("aaaaaaaaaa"), PER_BLOCK * 256, &|_| false).is_err());
    }

    #[test]
    fn a_taken_port_moves_the_node_on() {
        let cluster = id("portstaken");
        let first = free_loopback(&cluster, 0, &|_| false).unwrap();
        let holder = TcpListener::bind((first, limits::SCHEDULER_PORT)).unwrap();
        let second = free_loopback(&cluster, 0, &|_| false).unwrap();
        assert_ne!(first, second);
        let third = free_loopback(&cluster, 0, &|a| a == second).unwrap();
        assert!(third != first && third != second);
        drop(holder);
        assert_eq!(free_loopback(&cluster, 0, &|_| false).unwrap(), first);
    }

    #[test]
    fn nothing_free_names_the_port() {
        let cluster = id("nothingfre");
        let holders: Vec<_> = (0..CANDIDATES)
            .map(|c| TcpListener::bind((on_loopback(&cluster, 0, c), limits::AGENT_PORT)).unwrap())
            .collect();
        let e = free_loopback(&cluster, 0, &|_| false).unwrap_err();
        assert_eq!(e.code, Code::Port);
        assert!(e.message.contains("8785") && e.hint[0].contains("8785"), "{e:?}");
        drop(holders);
    }
}
