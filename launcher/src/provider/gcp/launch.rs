//! What a machine is, as the body of a call: a pure function.

use std::time::Duration;

use herdsman_wire::{Code, Role, Timestamp};
use serde_json::{Map, Value, json};

use super::super::cloud::{Offer, error, labels};
use super::super::{ClusterRef, MachineSpec, ProviderError, Tags};
use super::catalogue::{Chosen, disk_size, is_bundled};
use super::network::{Net, entry_tag, tag_of};
use super::settings::Settings;

/// The vendor's limits of a machine's life, seconds.
const LIFE: (u64, u64) = (30, 120 * 86_400);
/// A machine ends by itself; so long after that the vendor ends it.
const GRACE: Duration = Duration::from_secs(600);

/// One call: machines of one kind in one zone.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) cluster: &'a ClusterRef,
    /// What all of them are told.
    pub(super) spec: &'a MachineSpec,
    pub(super) image: &'a Chosen,
    pub(super) offer: &'a Offer,
    pub(super) zone: &'a str,
    pub(super) net: &'a Net,
    pub(super) spot: bool,
    /// Time of the call.
    pub(super) now: Timestamp,
}

impl Launch<'_> {
    /// The body of `instances.insert`.
    ///
    /// # Errors
    /// `E-USAGE` when a tag or a setting does not fit.
    pub(super) fn one(&self, settings: &Settings) -> Result<Value, ProviderError> {
        let mut body = self.properties(settings, Some(self.spec.node.as_str()))?;
        body.insert("name".into(), self.spec.node.as_str().into());
        Ok(body.into())
    }

    /// The body of `instances.bulkInsert`: as many as there are names. Those that can be
    /// had are made, if it is only one.
    ///
    /// # Errors
    /// As [`Self::one`].
    pub(super) fn many(&self, settings: &Settings, names: &[&str]) -> Result<Value, ProviderError> {
        let each: Map<String, Value> = names.iter().map(|n| ((*n).to_owned(), json!({}))).collect();
        Ok(json!({
            "count": names.len().to_string(),
            "minCount": "1",
            "perInstanceProperties": each,
            "instanceProperties": self.properties(settings, None)?,
        }))
    }

    /// What both have; a bulk call takes names where the other takes addresses.
    fn properties(&self, settings: &Settings, node: Option<&str>) -> Result<Map<String, Value>, ProviderError> {
        let (common, own) = (&settings.common, &settings.own);
        let address = |kind: &str, name: &str| match node {
            Some(_) => format!("zones/{}/{kind}/{name}", self.zone),
            None => name.to_owned(),
        };
        let mut tags = self.spec.tags.clone();
        if node.is_none() {
            // Each has its own, which a bulk call cannot say.
            tags.remove(labels::NODE);
        }
        let labels = settings.labels(&tags)?;
        let gpus = self.offer.gpus;
        let mut body = settings.extra.clone();
        let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
        put("description", "Dask cluster made by herdsman".into());
        put("machineType", address("machineTypes", &self.offer.name).into());
        put("labels", json!(labels));
        put("tags", json!({"items": self.network_tags(settings)}));
        put("networkInterfaces", json!([self.interface(settings)]));
        put("disks", json!([self.disk(settings, &labels, &address)]));
        put("metadata", json!({"items": self.metadata(settings)?}));
        put("scheduling", self.scheduling(settings, gpus > 0));
        // The vendor's default would be one that may do much.
        let accounts = common.role.as_ref().map(|email| {
            let all = || vec!["https://www.googleapis.com/auth/cloud-platform".to_owned()];
            let scopes = if own.scopes.is_empty() {
                all()
            } else {
                own.scopes.clone()
            };
            json!({"email": email, "scopes": scopes})
        });
        put("serviceAccounts", json!(accounts.into_iter().collect::<Vec<_>>()));
        if gpus > 0 && !is_bundled(&self.offer.name) {
            let kind = self.offer.gpu.as_deref().unwrap_or_default();
            let kind = address("acceleratorTypes", kind);
            put(
                "guestAccelerators",
                json!([{"acceleratorCount": gpus, "acceleratorType": kind}]),
            );
        }
        if let Some(platform) = &own.min_cpu_platform {
            put("minCpuPlatform", platform.as_str().into());
        }
        if let Some(on) = own.secure_boot {
            put("shieldedInstanceConfig", json!({"enableSecureBoot": on}));
        }
        Ok(body)
    }

    /// Tags by which rules of the firewall find machines.
    fn network_tags(&self, settings: &Settings) -> Vec<String> {
        let mut all = settings.common.security_groups.clone();
        if settings.has_firewall() {
            all.push(tag_of(self.cluster));
            if self.spec.role == Role::Scheduler {
                all.push(entry_tag(self.cluster));
            }
        }
        all
    }

    fn interface(&self, settings: &Settings) -> Value {
        let mut interface = json!({});
        match &self.net.subnetwork {
            Some(subnetwork) => interface["subnetwork"] = subnetwork.as_str().into(),
            None => interface["network"] = self.net.network.as_str().into(),
        }
        if !settings.common.private {
            let tier = settings.own.network_tier.as_deref().unwrap_or("PREMIUM");
            interface["accessConfigs"] = json!([{
                "name": "External NAT", "type": "ONE_TO_ONE_NAT", "networkTier": tier,
            }]);
        }
        interface
    }

    fn disk(&self, settings: &Settings, labels: &Tags, address: &dyn Fn(&str, &str) -> String) -> Value {
        let (common, own) = (&settings.common, &settings.own);
        let mut made = json!({
            "sourceImage": self.image.link,
            "diskSizeGb": disk_size(common.wish(self.spec.role), self.image).to_string(),
            "diskType": address("diskTypes", common.disk_type.as_deref().unwrap_or_else(|| disk_type(&self.offer.name))),
            "labels": labels,
        });
        if let Some(iops) = own.iops {
            made["provisionedIops"] = iops.to_string().into();
        }
        if let Some(throughput) = own.throughput {
            made["provisionedThroughput"] = throughput.to_string().into();
        }
        let mut disk = json!({"boot": true, "autoDelete": true, "initializeParams": made});
        if let Some(key) = &own.kms_key {
            disk["diskEncryptionKey"] = json!({"kmsKeyName": key});
        }
        disk
    }

    fn metadata(&self, settings: &Settings) -> Result<Vec<Value>, ProviderError> {
        let entry = |key: &str, value: &str| json!({"key": key, "value": value});
        let mut all = vec![entry("user-data", self.spec.user_data.reveal())];
        if let Some(key) = &settings.common.ssh_key {
            if !key
                .split_once(':')
                .is_some_and(|(user, key)| !user.is_empty() && key.contains(' '))
            {
                return Err(error(
                    Code::Usage,
                    "GCP keeps no SSH keys by name: ssh_key is `USER:ssh-ed25519 AAAA…`; keys of the project need no setting",
                ));
            }
            all.push(entry("ssh-keys", key));
        }
        all.extend(settings.own.metadata.iter().map(|(k, v)| entry(k, v)));
        Ok(all)
    }

    fn scheduling(&self, settings: &Settings, has_gpus: bool) -> Value {
        let mut s = json!({});
        let moved = settings.own.on_host_maintenance.as_deref();
        if self.spot {
            s["provisioningModel"] = "SPOT".into();
            s["automaticRestart"] = false.into();
            s["onHostMaintenance"] = "TERMINATE".into();
            s["instanceTerminationAction"] = "DELETE".into();
        } else {
            s["provisioningModel"] = "STANDARD".into();
            // Graphics processors cannot be moved; what else can be, the vendor knows.
            if let Some(moved) = moved.or_else(|| has_gpus.then_some("TERMINATE")) {
                s["onHostMaintenance"] = moved.into();
            }
        }
        if let Some(life) = self.life(settings) {
            s["maxRunDuration"] = json!({"seconds": life.to_string()});
            s["instanceTerminationAction"] = "DELETE".into();
        }
        s
    }

    /// Seconds after which the vendor deletes it, whatever happens: the rest of the
    /// cluster's life, and a little more.
    fn life(&self, settings: &Settings) -> Option<u64> {
        let end = self.spec.tags.get(labels::EXPIRES).and_then(|e| e.parse::<i64>().ok());
        let left = match end {
            Some(end) => u64::try_from(end.saturating_sub(self.now.seconds())).unwrap_or(0),
            None => settings.common.lifetime?.as_secs(),
        };
        Some((left + GRACE.as_secs()).clamp(LIFE.0, LIFE.1))
    }
}

/// What a family takes at all: the newest have no persistent disks of the old kinds.
fn disk_type(kind: &str) -> &'static str {
    let family = kind.split('-').next().unwrap_or_default();
    match family {
        "a4" | "a4x" | "c4" | "c4a" | "c4d" | "g4" | "h4d" | "m4" | "n4" | "n4a" | "n4d" | "x4" => "hyperdisk-balanced",
        _ => "pd-balanced",
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::{Common, Spot};
    use super::*;

    fn offer(name: &str, gpus: u32) -> Offer {
        Offer {
            name: name.into(),
            arch: "x86_64".into(),
            cpus: 4,
            memory: 16 << 30,
            gpus,
            gpu: (gpus > 0).then(|| "nvidia-tesla-t4".to_owned()),
            price: None,
            spot: None,
            zones: Vec::new(),
            current: true,
            rank: 0,
        }
    }

    fn body(kind: &str, gpus: u32, spot: bool, many: bool) -> Value {
        let settings = Settings::new(Common {
            env: [("HOME", "/nonexistent")].into_iter().collect(),
            spot: Spot::Prefer,
            ..Common::default()
        })
        .unwrap();
        let cluster = ClusterRef {
            name: "demo".parse().unwrap(),
            id: "aaaaaaaaaa".parse().unwrap(),
        };
        let now = Timestamp::now();
        let tags = [
            (labels::NODE, "demo-w0".to_owned()),
            (labels::EXPIRES, (now.seconds() + 3600).to_string()),
        ];
        let spec = MachineSpec {
            node: "demo-w0".parse().unwrap(),
            role: Role::Worker,
            user_data: herdsman_wire::Secret::new("#!/bin/sh\n"),
            tags: tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        };
        let launch = Launch {
            cluster: &cluster,
            spec: &spec,
            image: &Chosen {
                link: "projects/p/global/images/i".into(),
                name: "i".into(),
                size: 10,
            },
            offer: &offer(kind, gpus),
            zone: "z-1-a",
            net: &Net {
                project: "p".into(),
                network: "projects/p/global/networks/default".into(),
                subnetwork: None,
            },
            spot,
            now,
        };
        if many {
            launch.many(&settings, &["demo-w0", "demo-w1"]).unwrap()
        } else {
            launch.one(&settings).unwrap()
        }
    }

    #[test]
    fn one_has_addresses_and_many_have_names() {
        let one = body("e2-standard-4", 0, false, false);
        assert_eq!(one["machineType"], "zones/z-1-a/machineTypes/e2-standard-4");
        assert_eq!(one["labels"][labels::NODE], "demo-w0");
        let many = body("e2-standard-4", 0, false, true);
        let each = &many["instanceProperties"];
        assert_eq!(each["machineType"], "e2-standard-4");
        assert_eq!(each["disks"][0]["initializeParams"]["diskType"], "pd-balanced");
        assert!(each["labels"][labels::NODE].is_null());
        assert_eq!(many["count"], "2");
        assert_eq!(many["perInstanceProperties"], json!({"demo-w0": {}, "demo-w1": {}}));
        assert_eq!(
            body("c4-standard-4", 0, false, true)["instanceProperties"]["disks"][0]["initializeParams"]["diskType"],
            "hyperdisk-balanced"
        );
    }

    #[test]
    fn every_machine_has_an_end() {
        let s = |gpus, spot| body("n1-standard-4", gpus, spot, false)["scheduling"].clone();
        assert_eq!(s(0, false)["maxRunDuration"], json!({"seconds": "4200"}));
        assert_eq!(s(0, false)["instanceTerminationAction"], "DELETE");
        assert!(s(0, false)["onHostMaintenance"].is_null());
        assert_eq!(s(1, false)["onHostMaintenance"], "TERMINATE");
        assert_eq!(s(0, true)["provisioningModel"], "SPOT");
        assert_eq!(s(0, true)["automaticRestart"], false);
    }

    #[test]
    fn graphics_processors_are_asked_for_where_they_are_put_in() {
        let cards = |kind, gpus| body(kind, gpus, false, false)["guestAccelerators"].clone();
        assert_eq!(cards("n1-standard-4", 2)[0]["acceleratorCount"], 2);
        assert!(cards("g2-standard-4", 1).is_null() && cards("e2-standard-4", 0).is_null());
    }
}
