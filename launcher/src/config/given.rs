//! Settings that another program gives: one JSON document in place of flags, where
//! nobody who lists processes sees it. The Python package does so.
//!
//! ```json
//! {"protocol": 1, "file": null,
//!  "arguments": {"workers.count": "4"}, "dask": {}, "defaults": {"wait": "0.3"}}
//! ```
//!
//! Keys are those of `herdsman.toml`, dotted. `arguments` are as strong as flags, `dask`
//! comes right behind environment variables, `defaults` behind everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herdsman_wire::Code;
use serde::Deserialize;

use super::error::ConfigError;
use super::file::File;
use super::layer::{self, Layer, Source};
use super::origin::Origin;
use super::parse::{self, FILE_MAX};
use super::secrets;

/// Version of what crosses between the launcher and a program that runs it: this
/// document, the JSON on stdout, and the events on stderr.
pub const PROTOCOL: u32 = 1;

type Values = BTreeMap<String, serde_json::Value>;

/// What a program gave.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    protocol: u32,
    /// Settings file in place of the working folder's.
    #[serde(default)]
    pub(crate) file: Option<PathBuf>,
    #[serde(default)]
    arguments: Values,
    #[serde(default)]
    dask: Values,
    #[serde(default)]
    defaults: Values,
}

/// Which of a document's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Arguments,
    Dask,
    Defaults,
}

impl Given {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is of another version, [`Code::Malformed`] when it is none.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Head {
            protocol: u32,
        }
        // What it says may be secret, so that faults are told without it.
        let malformed = |e: &serde_json::Error| {
            let place = format!("line {}, column {}", e.line(), e.column());
            ConfigError::new(format!("--settings: no document of settings ({place})")).code(Code::Malformed)
        };
        if text.len() > FILE_MAX {
            return Err(ConfigError::new(format!("--settings: more than {FILE_MAX} bytes")).code(Code::TooLarge));
        }
        let head: Head = serde_json::from_slice(text).map_err(|e| malformed(&e))?;
        if head.protocol != PROTOCOL {
            let message = format!(
                "the program that runs herdsman speaks version {} with it, and this is version {PROTOCOL}",
                head.protocol
            );
            return Err(ConfigError::new(message)
                .code(Code::Protocol)
                .hint("install the herdsman that belongs to it: python -m pip install --upgrade herdsman"));
        }
        serde_json::from_slice(text).map_err(|e| malformed(&e))
    }

    /// One part as a source; `None` where it says nothing.
    pub(crate) fn layer(&self, part: Part, base: &Path) -> Result<Option<Layer>, ConfigError> {
        let values = match part {
            Part::Arguments => &self.arguments,
            Part::Dask => &self.dask,
            Part::Defaults => &self.defaults,
        };
        let mut file = File::default();
        for (key, value) in values.iter().filter(|(_, v)| !v.is_null()) {
            set(&mut file, key, value).map_err(|e| e.at(origin(part, key)))?;
        }
        Ok((!values.is_empty()).then(|| Layer {
            file,
            base: base.to_owned(),
            source: Source::Given(part),
        }))
    }
}

/// Where a value of a part came from.
pub(crate) fn origin(part: Part, key: &str) -> Origin {
    let key = key.to_owned();
    match part {
        Part::Arguments => Origin::Argument { key },
        Part::Dask => Origin::Dask { key },
        Part::Defaults => Origin::BuiltIn,
    }
}

fn set(file: &mut File, key: &str, value: &serde_json::Value) -> Result<(), ConfigError> {
    if let serde_json::Value::String(text) = value
        && let Some(kind) = secrets::look(key, text)
    {
        return Err(ConfigError::new(format!("the value looks like {kind}"))
            .key(key)
            .hint(secrets::right_place(key)));
    }
    let unfit = || ConfigError::new("a value of this kind cannot be set").key(key);
    let direct = toml::Value::try_from(value).map_err(|_| unfit())?;
    match (parse::one(file, key, &direct), value) {
        (Ok(changed), _) => {
            *file = changed;
            Ok(())
        }
        (Err(_), serde_json::Value::String(text)) => layer::set(file, key, text),
        (Err(_), serde_json::Value::Number(n)) => layer::set(file, key, &n.to_string()),
        (Err(e), _) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(document: &str, part: Part) -> Result<Option<Layer>, ConfigError> {
        Given::parse(document.as_bytes())?.layer(part, Path::new("/"))
    }

    #[test]
    fn values_keep_their_types() {
        let document = r#"{"protocol": 1, "arguments": {
            "workers.count": "2..8", "limits.idle": "3600s", "workers.cpu": 4, "tags": {"a.b": "c"},
            "extra_bootstrap": ["echo a, b"], "aws.tenancy": "dedicated", "aws.id": "007",
            "env.variables": {"A": "x, y"}, "workers.resources": {"GPU": 1.0}, "name": null}}"#;
        let file = layer(document, Part::Arguments).unwrap().unwrap().file;
        let group = file.group().unwrap();
        assert_eq!(group.cpu, Some(4));
        assert_eq!(group.resources.as_ref().unwrap()["GPU"], 1.0);
        assert_eq!(file.tags["a.b"], "c");
        assert_eq!(file.extra_bootstrap.as_deref(), Some(&["echo a, b".to_owned()][..]));
        let aws = file.aws.as_ref().unwrap();
        assert_eq!(aws["tenancy"].as_str(), Some("dedicated"));
        assert_eq!(aws["id"].as_str(), Some("007"), "a text stays one");
        assert_eq!(file.env.variables.as_ref().unwrap().0["A"], "x, y");
        assert!(layer(document, Part::Dask).unwrap().is_none());
    }

    #[test]
    fn faults_name_the_argument_and_no_secret() {
        let e = layer(r#"{"protocol": 1, "arguments": {"workers.cpus": 4}}"#, Part::Arguments).unwrap_err();
        assert!(
            e.to_string().contains("argument") && e.to_string().contains("cpu"),
            "{e}"
        );
        let e = layer(
            r#"{"protocol": 1, "arguments": {"env.variables.DB_PASSWORD": "hunter2"}}"#,
            Part::Arguments,
        )
        .unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
        let e = Given::parse(br#"{"protocol": 1, "hunter2"}"#).unwrap_err();
        assert!(e.code == Code::Malformed && !e.to_string().contains("hunter2"), "{e}");
    }

    #[test]
    fn another_version_is_refused_by_both_numbers() {
        let e = Given::parse(br#"{"protocol": 7, "what": "ever"}"#).unwrap_err();
        assert_eq!(e.code, Code::Protocol);
        assert!(
            e.to_string().contains("version 7") && e.to_string().contains("version 1"),
            "{e}"
        );
    }
}
