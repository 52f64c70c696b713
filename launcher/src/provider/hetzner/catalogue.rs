//! Machine types with prices, and images.

use herdsman_wire::{Code, Role};

use super::super::ProviderError;
use super::super::cloud::{Money, Need, Offer, choose, error};
use super::Hetzner;
use super::answers::{Image, Prices, Pricing, ServerType};

/// Family where nobody names an image.
const FAMILY: &str = "debian";

/// Where nothing was asked for. Dask's scheduler is one thread and needs memory for
/// its graph; a worker's default is what the smallest common machines have.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 4 << 30);

/// Architectures that there is an agent for.
const ARCHS: &[&str] = &["x86_64"];

/// A type and the disk that comes with it.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) offer: Offer,
    /// Bytes.
    pub(super) disk: u64,
}

/// An image as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Id or name, as the API takes it.
    pub(super) id: String,
    pub(super) name: String,
}

impl Hetzner {
    /// Types that some of the locations have.
    pub(super) async fn kinds(&self) -> Result<&[Kind], ProviderError> {
        let find = || async {
            let (types, pricing) = tokio::try_join!(self.api.all::<ServerType>("/server_types", &[]), self.pricing())?;
            let wanted = &self.settings.locations;
            Ok(types
                .iter()
                .filter_map(|t| kind(t, wanted, &pricing.currency))
                .collect())
        };
        self.kinds.get_or_try_init(find).await.map(Vec::as_slice)
    }

    pub(super) async fn pricing(&self) -> Result<Pricing, ProviderError> {
        let get = || async { Ok(self.api.get::<Prices>("/pricing").await?.pricing) };
        self.pricing.get_or_try_init(get).await.cloned()
    }

    pub(super) async fn catalogue(&self) -> Result<Vec<Offer>, ProviderError> {
        self.zone().await?;
        Ok(self.kinds().await?.iter().map(|k| k.offer.clone()).collect())
    }

    /// Types for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let wish = self.settings.common.wish(role);
        let kinds = self.kinds().await?;
        let room = |k: &&Kind| !wish.types.is_empty() || wish.disk.is_none_or(|d| k.disk >= d);
        let offers: Vec<Offer> = kinds.iter().filter(room).map(|k| k.offer.clone()).collect();
        let (what, (cpus, memory)) = match role {
            Role::Scheduler => ("scheduler", SCHEDULER),
            Role::Worker => ("workers", WORKER),
        };
        let chosen = choose(
            &offers,
            &Need {
                wish,
                cpus,
                memory,
                archs: ARCHS,
                what,
                spot: false,
            },
        )?;
        for offer in &chosen {
            let disk = kinds.iter().find(|k| k.offer.name == offer.name).map_or(0, |k| k.disk);
            if let Some(wanted) = wish.disk.filter(|d| *d > disk) {
                let text = format!(
                    "{what}: {} comes with a disk of {} GB, and {} GB are wanted",
                    offer.name,
                    disk / 1_000_000_000,
                    wanted / 1_000_000_000
                );
                return Err(
                    error(Code::Usage, text).with_hint("leave the type out, and one with such a disk is chosen")
                );
            }
            if !offer.current {
                let text = format!("{what}: type {} is not given to new machines any more", offer.name);
                let like = kinds.iter().find(|k| {
                    k.offer.current
                        && k.offer.arch == offer.arch
                        && k.offer.cpus >= offer.cpus
                        && k.offer.memory >= offer.memory
                });
                let hint = like.map_or_else(
                    || "herdsman sizes hetzner".to_owned(),
                    |k| format!("--type {}", k.offer.name),
                );
                return Err(error(Code::Usage, text).with_hint(hint));
            }
        }
        Ok(chosen)
    }

    /// Disk of a type, bytes.
    pub(super) async fn disk(&self, name: &str) -> Result<u64, ProviderError> {
        let kinds = self.kinds().await?;
        Ok(kinds.iter().find(|k| k.offer.name == name).map_or(0, |k| k.disk))
    }

    /// The image, looked up once.
    pub(super) async fn image(&self) -> Result<Chosen, ProviderError> {
        self.image.get_or_try_init(|| self.find_image()).await.cloned()
    }

    async fn find_image(&self) -> Result<Chosen, ProviderError> {
        #[derive(serde::Deserialize)]
        struct One {
            image: Image,
        }
        let wanted = self.settings.common.image.as_deref().unwrap_or(FAMILY);
        if wanted.bytes().all(|b| b.is_ascii_digit()) {
            let one: One = self.api.get(&format!("/images/{wanted}")).await?;
            return Ok(chosen(&one.image));
        }
        let system = [("type", "system"), ("architecture", "x86"), ("status", "available")];
        let images: Vec<Image> = self.api.all("/images", &system).await?;
        if let Some(found) = images.iter().find(|i| i.name.as_deref() == Some(wanted)) {
            return Ok(chosen(found));
        }
        if let Some(found) = newest(&images, wanted) {
            return Ok(chosen(found));
        }
        let own = [("type", "snapshot"), ("architecture", "x86"), ("status", "available")];
        let own: Vec<Image> = self.api.all("/images", &own).await?;
        let called = own.iter().filter(|i| i.description == wanted);
        let last = called.max_by(|a, b| (&a.created, a.id).cmp(&(&b.created, b.id)));
        last.map(chosen).ok_or_else(|| {
            let names: Vec<&str> = images.iter().filter_map(|i| i.name.as_deref()).collect();
            error(Code::NotFound, format!("no image {wanted} for x86_64")).with_hint(format!(
                "--image with the id or description of a snapshot of yours, or {}",
                names.join(", ")
            ))
        })
    }
}

/// The newest image of a family that is not on its way out.
fn newest<'i>(images: &'i [Image], family: &str) -> Option<&'i Image> {
    let version = |i: &Image| -> Vec<u32> {
        let text = i.os_version.as_deref().unwrap_or_default();
        text.split('.').map(|p| p.parse().unwrap_or(0)).collect()
    };
    let of_family = images.iter().filter(|i| {
        // Names with more than family and version are applications on top of one.
        let plain = i.name.as_deref() == Some(&format!("{family}-{}", i.os_version.as_deref().unwrap_or_default()));
        i.os_flavor == family && i.deprecated.is_none() && plain && i.architecture == "x86"
    });
    of_family.max_by_key(|i| version(i))
}

fn chosen(image: &Image) -> Chosen {
    Chosen {
        // A name stands for two images, one for each architecture; an id for one.
        id: image.id.to_string(),
        name: image.name.clone().unwrap_or_else(|| image.description.clone()),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of machines"
)]
fn kind(t: &ServerType, wanted: &[String], currency: &str) -> Option<Kind> {
    let here = |name: &String| t.locations.iter().find(|l| l.name == *name);
    let zones: Vec<String> = wanted.iter().filter(|w| here(w).is_some()).cloned().collect();
    let first = zones.first()?;
    let price = t.prices.iter().find(|p| p.location == *first);
    let price = price.and_then(|p| p.price_hourly.net.parse::<f64>().ok());
    let alive = zones.iter().any(|z| here(z).is_some_and(|l| l.deprecation.is_none()));
    Some(Kind {
        offer: Offer {
            name: t.name.clone(),
            arch: match t.architecture.as_str() {
                "x86" => "x86_64".to_owned(),
                "arm" => "aarch64".to_owned(),
                other => other.to_owned(),
            },
            cpus: t.cores,
            memory: (t.memory * f64::from(1 << 30)) as u64,
            gpus: 0,
            gpu: None,
            price: price.map(|per_hour| Money {
                per_hour,
                currency: currency.to_owned(),
            }),
            spot: None,
            zones,
            current: alive && t.deprecation.is_none(),
            rank: u32::from(t.cpu_type != "shared"),
        },
        disk: (t.disk * 1e9) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, flavor: &str, version: &str, deprecated: bool) -> Image {
        serde_json::from_value(serde_json::json!({
            "id": 1, "name": name, "os_flavor": flavor, "os_version": version, "architecture": "x86",
            "deprecated": deprecated.then_some("2026-01-01T00:00:00Z"),
        }))
        .unwrap()
    }

    #[test]
    fn a_family_means_its_newest_image() {
        let all = [
            image("debian-9", "debian", "9", false),
            image("debian-12", "debian", "12", false),
            image("debian-13", "debian", "13", true),
            image("ubuntu-24.04", "ubuntu", "24.04", false),
            image("ubuntu-22.04", "ubuntu", "22.04", false),
            image("docker-ce", "ubuntu", "26.04", false),
        ];
        let name = |family| newest(&all, family).and_then(|i| i.name.clone());
        assert_eq!(name("debian").as_deref(), Some("debian-12"));
        assert_eq!(name("ubuntu").as_deref(), Some("ubuntu-24.04"));
        assert_eq!(name("plan9"), None);
    }

    #[test]
    fn a_type_is_what_the_wanted_locations_have() {
        let t: ServerType = serde_json::from_value(serde_json::json!({
            "name": "cpx22", "architecture": "x86", "cores": 2, "memory": 4.0, "disk": 80, "cpu_type": "shared",
            "deprecation": null,
            "locations": [
                {"id": 1, "name": "fsn1", "deprecation": {"announced": "x", "unavailable_after": "y"}},
                {"id": 2, "name": "nbg1", "deprecation": null}],
            "prices": [
                {"location": "fsn1", "price_hourly": {"net": "0.0100000000", "gross": "0.0119"}},
                {"location": "nbg1", "price_hourly": {"net": "0.0120", "gross": "0.0143"}}],
        }))
        .unwrap();
        let at = |wanted: &[&str]| kind(&t, &wanted.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "EUR");
        let nbg = at(&["ash", "nbg1"]).unwrap();
        assert!(nbg.offer.current && nbg.offer.zones == ["nbg1"]);
        assert_eq!(nbg.offer.price.as_ref().unwrap().to_string(), "0.012 EUR/h");
        assert_eq!((nbg.offer.memory, nbg.disk), (4 << 30, 80_000_000_000));
        assert!(!at(&["fsn1"]).unwrap().offer.current);
        assert!(at(&["ash"]).is_none());
    }
}
