//! The processes below the keeper. Because it is their subreaper, every process
//! of the node descends from it, whatever became of those between.

use std::collections::{HashMap, HashSet};
use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal};

/// What `/proc/PID/stat` says, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Number of the process.
    pub(super) pid: i32,
    /// Its parent.
    pub(super) parent: i32,
    /// Its start in clock ticks since boot.
    pub(super) start_ticks: u64,
    /// Whether it has ended and waits to be reaped.
    pub(super) zombie: bool,
}

impl Stat {
    /// Reads the entry of one process; `None` when there is none.
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name and may hold anything, so fields
    /// count from the last bracket on; proc_pid_stat(5).
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let tail: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            pid: head.split_ascii_whitespace().next()?.parse().ok()?,
            parent: tail.get(1)?.parse().ok()?,
            start_ticks: tail.get(19)?.parse().ok()?,
            zombie: matches!(*tail.first()?, "Z" | "X"),
        })
    }
}

/// Sends a signal to everything below this process. Answers how many were
/// there; what starts meanwhile is found by the next call.
pub(super) fn signal_descendants(signal: Signal) -> usize {
    let me = nix::unistd::getpid().as_raw();
    let all = all();
    let below = descendants(me, &all);
    for stat in &below {
        signal_one(stat, signal);
    }
    below.len()
}

/// A number may be given to another process between looking and signalling, so
/// the handle is opened first and what it stands for is looked at again.
fn signal_one(stat: &Stat, signal: Signal) {
    let Some(pid) = Pid::from_raw(stat.pid) else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if Stat::read(stat.pid).is_some_and(|now| now.start_ticks == stat.start_ticks) {
        // It may have ended by itself: that is what was wanted.
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
}

fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .collect()
}

fn descendants(root: i32, all: &[Stat]) -> Vec<Stat> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for stat in children.get(&pid).into_iter().flatten() {
            // The table is no snapshot: a reused number could close a circle.
            if seen.insert(stat.pid) {
                next.push(stat.pid);
                if !stat.zombie {
                    found.push(**stat);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_the_last_bracket() {
        let line = "77 (a) b (c) S 5 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.pid, stat.parent, stat.start_ticks, stat.zombie),
            (77, 5, 4242, false)
        );
        assert!(Stat::parse(&line.replace(" S ", " Z ")).unwrap().zombie);
        for bad in ["", "1", "1 (x", "1 (x) S", "x (x) S 1 1"] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
        assert_eq!(Stat::read(1).unwrap().parent, 0);
        assert_eq!(Stat::read(-1), None);
    }

    #[test]
    fn descent_goes_through_zombies_and_ends_in_circles() {
        let p = |pid, parent, zombie| Stat {
            pid,
            parent,
            start_ticks: 1,
            zombie,
        };
        let all = [
            p(2, 1, true),
            p(3, 2, false),
            p(4, 3, false),
            p(9, 8, false),
            p(1, 4, false),
        ];
        let mut pids: Vec<i32> = descendants(1, &all).iter().map(|s| s.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [3, 4]);
    }
}
