//! Reading all sources.

use std::path::{Path, PathBuf};

use herdsman_wire::Code;

use super::error::{ConfigError, nearest};
use super::file::File;
use super::given::Part;
use super::layer::{self, Layer, Source};
use super::merge::{Entries, merge};
use super::origin::Origin;
use super::parse::{self, PYPROJECT, Parsed};
use super::settings::Settings;
use super::vars::{self, Env};
use crate::command::cli::{Global, UpArgs};

/// Name of a project's file.
const PROJECT_FILE: &str = "herdsman.toml";

/// Settings with where they come from.
#[derive(Debug)]
pub struct Loaded {
    /// The checked settings.
    pub settings: Settings,
    /// Each value with its origin.
    pub entries: Entries,
    /// Files that were read, the strongest first.
    pub files: Vec<PathBuf>,
    /// What looks like a slip but is none for certain.
    pub warnings: Vec<String>,
}

/// Reads all sources and merges them.
///
/// # Errors
/// [`ConfigError`] with the place of the fault.
pub fn load(up: &UpArgs, global: &Global, env: &Env, cwd: &Path) -> Result<Loaded, ConfigError> {
    let mut layers = vec![layer::of_flags(up, global, cwd)?];
    let mut files = Vec::new();
    let given = |part| global.given.as_ref().map_or(Ok(None), |given| given.layer(part, cwd));
    layers.extend(given(Part::Arguments)?);
    let given_file = global.given.as_ref().and_then(|g| g.file.as_ref());
    let named_file = up.file.as_ref().or(given_file);
    if let Some(named) = named_file {
        let path = cwd.join(named);
        layers.push(project(&path)?.ok_or_else(|| {
            ConfigError::new("there is no [tool.herdsman] in this file")
                .code(Code::NotFound)
                .file(&path, None)
        })?);
        files.push(path);
    }
    layers.extend(layer::of_env(env, cwd)?);
    layers.extend(given(Part::Dask)?);
    if named_file.is_none()
        && let Some((path, found)) = in_force(cwd)?
    {
        layers.push(found);
        files.push(path);
    }
    let user_path = config_path(global, env);
    let named = global.config.is_some() || env.get(vars::CONFIG).is_some();
    if let Some(path) = user_path {
        let wanted = layers
            .iter()
            .find_map(|l| Some((l.file.profile.clone()?, l.origin("profile"))));
        match user(&path, wanted.clone())? {
            Some(found) => {
                layers.extend(found);
                files.push(path);
            }
            None if named => return Err(missing(&path)),
            None => {
                if let Some((name, origin)) = wanted {
                    return Err(no_profile(&name, origin, &[], &path));
                }
            }
        }
    }
    layers.extend(given(Part::Defaults)?);
    layers.iter().try_for_each(one_group)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (merged, entries) = merge(&layers, cpus);
    let (settings, mut warnings) = Settings::check(merged, env)?;
    warnings.extend(layer::strays(env));
    Ok(Loaded {
        settings,
        entries,
        files,
        warnings,
    })
}

/// A second group would be left out without a word.
fn one_group(layer: &Layer) -> Result<(), ConfigError> {
    if layer.file.workers.as_ref().is_none_or(|groups| groups.len() < 2) {
        return Ok(());
    }
    Err(ConfigError::new("one group of workers is supported so far")
        .key("workers")
        .at(layer.origin("workers[1]")))
}

/// The user's settings file.
#[must_use]
pub fn config_path(global: &Global, env: &Env) -> Option<PathBuf> {
    let given = global
        .config
        .clone()
        .or_else(|| env.get(vars::CONFIG).map(PathBuf::from));
    given.or_else(|| Some(env.config_home()?.join("herdsman/config.toml")))
}

/// The folder of keys and records.
///
/// # Errors
/// When the user has no home folder.
pub fn state_dir(env: &Env) -> Result<PathBuf, ConfigError> {
    env.get(vars::STATE_DIR)
        .or_else(|| env.get(vars::STATE))
        .map(PathBuf::from)
        .or_else(|| Some(env.data_home()?.join("herdsman")))
        .ok_or_else(|| {
            ConfigError::new("no place for keys and records: there is no home folder")
                .hint("name a folder with HERDSMAN_STATE_DIR")
        })
}

fn missing(path: &Path) -> ConfigError {
    ConfigError::new("there is no such file")
        .code(Code::NotFound)
        .file(path, None)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_if_there(path)?.ok_or_else(|| missing(path))
}

/// A file's text; `None` when there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, ConfigError> {
    use std::io::{ErrorKind, Read as _};
    let fail = |e: std::io::Error| {
        ConfigError::new(format!("cannot be read: {e}"))
            .code(Code::Disk)
            .file(path, None)
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that the parser can say so.
    file.take(parse::FILE_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| ConfigError::new("is not UTF-8 text").file(path, None))
}

fn base_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new(".")).to_owned()
}

fn project(path: &Path) -> Result<Option<Layer>, ConfigError> {
    Ok(parse::project(&read(path)?, path)?.map(|p| Layer {
        file: p.value,
        base: base_of(path),
        source: Source::File {
            path: path.to_owned(),
            lines: p.lines,
        },
    }))
}

/// The project's file that is in force in a folder, with what it says.
fn in_force(folder: &Path) -> Result<Option<(PathBuf, Layer)>, ConfigError> {
    for path in candidates(folder) {
        if let Some(found) = project(&path)? {
            return Ok(Some((path, found)));
        }
    }
    Ok(None)
}

/// The project's file that is in force in a folder, good or not.
#[must_use]
pub fn find_project(folder: &Path) -> Option<PathBuf> {
    candidates(folder).into_iter().find(|p| !matches!(project(p), Ok(None)))
}

/// Files that may be the project's, the nearest first. Folders above are looked
/// at only inside of a repository: a file that somebody left in `/tmp` is
/// nobody's project.
fn candidates(folder: &Path) -> Vec<PathBuf> {
    let top = folder.ancestors().find(|d| d.join(".git").exists()).unwrap_or(folder);
    folder
        .ancestors()
        .take_while(|d| d.starts_with(top))
        .flat_map(|d| [d.join(PROJECT_FILE), d.join(PYPROJECT)])
        .filter(|p| p.is_file())
        .collect()
}

/// A profile, then the defaults of the user's settings; `None` without a file.
fn user(path: &Path, wanted: Option<(String, Origin)>) -> Result<Option<Vec<Layer>>, ConfigError> {
    if !path.is_file() {
        return Ok(None);
    }
    let Parsed { value, lines } = parse::user(&read(path)?, path)?;
    let base = base_of(path);
    let own = value.default_profile.clone().map(|name| {
        let origin = Origin::User {
            path: path.to_owned(),
            line: lines.get("default_profile").copied(),
        };
        (name, origin)
    });
    let mut layers = Vec::new();
    if let Some((name, origin)) = wanted.or(own) {
        let Some(file) = value.profiles.get(&name) else {
            let known: Vec<&str> = value.profiles.keys().map(String::as_str).collect();
            return Err(no_profile(&name, origin, &known, path));
        };
        layers.push(Layer {
            file: file.clone(),
            base: base.clone(),
            source: Source::Profile {
                name,
                path: path.to_owned(),
                lines: lines.clone(),
            },
        });
    }
    layers.push(Layer {
        file: File {
            provider: value.defaults.provider.or(value.default_provider),
            profile: value.defaults.profile.clone().or(value.default_profile),
            ..value.defaults
        },
        base,
        source: Source::User {
            path: path.to_owned(),
            lines,
        },
    });
    Ok(Some(layers))
}

fn no_profile(name: &str, origin: Origin, known: &[&str], path: &Path) -> ConfigError {
    let like = nearest(name, known.iter().copied()).map_or_else(String::new, |k| format!(" (did you mean {k:?}?)"));
    let hint = if known.is_empty() {
        format!("profiles are tables like [profiles.{name}] in {}", path.display())
    } else {
        format!("profiles in {}: {}", path.display(), known.join(", "))
    };
    ConfigError::new(format!("there is no profile {name:?}{like}"))
        .code(Code::NotFound)
        .key("profile")
        .at(origin)
        .hint(hint)
}
