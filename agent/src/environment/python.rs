//! The Python on which an environment stands.

use std::path::PathBuf;

use herdsman_wire::environment::Manifest;
use herdsman_wire::{ApiError, Code};

use super::uv::{self, Uv};

/// Finds or fetches an interpreter of the manifest's minor version.
///
/// What the machine has comes first, the exact patch before any other: pickles
/// and messages do not depend on the patch, and a machine without a route to the
/// world starts all the same. Only then is one fetched.
pub(super) async fn find(uv: &Uv<'_>, manifest: &Manifest, progress: &impl Fn(&str)) -> Result<PathBuf, ApiError> {
    uv::version(uv.program()).await?;
    let minor = manifest.minor();
    for version in [&manifest.python, &minor] {
        if let Some(found) = uv.find(version).await {
            return Ok(found);
        }
    }
    // An old uv does not know the newest patch; its minor version will do.
    let mut last = None;
    for version in [&manifest.python, &minor] {
        progress(&format!("fetching Python {version}"));
        match uv.fetch_python(version).await {
            Ok(()) => {
                if let Some(found) = uv.find(version).await {
                    return Ok(found);
                }
            }
            Err(e) => last = Some(e),
        }
    }
    let why = last.map_or_else(String::new, |e| format!(": {}", e.message));
    Err(ApiError::new(
        Code::Environment,
        format!("the machine has no Python {minor} and none could be fetched{why}"),
    )
    .with_hint(format!(
        "use an image with Python {minor}, or a laptop's environment with the image's Python"
    )))
}
