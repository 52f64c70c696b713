//! Asks an interpreter what it has.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::environment::{Manifest, differences};
use herdsman_wire::report::Versions;
use herdsman_wire::{ApiError, Code};

use super::run::{command, run, tail};

/// Longest time for importing dask: a cold disk takes its time.
const PROBE: Duration = Duration::from_secs(120);

/// Imports what Dask's processes will import, so that a broken package shows
/// here and not in a restart loop, and so that its byte code is written while
/// we still may write there.
const QUESTION: &str = "import sys, json, platform
from importlib import metadata
import dask, distributed
found = {'python': platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
found['dask'] = dask.__version__
found['distributed'] = distributed.__version__
print(json.dumps(found))";

/// Versions of Python, dask, distributed and the named packages.
///
/// # Errors
/// [`Code::Environment`] with the last lines of what Python said.
pub(super) async fn ask<'a>(
    python: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut c = command(python);
    // Isolated: no PYTHONPATH, no user's packages, no working folder.
    c.args(["-I", "-c", QUESTION]).args(names);
    let ended = run("asking Python for its versions", c, PROBE).await?;
    if !ended.status.success() {
        let said = tail(&ended.stderr, []);
        let missing = said.contains("No module named 'dask'") || said.contains("No module named 'distributed'");
        let error = ApiError::new(
            Code::Environment,
            if missing {
                format!("{} has no dask and distributed", python.display())
            } else {
                format!("dask cannot be imported by {}:\n{said}", python.display())
            },
        );
        return Err(if missing {
            error.with_hint(format!(
                "install them there: {} -m pip install dask distributed",
                python.display()
            ))
        } else {
            error
        });
    }
    let line = ended
        .stdout
        .lines()
        .rev()
        .find(|l| l.starts_with('{'))
        .unwrap_or_default();
    serde_json::from_str(line).map_err(|_| {
        ApiError::new(
            Code::Environment,
            format!("{} does not answer as Python does", python.display()),
        )
    })
}

/// The three versions that every report carries.
pub(super) fn versions(found: &BTreeMap<String, String>) -> Versions {
    let get = |name: &str| found.get(name).cloned().unwrap_or_default();
    Versions {
        python: get("python"),
        dask: get("dask"),
        distributed: get("distributed"),
    }
}

/// Compares what came out with what the manifest names; gives notes for people.
pub(super) fn compare(manifest: &Manifest, found: &BTreeMap<String, String>) -> Result<Vec<String>, ApiError> {
    let mut lines = differences(&versions(&manifest.versions), &versions(found));
    for (name, wanted) in &manifest.versions {
        if matches!(name.as_str(), "python" | "dask" | "distributed") {
            continue;
        }
        let got = found.get(name).map_or("nothing", String::as_str);
        if got != wanted {
            lines.push(format!("{name}: {wanted} here, {got} on the node"));
        }
    }
    if !lines.is_empty() {
        return Err(ApiError::new(
            Code::Mismatch,
            format!("the new environment differs from the laptop's:\n{}", lines.join("\n")),
        )
        .with_hint("lock again: `herdsman pkg sync`"));
    }
    Ok(match found.get("python") {
        Some(python) if *python != manifest.python => {
            vec![format!("Python {python} instead of {}", manifest.python)]
        }
        _ => Vec::new(),
    })
}
