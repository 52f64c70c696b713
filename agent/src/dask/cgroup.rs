//! Control groups of version 2: the one thing no process of a tree can leave by
//! itself. Used where the agent may make them; the tree is found without, too.

use std::io;
use std::path::{Path, PathBuf};

use herdsman_wire::ApiError;

use super::procfs::ProcFs;
use super::spec::Group;
use crate::files::io_error;

/// A group below the agent's own, if the agent may make one: its unit is
/// delegated to it, or it is root outside of systemd. No controller is switched
/// on for the agent's own group: the service manager could then not start a new
/// agent in it while Dask still runs beside.
#[must_use]
pub fn below_own(proc: &ProcFs, name: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(proc.root().join("self/cgroup")).ok()?;
    let own = parse_own(&text)?;
    let mounted = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|p| p.join("cgroup.controllers").is_file())?;
    let path = mounted.join(own.trim_start_matches('/')).join(name);
    let existed = path.is_dir();
    let usable = make(&path).is_ok()
        && std::fs::OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"))
            .is_ok();
    if !usable && !existed {
        let _ = std::fs::remove_dir(&path);
    }
    usable.then_some(path)
}

/// The path of version 2 in `/proc/PID/cgroup`.
fn parse_own(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|l| l.strip_prefix("0::"))?;
    // A removed group, or one outside of what a container sees.
    let odd = path.ends_with(" (deleted)") || path.split('/').any(|part| part == "..");
    (path.starts_with('/') && !odd).then_some(path)
}

fn make(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes a group and sets its memory limit where the controller is on.
///
/// # Errors
/// When the group cannot be made, or its limit is refused.
pub fn prepare(group: &Group) -> Result<(), ApiError> {
    make(&group.path).map_err(|e| io_error("make the control group", &group.path, &e))?;
    let file = group.path.join("memory.max");
    if !file.is_file() {
        return Ok(());
    }
    let limit = group.memory_max.map_or_else(|| "max".to_owned(), |n| n.to_string());
    std::fs::write(&file, limit).map_err(|e| io_error("write", &file, &e))
}

/// Kept of a machine's memory for all but Dask and the agent, bytes: a stock system's
/// kernel and services need about half of it.
const ROOM: u64 = 256 << 20;

/// Lowers the limit of the agent's own group, above this one of Dask's, until the rest
/// of the machine has its room: the unit's limit is a share, which is too little of a
/// small machine. There the kernel would throw out the programs that run, and the
/// machine stand still for minutes, before it killed anything.
///
/// `total` is the machine's memory in bytes. Gives a new limit. A group without any
/// limit is somebody else's, or was meant so.
#[must_use]
pub fn leave_room(path: &Path, total: u64) -> Option<u64> {
    let file = path.parent()?.join("memory.max");
    let now: u64 = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let wanted = total - ROOM.min(total / 4);
    (now > wanted && std::fs::write(&file, wanted.to_string()).is_ok()).then_some(wanted)
}

/// Ids of the processes in a group and below it.
#[must_use]
pub fn members(path: &Path) -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        // 0 stands for a process outside of our own view.
        .filter(|pid| *pid != 0)
        .collect();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(members(&entry.path()));
        }
    }
    found
}

/// Kills all of a group at once; `false` where the kernel cannot (before 5.14).
#[must_use]
pub fn kill(path: &Path) -> bool {
    let file = path.join("cgroup.kill");
    file.is_file() && std::fs::write(file, "1").is_ok()
}

/// How many processes of the group the kernel has killed for lack of memory, for
/// whichever limit, the machine's own included.
///
/// Without a memory controller of its own (see [`below_own`]) they are counted in the
/// agent's group, which has the limit: beside Dask it holds the agent alone, whom the
/// kernel takes last.
#[must_use]
pub fn oom_kills(path: &Path) -> u64 {
    let groups = [Some(path), path.parent()];
    let text = groups
        .into_iter()
        .flatten()
        .find_map(|p| std::fs::read_to_string(p.join("memory.events")).ok());
    text.unwrap_or_default()
        .lines()
        .find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Removes an empty group; one that is not empty stays.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_the_one_of_version_two() {
        let hybrid = "12:pids:/a\n1:name=systemd:/b\n0::/system.slice/herdsman-agent.service\n";
        assert_eq!(parse_own(hybrid), Some("/system.slice/herdsman-agent.service"));
        assert_eq!(parse_own("0::/\n"), Some("/"));
        for text in ["", "1:name=systemd:/\n", "0::/a (deleted)\n", "0::/../b\n", "0::b"] {
            assert_eq!(parse_own(text), None, "{text}");
        }
    }

    #[test]
    fn members_are_counted_with_all_below() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), "5\n0\n6\n").unwrap();
        std::fs::write(dir.path().join("sub/cgroup.procs"), "7\n").unwrap();
        std::fs::write(dir.path().join("memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
        assert_eq!(members(dir.path()), [5, 6, 7]);
        assert_eq!(oom_kills(dir.path()), 2);
        // Counted in the group above where the controller is off.
        assert_eq!(oom_kills(&dir.path().join("sub")), 2);
        std::fs::write(dir.path().join("sub/memory.events"), "oom_kill 1\n").unwrap();
        assert_eq!(oom_kills(&dir.path().join("sub")), 1);
        assert!(!kill(dir.path()));
        assert!(members(&dir.path().join("gone")).is_empty());
    }

    #[test]
    fn small_machines_keep_room_for_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (group, file) = (dir.path().join("dask"), dir.path().join("memory.max"));
        let gib = 1 << 30;
        assert_eq!(leave_room(&group, gib), None);
        for (before, total, after) in [
            ("2040109466\n", 2 * gib, Some(2 * gib - ROOM)),
            ("499289948\n", gib / 2, Some(gib / 8 * 3)),
            // A large machine's share is more, and a tighter limit stays.
            ("65283502899\n", 64 * gib, None),
            ("1000000\n", 2 * gib, None),
            ("max\n", 2 * gib, None),
        ] {
            std::fs::write(&file, before).unwrap();
            assert_eq!(leave_room(&group, total), after, "{before}");
            let expected = after.map_or_else(|| before.to_owned(), |n| n.to_string());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
        }
    }

    #[test]
    fn a_limit_is_set_where_the_controller_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut group = Group {
            path: dir.path().join("g"),
            memory_max: Some(1 << 30),
        };
        prepare(&group).unwrap();
        assert!(!group.path.join("memory.max").exists());
        std::fs::write(group.path.join("memory.max"), "max").unwrap();
        prepare(&group).unwrap();
        assert_eq!(
            std::fs::read_to_string(group.path.join("memory.max")).unwrap(),
            "1073741824"
        );
        group.path = dir.path().join("no/parent");
        assert!(prepare(&group).is_err());
    }
}
