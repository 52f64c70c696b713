//! What a machine is, as the body of the call that creates it: a pure function.
//!
//! One call a machine: `max_count` would make many with one call, but all of them with
//! one user-data, with names of Nova's own making, and with an answer that names none of
//! them. Each of ours has a bootstrap certificate and a name of its own, and Nova makes
//! as many at the same time by many calls as by one.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::super::MachineSpec;
use super::api::{WITH_TAGS, WITH_VOLUME_TYPE};
use super::catalogue::Kind;
use super::network::Net;
use super::settings::Settings;

/// Key of what is known of a machine's way to the laptop.
pub(super) const REACH: &str = "herdsman-reach";
/// It is reached by a floating address.
pub(super) const BY_FLOATING: &str = "floating";
/// Server tag of everything of ours.
pub(super) const OURS: &str = "herdsman";

/// The vendor's limit of a server tag.
const TAG: usize = 60;

/// Server tag of a cluster, by which lists are short. The whole name is in the metadata.
pub(super) fn tag_of(cluster: &str) -> String {
    format!("{OURS}:{cluster}").chars().take(TAG).collect()
}

/// One machine.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) spec: &'a MachineSpec,
    pub(super) cluster: &'a str,
    pub(super) image: &'a str,
    pub(super) kind: &'a Kind,
    /// GiB of a volume; absent: the flavor's own disk.
    pub(super) volume: Option<u64>,
    pub(super) zone: Option<&'a str>,
    pub(super) net: &'a Net,
    /// A port that was made for it.
    pub(super) port: Option<&'a str>,
    /// Its groups, where it has no port of its own.
    pub(super) groups: &'a [String],
    /// Whether it is to have a floating address.
    pub(super) floating: bool,
    /// Nova's version.
    pub(super) version: u32,
}

impl Launch<'_> {
    pub(super) fn body(&self, settings: &Settings) -> Value {
        let (common, own) = (&settings.common, &settings.own);
        let mut server = Map::new();
        let mut put = |key: &str, value: Value| server.insert(key.to_owned(), value);
        put("name", json!(self.spec.node));
        put("flavorRef", json!(self.kind.id));
        put("user_data", json!(BASE64_STANDARD.encode(self.spec.user_data.reveal())));
        let mut metadata = self.spec.tags.clone();
        metadata.extend(own.metadata.clone());
        if self.floating {
            metadata.insert(REACH.into(), BY_FLOATING.into());
        }
        put("metadata", json!(metadata));
        if self.version >= WITH_TAGS {
            put("tags", json!([OURS, tag_of(self.cluster)]));
        }
        match self.port {
            Some(port) => put("networks", json!([{"port": port}])),
            None => {
                // The schema calls it a name, and takes an id as well.
                let groups: Vec<_> = self.groups.iter().map(|g| json!({"name": g})).collect();
                put("security_groups", json!(groups));
                put("networks", json!([{"uuid": self.net.network.id}]))
            }
        };
        match self.volume {
            None => put("imageRef", json!(self.image)),
            Some(size) => {
                let mut disk = json!({
                    "boot_index": 0, "uuid": self.image, "source_type": "image",
                    "destination_type": "volume", "volume_size": size, "delete_on_termination": true,
                });
                if let Some(kind) = common.disk_type.as_ref().filter(|_| self.version >= WITH_VOLUME_TYPE) {
                    disk["volume_type"] = json!(kind);
                }
                put("block_device_mapping_v2", json!([disk]))
            }
        };
        if let Some(zone) = self.zone {
            put("availability_zone", json!(zone));
        }
        if let Some(key) = &common.ssh_key {
            put("key_name", json!(key));
        }
        if let Some(drive) = own.config_drive {
            put("config_drive", json!(drive));
        }
        for (name, value) in &own.extra {
            put(name, json!(value));
        }
        let mut body = json!({"server": server});
        let mut hints: Map<String, Value> = own.hints.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        if let Some(group) = &self.net.server_group {
            hints.insert("group".into(), json!(group));
        }
        if !hints.is_empty() {
            body["os:scheduler_hints"] = Value::Object(hints);
        }
        body
    }
}
