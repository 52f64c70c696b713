//! Flavors, and disks.

use herdsman_wire::{Code, Role};
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::{MachineWish, Money, Need, Offer, choose, error};
use super::OpenStack;
use super::answers::Flavor;
use super::api::Service;
pub(super) use super::images::Chosen;

/// Where nothing was asked for. Dask's scheduler is one thread and needs memory for
/// its graph; a worker's default is what the smallest common machines have.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 8 << 30);
/// GiB of a volume where nothing was asked for: system, environment, and room to spill.
const VOLUME: u64 = 30;
/// Words of devices that are passed through and are no graphics processors.
const NO_GPU: [&str; 8] = ["nic", "sriov", "qat", "fpga", "nvme", "ssd", "dpu", "hba"];

/// A flavor as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) id: String,
    pub(super) name: String,
    /// GiB; 0: none of its own.
    pub(super) disk: u64,
}

impl OpenStack {
    async fn flavors(&self) -> Result<&Vec<Flavor>, ProviderError> {
        self.flavors
            .get_or_try_init(|| self.api.list(Service::Compute, "/flavors/detail", "flavors"))
            .await
    }

    /// All flavors, with prices where the settings have them.
    pub(super) async fn catalogue(&self) -> Result<Vec<Offer>, ProviderError> {
        let flavors = self.flavors().await?;
        Ok(flavors.iter().map(|f| self.offer(f)).collect())
    }

    /// Types for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let (flavors, image) = tokio::try_join!(self.flavors(), self.image())?;
        let (what, (cpus, memory)) = match role {
            Role::Scheduler => ("scheduler", SCHEDULER),
            Role::Worker => ("workers", WORKER),
        };
        let mut wish = self.settings.common.wish(role).clone();
        // A type may be named by its id as well.
        for name in &mut wish.types {
            if let Some(f) = flavors.iter().find(|f| f.id == *name) {
                name.clone_from(&f.name);
            }
        }
        let named = !wish.types.is_empty();
        let fits = |f: &&Flavor| named || (f.ram << 20 >= image.memory && self.has_disk(f, &wish, &image));
        let offers: Vec<Offer> = flavors.iter().filter(fits).map(|f| self.offer(f)).collect();
        let need = Need {
            wish: &wish,
            cpus,
            memory,
            archs: &["x86_64"],
            what,
            spot: false,
        };
        choose(&offers, &need)
    }

    /// Whether a flavor's own disk is large enough, where it has to be.
    fn has_disk(&self, f: &Flavor, wish: &MachineWish, image: &Chosen) -> bool {
        let wanted = wish.disk.map_or(0, gib).max(image.disk);
        self.settings.own.boot_from_volume != Some(false) || f.disk >= wanted
    }

    /// The same, as the calls need them.
    pub(super) async fn kinds(&self, role: Role) -> Result<Vec<Kind>, ProviderError> {
        let (flavors, types) = tokio::try_join!(self.flavors(), self.types(role))?;
        let kind = |o: Offer| {
            let f = flavors.iter().find(|f| f.name == o.name)?;
            Some(Kind {
                id: f.id.clone(),
                name: o.name,
                disk: f.disk,
            })
        };
        let all: Vec<Kind> = types.into_iter().filter_map(kind).collect();
        if all.is_empty() {
            return Err(error(Code::Internal, "a type was forgotten"));
        }
        Ok(all)
    }

    /// GiB of a machine's volume; absent: it has the flavor's own disk.
    pub(super) fn volume(&self, role: Role, kind: &Kind, image: &Chosen) -> Option<u64> {
        let common = &self.settings.common;
        let wanted = common.wish(role).disk.map(gib);
        let needed = kind.disk < image.disk || common.disk_type.is_some() || wanted.is_some_and(|w| w > kind.disk);
        let size = || wanted.unwrap_or_else(|| kind.disk.max(VOLUME)).max(image.disk);
        self.settings.own.boot_from_volume.unwrap_or(needed).then(size)
    }

    fn offer(&self, f: &Flavor) -> Offer {
        let own = &self.settings.own;
        let (gpus, gpu) = graphics(f);
        let is_arm = f.extra_specs.iter().any(|(k, v)| {
            let text = format!("{k}={}", text(v)).to_ascii_lowercase();
            text.contains("aarch64") || text.contains("arm64")
        });
        let currency = own.currency.clone().unwrap_or_else(|| "USD".into());
        let price = own.prices.get(&f.name).map(|p| Money { per_hour: *p, currency });
        Offer {
            name: f.name.clone(),
            arch: if is_arm { "aarch64" } else { "x86_64" }.into(),
            cpus: f.vcpus,
            memory: f.ram << 20,
            gpus,
            gpu,
            price,
            spot: None,
            zones: Vec::new(),
            current: !f.disabled,
            // Those with a disk of their own need no volume.
            rank: u32::from(f.disk == 0),
        }
    }
}

/// Bytes as whole GiB.
pub(super) const fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 30)
}

fn text(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// Graphics processors, as far as a flavor's properties say it: devices that are passed
/// through by an alias (`a100:2`), or parts of some.
fn graphics(f: &Flavor) -> (u32, Option<String>) {
    let mut found = (0, None);
    for (key, value) in &f.extra_specs {
        let value = text(value);
        if key == "pci_passthrough:alias" {
            for one in value.split(',') {
                let (name, count) = one.rsplit_once(':').unwrap_or((one, "1"));
                let name = name.trim();
                let lower = name.to_ascii_lowercase();
                if NO_GPU.iter().any(|w| lower.contains(w)) {
                    continue;
                }
                found.0 += count.trim().parse::<u32>().unwrap_or(1);
                found.1.get_or_insert_with(|| name.to_owned());
            }
        } else if key.starts_with("resources") && (key.ends_with(":VGPU") || key.ends_with(":PGPU")) {
            found.0 += value.trim().parse::<u32>().unwrap_or(1);
            found.1.get_or_insert_with(|| "VGPU".into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    fn cloud(table: &str, disk: Option<u64>, disk_type: Option<&str>) -> OpenStack {
        OpenStack::new(Common {
            table: table.parse().unwrap(),
            disk_type: disk_type.map(str::to_owned),
            worker: MachineWish {
                disk,
                ..MachineWish::default()
            },
            env: [("OS_AUTH_URL", "https://k.example")].into_iter().collect(),
            ..Common::default()
        })
        .unwrap()
    }

    #[test]
    fn nova_s_own_flavors_are_offers() {
        let text = include_str!("../../../../tests/data/openstack/flavors-detail-2.61.json");
        let page: Value = serde_json::from_str(text).unwrap();
        let flavors: Vec<Flavor> = serde_json::from_value(page["flavors"].clone()).unwrap();
        let cloud = cloud("currency = \"EUR\"\n[prices]\n\"m1.small\" = 0.02", None, None);
        let offers: Vec<Offer> = flavors.iter().map(|f| cloud.offer(f)).collect();
        let small = offers.iter().find(|o| o.name == "m1.small").unwrap();
        assert_eq!((small.cpus, small.memory, small.gpus), (1, 2 << 30, 0));
        assert_eq!(small.price.as_ref().unwrap().currency, "EUR");
        assert!(small.current && small.arch == "x86_64");
        assert!(offers.iter().find(|o| o.name == "m1.tiny").unwrap().price.is_none());
    }

    #[test]
    fn graphics_processors_are_seen() {
        let of = |specs: &[(&str, &str)]| {
            let f = Flavor {
                extra_specs: specs.iter().map(|(k, v)| ((*k).into(), Value::from(*v))).collect(),
                ..Flavor::default()
            };
            graphics(&f)
        };
        assert_eq!(of(&[]), (0, None));
        assert_eq!(of(&[("pci_passthrough:alias", "a100:2")]), (2, Some("a100".into())));
        assert_eq!(
            of(&[("pci_passthrough:alias", "fast-nic:1,v100:1")]),
            (1, Some("v100".into()))
        );
        assert_eq!(of(&[("resources:VGPU", "1")]), (1, Some("VGPU".into())));
    }

    #[test]
    fn a_volume_is_made_where_the_flavor_s_disk_does_not_do() {
        let image = Chosen {
            id: "i".into(),
            name: "i".into(),
            disk: 10,
            memory: 0,
        };
        let size = |table: &str, wanted: Option<u64>, kind: Option<&str>, own: u64| {
            let flavor = Kind {
                id: "1".into(),
                name: "k".into(),
                disk: own,
            };
            cloud(table, wanted.map(|g| g << 30), kind).volume(Role::Worker, &flavor, &image)
        };
        assert_eq!(size("", None, None, 40), None);
        assert_eq!(size("", None, None, 0), Some(VOLUME));
        assert_eq!(size("", None, None, 5), Some(VOLUME));
        assert_eq!(size("", Some(60), None, 40), Some(60));
        assert_eq!(size("", Some(20), None, 40), None);
        assert_eq!(size("", None, Some("fast"), 40), Some(40));
        assert_eq!(size("boot_from_volume = true", None, None, 40), Some(40));
        assert_eq!(size("boot_from_volume = false", None, None, 0), None);
    }
}
