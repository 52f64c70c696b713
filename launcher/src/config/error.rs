//! Errors about settings: where, which key, what is wrong, what to write.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;

use herdsman_wire::Code;

use super::origin::Origin;

/// Why settings cannot be used. Prints as `herdsman.toml:14: …`.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(Box<Problem>);

/// The parts of a [`ConfigError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Our code: [`Code::Usage`], [`Code::NotFound`] or [`Code::TooLarge`].
    pub code: Code,
    /// Where the value comes from.
    pub origin: Option<Origin>,
    /// The key with all its tables, such as `limits.idle`.
    pub key: Option<String>,
    /// What is wrong, without place and key.
    pub message: String,
    /// What to do about it.
    pub hint: Vec<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        // The message of an unknown key names it already.
        let named = |key: &str| self.message.starts_with("unknown key") || self.message.contains(key);
        if let Some(key) = self.key.as_ref().filter(|k| !named(k)) {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for ConfigError {
    type Target = Problem;
    fn deref(&self) -> &Problem {
        &self.0
    }
}

impl ConfigError {
    /// An error without a place yet.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            code: Code::Usage,
            origin: None,
            key: None,
            message: message.into(),
            hint: Vec::new(),
        }))
    }

    pub(crate) fn code(mut self, code: Code) -> Self {
        self.0.code = code;
        self
    }

    pub(crate) fn at(mut self, origin: Origin) -> Self {
        self.0.origin = Some(origin);
        self
    }

    pub(crate) fn file(self, path: impl Into<PathBuf>, line: Option<u32>) -> Self {
        self.at(Origin::File {
            path: path.into(),
            line,
        })
    }

    pub(crate) fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.push(hint.into());
        self
    }
}

/// The known word nearest to `word`, when it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).collect();
    // A slip or two; in short words one, or every word is near every other.
    let most = if word.len() <= 4 { 1 } else { 2 };
    known
        .into_iter()
        .map(|k| (distance(&word, k), k))
        .filter(|(d, _)| *d <= most)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits from `a` to `b`: insert, delete, replace, or swap two neighbours.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let width = b.len() + 1;
    let mut rows: Vec<Vec<usize>> = vec![(0..width).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..width {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j - 1] + same).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_only() {
        let known = ["memory", "cpu", "count", "idle"];
        assert_eq!(nearest("memmory", known), Some("memory"));
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("coutn", known), Some("count"));
        assert_eq!(nearest("cpus", known), Some("cpu"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }
}
