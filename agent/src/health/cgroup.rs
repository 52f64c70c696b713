//! Memory limits of control groups, of both versions: those of the own group and
//! of all above it, as the tightest one counts.

use std::path::{Path, PathBuf};

/// A limit and what is left of it, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) total: u64,
    pub(super) available: u64,
}

/// Names of files that say the same in the two versions.
struct Names {
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

const V2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file",
};
const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

/// All limits that hold for a process with this `/proc/PID/cgroup`.
pub(super) fn limits(mount: &Path, own: &str) -> Vec<Limit> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, names) = if controllers.is_empty() {
            let unified = mount.join("unified");
            (if unified.is_dir() { unified } else { mount.to_owned() }, &V2)
        } else if controllers.split(',').any(|c| c == "memory") {
            (mount.join("memory"), &V1)
        } else {
            continue;
        };
        found.extend(upwards(&root, path).filter_map(|folder| limit(&folder, names)));
    }
    found
}

/// A group's folder and all above it, up to the mount. Inside a container the
/// path may be the host's; the mount itself is then the own group.
fn upwards(root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    let inner: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != "..").collect();
    let folders: Vec<PathBuf> = (0..=inner.len())
        .rev()
        .map(|n| root.join(inner[..n].join("/")))
        .collect();
    folders.into_iter()
}

fn limit(folder: &Path, names: &Names) -> Option<Limit> {
    let number = |file: &str| -> Option<u64> { std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok() };
    // "max" is no number, and so is no limit.
    let total = number(names.limit)?;
    let usage = number(names.usage).unwrap_or(0);
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // Pages of files that nobody has used for a while are had for the asking.
    let reclaimable = stat
        .lines()
        .find_map(|l| l.strip_prefix(names.reclaimable)?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let available = total.saturating_sub(usage.saturating_sub(reclaimable));
    Some(Limit { total, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_has_other_names() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("memory/docker/x");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("memory.limit_in_bytes"), "1000\n").unwrap();
        std::fs::write(group.join("memory.usage_in_bytes"), "700\n").unwrap();
        std::fs::write(group.join("memory.stat"), "inactive_file 9\ntotal_inactive_file 50\n").unwrap();
        let expected = vec![Limit {
            total: 1000,
            available: 350,
        }];
        assert_eq!(
            limits(dir.path(), "5:cpu:/q\n4:hugetlb,memory:/docker/x\n0::/\n"),
            expected
        );
        // The host's path, seen from inside of the container.
        std::fs::rename(&group, dir.path().join("m")).unwrap();
        std::fs::remove_dir_all(dir.path().join("memory")).unwrap();
        std::fs::rename(dir.path().join("m"), dir.path().join("memory")).unwrap();
        assert_eq!(limits(dir.path(), "4:memory:/docker/x\n"), expected);
        assert!(limits(dir.path(), "nonsense\n::\n").is_empty());
    }
}
