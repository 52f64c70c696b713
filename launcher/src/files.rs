//! Files that this computer keeps: private, replaced whole.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use herdsman_wire::{ApiError, Code};

fn failed(what: &str, path: &Path, e: &std::io::Error) -> ApiError {
    let error = ApiError::new(Code::Disk, format!("cannot {what} {}: {e}", path.display()));
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            error.with_hint("free some space and run the command again, or name another folder with HERDSMAN_STATE_DIR")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            error.with_hint("make the folder writable, or name another with HERDSMAN_STATE_DIR")
        }
        _ => error.with_hint("check that path, or name another folder with HERDSMAN_STATE_DIR"),
    }
}

/// Makes a folder that only its owner can look into.
pub(crate) fn make_dir(path: &Path) -> Result<(), ApiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|e| failed("make the folder", path, &e))
}

/// Replaces a file, mode 0600, so that after a crash the old or the new content
/// is there, whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let result = (|| {
        // Made 0600 by the crate.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        #[cfg(unix)]
        fs::File::open(folder)?.sync_all()?;
        Ok(())
    })();
    result.map_err(|e| failed("write", path, &e))
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ApiError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, &e)),
    }
}

/// Names in a folder; none when it is not there.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, ApiError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("list", path, &e)),
    };
    Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
}

/// Removes a folder with all in it; it may be gone.
pub(crate) fn remove_dir(path: &Path) -> Result<(), ApiError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", path, &e)),
    }
}
