//! Answers of the query API, as far as they are used.

use serde::Deserialize;

use super::super::Tags;

/// A list in the vendor's XML.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Items<T> {
    #[serde(default = "Vec::new")]
    pub(super) item: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tag {
    key: String,
    value: String,
}

impl Items<Tag> {
    pub(super) fn map(&self) -> Tags {
        self.item.iter().map(|t| (t.key.clone(), t.value.clone())).collect()
    }
}

/// Answers of which only the success counts.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subnets {
    pub(super) subnet_set: Items<Subnet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subnet {
    pub(super) subnet_id: String,
    pub(super) vpc_id: String,
    pub(super) availability_zone: String,
    pub(super) map_public_ip_on_launch: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Vpcs {
    pub(super) vpc_set: Items<Vpc>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Vpc {
    pub(super) vpc_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Groups {
    pub(super) security_group_info: Items<Group>,
    pub(super) next_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Group {
    pub(super) group_id: String,
    pub(super) group_name: String,
    pub(super) tag_set: Items<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MadeGroup {
    pub(super) group_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Volumes {
    pub(super) volume_set: Items<Volume>,
    pub(super) next_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Volume {
    pub(super) volume_id: String,
    pub(super) tag_set: Items<Tag>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Images {
    pub(super) images_set: Items<Image>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Image {
    pub(super) image_id: String,
    pub(super) name: String,
    pub(super) creation_date: String,
    pub(super) architecture: String,
    pub(super) root_device_name: String,
    pub(super) block_device_mapping: Items<Device>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Device {
    pub(super) device_name: String,
    pub(super) ebs: Option<Ebs>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ebs {
    pub(super) volume_size: Option<u64>,
}

/// The answer of `RunInstances`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Reservation {
    pub(super) instances_set: Items<Instance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Instances {
    pub(super) reservation_set: Items<Reservation>,
    pub(super) next_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Instance {
    pub(super) instance_id: String,
    pub(super) instance_state: State,
    pub(super) instance_type: String,
    pub(super) private_ip_address: Option<String>,
    pub(super) ip_address: Option<String>,
    pub(super) placement: Placement,
    pub(super) instance_lifecycle: Option<String>,
    pub(super) tag_set: Items<Tag>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Placement {
    pub(super) availability_zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Types {
    pub(super) instance_type_set: Items<Type>,
    pub(super) next_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Type {
    pub(super) instance_type: String,
    pub(super) current_generation: bool,
    pub(super) v_cpu_info: Cpus,
    pub(super) memory_info: Memory,
    pub(super) processor_info: Processor,
    pub(super) gpu_info: Option<GpuInfo>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Cpus {
    pub(super) default_v_cpus: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    pub(super) size_in_mi_b: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Processor {
    pub(super) supported_architectures: Items<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GpuInfo {
    pub(super) gpus: Items<Gpu>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Gpu {
    pub(super) name: String,
    pub(super) manufacturer: String,
    pub(super) count: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SpotPrices {
    pub(super) spot_price_history_set: Items<SpotPrice>,
    pub(super) next_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SpotPrice {
    pub(super) instance_type: String,
    pub(super) spot_price: String,
    pub(super) availability_zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Console {
    pub(super) output: Option<String>,
}

/// The answer of STS.
#[derive(Debug, Deserialize)]
pub(super) struct Caller {
    #[serde(rename = "GetCallerIdentityResult")]
    pub(super) result: CallerIdentity,
}

#[derive(Debug, Deserialize)]
pub(super) struct CallerIdentity {
    #[serde(rename = "Arn")]
    pub(super) arn: String,
    #[serde(rename = "Account")]
    pub(super) account: String,
}
