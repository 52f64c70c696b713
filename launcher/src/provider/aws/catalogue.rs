//! Images and machine types.

use herdsman_wire::{Code, Role};
use serde_json::json;

use super::super::ProviderError;
use super::super::cloud::{MachineWish, Need, Offer, choose, error};
use super::Aws;
use super::answers::{Image, Images, Type, Types};
use super::api::{Json, Params};
use super::prices::attach;

/// Families with their owners, whose newest image is taken. Owners: Debian's and
/// Canonical's own pages.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("debian-13", "136693071363", "debian-13-{arch}-*"),
    ("debian-12", "136693071363", "debian-12-{arch}-*"),
    (
        "ubuntu-24.04",
        "099720109477",
        "ubuntu/images/hvm-ssd*/ubuntu-noble-24.04-{arch}-server-*",
    ),
    (
        "ubuntu-22.04",
        "099720109477",
        "ubuntu/images/hvm-ssd*/ubuntu-jammy-22.04-{arch}-server-*",
    ),
];
/// Family where nobody names an image.
const FAMILY: &str = "debian-13";

/// Where nothing was asked for. Dask's scheduler is one thread and needs memory for
/// its graph; a worker's default is what the smallest common machines have.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 8 << 30);

/// Numbers of processors that the vendor has.
const LADDER: [u32; 13] = [1, 2, 4, 8, 16, 24, 32, 36, 48, 64, 96, 128, 192];
/// Families for work of any kind: burstable, balanced, for computing, for memory.
const ORDINARY: [&str; 5] = ["t3.*", "t3a.*", "m*", "c*", "r*"];
/// Families with graphics processors.
const GRAPHICS: [&str; 2] = ["g*", "p*"];

/// An image as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) device: String,
    /// GiB.
    pub(super) size: u64,
}

impl Aws {
    /// The image, looked up once.
    pub(super) async fn image(&self) -> Result<Chosen, ProviderError> {
        self.image.get_or_try_init(|| self.find_image()).await.cloned()
    }

    async fn find_image(&self) -> Result<Chosen, ProviderError> {
        let wanted = self.settings.common.image.as_deref().unwrap_or(FAMILY);
        let mut params = Params::default();
        if let Some(path) = wanted.strip_prefix("ssm:") {
            let answer = self
                .api
                .json(Json::Parameters, "GetParameter", &json!({"Name": path}))
                .await?;
            let id = answer["Parameter"]["Value"].as_str().unwrap_or_default().to_owned();
            params.list("ImageId", [id]);
        } else if wanted.starts_with("ami-") {
            params.list("ImageId", [wanted]);
        } else if let Some((_, owner, pattern)) = FAMILIES.iter().find(|(name, ..)| *name == wanted) {
            params.list("Owner", [owner]);
            params.filter("name", [pattern.replace("{arch}", "amd64")]);
        } else if let Some((owner, pattern)) = wanted.split_once('/').filter(|(o, _)| is_owner(o)) {
            params.list("Owner", [owner]);
            params.filter("name", [pattern]);
        } else {
            params.list("Owner", ["self"]);
            params.filter("name", [wanted]);
        }
        params.filter("state", ["available"]);
        params.filter("architecture", ["x86_64"]);
        let found: Images = self
            .api
            .ec2("DescribeImages", &params)
            .await
            .map_err(|e| match e.code {
                Code::NotFound | Code::Usage => no_image(wanted, &self.settings.region, Some(&e.message)),
                _ => e,
            })?;
        let newest = found
            .images_set
            .item
            .into_iter()
            .max_by(|a, b| (&a.creation_date, &a.image_id).cmp(&(&b.creation_date, &b.image_id)));
        newest
            .map(chosen)
            .ok_or_else(|| no_image(wanted, &self.settings.region, None))
    }

    /// Types for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let offers = self.offers.get_or_try_init(|| self.find_offers()).await?;
        choose(offers, &self.need(role))
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

    /// What may fit scheduler and workers, in one call where nothing odd is wanted.
    async fn find_offers(&self) -> Result<Vec<Offer>, ProviderError> {
        let needs = [self.need(Role::Scheduler), self.need(Role::Worker)];
        let mut names: Vec<&String> = needs.iter().flat_map(|n| &n.wish.types).collect();
        names.sort();
        names.dedup();
        let mut offers = Vec::new();
        if !names.is_empty() {
            let mut params = Params::default();
            params.list("InstanceType", names);
            offers.extend(self.pages(params).await.map_err(|e| {
                if e.code == Code::NotFound || e.code == Code::Usage {
                    e.with_hint("herdsman sizes aws         shows the types of this region")
                } else {
                    e
                }
            })?);
        }
        let open = |gpu: bool| {
            needs
                .iter()
                .filter(move |n| n.wish.types.is_empty() && (n.wish.gpus.count > 0) == gpu)
        };
        let cpus = |n: &Need<'_>| {
            let least = n.wish.cpus.unwrap_or(n.cpus);
            // Four times as many processors come with as much memory as can be had.
            LADDER
                .into_iter()
                .filter(move |c| *c >= least && *c <= least.saturating_mul(4).max(4))
        };
        let mut ordinary: Vec<u32> = open(false).flat_map(cpus).collect();
        ordinary.sort_unstable();
        ordinary.dedup();
        if !ordinary.is_empty() {
            let mut params = current(&ORDINARY);
            params.filter("vcpu-info.default-vcpus", ordinary);
            offers.extend(self.pages(params).await?);
        }
        if open(true).next().is_some() {
            offers.extend(self.pages(current(&GRAPHICS)).await?);
        }
        offers.dedup_by(|a, b| a.name == b.name);
        Ok(offers)
    }

    async fn pages(&self, first: Params) -> Result<Vec<Offer>, ProviderError> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut params = first.clone();
            if let Some(token) = next {
                params.put("NextToken", token);
            }
            let page: Types = self.api.ec2("DescribeInstanceTypes", &params).await?;
            all.extend(page.instance_type_set.item.into_iter().map(offer));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    /// All types of the region, with prices where the account may see them.
    pub(super) async fn catalogue(&self) -> Result<Vec<Offer>, ProviderError> {
        let mut params = Params::default();
        params.filter("processor-info.supported-architecture", ["x86_64", "arm64"]);
        params.put("MaxResults", 100);
        let (offers, prices, spot) = tokio::join!(self.pages(params), self.list_prices(), self.spot_prices(&[]));
        let mut offers = offers?;
        attach(&mut offers, &prices, &spot);
        Ok(offers)
    }

    /// These types alone, with their prices: of one call and one for each, where all
    /// would be dozens.
    pub(super) async fn priced_types(&self, names: &[String], spot: bool) -> Result<Vec<Offer>, ProviderError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut params = Params::default();
        params.list("InstanceType", names);
        Ok(self.with_prices(self.pages(params).await?, spot).await)
    }
}

fn current(families: &[&str]) -> Params {
    let mut params = Params::default();
    params.filter("current-generation", ["true"]);
    params.filter("bare-metal", ["false"]);
    params.filter("processor-info.supported-architecture", ["x86_64"]);
    params.filter("instance-type", families);
    params.put("MaxResults", 100);
    params
}

fn offer(t: Type) -> Offer {
    let gpus = t.gpu_info.unwrap_or_default().gpus.item;
    let arch = match t
        .processor_info
        .supported_architectures
        .item
        .iter()
        .find(|a| *a != "i386")
    {
        Some(a) if a == "arm64" => "aarch64".to_owned(),
        Some(a) => a.clone(),
        None => "x86_64".to_owned(),
    };
    Offer {
        arch,
        cpus: t.v_cpu_info.default_v_cpus,
        memory: t.memory_info.size_in_mi_b << 20,
        gpus: gpus.iter().map(|g| g.count).sum(),
        gpu: gpus
            .first()
            .map(|g| format!("{} {}", g.manufacturer, g.name).trim().to_owned()),
        price: None,
        spot: None,
        zones: Vec::new(),
        current: t.current_generation,
        rank: rank(&t.instance_type),
        name: t.instance_type,
    }
}

/// Among types of one size: burstable ones cost less; then the newer the better,
/// and plain ones before those with local disks or more network.
fn rank(name: &str) -> u32 {
    let family = name.split('.').next().unwrap_or_default();
    if family.starts_with('t') {
        return 0;
    }
    let generation: u32 = family
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0);
    let extras = family
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .filter(|c| c.is_ascii_lowercase());
    let odd = extras.filter(|c| !matches!(c, 'a' | 'i')).count();
    1 + u32::try_from(odd).unwrap_or(9) * 100 + 50_u32.saturating_sub(generation)
}

fn is_owner(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.len() == 12
        || matches!(text, "self" | "amazon" | "aws-marketplace")
}

fn chosen(image: Image) -> Chosen {
    let root = image
        .block_device_mapping
        .item
        .iter()
        .find(|d| d.device_name == image.root_device_name);
    Chosen {
        size: root.and_then(|d| d.ebs.as_ref()?.volume_size).unwrap_or_default(),
        device: if image.root_device_name.is_empty() {
            "/dev/xvda".to_owned()
        } else {
            image.root_device_name
        },
        name: if image.name.is_empty() {
            image.image_id.clone()
        } else {
            image.name
        },
        id: image.image_id,
    }
}

fn no_image(wanted: &str, region: &str, why: Option<&str>) -> ProviderError {
    let why = why.map_or_else(String::new, |w| format!(": {w}"));
    let families: Vec<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
    error(Code::NotFound, format!("no image {wanted} for x86_64 in {region}{why}")).with_hint(format!(
        "--image with ami-…, ssm:/path, OWNER/NAME*, the name of one of your own, or {}",
        families.join(", ")
    ))
}

/// GiB of disk: as asked for, never less than the image has.
pub(super) fn disk(wish: &MachineWish, image: &Chosen) -> u64 {
    /// Room for an operating system, and an environment of some gigabytes.
    const DEFAULT: u64 = 30;
    let asked = wish.disk.map_or(DEFAULT, |bytes| bytes.div_ceil(1 << 30));
    asked.max(image.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn among_equals_the_newer_and_plainer_comes_first() {
        let mut names = [
            "m5.large",
            "m7i.large",
            "m6id.large",
            "t3.large",
            "m6in.large",
            "m7a.large",
        ];
        names.sort_by_key(|n| (rank(n), *n));
        assert_eq!(
            names,
            [
                "t3.large",
                "m7a.large",
                "m7i.large",
                "m5.large",
                "m6id.large",
                "m6in.large"
            ]
        );
    }

    #[test]
    fn a_disk_is_never_smaller_than_the_image() {
        let image = |size| Chosen {
            id: String::new(),
            name: String::new(),
            device: String::new(),
            size,
        };
        let wish = |disk| MachineWish {
            disk,
            ..MachineWish::default()
        };
        assert_eq!(disk(&wish(None), &image(8)), 30);
        assert_eq!(disk(&wish(None), &image(80)), 80);
        assert_eq!(disk(&wish(Some(60_000_000_000)), &image(8)), 56);
    }
}
