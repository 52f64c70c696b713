//! Answers of the API, as far as they are used
//! (<https://docs.digitalocean.com/reference/api/>).

use std::net::IpAddr;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) total: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Droplet {
    pub(super) id: u64,
    pub(super) name: String,
    /// `new`, `active`, `off` or `archive`.
    pub(super) status: String,
    #[serde(default)]
    pub(super) size_slug: String,
    #[serde(default)]
    pub(super) networks: Networks,
    pub(super) region: Option<Region>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Networks {
    #[serde(default)]
    pub(super) v4: Vec<Network>,
    #[serde(default)]
    pub(super) v6: Vec<Network>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Network {
    pub(super) ip_address: IpAddr,
    /// `public` or `private`.
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Region {
    pub(super) slug: String,
}

/// Droplets were taken on.
#[derive(Debug, Deserialize)]
pub(super) struct Created {
    pub(super) droplets: Vec<Droplet>,
    #[serde(default)]
    pub(super) links: Links,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Links {
    #[serde(default)]
    pub(super) actions: Vec<Link>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Link {
    pub(super) id: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneAction {
    pub(super) action: Action,
}

#[derive(Debug, Deserialize)]
pub(super) struct Action {
    /// `in-progress`, `completed` or `errored`.
    pub(super) status: String,
    pub(super) resource_id: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneDroplet {
    pub(super) droplet: Droplet,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Firewall {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created_at: Option<String>,
    /// Absent and null mean none.
    pub(super) tags: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Tag {
    pub(super) name: String,
    #[serde(default)]
    pub(super) resources: Carried,
}

/// How much carries a tag.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Carried {
    #[serde(default)]
    pub(super) count: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneTag {
    pub(super) tag: Tag,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vpc {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) region: Option<String>,
    pub(super) ip_range: Option<String>,
    #[serde(default)]
    pub(super) default: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneVpc {
    pub(super) vpc: Vpc,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Size {
    pub(super) slug: String,
    /// MiB.
    pub(super) memory: u64,
    pub(super) vcpus: u32,
    /// GB.
    pub(super) disk: u64,
    pub(super) price_hourly: f64,
    pub(super) regions: Vec<String>,
    #[serde(default = "yes")]
    pub(super) available: bool,
    #[serde(default)]
    pub(super) description: String,
    pub(super) gpu_info: Option<GpuInfo>,
}

/// What old answers do not say.
const fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct GpuInfo {
    #[serde(default)]
    pub(super) count: u32,
    #[serde(default)]
    pub(super) model: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: u64,
    #[serde(default)]
    pub(super) name: String,
    pub(super) slug: Option<String>,
    #[serde(default)]
    pub(super) distribution: String,
    #[serde(default)]
    pub(super) regions: Vec<String>,
    #[serde(default)]
    pub(super) created_at: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneImage {
    pub(super) image: Image,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Key {
    pub(super) id: u64,
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneAccount {
    pub(super) account: Account,
}

#[derive(Debug, Deserialize)]
pub(super) struct Account {
    #[serde(default)]
    pub(super) droplet_limit: u64,
    #[serde(default)]
    pub(super) email: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) status_message: String,
    pub(super) team: Option<Team>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Team {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) message: String,
    /// In answers about firewalls.
    #[serde(default)]
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_answers_are_read() {
        let one: OneDroplet =
            serde_json::from_str(include_str!("../../../../tests/data/digitalocean/droplet.json")).unwrap();
        let d = one.droplet;
        assert_eq!(
            (d.id, d.name.as_str(), d.status.as_str()),
            (3_164_444, "example.com", "active")
        );
        assert_eq!(d.networks.v4[0].ip_address.to_string(), "36.123.0.123");
        assert_eq!(d.region.unwrap().slug, "ams2");
        assert_eq!(d.tags, ["mytag1", "mytag2"]);
    }
}
