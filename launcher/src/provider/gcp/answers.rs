//! Answers of the API, as far as they are used. Names are those of the discovery
//! document `compute/v1`; numbers of 64 bits are texts there.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::super::Tags;

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<T> {
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
    pub(super) next_page_token: Option<String>,
}

/// A page of a list over all zones: by zone, an object with one list under a name of
/// its own, and maybe a warning.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Aggregated {
    #[serde(default)]
    pub(super) items: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    pub(super) next_page_token: Option<String>,
    /// Places that did not answer.
    #[serde(default)]
    pub(super) unreachables: Vec<String>,
}

/// Something that is being done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) operation_type: String,
    /// What it is done to.
    pub(super) target_link: String,
    /// Our `requestId`.
    pub(super) client_operation_id: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) error: Option<OperationErrors>,
    pub(super) http_error_status_code: Option<u16>,
    pub(super) instances_bulk_insert_operation_metadata: Option<BulkMetadata>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperationErrors {
    pub(super) errors: Vec<OperationError>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperationError {
    pub(super) code: String,
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BulkMetadata {
    pub(super) per_location_status: BTreeMap<String, BulkStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BulkStatus {
    pub(super) created_vm_count: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) status: String,
    pub(super) machine_type: String,
    pub(super) labels: Tags,
    pub(super) network_interfaces: Vec<Interface>,
    pub(super) scheduling: Scheduling,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Interface {
    #[serde(rename = "networkIP")]
    pub(super) network_ip: Option<String>,
    pub(super) network: String,
    pub(super) access_configs: Vec<AccessConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccessConfig {
    #[serde(rename = "natIP")]
    pub(super) nat_ip: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Scheduling {
    pub(super) provisioning_model: Option<String>,
    pub(super) preemptible: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) labels: Tags,
    /// Machines that have it.
    pub(super) users: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Firewall {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) network: String,
    pub(super) direction: String,
    pub(super) source_ranges: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subnetwork {
    pub(super) name: String,
    pub(super) network: String,
    pub(super) purpose: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) self_link: String,
    pub(super) architecture: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) disk_size_gb: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MachineType {
    pub(super) name: String,
    pub(super) guest_cpus: u32,
    pub(super) memory_mb: u64,
    pub(super) is_shared_cpu: bool,
    pub(super) architecture: Option<String>,
    pub(super) accelerators: Vec<Accelerators>,
    pub(super) deprecated: Option<Deprecated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Accelerators {
    pub(super) guest_accelerator_type: String,
    pub(super) guest_accelerator_count: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deprecated {
    pub(super) state: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AcceleratorType {
    pub(super) name: String,
    pub(super) maximum_cards_per_instance: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Region {
    pub(super) quotas: Vec<Quota>,
    /// Addresses of its zones.
    pub(super) zones: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Project {
    pub(super) quotas: Vec<Quota>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quota {
    pub(super) metric: String,
    pub(super) limit: f64,
    pub(super) usage: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Serial {
    pub(super) contents: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Permissions {
    pub(super) permissions: Vec<String>,
}

/// The last part of an address: `…/zones/europe-west4-a`.
pub(super) fn tail(address: &str) -> &str {
    address.rsplit('/').next().unwrap_or_default()
}

fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    Ok(text.and_then(|t| t.parse().ok()).unwrap_or_default())
}

/// The project in an address: `…/projects/P/global/…`.
pub(super) fn project_in(address: &str) -> Option<&str> {
    address.split_once("projects/")?.1.split('/').next()
}
