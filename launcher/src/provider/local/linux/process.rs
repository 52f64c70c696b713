//! Which processes are a node's.
//!
//! The marker in a process's environment says so, and travels to whatever it
//! starts. But a program may overwrite the memory that `/proc/PID/environ` shows
//! (setproctitle does, and Dask uses it where it is installed), so a node's
//! processes are also all in its network namespace, all in its keeper's session
//! whose environment is overwritten, all in its control group, and all that
//! descend from any of these.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use herdsman_wire::{ClusterId, NodeName};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::cgroup;
use super::record::KeeperState;

/// Environment variable that everything of a node carries.
pub(super) const MARKER: &str = "HERDSMAN_NODE";

/// The node's folder, so that a process tells where it belongs when that folder
/// is gone.
pub(super) const MARKER_DIR: &str = "HERDSMAN_NODE_DIR";
/// The cluster's name and the node's role, for the same case: `<name>/<role>`.
pub(super) const MARKER_OF: &str = "HERDSMAN_NODE_OF";

/// Value of the marker.
pub(super) fn marker(id: &ClusterId, node: &NodeName) -> String {
    format!("{id}/{node}")
}

/// What tells one file, or one namespace, from all others: device and inode.
pub(super) type Inode = (u64, u64);

/// One process at the time of looking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// With the number, this is the process's identity until the next boot.
    pub(super) start_ticks: u64,
    /// Has ended and waits for its parent.
    pub(super) zombie: bool,
    pub(super) marker: Option<String>,
    /// Value of [`MARKER_DIR`].
    pub(super) dir: Option<PathBuf>,
    /// Value of [`MARKER_OF`].
    pub(super) of: Option<String>,
    /// Shows no environment that a program could have been started with.
    pub(super) overwritten: bool,
    /// Its network namespace, where that was asked for and may be seen.
    pub(super) netns: Option<Inode>,
}

impl Process {
    fn read(pid: i32, with_netns: bool) -> Option<Self> {
        let mut process = Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        if !process.zombie
            && let Ok(environment) = fs::read(format!("/proc/{pid}/environ"))
        {
            process.parse_environment(&environment);
        }
        if with_netns && !process.zombie {
            process.netns = inode(Path::new(&format!("/proc/{pid}/ns/net")));
        }
        Some(process)
    }

    /// Fields count from the last bracket on, as the program's name before it
    /// may hold anything; proc_pid_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        let (head, tail) = stat.rsplit_once(')')?;
        let tail: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            pid: head.split_ascii_whitespace().next()?.parse().ok()?,
            parent: tail.get(1)?.parse().ok()?,
            session: tail.get(3)?.parse().ok()?,
            start_ticks: tail.get(19)?.parse().ok()?,
            zombie: matches!(*tail.first()?, "Z" | "X"),
            ..Self::default()
        })
    }

    fn parse_environment(&mut self, environment: &[u8]) {
        let mut entries = environment.split(|b| *b == 0);
        let value = |name: &str| {
            entries
                .clone()
                .find_map(|e| e.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .map(|v| String::from_utf8_lossy(v).into_owned())
        };
        self.marker = value(MARKER);
        if self.marker.is_some() {
            self.dir = value(MARKER_DIR).map(PathBuf::from);
            self.of = value(MARKER_OF);
        }
        // Nodes are started with a PATH; where none is seen it was overwritten.
        self.overwritten = !entries.any(|e| e.starts_with(b"PATH="));
    }
}

/// Identity of what a path leads to.
pub(super) fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// The start of a process by its number, if it lives.
pub(in crate::provider) fn alive_since(pid: i32) -> Option<u64> {
    Process::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        .filter(|p| !p.zombie)
        .map(|p| p.start_ticks)
}

/// Identity of the running kernel; `None` would mean no /proc at all.
pub(super) fn boot_id() -> Option<String> {
    Some(
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .into(),
    )
}

/// Whether this keeper runs.
pub(super) fn runs(keeper: &KeeperState) -> bool {
    boot_id().is_some_and(|b| b == keeper.boot_id) && alive_since(keeper.pid) == Some(keeper.start_ticks)
}

/// What a process must have to belong to a node or to a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    /// The whole marker, or its beginning up to and with the slash.
    pub(super) marker: String,
    /// Keepers of this boot, alive or not: number and start.
    pub(super) keepers: Vec<(i32, u64)>,
    /// Network namespaces.
    pub(super) netns: Vec<Inode>,
    /// Control groups.
    pub(super) cgroups: Vec<PathBuf>,
}

impl Owner {
    fn has(&self, process: &Process, starts: &HashMap<i32, u64>) -> bool {
        let marked = process.marker.as_ref().is_some_and(|m| {
            if self.marker.ends_with('/') {
                m.starts_with(&self.marker)
            } else {
                *m == self.marker
            }
        });
        let inside = process.netns.is_some_and(|n| self.netns.contains(&n));
        // A session's number is not given away while the session has members,
        // but may have been before: so its leader must be the keeper or gone,
        // and only what has nothing else to be known by is taken.
        let session = || {
            process.overwritten
                && self.keepers.iter().any(|(pid, start)| {
                    process.session == *pid
                        && process.start_ticks >= *start
                        && starts.get(pid).is_none_or(|now| now == start)
                })
        };
        marked || inside || session()
    }
}

/// All processes at the time of looking.
#[derive(Debug)]
pub(super) struct Table(Vec<Process>);

impl Table {
    /// Looks. Namespaces cost a look more for each process and need root.
    pub(super) fn read(with_netns: bool) -> Self {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Self(Vec::new());
        };
        Self(
            entries
                .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
                .filter_map(|pid| Process::read(pid, with_netns))
                .collect(),
        )
    }

    /// Living processes that carry a marker.
    pub(super) fn marked(&self) -> impl Iterator<Item = (&str, &Process)> {
        self.0
            .iter()
            .filter(|p| !p.zombie)
            .filter_map(|p| Some((p.marker.as_deref()?, p)))
    }

    /// The living processes of `owner`. Never the caller itself, which may well
    /// run inside a node.
    pub(super) fn of(&self, owner: &Owner) -> Vec<&Process> {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let starts: HashMap<i32, u64> = self.0.iter().map(|p| (p.pid, p.start_ticks)).collect();
        let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
        for process in &self.0 {
            children.entry(process.parent).or_default().push(process);
        }
        let grouped = cgroup::processes(&owner.cgroups);
        let mut next: Vec<&Process> = self
            .0
            .iter()
            .filter(|p| grouped.contains(&p.pid) || owner.has(p, &starts))
            .collect();
        let mut seen: HashSet<i32> = next.iter().map(|p| p.pid).collect();
        let mut found = Vec::new();
        while let Some(process) = next.pop() {
            for child in children.get(&process.pid).into_iter().flatten() {
                if seen.insert(child.pid) {
                    next.push(child);
                }
            }
            if !process.zombie && process.pid != me {
                found.push(process);
            }
        }
        found
    }
}

/// Sends a signal to exactly this process: the handle is opened first, then it
/// is checked that it stands for the process that was looked at.
pub(in crate::provider) fn signal(pid: i32, start_ticks: u64, signal: Signal) -> std::io::Result<()> {
    let gone = |e: rustix::io::Errno| {
        if e == rustix::io::Errno::SRCH {
            Ok(())
        } else {
            Err(e.into())
        }
    };
    let Some(raw) = Pid::from_raw(pid) else { return Ok(()) };
    let handle = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
        Ok(h) => h,
        Err(e) => return gone(e),
    };
    if alive_since(pid) != Some(start_ticks) {
        return Ok(());
    }
    rustix::process::pidfd_send_signal(handle, signal).or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, marker: Option<&str>) -> Process {
        Process {
            pid,
            parent,
            session: pid,
            start_ticks: 100,
            marker: marker.map(Into::into),
            overwritten: marker.is_none(),
            ..Process::default()
        }
    }

    fn pids(table: &Table, owner: &Owner) -> Vec<i32> {
        let mut pids: Vec<i32> = table.of(owner).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn markers_match_whole() {
        let table = Table(vec![
            process(1001, 1, Some("aaaaaaaaaa/x-w1")),
            process(1002, 1, Some("aaaaaaaaaa/x-w10")),
            process(1003, 1, Some("bbbbbbbbbb/x-w1")),
            process(1004, 1001, None),
            process(1005, 1004, Some("other")),
        ]);
        let owner = |marker: &str| Owner {
            marker: marker.into(),
            ..Owner::default()
        };
        assert_eq!(pids(&table, &owner("aaaaaaaaaa/x-w1")), [1001, 1004, 1005]);
        assert_eq!(pids(&table, &owner("aaaaaaaaaa/x-w10")), [1002]);
        assert_eq!(pids(&table, &owner("aaaaaaaaaa/")), [1001, 1002, 1004, 1005]);
    }

    #[test]
    fn sessions_count_only_for_what_hides_its_environment() {
        let member = |pid, overwritten, start_ticks| Process {
            session: 900,
            overwritten,
            start_ticks,
            ..process(pid, 1, None)
        };
        let owner = Owner {
            marker: "aaaaaaaaaa/x".into(),
            keepers: vec![(900, 100)],
            ..Owner::default()
        };
        let members = [
            member(1001, true, 150),
            member(1002, false, 150),
            member(1003, true, 50),
        ];
        assert_eq!(pids(&Table(members.to_vec()), &owner), [1001]);
        // The number is another process's by now: none of it is ours.
        let mut reused = members.to_vec();
        reused.push(Process {
            start_ticks: 140,
            ..member(900, true, 140)
        });
        assert_eq!(pids(&Table(reused), &owner), Vec::<i32>::new());
    }

    #[test]
    fn namespaces_count_and_zombies_do_not() {
        let mut inside = process(1001, 1, None);
        inside.netns = Some((1, 7));
        let mut zombie = process(1002, 1001, None);
        zombie.zombie = true;
        let below = process(1003, 1002, None);
        let owner = Owner {
            marker: "aaaaaaaaaa/x".into(),
            netns: vec![(1, 7)],
            ..Owner::default()
        };
        assert_eq!(pids(&Table(vec![inside, zombie, below]), &owner), [1001, 1003]);
    }

    #[test]
    fn environments_are_cut_at_their_ends() {
        let mut p = Process::default();
        p.parse_environment(b"XHERDSMAN_NODE=no\0HERDSMAN_NODE=aaaaaaaaaa/n\0PATH=/bin\0");
        assert_eq!((p.marker.as_deref(), p.overwritten), (Some("aaaaaaaaaa/n"), false));
        p.parse_environment(b"dask worker\0\0\0");
        assert_eq!((p.marker, p.overwritten), (None, true));
        assert_eq!(Process::parse("1 (x"), None);
    }

    #[test]
    fn a_signal_needs_the_right_start() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = alive_since(pid).unwrap();
        signal(pid, start + 1, Signal::KILL).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        signal(pid, start, Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
        signal(pid, start, Signal::KILL).unwrap();
    }
}
