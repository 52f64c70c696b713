//! Changing one default in the user's settings file, leaving the rest as it is.

use std::io::Write as _;
use std::path::Path;

use herdsman_wire::Code;

use super::error::ConfigError;
use super::file::{File, UserFile};
use super::key::{parts, plain, words, written};
use super::{edit, layer, load, parse, secrets};

/// Sets a key of the user's file, which is made when it is missing. Keys are
/// those of a project's file, which become the user's defaults, or the user's
/// own: `default_provider`, `default_profile`, `confirm_above`, and
/// `profiles.NAME.KEY`. Comments and order stay.
///
/// # Errors
/// [`ConfigError`] when key or value are no good, or the file cannot be read or
/// written, or has a form to which nothing can be added; it is untouched then.
pub fn set(path: &Path, key: &str, value: &str) -> Result<(), ConfigError> {
    let old = load::read_if_there(path)?.unwrap_or_default();
    let new = changed(&old, path, key, value)?;
    if new == old {
        return Ok(());
    }
    replace(path, new.as_bytes()).map_err(|e| {
        ConfigError::new(format!("cannot be written: {e}"))
            .code(Code::Disk)
            .file(path, None)
    })
}

/// Replaces the file whole. A new one is for its owner only, one that is there
/// keeps its mode; a link into a folder of dotfiles stays a link.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = target
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Made 0600 by the crate.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    if let Ok(there) = std::fs::metadata(&target) {
        file.as_file().set_permissions(there.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|e| e.error)?;
    #[cfg(unix)]
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// A key and its value in the user's file.
struct Change {
    tables: Vec<String>,
    last: String,
    /// As TOML.
    value: String,
    /// How many of the tables lead to a list of tables.
    list: Option<usize>,
}

/// The file's text with one key changed.
fn changed(old: &str, path: &Path, key: &str, value: &str) -> Result<String, ConfigError> {
    if let Some(kind) = secrets::look(key, value) {
        return Err(ConfigError::new(format!("the value looks like {kind}"))
            .key(key)
            .hint(secrets::right_place(key)));
    }
    let mut user: UserFile = parse::parse_user_file(old, path)?;
    let Change {
        tables,
        last,
        value,
        list,
    } = apply(&mut user, key, value)?;
    edit::with(old, &tables, &last, &value, list)
        .into_iter()
        // The proof of an edit: it reads back as what was meant.
        .find(|new| parse::parse_user_file(new, path).is_ok_and(|read| read == user))
        .ok_or_else(|| {
            ConfigError::new("the file has a form to which this key cannot be added")
                .key(key)
                .file(path, None)
                .hint(format!(
                    "add it with an editor: {} = {value} in [{}]",
                    written([last]),
                    written(tables)
                ))
        })
}

/// Sets the key in the value, and says where it stands in the file.
fn apply(user: &mut UserFile, key: &str, value: &str) -> Result<Change, ConfigError> {
    let own = |name: &str| Change {
        tables: Vec::new(),
        last: name.to_owned(),
        value: toml::Value::from(value).to_string(),
        list: None,
    };
    match plain(key).as_str() {
        "default_provider" | "provider" | "defaults.provider" => {
            let mut file = File::default();
            layer::set(&mut file, "provider", value)?;
            user.default_provider = file.provider;
            return Ok(own("default_provider"));
        }
        "default_profile" | "profile" | "defaults.profile" => {
            user.default_profile = Some(value.to_owned());
            return Ok(own("default_profile"));
        }
        "confirm_above" => {
            user.confirm_above = Some(value.to_owned());
            return Ok(own("confirm_above"));
        }
        _ => {}
    }
    let mut names = words(key);
    let (file, mut tables) = if names.first().is_some_and(|n| n == "profiles") && names.len() > 2 {
        names.remove(0);
        let name = names.remove(0);
        (
            user.profiles.entry(name.clone()).or_default(),
            vec!["profiles".to_owned(), name],
        )
    } else {
        if names.first().is_some_and(|n| n == "defaults") && names.len() > 1 {
            names.remove(0);
        }
        (&mut user.defaults, vec!["defaults".to_owned()])
    };
    let mut inner = parts(&written(names));
    // Files are written with the first of the two names of this key.
    for part in &mut inner {
        if part == "workers_per_node" {
            "workers_per_vm".clone_into(part);
        }
    }
    layer::set(file, &written(&inner), value).map_err(|e| e.key(key))?;
    let value = value_at(file, &inner).ok_or_else(|| ConfigError::new("cannot be set").key(key))?;
    let last = inner.pop().unwrap_or_default();
    let list = inner
        .first()
        .is_some_and(|t| t == "workers")
        .then_some(tables.len() + 1);
    tables.extend(inner);
    Ok(Change {
        tables,
        last,
        value,
        list,
    })
}

/// The value at a key, as TOML.
fn value_at(file: &File, parts: &[String]) -> Option<String> {
    let mut value = toml::Value::Table(toml::Table::try_from(file).ok()?);
    for part in parts {
        if let toml::Value::Array(groups) = value {
            value = groups.into_iter().next()?;
        }
        value = value.as_table_mut()?.remove(part)?;
    }
    Some(value.to_string())
}

#[cfg(test)]
mod tests;
