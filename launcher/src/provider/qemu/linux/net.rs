//! Addresses of a cluster's network. Nothing of it is seen outside of the QEMU
//! processes, so all clusters use the same.

use std::net::Ipv4Addr;

use herdsman_wire::Code;

use super::super::super::ProviderError;
use super::fail;

/// The network. Not that of nodes of provider `local`, which a machine of this
/// computer may well have to reach.
pub(super) const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 0);
/// Length of its prefix.
pub(super) const PREFIX: u8 = 16;
/// The scheduler; workers follow.
const FIRST: u32 = 16;

/// Address of a node by its number.
pub(super) fn address(index: u32) -> Result<Ipv4Addr, ProviderError> {
    index
        .checked_add(FIRST)
        .filter(|n| *n < (1 << (32 - u32::from(PREFIX))) - 1)
        .map(|n| Ipv4Addr::from(u32::from(NETWORK) | n))
        .ok_or_else(|| ProviderError {
            hint: vec!["start a new cluster: numbers of deleted nodes are not used again".into()],
            ..fail(
                Code::Quota,
                format!("the cluster's network has no address for node number {index}"),
            )
        })
}

/// What QEMU's user-mode network gives to its only machine; this computer is .2.
pub(super) const OUTSIDE: &str = "10.0.2.15/24";
pub(super) const OUTSIDE_GATEWAY: &str = "10.0.2.2";
pub(super) const OUTSIDE_DNS: &str = "10.0.2.3";

/// MAC address of a node's way outside.
pub(super) fn outside_mac(index: u32) -> String {
    // Numbers of nodes have no such bit.
    mac(index | 1 << 23)
}

/// A MAC address for it, of those that QEMU has for machines.
pub(super) fn mac(index: u32) -> String {
    let [_, b, c, d] = index.to_be_bytes();
    format!("52:54:00:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_functions_of_the_number() {
        assert_eq!(address(0).unwrap(), Ipv4Addr::new(10, 89, 0, 16));
        assert_eq!(address(300).unwrap(), Ipv4Addr::new(10, 89, 1, 60));
        for index in [65_535 - 16, u32::MAX] {
            assert_eq!(address(index).unwrap_err().code, Code::Quota);
        }
        assert_eq!(mac(258), "52:54:00:00:01:02");
        assert_eq!(outside_mac(258), "52:54:00:80:01:02");
    }
}
