//! From text to [`File`]: syntax, unknown keys, wrong types and secrets, each
//! with file, line and key. Total: any text gives a value or an error.
//!
//! The text is parsed once into a tree that knows its positions. The positions
//! of all keys are noted, strings are looked at for secrets (before anything
//! could quote them in a message), and only then the tree becomes a value.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use herdsman_wire::Code;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, nearest};
use super::file::{self, File, UserFile};
use super::{key, pair, secrets};

/// Largest file that is read, bytes: a thousand times a long one.
pub const FILE_MAX: usize = 1024 * 1024;

/// Name of a Python project's file, where our table is `[tool.herdsman]`.
pub const PYPROJECT: &str = "pyproject.toml";

/// Line of each key that a file holds. The first of several `[[workers]]` is
/// `workers`, the next is `workers[1]`.
pub(crate) type Lines = BTreeMap<String, u32>;

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

/// Where a key and its value stand in a text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The key with all its tables.
    pub(super) path: String,
    /// Its value.
    pub(super) value: Range<usize>,
    /// Whether the value has keys below it.
    pub(super) is_table: bool,
}

/// Places of all keys of a text; as far as it can be understood.
pub(super) fn places(text: &str) -> Vec<Place> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut keys = Keys::new(text);
    keys.walk_table("", document.get_ref());
    keys.all
        .into_iter()
        .map(|k| Place {
            path: k.path,
            value: k.value,
            is_table: k.is_table,
        })
        .collect()
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

/// A key, where it and its value stand, and the value if it is a text.
struct Key {
    path: String,
    key: Range<usize>,
    value: Range<usize>,
    text: Option<String>,
    is_table: bool,
}

struct Keys<'t> {
    text: &'t str,
    all: Vec<Key>,
}

impl<'t> Keys<'t> {
    const fn new(text: &'t str) -> Self {
        Self { text, all: Vec::new() }
    }

    fn walk_table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref();
            let path = if prefix.is_empty() {
                name.to_string()
            } else {
                format!("{prefix}.{name}")
            };
            self.walk_value(path, key.span(), value);
        }
    }

    fn walk_value(&mut self, path: String, key: Range<usize>, value: &toml::Spanned<DeValue<'_>>) {
        let span = value.span();
        match value.get_ref() {
            DeValue::Table(table) => self.walk_table(&path, table),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let is_table = item.get_ref().is_table();
                    let path = if i > 0 && is_table {
                        format!("{path}[{i}]")
                    } else {
                        path.clone()
                    };
                    let key = if is_table { item.span() } else { key.clone() };
                    self.walk_value(path, key, item);
                }
            }
            _ => {}
        }
        self.all.push(Key {
            path,
            key,
            value: span,
            text: value.get_ref().as_str().map(Into::into),
            is_table: value.get_ref().is_table(),
        });
    }

    fn line(&self, offset: usize) -> Option<u32> {
        let before = self.text.as_bytes().get(..offset.min(self.text.len()))?;
        u32::try_from(before.iter().filter(|b| **b == b'\n').count() + 1).ok()
    }

    fn line_of_key(&self, path: &str) -> Option<u32> {
        let key = self.all.iter().find(|k| k.path == path)?;
        self.line(key.key.start)
    }

    /// Lines of all keys, counted in one pass over the text.
    fn lines(&self) -> Lines {
        let mut starts: Vec<(usize, &str)> = self.all.iter().map(|k| (k.key.start, k.path.as_str())).collect();
        starts.sort_unstable();
        let (mut line, mut at) = (1, 0);
        let mut lines = Lines::new();
        for (start, path) in starts {
            let between = self.text.as_bytes().get(at..start).unwrap_or_default();
            line += u32::try_from(between.iter().filter(|b| **b == b'\n').count()).unwrap_or(0);
            at = start.max(at);
            lines.entry(path.to_owned()).or_insert(line);
        }
        lines
    }

    /// The key that an error at `offset` is about.
    fn at(&self, offset: usize) -> Option<&Key> {
        self.all.iter().find(|k| k.key.start == offset).or_else(|| {
            self.all
                .iter()
                .filter(|k| k.value.contains(&offset))
                .min_by_key(|k| k.value.len())
        })
    }

    fn syntax(&self, path: &Path, e: &toml::de::Error) -> ConfigError {
        let start = e.span().map(|s| s.start);
        let mut error = ConfigError::new(format!("this is no TOML: {}", e.message()))
            .file(path, start.and_then(|at| self.line(at)))
            .hint("texts stand in quotes, lists in [ ], tables begin with [name]");
        // A file that was cut short ends in the middle of its last key's value.
        let last = self
            .all
            .iter()
            .filter(|k| start.is_some_and(|at| k.key.start <= at))
            .max_by_key(|k| k.key.start);
        if let Some(key) = last {
            error = error.key(&key.path);
        }
        error
    }

    fn refuse_secrets(&self, path: &Path) -> Result<(), ConfigError> {
        for key in &self.all {
            let Some(text) = &key.text else { continue };
            let at = || self.line(key.key.start);
            // This list holds names of variables; only a name can be shown.
            let names = key.path == "env.secrets" || key.path.ends_with(".env.secrets");
            let kind = secrets::look(if names { "" } else { &key.path }, text);
            if let Some(kind) = kind {
                return Err(ConfigError::new(format!(
                    "the value looks like {kind}; files get copied and committed, so none is taken from them"
                ))
                .key(&key.path)
                .file(path, at())
                .hint(secrets::right_place(&key.path)));
            }
            if names {
                pair::check_variable_name(text)
                    .map_err(|e| ConfigError::new(e.to_string()).key(&key.path).file(path, at()))?;
            }
        }
        Ok(())
    }

    /// An error of the conversion, in our words.
    fn fault(&self, path: &Path, e: &toml::de::Error) -> ConfigError {
        let span = e.span();
        let key = span.as_ref().and_then(|s| self.at(s.start));
        let line = key
            .map(|k| k.key.start)
            .or_else(|| span.map(|s| s.start))
            .and_then(|at| self.line(at));
        let mut error = match unknown_field(e.message()) {
            Some((name, known)) => unknown(name, &known, key.map_or("", |k| &k.path)),
            None => ConfigError::new(plain(e.message())),
        };
        if let Some(key) = key {
            let is_group = key.path == "workers" || key.path.ends_with(".workers");
            if is_group && e.message().contains("expected a sequence") {
                error = ConfigError::new("groups of workers are a list: write [[workers]] with two brackets");
            }
            error = error.key(&key.path);
        }
        error.file(path, line)
    }
}

fn unknown(name: &str, known: &[&str], path: &str) -> ConfigError {
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
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((name, known))
}

/// serde's words for types, as people say them.
fn plain(message: &str) -> String {
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
