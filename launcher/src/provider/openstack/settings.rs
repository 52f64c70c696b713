//! The table `[openstack]`: what no other cloud has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::{Common, Spot, error};
use super::clouds::Entry;

/// Who gets an address that is reached from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Floating {
    /// The scheduler, where its network is the project's own and there is a network
    /// outside that has such addresses.
    #[default]
    Auto,
    /// The scheduler.
    Scheduler,
    /// Every machine.
    All,
    /// Nobody.
    None,
}

/// The table as users write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where Keystone is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// Cloud of `clouds.yaml`.
    pub(super) cloud: Option<String>,
    /// Where Keystone is, where no file or variable says it.
    pub(super) auth_url: Option<String>,
    /// Application credential; its secret is in `OS_APPLICATION_CREDENTIAL_SECRET`.
    pub(super) application_credential_id: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: Option<String>,
    /// Certificates to trust besides the system's.
    pub(super) cacert: Option<PathBuf>,
    /// Network outside, by id or name, that has floating addresses.
    #[serde(alias = "external_network_id")]
    pub(super) external_network: Option<String>,
    /// Who gets a floating address.
    pub(super) floating_ip: Floating,
    /// dask-cloudprovider's word for it: true is `all`, as it is there, false is `none`.
    pub(super) create_floating_ip: Option<bool>,
    /// Whether the disk is a volume; absent: where a size or kind of disk is set, or the
    /// flavor has no disk of its own.
    pub(super) boot_from_volume: Option<bool>,
    /// Existing server group by id or name, or a policy such as `anti-affinity`, for
    /// which a group is made.
    pub(super) server_group: Option<String>,
    /// Whether machines get what they are told on a drive besides.
    pub(super) config_drive: Option<bool>,
    /// Key-value pairs of machines besides ours.
    pub(super) metadata: BTreeMap<String, String>,
    /// Hints to the vendor's scheduler.
    pub(super) hints: BTreeMap<String, toml::Value>,
    /// Further fields of a server, by their names in the API; sent as they are.
    pub(super) extra: BTreeMap<String, toml::Value>,
    /// What flavors cost by the hour, as no API says it.
    pub(super) prices: BTreeMap<String, f64>,
    /// Of what.
    pub(super) currency: Option<String>,
}

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    /// Absent: the only one that the catalogue has.
    pub(super) region: Option<String>,
    pub(super) floating: Floating,
    /// The cloud of the user's files, or why there is none.
    pub(super) entry: Result<Option<Entry>, ProviderError>,
}

/// Fields that herdsman's promises rest on.
const OURS: &[&str] = &[
    "availability_zone",
    "block_device_mapping",
    "block_device_mapping_v2",
    "config_drive",
    "flavorRef",
    "imageRef",
    "key_name",
    "max_count",
    "metadata",
    "min_count",
    "name",
    "networks",
    "return_reservation_id",
    "security_groups",
    "tags",
    "user_data",
];

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("openstack")?;
        let usage = |text: String| Err(error(Code::Usage, text));
        if let Some(name) = own.extra.keys().find(|n| OURS.contains(&n.as_str())) {
            return usage(format!("[openstack] extra.{name}: this field is herdsman's own to set"));
        }
        let key = |k: &&String| k.starts_with("herdsman-") || !(1..=255).contains(&k.len());
        if let Some(name) = own.metadata.keys().find(key) {
            return usage(format!("[openstack] metadata.{name}: this key is not yours to set"));
        }
        if let Some(role) = &common.role {
            return usage(format!(
                "role {role}: OpenStack's machines have no roles; leave the setting out"
            ));
        }
        if common.spot == Spot::Only {
            return usage("spot = only: OpenStack has no machines that can be taken away".into());
        }
        if let Some(i) = own.interface.as_deref()
            && !["public", "internal", "admin"].contains(&i)
        {
            return usage(format!(
                "[openstack] interface {i:?} is none of public, internal, admin"
            ));
        }
        let floating = match (common.private, own.create_floating_ip, own.floating_ip) {
            (true, Some(true), _) | (true, _, Floating::All | Floating::Scheduler) => {
                return usage("[openstack] floating_ip: with `private` no machine has an address outside".into());
            }
            (true, ..) | (_, Some(false), Floating::Auto) => Floating::None,
            (_, Some(true), Floating::Auto) => Floating::All,
            (_, _, chosen) => chosen,
        };
        let entry = Self::entry(&common, &own);
        let of_file = entry.as_ref().ok().and_then(|e| e.as_ref()?.region());
        let region = common
            .region
            .clone()
            .or(of_file)
            .or_else(|| common.env.get("OS_REGION_NAME").map(str::to_owned));
        Ok(Self {
            common,
            own,
            region,
            floating,
            entry,
        })
    }

    /// The cloud of the files, where one is named, or nothing else names a Keystone.
    fn entry(common: &Common, own: &Own) -> Result<Option<Entry>, ProviderError> {
        let env = &common.env;
        let named = own.cloud.as_deref().or_else(|| env.get("OS_CLOUD"));
        let elsewhere =
            own.auth_url.is_some() || env.get("OS_AUTH_URL").is_some() || common.endpoint("openstack").is_some();
        if named.is_none() && elsewhere {
            return Ok(None);
        }
        Entry::find(env, named)
    }

    /// A value of the chosen cloud, or else of the environment: the two never mix, but for
    /// what is no credential.
    pub(super) fn value(&self, keys: &[&str], variables: &[&str]) -> Option<String> {
        match &self.entry {
            Ok(Some(entry)) => entry.text(keys),
            _ => variables.iter().find_map(|v| self.common.env.get(v)).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(table: &str, private: bool) -> Result<Settings, ProviderError> {
        Settings::new(Common {
            table: table.parse().unwrap(),
            private,
            env: [("OS_AUTH_URL", "https://k.example/v3"), ("OS_REGION_NAME", "one")]
                .into_iter()
                .collect(),
            ..Common::default()
        })
    }

    #[test]
    fn who_gets_an_address_outside() {
        let of = |table: &str, private| settings(table, private).map(|s| s.floating);
        assert_eq!(of("", false).unwrap(), Floating::Auto);
        assert_eq!(of("", true).unwrap(), Floating::None);
        assert_eq!(of("create_floating_ip = true", false).unwrap(), Floating::All);
        assert_eq!(of("create_floating_ip = false", false).unwrap(), Floating::None);
        assert_eq!(of("floating_ip = \"scheduler\"", false).unwrap(), Floating::Scheduler);
        assert!(of("floating_ip = \"all\"", true).is_err());
    }

    #[test]
    fn what_herdsman_promises_cannot_be_undone() {
        let good = settings("extra = { description = \"x\" }\nexternal_network_id = \"ext\"", false).unwrap();
        assert_eq!(good.own.external_network.as_deref(), Some("ext"));
        assert_eq!(good.region.as_deref(), Some("one"));
        for bad in [
            "extra = { max_count = 2 }",
            "extra = { user_data = \"x\" }",
            "metadata = { herdsman-cluster = \"other\" }",
            "interface = \"secret\"",
            "colour = 1",
        ] {
            assert_eq!(settings(bad, false).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
