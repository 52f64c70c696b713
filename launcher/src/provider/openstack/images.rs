//! Which image machines start from. There are no names that all clouds share, so that a
//! family is found by properties or by the words of a name, and the newest is taken.

use herdsman_wire::Code;

use super::super::ProviderError;
use super::super::cloud::error;
use super::OpenStack;
use super::answers::Image;
use super::api::Service;

/// Families, the first of which is taken where nobody names an image: distribution,
/// version, and its other name.
const FAMILIES: [(&str, &str, &str); 4] = [
    ("debian", "13", "trixie"),
    ("ubuntu", "24.04", "noble"),
    ("debian", "12", "bookworm"),
    ("ubuntu", "22.04", "jammy"),
];

/// Words of names that say that an image is for something else, or has no cloud-init.
const OTHER: [&str; 20] = [
    "aarch64",
    "arm64",
    "backup",
    "baremetal",
    "cpanel",
    "cuda",
    "daily",
    "desktop",
    "docker",
    "gpu",
    "k8s",
    "kube",
    "kubernetes",
    "minimal",
    "nocloud",
    "nvidia",
    "plesk",
    "snapshot",
    "test",
    "windows",
];

/// An image as machines need it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) id: String,
    pub(super) name: String,
    /// GiB that a disk must have.
    pub(super) disk: u64,
    /// Bytes of memory that a machine must have.
    pub(super) memory: u64,
}

impl OpenStack {
    /// The image, looked up once.
    pub(super) async fn image(&self) -> Result<Chosen, ProviderError> {
        self.image.get_or_try_init(|| self.find_image()).await.cloned()
    }

    async fn find_image(&self) -> Result<Chosen, ProviderError> {
        let path = "/images?status=active&sort=created_at:desc&limit=500";
        let mut all: Vec<Image> = self.api.list(Service::Image, path, "images").await?;
        all.retain(is_usable);
        let wanted = self.settings.common.image.as_deref();
        let found = match wanted {
            Some(wanted) => find(&all, wanted),
            None => FAMILIES
                .iter()
                .find_map(|f| newest(all.iter().filter(|i| is_of(i, *f)))),
        };
        found.map(chosen).ok_or_else(|| {
            let what = wanted.map_or_else(
                || "no image of Debian or Ubuntu is found here by its name or properties".to_owned(),
                |w| format!("there is no active image {w} for x86_64"),
            );
            let mut names: Vec<&str> = all.iter().filter_map(|i| i.name.as_deref()).take(6).collect();
            names.sort_unstable();
            let e = error(Code::NotFound, format!("{what}; there are {}, …", names.join(", ")));
            e.with_hint("openstack image list --status active  shows all of them")
                .with_hint("herdsman up … --image NAME            by name, id, `debian-12*`, or os_distro=debian,os_version=12")
        })
    }
}

fn is_usable(i: &Image) -> bool {
    let arch = i.property("architecture").unwrap_or("x86_64");
    i.status.as_deref().is_none_or(|s| s == "active") && !i.os_hidden && matches!(arch, "x86_64" | "amd64" | "")
}

fn chosen(i: &Image) -> Chosen {
    Chosen {
        id: i.id.clone(),
        name: i.name.clone().unwrap_or_else(|| i.id.clone()),
        disk: i.min_disk.max(1),
        memory: i.min_ram << 20,
    }
}

fn newest<'i>(images: impl Iterator<Item = &'i Image>) -> Option<&'i Image> {
    images.max_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)))
}

/// By id, name, properties, family, or a name with `*`; the newest of many.
fn find<'i>(all: &'i [Image], wanted: &str) -> Option<&'i Image> {
    if let Some(exact) = all.iter().find(|i| i.id == wanted) {
        return Some(exact);
    }
    let by = |fits: &dyn Fn(&Image) -> bool| newest(all.iter().filter(|i| fits(i)));
    let name = |i: &Image| i.name.clone().unwrap_or_default();
    by(&|i| name(i) == wanted)
        .or_else(|| {
            let family = FAMILIES.iter().find(|(d, v, _)| wanted == format!("{d}-{v}"))?;
            by(&|i| is_of(i, *family))
        })
        .or_else(|| {
            let pairs: Option<Vec<_>> = wanted.split(',').map(|pair| pair.split_once('=')).collect();
            let pairs = pairs?;
            by(&|i| pairs.iter().all(|(k, v)| i.property(k.trim()) == Some(v.trim())))
        })
        .or_else(|| wanted.contains('*').then(|| by(&|i| like(&name(i), wanted))).flatten())
}

/// Whether a name is like a pattern whose `*` stand for anything.
fn like(name: &str, pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return false;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in &parts[1..parts.len().saturating_sub(1)] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether an image is a plain one of a family.
fn is_of(i: &Image, (distribution, version, other_name): (&str, &str, &str)) -> bool {
    let name = i.name.as_deref().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = name
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .filter(|w| !w.is_empty())
        .collect();
    if words.iter().any(|w| OTHER.contains(w)) || i.property("image_type") == Some("snapshot") {
        return false;
    }
    let is_version = |w: &str| w == version || w.strip_prefix(version).is_some_and(|r| r.starts_with('.'));
    let by_properties = i
        .property("os_distro")
        .is_some_and(|d| d.eq_ignore_ascii_case(distribution))
        && i.property("os_version")
            .is_some_and(|v| is_version(v) || v == other_name);
    let by_name = words.contains(&distribution) && words.iter().any(|w| is_version(w) || *w == other_name);
    by_properties || by_name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, created: &str, properties: &[(&str, &str)]) -> Image {
        let mut value = serde_json::json!({
            "id": format!("id-{name}-{created}"), "name": name, "status": "active", "created_at": created,
        });
        for (k, v) in properties {
            value[*k] = serde_json::json!(v);
        }
        serde_json::from_value(value).unwrap()
    }

    fn pick(all: &[Image], wanted: Option<&str>) -> Option<String> {
        let all: Vec<Image> = all.iter().filter(|i| is_usable(i)).cloned().collect();
        let found = match wanted {
            Some(w) => find(&all, w),
            None => FAMILIES
                .iter()
                .find_map(|f| newest(all.iter().filter(|i| is_of(i, *f)))),
        };
        found.map(|i| i.id.clone())
    }

    #[test]
    fn families_are_found_by_what_clouds_call_them() {
        for name in [
            "Debian 13",
            "debian-13-genericcloud-amd64-20260101",
            "Debian 13.2 (Trixie) [2026-05-01]",
            "debian-trixie",
        ] {
            assert!(is_of(&image(name, "1", &[]), FAMILIES[0]), "{name}");
        }
        for name in [
            "Debian 12",
            "debian-13-nocloud-amd64",
            "Debian 13 - Docker",
            "Ubuntu 13",
            "debian",
        ] {
            assert!(!is_of(&image(name, "1", &[]), FAMILIES[0]), "{name}");
        }
        let named = image("GNU/Linux", "1", &[("os_distro", "debian"), ("os_version", "13")]);
        assert!(is_of(&named, FAMILIES[0]));
    }

    #[test]
    fn the_newest_that_fits_is_taken() {
        let all = [
            image("Ubuntu 24.04", "2026-05-01", &[]),
            image("Debian 13", "2026-01-01", &[]),
            image("Debian 13", "2026-03-01", &[("a", "b")]),
            image("Debian 13", "2026-09-01", &[("architecture", "aarch64")]),
            image("Debian 13", "2026-08-01", &[("image_type", "snapshot")]),
        ];
        assert_eq!(pick(&all, None).unwrap(), "id-Debian 13-2026-03-01");
        assert_eq!(pick(&all, Some("ubuntu-24.04")).unwrap(), "id-Ubuntu 24.04-2026-05-01");
        assert_eq!(pick(&all, Some("Debian*")).unwrap(), "id-Debian 13-2026-08-01");
        assert_eq!(
            pick(&all, Some("id-Debian 13-2026-01-01")).unwrap(),
            "id-Debian 13-2026-01-01"
        );
        assert_eq!(pick(&all, Some("a=b")).unwrap(), "id-Debian 13-2026-03-01");
        assert_eq!(pick(&all, Some("a=c")), None);
        assert_eq!(pick(&all, Some("Fedora")), None);
        assert_eq!(pick(&all[..1], None).unwrap(), "id-Ubuntu 24.04-2026-05-01");
    }

    #[test]
    fn stars_stand_for_anything() {
        for (name, pattern, fits) in [
            ("debian-13", "debian*", true),
            ("debian-13", "*13", true),
            ("my-debian-13-x", "*debian*13*", true),
            ("debian-13", "*12", false),
            ("aa", "a*a*a", false),
        ] {
            assert_eq!(like(name, pattern), fits, "{name} {pattern}");
        }
    }
}
