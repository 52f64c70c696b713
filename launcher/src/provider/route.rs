//! The way to an address, without a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Address from which connections to `target` leave, or to anywhere. No packet is
/// sent. Behind a NAT others see another one.
#[must_use]
pub fn towards(target: Option<IpAddr>) -> Option<IpAddr> {
    // An address of the documentation's, for the default route.
    let target = target.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(target, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|a| !a.is_unspecified())
}
