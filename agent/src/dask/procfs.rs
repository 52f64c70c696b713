//! What `/proc` says of processes. Text is parsed by pure functions that take
//! whatever the kernel, or a hostile process name, may put there.

use std::io;
use std::path::{Path, PathBuf};

/// A `/proc`; another folder in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcFs {
    root: PathBuf,
}

/// The fields of `/proc/PID/stat` that identify a process and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// Name as the kernel knows it, at most 15 bytes.
    pub comm: String,
    /// State letter; `Z` and `X` are dead.
    pub state: char,
    /// Parent.
    pub ppid: u32,
    /// Session.
    pub session: u32,
    /// Start in clock ticks since boot. With the pid it names one process for
    /// the whole life of a boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Whether it has ended and only waits to be reaped.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl ProcFs {
    /// A `/proc` at another place.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A process; `None` when there is none of this number.
    ///
    /// # Errors
    /// When the file can be read but not understood, or not be read for another
    /// reason than its absence.
    pub fn stat(&self, pid: u32) -> io::Result<Option<Stat>> {
        let raw = match std::fs::read(self.root.join(format!("{pid}/stat"))) {
            Ok(raw) => raw,
            // ESRCH: the process ended between open and read.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(3) => return Ok(None),
            Err(e) => return Err(e),
        };
        let text = String::from_utf8_lossy(&raw);
        match parse_stat(&text) {
            Some(stat) => Ok(Some(stat)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat has an unknown form"),
            )),
        }
    }

    /// Real user id of a process.
    #[must_use]
    pub fn uid(&self, pid: u32) -> Option<u32> {
        let raw = std::fs::read(self.root.join(format!("{pid}/status"))).ok()?;
        parse_uid(&String::from_utf8_lossy(&raw))
    }

    /// Whether a process was started with `name=value` in its environment.
    /// `false` also where that cannot be read.
    #[must_use]
    pub fn has_variable(&self, pid: u32, name: &str, value: &str) -> bool {
        let wanted = format!("{name}={value}");
        std::fs::read(self.root.join(format!("{pid}/environ")))
            .is_ok_and(|raw| raw.split(|b| *b == 0).any(|v| v == wanted.as_bytes()))
    }

    /// All processes that can be seen.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn all(&self) -> io::Result<Vec<Stat>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // A process that ends during the walk is simply not there.
            if let Ok(Some(stat)) = self.stat(pid) {
                found.push(stat);
            }
        }
        Ok(found)
    }

    /// The kernel's identity of this boot.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn boot_id(&self) -> io::Result<String> {
        let text = std::fs::read_to_string(self.root.join("sys/kernel/random/boot_id"))?;
        Ok(text.trim().to_owned())
    }
}

/// Parses `/proc/PID/stat`. The name may hold spaces and parentheses, so the
/// fields are counted from the last closing one.
#[must_use]
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // proc(5): state is field 3, ppid 4, session 6, starttime 22.
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state,
        ppid,
        session,
        start_ticks,
    })
}

fn parse_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: &str =
        "1234 (py (x) y) S 77 1234 1230 0 -1 4194560 5 0 0 0 1 2 0 0 20 0 1 0 987654 100 50 1844674 1 1 0";

    #[test]
    fn fields_are_counted_from_the_last_parenthesis() {
        let s = parse_stat(REAL).unwrap();
        assert_eq!((s.pid, s.ppid, s.session, s.start_ticks), (1234, 77, 1230, 987_654));
        assert_eq!((s.comm.as_str(), s.state), ("py (x) y", 'S'));
        assert!(!s.is_dead());
    }

    #[test]
    fn this_process_is_found() {
        let proc = ProcFs::default();
        let me = std::process::id();
        let stat = proc.stat(me).unwrap().unwrap();
        assert_eq!(stat.pid, me);
        assert!(stat.start_ticks > 0);
        assert!(proc.all().unwrap().iter().any(|s| s.pid == me));
        assert_eq!(proc.uid(me), Some(nix::unistd::getuid().as_raw()));
        assert_eq!(proc.boot_id().unwrap().len(), 36);
        assert!(proc.stat(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn variables_are_compared_whole() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("5")).unwrap();
        std::fs::write(dir.path().join("5/environ"), b"A=1\0HERDSMAN_NODE=w1\0B=\0").unwrap();
        let proc = ProcFs::at(dir.path());
        assert!(proc.has_variable(5, "HERDSMAN_NODE", "w1"));
        assert!(!proc.has_variable(5, "HERDSMAN_NODE", "w"));
        assert!(!proc.has_variable(5, "NODE", "w1"));
        assert!(!proc.has_variable(6, "HERDSMAN_NODE", "w1"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".*") {
            let _ = parse_stat(&text);
            let _ = parse_uid(&text);
        }

        #[test]
        fn cut_text_never_panics(n in 0..REAL.len()) {
            let _ = parse_stat(&REAL[..n]);
        }

        #[test]
        fn any_name_is_understood(comm in "[^\n]{0,15}") {
            let text = format!("9 ({comm}) R 1 9 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 42 0");
            let s = parse_stat(&text).unwrap();
            prop_assert_eq!(s.comm, comm);
            prop_assert_eq!(s.start_ticks, 42);
        }
    }
}
