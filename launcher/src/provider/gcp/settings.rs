//! The table `[gcp]`: what no other cloud has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use herdsman_wire::Code;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::ProviderError;
use super::super::cloud::{Common, error, labels};
use super::gcloud::Gcloud;

/// Region where nothing names one: the vendor's largest.
const REGION: &str = "us-central1";
/// A letter that a zone of every region has; the others are looked up when they are
/// needed.
const ZONE: &str = "b";

/// The table as users write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Own {
    /// Where the API is; read by [`Common::endpoint`].
    pub(super) endpoint: Option<String>,
    /// Project that machines are made in.
    pub(super) project: Option<String>,
    /// Project that the network belongs to, where it is shared.
    pub(super) network_project: Option<String>,
    /// Project that calls are counted for, where it is another.
    pub(super) quota_project: Option<String>,
    /// File with credentials, instead of those that the vendor's tools would use.
    pub(super) credentials: Option<PathBuf>,
    /// Labels of machines and disks.
    pub(super) labels: BTreeMap<String, String>,
    /// What a machine's service account may be used for; absent: everything that the
    /// account itself may.
    pub(super) scopes: Vec<String>,
    /// `TERMINATE` or `MIGRATE`.
    pub(super) on_host_maintenance: Option<String>,
    /// Whether rules of the firewall are made. Who has them made by others names the
    /// network tags in `security_groups`.
    pub(super) firewall: Option<bool>,
    /// `PREMIUM` or `STANDARD`.
    pub(super) network_tier: Option<String>,
    /// The oldest processor that is good enough.
    pub(super) min_cpu_platform: Option<String>,
    /// Whether nothing unsigned boots.
    pub(super) secure_boot: Option<bool>,
    /// Key of the disks' encryption.
    pub(super) kms_key: Option<String>,
    /// Operations of a disk in a second.
    pub(super) iops: Option<u32>,
    /// MB of a disk in a second.
    pub(super) throughput: Option<u32>,
    /// Further entries of machines' metadata: `enable-oslogin = "TRUE"`.
    pub(super) metadata: BTreeMap<String, String>,
    /// Further fields of a machine, by their names in the API:
    /// `confidentialInstanceConfig = { enableConfidentialCompute = true }`.
    pub(super) extra: toml::Table,
}

/// Fields that herdsman's promises rest on.
const OURS: &[&str] = &[
    "description",
    "disks",
    "guestAccelerators",
    "labels",
    "machineType",
    "metadata",
    "name",
    "networkInterfaces",
    "scheduling",
    "serviceAccounts",
    "tags",
];
/// Entries of metadata that a machine's first boot rests on.
const BOOT: &[&str] = &[
    "startup-script",
    "startup-script-url",
    "user-data",
    "user-data-encoding",
];

/// Settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) own: Own,
    pub(super) region: String,
    /// Zones that were asked for, with their whole names.
    pub(super) zones: Vec<String>,
    /// As far as it is known without a call.
    pub(super) project: Option<String>,
    pub(super) endpoint: Option<String>,
    /// [`Own::extra`] as the API takes it.
    pub(super) extra: Map<String, Value>,
}

impl Settings {
    pub(super) fn new(common: Common) -> Result<Self, ProviderError> {
        let own: Own = common.own("gcp")?;
        let usage = |text: String| error(Code::Usage, text);
        if let Some(name) = own.extra.keys().find(|k| OURS.contains(&k.as_str())) {
            return Err(usage(format!(
                "[gcp] extra.{name}: this field is herdsman's own to set"
            )));
        }
        if let Some(name) = own.metadata.keys().find(|k| BOOT.contains(&k.as_str())) {
            return Err(usage(format!(
                "[gcp] metadata.{name}: this entry is herdsman's own to set"
            )));
        }
        for (key, value) in &own.labels {
            if key.starts_with("herdsman-") {
                return Err(usage(format!(
                    "[gcp] label {key}: keys of this beginning are not yours to set"
                )));
            }
            if !is_label(key, true) || !is_label(value, false) {
                return Err(usage(format!(
                    "[gcp] label {key} = {value:?}: the vendor takes small letters, digits, - and _, at most 63"
                )));
            }
        }
        for tag in &common.security_groups {
            if !is_name(tag) {
                return Err(usage(format!(
                    "{tag:?} is no network tag, which are GCP's way to name firewall rules"
                )));
            }
        }
        one_of(
            "on_host_maintenance",
            own.on_host_maintenance.as_deref(),
            &["MIGRATE", "TERMINATE"],
        )?;
        one_of("network_tier", own.network_tier.as_deref(), &["PREMIUM", "STANDARD"])?;
        let cli = Gcloud::read(&common.env);
        let (region, zones) = places(&common, &cli)?;
        let named = ["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"];
        let from_env = || named.iter().find_map(|n| common.env.get(n)).map(str::to_owned);
        let project = own.project.clone().or_else(from_env).or(cli.project);
        if let Some(bad) = [&project, &own.network_project]
            .into_iter()
            .flatten()
            .find(|p| !is_project(p))
        {
            return Err(usage(format!("{bad:?} is no project's id")));
        }
        let Ok(Value::Object(extra)) = serde_json::to_value(&own.extra) else {
            return Err(usage("[gcp] extra is no table".to_owned()));
        };
        let endpoint = common.endpoint("gcp").or_else(|| own.endpoint.clone());
        Ok(Self {
            common,
            own,
            region,
            zones,
            project,
            endpoint,
            extra,
        })
    }

    /// Zones to begin with: those of the settings, or the one that every region has.
    pub(super) fn first_zones(&self) -> Vec<String> {
        if self.zones.is_empty() {
            return vec![format!("{}-{ZONE}", self.region)];
        }
        self.zones.clone()
    }

    /// Whether rules of the firewall are ours to make.
    pub(super) fn has_firewall(&self) -> bool {
        self.own.firewall.unwrap_or(true)
    }

    /// Tags as labels. The user's own may be changed to fit; two that become one, or
    /// one that has no letter, are an error.
    pub(super) fn labels(&self, tags: &super::super::Tags) -> Result<super::super::Tags, ProviderError> {
        let mut all = super::super::Tags::new();
        for (key, value) in tags.iter().chain(&self.own.labels) {
            let name = labels::narrow(key);
            if !is_label(&name, true) {
                return Err(error(
                    Code::Usage,
                    format!("tag {key:?} cannot be a label's name on GCP"),
                ));
            }
            let before = all.insert(name, labels::narrow(value));
            if before.is_some() && !tags.contains_key(key) {
                continue;
            }
            if before.is_some() {
                return Err(error(
                    Code::Usage,
                    format!("tag {key:?} is twice there in GCP's spelling"),
                ));
            }
        }
        Ok(all)
    }
}

fn one_of(key: &str, value: Option<&str>, known: &[&str]) -> Result<(), ProviderError> {
    match value {
        Some(v) if !known.contains(&v) => Err(error(
            Code::Usage,
            format!("[gcp] {key} = {v:?}: is one of {}", known.join(", ")),
        )),
        _ => Ok(()),
    }
}

/// Region and whole names of zones.
fn places(common: &Common, cli: &Gcloud) -> Result<(String, Vec<String>), ProviderError> {
    let env = |name: &str| common.env.get(name).map(str::to_owned);
    let whole = common.zones.iter().find_map(|z| region_of_zone(z));
    let zone = env("CLOUDSDK_COMPUTE_ZONE").or_else(|| cli.zone.clone());
    let region = common.region.clone().or(whole);
    // A zone of the vendor's tool counts only together with its region.
    let (region, zone) = match region {
        Some(region) => (region, None),
        None => {
            let by_region = env("CLOUDSDK_COMPUTE_REGION").or_else(|| cli.region.clone());
            let by_zone = zone.as_deref().and_then(region_of_zone);
            let zone = zone.filter(|_| by_region.is_none() || by_region == by_zone);
            (by_region.or(by_zone).unwrap_or_else(|| REGION.to_owned()), zone)
        }
    };
    if !is_name(&region) {
        return Err(error(Code::Usage, format!("{region:?} is no name of a region")));
    }
    let mut zones: Vec<String> = common
        .zones
        .iter()
        .map(|z| {
            if z.len() == 1 {
                format!("{region}-{z}")
            } else {
                z.clone()
            }
        })
        .collect();
    if zones.is_empty() {
        zones.extend(zone);
    }
    match zones.iter().find(|z| region_of_zone(z).as_ref() != Some(&region)) {
        Some(bad) => Err(error(Code::Usage, format!("zone {bad} is not in region {region}"))),
        None => Ok((region, zones)),
    }
}

/// `europe-west4-a` is in `europe-west4`.
fn region_of_zone(zone: &str) -> Option<String> {
    let (region, letter) = zone.rsplit_once('-')?;
    let last = region.bytes().last()?;
    (letter.len() == 1 && last.is_ascii_digit() && is_name(zone)).then(|| region.to_owned())
}

/// RFC 1035, as the vendor has it.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_project(text: &str) -> bool {
    let of = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
    !text.is_empty() && text.len() <= 127 && text.bytes().all(of)
}

fn is_label(text: &str, key: bool) -> bool {
    let of = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    text.len() <= 63 && text.bytes().all(of) && (!key || text.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(table: &str, zones: &[&str], env: &[(&str, &str)]) -> Result<Settings, ProviderError> {
        Settings::new(Common {
            table: table.parse().unwrap(),
            zones: zones.iter().map(|z| (*z).to_owned()).collect(),
            env: [("HOME", "/nonexistent")].iter().chain(env).copied().collect(),
            ..Common::default()
        })
    }

    #[test]
    fn places_come_from_wherever_they_are_named() {
        let of = |zones: &[&str], env: &[(&str, &str)]| {
            let s = settings("", zones, env).unwrap();
            (s.region.clone(), s.first_zones())
        };
        let one = |region: &str, zone: &str| (region.to_owned(), vec![zone.to_owned()]);
        assert_eq!(of(&[], &[]), one(REGION, "us-central1-b"));
        assert_eq!(of(&["c"], &[]), one(REGION, "us-central1-c"));
        assert_eq!(of(&["europe-west4-a"], &[]), one("europe-west4", "europe-west4-a"));
        let zone = [("CLOUDSDK_COMPUTE_ZONE", "asia-east1-c")];
        assert_eq!(of(&[], &zone), one("asia-east1", "asia-east1-c"));
        let other = [zone[0], ("CLOUDSDK_COMPUTE_REGION", "us-west1")];
        assert_eq!(of(&[], &other), one("us-west1", "us-west1-b"));
        assert!(settings("", &["europe-west4-a", "us-west1-b"], &[]).is_err());
        assert!(settings("", &["nowhere"], &[]).is_err());
    }

    #[test]
    fn what_herdsman_promises_cannot_be_undone_by_extra_fields() {
        assert!(settings("extra = { canIpForward = true }", &[], &[]).is_ok());
        for bad in [
            "extra = { scheduling = {} }",
            "extra = { networkInterfaces = [] }",
            "metadata = { user-data = \"x\" }",
            "labels = { herdsman-cluster = \"other\" }",
            "labels = { Team = \"geo\" }",
            "on_host_maintenance = \"terminate\"",
            "project = \"a/b\"",
            "colour = 1",
        ] {
            assert_eq!(settings(bad, &[], &[]).unwrap_err().code, Code::Usage, "{bad}");
        }
    }

    #[test]
    fn tags_become_labels() {
        let s = settings("labels = { team = \"geo\" }", &[], &[]).unwrap();
        let tags = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let all = s.labels(&tags(&[("Owner", "Ann@example.org")])).unwrap();
        assert_eq!(all, tags(&[("owner", "ann_example_org"), ("team", "geo")]));
        assert!(s.labels(&tags(&[("Owner", "a"), ("owner", "b")])).is_err());
        assert!(s.labels(&tags(&[("1st", "a")])).is_err());
    }
}
