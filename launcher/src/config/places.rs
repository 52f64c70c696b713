//! Where the keys of a text stand, and errors that say so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::parse::{plain, unknown, unknown_field};
use super::{pair, secrets};

/// Line of each key that a file holds. The first of several `[[workers]]` is
/// `workers`, the next is `workers[1]`.
pub(crate) type Lines = BTreeMap<String, u32>;

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

/// A key, where it and its value stand, and the value if it is a text.
struct Key {
    path: String,
    key: Range<usize>,
    value: Range<usize>,
    text: Option<String>,
    is_table: bool,
}

pub(super) struct Keys<'t> {
    text: &'t str,
    all: Vec<Key>,
}

impl<'t> Keys<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, all: Vec::new() }
    }

    /// Notes all keys of a table.
    pub(super) fn walk_table(&mut self, prefix: &str, table: &DeTable<'_>) {
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

    /// Line of a key, from 1.
    pub(super) fn line_of_key(&self, path: &str) -> Option<u32> {
        let key = self.all.iter().find(|k| k.path == path)?;
        self.line(key.key.start)
    }

    /// Lines of all keys, counted in one pass over the text.
    pub(super) fn lines(&self) -> Lines {
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

    /// An error of the syntax, in our words.
    pub(super) fn syntax(&self, path: &Path, e: &toml::de::Error) -> ConfigError {
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

    /// No secret is taken from a file.
    pub(super) fn refuse_secrets(&self, path: &Path) -> Result<(), ConfigError> {
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
    pub(super) fn fault(&self, path: &Path, e: &toml::de::Error) -> ConfigError {
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
