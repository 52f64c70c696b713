//! The Python that Dask runs with on a node.
//!
//! ```text
//! manifest by id ─▶ blobs by hash ─▶ set-up lines ─▶ Python ─▶ uv (hashes, no builds)
//!                                                                 │
//!                 <root>/<id>  ◀── rename ◀── versions checked ◀──┘  in <root>/<id>.partial
//! ```
//!
//! What has its final name is whole: it was checked before the rename. A rest of
//! an interrupted installation is thrown away and made anew; uv's cache beside
//! it makes the second time quick. One environment is made by one caller at a
//! time, in this process and in others; the rest wait and find it ready.
//!
//! Nothing is ever built here: a build runs code of whoever wrote the package,
//! with the agent's rights, and gives other bytes than those that were hashed.

mod blobs;
pub mod cli;
mod folder;
mod image;
mod probe;
mod python;
mod run;
#[cfg(test)]
mod tests;
mod uv;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_wire::environment::{IndexCredential, Manifest};
use herdsman_wire::{ApiError, Code};
use serde::{Deserialize, Serialize};

pub use folder::hold;
pub use image::check_image;
pub use uv::on_this_machine as uv_on_this_machine;

/// Longest wait for another installation of the same environment.
const LOCK: Duration = Duration::from_secs(30 * 60);

/// What to install, and with what.
#[derive(Debug)]
pub struct Install<'a> {
    /// SHA-256 of the manifest, lower-case hex.
    pub id: &'a str,
    /// Folder of environments (`paths.environments`). Made if need be, readable
    /// for all: Dask runs as another user.
    pub root: &'a Path,
    /// The `uv` to use, an absolute path.
    pub uv: &'a Path,
    /// The interpreter to stand on; absent: found or fetched.
    pub python: Option<&'a Path>,
    /// Ask no index: everything is in uv's cache below `root` already.
    pub offline: bool,
    /// Access to the manifest's indexes.
    pub credentials: &'a [IndexCredential],
}

/// An environment that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its id.
    pub id: String,
    /// Its interpreter.
    pub python: PathBuf,
    /// Versions that were found in it: `python` and the packages that must agree.
    pub versions: BTreeMap<String, String>,
    /// What people should know, for example another patch of Python.
    pub notes: Vec<String>,
}

/// What is kept beside an environment to tell that it is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    versions: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// Makes the environment, or finds it ready.
///
/// `fetch` gets a blob's SHA-256 and the path to write it to; hashes are checked
/// here, whatever it does. `progress` gets a few words at each step.
///
/// # Errors
/// [`Code::Malformed`] when the id or a blob is not what it says,
/// [`Code::Environment`] with uv's last lines, [`Code::Mismatch`] when other
/// versions came out than the manifest names, [`Code::Disk`],
/// [`Code::Deadline`], or what `fetch` says. No text holds a password.
pub async fn install(
    request: &Install<'_>,
    fetch: impl AsyncFn(&str, &Path) -> Result<(), ApiError>,
    progress: impl Fn(&str),
) -> Result<Installed, ApiError> {
    if !herdsman_wire::environment::is_sha256(request.id) {
        return Err(ApiError::new(
            Code::Malformed,
            "an environment's id is a SHA-256 in lower-case hex",
        ));
    }
    let folders = folder::Folders::new(request.root, request.id)?;
    if let Some(ready) = folders.ready() {
        return Ok(ready);
    }
    let _lock = folder::lock(&folders.lock, LOCK, &progress).await?;
    // Somebody else may have made it while we waited.
    if let Some(ready) = folders.ready() {
        return Ok(ready);
    }
    folders.clean()?;
    let made = make(request, &folders, fetch, &progress).await;
    if made.is_err() {
        // What is half done helps nobody; uv's cache keeps what was downloaded.
        let _ = folders.clean();
    }
    made
}

/// Fetches a blob that is no part of an environment, and checks its hash.
///
/// # Errors
/// As [`install`] for blobs.
pub async fn fetch_blob(
    fetch: &impl AsyncFn(&str, &Path) -> Result<(), ApiError>,
    sha256: &str,
    to: &Path,
) -> Result<(), ApiError> {
    blobs::get(fetch, sha256, None, to).await
}

async fn make(
    request: &Install<'_>,
    folders: &folder::Folders,
    fetch: impl AsyncFn(&str, &Path) -> Result<(), ApiError>,
    progress: &impl Fn(&str),
) -> Result<Installed, ApiError> {
    let incoming = folders.partial.join("incoming");
    folder::make_public(&folders.partial)?;
    folder::make_public(&incoming)?;

    progress("fetching the list of packages");
    let manifest = incoming.join("manifest.json");
    blobs::get(&fetch, request.id, None, &manifest).await?;
    let bytes = crate::files::read_limited(&manifest, herdsman_wire::environment::MAX_MANIFEST)?.unwrap_or_default();
    let manifest = Manifest::parse(&bytes)?;
    for wheel in &manifest.wheels {
        progress(&format!("fetching {}", wheel.file));
        blobs::get(&fetch, &wheel.sha256, Some(wheel.size), &incoming.join(&wheel.file)).await?;
    }
    for line in &manifest.setup {
        progress(&format!("set-up: {line}"));
        run::setup(line).await?;
    }

    let uv = uv::Uv::new(request, &manifest);
    let base = match request.python {
        Some(python) => python.to_owned(),
        None => {
            progress(&format!("looking for Python {}", manifest.python));
            python::find(&uv, &manifest, progress).await?
        }
    };
    let venv = folders.partial.join("venv");
    uv.venv(&base, &venv).await?;
    let interpreter = venv.join("bin/python");
    progress(&format!(
        "installing {} packages",
        manifest.lock.matches("==").count() + manifest.wheels.len()
    ));
    uv.install(&manifest, &incoming, &interpreter).await?;

    progress("checking the versions");
    let found = probe::ask(&interpreter, manifest.versions.keys()).await?;
    let notes = probe::compare(&manifest, &found)?;
    folders.finish(&Record {
        id: request.id.to_owned(),
        versions: found,
        notes,
    })
}
