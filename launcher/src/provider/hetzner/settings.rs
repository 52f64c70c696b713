//! The table `[hetzner]`: what no other cloud has.

use herdsman_wire::Code;
use ipnet::Ipv4Net;
use serde::Deserialize;

use super::super::cloud::{Common, Spot, error};
use super::super::{ProviderError, Tags};

/// Location where nothing names one.
const LOCATION: &str = "fsn1";
/// Addresses of a cluster's own network.
const RANGE: &str = "10.77.0.0/16";

/// The table as users write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where the API is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// Context of the vendor's tool `hcloud`.
    pub(super) context: Option<String>,
    /// File with nothing but a token.
    pub(super) token_file: Option<String>,
    /// Keys that the project knows, by id or name.
    pub(super) ssh_keys: Vec<toml::Value>,
    /// `spread` for groups of the cluster's own, or an existing one by id or name.
    pub(super) placement_group: Option<String>,
    /// Addresses of the network that is made where none is named.
    pub(super) ip_range: Ipv4Net,
    /// Whether workers get a public IPv4 address, which costs something.
    pub(super) worker_ipv4: bool,
    /// Whether machines get public IPv6 addresses, which cost nothing.
    pub(super) ipv6: bool,
    /// Further fields of the request that makes a server. They are sent as they are.
    pub(super) extra: toml::Table,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            endpoint: None,
            context: None,
            token_file: None,
            ssh_keys: Vec::new(),
            placement_group: None,
            ip_range: RANGE.parse().unwrap_or_default(),
            worker_ipv4: true,
            ipv6: true,
            extra: toml::Table::new(),
        }
    }
}

/// Fields that herdsman's promises rest on.
const OURS: &[&str] = &[
    "datacenter",
    "firewalls",
    "image",
    "labels",
    "location",
    "name",
    "networks",
    "placement_group",
    "public_net",
    "server_type",
    "ssh_keys",
    "start_after_create",
    "user_data",
];

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    /// Locations in the order in which they are tried.
    pub(super) locations: Vec<String>,
    pub(super) endpoint: Option<String>,
}

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("hetzner")?;
        let usage = |text: String| error(Code::Usage, text);
        if let Some(name) = own.extra.keys().find(|k| OURS.contains(&k.as_str())) {
            return Err(usage(format!(
                "[hetzner] extra.{name}: this field is herdsman's own to set"
            )));
        }
        if common.spot == Spot::Only {
            return Err(usage("Hetzner has no spot machines".into()).with_hint("--spot never   or prefer"));
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
                "the disk comes with the machine type",
            ),
            (
                !common.subnets.is_empty(),
                "--subnet",
                "a network gives its next free addresses; name it by --network",
            ),
            (
                common.worker.gpus.count > 0,
                "--gpus",
                "its cloud has no graphics processors",
            ),
        ];
        if let Some((_, flag, why)) = none.iter().find(|(given, ..)| *given) {
            return Err(usage(format!("{flag} makes no sense with Hetzner: {why}")));
        }
        let locations = if common.zones.is_empty() {
            vec![common.region.clone().unwrap_or_else(|| LOCATION.to_owned())]
        } else {
            common.zones.clone()
        };
        if let Some(odd) = locations.iter().find(|l| !is_name(l)) {
            return Err(usage(format!("{odd:?} is no name of a location")));
        }
        let endpoint = common.endpoint("hetzner").or_else(|| own.endpoint.clone());
        Ok(Self {
            common,
            own,
            locations,
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

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether the vendor takes it as a label's key.
pub(super) fn is_key(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// Tags as the vendor's labels: values that it does not take are made narrower.
pub(super) fn labels(tags: &Tags) -> Tags {
    let key = |k: &String| {
        let fitting = |c: char| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        };
        let k: String = k.chars().map(fitting).take(63).collect();
        k.trim_matches(['-', '_', '.']).to_owned()
    };
    let value = |v: &String| {
        if is_key(v) {
            v.clone()
        } else {
            super::super::cloud::labels::narrow(v)
        }
    };
    tags.iter()
        .map(|(k, v)| (key(k), value(v)))
        .filter(|(k, _)| !k.is_empty())
        .collect()
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
        let ok = settings("ssh_keys = [\"me\", 42]", |c| c.ssh_key = Some("other".into())).unwrap();
        assert_eq!(ok.ssh_keys(), ["me", "42", "other"]);
        assert_eq!(ok.locations, [LOCATION]);
        assert_eq!(ok.own.ip_range.to_string(), RANGE);
        let bad = |table: &str, change: fn(&mut Common)| settings(table, change).unwrap_err();
        for e in [
            bad("", |c| c.spot = Spot::Only),
            bad("", |c| c.role = Some("x".into())),
            bad("", |c| c.disk_type = Some("ssd".into())),
            bad("", |c| c.subnets = vec!["x".into()]),
            bad("", |c| c.region = Some("a/b".into())),
            bad("extra = { user_data = \"x\" }", |_| {}),
            bad("ip_range = \"here\"", |_| {}),
            bad("colour = 1", |_| {}),
        ] {
            assert_eq!(e.code, Code::Usage, "{}", e.message);
        }
        assert!(settings("extra = { automount = true }", |_| {}).is_ok());
    }

    #[test]
    fn zones_are_locations_in_order() {
        let s = settings("", |c| {
            c.region = Some("hel1".into());
            c.zones = vec!["nbg1".into(), "fsn1".into()];
        });
        assert_eq!(s.unwrap().locations, ["nbg1", "fsn1"]);
    }

    #[test]
    fn tags_become_labels_that_the_vendor_takes() {
        let tags = Tags::from([
            ("herdsman-version".into(), "0.1.0".into()),
            ("herdsman-owner".into(), "Ann@example.org".into()),
            ("team/x".into(), "Geo".into()),
            ("herdsman-expires".into(), "never".into()),
        ]);
        let labels = labels(&tags);
        assert_eq!(labels["herdsman-version"], "0.1.0");
        assert_eq!(labels["herdsman-owner"], "ann_example_org");
        assert_eq!(labels["team_x"], "Geo");
        assert!(labels.iter().all(|(k, v)| is_key(k) && (v.is_empty() || is_key(v))));
    }
}
