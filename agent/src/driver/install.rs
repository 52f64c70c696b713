//! Making a copied environment on this node: blobs from the hub, uv, patience.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::report::Versions;
use herdsman_wire::{ApiError, Code};

use super::dask_side::Ready;
use crate::client::HubClient;
use crate::environment;

/// Tries of an installation whose failure may pass.
const TRIES: u32 = 3;
/// Wait between two looks for a blob that is still on its way.
const BLOB_PAUSE: Duration = Duration::from_millis(200);

/// Where blobs come from.
pub(super) enum Source {
    Hub(HubClient),
    Here(crate::hub::blobs::Blobs),
}

impl Source {
    /// The launcher may still be sending: nodes start before it is through. The
    /// caller's deadline for a blob ends this.
    async fn fetch_when_there(&self, hash: &str, to: &Path) -> Result<(), ApiError> {
        loop {
            match self.fetch(hash, to).await {
                Err(e) if e.code == Code::NotFound || e.retryable => tokio::time::sleep(BLOB_PAUSE).await,
                other => return other,
            }
        }
    }

    pub(super) async fn fetch(&self, hash: &str, to: &Path) -> Result<(), ApiError> {
        match self {
            Self::Hub(client) => client
                .download(&format!("/v1/blobs/{hash}"), to, herdsman_wire::limits::BLOB)
                .await
                .map(|_| ()),
            Self::Here(blobs) => {
                let from = blobs.find(hash)?;
                std::fs::copy(&from, to)
                    .map(|_| ())
                    .map_err(|e| crate::files::io_error("copy", &from, &e))
            }
        }
    }
}

/// An index or a hub that stumbles once must not cost the node its life.
pub(super) async fn patiently(request: &environment::Install<'_>, source: &Source) -> Result<Ready, ApiError> {
    let mut pause = Duration::from_secs(2);
    for _ in 1..TRIES {
        match install(request, source).await {
            Err(e) if e.retryable => tracing::warn!("environment: {e}; trying again in {} s", pause.as_secs()),
            other => return other,
        }
        tokio::time::sleep(pause).await;
        pause *= 4;
    }
    install(request, source).await
}

async fn install(request: &environment::Install<'_>, source: &Source) -> Result<Ready, ApiError> {
    let fetch = async |hash: &str, to: &Path| source.fetch_when_there(hash, to).await;
    let hold = environment::hold(request.root, request.id)?;
    let installed = environment::install(request, fetch, |text| tracing::info!("environment: {text}")).await?;
    for note in &installed.notes {
        tracing::warn!("environment: {note}");
    }
    Ok(Ready {
        python: installed.python,
        modules: Vec::new(),
        id: Some(installed.id),
        versions: Versions::default(),
        hold: Some(Arc::new(hold)),
    })
}

/// The `uv` to install with: the one that is named, one of the machine's, or a
/// blob, which is kept beside the environments for the next time.
pub(super) async fn have_uv(
    named: Option<PathBuf>,
    blob: Option<&str>,
    root: &Path,
    source: &Source,
) -> Result<PathBuf, ApiError> {
    if let Some(found) = named.or_else(environment::uv_on_this_machine) {
        return Ok(found);
    }
    let Some(hash) = blob else {
        return Err(ApiError::new(
            Code::Environment,
            "`uv`, which installs the environment, is not on this machine",
        )
        .with_hint("bake it into the image at /opt/herdsman/bin/uv"));
    };
    let folder = root.parent().unwrap_or(root).join("bin");
    // Its hash is in its name: another launcher's uv is another file.
    let kept = folder.join(format!("uv-{}", hash.get(..16).unwrap_or(hash)));
    if kept.is_file() {
        return Ok(kept);
    }
    tracing::info!("environment: fetching uv");
    crate::files::make_dir(&folder)?;
    set_mode(&folder, 0o755)?;
    let partial = folder.join(format!(".uv.{}", std::process::id()));
    let fetched = environment::fetch_blob(
        &async |hash: &str, to: &Path| source.fetch_when_there(hash, to).await,
        hash,
        &partial,
    )
    .await;
    let placed = fetched.and_then(|()| {
        set_mode(&partial, 0o755)?;
        std::fs::rename(&partial, &kept).map_err(|e| crate::files::io_error("rename", &partial, &e))
    });
    if placed.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    placed.map(|()| kept)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ApiError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| crate::files::io_error("change the mode of", path, &e))
}
