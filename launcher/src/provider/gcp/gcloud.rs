//! The vendor's command line tool's own configuration: project, region and zone.
//! Read only; layout as `gcloud topic configurations` has it.

use std::path::PathBuf;

use crate::config::Env;

/// What its active configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gcloud {
    pub(super) project: Option<String>,
    pub(super) region: Option<String>,
    pub(super) zone: Option<String>,
}

/// Folder of its files.
pub(super) fn folder(env: &Env) -> Option<PathBuf> {
    if let Some(named) = env.get("CLOUDSDK_CONFIG") {
        return Some(PathBuf::from(named));
    }
    if cfg!(windows) {
        return Some(PathBuf::from(env.get("APPDATA")?).join("gcloud"));
    }
    Some(PathBuf::from(env.get("HOME")?).join(".config/gcloud"))
}

impl Gcloud {
    pub(super) fn read(env: &Env) -> Self {
        let Some(folder) = folder(env) else {
            return Self::default();
        };
        let active = env
            .get("CLOUDSDK_ACTIVE_CONFIG_NAME")
            .map(str::to_owned)
            .or_else(|| std::fs::read_to_string(folder.join("active_config")).ok());
        let name = active.as_deref().map_or("default", str::trim);
        // A name is no path.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Self::default();
        }
        let path = folder.join("configurations").join(format!("config_{name}"));
        std::fs::read_to_string(path).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.trim();
            } else if let Some((key, value)) = line.split_once('=') {
                let value = Some(value.trim().to_owned()).filter(|v| !v.is_empty());
                match (section, key.trim()) {
                    ("core", "project") => found.project = value,
                    ("compute", "region") => found.region = value,
                    ("compute", "zone") => found.zone = value,
                    _ => {}
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_active_configuration_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        std::fs::create_dir(at.join("configurations")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(at.join("configurations").join(name), text).unwrap();
        write("config_default", "[core]\nproject = first\n");
        write(
            "config_work",
            "[core]\naccount = a@b\nproject = second\n\n[compute]\nzone = europe-west4-a\n",
        );
        let folder = at.to_str().unwrap();
        let read =
            |more: &[(&str, &str)]| Gcloud::read(&[("CLOUDSDK_CONFIG", folder)].iter().chain(more).copied().collect());
        assert_eq!(read(&[]).project.as_deref(), Some("first"));
        let named = read(&[("CLOUDSDK_ACTIVE_CONFIG_NAME", "work")]);
        assert_eq!(named.project.as_deref(), Some("second"));
        assert_eq!(named.zone.as_deref(), Some("europe-west4-a"));
        std::fs::write(at.join("active_config"), "work\n").unwrap();
        assert_eq!(read(&[]), named);
        assert_eq!(read(&[("CLOUDSDK_ACTIVE_CONFIG_NAME", "../x")]), Gcloud::default());
    }
}
