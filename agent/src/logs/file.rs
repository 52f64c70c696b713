//! The agent's own log on disk: `agent.log`, and older parts with a number. A
//! line is its time in milliseconds since the epoch, a space, and the text.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, Timestamp};

use crate::files::io_error;

/// Size at which a file becomes an old one, bytes.
const SIZE: u64 = 4 << 20;
/// Old files kept.
const OLD: u32 = 2;
/// How much of an earlier agent's log is read back, bytes.
const BACK: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct AgentFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// Whether the last line in the file is whole.
    whole: bool,
}

impl AgentFile {
    pub(super) fn open(path: &Path) -> Result<Self, ApiError> {
        let file = append(path).map_err(|e| io_error("open", path, &e))?;
        let size = file.metadata().map_or(0, |m| m.len());
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            size,
            whole: true,
        })
    }

    /// Adds a line. A disk that is full must not stop the agent: the line is then
    /// in memory only.
    pub(super) fn write(&mut self, t: Timestamp, text: &str) {
        // A line that only half fitted onto the disk must not spoil the next one.
        let front = if self.whole { "" } else { "\n" };
        let line = format!("{front}{} {text}\n", t.0);
        if self.size + line.len() as u64 > SIZE {
            shift(&self.path, OLD);
            let _ = std::fs::rename(&self.path, numbered(&self.path, 1));
            self.file = None;
            self.size = 0;
        }
        if self.file.is_none() {
            // A disk that was full may have room again.
            self.file = append(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            self.whole = file.write_all(line.as_bytes()).is_ok();
            self.size += if self.whole { line.len() as u64 } else { 0 };
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// `dask.log` and 2 make `dask.log.2`.
pub(super) fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Makes place for a new number 1; the oldest one goes.
pub(super) fn shift(path: &Path, keep: u32) {
    for n in (1..keep).rev() {
        let _ = std::fs::rename(numbered(path, n), numbered(path, n + 1));
    }
}

/// The last whole lines of a file, at most `most` bytes.
pub(super) fn last_part(path: &Path, most: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let start = len.saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if start > 0 {
        text.split_once('\n')
            .map_or_else(String::new, |(_, rest)| rest.to_owned())
    } else {
        text.into_owned()
    })
}

/// What an earlier agent wrote last.
pub(super) fn read_back(path: &Path) -> Vec<(Timestamp, String)> {
    let mut text = last_part(path, BACK).unwrap_or_default();
    if (text.len() as u64) < BACK / 2 {
        text.insert_str(0, &last_part(&numbered(path, 1), BACK / 2).unwrap_or_default());
    }
    let parsed = text.lines().filter_map(|l| {
        let (t, text) = l.split_once(' ')?;
        Some((Timestamp(t.parse().ok()?), super::ring::clean(text)))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut file = AgentFile::open(&path).unwrap();
        let text = "x".repeat(1 << 16);
        for n in 0..300 {
            file.write(Timestamp(n), &text);
        }
        let mut sizes: Vec<u64> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 3);
        assert!(sizes[2] <= SIZE, "{sizes:?}");
        let back = read_back(&path);
        assert_eq!(back.last().unwrap().0, Timestamp(299));
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        assert!(read_back(&path).is_empty());
        std::fs::write(&path, b"5 good\nnonsense\n\xff\xfe x\n6 also").unwrap();
        let back = read_back(&path);
        assert_eq!(back, [(Timestamp(5), "good".into()), (Timestamp(6), "also".into())]);
    }
}
