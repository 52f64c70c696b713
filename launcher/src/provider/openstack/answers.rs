//! Answers of the four services, as far as they are used. Names of fields are those of
//! the services' own schemas.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::super::Tags;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenAnswer {
    pub(super) token: Token,
}

/// What a token says besides itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Token {
    issued_at: Option<String>,
    expires_at: Option<String>,
    pub(super) catalog: Vec<Service>,
    pub(super) project: Option<Named>,
    pub(super) user: Option<Named>,
    pub(super) roles: Vec<Named>,
    application_credential: Option<Credential>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Credential {
    access_rules: Option<Vec<Rule>>,
}

/// A call that an application credential may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Rule {
    pub(super) service: String,
    pub(super) method: String,
    pub(super) path: String,
}

impl Token {
    /// How long it is good, by the clock of who made it.
    pub(super) fn life(&self) -> Option<Duration> {
        let at = |text: &Option<String>| text.as_ref()?.parse::<jiff::Timestamp>().ok();
        let (from, to) = (at(&self.issued_at)?, at(&self.expires_at)?);
        u64::try_from(to.as_second() - from.as_second())
            .ok()
            .map(Duration::from_secs)
    }

    /// The only calls that are allowed; absent: all that the roles allow.
    pub(super) fn rules(&self) -> Option<&[Rule]> {
        self.application_credential.as_ref()?.access_rules.as_deref()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub(super) interface: String,
    /// Keystone gives both, of which the first is the older.
    region: Option<String>,
    region_id: Option<String>,
    pub(super) url: String,
}

impl Endpoint {
    pub(super) fn region(&self) -> &str {
        self.region_id.as_ref().or(self.region.as_ref()).map_or("", |r| r)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneServer {
    pub(super) server: Server,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) id: String,
    pub(super) status: String,
    #[serde(rename = "OS-EXT-STS:task_state")]
    pub(super) task_state: Option<String>,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    pub(super) zone: Option<String>,
    pub(super) metadata: Tags,
    pub(super) addresses: BTreeMap<String, Vec<Address>>,
    pub(super) flavor: ServersFlavor,
    pub(super) fault: Option<Fault>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Address {
    pub(super) addr: String,
    #[serde(rename = "OS-EXT-IPS:type")]
    pub(super) kind: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServersFlavor {
    /// From 2.47 on.
    pub(super) original_name: Option<String>,
    /// Before.
    pub(super) id: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Flavor {
    pub(super) id: String,
    pub(super) name: String,
    /// MiB.
    pub(super) ram: u64,
    pub(super) vcpus: u32,
    /// GiB; 0: none of its own.
    pub(super) disk: u64,
    #[serde(rename = "OS-FLV-DISABLED:disabled")]
    pub(super) disabled: bool,
    /// From 2.61 on, where the account may see them.
    pub(super) extra_specs: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) status: Option<String>,
    pub(super) created_at: String,
    /// GiB.
    pub(super) min_disk: u64,
    /// MiB.
    pub(super) min_ram: u64,
    pub(super) os_hidden: bool,
    /// Properties; a custom one is a text.
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, serde_json::Value>,
}

impl Image {
    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.more.get(name)?.as_str()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) subnets: Vec<String>,
    pub(super) shared: bool,
    #[serde(rename = "router:external")]
    pub(super) external: bool,
    pub(super) is_default: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subnet {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) network_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneGroup {
    pub(super) security_group: Group,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) security_group_rules: Vec<GroupRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupRule {
    pub(super) direction: String,
    pub(super) ethertype: Option<String>,
    pub(super) remote_group_id: Option<String>,
    pub(super) remote_ip_prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OnePort {
    pub(super) port: Port,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Port {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneFloatingIp {
    pub(super) floatingip: FloatingIp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FloatingIp {
    pub(super) id: String,
    pub(super) floating_ip_address: String,
    pub(super) description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneServerGroup {
    pub(super) server_group: Named,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Zones {
    #[serde(rename = "availabilityZoneInfo")]
    pub(super) zones: Vec<Zone>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Zone {
    #[serde(rename = "zoneName")]
    pub(super) name: String,
    #[serde(rename = "zoneState")]
    pub(super) state: ZoneState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ZoneState {
    pub(super) available: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) limits: AllLimits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AllLimits {
    /// -1: as many as there are.
    pub(super) absolute: BTreeMap<String, i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quotas {
    pub(super) quota: BTreeMap<String, Quota>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quota {
    pub(super) limit: i64,
    pub(super) used: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Console {
    pub(super) output: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneKeypair {
    pub(super) keypair: Keypair,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Keypair {
    pub(super) name: String,
}
