//! Names of settings: `limits.idle`, `tags.team`, `tags."a.b"`.

use std::fmt::Write as _;

/// Tables whose keys people choose, so that a dot in one is no separator.
const FREE: &[&[&str]] = &[&["tags"], &["env", "variables"], &["workers", "resources"]];

/// Parts of a key as it is typed, quoted or not: `tags.a.b` and `tags."a.b"`
/// both name the tag `a.b`.
pub(crate) fn parts(key: &str) -> Vec<String> {
    let mut parts = words(key);
    for table in FREE {
        let within = parts.len() > table.len() + 1 && parts.iter().zip(*table).all(|(a, b)| a == b);
        if within {
            let name = parts.split_off(table.len()).join(".");
            parts.push(name);
        }
    }
    parts
}

/// The name under which a key is known, without quotes.
pub(crate) fn plain(key: &str) -> String {
    words(key).join(".")
}

/// A key of TOML with these parts.
pub(crate) fn written<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> String {
    let mut out = String::new();
    for part in parts {
        let part = part.as_ref();
        if !out.is_empty() {
            out.push('.');
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !part.is_empty() && part.chars().all(bare) {
            out.push_str(part);
        } else {
            let _ = write!(out, "{}", toml::Value::from(part));
        }
    }
    out
}

/// Splits at dots outside of quotes, and takes the quotes away. A quote that is
/// not closed ends with the text.
pub(crate) fn words(key: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quote = None;
    for c in key.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            ('.', None) => all.push(String::new()),
            _ => all.last_mut().into_iter().for_each(|last| last.push(c)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tags_may_hold_dots() {
        assert_eq!(parts("limits.idle"), ["limits", "idle"]);
        assert_eq!(parts("tags.team"), ["tags", "team"]);
        assert_eq!(parts("tags.a.b"), ["tags", "a.b"]);
        assert_eq!(parts("tags.\"a.b\""), ["tags", "a.b"]);
        assert_eq!(parts("tags.'a.b'"), ["tags", "a.b"]);
        assert_eq!(parts("env.variables.A.B"), ["env", "variables", "A.B"]);
        assert_eq!(parts("workers.resources.x.y.z"), ["workers", "resources", "x.y.z"]);
        assert_eq!(parts("gcp.labels.team"), ["gcp", "labels", "team"]);
        assert_eq!(parts(""), [""]);
        assert_eq!(plain("tags.\"a.b\""), "tags.a.b");
    }

    #[test]
    fn written_keys_read_back() {
        assert_eq!(written(["tags", "team"]), "tags.team");
        assert_eq!(written(["tags", "a.b"]), "tags.\"a.b\"");
        assert_eq!(written(["tags", ""]), "tags.\"\"");
        for name in ["a.b", "a b", "plain"] {
            assert_eq!(words(&written(["tags", name])), ["tags", name]);
        }
    }
}
