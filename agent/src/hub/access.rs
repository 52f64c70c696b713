//! From where the hub's machine may be reached: the owner's networks, which the
//! operator changes, and the nodes'. The packet filter is told of every change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herdsman_wire::report::{EventKind, FirewallState};
use herdsman_wire::{ApiError, Code, Timestamp, api};
use ipnet::IpNet;
use serde_json::json;

use super::core::Hub;
use super::journal::Entry;
use super::registry::Unplaced;

/// Who may reach the hub's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Networks of people.
    pub owners: BTreeSet<IpNet>,
    /// Members of the cluster.
    pub members: BTreeSet<IpAddr>,
    /// Nodes that may enrol, or went silent and may come back.
    pub joining: BTreeSet<IpNet>,
}

/// Most networks in the list: people write them by hand.
const MOST: usize = 1000;

impl Hub {
    /// Who may reach the hub's machine now.
    pub fn access(&self) -> Access {
        let registry = self.registry();
        let (mut joining, unplaced) = registry.joining(Timestamp::now());
        let access = Access {
            owners: registry.allowed.clone(),
            members: registry.members(),
            joining: BTreeSet::new(),
        };
        drop(registry);
        // Never the whole world: what was named, else the networks that this
        // machine itself is in.
        if unplaced != Unplaced::None {
            let named = self.spec().firewall.join;
            if named.is_empty() && unplaced == Unplaced::Anywhere {
                joining.extend(attached());
            }
            joining.extend(named);
        }
        Access { joining, ..access }
    }

    /// Tells the packet filter, if there is news.
    pub fn publish_access(&self) {
        let now = self.access();
        self.access.send_if_modified(|old| {
            let news = *old != now;
            if news {
                *old = now;
            }
            news
        });
    }

    /// Changes from where people are let in. `from` is the caller's address.
    ///
    /// # Errors
    /// [`Code::Usage`] when the caller's address is not known, [`Code::Conflict`]
    /// when the caller would shut himself out, [`Code::NotFound`] for a network
    /// that is not let in; when the journal cannot be written.
    pub async fn allow(&self, who: &str, from: IpAddr, ask: &api::Allow) -> Result<api::Allowed, ApiError> {
        let mut add: BTreeSet<IpNet> = ask.add.iter().map(IpNet::trunc).collect();
        if ask.me {
            if self.is_here(from) {
                return Err(ApiError::new(
                    Code::Usage,
                    "the hub sees this command come from the scheduler's own machine (a proxy command, or a local \
                     cluster), so it cannot tell your address",
                )
                .with_hint(format!(
                    "herdsman allow {} 203.0.113.7/32          names the network",
                    self.name
                )));
            }
            add.insert(IpNet::from(from));
        }
        let remove: BTreeSet<IpNet> = ask.remove.iter().map(IpNet::trunc).collect();
        let before = self.registry().allowed.clone();
        if let Some(missing) = remove.iter().find(|n| !before.contains(n)) {
            return Err(ApiError::new(
                Code::NotFound,
                format!(
                    "{missing} is no network from which people are let in{}",
                    listed(&before)
                ),
            ));
        }
        let after: BTreeSet<IpNet> = before.union(&add).copied().filter(|n| !remove.contains(n)).collect();
        if after.len() > MOST {
            return Err(ApiError::new(
                Code::TooLarge,
                format!("the list would have {} networks; the limit is {MOST}", after.len()),
            )
            .with_hint("name larger networks"));
        }
        let inside = |list: &BTreeSet<IpNet>| list.iter().any(|n| n.contains(&from));
        if !ask.force && !remove.is_empty() && !self.is_here(from) && !inside(&after) && inside(&before) {
            return Err(
                ApiError::new(Code::Conflict, format!("that would shut you out: you come from {from}"))
                    .with_hint(format!(
                        "herdsman allow {} NETWORK          first, for the place from which you will come",
                        self.name
                    ))
                    .with_hint("the same with --force, if you mean it"),
            );
        }
        if after != before {
            self.change_allowed(who, add, remove).await?;
        }
        Ok(api::Allowed {
            allowed: after.into_iter().collect(),
            you: from,
            enforced: self.is_enforced(),
        })
    }

    /// As [`Hub::allow`], by root on this machine, whose right needs no check.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn allow_by_root(&self, add: BTreeSet<IpNet>, remove: BTreeSet<IpNet>) -> Result<(), ApiError> {
        self.change_allowed("root on the scheduler's machine", add, remove)
            .await
    }

    async fn change_allowed(&self, who: &str, add: BTreeSet<IpNet>, remove: BTreeSet<IpNet>) -> Result<(), ApiError> {
        self.remember(&[Entry::Allowed {
            add: add.iter().copied().collect(),
            remove: remove.iter().copied().collect(),
        }])
        .await?;
        self.audit.note("allow", who, json!({"add": add, "remove": remove}));
        let change = [("let in", &add), ("let in no longer", &remove)];
        for (what, list) in change.iter().filter(|(_, l)| !l.is_empty()) {
            let list: Vec<String> = list.iter().map(IpNet::to_string).collect();
            let text = format!("{what} by {who}: {}", list.join(", "));
            tracing::info!("{text}");
            self.events.push(None, EventKind::Note { text });
        }
        self.publish_access();
        Ok(())
    }

    /// Whether an address is the machine's own.
    fn is_here(&self, from: IpAddr) -> bool {
        from.is_loopback() || from == self.scheduler.ip()
    }

    /// Whether the machine has a packet filter.
    fn is_enforced(&self) -> bool {
        let registry = self.registry();
        registry
            .node(&self.own)
            .is_some_and(|n| n.report.firewall.state == FirewallState::On)
    }
}

fn listed(allowed: &BTreeSet<IpNet>) -> String {
    if allowed.is_empty() {
        return "; there is none".into();
    }
    let list: Vec<String> = allowed.iter().map(IpNet::to_string).collect();
    format!("; these are: {}", list.join(", "))
}

/// Networks that this machine's interfaces are in.
fn attached() -> Vec<IpNet> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    all.filter(|i| !i.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|i| {
            let ip = |s: nix::sys::socket::SockaddrStorage| {
                let four = s.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
                four.or_else(|| s.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
            };
            let (address, mask) = (ip(i.address?)?, ip(i.netmask?)?);
            let network = IpNet::with_netmask(address, mask).ok()?.trunc();
            // Whole worlds are no network of ours.
            (network.prefix_len() >= 8).then_some(network)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_networks_are_whole_and_not_loopback() {
        for network in attached() {
            assert_eq!(network, network.trunc());
            assert!(!network.addr().is_loopback(), "{network}");
        }
    }
}
