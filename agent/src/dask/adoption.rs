//! The PID file, and how a process is found again by it.

use std::path::Path;

use herdsman_wire::{ApiError, Code, Timestamp};
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::procfs::ProcFs;
use crate::files;

/// Largest PID file, bytes.
const LIMIT: usize = 4096;

/// What is written down of a running process. JSON, mode 0600: the digest is
/// made of secrets too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidFile {
    /// Its number.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start_ticks: u64,
    /// The boot in which it runs.
    pub boot_id: String,
    /// [`super::spec::ProcessSpec::digest`] of what it was started with.
    pub digest: String,
    /// When it was started.
    pub since: Timestamp,
    /// Starts after the first, up to now.
    #[serde(default)]
    pub restarts: u32,
}

impl PidFile {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, path: &Path) -> Result<(), ApiError> {
        let text = serde_json::to_vec(self).map_err(|e| ApiError::new(Code::Internal, format!("PID file: {e}")))?;
        files::write_atomic(path, &text)
    }

    /// Reads one; `None` when there is none that makes sense. A damaged file is as
    /// good as none: the tree is then found by its marker.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, ApiError> {
        Ok(files::read_limited(path, LIMIT)?.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

/// A process that was found running.
#[derive(Debug)]
pub struct Found {
    /// A hold on it.
    pub process: Process,
    /// What was written down.
    pub file: PidFile,
}

/// Finds the process of a PID file: of this boot, of this number and of this
/// start time. Anything else is a stranger and is left alone.
///
/// # Errors
/// When the file or the process cannot be looked at.
pub fn find(proc: &ProcFs, path: &Path) -> Result<Option<Found>, ApiError> {
    let Some(file) = PidFile::read(path)? else {
        return Ok(None);
    };
    let boot = proc
        .boot_id()
        .map_err(|e| files::io_error("read the boot id in", proc.root(), &e))?;
    if file.boot_id != boot {
        return Ok(None);
    }
    let process = Process::open(proc, file.pid, Some(file.start_ticks))
        .map_err(|e| ApiError::new(Code::Internal, format!("cannot look at process {}: {e}", file.pid)))?;
    Ok(process.map(|process| Found { process, file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_process_is_found() {
        let proc = ProcFs::default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dask.pid");
        assert!(find(&proc, &path).unwrap().is_none());
        let me = std::process::id();
        let right = PidFile {
            pid: me,
            start_ticks: proc.stat(me).unwrap().unwrap().start_ticks,
            boot_id: proc.boot_id().unwrap(),
            digest: "d".into(),
            since: Timestamp(5),
            restarts: 2,
        };
        right.write(&path).unwrap();
        let found = find(&proc, &path).unwrap().unwrap();
        assert_eq!((found.process.pid(), &found.file), (me, &right));
        let wrong: [fn(&mut PidFile); 3] = [
            |f| f.start_ticks += 1,
            |f| f.boot_id = "another".into(),
            |f| f.pid = u32::MAX,
        ];
        for change in wrong {
            let mut file = right.clone();
            change(&mut file);
            file.write(&path).unwrap();
            assert!(find(&proc, &path).unwrap().is_none(), "{file:?}");
        }
        std::fs::write(&path, b"{\"pid\":1").unwrap();
        assert!(find(&proc, &path).unwrap().is_none());
    }
}
