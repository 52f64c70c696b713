//! Answers of the API, as far as they are used
//! (<https://docs.hetzner.cloud/reference/cloud>).

use std::net::IpAddr;

use serde::Deserialize;

use super::super::Tags;

/// What every answer with several things has besides them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) pagination: Pagination,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Pagination {
    pub(super) next_page: Option<u64>,
    pub(super) last_page: Option<u64>,
    pub(super) total_entries: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Action {
    pub(super) id: u64,
    /// `running`, `success` or `error`.
    pub(super) status: String,
    #[serde(default)]
    pub(super) command: String,
    pub(super) error: Option<Failure>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refused {
    pub(super) error: Failure,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Server {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) labels: Tags,
    pub(super) public_net: PublicNet,
    #[serde(default)]
    pub(super) private_net: Vec<PrivateNet>,
    pub(super) server_type: Named,
    pub(super) location: Option<Named>,
    /// Where `location` is not given yet.
    pub(super) datacenter: Option<Datacenter>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Datacenter {
    pub(super) location: Named,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PublicNet {
    pub(super) ipv4: Option<Ip>,
    pub(super) ipv6: Option<Ip>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Ip {
    /// An address, or for IPv6 a network.
    pub(super) ip: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PrivateNet {
    pub(super) network: Option<u64>,
    pub(super) ip: Option<IpAddr>,
}

/// Something of which only the name counts.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

/// A thing with an id, a name and labels: firewall, network, placement group.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Thing {
    pub(super) id: u64,
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: Tags,
    /// Machines in it, where it is a network or a placement group.
    #[serde(default)]
    pub(super) servers: Vec<u64>,
    /// Addresses, where it is a network.
    #[serde(default)]
    pub(super) ip_range: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerType {
    pub(super) name: String,
    pub(super) architecture: String,
    pub(super) cores: u32,
    /// GB, which here are GiB.
    pub(super) memory: f64,
    /// GB.
    pub(super) disk: f64,
    pub(super) cpu_type: String,
    /// Absent where the vendor has nothing to say.
    pub(super) deprecation: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) locations: Vec<TypeAt>,
    #[serde(default)]
    pub(super) prices: Vec<PriceAt>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TypeAt {
    pub(super) name: String,
    pub(super) deprecation: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PriceAt {
    pub(super) location: String,
    pub(super) price_hourly: Price,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Price {
    /// Without tax, decimal.
    pub(super) net: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: u64,
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) os_flavor: String,
    pub(super) os_version: Option<String>,
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) created: String,
    pub(super) deprecated: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Location {
    pub(super) name: String,
    pub(super) network_zone: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Prices {
    pub(super) pricing: Pricing,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pricing {
    pub(super) currency: String,
    #[serde(default)]
    pub(super) primary_ips: Vec<IpPrices>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct IpPrices {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) prices: Vec<PriceAt>,
}

/// A server was taken on.
#[derive(Debug, Deserialize)]
pub(super) struct Created {
    pub(super) server: Server,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) next_actions: Vec<Action>,
}

/// An action was begun.
#[derive(Debug, Deserialize)]
pub(super) struct Begun {
    pub(super) action: Action,
}

/// Actions of several things.
#[derive(Debug, Deserialize)]
pub(super) struct Actions {
    pub(super) actions: Vec<Action>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_own_example_is_read() {
        let made: Created =
            serde_json::from_str(include_str!("../../../../tests/data/hetzner/create_server.json")).unwrap();
        assert_eq!((made.server.id, made.server.name.as_str()), (42, "my-server"));
        assert_eq!(made.action.command, "create_server");
        assert_eq!(made.next_actions.len(), 1);
        assert_eq!(made.server.public_net.ipv4.unwrap().ip, "1.2.3.4");
    }
}
