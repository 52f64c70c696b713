//! Images and machine types.

use std::collections::BTreeSet;

use herdsman_wire::{Code, Role};
use serde_json::{Value, json};

use super::super::ProviderError;
use super::super::cloud::{MachineWish, Need, Offer, Spot, choose, error};
use super::answers::{ImageVersion, Resource, Sku};
use super::api::version;
use super::{Azure, names};

/// Families: publisher, offer and sku of the vendor's marketplace, whose newest version
/// is taken. All are images of the second generation.
const FAMILIES: &[(&str, &str)] = &[
    ("debian-13", "Debian:debian-13:13-gen2"),
    ("debian-12", "Debian:debian-12:12-gen2"),
    ("ubuntu-24.04", "Canonical:ubuntu-24_04-lts:server"),
    ("ubuntu-22.04", "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2"),
];
/// Family where nobody names an image.
const FAMILY: &str = "debian-13";

/// Where nothing was asked for; as on other clouds.
const SCHEDULER: (u32, u64) = (2, 4 << 30);
const WORKER: (u32, u64) = (2, 8 << 30);

/// GiB of disk where nothing was asked for, which is also what most images have.
const DISK: u64 = 30;

/// An image as the API takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// Of the marketplace.
    Market {
        publisher: String,
        offer: String,
        sku: String,
        version: String,
    },
    /// Of the user's: an image, or one of a gallery.
    Own(String),
    /// Of a gallery that somebody shares.
    Shared(String),
    /// Of a gallery that everybody may use.
    Community(String),
}

impl Image {
    /// `PUBLISHER:OFFER:SKU[:VERSION]`, an id, or a family.
    ///
    /// # Errors
    /// `E-USAGE` naming the forms.
    pub(super) fn parse(text: &str) -> Result<Self, ProviderError> {
        let family = FAMILIES.iter().find(|(name, _)| *name == text);
        let text = family.map_or(text, |(_, urn)| urn);
        let lower = text.to_ascii_lowercase();
        if names::is_id(text) {
            return Ok(Self::Own(text.to_owned()));
        }
        if lower.starts_with("/sharedgalleries/") {
            return Ok(Self::Shared(text.to_owned()));
        }
        if lower.starts_with("/communitygalleries/") {
            return Ok(Self::Community(text.to_owned()));
        }
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [publisher, offer, sku, rest @ ..] if rest.len() < 2 && parts.iter().all(|p| is_part(p)) => {
                Ok(Self::Market {
                    publisher: (*publisher).to_owned(),
                    offer: (*offer).to_owned(),
                    sku: (*sku).to_owned(),
                    version: rest.first().copied().unwrap_or("latest").to_owned(),
                })
            }
            _ => {
                let families: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
                Err(error(Code::Usage, format!("{text} is no image")).with_hint(format!(
                    "--image with PUBLISHER:OFFER:SKU[:VERSION], the id of an image, or {}",
                    families.join(", ")
                )))
            }
        }
    }

    pub(super) fn reference(&self) -> Value {
        match self {
            Self::Market {
                publisher,
                offer,
                sku,
                version,
            } => json!({"publisher": publisher, "offer": offer, "sku": sku, "version": version}),
            Self::Own(id) => json!({"id": id}),
            Self::Shared(id) => json!({"sharedGalleryImageId": id}),
            Self::Community(id) => json!({"communityGalleryImageId": id}),
        }
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Market {
                publisher,
                offer,
                sku,
                version,
            } => write!(f, "{publisher}:{offer}:{sku}:{version}"),
            Self::Own(id) | Self::Shared(id) | Self::Community(id) => f.write_str(id),
        }
    }
}

/// What may stand in a path of the API as it is.
fn is_part(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// All types of a region, and which of them may be taken away.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) offers: Vec<Offer>,
    spot: BTreeSet<String>,
    /// Quota families by type.
    families: Vec<(String, String)>,
}

impl Catalogue {
    /// The quota that counts a type's processors.
    pub(super) fn family(&self, kind: &str) -> Option<&str> {
        let found = self.families.iter().find(|(name, _)| name == kind);
        found.map(|(_, family)| family.as_str())
    }
}

impl Azure {
    /// The image of the settings.
    ///
    /// # Errors
    /// `E-USAGE` when it is none.
    pub(super) fn image(&self) -> Result<Image, ProviderError> {
        Image::parse(self.settings.common.image.as_deref().unwrap_or(FAMILY))
    }

    /// The image with the version that its newest is just now.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when the region has none of it.
    pub(super) async fn found_image(&self) -> Result<Image, ProviderError> {
        let image = self.image()?;
        let region = &self.settings.region;
        let missing = |e: ProviderError| match e.code {
            Code::NotFound => error(Code::NotFound, format!("no image {image} in {region}: {}", e.message))
                .with_hint("az vm image list --all --publisher Debian --output table     shows images"),
            _ => e,
        };
        match &image {
            Image::Market {
                publisher,
                offer,
                sku,
                version: wanted,
            } => {
                let path = format!(
                    "/subscriptions/{}/providers/Microsoft.Compute/locations/{region}/publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
                    self.subscription()?
                );
                let newest = [("$top", "1"), ("$orderby", "name desc")];
                let pairs = if wanted == "latest" { &newest[..] } else { &[] };
                let found: Vec<ImageVersion> = self
                    .api
                    .get("VirtualMachineImages_List", &path, version::COMPUTE, pairs)
                    .await
                    .map_err(missing)?;
                let one = found.into_iter().find(|v| wanted == "latest" || v.name == *wanted);
                let one = one.ok_or_else(|| missing(error(Code::NotFound, "it has no version")))?;
                Ok(Image::Market {
                    publisher: publisher.clone(),
                    offer: offer.clone(),
                    sku: sku.clone(),
                    version: one.name,
                })
            }
            Image::Own(id) => {
                let (action, of) = match (names::part(id, "galleries"), names::part(id, "versions")) {
                    (Some(_), Some(_)) => ("GalleryImageVersions_Get", version::GALLERIES),
                    (Some(_), None) => ("GalleryImages_Get", version::GALLERIES),
                    (None, _) => ("Images_Get", version::COMPUTE),
                };
                let _: Resource = self.api.get(action, id, of, &[]).await.map_err(missing)?;
                Ok(image)
            }
            Image::Shared(_) | Image::Community(_) => Ok(image),
        }
    }

    /// Types for a role in the order in which they are tried.
    pub(super) async fn types(&self, role: Role) -> Result<Vec<Offer>, ProviderError> {
        let all = self.catalogue().await?;
        let wish = self.settings.common.wish(role);
        let zones = self.settings.zones();
        let spot = self.is_spot(role);
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
        let offers: Vec<Offer> = all.offers.to_vec();
        if !wish.types.is_empty() {
            return choose(&offers, &need);
        }
        let fits = |o: &Offer| {
            (spot == Spot::Never || all.spot.contains(&o.name))
                && (zones.is_empty() || zones.iter().any(|z| o.zones.contains(z)))
        };
        let offers: Vec<Offer> = offers.into_iter().filter(fits).collect();
        choose(&offers, &need)
    }

    /// Whether machines of a role may be taken away. The scheduler holds everything.
    pub(super) const fn is_spot(&self, role: Role) -> Spot {
        match role {
            Role::Scheduler => Spot::Never,
            Role::Worker => self.settings.common.spot,
        }
    }

    /// All types of the region, looked up once.
    pub(super) async fn catalogue(&self) -> Result<&Catalogue, ProviderError> {
        self.catalogue.get_or_try_init(|| self.find_types()).await
    }

    /// Types by their names alone, for those who may see a group and not the catalogue,
    /// which is the subscription's.
    fn named_types(&self, e: ProviderError) -> Result<Catalogue, ProviderError> {
        let common = &self.settings.common;
        let wishes = [&common.scheduler, &common.worker];
        if wishes.iter().any(|w| w.types.is_empty()) {
            return Err(e
                .with_hint("herdsman up … --type T --scheduler-type T     need no catalogue")
                .with_hint("az role assignment create --role Reader --scope /subscriptions/…     shows it"));
        }
        let mut names: Vec<&String> = wishes.iter().flat_map(|w| &w.types).collect();
        names.sort();
        names.dedup();
        let offer = |name: &&String| Offer {
            name: (*name).clone(),
            arch: "x86_64".into(),
            cpus: 0,
            memory: 0,
            gpus: 0,
            gpu: None,
            price: None,
            spot: None,
            zones: Vec::new(),
            current: true,
            rank: 0,
        };
        Ok(Catalogue {
            offers: names.iter().map(offer).collect(),
            spot: BTreeSet::new(),
            families: Vec::new(),
        })
    }

    async fn find_types(&self) -> Result<Catalogue, ProviderError> {
        let path = format!(
            "/subscriptions/{}/providers/Microsoft.Compute/skus",
            self.subscription()?
        );
        let filter = format!("location eq '{}'", self.settings.region);
        let filter = [("$filter", filter.as_str())];
        let listed = self.api.list("ResourceSkus_List", &path, version::SKUS, &filter);
        let skus: Vec<Sku> = match listed.await {
            Err(e) if e.code == Code::Permission && self.settings.group.is_some() => return self.named_types(e),
            other => other?,
        };
        let mut all = Catalogue {
            offers: Vec::new(),
            spot: BTreeSet::new(),
            families: Vec::new(),
        };
        for sku in skus
            .iter()
            .filter(|s| s.resource_type.eq_ignore_ascii_case("virtualMachines"))
        {
            let Some(offer) = offer(sku) else { continue };
            if sku.can("LowPriorityCapable").is_some_and(is_true) {
                all.spot.insert(offer.name.clone());
            }
            all.families.push((offer.name.clone(), sku.family.clone()));
            all.offers.push(offer);
        }
        if all.offers.is_empty() {
            let text = format!("there are no machine types in {}", self.settings.region);
            return Err(
                error(Code::NotFound, text).with_hint("az account list-locations --output table     shows regions")
            );
        }
        Ok(all)
    }
}

fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

fn offer(sku: &Sku) -> Option<Offer> {
    let number = |name: &str| sku.can(name)?.parse::<f64>().ok();
    let whole = |name: &str| sku.can(name)?.parse::<u32>().ok();
    let memory = number("MemoryGB")?;
    let gpus = whole("GPUs").unwrap_or(0);
    // What is kept from this subscription, whole or in some zones.
    let restricted = |kind: &'static str| {
        sku.restrictions
            .iter()
            .filter(move |r| r.kind.eq_ignore_ascii_case(kind))
    };
    let closed: Vec<&String> = restricted("Zone").flat_map(|r| &r.restriction_info.zones).collect();
    let mut zones: Vec<String> = sku.location_info.iter().flat_map(|l| l.zones.clone()).collect();
    zones.retain(|z| !closed.contains(&z));
    zones.sort();
    let generations = sku.can("HyperVGenerations").unwrap_or("V1,V2");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some gigabytes, and never below 0"
    )]
    let bytes = (memory.max(0.0) * 1_073_741_824.0) as u64;
    Some(Offer {
        name: sku.name.clone(),
        arch: match sku.can("CpuArchitectureType") {
            Some(a) if a.eq_ignore_ascii_case("arm64") => "aarch64".into(),
            _ => "x86_64".into(),
        },
        cpus: whole("vCPUsAvailable").or_else(|| whole("vCPUs"))?,
        memory: bytes,
        gpus,
        gpu: (gpus > 0).then(|| card(sku)),
        price: None,
        spot: None,
        current: restricted("Location").next().is_none() && generations.contains("V2"),
        zones,
        rank: rank(&sku.name),
    })
}

/// What is known of the name of a type's graphics processors. The catalogue has only
/// their number.
fn card(sku: &Sku) -> String {
    let all = format!("{} {}", sku.name, sku.family).to_ascii_uppercase();
    let known = ["H200", "H100", "A100", "MI300X", "A10", "T4", "V710", "GB200"];
    if let Some(found) = known.iter().find(|k| all.contains(*k)) {
        let vendor = if matches!(*found, "MI300X" | "V710") {
            "AMD"
        } else {
            "NVIDIA"
        };
        return format!("{vendor} {found}");
    }
    if all.contains("NC") && all.contains("V3") || all.contains("ND") && all.contains("V2") {
        return "NVIDIA V100".into();
    }
    sku.family.clone()
}

/// Among types of one size: burstable ones cost less, then those for work of any kind,
/// the newer and plainer the better. `Standard_D2ads_v5` is of family D, with extras
/// `ads`, in version 5.
fn rank(name: &str) -> u32 {
    let bare = name.strip_prefix("Standard_").unwrap_or(name);
    let mut parts = bare.split('_');
    let first = parts.next().unwrap_or_default();
    let version = parts
        .next_back()
        .and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok())
        .unwrap_or(1);
    let family: String = first.chars().take_while(char::is_ascii_uppercase).collect();
    let extras = first.chars().skip_while(|c| !c.is_ascii_digit());
    let odd = extras.filter(|c| c.is_ascii_lowercase() && !matches!(c, 'a' | 's') || *c == '-');
    let base = match family.as_str() {
        "B" => 0,
        "D" | "E" | "F" => 1000,
        _ => 3000,
    };
    base + 100 * u32::try_from(odd.count()).unwrap_or(9) + 50_u32.saturating_sub(version)
}

/// GiB of disk.
pub(super) fn disk(wish: &MachineWish) -> u64 {
    wish.disk.map_or(DISK, |bytes| bytes.div_ceil(1 << 30)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_many_names() {
        let urn = |t: &str| Image::parse(t).unwrap().to_string();
        assert_eq!(urn("debian-13"), "Debian:debian-13:13-gen2:latest");
        assert_eq!(urn("Canonical:a:b:1.2.3"), "Canonical:a:b:1.2.3");
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/i";
        assert_eq!(Image::parse(id).unwrap().reference(), json!({"id": id}));
        let shared = Image::parse("/CommunityGalleries/g/Images/i/Versions/latest").unwrap();
        assert!(shared.reference()["communityGalleryImageId"].is_string());
        for bad in ["", "debian", "a:b", "a:b:c:d:e", "a:b:../../x"] {
            assert_eq!(Image::parse(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
    }

    #[test]
    fn among_equals_the_newer_and_plainer_comes_first() {
        let mut all = [
            "Standard_D2s_v3",
            "Standard_D2ads_v5",
            "Standard_D2s_v5",
            "Standard_B2ms",
            "Standard_E4-2s_v5",
            "Standard_DC2s_v3",
        ];
        all.sort_by_key(|n| rank(n));
        assert_eq!(
            all,
            [
                "Standard_B2ms",
                "Standard_D2s_v5",
                "Standard_D2s_v3",
                "Standard_D2ads_v5",
                "Standard_E4-2s_v5",
                "Standard_DC2s_v3"
            ]
        );
    }

    /// An entry as the vendor documents it, shortened.
    const ENTRY: &str = r#"{
        "resourceType": "virtualMachines", "name": "Standard_NC4as_T4_v3", "tier": "Standard",
        "size": "NC4as_T4_v3", "family": "Standard NCASv3_T4 Family", "locations": ["westus"],
        "locationInfo": [{"location": "westus", "zones": ["2", "1", "3"], "zoneDetails": []}],
        "capabilities": [
            {"name": "MaxResourceVolumeMB", "value": "180224"}, {"name": "vCPUs", "value": "4"},
            {"name": "MemoryGB", "value": "28"}, {"name": "CpuArchitectureType", "value": "x64"},
            {"name": "HyperVGenerations", "value": "V1,V2"}, {"name": "GPUs", "value": "1"},
            {"name": "LowPriorityCapable", "value": "True"}],
        "restrictions": [{"type": "Zone", "values": ["westus"], "reasonCode": "NotAvailableForSubscription",
            "restrictionInfo": {"locations": ["westus"], "zones": ["3"]}}]
    }"#;

    #[test]
    fn an_entry_of_the_catalogue_is_read() {
        let mut sku: Sku = serde_json::from_str(ENTRY).unwrap();
        let o = offer(&sku).unwrap();
        assert_eq!((o.cpus, o.memory >> 30, o.gpus), (4, 28, 1));
        assert_eq!(o.gpu.as_deref(), Some("NVIDIA T4"));
        assert_eq!(o.zones, ["1", "2"]);
        assert!(o.current);
        sku.restrictions[0].kind = "Location".into();
        assert!(!offer(&sku).unwrap().current);
    }
}
