//! Sizes with prices, images and keys.

use herdsman_wire::{Code, Role};
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::{Money, Need, Offer, choose, error};
use super::DigitalOcean;
use super::answers::{Image, Key, OneImage, Size};

/// Family where nobody names an image.
const FAMILY: &str = "debian";

/// Where nothing was asked for. Dask's scheduler is one thread and needs memory for
/// its graph; a worker's default is what the smallest common machines have.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 4 << 30);

/// A size and the disk that comes with it.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) offer: Offer,
    /// Bytes.
    pub(super) disk: u64,
}

/// An image as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Slug or id, as the API takes it.
    pub(super) id: Value,
    pub(super) name: String,
}

impl DigitalOcean {
    /// Sizes that the region has.
    pub(super) async fn kinds(&self) -> Result<&[Kind], ProviderError> {
        let find = || async {
            let sizes: Vec<Size> = self.api.all("/v2/sizes", "sizes", &[]).await?;
            Ok::<_, ProviderError>(
                sizes
                    .iter()
                    .filter_map(|s| kind(s, &self.settings.region))
                    .collect::<Vec<_>>(),
            )
        };
        let kinds = self.kinds.get_or_try_init(find).await?;
        if kinds.is_empty() {
            let text = format!("no size can be had in region {}", self.settings.region);
            return Err(error(Code::Usage, text).with_hint("doctl compute region list     shows the regions"));
        }
        Ok(kinds)
    }

    pub(super) async fn catalogue(&self) -> Result<Vec<Offer>, ProviderError> {
        Ok(self.kinds().await?.iter().map(|k| k.offer.clone()).collect())
    }

    /// Sizes for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let wish = self.settings.common.wish(role);
        let kinds = self.kinds().await?;
        let room = |k: &&Kind| !wish.types.is_empty() || wish.disk.is_none_or(|d| k.disk >= d);
        let offers: Vec<Offer> = kinds.iter().filter(room).map(|k| k.offer.clone()).collect();
        let (what, (cpus, memory)) = match role {
            Role::Scheduler => ("scheduler", SCHEDULER),
            Role::Worker => ("workers", WORKER),
        };
        let need = Need {
            wish,
            cpus,
            memory,
            archs: &["x86_64"],
            what,
            spot: false,
        };
        let chosen = choose(&offers, &need)?;
        for offer in &chosen {
            let disk = kinds.iter().find(|k| k.offer.name == offer.name).map_or(0, |k| k.disk);
            if let Some(wanted) = wish.disk.filter(|d| *d > disk) {
                let (has, wanted) = (disk / 1_000_000_000, wanted / 1_000_000_000);
                let text = format!(
                    "{what}: {} comes with a disk of {has} GB, and {wanted} GB are wanted",
                    offer.name
                );
                return Err(
                    error(Code::Usage, text).with_hint("leave the type out, and one with such a disk is chosen")
                );
            }
        }
        Ok(chosen)
    }

    /// Disk of a size, bytes.
    pub(super) async fn disk(&self, name: &str) -> Result<u64, ProviderError> {
        let kinds = self.kinds().await?;
        Ok(kinds.iter().find(|k| k.offer.name == name).map_or(0, |k| k.disk))
    }

    /// The image, looked up once.
    pub(super) async fn image(&self) -> Result<Chosen, ProviderError> {
        self.image.get_or_try_init(|| self.find_image()).await.cloned()
    }

    async fn find_image(&self) -> Result<Chosen, ProviderError> {
        let wanted = self.settings.common.image.as_deref().unwrap_or(FAMILY);
        let region = &self.settings.region;
        if wanted.bytes().all(|b| b.is_ascii_digit()) {
            let one: OneImage = self.api.get(&format!("/v2/images/{wanted}")).await?;
            return self.usable(&one.image);
        }
        let all: Vec<Image> = self
            .api
            .all("/v2/images", "images", &[("type", "distribution")])
            .await?;
        if let Some(found) = all.iter().find(|i| i.slug.as_deref() == Some(wanted)) {
            return self.usable(found);
        }
        let here: Vec<&Image> = all.iter().filter(|i| i.regions.contains(region)).collect();
        if let Some(found) = newest(&here, wanted) {
            return self.usable(found);
        }
        let own: Vec<Image> = self.api.all("/v2/images", "images", &[("private", "true")]).await?;
        let named = own.iter().filter(|i| i.name == wanted && i.regions.contains(region));
        match named.max_by(|a, b| (&a.created_at, a.id).cmp(&(&b.created_at, b.id))) {
            Some(found) => self.usable(found),
            None => {
                let slugs: Vec<&str> = here.iter().filter_map(|i| i.slug.as_deref()).collect();
                let text = format!("no image {wanted} in {region}");
                Err(error(Code::NotFound, text).with_hint(format!(
                    "--image with the id or name of one of yours, or {}",
                    slugs.join(", ")
                )))
            }
        }
    }

    fn usable(&self, image: &Image) -> Result<Chosen, ProviderError> {
        let region = &self.settings.region;
        if !image.regions.contains(region) {
            let text = format!(
                "image {} is not in {region}, but in {}",
                image.name,
                image.regions.join(", ")
            );
            return Err(error(Code::Usage, text));
        }
        Ok(chosen(image))
    }

    /// Ids of the user's keys, as the API takes them.
    pub(super) async fn keys(&self) -> Result<Vec<u64>, ProviderError> {
        #[derive(serde::Deserialize)]
        struct One {
            ssh_key: Key,
        }
        let mut ids = Vec::new();
        let mut named: Option<Vec<Key>> = None;
        for key in self.settings.ssh_keys() {
            if let Ok(id) = key.parse() {
                ids.push(id);
            } else if key.matches(':').count() == 15 {
                let one: One = self.api.get(&format!("/v2/account/keys/{key}")).await?;
                ids.push(one.ssh_key.id);
            } else {
                let all = match &named {
                    Some(all) => all,
                    None => named.insert(self.api.all("/v2/account/keys", "ssh_keys", &[]).await?),
                };
                let missing = || error(Code::NotFound, format!("the account has no SSH key {key}"));
                ids.push(all.iter().find(|k| k.name == key).ok_or_else(missing)?.id);
            }
        }
        Ok(ids)
    }
}

/// An image of one's own has no slug, or an empty one.
fn chosen(image: &Image) -> Chosen {
    let slug = image.slug.as_deref().filter(|s| !s.is_empty());
    Chosen {
        id: slug.map_or_else(|| image.id.into(), Value::from),
        name: slug.map_or_else(|| image.name.clone(), str::to_owned),
    }
}

/// The newest image of a family: `debian`, `ubuntu-24.04`.
fn newest<'i>(images: &[&'i Image], family: &str) -> Option<&'i Image> {
    let family = family.replace('.', "-");
    let version = |i: &Image| -> Option<Vec<u32>> {
        let rest = i.slug.as_deref()?.strip_suffix("-x64")?.strip_prefix(family.as_str())?;
        let mut parts = rest.split('-');
        if !parts.next()?.is_empty() {
            return None;
        }
        parts.map(|p| p.parse().ok()).collect()
    };
    // Of Ubuntu those are meant that are looked after for years.
    let lasting = |i: &&&Image| {
        i.distribution != "Ubuntu" || version(i).is_some_and(|v| v.is_empty() || matches!(v[..], [y, 4] if y % 2 == 0))
    };
    images
        .iter()
        .filter(lasting)
        .filter(|i| version(i).is_some())
        .max_by_key(|i| version(i))
        .copied()
}

fn kind(s: &Size, region: &str) -> Option<Kind> {
    s.regions.iter().any(|r| r == region).then(|| Kind {
        offer: Offer {
            name: s.slug.clone(),
            arch: "x86_64".to_owned(),
            cpus: s.vcpus,
            memory: s.memory << 20,
            gpus: s.gpu_info.as_ref().map_or(0, |g| g.count.max(1)),
            gpu: s.gpu_info.as_ref().map(|g| g.model.clone()),
            price: Some(Money::usd(s.price_hourly)),
            spot: None,
            zones: vec![region.to_owned()],
            current: s.available,
            rank: u32::from(s.description != "Basic"),
        },
        disk: s.disk * 1_000_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(slug: &str, distribution: &str) -> Image {
        serde_json::from_value(serde_json::json!({
            "id": 1, "slug": slug, "name": slug, "distribution": distribution, "regions": ["nyc3"],
        }))
        .unwrap()
    }

    #[test]
    fn a_family_means_its_newest_image() {
        let all = [
            image("debian-12-x64", "Debian"),
            image("debian-13-x64", "Debian"),
            image("debian-9-x64", "Debian"),
            image("ubuntu-22-04-x64", "Ubuntu"),
            image("ubuntu-24-04-x64", "Ubuntu"),
            image("ubuntu-25-04-x64", "Ubuntu"),
            image("ubuntu-25-10-x64", "Ubuntu"),
            image("gpu-h100x1-base", "Ubuntu"),
        ];
        let all: Vec<&Image> = all.iter().collect();
        let slug = |family| newest(&all, family).and_then(|i| i.slug.clone());
        assert_eq!(slug("debian").as_deref(), Some("debian-13-x64"));
        assert_eq!(slug("debian-12").as_deref(), Some("debian-12-x64"));
        assert_eq!(slug("ubuntu").as_deref(), Some("ubuntu-24-04-x64"));
        assert_eq!(slug("ubuntu-22.04").as_deref(), Some("ubuntu-22-04-x64"));
        assert_eq!(slug("deb"), None);
    }

    #[test]
    fn recorded_answers_are_read() {
        #[derive(serde::Deserialize)]
        struct All {
            #[serde(default)]
            sizes: Vec<Size>,
            #[serde(default)]
            images: Vec<Image>,
        }
        let sizes: All = serde_json::from_str(include_str!("../../../../tests/data/digitalocean/sizes.json")).unwrap();
        let found: Vec<Kind> = sizes.sizes.iter().filter_map(|s| kind(s, "ams1")).collect();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|k| k.offer.current && k.offer.gpus == 0));
        let images: All =
            serde_json::from_str(include_str!("../../../../tests/data/digitalocean/images.json")).unwrap();
        let ids: Vec<Value> = images.images.iter().map(|i| chosen(i).id).collect();
        assert_eq!(
            ids,
            [
                Value::from("ubuntu-14-04-x64"),
                "ubuntu-14-04-x32".into(),
                449_676_856.into()
            ]
        );
        let all: Vec<&Image> = images.images.iter().collect();
        assert_eq!(newest(&all, "ubuntu").unwrap().id, 119_192_817);
    }

    #[test]
    fn a_size_is_what_the_region_has() {
        let size: Size = serde_json::from_value(serde_json::json!({
            "slug": "gpu-h100x1-80gb", "memory": 245_760, "vcpus": 20, "disk": 720, "price_hourly": 3.39,
            "regions": ["tor1"], "available": true, "description": "H100 GPU - 1X",
            "gpu_info": {"count": 1, "model": "nvidia_h100", "vram": {"amount": 80, "unit": "gib"}},
        }))
        .unwrap();
        assert!(kind(&size, "nyc3").is_none());
        let k = kind(&size, "tor1").unwrap();
        assert_eq!((k.offer.gpus, k.offer.memory >> 30, k.disk), (1, 240, 720_000_000_000));
    }
}
