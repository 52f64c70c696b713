//! Which cloud a machine runs on, by what its firmware says (DMI/SMBIOS, shown by
//! Linux below `/sys/class/dmi/id`), and what tells it from every other machine.
//!
//! The strings are those that the vendors document for this purpose and that
//! cloud-init's `ds-identify` looks for.

use std::collections::BTreeMap;
use std::path::Path;

/// Clouds whose metadata service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cloud {
    /// Microsoft Azure.
    Azure,
    /// DigitalOcean.
    DigitalOcean,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
    /// Hetzner Cloud.
    Hetzner,
    /// OpenStack, whoever runs it.
    OpenStack,
}

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Azure,
        Self::DigitalOcean,
        Self::Ec2,
        Self::Gce,
        Self::Hetzner,
        Self::OpenStack,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Azure => "Azure",
            Self::DigitalOcean => "DigitalOcean",
            Self::Ec2 => "EC2",
            Self::Gce => "GCE",
            Self::Hetzner => "Hetzner",
            Self::OpenStack => "OpenStack",
        }
    }
}

/// Azure's chassis tag, the same on all of its machines.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";
/// Chassis tags and product names of clouds that are OpenStack.
const OPENSTACK: [&str; 6] = [
    "OpenStack Nova",
    "OpenStack Compute",
    "OpenTelekomCloud",
    "SAP CCloud VM",
    "HUAWEICLOUD",
    "Samsung Cloud Platform",
];

/// What the firmware says. A field that cannot be read is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmi {
    /// `bios_vendor`
    pub bios_vendor: String,
    /// `board_asset_tag`
    pub board_asset_tag: String,
    /// `chassis_asset_tag`
    pub chassis_asset_tag: String,
    /// `/sys/hypervisor/uuid`, which only Xen has.
    pub hypervisor: String,
    /// `product_name`
    pub product_name: String,
    /// `product_serial`, for root only.
    pub product_serial: String,
    /// `product_uuid`, for root only.
    pub product_uuid: String,
    /// `product_version`
    pub product_version: String,
    /// `sys_vendor`
    pub sys_vendor: String,
}

impl Dmi {
    /// Reads what there is below a root folder, `/` on a real machine.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| {
            let bytes = crate::files::read_limited(&root.join(path), 4096).ok().flatten();
            String::from_utf8_lossy(&bytes.unwrap_or_default()).trim().to_owned()
        };
        let field = |name: &str| text(&format!("sys/class/dmi/id/{name}"));
        Self {
            bios_vendor: field("bios_vendor"),
            board_asset_tag: field("board_asset_tag"),
            chassis_asset_tag: field("chassis_asset_tag"),
            hypervisor: text("sys/hypervisor/uuid"),
            product_name: field("product_name"),
            product_serial: field("product_serial"),
            product_uuid: field("product_uuid"),
            product_version: field("product_version"),
            sys_vendor: field("sys_vendor"),
        }
    }

    /// The cloud, if it is one that we know.
    #[must_use]
    pub fn cloud(&self) -> Option<Cloud> {
        let is_openstack = |s: &String| OPENSTACK.contains(&s.as_str());
        if self.chassis_asset_tag == AZURE_CHASSIS {
            Some(Cloud::Azure)
        } else if self.product_name == "Google Compute Engine" || self.product_serial.starts_with("GoogleCloud-") {
            Some(Cloud::Gce)
        } else if self.sys_vendor == "DigitalOcean" {
            Some(Cloud::DigitalOcean)
        } else if self.sys_vendor == "Hetzner" {
            Some(Cloud::Hetzner)
        } else if is_openstack(&self.product_name) || is_openstack(&self.chassis_asset_tag) {
            Some(Cloud::OpenStack)
        } else if self.is_ec2() {
            Some(Cloud::Ec2)
        } else {
            None
        }
    }

    /// Nitro machines name Amazon; Xen ones have a UUID that begins with `ec2`.
    /// Clouds that imitate EC2 have the service but not these, and are left alone.
    fn is_ec2(&self) -> bool {
        let begins = |text: &str| text.get(..3).is_some_and(|s| s.eq_ignore_ascii_case("ec2"));
        let serial_is_uuid = self.product_serial.eq_ignore_ascii_case(&self.product_uuid);
        self.sys_vendor == "Amazon EC2"
            || self.bios_vendor == "Amazon EC2"
            || begins(&self.hypervisor)
            || (begins(&self.product_uuid) && (serial_is_uuid || self.product_version.ends_with(".amazon")))
    }

    /// What is this machine's own: it stays over reboots, and a machine made from a
    /// snapshot of this one has others.
    #[must_use]
    pub fn birthmarks(&self) -> BTreeMap<String, String> {
        let mut marks = BTreeMap::new();
        let instance = self.board_asset_tag.starts_with("i-");
        for (name, value, counts) in [
            ("product_uuid", &self.product_uuid, is_telling(&self.product_uuid)),
            ("instance", &self.board_asset_tag, instance),
        ] {
            if counts {
                marks.insert(name.to_owned(), value.to_ascii_lowercase());
            }
        }
        marks
    }
}

/// Firmware without a UUID gives all zeros or all ones.
fn is_telling(uuid: &str) -> bool {
    let mut digits = uuid.chars().filter(|c| *c != '-');
    let first = digits.next();
    first.is_some() && digits.any(|c| Some(c) != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dmi(fields: &[(&str, &str)]) -> Dmi {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in fields {
            let path = match *name {
                "hypervisor" => root.path().join("sys/hypervisor/uuid"),
                field => root.path().join("sys/class/dmi/id").join(field),
            };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        Dmi::read(root.path())
    }

    #[test]
    fn clouds_are_told_apart() {
        let uuid = "EC2E1916-9099-7CAF-FD21-012345ABCDEF";
        for (fields, cloud) in [
            (
                vec![("sys_vendor", "Amazon EC2"), ("product_name", "m7i.large")],
                Some(Cloud::Ec2),
            ),
            (vec![("bios_vendor", "Amazon EC2")], Some(Cloud::Ec2)),
            (vec![("hypervisor", "ec2e1916-9099-7caf")], Some(Cloud::Ec2)),
            (
                vec![("product_uuid", uuid), ("product_serial", &uuid.to_lowercase())],
                Some(Cloud::Ec2),
            ),
            (
                vec![("product_uuid", uuid), ("product_version", "4.11.amazon")],
                Some(Cloud::Ec2),
            ),
            (vec![("product_uuid", uuid)], None),
            (vec![("product_name", "Google Compute Engine")], Some(Cloud::Gce)),
            (vec![("product_serial", "GoogleCloud-0123")], Some(Cloud::Gce)),
            (vec![("sys_vendor", "Google"), ("product_name", "Chromebook")], None),
            (
                vec![("sys_vendor", "DigitalOcean"), ("product_name", "Droplet")],
                Some(Cloud::DigitalOcean),
            ),
            (
                vec![
                    ("sys_vendor", "Microsoft Corporation"),
                    ("chassis_asset_tag", AZURE_CHASSIS),
                ],
                Some(Cloud::Azure),
            ),
            (vec![("sys_vendor", "Microsoft Corporation")], None),
            (
                vec![("sys_vendor", "Hetzner"), ("product_name", "vServer")],
                Some(Cloud::Hetzner),
            ),
            (
                vec![
                    ("sys_vendor", "OpenStack Foundation"),
                    ("product_name", "OpenStack Nova"),
                ],
                Some(Cloud::OpenStack),
            ),
            (vec![("chassis_asset_tag", "OpenTelekomCloud")], Some(Cloud::OpenStack)),
            (vec![("sys_vendor", "QEMU"), ("product_name", "Standard PC")], None),
            (vec![], None),
        ] {
            assert_eq!(dmi(&fields).cloud(), cloud, "{fields:?}");
        }
    }

    #[test]
    fn only_what_differs_between_machines_is_a_birthmark() {
        let marks = dmi(&[
            ("product_uuid", "AB-1"),
            ("board_asset_tag", "i-0f"),
            ("sys_vendor", "x"),
        ])
        .birthmarks();
        let marks: Vec<_> = marks.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(marks, [("instance", "i-0f"), ("product_uuid", "ab-1")]);
        for uuid in ["", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF"] {
            assert!(
                dmi(&[("product_uuid", uuid), ("board_asset_tag", "tag")])
                    .birthmarks()
                    .is_empty()
            );
        }
    }
}
