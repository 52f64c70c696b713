//! A control group for each machine: systemd inside needs one of its own, and all
//! its processes can be found and ended by it, whoever their parent is.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long killed processes may take to go.
const GRACE: Duration = Duration::from_secs(10);

/// The hierarchies in which a machine gets a group: the unified one, and beside it
/// systemd's own where the host mounts both.
fn roots() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").is_file() {
        return vec![base.to_owned()];
    }
    ["unified", "systemd"]
        .iter()
        .map(|n| base.join(n))
        .filter(|p| p.is_dir())
        .collect()
}

/// Makes the group `name` (it may hold slashes); gives the files to which a process
/// writes its id to enter it.
///
/// # Errors
/// When there is no hierarchy to write to.
pub fn make(name: &str) -> Result<Vec<PathBuf>> {
    let roots = roots();
    ensure!(!roots.is_empty(), "no cgroup hierarchy that systemd can use");
    let mut entries = Vec::new();
    for root in roots {
        // So that units inside can have limits; not everywhere possible.
        let mut at = root.clone();
        for part in name.split('/') {
            for controller in ["+memory", "+pids", "+cpu"] {
                let _ = std::fs::write(at.join("cgroup.subtree_control"), controller);
            }
            at.push(part);
            if !at.is_dir() {
                std::fs::create_dir(&at).with_context(|| at.display().to_string())?;
            }
        }
        entries.push(at.join("cgroup.procs"));
    }
    Ok(entries)
}

/// Kills all that runs in the group or below it, and removes both.
pub fn remove(name: &str) {
    for root in roots() {
        let group = root.join(name);
        if !group.is_dir() {
            continue;
        }
        let started = Instant::now();
        loop {
            let processes = processes(&group);
            if std::fs::write(group.join("cgroup.kill"), "1").is_err() {
                for pid in &processes {
                    let pid = nix::unistd::Pid::from_raw(*pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
            if processes.is_empty() && remove_tree(&group) {
                break;
            }
            if started.elapsed() > GRACE {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The processes of a group and of all below it.
fn processes(group: &Path) -> Vec<i32> {
    let mut all: Vec<i32> = std::fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        // 0 is a process of a namespace that cannot be seen from here.
        .filter(|pid| *pid > 1)
        .collect();
    for child in children(group) {
        all.extend(processes(&child));
    }
    all
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

fn remove_tree(group: &Path) -> bool {
    for child in children(group) {
        remove_tree(&child);
    }
    std::fs::remove_dir(group).is_ok()
}

/// The processes of a group and of all below it.
#[must_use]
pub fn members(name: &str) -> Vec<i32> {
    let first = roots().into_iter().next();
    first.map(|r| processes(&r.join(name))).unwrap_or_default()
}

/// Whether anything of the group is there.
#[must_use]
pub fn exists(name: &str) -> bool {
    roots().iter().any(|r| r.join(name).exists())
}
