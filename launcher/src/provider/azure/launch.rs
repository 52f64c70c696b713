//! What a machine is, as the body of its call: a pure function.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herdsman_wire::Role;
use serde_json::{Value, json};

use super::super::MachineSpec;
use super::catalogue::{Image, disk};
use super::names;
use super::network::Net;
use super::settings::{Outbound, Settings};

/// Kind of disk where nothing was asked for; every type of machine takes it.
const DISK_TYPE: &str = "StandardSSD_LRS";

/// One machine of one kind in one place.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// Its name at the vendor.
    pub(super) name: &'a str,
    pub(super) spec: &'a MachineSpec,
    pub(super) image: &'a Image,
    pub(super) kind: &'a str,
    pub(super) zone: Option<&'a str>,
    pub(super) net: &'a Net,
    pub(super) spot: bool,
    /// A public key of the user's, or one whose other half nobody has.
    pub(super) key: &'a str,
    /// Ids of managed identities.
    pub(super) role: Option<&'a str>,
}

impl Launch<'_> {
    pub(super) fn body(&self, settings: &Settings) -> Value {
        let own = &settings.own;
        let mut properties = json!({
            "hardwareProfile": {"vmSize": self.kind},
            "storageProfile": {"imageReference": self.image.reference(), "osDisk": self.disk(settings)},
            "osProfile": {
                "computerName": self.spec.node.as_str(),
                "adminUsername": settings.admin(),
                "customData": BASE64_STANDARD.encode(self.spec.user_data.reveal()),
                "linuxConfiguration": {
                    "disablePasswordAuthentication": true,
                    "ssh": {"publicKeys": [{
                        "path": format!("/home/{}/.ssh/authorized_keys", settings.admin()),
                        "keyData": self.key,
                    }]},
                },
            },
            "networkProfile": {
                "networkApiVersion": "2022-11-01",
                "networkInterfaceConfigurations": [self.interface(settings)],
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": own.boot_diagnostics.unwrap_or(true)}},
        });
        if self.spot {
            properties["priority"] = "Spot".into();
            properties["evictionPolicy"] = "Delete".into();
            // The vendor's word for "not more than an ordinary one".
            properties["billingProfile"] = json!({"maxPrice": own.spot_max_price.unwrap_or(-1.0)});
        }
        security(settings, &mut properties);
        if let Some(id) = &own.proximity_placement_group {
            properties["proximityPlacementGroup"] = json!({"id": id});
        }
        if let Some(id) = &own.capacity_reservation {
            properties["capacityReservation"] = json!({"capacityReservationGroup": {"id": id}});
        }
        let mut body = json!({
            "location": settings.region,
            "tags": self.spec.tags,
            "properties": properties,
        });
        if let Some(zone) = self.zone {
            body["zones"] = json!([zone]);
        }
        if let Some(plan) = &own.marketplace_plan {
            body["plan"] = json!({"name": plan.name, "publisher": plan.publisher, "product": plan.product});
        }
        match self.role {
            Some("system") => body["identity"] = json!({"type": "SystemAssigned"}),
            Some(id) => body["identity"] = json!({"type": "UserAssigned", "userAssignedIdentities": {id: {}}}),
            None => {}
        }
        merge(&mut body, &settings.extra);
        body
    }

    fn disk(&self, settings: &Settings) -> Value {
        let (common, own) = (&settings.common, &settings.own);
        let mut managed = json!({"storageAccountType": common.disk_type.as_deref().unwrap_or(DISK_TYPE)});
        if let Some(id) = &own.disk_encryption_set {
            managed["diskEncryptionSet"] = json!({"id": id});
        }
        let mut disk = json!({
            "name": format!("{}-os", self.name),
            "createOption": "FromImage",
            "deleteOption": "Delete",
            "diskSizeGB": disk(common.wish(self.spec.role)),
        });
        if own.ephemeral_disk {
            // It is part of the host, which takes no other kind.
            disk["diffDiskSettings"] = json!({"option": "Local"});
            disk["caching"] = "ReadOnly".into();
            managed["storageAccountType"] = "Standard_LRS".into();
        } else {
            disk["caching"] = "ReadWrite".into();
        }
        disk["managedDisk"] = managed;
        disk
    }

    fn interface(&self, settings: &Settings) -> Value {
        let entry = self.net.entry.iter().filter(|_| self.spec.role == Role::Scheduler);
        let groups: Vec<Value> = self.net.inner.iter().chain(entry).map(|id| json!({"id": id})).collect();
        let mut address = json!({
            "subnet": {"id": self.net.subnet},
            "primary": true,
            "privateIPAddressVersion": "IPv4",
        });
        if !groups.is_empty() {
            address["applicationSecurityGroups"] = groups.into();
        }
        if is_public(settings, self.spec.role) {
            address["publicIPAddressConfiguration"] = json!({
                "name": format!("{}-ip", self.name),
                "sku": {"name": "Standard", "tier": "Regional"},
                "properties": {
                    "deleteOption": "Delete",
                    "publicIPAllocationMethod": "Static",
                    "publicIPAddressVersion": "IPv4",
                },
                "tags": self.spec.tags,
            });
        }
        let mut properties = json!({
            "primary": true,
            "deleteOption": "Delete",
            "networkSecurityGroup": {"id": self.net.firewall},
            "ipConfigurations": [{"name": "main", "properties": address}],
        });
        if let Some(on) = settings.own.accelerated_networking {
            properties["enableAcceleratedNetworking"] = on.into();
        }
        json!({"name": format!("{}-nic", self.name), "properties": properties, "tags": self.spec.tags})
    }
}

/// Whether machines of a role have public addresses: the scheduler, so that its owner
/// reaches it, and workers where that is their way out.
pub(super) fn is_public(settings: &Settings, role: Role) -> bool {
    match role {
        Role::Scheduler => settings.is_public(),
        Role::Worker => settings.outbound() == Outbound::Public,
    }
}

fn security(settings: &Settings, properties: &mut Value) {
    let own = &settings.own;
    let mut profile = json!({});
    if let Some(kind) = &own.security_type {
        profile["securityType"] = kind.as_str().into();
    }
    if own.secure_boot.is_some() || own.vtpm.is_some() {
        let mut uefi = json!({});
        if let Some(on) = own.secure_boot {
            uefi["secureBootEnabled"] = on.into();
        }
        if let Some(on) = own.vtpm {
            uefi["vTpmEnabled"] = on.into();
        }
        profile["uefiSettings"] = uefi;
        if own.security_type.is_none() {
            profile["securityType"] = "TrustedLaunch".into();
        }
    }
    if let Some(on) = own.encryption_at_host {
        profile["encryptionAtHost"] = on.into();
    }
    if profile != json!({}) {
        properties["securityProfile"] = profile;
    }
}

/// Puts more into a description; what is in both is the other's.
fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

/// The id of a managed identity, by id, by `GROUP/NAME`, or by name in a group.
pub(super) fn identity(subscription: &str, group: Option<&str>, text: &str) -> Option<String> {
    const KIND: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";
    if text == "system" || names::is_id(text) {
        return Some(text.to_owned());
    }
    let (group, name) = text.split_once('/').or_else(|| Some((group?, text)))?;
    Some(names::resource(subscription, group, KIND, name))
}

#[cfg(test)]
mod tests {
    use super::super::super::Tags;
    use super::super::super::cloud::Common;
    use super::*;

    fn body(table: &str, role: Role, edit: impl FnOnce(&mut Common), spot: bool) -> Value {
        let mut common = Common {
            table: table.parse().unwrap(),
            env: [("HOME", "/nonexistent")].into_iter().collect(),
            ..Common::default()
        };
        edit(&mut common);
        let settings = Settings::new(common).unwrap();
        let spec = MachineSpec {
            node: "demo-w1".parse().unwrap(),
            role,
            user_data: herdsman_wire::Secret::new("#!/bin/sh\n"),
            tags: Tags::from([("herdsman-cluster".into(), "demo".into())]),
        };
        let net = Net {
            group: "g".into(),
            subnet: "subnet".into(),
            firewall: "nsg".into(),
            inner: vec!["all".into()],
            entry: Some("in".into()),
        };
        let launch = Launch {
            name: "demo-w1-abcdefghij",
            spec: &spec,
            image: &Image::parse("debian-13").unwrap(),
            kind: "Standard_D2s_v5",
            zone: None,
            net: &net,
            spot,
            key: "ssh-ed25519 AAAA",
            role: None,
        };
        launch.body(&settings)
    }

    #[test]
    fn everything_goes_with_the_machine() {
        let b = body("", Role::Scheduler, |_| {}, false);
        let p = &b["properties"];
        assert_eq!(p["storageProfile"]["osDisk"]["deleteOption"], "Delete");
        let nic = &p["networkProfile"]["networkInterfaceConfigurations"][0];
        assert_eq!(nic["properties"]["deleteOption"], "Delete");
        assert_eq!(nic["tags"]["herdsman-cluster"], "demo");
        let address = &nic["properties"]["ipConfigurations"][0]["properties"];
        assert_eq!(
            address["publicIPAddressConfiguration"]["properties"]["deleteOption"],
            "Delete"
        );
        assert_eq!(
            address["publicIPAddressConfiguration"]["tags"]["herdsman-cluster"],
            "demo"
        );
        assert_eq!(
            address["applicationSecurityGroups"],
            json!([{"id": "all"}, {"id": "in"}])
        );
        assert_eq!(p["osProfile"]["customData"], "IyEvYmluL3NoCg==");
        assert!(p["osProfile"]["adminPassword"].is_null() && p["userData"].is_null());
        assert!(p["priority"].is_null());
    }

    #[test]
    fn workers_are_closed_and_can_be_taken_away() {
        let b = body("", Role::Worker, |_| {}, true);
        let p = &b["properties"];
        assert_eq!(
            (&p["priority"], &p["evictionPolicy"]),
            (&json!("Spot"), &json!("Delete"))
        );
        let address = |b: &Value| {
            b["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"][0]
                ["properties"]
                .clone()
        };
        assert_eq!(address(&b)["applicationSecurityGroups"], json!([{"id": "all"}]));
        assert!(address(&b)["publicIPAddressConfiguration"].is_null());
        let b = body("outbound = \"public\"", Role::Worker, |_| {}, false);
        assert!(address(&b)["publicIPAddressConfiguration"].is_object());
    }

    #[test]
    fn more_is_added_and_nothing_of_ours_is_lost() {
        let table = "secure_boot = true\nephemeral_disk = true\nextra.properties.licenseType = \"RHEL_BYOS\"\n\
                     marketplace_plan = { name = \"n\", publisher = \"p\", product = \"q\" }";
        let b = body(table, Role::Worker, |c| c.worker.disk = Some(64 << 30), false);
        let p = &b["properties"];
        assert_eq!(p["licenseType"], "RHEL_BYOS");
        assert_eq!(p["hardwareProfile"]["vmSize"], "Standard_D2s_v5");
        assert_eq!(p["securityProfile"]["securityType"], "TrustedLaunch");
        assert_eq!(p["securityProfile"]["uefiSettings"], json!({"secureBootEnabled": true}));
        assert_eq!(p["storageProfile"]["osDisk"]["diffDiskSettings"]["option"], "Local");
        assert_eq!(p["storageProfile"]["osDisk"]["diskSizeGB"], 64);
        assert_eq!(b["plan"]["product"], "q");
    }

    #[test]
    fn an_identity_is_named_in_three_ways() {
        let id = |t| identity("s", Some("g"), t);
        assert_eq!(id("system").as_deref(), Some("system"));
        let full = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x";
        assert_eq!(id("x").as_deref(), Some(full));
        assert_eq!(id("g/x").as_deref(), Some(full));
        assert_eq!(id(full).as_deref(), Some(full));
        assert_eq!(identity("s", None, "x"), None);
    }
}
