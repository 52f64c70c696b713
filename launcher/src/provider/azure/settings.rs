//! The table `[azure]`: what no other cloud has, and what the vendor's own tool is
//! set to.

use std::path::PathBuf;

use herdsman_wire::Code;
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::{Common, error};
use super::azcli;

/// Region where nothing names one.
const REGION: &str = "eastus";
/// Network that is made where none is named. A cluster's own network touches no other.
const NETWORK: &str = "10.77.0.0/16";
/// Name of a user who never logs in; the vendor wants one.
const ADMIN: &str = "dask";

/// How machines of a network that is made here reach the internet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outbound {
    /// By one address that all share: a gateway with a price by the hour.
    #[default]
    Nat,
    /// Each by an address of its own, which counts against a quota.
    Public,
    /// As the network has it, or not at all.
    None,
}

/// Where credentials are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Login {
    /// Variables, the vendor's tool, the machine: the first that has any.
    #[default]
    Auto,
    /// Variables of the environment.
    Environment,
    /// The vendor's tool, `az`.
    Cli,
    /// The identity of the machine that this runs on.
    Machine,
}

/// An offer of the marketplace whose terms were accepted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) publisher: String,
    pub(super) product: String,
}

/// The table as users write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where the API is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// `AzureCloud`, `AzureUSGovernment` or `AzureChinaCloud`.
    pub(super) cloud: Option<String>,
    /// Subscription, by id.
    #[serde(alias = "subscription_id")]
    pub(super) subscription: Option<String>,
    /// Tenant of the credentials.
    pub(super) tenant: Option<String>,
    /// Application, or the machine's identity where it has several.
    pub(super) client_id: Option<String>,
    /// Where credentials are looked for.
    pub(super) login: Login,
    /// An existing resource group; absent: one is made for each cluster.
    pub(super) resource_group: Option<String>,
    /// Address space of the network that is made.
    pub(super) address_space: Option<Ipv4Net>,
    /// How its machines reach the internet.
    pub(super) outbound: Option<Outbound>,
    /// Whether the scheduler has a public address; absent: unless all is private.
    pub(super) public_ingress: Option<bool>,
    /// Name of the user that the vendor makes.
    pub(super) admin_user: Option<String>,
    /// An offer of the marketplace that the image needs.
    pub(super) marketplace_plan: Option<Plan>,
    /// `Standard`, `TrustedLaunch` or `ConfidentialVM`.
    pub(super) security_type: Option<String>,
    /// Whether only signed systems start; with `TrustedLaunch`.
    pub(super) secure_boot: Option<bool>,
    /// Whether there is a virtual TPM; with `TrustedLaunch`.
    pub(super) vtpm: Option<bool>,
    /// Whether disks are encrypted on the host.
    pub(super) encryption_at_host: Option<bool>,
    /// Disk encryption set, by its id.
    pub(super) disk_encryption_set: Option<String>,
    /// Whether the system's disk is on the host, and lost with it.
    pub(super) ephemeral_disk: bool,
    /// Whether packets go past the host; absent: as the vendor has it.
    pub(super) accelerated_networking: Option<bool>,
    /// Proximity placement group, by its id.
    pub(super) proximity_placement_group: Option<String>,
    /// Capacity reservation group, by its id.
    pub(super) capacity_reservation: Option<String>,
    /// Most to pay for a spot machine, dollars by the hour.
    pub(super) spot_max_price: Option<f64>,
    /// Whether the serial console is kept, which `logs --boot` shows.
    pub(super) boot_diagnostics: Option<bool>,
    /// More of the machine's description, in the vendor's own form:
    /// `extra.properties.licenseType = "…"`.
    #[serde(alias = "extra_vm_options")]
    pub(super) extra: toml::Table,
}

/// Addresses of one of the vendor's clouds, which know nothing of each other
/// (<https://learn.microsoft.com/azure/azure-government/compare-azure-government-global-azure>,
/// <https://learn.microsoft.com/azure/china/resources-developer-guide>).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sovereign {
    name: &'static str,
    pub(super) management: &'static str,
    authority: &'static str,
    /// Where list prices are, if anywhere.
    pub(super) prices: Option<&'static str>,
}

const CLOUDS: [Sovereign; 3] = [
    Sovereign {
        name: "AzureCloud",
        management: "https://management.azure.com",
        authority: "https://login.microsoftonline.com",
        prices: Some("https://prices.azure.com"),
    },
    Sovereign {
        name: "AzureUSGovernment",
        management: "https://management.usgovcloudapi.net",
        authority: "https://login.microsoftonline.us",
        prices: Some("https://prices.azure.com"),
    },
    Sovereign {
        name: "AzureChinaCloud",
        management: "https://management.chinacloudapi.cn",
        authority: "https://login.chinacloudapi.cn",
        prices: None,
    },
];

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    pub(super) region: String,
    pub(super) subscription: Option<String>,
    pub(super) group: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) authority: String,
    pub(super) cloud: Sovereign,
    /// `own.extra` as the API takes it.
    pub(super) extra: Value,
}

/// Parts of a machine's description that herdsman's promises rest on.
const OURS: &[&str] = &[
    "location",
    "name",
    "tags.herdsman-cluster",
    "zones",
    "identity",
    "properties.evictionPolicy",
    "properties.hardwareProfile.vmSize",
    "properties.networkProfile",
    "properties.osProfile.computerName",
    "properties.osProfile.customData",
    "properties.priority",
    "properties.storageProfile.imageReference",
    "properties.storageProfile.osDisk.deleteOption",
    "properties.storageProfile.osDisk.name",
];

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("azure")?;
        let usage = |text: String| error(Code::Usage, text);
        let env = &common.env;
        let named = own
            .cloud
            .clone()
            .or_else(|| azcli::setting(env, "cloud", "name"))
            .unwrap_or_else(|| CLOUDS[0].name.to_owned());
        let cloud = *CLOUDS
            .iter()
            .find(|c| c.name.eq_ignore_ascii_case(&named))
            .ok_or_else(|| usage(format!("[azure] cloud: there is no {named}")))?;
        let extra: Value = serde_json::to_value(&own.extra).unwrap_or_default();
        for path in OURS {
            let pointer = format!("/{}", path.replace('.', "/"));
            if extra.pointer(&pointer).is_some() {
                return Err(usage(format!("[azure] extra.{path}: this is herdsman's own to set")));
            }
        }
        if common.security_groups.len() > 1 {
            return Err(usage(
                "Azure takes one network security group for a machine; name only one".into(),
            ));
        }
        if let Some(zone) = common.zones.iter().find(|z| !is_zone(z)) {
            return Err(usage(format!("zone {zone}: Azure's zones are called 1, 2 and 3")));
        }
        if common.private && common.network.is_none() {
            return Err(
                usage("without public addresses nobody reaches a network that was just made".into()).with_hint(
                    "herdsman up … --private --network GROUP/NAME     an existing one that this computer reaches",
                ),
            );
        }
        let region = common
            .region
            .clone()
            .or_else(|| env.get("AZURE_DEFAULTS_LOCATION").map(str::to_owned))
            .or_else(|| azcli::setting(env, "defaults", "location"))
            .unwrap_or_else(|| REGION.to_owned())
            .replace(' ', "")
            .to_ascii_lowercase();
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(usage(format!("{region:?} is no name of a region")));
        }
        let subscription = own
            .subscription
            .clone()
            .or_else(|| env.get("AZURE_SUBSCRIPTION_ID").map(str::to_owned))
            .or_else(|| azcli::subscription(env));
        if let Some(id) = subscription.as_ref().filter(|s| !is_name(s)) {
            return Err(usage(format!("{id:?} is no id of a subscription")));
        }
        let group = own
            .resource_group
            .clone()
            .or_else(|| env.get("AZURE_DEFAULTS_GROUP").map(str::to_owned))
            .or_else(|| azcli::setting(env, "defaults", "group"));
        if let Some(name) = group.as_ref().filter(|g| !is_name(g)) {
            return Err(usage(format!("{name:?} is no name of a resource group")));
        }
        let endpoint = common.endpoint("azure").or_else(|| own.endpoint.clone());
        let authority = env
            .get("AZURE_AUTHORITY_HOST")
            .map(|host| {
                if host.contains("://") {
                    host.to_owned()
                } else {
                    format!("https://{host}")
                }
            })
            .or_else(|| endpoint.clone())
            .unwrap_or_else(|| cloud.authority.to_owned());
        Ok(Self {
            common,
            own,
            region,
            subscription,
            group,
            endpoint,
            authority,
            cloud,
            extra,
        })
    }

    /// Zones as the API calls them: `1` also where somebody wrote `westeurope-1`.
    pub(super) fn zones(&self) -> Vec<String> {
        let short = |z: &String| z.rsplit('-').next().unwrap_or_default().to_owned();
        self.common.zones.iter().map(short).collect()
    }

    /// Whether the scheduler has a public address.
    pub(super) fn is_public(&self) -> bool {
        self.own.public_ingress.unwrap_or(!self.common.private)
    }

    /// How machines reach the internet. An existing network has a way, or none.
    pub(super) fn outbound(&self) -> Outbound {
        let usual = if self.common.network.is_some() || self.common.private {
            Outbound::None
        } else {
            Outbound::Nat
        };
        self.own.outbound.unwrap_or(usual)
    }

    /// Address space of the network that is made.
    pub(super) fn space(&self) -> String {
        let own = self.own.address_space.map(|n| n.to_string());
        own.unwrap_or_else(|| NETWORK.to_owned())
    }

    pub(super) fn admin(&self) -> &str {
        self.own.admin_user.as_deref().unwrap_or(ADMIN)
    }

    /// A path of the settings, relative to where they stand.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), self.common.env.get("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => self.common.base.join(path),
        }
    }
}

/// What may stand in a path of the API as it is: no slash, no query.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'))
}

fn is_zone(text: &str) -> bool {
    let end = text.rsplit('-').next().unwrap_or_default();
    end.len() == 1 && end.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(table: &str, edit: impl FnOnce(&mut Common), env: &[(&str, &str)]) -> Result<Settings, ProviderError> {
        let mut common = Common {
            table: table.parse().unwrap(),
            env: [("HOME", "/nonexistent")].iter().chain(env).copied().collect(),
            ..Common::default()
        };
        edit(&mut common);
        Settings::new(common)
    }

    #[test]
    fn what_the_vendors_tool_uses_is_used() {
        let s = settings("", |_| {}, &[]).unwrap();
        assert_eq!((s.region.as_str(), s.subscription, s.group), (REGION, None, None));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config"),
            "[defaults]\nlocation = North Europe\ngroup=mine\n[cloud]\nname = AzureCloud\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("azureProfile.json"),
            "\u{feff}{\"subscriptions\": [{\"id\": \"a\", \"isDefault\": false}, {\"id\": \"b\", \"isDefault\": true}]}",
        )
        .unwrap();
        let folder = ("AZURE_CONFIG_DIR", dir.path().to_str().unwrap());
        let s = settings("", |_| {}, &[folder]).unwrap();
        assert_eq!(s.region, "northeurope");
        assert_eq!(s.subscription.as_deref(), Some("b"));
        assert_eq!(s.group.as_deref(), Some("mine"));
        let s = settings(
            "subscription = \"c\"",
            |c| c.region = Some("West Europe".into()),
            &[folder],
        );
        let s = s.unwrap();
        assert_eq!(s.region, "westeurope");
        assert_eq!(s.subscription.as_deref(), Some("c"));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(settings("extra = { properties = { licenseType = \"RHEL_BYOS\" } }", |_| {}, &[]).is_ok());
        for bad in [
            "colour = 1",
            "cloud = \"AzureMoon\"",
            "resource_group = \"a/b\"",
            "subscription = \"a?b\"",
            "extra = { properties = { priority = \"Spot\" } }",
            "extra = { properties = { osProfile = { customData = \"x\" } } }",
        ] {
            assert_eq!(settings(bad, |_| {}, &[]).unwrap_err().code, Code::Usage, "{bad}");
        }
        assert!(settings("", |c| c.zones = vec!["westeurope-2".into(), "3".into()], &[]).is_ok());
        assert!(settings("", |c| c.zones = vec!["b".into()], &[]).is_err());
        assert!(settings("", |c| c.security_groups = vec!["a".into(), "b".into()], &[]).is_err());
        let e = settings("", |c| c.private = true, &[]).unwrap_err();
        assert!(e.hint[0].contains("--network"), "{:?}", e.hint);
    }

    #[test]
    fn each_of_the_vendors_clouds_has_its_own_addresses() {
        let s = settings("cloud = \"azurechinacloud\"", |_| {}, &[]).unwrap();
        assert_eq!(s.authority, "https://login.chinacloudapi.cn");
        assert_eq!(s.cloud.management, "https://management.chinacloudapi.cn");
        let s = settings("", |_| {}, &[("AZURE_AUTHORITY_HOST", "login.example")]).unwrap();
        assert_eq!(s.authority, "https://login.example");
    }
}
