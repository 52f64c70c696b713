//! `herdsman-agent environment DIR`: puts an environment that `herdsman pkg pack`
//! wrote into DIR at its place on this machine, while an image is baked. A node that
//! is told its id later finds it there and fetches nothing.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use herdsman_wire::environment::{PACKED_CACHE, PACKED_ID, is_sha256};
use herdsman_wire::join::Paths;
use herdsman_wire::{ApiError, Code};

use super::{Install, Installed, install};
use crate::files::{io_error, read_limited};

const USAGE: &str = "usage: herdsman-agent environment DIR\n";
/// An id and a line's end; whatever is larger is none.
const ID_MAX: usize = 128;

/// Runs the command; prints the interpreter.
#[must_use]
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut err = std::io::stderr();
    let (Some(packed), None) = (args.next().map(PathBuf::from), args.next()) else {
        let _ = err.write_all(USAGE.as_bytes());
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(|e| ApiError::new(Code::Internal, format!("no runtime: {e}")))
        .and_then(|r| r.block_on(bake(&packed, &Paths::default().environments)));
    match done {
        Ok(installed) => {
            for note in &installed.notes {
                let _ = writeln!(err, "note: {note}");
            }
            let _ = writeln!(std::io::stdout(), "{}", installed.python.display());
            ExitCode::SUCCESS
        }
        Err(e) => {
            let _ = writeln!(err, "herdsman-agent: {}", e.message);
            for hint in &e.hint {
                let _ = writeln!(err, "try: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn bake(packed: &Path, root: &Path) -> Result<Installed, ApiError> {
    let id = id(packed)?;
    let uv = super::uv_on_this_machine().ok_or_else(|| {
        ApiError::new(Code::Environment, "the image has no `uv`").with_hint("scripts/bake-image --uv FILE")
    })?;
    // All packages were fetched where there were rights to do so; only a Python of
    // another version may be missing.
    let cache = packed.join(PACKED_CACHE);
    let offline = cache.is_dir();
    let mut request = Install {
        id: &id,
        root,
        uv: &uv,
        python: None,
        offline,
        credentials: &[],
    };
    let fetch = async |hash: &str, to: &Path| copy(packed, hash, to);
    let say = |text: &str| {
        let _ = writeln!(std::io::stderr(), "environment: {text}");
    };
    if offline {
        place_cache(&cache, &root.join(PACKED_CACHE))?;
        match install(&request, &fetch, say).await {
            Err(e) if e.code == Code::Environment => say(&format!("{}; asking the network", e.message)),
            other => return other,
        }
        request.offline = false;
    }
    install(&request, &fetch, say).await
}

fn id(packed: &Path) -> Result<String, ApiError> {
    let path = packed.join(PACKED_ID);
    let text = read_limited(&path, ID_MAX)?.unwrap_or_default();
    let id = String::from_utf8_lossy(&text).trim().to_owned();
    if is_sha256(&id) {
        return Ok(id);
    }
    Err(
        ApiError::new(Code::NotFound, format!("no packed environment in {}", packed.display()))
            .with_hint("herdsman pkg pack --to DIR          writes one"),
    )
}

/// Its hash is checked by who asked for it.
fn copy(packed: &Path, hash: &str, to: &Path) -> Result<(), ApiError> {
    let from = packed.join(hash);
    std::fs::copy(&from, to)
        .map(|_| ())
        .map_err(|e| io_error("copy", &from, &e))
}

/// uv looks beside the environments, on their file system.
fn place_cache(from: &Path, to: &Path) -> Result<(), ApiError> {
    if to.exists() {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        super::folder::make_public(folder)?;
    }
    let moved = std::fs::rename(from, to);
    moved.map_err(|e| io_error("move", from, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_packed_folder_has_an_id() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(id(dir.path()).unwrap_err().code, Code::NotFound);
        for wrong in ["", "abc\n", "../../etc\n"] {
            std::fs::write(dir.path().join(PACKED_ID), wrong).unwrap();
            assert_eq!(id(dir.path()).unwrap_err().code, Code::NotFound, "{wrong:?}");
        }
        let right = "a".repeat(64);
        std::fs::write(dir.path().join(PACKED_ID), format!("{right}\n")).unwrap();
        assert_eq!(id(dir.path()).unwrap(), right);
    }
}
