//! Follows a file that another process writes, and keeps it small.
//!
//! Dask holds its output open, so the file cannot be renamed away from it. It is
//! opened for appending, so it can be copied and then cut to nothing: what Dask
//! writes next goes to the beginning.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_wire::report::LogSource;
use herdsman_wire::{Timestamp, limits};

use super::LogStore;
use super::file::{last_part, numbered, shift};

/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A line without an end is taken as it is after so many looks without news.
const PATIENCE: u32 = 8;
/// How much is read at a look, bytes.
const CHUNK: u64 = 1 << 20;
/// A follower that is further behind than this goes on near the end, bytes.
const BEHIND: u64 = 4 << 20;
/// How much of what is there at the beginning is told, bytes.
const BACK: u64 = 128 << 10;

/// When and how a followed file is made an old one.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Size at which it is, bytes.
    pub size: u64,
    /// Old files kept.
    pub keep: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            size: 16 << 20,
            keep: 3,
        }
    }
}

/// Follows a file until dropped. It may come later, and be cut by anyone at any
/// time. With `rotation` the agent keeps it small itself: for files in its own
/// folders only.
pub async fn follow(store: LogStore, source: LogSource, path: PathBuf, rotation: Option<Rotation>) {
    let mut tail = Tail::begin(&store, source, path);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        tail.look(&store);
        let Some(rotation) = rotation.filter(|r| tail.offset >= r.size) else {
            continue;
        };
        // Copies megabytes: not on the thread that answers the hub.
        let (path, read) = (tail.path.clone(), tail.offset);
        let copied = tokio::task::spawn_blocking(move || rotate(&path, rotation, read)).await;
        match copied {
            Ok(Ok(rest)) => tail.cut(&store, &rest),
            Ok(Err(e)) => tracing::warn!("{} cannot be made smaller: {e}", tail.path.display()),
            Err(_) => return,
        }
    }
}

/// Copies a file to number 1 and cuts it. Gives what came after the first `read`
/// bytes, at most the last [`CHUNK`]. When there is no place for a copy it is cut
/// all the same: a full disk would take the whole node down.
fn rotate(path: &Path, rotation: Rotation, read: u64) -> io::Result<Vec<u8>> {
    let mut from = OpenOptions::new().read(true).write(true).open(path)?;
    shift(path, rotation.keep);
    let copy = numbered(path, 1);
    let copied = (|| {
        let mut to = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&copy)?;
        // To the end as it is then; a short moment remains until the cut.
        io::copy(&mut from, &mut to)
    })();
    if copied.is_err() {
        let _ = std::fs::remove_file(&copy);
    }
    let end = from.metadata()?.len();
    let mut rest = Vec::new();
    from.seek(SeekFrom::Start(read.max(end.saturating_sub(CHUNK))))?;
    (&from).take(CHUNK).read_to_end(&mut rest)?;
    from.set_len(0)?;
    Ok(rest)
}

struct Tail {
    path: PathBuf,
    source: LogSource,
    offset: u64,
    /// The beginning of a line.
    partial: Vec<u8>,
    quiet: u32,
}

impl Tail {
    /// Tells the end of what is there already, under the time of its last change:
    /// it is not younger than that.
    fn begin(store: &LogStore, source: LogSource, path: PathBuf) -> Self {
        let meta = std::fs::metadata(&path).ok();
        let offset = meta.as_ref().map_or(0, std::fs::Metadata::len);
        if let Some(changed) = meta.and_then(|m| m.modified().ok()) {
            let text = last_part(&path, BACK).unwrap_or_default();
            store.push(source, changed.into(), &text);
        }
        Self {
            path,
            source,
            offset,
            partial: Vec::new(),
            quiet: 0,
        }
    }

    /// Reads what is new.
    fn look(&mut self, store: &LogStore) {
        let Ok(bytes) = self.read(store) else { return };
        if bytes.is_empty() {
            self.quiet = self.quiet.saturating_add(1);
            if self.quiet == PATIENCE {
                self.flush(store);
            }
            return;
        }
        self.quiet = 0;
        self.take(store, &bytes);
    }

    fn read(&mut self, store: &LogStore) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let len = file.metadata()?.len();
        if len < self.offset {
            self.flush(store);
            self.offset = 0;
        }
        let behind = len - self.offset;
        if behind > BEHIND {
            self.flush(store);
            self.offset = len - CHUNK;
            let left_out = behind - CHUNK;
            let notice = format!("[{left_out} bytes were left out here; they are in the node's file]");
            store.push(self.source, Timestamp::now(), &notice);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(CHUNK).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// Tells the whole lines, and keeps the rest for later.
    fn take(&mut self, store: &LogStore, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') {
            let rest = self.partial.split_off(end + 1);
            let whole = std::mem::replace(&mut self.partial, rest);
            store.push(self.source, Timestamp::now(), &String::from_utf8_lossy(&whole));
        }
        // A line beyond the limit is cut in any case.
        if self.partial.len() > limits::LOG_LINE {
            self.flush(store);
        }
    }

    fn flush(&mut self, store: &LogStore) {
        if !self.partial.is_empty() {
            let text = std::mem::take(&mut self.partial);
            store.push(self.source, Timestamp::now(), &String::from_utf8_lossy(&text));
        }
    }

    /// The file was made an old one; `rest` had not been read.
    fn cut(&mut self, store: &LogStore, rest: &[u8]) {
        self.take(store, rest);
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use herdsman_wire::session::LogQuery;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        store: LogStore,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = LogStore::open(&dir.path().join("logs"), "n-1".parse().unwrap()).unwrap();
            Self { dir, store }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("dask.log")
        }

        fn writer(&self) -> File {
            OpenOptions::new().append(true).create(true).open(self.path()).unwrap()
        }

        fn texts(&self) -> Vec<String> {
            let query = LogQuery {
                sources: vec![LogSource::Dask],
                ..LogQuery::default()
            };
            self.store.query(&query).into_iter().map(|l| l.text).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_whole_and_the_rest_after_a_while() {
        let f = Fixture::new();
        let mut out = f.writer();
        out.write_all(b"before\n").unwrap();
        tokio::spawn(follow(f.store.clone(), LogSource::Dask, f.path(), None));
        tokio::time::sleep(LOOK * 2).await;
        out.write_all(b"one\ntw").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(f.texts(), ["before", "one"]);
        out.write_all(b"o\nprompt>").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(f.texts(), ["before", "one", "two"]);
        tokio::time::sleep(LOOK * 10).await;
        assert_eq!(f.texts()[3], "prompt>");
        out.set_len(0).unwrap();
        out.write_all(b"anew\n").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(f.texts()[4], "anew");
    }

    #[test]
    fn a_file_that_grows_too_large_is_copied_and_cut() {
        let f = Fixture::new();
        let rotation = Rotation { size: 100, keep: 2 };
        let mut out = f.writer();
        for round in 0..4 {
            let mut tail = Tail::begin(&f.store, LogSource::Dask, f.path());
            for n in 0..20 {
                writeln!(out, "round {round} line {n}").unwrap();
            }
            tail.look(&f.store);
            assert!(tail.offset >= rotation.size);
            writeln!(out, "round {round} late").unwrap();
            let rest = rotate(&f.path(), rotation, tail.offset).unwrap();
            tail.cut(&f.store, &rest);
            assert_eq!(std::fs::metadata(f.path()).unwrap().len(), 0);
        }
        writeln!(out, "after").unwrap();
        // Whoever writes goes on at the beginning, without a hole.
        assert_eq!(std::fs::read(f.path()).unwrap(), b"after\n");
        let old = |n| std::fs::read_to_string(numbered(&f.path(), n)).unwrap_or_default();
        assert!(old(1).starts_with("round 3 line 0") && old(2).starts_with("round 2 line 0"));
        assert!(old(3).is_empty());
        let texts = f.texts();
        assert_eq!((texts.len(), texts[83].as_str()), (84, "round 3 late"));
    }

    #[test]
    fn a_flood_is_cut_short_with_a_notice() {
        let f = Fixture::new();
        let mut out = f.writer();
        let mut tail = Tail::begin(&f.store, LogSource::Dask, f.path());
        out.write_all(&b"x\xff\n".repeat(2 << 20)).unwrap();
        tail.look(&f.store);
        let texts = f.texts();
        assert!(texts.len() > 1000 && texts.last().unwrap().starts_with('x'));
        out.write_all(&vec![b'y'; 100_000]).unwrap();
        tail.look(&f.store);
        assert!(f.texts().last().unwrap().ends_with("[cut]"));
        assert_eq!(tail.partial.len(), 0);
    }
}
