//! The node's logs: its own, Dask's and the boot's, kept within bounds in memory
//! and on disk, asked for by operators through the hub.
//!
//! ```text
//! tracing ──▶ LogLayer ──┐            ┌──▶ query: what is kept
//! dask.log ─▶ follow ────┼▶ LogStore ─┤
//! boot.log ─▶ follow ────┘   │        └──▶ follow: what is kept, then what comes
//!                            └▶ agent.log, agent.log.1 …
//! ```
//!
//! Every line has the time at which the agent saw it. Dask's output goes to its
//! own file, which outlives the agent; [`follow`] reads it from there and keeps
//! it small. No secret reaches a log: values that hold one print dots.

mod file;
pub mod follow;
mod layer;
mod ring;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdsman_wire::report::{LogLine, LogSource};
use herdsman_wire::session::LogQuery;
use herdsman_wire::{ApiError, NodeName, Timestamp};
use tokio::sync::mpsc;

use file::AgentFile;
pub use layer::LogLayer;
use ring::{Ring, Stored};

/// Lines that may wait for a reader before it loses some.
const READER: usize = 1024;
/// Most readers at once; the oldest one has to go for another.
const READERS: usize = 32;

/// Folder of logs below a state folder.
#[must_use]
pub fn folder(state: &Path) -> std::path::PathBuf {
    state.join("logs")
}

/// The logs of a node; clones are the same logs.
#[derive(Clone, Debug)]
pub struct LogStore(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    node: NodeName,
    ring: Ring,
    file: AgentFile,
    readers: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    to: mpsc::Sender<LogLine>,
    sources: Vec<LogSource>,
    lost: u64,
}

impl LogStore {
    /// Opens the logs below a folder, with what an earlier agent wrote.
    ///
    /// # Errors
    /// When the folder cannot be made or the agent's own log not be opened.
    pub fn open(dir: &Path, node: NodeName) -> Result<Self, ApiError> {
        crate::files::make_dir(dir)?;
        let path = dir.join("agent.log");
        let mut ring = Ring::default();
        for (t, text) in file::read_back(&path) {
            ring.push(Stored {
                t,
                source: LogSource::Agent,
                text: text.into(),
            });
        }
        Ok(Self(Arc::new(Mutex::new(Inner {
            node,
            ring,
            file: AgentFile::open(&path)?,
            readers: Vec::new(),
        }))))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node got its name: lines are told under it from now on, older ones too.
    pub fn set_node(&self, node: NodeName) {
        self.inner().node = node;
    }

    /// Adds text; each of its lines is one of the log's. Lines are cut at
    /// [`herdsman_wire::limits::LOG_LINE`].
    pub fn push(&self, source: LogSource, t: Timestamp, text: &str) {
        let mut inner = self.inner();
        for line in text.lines() {
            inner.push(Stored {
                t,
                source,
                text: ring::clean(line).into(),
            });
        }
    }

    /// The lines that are kept and match, oldest first.
    #[must_use]
    pub fn query(&self, query: &LogQuery) -> Vec<LogLine> {
        let inner = self.inner();
        inner.ring.query(query).into_iter().map(|s| inner.line(s)).collect()
    }

    /// As [`Self::query`], and with [`LogQuery::follow`] all lines that come, until
    /// the receiver is dropped. A reader that is too slow loses lines and is told
    /// how many.
    #[must_use]
    pub fn follow(&self, query: &LogQuery) -> mpsc::Receiver<LogLine> {
        let mut inner = self.inner();
        let kept: Vec<LogLine> = inner.ring.query(query).into_iter().map(|s| inner.line(s)).collect();
        let (to, lines) = mpsc::channel(kept.len() + READER);
        for line in kept {
            // There is room for all of them.
            let _ = to.try_send(line);
        }
        if query.follow {
            if inner.readers.len() >= READERS {
                inner.readers.remove(0);
            }
            let sources = query.sources.clone();
            inner.readers.push(Reader { to, sources, lost: 0 });
        }
        lines
    }

    /// A layer for `tracing` that writes into these logs.
    #[must_use]
    pub fn layer(&self) -> LogLayer {
        LogLayer::new(self.clone())
    }
}

impl Inner {
    fn line(&self, stored: &Stored) -> LogLine {
        LogLine {
            t: stored.t,
            node: self.node.clone(),
            source: stored.source,
            text: stored.text.to_string(),
        }
    }

    fn push(&mut self, stored: Stored) {
        if stored.source == LogSource::Agent {
            self.file.write(stored.t, &stored.text);
        }
        if !self.readers.is_empty() {
            let line = self.line(&stored);
            self.readers.retain_mut(|r| r.give(&line));
        }
        self.ring.push(stored);
    }
}

impl Reader {
    /// `false` when nobody reads any more.
    fn give(&mut self, line: &LogLine) -> bool {
        if !ring::wants(&self.sources, line.source) {
            return !self.to.is_closed();
        }
        if self.lost > 0 {
            let notice = LogLine {
                text: format!("[{} lines were left out: the reader is too slow]", self.lost),
                ..line.clone()
            };
            // Room for both, or neither.
            if self.to.capacity() < 2 {
                self.lost += 1;
                return !self.to.is_closed();
            }
            let _ = self.to.try_send(notice);
            self.lost = 0;
        }
        match self.to.try_send(line.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> LogStore {
        LogStore::open(dir, "n-1".parse().unwrap()).unwrap()
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|l| l.text.as_str()).collect()
    }

    #[test]
    fn queries_choose_by_time_source_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path());
        logs.push(LogSource::Agent, Timestamp(10), "a1\na2");
        logs.push(LogSource::Dask, Timestamp(20), "d1");
        logs.push(LogSource::Boot, Timestamp(15), "b1");
        let all = logs.query(&LogQuery::default());
        assert_eq!(texts(&all), ["a1", "a2", "b1", "d1"]);
        assert_eq!(all[0].node.as_str(), "n-1");
        let of = |change: fn(&mut LogQuery)| {
            let mut q = LogQuery::default();
            change(&mut q);
            let lines = logs.query(&q);
            texts(&lines).join(" ")
        };
        assert_eq!(of(|q| q.since = Some(15)), "b1 d1");
        assert_eq!(of(|q| q.tail = 2), "b1 d1");
        assert_eq!(of(|q| q.sources = vec![LogSource::Agent, LogSource::Dask]), "a1 a2 d1");
        logs.set_node("n-2".parse().unwrap());
        assert_eq!(logs.query(&LogQuery::default())[0].node.as_str(), "n-2");
    }

    #[test]
    fn the_agents_own_lines_survive_it() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).push(LogSource::Agent, Timestamp(7), "from before");
        let again = open(dir.path()).query(&LogQuery::default());
        assert_eq!((again[0].t, again[0].text.as_str()), (Timestamp(7), "from before"));
    }

    #[tokio::test]
    async fn followers_get_what_is_kept_and_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path());
        logs.push(LogSource::Dask, Timestamp(1), "old");
        let query = LogQuery {
            follow: true,
            sources: vec![LogSource::Dask],
            ..LogQuery::default()
        };
        let mut lines = logs.follow(&query);
        let mut once = logs.follow(&LogQuery::default());
        logs.push(LogSource::Agent, Timestamp(2), "not asked for");
        logs.push(LogSource::Dask, Timestamp(3), "new");
        assert_eq!(lines.recv().await.unwrap().text, "old");
        assert_eq!(lines.recv().await.unwrap().text, "new");
        assert_eq!(once.recv().await.unwrap().text, "old");
        assert!(once.recv().await.is_none());
        drop(lines);
        logs.push(LogSource::Dask, Timestamp(4), "for nobody");
        assert!(logs.inner().readers.is_empty());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_lost() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path());
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let mut lines = logs.follow(&query);
        for n in 0..READER + 5 {
            logs.push(LogSource::Dask, Timestamp(1), &format!("line {n}"));
        }
        for _ in 0..READER {
            lines.recv().await.unwrap();
        }
        logs.push(LogSource::Dask, Timestamp(2), "at last");
        assert!(lines.recv().await.unwrap().text.contains("5 lines were left out"));
        assert_eq!(lines.recv().await.unwrap().text, "at last");
    }
}
