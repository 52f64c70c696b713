//! Answers of the API, as far as they are used; names are those of the vendor's model.

use serde::Deserialize;

use super::super::Tags;

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<T> {
    #[serde(default = "Vec::new")]
    pub(super) value: Vec<T>,
    #[serde(default)]
    pub(super) next_link: Option<String>,
}

/// Something that is named by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Id {
    pub(super) id: String,
}

/// Any resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Resource {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) location: String,
    pub(super) tags: Tags,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Vm {
    pub(super) id: String,
    pub(super) tags: Tags,
    pub(super) zones: Vec<String>,
    pub(super) properties: VmProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct VmProperties {
    pub(super) provisioning_state: String,
    pub(super) hardware_profile: Hardware,
    pub(super) priority: String,
    pub(super) instance_view: Option<View>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Hardware {
    pub(super) vm_size: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct View {
    pub(super) statuses: Vec<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: String,
    pub(super) message: String,
}

impl View {
    /// `running`, `stopped`, `deallocated` …; absent before there is any.
    pub(super) fn power(&self) -> Option<&str> {
        let mut codes = self.statuses.iter().map(|s| s.code.as_str());
        codes.find_map(|c| c.strip_prefix("PowerState/"))
    }

    /// Why it could not be made, as `code: message`.
    pub(super) fn failure(&self) -> Option<(&str, &str)> {
        self.statuses.iter().find_map(|s| {
            let code = s.code.strip_prefix("ProvisioningState/failed/")?;
            Some((code, s.message.as_str()))
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Nic {
    pub(super) id: String,
    pub(super) properties: NicProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NicProperties {
    pub(super) virtual_machine: Id,
    pub(super) ip_configurations: Vec<IpConfiguration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IpConfiguration {
    pub(super) id: String,
    pub(super) properties: IpProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IpProperties {
    #[serde(rename = "privateIPAddress")]
    pub(super) private: Option<String>,
    #[serde(rename = "publicIPAddress")]
    pub(super) public: Id,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Address {
    pub(super) id: String,
    pub(super) properties: AddressProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AddressProperties {
    pub(super) ip_address: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) location: String,
    pub(super) properties: NetworkProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkProperties {
    pub(super) subnets: Vec<Subnet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subnet {
    pub(super) id: String,
    pub(super) name: String,
}

/// How an operation stands that goes on after its answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Operation {
    pub(super) status: String,
    pub(super) error: Option<Failure>,
}

/// The vendor's code and words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) details: Vec<Self>,
}

/// An entry of `Microsoft.Compute/skus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Sku {
    pub(super) resource_type: String,
    pub(super) name: String,
    pub(super) family: String,
    pub(super) location_info: Vec<LocationInfo>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) restrictions: Vec<Restriction>,
}

impl Sku {
    /// A capability's value.
    pub(super) fn can(&self, name: &str) -> Option<&str> {
        let found = self.capabilities.iter().find(|c| c.name == name);
        found.map(|c| c.value.as_str())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LocationInfo {
    pub(super) zones: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capability {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Restriction {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) restriction_info: RestrictionInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RestrictionInfo {
    pub(super) zones: Vec<String>,
}

/// How much of something is used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) current_value: i64,
    pub(super) limit: i64,
    pub(super) name: UsageName,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct UsageName {
    pub(super) value: String,
    pub(super) localized_value: String,
}

/// A version of an image, as a list has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageVersion {
    pub(super) name: String,
}

/// What somebody may do, and what of it not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Permission {
    pub(super) actions: Vec<String>,
    pub(super) not_actions: Vec<String>,
}

/// Where a machine's console is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BootData {
    pub(super) serial_console_log_blob_uri: Option<String>,
}

/// A page of the price list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Prices {
    #[serde(rename = "Items")]
    pub(super) items: Vec<Price>,
    #[serde(rename = "NextPageLink")]
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Price {
    pub(super) currency_code: String,
    pub(super) retail_price: f64,
    pub(super) arm_sku_name: String,
    pub(super) product_name: String,
    pub(super) sku_name: String,
    pub(super) unit_of_measure: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
}
