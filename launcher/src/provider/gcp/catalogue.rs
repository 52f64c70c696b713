//! Images and machine types.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use herdsman_wire::{Code, Role};

use super::super::ProviderError;
use super::super::cloud::{MachineWish, Need, Offer, choose, error};
use super::Gcp;
use super::answers::{AcceleratorType, Image, MachineType, Region, tail};

/// Families with their projects, whose newest image the vendor takes. They have
/// cloud-init; Debian's images here have not.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("ubuntu-24.04", "ubuntu-os-cloud", "family/ubuntu-2404-lts-amd64"),
    ("ubuntu-22.04", "ubuntu-os-cloud", "family/ubuntu-2204-lts"),
];
/// Family where nobody names an image.
const FAMILY: &str = "ubuntu-24.04";
/// GiB of their images.
const SIZE: u64 = 10;

/// Where nothing was asked for. Dask's scheduler is one thread and needs memory for
/// its graph; a worker's default is what the smallest common machines have.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 8 << 30);

/// Graphics processors that can be put into machines of the family `n1`; all others
/// come with their machine types.
const LOOSE: [&str; 4] = [
    "nvidia-tesla-p100",
    "nvidia-tesla-p4",
    "nvidia-tesla-t4",
    "nvidia-tesla-v100",
];
/// The one that is taken where nobody names any.
const GPU: &str = "nvidia-tesla-t4";
/// The least that a processor has which is not a part of one, by families: order in
/// which they are taken among equals. What is not named comes after them.
const FAMILIES_BY_PRICE: [&str; 14] = [
    "e2", "t2d", "n1", "n4d", "n2d", "n4", "n2", "c2d", "c4d", "c3d", "c3", "c4", "c2", "h3",
];

/// An image as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Its address, or that of its family.
    pub(super) link: String,
    pub(super) name: String,
    /// GiB.
    pub(super) size: u64,
}

/// Where an image is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// Absent: our own.
    pub(super) project: Option<&'a str>,
    /// `family/x` or the image's name.
    path: &'a str,
}

impl Wanted<'_> {
    pub(super) fn is_family(&self) -> bool {
        self.path.starts_with("family/")
    }
}

pub(super) fn wanted(text: &str) -> Wanted<'_> {
    if let Some((_, project, family)) = FAMILIES.iter().find(|(name, ..)| *name == text) {
        return Wanted {
            project: Some(project),
            path: family,
        };
    }
    // `https://…/projects/P/global/images/…`, `projects/P/global/images/…`, `P/family/F`.
    let rest = text.split_once("projects/").map_or(text, |(_, rest)| rest);
    match rest.split_once("/global/images/") {
        Some((project, path)) => Wanted {
            project: Some(project),
            path,
        },
        None => match text.split_once("/family/") {
            Some((project, _)) => Wanted {
                project: Some(project),
                path: &text[project.len() + 1..],
            },
            None => Wanted {
                project: None,
                path: text,
            },
        },
    }
}

impl Gcp {
    fn image_wish(&self) -> &str {
        self.settings.common.image.as_deref().unwrap_or(FAMILY)
    }

    /// The image; a family that is known needs no look, as the call that makes machines
    /// takes the family itself.
    pub(super) async fn image_for_machines(&self) -> Result<&Chosen, ProviderError> {
        let known = FAMILIES.iter().find(|(name, ..)| *name == self.image_wish());
        match (self.image.get(), known) {
            (None, Some((name, project, family))) => {
                let family = Chosen {
                    link: format!("projects/{project}/global/images/{family}"),
                    name: (*name).to_owned(),
                    size: SIZE,
                };
                Ok(self.image.get_or_init(|| async { family }).await)
            }
            _ => self.image().await,
        }
    }

    /// The image, looked up once.
    pub(super) async fn image(&self) -> Result<&Chosen, ProviderError> {
        self.image.get_or_try_init(|| self.find_image()).await
    }

    async fn find_image(&self) -> Result<Chosen, ProviderError> {
        let text = self.image_wish();
        let wanted = wanted(text);
        let project = match wanted.project {
            Some(project) => project,
            None => self.api.project().await?,
        };
        let name = if wanted.is_family() {
            "images.getFromFamily"
        } else {
            "images.get"
        };
        let path = wanted.path;
        let found: Result<Image, _> = self.api.get_in(name, project, &format!("global/images/{path}")).await;
        let image = found.map_err(|e| match e.code {
            Code::NotFound | Code::Usage => no_image(text, &e.message),
            _ => e,
        })?;
        if image.architecture.as_deref() == Some("ARM64") {
            return Err(no_image(text, "it is for ARM64, and there is an agent for x86_64"));
        }
        let link = match image.self_link.split_once("projects/") {
            Some((_, rest)) => format!("projects/{rest}"),
            None => format!("projects/{project}/global/images/{}", image.name),
        };
        Ok(Chosen {
            link,
            name: image.name,
            size: image.disk_size_gb,
        })
    }

    /// The region, looked up once.
    pub(super) async fn region(&self) -> Result<&Region, ProviderError> {
        let find = || async {
            let path = format!("regions/{}", self.settings.region);
            self.api.get("regions.get", &path).await
        };
        self.region.get_or_try_init(find).await
    }

    /// Zones that machines may be in.
    async fn zones(&self) -> Result<Vec<String>, ProviderError> {
        if !self.settings.zones.is_empty() {
            return Ok(self.settings.zones.clone());
        }
        let region = self.region().await?;
        Ok(region.zones.iter().map(|z| tail(z).to_owned()).collect())
    }

    /// Types for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let offers = self.offers.get_or_try_init(|| self.find_offers()).await?;
        self.pick(offers, role)
    }

    fn pick(&self, offers: &[Offer], role: Role) -> Result<Vec<Offer>, ProviderError> {
        let need = self.need(role);
        let mut found = choose(offers, &need)?;
        let gpus = &need.wish.gpus;
        for o in found.iter_mut().filter(|o| o.gpus == 0 && gpus.count > 0) {
            if is_bundled(&o.name) {
                let text = format!(
                    "{}: type {} has no graphics processors and takes none",
                    need.what, o.name
                );
                return Err(
                    error(Code::Usage, text).with_hint("types of n1 take them; those of g2, g4, a2 and a3 have some")
                );
            }
            o.gpus = gpus.count;
            o.gpu = Some(gpus.kind.clone().unwrap_or_else(|| GPU.to_owned()));
        }
        Ok(found)
    }

    fn need(&self, role: Role) -> Need<'_> {
        let (what, (cpus, memory)) = match role {
            Role::Scheduler => ("scheduler", SCHEDULER),
            Role::Worker => ("workers", WORKER),
        };
        Need {
            wish: self.settings.common.wish(role),
            cpus,
            memory,
            archs: &["x86_64"],
            what,
            spot: false,
        }
    }

    /// What may fit scheduler and workers. Types are by zone: the first zone is asked,
    /// and the others where it has not all.
    async fn find_offers(&self) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = Vec::new();
        let mut looked = BTreeSet::new();
        let mut zones = self.settings.first_zones();
        let mut at = 0;
        while at < zones.len() {
            let zone = zones[at].clone();
            at += 1;
            if looked.insert(zone.clone()) {
                merge(&mut offers, self.offers_in(&zone).await?, &zone);
            }
            let fits = |role| self.pick(&offers, role).is_ok();
            if fits(Role::Scheduler) && fits(Role::Worker) {
                break;
            }
            if at == 1 && self.settings.zones.is_empty() {
                zones.extend(self.zones().await?);
            }
        }
        Ok(offers)
    }

    async fn offers_in(&self, zone: &str) -> Result<Vec<Offer>, ProviderError> {
        let needs = [self.need(Role::Scheduler), self.need(Role::Worker)];
        let mut names: Vec<&String> = needs.iter().flat_map(|n| &n.wish.types).collect();
        names.sort();
        names.dedup();
        let open: Vec<&Need<'_>> = needs.iter().filter(|n| n.wish.types.is_empty()).collect();
        let mut all = Vec::new();
        if !names.is_empty() {
            let each: Vec<String> = names.iter().map(|n| format!("(name = {n})")).collect();
            all.extend(self.types_in(zone, &each.join(" OR ")).await?);
        }
        if open.iter().any(|n| n.wish.gpus.count > 0) {
            let types = self.types_in(zone, "").await?;
            let project = self.api.project().await?;
            let path = format!("zones/{zone}/acceleratorTypes");
            let kinds: Vec<AcceleratorType> = self.api.list("acceleratorTypes.list", project, &path, "").await?;
            let most = open.iter().map(|n| n.wish.gpus.count).max().unwrap_or(1);
            all.extend(with_loose(&types, &kinds, most));
            all.extend(types);
        } else if !open.is_empty() {
            all.extend(self.types_in(zone, &sizes_filter(&open)).await?);
        }
        all.dedup_by(|a, b| a.name == b.name && a.gpu == b.gpu);
        Ok(all)
    }

    async fn types_in(&self, zone: &str, filter: &str) -> Result<Vec<Offer>, ProviderError> {
        let project = self.api.project().await?;
        let path = format!("zones/{zone}/machineTypes");
        let all: Result<Vec<MachineType>, _> = self.api.list("machineTypes.list", project, &path, filter).await;
        match all {
            Ok(all) => Ok(all.into_iter().map(offer).collect()),
            // The letter that was tried first is none of this region's, or it is no region.
            Err(e) if e.code == Code::NotFound && self.settings.zones.is_empty() => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// All types of the region.
    pub(super) async fn catalogue(&self) -> Result<Vec<Offer>, ProviderError> {
        let zones = self.zones().await?;
        let each = try_join_all(zones.iter().map(|z| self.types_in(z, ""))).await?;
        let mut all = Vec::new();
        for (zone, offers) in zones.iter().zip(each) {
            merge(&mut all, offers, zone);
        }
        let mut priced = self.with_prices(all).await;
        priced.sort_by(|a, b| {
            (a.gpus, a.cpus, a.memory, a.rank, &a.name).cmp(&(b.gpus, b.cpus, b.memory, b.rank, &b.name))
        });
        Ok(priced)
    }
}

/// A filter for everything that may be large enough and is not far too large.
fn sizes_filter(open: &[&Need<'_>]) -> String {
    let least = |n: &&Need<'_>| n.wish.cpus.unwrap_or(n.cpus);
    let most = |n: &&Need<'_>| {
        // Common machines have up to 8 GiB for each processor.
        let memory = n.wish.memory.unwrap_or(n.memory).div_ceil(8 << 30);
        let by_memory = u32::try_from(memory).unwrap_or(u32::MAX).saturating_mul(2);
        least(n).saturating_mul(4).max(by_memory).max(4)
    };
    let low = open.iter().map(least).min().unwrap_or(1);
    let high = open.iter().map(most).max().unwrap_or(4);
    format!("(guestCpus >= {low}) (guestCpus <= {high})")
}

fn merge(all: &mut Vec<Offer>, more: Vec<Offer>, zone: &str) {
    for mut o in more {
        match all
            .iter_mut()
            .find(|a| a.name == o.name && a.gpu == o.gpu && a.gpus == o.gpus)
        {
            Some(known) => known.zones.push(zone.to_owned()),
            None => {
                o.zones = vec![zone.to_owned()];
                all.push(o);
            }
        }
    }
}

/// Machines that graphics processors can be put into, with so many of each kind.
fn with_loose(types: &[Offer], kinds: &[AcceleratorType], count: u32) -> Vec<Offer> {
    let takes = types.iter().filter(|t| !is_bundled(&t.name) && t.current);
    let kinds = || {
        let fit = |k: &&AcceleratorType| LOOSE.contains(&k.name.as_str()) && k.maximum_cards_per_instance >= count;
        kinds.iter().filter(fit)
    };
    let with = |t: &Offer, k: &AcceleratorType| Offer {
        gpus: count,
        gpu: Some(k.name.clone()),
        ..t.clone()
    };
    takes.flat_map(|t| kinds().map(move |k| with(t, k))).collect()
}

/// Whether a type's graphics processors, if any, are a part of it.
pub(super) fn is_bundled(name: &str) -> bool {
    !name.starts_with("n1-")
}

fn offer(t: MachineType) -> Offer {
    let memory = t.memory_mb << 20;
    // Less than half of a processor is no place for Dask.
    let is_sliver = t.is_shared_cpu && memory < 4 << 30;
    let is_arm = t.architecture.as_deref() == Some("ARM64");
    Offer {
        arch: if is_arm { "aarch64" } else { "x86_64" }.to_owned(),
        cpus: t.guest_cpus,
        memory,
        gpus: t.accelerators.iter().map(|a| a.guest_accelerator_count).sum(),
        gpu: t.accelerators.first().map(|a| a.guest_accelerator_type.clone()),
        price: None,
        spot: None,
        zones: Vec::new(),
        current: t.deprecated.and_then(|d| d.state).is_none() && !is_sliver && !t.name.ends_with("-metal"),
        rank: rank(&t.name),
        name: t.name,
    }
}

/// Among types of one size: families by price, and plain ones before those with local
/// disks.
fn rank(name: &str) -> u32 {
    let family = name.split('-').next().unwrap_or_default();
    let at = FAMILIES_BY_PRICE.iter().position(|f| *f == family);
    let at = at.and_then(|at| u32::try_from(at).ok()).unwrap_or(100);
    at + if name.ends_with("lssd") { 50 } else { 0 }
}

fn no_image(wanted: &str, why: &str) -> ProviderError {
    let families: Vec<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
    error(Code::NotFound, format!("no image {wanted}: {why}")).with_hint(format!(
        "--image with projects/P/global/images/NAME, P/family/FAMILY, the name of one of your own, or {}",
        families.join(", ")
    ))
}

/// GiB of disk: as asked for, never less than the image has.
pub(super) fn disk_size(wish: &MachineWish, image: &Chosen) -> u64 {
    /// Room for an operating system, and an environment of some gigabytes.
    const DEFAULT: u64 = 30;
    let asked = wish.disk.map_or(DEFAULT, |bytes| bytes.div_ceil(1 << 30));
    asked.max(image.size).max(SIZE)
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Gpus;
    use super::*;

    fn kind(name: &str, cpus: u32, mb: u64) -> MachineType {
        MachineType {
            name: name.into(),
            guest_cpus: cpus,
            memory_mb: mb,
            ..MachineType::default()
        }
    }

    #[test]
    fn images_are_found_in_all_spellings() {
        let w = |text| {
            let w = wanted(text);
            (w.project, w.path)
        };
        assert_eq!(
            w("ubuntu-24.04"),
            (Some("ubuntu-os-cloud"), "family/ubuntu-2404-lts-amd64")
        );
        assert_eq!(w("mine"), (None, "mine"));
        assert_eq!(w("family/mine"), (None, "family/mine"));
        assert_eq!(w("p/family/f"), (Some("p"), "family/f"));
        assert_eq!(w("projects/p/global/images/i"), (Some("p"), "i"));
        let whole = "https://www.googleapis.com/compute/v1/projects/p/global/images/family/f";
        assert_eq!(w(whole), (Some("p"), "family/f"));
    }

    #[test]
    fn among_equals_the_cheaper_and_plainer_comes_first() {
        let mut names = [
            "c3-standard-4-lssd",
            "n2-standard-4",
            "c3-standard-4",
            "e2-standard-4",
            "z9-standard-4",
        ];
        names.sort_by_key(|n| (rank(n), *n));
        assert_eq!(
            names,
            [
                "e2-standard-4",
                "n2-standard-4",
                "c3-standard-4",
                "c3-standard-4-lssd",
                "z9-standard-4"
            ]
        );
    }

    #[test]
    fn slivers_and_metal_are_not_chosen_by_size() {
        let mut micro = kind("e2-micro", 2, 1024);
        micro.is_shared_cpu = true;
        assert!(!offer(micro.clone()).current);
        micro.memory_mb = 4096;
        assert!(offer(micro).current);
        assert!(!offer(kind("c3-standard-192-metal", 192, 786_432)).current);
    }

    #[test]
    fn graphics_processors_are_put_into_what_takes_them() {
        let types: Vec<Offer> = [kind("n1-standard-4", 4, 15_360), kind("e2-standard-4", 4, 16_384)]
            .into_iter()
            .map(offer)
            .collect();
        let card = |name: &str, most| AcceleratorType {
            name: name.into(),
            maximum_cards_per_instance: most,
        };
        let kinds = [
            card("nvidia-tesla-t4", 4),
            card("nvidia-l4", 8),
            card("nvidia-tesla-v100", 1),
        ];
        let made: Vec<_> = with_loose(&types, &kinds, 2)
            .into_iter()
            .map(|o| (o.name, o.gpus, o.gpu.unwrap_or_default()))
            .collect();
        assert_eq!(made, [("n1-standard-4".into(), 2, "nvidia-tesla-t4".into())]);
    }

    #[test]
    fn the_catalogue_is_asked_for_what_may_fit() {
        let wish = MachineWish {
            memory: Some(64 << 30),
            gpus: Gpus::default(),
            ..MachineWish::default()
        };
        let need = Need {
            wish: &wish,
            cpus: 2,
            memory: 4 << 30,
            archs: &["x86_64"],
            what: "workers",
            spot: false,
        };
        assert_eq!(sizes_filter(&[&need]), "(guestCpus >= 2) (guestCpus <= 16)");
    }
}
