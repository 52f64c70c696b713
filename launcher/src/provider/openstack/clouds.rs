//! The vendor's own files: `clouds.yaml` with `secure.yaml` and `clouds-public.yaml`
//! (<https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html>).

use std::path::{Path, PathBuf};

use herdsman_wire::Code;
use yaml_rust2::{Yaml, YamlLoader, yaml::Hash};

use super::super::ProviderError;
use super::super::cloud::error;
use crate::config::Env;

/// Most bytes of such a file.
const LARGEST: u64 = 1 << 20;

/// One cloud of the files, all of its parts put together.
#[derive(Clone, Debug)]
pub(super) struct Entry(Yaml);

/// Where files are looked for: named, here, the user's, the system's.
fn paths(env: &Env, variable: &str, name: &str) -> Vec<PathBuf> {
    if let Some(named) = env.get(variable) {
        return vec![named.into()];
    }
    let user = env
        .get("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".config")));
    let mut all = vec![PathBuf::from(name)];
    all.extend(user.map(|u| u.join("openstack").join(name)));
    all.push(Path::new("/etc/openstack").join(name));
    all
}

/// The table below `top` of the first file that exists.
fn table(env: &Env, variable: &str, name: &str, top: &str) -> Result<Option<(PathBuf, Yaml)>, ProviderError> {
    for path in paths(env, variable, name) {
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && env.get(variable).is_none() => continue,
            Err(e) => return Err(unreadable(&path, &e.to_string())),
        };
        if found.len() > LARGEST {
            return Err(unreadable(&path, "it is too large"));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e.to_string()))?;
        // Its words may be secrets, so that only the place is told.
        let mut documents = YamlLoader::load_from_str(&text)
            .map_err(|e| unreadable(&path, &format!("line {} is no YAML", e.marker().line())))?;
        let document = if documents.is_empty() {
            Yaml::Null
        } else {
            documents.remove(0)
        };
        return Ok(Some((path, document[top].clone())));
    }
    Ok(None)
}

fn unreadable(path: &Path, why: &str) -> ProviderError {
    error(Code::Credentials, format!("{} cannot be read: {why}", path.display()))
}

/// What stands in `above` counts more.
fn merged(below: &Yaml, above: &Yaml) -> Yaml {
    match (below, above) {
        (Yaml::Hash(below), Yaml::Hash(above)) => {
            let mut all: Hash = below.clone();
            for (key, value) in above {
                let value = below.get(key).map_or_else(|| value.clone(), |old| merged(old, value));
                all.insert(key.clone(), value);
            }
            Yaml::Hash(all)
        }
        (below, Yaml::BadValue | Yaml::Null) => below.clone(),
        (_, above) => above.clone(),
    }
}

impl Entry {
    /// A cloud by its name; without one, the only one there is. Absent where there is no
    /// file at all, and none was named.
    ///
    /// # Errors
    /// `E-CREDENTIALS` when it is not there, or a file cannot be read.
    pub(super) fn find(env: &Env, name: Option<&str>) -> Result<Option<Self>, ProviderError> {
        let Some((path, clouds)) = table(env, "OS_CLIENT_CONFIG_FILE", "clouds.yaml", "clouds")? else {
            return match name {
                Some(name) => Err(error(
                    Code::Credentials,
                    format!("there is no clouds.yaml, so no cloud {name}"),
                )
                .with_hint("it is looked for here, in ~/.config/openstack and in /etc/openstack")
                .with_hint("export OS_CLIENT_CONFIG_FILE=…        names another")),
                None => Ok(None),
            };
        };
        let names: Vec<&str> = clouds
            .as_hash()
            .into_iter()
            .flat_map(|h| h.keys().filter_map(Yaml::as_str))
            .collect();
        let name = match (name, names.as_slice()) {
            (Some(name), _) => name,
            (None, []) => return Ok(None),
            (None, [one]) => one,
            (None, many) => {
                let text = format!("{} has more than one cloud: {}", path.display(), many.join(", "));
                return Err(error(Code::Credentials, text)
                    .with_hint(format!("export OS_CLOUD={}                 chooses one", many[0]))
                    .with_hint("`cloud` in [openstack] does so too"));
            }
        };
        let cloud = &clouds[name];
        if cloud.as_hash().is_none() {
            let text = format!("{} has no cloud {name}, but {}", path.display(), names.join(", "));
            return Err(error(Code::Credentials, text));
        }
        let mut all = cloud.clone();
        let profile = cloud["profile"].as_str().or_else(|| cloud["cloud"].as_str());
        if let Some(profile) = profile {
            all = merged(&public(env, profile)?, &all);
        }
        if let Some((_, secure)) = table(env, "OS_CLIENT_SECURE_FILE", "secure.yaml", "clouds")? {
            all = merged(&all, &secure[name]);
        }
        Ok(Some(Self(all)))
    }

    /// A text below these keys; numbers count as text.
    pub(super) fn text(&self, keys: &[&str]) -> Option<String> {
        let at = keys.iter().fold(&self.0, |at, key| &at[*key]);
        match at {
            Yaml::String(s) | Yaml::Real(s) => Some(s.clone()),
            Yaml::Integer(n) => Some(n.to_string()),
            Yaml::Boolean(b) => Some(b.to_string()),
            _ => None,
        }
    }

    /// The region: the one that is named, or the only one of the list.
    pub(super) fn region(&self) -> Option<String> {
        self.text(&["region_name"]).or_else(|| {
            let [one] = self.0["regions"].as_vec()?.as_slice() else {
                return None;
            };
            one.as_str().or_else(|| one["name"].as_str()).map(str::to_owned)
        })
    }
}

/// A vendor's part of a cloud, that many share.
fn public(env: &Env, profile: &str) -> Result<Yaml, ProviderError> {
    let found = table(env, "OS_CLIENT_VENDOR_FILE", "clouds-public.yaml", "public-clouds")?;
    let part = found.map_or(Yaml::BadValue, |(_, all)| all[profile].clone());
    if part.is_badvalue() {
        return Err(error(
            Code::Credentials,
            format!("profile {profile} is in no clouds-public.yaml; herdsman has no list of vendors of its own"),
        )
        .with_hint("write auth_url and region_name of it into clouds.yaml instead"));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Env) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let env = [
            ("OS_CLIENT_CONFIG_FILE", path("clouds.yaml")),
            ("OS_CLIENT_SECURE_FILE", path("secure.yaml")),
            ("OS_CLIENT_VENDOR_FILE", path("clouds-public.yaml")),
        ];
        let env = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        (folder, env)
    }

    const CLOUDS: &str = "
clouds:
  work:
    profile: vendor
    auth:
      username: ann
      project_name: geo
    region_name: east
  home:
    auth: {auth_url: 'https://home.example/v3', password: 12345}
    regions: [only]
";
    const SECURE: &str = "clouds:\n  work:\n    auth:\n      password: hidden\n";
    const PUBLIC: &str = "public-clouds:\n  vendor:\n    auth: {auth_url: 'https://vendor.example', username: nobody}\n    interface: internal\n";

    #[test]
    fn three_files_make_one_cloud() {
        let (_folder, env) = folder(&[
            ("clouds.yaml", CLOUDS),
            ("secure.yaml", SECURE),
            ("clouds-public.yaml", PUBLIC),
        ]);
        let work = Entry::find(&env, Some("work")).unwrap().unwrap();
        let text = |keys: &[&str]| work.text(keys).unwrap_or_default();
        assert_eq!(text(&["auth", "auth_url"]), "https://vendor.example");
        assert_eq!(text(&["auth", "username"]), "ann");
        assert_eq!(text(&["auth", "password"]), "hidden");
        assert_eq!(text(&["interface"]), "internal");
        assert_eq!(work.region().as_deref(), Some("east"));
        let home = Entry::find(&env, Some("home")).unwrap().unwrap();
        assert_eq!(home.text(&["auth", "password"]).as_deref(), Some("12345"));
        assert_eq!(home.region().as_deref(), Some("only"));
    }

    #[test]
    fn what_cannot_be_chosen_says_what_there_is() {
        let (_folder, env) = folder(&[("clouds.yaml", CLOUDS), ("secure.yaml", SECURE)]);
        let e = Entry::find(&env, None).unwrap_err();
        assert!(e.message.contains("work, home"), "{e}");
        let e = Entry::find(&env, Some("other")).unwrap_err();
        assert!(e.message.contains("no cloud other"), "{e}");
        // No public file was written.
        let e = Entry::find(&env, Some("work")).unwrap_err();
        assert_eq!(e.code, Code::Credentials);
    }

    #[test]
    fn a_broken_file_does_not_show_its_words() {
        let (_folder, env) = folder(&[("clouds.yaml", "clouds:\n  a: {auth: {password: 'hidden\n")]);
        let e = Entry::find(&env, Some("a")).unwrap_err();
        assert!(!e.message.contains("hidden") && e.message.contains("line"), "{e}");
        let none = [("HOME", "/nonexistent")].into_iter().collect();
        assert!(Entry::find(&none, None).unwrap().is_none());
    }
}
