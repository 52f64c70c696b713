//! Versions of what must agree between the laptop and the nodes, from the names
//! of metadata folders alone: a few milliseconds, no Python started.

use std::collections::BTreeMap;

pub use herdsman_wire::environment::normalize;
use herdsman_wire::report::Versions;

use super::error::Error;
use super::interpreter::{Interpreter, Kind};

/// Packages whose versions decide whether pickles and messages are understood on
/// the other side. Their versions travel in the manifest.
pub const KEYS: &[&str] = &[
    "cloudpickle",
    "dask",
    "distributed",
    "lz4",
    "msgpack",
    "numpy",
    "pandas",
    "pyarrow",
    "toolz",
    "tornado",
];

/// Name (normal form) and version from the name of a metadata folder or file.
pub(super) fn parse_metadata_name(name: &str) -> Option<(String, String)> {
    let stem = name
        .strip_suffix(".dist-info")
        .or_else(|| name.strip_suffix(".egg-info"))?;
    let mut parts = stem.splitn(3, '-');
    let (name, version) = (parts.next()?, parts.next()?);
    Some((normalize(name), version.to_owned()))
}

/// Versions of the [`KEYS`] that are installed.
#[must_use]
pub fn key_versions(interpreter: &Interpreter) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in &interpreter.packages {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Some((name, version)) = entry.file_name().to_str().and_then(parse_metadata_name) else {
                continue;
            };
            // The first folder on the path wins, as it does for imports.
            if KEYS.contains(&name.as_str()) {
                found.entry(name).or_insert(version);
            }
        }
    }
    found
}

/// Versions of Python, dask and distributed.
///
/// # Errors
/// [`Error::Missing`] with the command that installs what is not there.
pub fn installed_versions(interpreter: &Interpreter) -> Result<Versions, Error> {
    let found = key_versions(interpreter);
    let missing: Vec<String> = ["dask", "distributed"]
        .iter()
        .filter(|name| !found.contains_key(**name))
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(Error::Missing {
            command: install_command(interpreter, &missing),
            packages: missing,
            python: interpreter.executable.clone(),
        });
    }
    let version = |name: &str| found.get(name).cloned().unwrap_or_default();
    Ok(Versions {
        python: interpreter.version.clone(),
        dask: version("dask"),
        distributed: version("distributed"),
    })
}

fn install_command(interpreter: &Interpreter, missing: &[String]) -> String {
    let packages = missing.join(" ");
    let python = interpreter.executable.display();
    if interpreter.kind == Kind::Conda {
        return format!(
            "conda install -p {} -c conda-forge {packages}",
            interpreter.prefix.display()
        );
    }
    // Environments made by uv come without pip.
    let has_pip = interpreter.packages.iter().any(|f| f.join("pip").is_dir());
    if has_pip {
        format!("{python} -m pip install {packages}")
    } else {
        format!("uv pip install --python {python} {packages}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized() {
        assert_eq!(normalize("Foo_.-Bar"), "foo-bar");
        assert_eq!(
            parse_metadata_name("ruamel.yaml-0.18.6.dist-info"),
            Some(("ruamel-yaml".into(), "0.18.6".into()))
        );
        assert_eq!(
            parse_metadata_name("dask-2026.8.0-py3.11.egg-info"),
            Some(("dask".into(), "2026.8.0".into()))
        );
        assert_eq!(parse_metadata_name("dask"), None);
        assert_eq!(parse_metadata_name("nodash.dist-info"), None);
    }
}
