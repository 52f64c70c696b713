//! Blobs that the caller fetches and we check.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::environment::hex;
use herdsman_wire::{ApiError, Code, limits};

use crate::files::io_error;

/// Longest time for one blob.
const FETCH: Duration = Duration::from_secs(10 * 60);

/// Fetches a blob to `path` and checks its size and hash.
pub(super) async fn get(
    fetch: &impl AsyncFn(&str, &Path) -> Result<(), ApiError>,
    sha256: &str,
    size: Option<u64>,
    path: &Path,
) -> Result<(), ApiError> {
    tokio::time::timeout(FETCH, fetch(sha256, path))
        .await
        .map_err(|_| ApiError {
            retryable: true,
            ..ApiError::new(
                Code::Deadline,
                format!("blob {sha256} did not arrive within {} s", FETCH.as_secs()),
            )
        })??;
    let file = path.to_owned();
    let (got, length) = tokio::task::spawn_blocking(move || digest(&file))
        .await
        .map_err(|e| ApiError::new(Code::Internal, format!("hashing a blob: {e}")))??;
    if got != sha256 || size.is_some_and(|s| s != length) {
        return Err(ApiError::new(
            Code::Malformed,
            format!("blob {sha256} came with hash {got} and {length} bytes"),
        )
        .with_hint("send the environment again: `herdsman up` or `herdsman pkg sync`"));
    }
    Ok(())
}

fn digest(path: &Path) -> Result<(String, u64), ApiError> {
    let fail = |e: std::io::Error| io_error("read", path, &e);
    let mut file = std::fs::File::open(path).map_err(fail)?.take(limits::BLOB + 1);
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0_u64;
    loop {
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok((hex(hash.finish().as_ref()), total));
        }
        total += n as u64;
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}
