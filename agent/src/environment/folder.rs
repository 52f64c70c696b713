//! Folders of environments: partial, whole, locked.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_wire::{ApiError, Code};
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{Instant, sleep};

use super::{Installed, Record};
use crate::files::{io_error, read_limited, write_mode};

/// Name of the record inside an environment's folder.
const RECORD: &str = "herdsman.json";
/// Largest record, bytes.
const MAX_RECORD: usize = 64 * 1024;

/// Where one environment lives.
#[derive(Debug)]
pub(super) struct Folders {
    id: String,
    root: PathBuf,
    whole: PathBuf,
    pub(super) partial: PathBuf,
    pub(super) lock: PathBuf,
}

impl Folders {
    pub(super) fn new(root: &Path, id: &str) -> Result<Self, ApiError> {
        make_public(root)?;
        Ok(Self {
            id: id.to_owned(),
            root: root.to_owned(),
            whole: root.join(id),
            partial: root.join(format!("{id}.partial")),
            lock: root.join(format!("{id}.lock")),
        })
    }

    /// The environment, if it is there and its interpreter still exists: the
    /// Python behind it may have been removed or upgraded since.
    pub(super) fn ready(&self) -> Option<Installed> {
        let bytes = read_limited(&self.whole.join(RECORD), MAX_RECORD).ok()??;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let python = self.python();
        (record.id == self.id && python.is_file()).then_some(Installed {
            id: record.id,
            python,
            versions: record.versions,
            notes: record.notes,
        })
    }

    fn python(&self) -> PathBuf {
        self.whole.join("venv/bin/python")
    }

    /// Removes what is there under this id and not whole.
    pub(super) fn clean(&self) -> Result<(), ApiError> {
        for folder in [&self.partial, &self.whole] {
            match std::fs::remove_dir_all(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error("remove", folder, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the partial folder its final name.
    pub(super) fn finish(&self, record: &Record) -> Result<Installed, ApiError> {
        let incoming = self.partial.join("incoming");
        std::fs::remove_dir_all(&incoming).map_err(|e| io_error("remove", &incoming, &e))?;
        let bytes = serde_json::to_vec(record).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        write_mode(&self.partial.join(RECORD), &bytes, 0o644)?;
        std::fs::rename(&self.partial, &self.whole).map_err(|e| io_error("write", &self.whole, &e))?;
        File::open(&self.root)
            .and_then(|f| f.sync_all())
            .map_err(|e| io_error("write", &self.root, &e))?;
        self.ready()
            .ok_or_else(|| ApiError::new(Code::Internal, "a new environment is not whole"))
    }
}

/// Makes a folder and its parents, readable for all whatever the umask.
pub(super) fn make_public(path: &Path) -> Result<(), ApiError> {
    use std::os::unix::fs::PermissionsExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| io_error("make the folder", path, &e))
}

/// Says that an environment is in use, for as long as the answer lives: nodes of
/// one computer share their folder of environments, and there the launcher
/// removes those that nobody holds. To be taken before [`super::install`], so
/// that what is found whole stays whole.
///
/// # Errors
/// As the file system says; worth another try while it is being removed.
pub fn hold(root: &Path, id: &str) -> Result<Flock<File>, ApiError> {
    make_public(root)?;
    let path = root.join(format!("{id}.use"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error("open", &path, &e))?;
    // When it was used last; only its age is ever looked at.
    let _ = file.set_modified(std::time::SystemTime::now());
    Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, e)| {
        let e = io_error("lock", &path, &std::io::Error::from(e));
        // A launcher is removing it; in a moment it can be made anew.
        ApiError { retryable: true, ..e }
    })
}

/// Takes the lock of one environment. The kernel drops it with the process, so
/// a crash leaves nothing to clean up; the file stays, since removing it would
/// let two callers lock two files of one name.
pub(super) async fn lock(path: &Path, longest: Duration, progress: &impl Fn(&str)) -> Result<Flock<File>, ApiError> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| io_error("open", path, &e))?;
    let started = Instant::now();
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => return Err(io_error("lock", path, &std::io::Error::from(e))),
        }
        if started.elapsed() > longest {
            return Err(ApiError::new(
                Code::Deadline,
                format!(
                    "another installation of this environment did not end within {} s",
                    longest.as_secs()
                ),
            ));
        }
        if !told {
            progress("waiting for another installation of the same environment");
            told = true;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
