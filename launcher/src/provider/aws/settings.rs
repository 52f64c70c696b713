//! The table `[aws]`: what no other cloud has.

use std::collections::BTreeMap;

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::cloud::{Common, error};
use super::super::{ProviderError, Tags};
use super::profile;

/// Region where nothing names one: the vendor's oldest, with every machine type.
const REGION: &str = "us-east-1";
/// Prefix of tag keys that are the vendor's own.
const RESERVED: &str = "aws:";

/// The table as users write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where the API is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// Profile of the vendor's own files.
    pub(super) profile: Option<String>,
    /// Metrics every minute, for money.
    pub(super) detailed_monitoring: bool,
    /// Whether disks are encrypted; absent: what the account says.
    pub(super) encrypted: Option<bool>,
    /// Key of that encryption, by id or ARN.
    pub(super) kms_key: Option<String>,
    /// Operations of a disk in a second.
    pub(super) iops: Option<u32>,
    /// MiB of a disk in a second.
    pub(super) throughput: Option<u32>,
    /// `standard` or `unlimited`.
    pub(super) cpu_credits: Option<String>,
    /// `default`, `dedicated` or `host`.
    pub(super) tenancy: Option<String>,
    /// Placement group.
    pub(super) placement_group: Option<String>,
    /// Most to pay for a spot machine, dollars by the hour.
    pub(super) spot_max_price: Option<f64>,
    /// Tags of machines alone.
    pub(super) instance_tags: BTreeMap<String, String>,
    /// Tags of disks alone.
    pub(super) volume_tags: BTreeMap<String, String>,
    /// Further parameters of `RunInstances`, by their names in the query:
    /// `"EbsOptimized" = true`. They are sent as they are.
    pub(super) extra: BTreeMap<String, toml::Value>,
}

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
}

/// Parameters that herdsman's promises rest on.
const OURS: &[&str] = &[
    "ClientToken",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions",
    "InstanceType",
    "MaxCount",
    "MetadataOptions",
    "MinCount",
    "NetworkInterface",
    "SecurityGroup",
    "SecurityGroupId",
    "SubnetId",
    "TagSpecification",
    "UserData",
];

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("aws")?;
        let usage = |text: String| error(Code::Usage, text);
        for name in own.extra.keys() {
            let head = name.split('.').next().unwrap_or_default();
            if OURS.contains(&head) {
                return Err(usage(format!(
                    "[aws] extra.{name}: this parameter is herdsman's own to set"
                )));
            }
        }
        for key in own.instance_tags.keys().chain(own.volume_tags.keys()) {
            if key.starts_with(RESERVED) || key.starts_with("herdsman-") {
                return Err(usage(format!(
                    "[aws] tag {key}: keys of this beginning are not yours to set"
                )));
            }
        }
        if let Some(zone) = common.zones.iter().find(|z| {
            common
                .region
                .as_ref()
                .is_some_and(|r| !z.starts_with(r.as_str()) && z.len() > 1)
        }) {
            let region = common.region.as_deref().unwrap_or_default();
            return Err(usage(format!("zone {zone} is not in region {region}")));
        }
        let named = own
            .profile
            .clone()
            .or_else(|| common.env.get("AWS_PROFILE").map(str::to_owned));
        let region = common
            .region
            .clone()
            .or_else(|| common.zones.first().and_then(|z| region_of_zone(z)))
            .or_else(|| common.env.get("AWS_REGION").map(str::to_owned))
            .or_else(|| common.env.get("AWS_DEFAULT_REGION").map(str::to_owned))
            .or_else(|| profile::region(&common.env, named.as_deref()))
            .unwrap_or_else(|| REGION.to_owned());
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(usage(format!("{region:?} is no name of a region")));
        }
        let endpoint = common.endpoint("aws").or_else(|| own.endpoint.clone());
        Ok(Self {
            common,
            own,
            region,
            endpoint,
        })
    }

    /// Zones with their whole names, as `a` may stand for `eu-central-1a`.
    pub(super) fn zones(&self) -> Vec<String> {
        let whole = |z: &String| {
            if z.len() == 1 {
                format!("{}{z}", self.region)
            } else {
                z.clone()
            }
        };
        self.common.zones.iter().map(whole).collect()
    }

    /// Tags of a machine's disks: the machine's, and those of disks alone.
    pub(super) fn volume_tags(&self, of_machine: &Tags) -> Tags {
        let mut tags = of_machine.clone();
        tags.extend(self.own.volume_tags.clone());
        tags
    }
}

/// `eu-central-1a` is in `eu-central-1`.
fn region_of_zone(zone: &str) -> Option<String> {
    let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase())?;
    region
        .ends_with(|c: char| c.is_ascii_digit())
        .then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(table: &str, zones: &[&str], env: &[(&str, &str)]) -> Result<Settings, ProviderError> {
        Settings::new(Common {
            table: table.parse().unwrap(),
            zones: zones.iter().map(|z| (*z).to_owned()).collect(),
            env: env.iter().copied().collect(),
            ..Common::default()
        })
    }

    #[test]
    fn a_region_comes_from_wherever_it_is_named() {
        let region = |zones: &[&str], env: &[(&str, &str)]| settings("", zones, env).unwrap().region;
        assert_eq!(
            region(&["eu-central-1b"], &[("AWS_REGION", "us-west-2")]),
            "eu-central-1"
        );
        assert_eq!(region(&["b"], &[("AWS_REGION", "us-west-2")]), "us-west-2");
        assert_eq!(region(&[], &[]), REGION);
        let s = settings("", &["b"], &[("AWS_REGION", "us-west-2")]).unwrap();
        assert_eq!(s.zones(), ["us-west-2b"]);
    }

    #[test]
    fn what_herdsman_promises_cannot_be_undone_by_extra_parameters() {
        assert!(settings("extra = { EbsOptimized = true }", &[], &[]).is_ok());
        for bad in [
            "extra = { \"MetadataOptions.HttpTokens\" = \"optional\" }",
            "extra = { InstanceInitiatedShutdownBehavior = \"stop\" }",
            "instance_tags = { \"aws:x\" = \"1\" }",
            "volume_tags = { herdsman-cluster = \"other\" }",
            "colour = 1",
        ] {
            assert_eq!(settings(bad, &[], &[]).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
