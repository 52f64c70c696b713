//! An interpreter that the machine brings along.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use herdsman_wire::environment::differences;
use herdsman_wire::report::Versions;
use herdsman_wire::{ApiError, Code};
use tokio::time::Instant;

use super::probe;

/// An answer counts this long: importing dask takes a second or more, and
/// restarts of Dask ask again and again.
const FRESH: Duration = Duration::from_secs(300);

/// What was asked: the interpreter and when its file changed.
type Key = (PathBuf, Option<SystemTime>);

static ANSWERS: LazyLock<Mutex<HashMap<Key, (Instant, Versions)>>> = LazyLock::new(Mutex::default);

/// Asks an interpreter for its versions and compares them with the laptop's.
/// Good answers are kept for five minutes.
///
/// # Errors
/// [`Code::Environment`] when there is no such interpreter or it has no dask,
/// [`Code::Mismatch`] with a line for each difference.
pub async fn check_image(python: &Path, expected: &Versions) -> Result<Versions, ApiError> {
    let found = ask(python).await?;
    let lines = differences(expected, &found);
    if lines.is_empty() {
        return Ok(found);
    }
    Err(ApiError::new(
        Code::Mismatch,
        format!("the image's Python differs from the laptop's:\n{}", lines.join("\n")),
    )
    .with_hint("let the laptop's environment be copied: `--env auto`")
    .with_hint("or install the image's versions on the laptop"))
}

async fn ask(python: &Path) -> Result<Versions, ApiError> {
    let changed = std::fs::metadata(python).map_err(|e| {
        ApiError::new(Code::Environment, format!("no Python at {}: {e}", python.display()))
            .with_hint("name the interpreter of the image, or let the laptop's environment be copied: `--env auto`")
    })?;
    let key = (python.to_owned(), changed.modified().ok());
    let known = {
        let answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .get(&key)
            .filter(|(when, _)| when.elapsed() < FRESH)
            .map(|(_, versions)| versions.clone())
    };
    if let Some(versions) = known {
        return Ok(versions);
    }
    let found = probe::versions(&probe::ask(python, std::iter::empty()).await?);
    ANSWERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, (Instant::now(), found.clone()));
    Ok(found)
}
