//! The audit log: one JSON line a decision, each with the hash of the one
//! before, so that a line cannot be changed or taken out unseen.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use herdsman_wire::{ApiError, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::files::io_error;

/// A line as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Counts up from 1.
    pub seq: u64,
    /// When.
    pub t: Timestamp,
    /// `enrol`, `refuse`, `renew`, `revoke`, `invite`, `operator`, `clone` …
    pub event: String,
    /// Who asked: the identity's URI, or the address where there is none.
    pub who: String,
    /// Whatever else matters; never a secret.
    pub detail: Value,
    /// SHA-256 of the line before, hex; of nothing for the first.
    pub prev: String,
}

/// The log of one hub.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    seq: u64,
    prev: String,
    failed: bool,
    flood: Flood,
}

/// Refusals that are written down: of each caller in each minute, and of all. A
/// caller with a valid certificate must not be able to fill the disk.
const REFUSALS: u32 = 100;
const REFUSALS_OF_ALL: u32 = 500;
const MINUTE: Duration = Duration::from_secs(60);

/// Refusals of this minute.
#[derive(Debug, Default)]
struct Flood {
    since: Option<Instant>,
    by: HashMap<String, u32>,
    written: u32,
    left_out: u64,
}

impl Flood {
    /// Whether one more is written down; gives the number that was left out in the
    /// minute before, when it is over.
    fn admit(&mut self, who: &str, now: Instant) -> (bool, u64) {
        let mut before = 0;
        if self.since.is_none_or(|s| now.duration_since(s) >= MINUTE) {
            before = self.left_out;
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        let of_one = self.by.get(who).copied().unwrap_or(0);
        let is_admitted = of_one < REFUSALS && self.written < REFUSALS_OF_ALL;
        if is_admitted {
            self.by.insert(who.to_owned(), of_one + 1);
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        (is_admitted, before)
    }
}

fn hash(line: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, line.as_bytes());
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

impl Audit {
    /// Opens or starts the log and finds its end.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        let old = match std::fs::read_to_string(path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(io_error("read", path, &e)),
        };
        let last = old.lines().last().unwrap_or_default();
        let seq = serde_json::from_str::<Line>(last).map_or(0, |l| l.seq);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| io_error("open", path, &e))?;
        if !old.is_empty() && !old.ends_with('\n') {
            // A crash cut the last line; the chain goes on behind it.
            let _ = file.write_all(b"\n");
        }
        let prev = if last.is_empty() { String::new() } else { hash(last) };
        Ok(Self {
            path: path.to_owned(),
            inner: Mutex::new(Inner {
                file,
                seq,
                prev,
                failed: false,
                flood: Flood::default(),
            }),
        })
    }

    /// Adds a refusal, unless there are too many: those are only counted.
    pub fn refusal(&self, event: &str, who: &str, detail: Value) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_admitted, left_out) = inner.flood.admit(who, Instant::now());
        drop(inner);
        if left_out > 0 {
            self.note("refusals-left-out", "hub", serde_json::json!({"count": left_out}));
        }
        if is_admitted {
            self.note(event, who, detail);
        }
    }

    /// Adds a line. A full disk must not stop a cluster, so failure is logged
    /// once and the decision stands.
    pub fn note(&self, event: &str, who: &str, detail: Value) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line {
            seq: inner.seq + 1,
            t: Timestamp::now(),
            event: event.to_owned(),
            who: who.to_owned(),
            detail,
            prev: inner.prev.clone(),
        };
        let Ok(text) = serde_json::to_string(&line) else { return };
        let before = inner.file.metadata().map(|m| m.len());
        match inner.file.write_all(format!("{text}\n").as_bytes()) {
            Ok(()) => {
                inner.seq += 1;
                inner.prev = hash(&text);
                inner.failed = false;
            }
            Err(e) => {
                // Half a line would break the chain for all that follow.
                if let Ok(len) = before {
                    let _ = inner.file.set_len(len);
                }
                if !inner.failed {
                    tracing::error!(path = %self.path.display(), "audit log cannot be written: {e}");
                }
                inner.failed = true;
            }
        }
    }

    /// The whole log as text, at most the newest `limit` bytes of it.
    ///
    /// # Errors
    /// As the file system says.
    pub fn read(&self, limit: usize) -> Result<String, ApiError> {
        let text = std::fs::read_to_string(&self.path).map_err(|e| io_error("read", &self.path, &e))?;
        let skip = text.len().saturating_sub(limit);
        let start = if skip == 0 {
            0
        } else {
            text[skip..].find('\n').map_or(text.len(), |i| skip + i + 1)
        };
        Ok(text[start..].to_owned())
    }
}

/// Checks a log's chain; gives the number of lines.
///
/// # Errors
/// The number of the first line that does not fit.
pub fn verify(text: &str) -> Result<u64, u64> {
    let mut prev = String::new();
    let mut seq = 0;
    for line in text.lines() {
        let parsed: Line = serde_json::from_str(line).map_err(|_| seq + 1)?;
        if parsed.seq != seq + 1 || parsed.prev != prev {
            return Err(seq + 1);
        }
        seq = parsed.seq;
        prev = hash(line);
    }
    Ok(seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_chain_goes_on_after_a_restart_and_shows_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let a = Audit::open(&path).unwrap();
        a.note("enrol", "x", json!({"n": 1}));
        a.note("refuse", "y", json!({"why": "spent"}));
        drop(a);
        let a = Audit::open(&path).unwrap();
        a.note("revoke", "z", json!(null));
        let text = a.read(1 << 20).unwrap();
        assert_eq!(verify(&text), Ok(3));
        assert_eq!(verify(&text.replace("spent", "fine!")), Err(3));
        let without: String = text
            .lines()
            .filter(|l| !l.contains("refuse"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(verify(&without), Err(2));
        assert!(a.read(80).unwrap().lines().count() <= 1);
    }

    #[test]
    fn a_flood_of_refusals_is_counted_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(&dir.path().join("audit")).unwrap();
        for n in 0..1000 {
            audit.refusal("refuse", "a", Value::Null);
            audit.refusal("refuse", &format!("b{n}"), Value::Null);
        }
        audit.note("revoke", "hub", Value::Null);
        let text = audit.read(1 << 20).unwrap();
        assert_eq!(verify(&text), Ok(u64::from(REFUSALS_OF_ALL) + 1));
        assert_eq!(text.matches("\"who\":\"a\"").count(), REFUSALS as usize);
        let mut flood = Flood::default();
        let now = Instant::now();
        let admitted = (0..REFUSALS + 7).filter(|_| flood.admit("a", now).0).count();
        assert_eq!(admitted, REFUSALS as usize);
        assert_eq!(flood.admit("a", now + MINUTE), (true, 7));
    }
}
