//! From text to [`File`]: syntax, unknown keys, wrong types and secrets, each
//! with file, line and key. Total: any text gives a value or an error.
//!
//! The text is parsed once into a tree that knows its positions. The positions
//! of all keys are noted, strings are looked at for secrets (before anything
//! could quote them in a message), and only then the tree becomes a value.

use std::path::Path;

use herdsman_wire::Code;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, nearest};
use super::file::{self, File, UserFile};
use super::key;
use super::places::{Keys, Lines};

/// Largest file that is read, bytes: a thousand times a long one.
pub const FILE_MAX: usize = 1024 * 1024;

/// Name of a Python project's file, where our table is `[tool.herdsman]`.
pub const PYPROJECT: &str = "pyproject.toml";

/// A file's value and where its keys stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) lines: Lines,
}

/// Reads a project's file from its text. `path` is named in errors and decides
/// the form: `pyproject.toml`, or a file of our own. A `pyproject.toml` without
/// `[tool.herdsman]` is an empty file.
///
/// # Errors
/// [`ConfigError`] with file, line and key.
pub fn parse_file(text: &str, path: &Path) -> Result<File, ConfigError> {
    Ok(project(text, path)?.map(|p| p.value).unwrap_or_default())
}

/// As [`parse_file`], with positions; `None` when a `pyproject.toml` has no
/// table of ours.
pub(crate) fn project(text: &str, path: &Path) -> Result<Option<Parsed<File>>, ConfigError> {
    let is_yaml = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("yaml") || e.eq_ignore_ascii_case("yml"));
    if is_yaml {
        return Err(ConfigError::new("YAML is not read yet")
            .file(path, None)
            .hint("write the same keys as TOML, in a file like herdsman.toml"));
    }
    if path.file_name().is_some_and(|n| n == PYPROJECT) {
        // Most have no table of ours; then their faults are none of our business.
        if !text.contains("herdsman") {
            return Ok(None);
        }
        return parse(text, path, &["tool", "herdsman"]);
    }
    parse(text, path, &[])
}

/// Reads the user's settings from their text.
///
/// # Errors
/// [`ConfigError`] with file, line and key.
pub fn parse_user_file(text: &str, path: &Path) -> Result<UserFile, ConfigError> {
    Ok(user(text, path)?.value)
}

pub(crate) fn user(text: &str, path: &Path) -> Result<Parsed<UserFile>, ConfigError> {
    Ok(parse(text, path, &[])?.unwrap_or_default())
}

fn parse<T: DeserializeOwned>(text: &str, path: &Path, root: &[&str]) -> Result<Option<Parsed<T>>, ConfigError> {
    if text.len() > FILE_MAX {
        return Err(
            ConfigError::new(format!("the file has {} bytes; the limit is {FILE_MAX}", text.len()))
                .code(Code::TooLarge)
                .file(path, None),
        );
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut keys = Keys::new(text);
    if let Some(e) = errors.first() {
        keys.walk_table("", document.get_ref());
        return Err(keys.syntax(path, e));
    }
    let span = document.span();
    let mut table = toml::Spanned::new(span, DeValue::Table(document.into_inner()));
    for part in root {
        let DeValue::Table(mut inner) = table.into_inner() else {
            return Ok(None);
        };
        match inner.remove(*part) {
            Some(below) => table = below,
            None => return Ok(None),
        }
    }
    if let DeValue::Table(table) = table.get_ref() {
        keys.walk_table("", table);
        keys.refuse_secrets(path)?;
        version(&keys, path, table)?;
    }
    let value = T::deserialize(toml::de::ValueDeserializer::from(table)).map_err(|e| keys.fault(path, &e))?;
    let lines = keys.lines();
    Ok(Some(Parsed { value, lines }))
}

/// A copy of `file` with one key set to a value; for sources that are no files.
pub(crate) fn one(file: &File, key: &str, value: &toml::Value) -> Result<File, ConfigError> {
    let fail = |e: &dyn std::fmt::Display| ConfigError::new(plain(&e.to_string())).key(key);
    let mut document = toml::Table::try_from(file).map_err(|e| fail(&e))?;
    let mut table = &mut document;
    let parts = key::parts(key);
    let Some((last, tables)) = parts.split_last() else {
        return Err(ConfigError::new("a key is missing"));
    };
    for (i, part) in tables.iter().enumerate() {
        let is_group = i == 0 && part == "workers";
        let entry = table.entry(part.as_str()).or_insert_with(|| {
            let table = toml::Value::Table(toml::Table::new());
            if is_group {
                toml::Value::Array(vec![table])
            } else {
                table
            }
        });
        let below = match entry {
            toml::Value::Array(groups) => groups.first_mut(),
            other => Some(other),
        };
        table = below
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| ConfigError::new(format!("{part} has no keys below it")).key(key))?;
    }
    table.insert(last.to_owned(), value.clone());
    document
        .try_into()
        .map_err(|e: toml::de::Error| match unknown_field(e.message()) {
            Some((name, known)) => unknown(name, &known, key).key(key),
            None => fail(&e.message()),
        })
}

/// The version first: a newer file has keys that this build would report as
/// unknown, which hides the real reason.
fn version(keys: &Keys<'_>, path: &Path, table: &DeTable<'_>) -> Result<(), ConfigError> {
    let Some(found) = table.get("version").and_then(|v| v.get_ref().as_integer()) else {
        return Ok(());
    };
    if found.as_str().parse() == Ok(file::VERSION) {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "the file has version {found}, this herdsman reads version {}",
        file::VERSION
    ))
    .key("version")
    .file(path, keys.line_of_key("version")))
}

pub(super) fn unknown(name: &str, known: &[&str], path: &str) -> ConfigError {
    let like = nearest(name, known.iter().copied());
    let mut message = format!("unknown key {name:?}");
    if let Some(like) = like {
        message.push_str(&format!(" (did you mean {like:?}?)"));
        return ConfigError::new(message);
    }
    if let Some((table, _)) = path.rsplit_once('.') {
        message.push_str(&format!(" in [{table}]"));
    }
    ConfigError::new(message).hint(format!("known here: {}", known.join(", ")))
}

/// Takes serde's sentence about an unknown field apart: the name, and what
/// would have been known.
pub(super) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((name, known))
}

/// serde's words for types, as people say them.
pub(super) fn plain(message: &str) -> String {
    let mut text = message.trim_end().to_owned();
    for (from, to) in [
        ("expected a borrowed string", "expected a text in quotes"),
        ("expected a string", "expected a text in quotes"),
        ("expected path string", "expected a text in quotes"),
        ("expected a nonzero u16", "expected a number from 1 to 65535"),
        ("expected u16", "expected a number from 0 to 65535"),
        ("expected u32", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list in [ ]"),
        ("expected a map", "expected a table"),
        ("invalid type: ", "wrong type: "),
        ("invalid value: ", "wrong value: "),
        ("wrong type: sequence", "wrong type: list"),
        ("wrong type: map", "wrong type: table"),
        ("unknown variant", "unknown choice"),
        (
            "data did not match any variant of untagged enum Form",
            "expected a text in quotes or a list of texts",
        ),
    ] {
        text = text.replace(from, to);
    }
    if let Some((before, _)) = text.split_once("expected struct ") {
        text = format!("{before}expected a table");
    }
    text
}
