//! Files that survive crashes: written beside their place, synced, renamed, and
//! the folder synced after them. Error texts name the path, never the content.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use herdsman_wire::{ApiError, Code};

/// Puts an I/O error into words, with a code that tells a full disk apart.
#[must_use]
pub fn io_error(what: &str, path: &Path, e: &std::io::Error) -> ApiError {
    let full = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let code = if full { Code::Disk } else { Code::Internal };
    let error = ApiError::new(code, format!("cannot {what} {}: {e}", path.display()));
    match e.kind() {
        _ if full => error.with_hint("free space on that file system, or give the machine a larger disk (`--disk`)"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ApiError {
            code: Code::Disk,
            ..error
        }
        .with_hint("make the folder writable for the agent's user"),
        _ => error,
    }
}

/// Makes a folder and its parents, for its owner only.
///
/// # Errors
/// As the file system says.
pub fn make_dir(path: &Path) -> Result<(), ApiError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| io_error("make the folder", path, &e))
}

/// Writes a file of mode 0600 so that after a crash either the old or the new
/// content is there, whole.
///
/// # Errors
/// As the file system says; the old content is then still there.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    write_mode(path, content, 0o600)
}

/// As [`write_atomic`], with another mode.
///
/// # Errors
/// As there.
pub fn write_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), ApiError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    let result = (|| {
        // A leftover of a crash may have the wrong mode: never reuse it.
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    })();
    result.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        io_error("write", path, &e)
    })
}

/// Reads a file of at most `limit` bytes; `None` when there is none.
///
/// # Errors
/// [`Code::TooLarge`], or as the file system says.
pub fn read_limited(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, ApiError> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path, &e)),
    };
    let mut content = Vec::new();
    let read = file
        .take(limit as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|e| io_error("read", path, &e))?;
    if read > limit {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("{} has more than {limit} bytes", path.display()),
        ));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn writes_for_the_owner_only_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(read_limited(&path, 10).unwrap(), None);
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_limited(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(read_limited(&path, 2).unwrap_err().code, Code::TooLarge);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_has_its_code_and_keeps_the_old_content() {
        let e = io_error("write", Path::new("/x"), &std::io::Error::from_raw_os_error(28));
        assert_eq!(e.code, Code::Disk);
        assert!(e.hint[0].contains("free space"));
    }
}
