//! Control groups that a node's agent may have made for Dask. Their names tell
//! whose they are: `herdsman-<cluster id>.<node>`, wherever in the tree.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use herdsman_wire::{ClusterId, NodeName};

/// Where the second version is mounted: alone, or beside the first.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Ours lie in the launcher's own group at the deepest, plus one.
const DEPTH: u32 = 12;
/// A group is busy for a moment after its last process has died.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Name of a node's group.
pub(super) fn name(id: &ClusterId, node: &NodeName) -> String {
    format!("herdsman-{id}.{node}")
}

/// Beginning of the names of all groups of a cluster.
pub(super) fn prefix(id: &ClusterId) -> String {
    format!("herdsman-{id}.")
}

/// All groups whose name is wanted.
pub(super) fn find(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for mount in MOUNTS {
        // The mark of a tree of the second version.
        if Path::new(mount).join("cgroup.controllers").exists() {
            walk(Path::new(mount), DEPTH, &wanted, &mut found);
        }
    }
    found
}

fn walk(dir: &Path, depth: u32, wanted: &impl Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if entry.file_name().to_str().is_some_and(wanted) {
            found.push(entry.path());
        } else if depth > 0 {
            walk(&entry.path(), depth - 1, wanted, found);
        }
    }
}

/// Processes in these groups and in all below them.
pub(super) fn processes(groups: &[PathBuf]) -> HashSet<i32> {
    let mut pids = HashSet::new();
    for group in groups {
        let mut all = vec![group.clone()];
        collect(group, &mut all);
        for dir in all {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
    }
    pids
}

/// Folders below, parents first.
fn collect(dir: &Path, all: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            all.push(entry.path());
            collect(&entry.path(), all);
        }
    }
}

/// Removes groups that hold no process any more, with those below them. Those
/// that are not there are fine.
pub(super) fn remove(groups: &[PathBuf]) -> Result<(), String> {
    let deadline = Instant::now() + DEADLINE;
    for group in groups {
        let mut all = vec![group.clone()];
        collect(group, &mut all);
        // Children first; a group's files go by themselves.
        for dir in all.iter().rev() {
            loop {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                    Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
                    Err(e) => return Err(format!("control group {}: {e}", dir.display())),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_be_another_nodes() {
        let id: ClusterId = "aaaaaaaaaa".parse().unwrap();
        let (a, b) = ("w1".parse().unwrap(), "w1-2".parse().unwrap());
        assert_eq!(name(&id, &a), "herdsman-aaaaaaaaaa.w1");
        assert!(name(&id, &b).starts_with(&prefix(&id)) && name(&id, &a) != name(&id, &b));
    }

    #[test]
    fn folders_are_removed_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("herdsman-aaaaaaaaaa.w1");
        fs::create_dir_all(group.join("x/y")).unwrap();
        let mut found = Vec::new();
        walk(dir.path(), 2, &|n: &str| n == "herdsman-aaaaaaaaaa.w1", &mut found);
        assert_eq!(found, std::slice::from_ref(&group));
        remove(&found).unwrap();
        assert!(!group.exists());
        remove(&found).unwrap();
    }
}
