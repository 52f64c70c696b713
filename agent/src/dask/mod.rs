//! To be written.
/// Where a node's dashboards listen: on loopback. A node whose own address is
/// a loopback address has that one to itself, so several nodes on a machine do
/// not take each other's ports.
#[must_use]
pub fn dashboard_address(own: std::net::IpAddr) -> std::net::IpAddr {
    if own.is_loopback() {
        own
    } else {
        std::net::Ipv4Addr::LOCALHOST.into()
    }
}
