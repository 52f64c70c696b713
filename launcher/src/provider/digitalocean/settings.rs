//! The table `[digitalocean]`: what no other cloud has.

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::{Common, Spot, error};

/// Region where nothing names one.
const REGION: &str = "nyc3";

/// The table as users write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where the API is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// Context of the vendor's tool `doctl`.
    pub(super) context: Option<String>,
    /// File with nothing but a token.
    pub(super) token_file: Option<String>,
    /// Keys that the account knows, by id, fingerprint or name.
    pub(super) ssh_keys: Vec<toml::Value>,
    /// The vendor's agent for metrics.
    pub(super) monitoring: bool,
    /// The vendor's agent for its web console; absent: as the vendor does.
    pub(super) droplet_agent: Option<bool>,
    /// Public IPv6 addresses.
    pub(super) ipv6: bool,
    /// Further fields of the request that makes droplets. They are sent as they are.
    pub(super) extra: toml::Table,
}

/// Fields that herdsman's promises rest on.
const OURS: &[&str] = &[
    "image",
    "ipv6",
    "monitoring",
    "name",
    "names",
    "public_networking",
    "region",
    "size",
    "ssh_keys",
    "tags",
    "user_data",
    "vpc_uuid",
    "with_droplet_agent",
];

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
}

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("digitalocean")?;
        let usage = |text: String| error(Code::Usage, text);
        if let Some(name) = own.extra.keys().find(|k| OURS.contains(&k.as_str())) {
            return Err(usage(format!(
                "[digitalocean] extra.{name}: this field is herdsman's own to set"
            )));
        }
        if common.spot == Spot::Only {
            return Err(usage("DigitalOcean has no spot machines".into()).with_hint("--spot never   or prefer"));
        }
        let none = [
            (
                common.role.is_some(),
                "--role",
                "its machines can do nothing at the vendor",
            ),
            (
                common.disk_type.is_some(),
                "--disk-type",
                "the disk comes with the size",
            ),
            (
                !common.subnets.is_empty(),
                "--subnet",
                "a VPC has no parts; name it by --network",
            ),
            (
                common.zones.len() > 1,
                "--zone",
                "a cluster lies in one region, as its VPC does",
            ),
        ];
        if let Some((_, flag, why)) = none.iter().find(|(given, ..)| *given) {
            return Err(usage(format!("{flag} makes no sense with DigitalOcean: {why}")));
        }
        let region = common.region.clone().or_else(|| common.zones.first().cloned());
        let region = region.unwrap_or_else(|| REGION.to_owned());
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(usage(format!(
                "{region:?} is no name of a region, such as nyc3 or fra1"
            )));
        }
        let endpoint = common.endpoint("digitalocean").or_else(|| own.endpoint.clone());
        Ok(Self {
            common,
            own,
            region,
            endpoint,
        })
    }

    /// Keys for people who want to log in.
    pub(super) fn ssh_keys(&self) -> Vec<String> {
        let text = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        self.own
            .ssh_keys
            .iter()
            .map(text)
            .chain(self.common.ssh_key.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(table: &str, change: impl FnOnce(&mut Common)) -> Result<Settings, ProviderError> {
        let mut common = Common {
            table: table.parse().unwrap(),
            ..Common::default()
        };
        change(&mut common);
        Settings::new(common)
    }

    #[test]
    fn what_the_vendor_has_not_is_refused_with_its_reason() {
        let ok = settings("ssh_keys = [42, \"me\"]\nmonitoring = true", |c| {
            c.zones = vec!["fra1".into()]
        })
        .unwrap();
        assert_eq!(
            (ok.ssh_keys(), ok.region.as_str()),
            (vec!["42".to_owned(), "me".to_owned()], "fra1")
        );
        assert_eq!(settings("", |_| {}).unwrap().region, REGION);
        let bad = |table: &str, change: fn(&mut Common)| settings(table, change).unwrap_err();
        for e in [
            bad("", |c| c.spot = Spot::Only),
            bad("", |c| c.role = Some("x".into())),
            bad("", |c| c.disk_type = Some("ssd".into())),
            bad("", |c| c.zones = vec!["nyc1".into(), "nyc2".into()]),
            bad("", |c| c.region = Some("nyc/3".into())),
            bad("extra = { tags = [] }", |_| {}),
            bad("token = \"x\"", |_| {}),
        ] {
            assert_eq!(e.code, Code::Usage, "{}", e.message);
        }
    }
}
