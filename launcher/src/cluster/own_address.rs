//! Which address this computer has, as far as it can say by itself.

use herdsman_wire::spec::FirewallSpec;
use ipnet::IpNet;

pub use crate::provider::towards;

use crate::provider::Placement;

/// From where a scheduler's agent may be reached before it is installed. After
/// that the hub itself sees which address the installer has.
pub(super) fn networks(spec: &FirewallSpec, placement: &Placement) -> Vec<IpNet> {
    let mut networks = spec.allow.clone();
    if spec.allow_installer {
        let own = placement.laptop.or_else(|| towards(placement.address));
        networks.extend(own.filter(|a| !a.is_loopback()).map(IpNet::from));
    }
    networks.sort();
    networks.dedup();
    networks
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn the_way_to_an_address_tells_ours() {
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(towards(Some(here)), Some(here));
    }

    #[test]
    fn what_the_provider_knows_comes_first_and_loopback_never() {
        let spec = FirewallSpec {
            allow: vec!["203.0.113.0/24".parse().unwrap()],
            allow_installer: true,
            ..FirewallSpec::default()
        };
        let mut placement = Placement {
            address: Some([127, 3, 0, 2].into()),
            ..Placement::default()
        };
        assert_eq!(networks(&spec, &placement), spec.allow);
        placement.laptop = Some([10, 0, 2, 2].into());
        let both: Vec<String> = networks(&spec, &placement).iter().map(IpNet::to_string).collect();
        assert_eq!(both, ["10.0.2.2/32", "203.0.113.0/24"]);
        let only_named = FirewallSpec {
            allow_installer: false,
            ..spec.clone()
        };
        assert_eq!(networks(&only_named, &placement), spec.allow);
    }
}
