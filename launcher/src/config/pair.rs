//! `KEY=VALUE` as flags take it: tags and environment variables.

use std::str::FromStr;

use super::secrets;
use super::value::ValueError;

/// Prefix of herdsman's own tags, which nobody else may set.
pub const RESERVED_TAGS: &str = "herdsman-";
/// Longest key and value of a tag; the narrowest cloud takes this much.
pub const TAG_MAX: usize = 63;

/// A tag of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
}

/// Checks the key and value of a tag.
pub(crate) fn check_tag(key: &str, value: &str) -> Result<(), ValueError> {
    // Whoever may list the account's machines sees the tags.
    if let Some(kind) = secrets::look(key, value) {
        let why = format!("the value looks like {kind}, and many can see tags");
        return Err(ValueError::new("tag", key, why));
    }
    let fail = |why: String| Err(ValueError::new("tag", &format!("{key}={value}"), why));
    if key.is_empty() {
        return fail("the key is empty".into());
    }
    if key.starts_with(RESERVED_TAGS) {
        return fail(format!("keys that start with {RESERVED_TAGS} are herdsman's own"));
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    if let Some(c) = key.chars().find(|c| odd(*c)) {
        return fail(format!("the key holds {c:?}; letters, digits and - _ . / are allowed"));
    }
    if let Some(c) = value.chars().find(|c| c.is_control()) {
        return fail(format!("the value holds {c:?}"));
    }
    if key.len() > TAG_MAX || value.len() > TAG_MAX {
        return fail(format!("key and value have at most {TAG_MAX} bytes each"));
    }
    Ok(())
}

impl FromStr for Tag {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| ValueError::new("tag", text, "write it as key=value"))?;
        check_tag(key, value)?;
        Ok(Self {
            key: key.into(),
            value: value.into(),
        })
    }
}

/// Any setting by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, such as `limits.idle`.
    pub key: String,
    /// Its value as a text.
    pub value: String,
}

impl FromStr for Setting {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| ValueError::new("setting", text, "write it as key=value").hidden())?;
        // A flag is seen by everybody who can list processes.
        if let Some(kind) = secrets::look(key, value) {
            return Err(ValueError::new("setting", key, format!("the value looks like {kind}")));
        }
        Ok(Self {
            key: key.trim().into(),
            value: value.into(),
        })
    }
}

/// Checks the name of an environment variable.
pub(crate) fn check_variable_name(name: &str) -> Result<(), ValueError> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if first && rest {
        return Ok(());
    }
    // A whole assignment may hold the secret itself: show the name only.
    let shown = name.split('=').next().unwrap_or_default();
    let why = if name.contains('=') {
        "only the name goes here; the value is read from this computer's environment"
    } else {
        "letters, digits and _ are allowed, and no digit first"
    };
    Err(ValueError::new("name of a variable", shown, why))
}

/// An environment variable for Dask's processes, with a value anybody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Variable {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| ValueError::new("variable", text, "write it as NAME=value").hidden())?;
        check_variable_name(name)?;
        // A flag is seen by everybody who can list processes.
        if let Some(kind) = secrets::look(name, value) {
            let why = format!("the value looks like {kind}; export it and pass --secret {name}");
            return Err(ValueError::new("variable for everybody to see", name, why));
        }
        Ok(Self {
            name: name.into(),
            value: value.into(),
        })
    }
}

/// Name of an environment variable whose value is a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName(pub(crate) String);

impl SecretName {
    /// The variable's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        // Without a name in front, the whole text may be the secret itself.
        check_variable_name(text).map_err(|e| if text.contains('=') { e } else { e.hidden() })?;
        Ok(Self(text.into()))
    }
}

/// Checks the name and amount of an abstract resource.
pub(crate) fn check_resource(name: &str, amount: f64) -> Result<(), ValueError> {
    let fail = |why: &str| Err(ValueError::new("resource", &format!("{name}={amount}"), why));
    // Dask's own command line separates resources by spaces and commas.
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '=' | ',');
    if name.is_empty() || name.contains(odd) {
        return fail("the name is one word without = and ,");
    }
    if !amount.is_finite() || amount < 0.0 {
        return fail("the amount must be 0 or more");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_checked() {
        assert_eq!("team=geo".parse::<Tag>().unwrap().value, "geo");
        for bad in ["herdsman-owner=me", "a b=c", "team", "=x", "api-token=abc"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!(check_resource("GPU", 1.0).is_ok());
        for (name, amount) in [("GPU", -1.0), ("GPU", f64::NAN), ("a b", 1.0), ("", 1.0), ("a,b", 1.0)] {
            assert!(check_resource(name, amount).is_err(), "{name}={amount}");
        }
    }

    #[test]
    fn an_error_never_shows_the_secret() {
        let e = "DB_PASSWORD=hunter2".parse::<Variable>().unwrap_err().to_string();
        assert!(e.contains("--secret DB_PASSWORD") && !e.contains("hunter2"), "{e}");
        let e = "DB_PASSWORD=hunter2".parse::<SecretName>().unwrap_err().to_string();
        assert!(e.contains("only the name") && !e.contains("hunter2"), "{e}");
        let e = "hunter2!".parse::<SecretName>().unwrap_err().to_string();
        assert!(!e.contains("hunter2"), "{e}");
        let e = "api-token=hunter2".parse::<Tag>().unwrap_err().to_string();
        assert!(!e.contains("hunter2"), "{e}");
    }
}
