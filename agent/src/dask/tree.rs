//! Kills what is left of a process tree and looks until nothing is.
//!
//! A member is known by its control group, by the session of the tree's first
//! process, or by the marker in its environment; children inherit all three, and
//! none of Dask's drops more than one of them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::cgroup;
use super::process::Process;
use super::procfs::{ProcFs, Stat};
use super::spec::MARKER;

/// How long killed processes are waited for.
pub const WITHIN: Duration = Duration::from_secs(10);

/// Time between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// By what members are known.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Value of [`MARKER`].
    pub marker: String,
    /// Session; only while its first process is there, dead or alive: its number
    /// may be somebody else's afterwards.
    pub session: Option<u32>,
    /// Control group.
    pub cgroup: Option<PathBuf>,
}

impl Tree {
    /// Living members.
    #[must_use]
    pub fn members(&self, proc: &ProcFs) -> Vec<Stat> {
        let own = std::process::id();
        let grouped: HashSet<u32> = self
            .cgroup
            .as_deref()
            .map(cgroup::members)
            .unwrap_or_default()
            .into_iter()
            .collect();
        proc.all()
            .unwrap_or_default()
            .into_iter()
            .filter(|s| s.pid != own && s.pid != 1 && !s.is_dead())
            .filter(|s| {
                grouped.contains(&s.pid)
                    || self.session == Some(s.session)
                    || proc.has_variable(s.pid, MARKER, &self.marker)
            })
            .collect()
    }

    /// Kills all members, and what they start meanwhile. Gives the number of
    /// processes that were killed.
    ///
    /// # Errors
    /// The processes that are still there after `within`: stuck in the kernel, or
    /// not ours to kill.
    pub async fn kill(&self, proc: &ProcFs, within: Duration) -> Result<usize, Vec<Stat>> {
        let deadline = Instant::now() + within;
        let mut killed = HashSet::new();
        loop {
            let left = self.members(proc);
            if left.is_empty() {
                return Ok(killed.len());
            }
            if Instant::now() >= deadline {
                return Err(left);
            }
            if let Some(group) = &self.cgroup {
                let _ = cgroup::kill(group);
            }
            for member in left {
                // The start time was read before the marker was: what has it still is what was looked at.
                if let Ok(Some(process)) = Process::open(proc, member.pid, Some(member.start_ticks)) {
                    let _ = process.signal(Signal::KILL);
                }
                killed.insert((member.pid, member.start_ticks));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn tree(marker: &str) -> Tree {
        Tree {
            marker: marker.into(),
            session: None,
            cgroup: None,
        }
    }

    fn shell(marker: &str, script: &str) -> std::process::Child {
        Command::new("/bin/sh")
            .args(["-c", script])
            .env(MARKER, marker)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn until(what: impl Fn() -> bool) {
        for _ in 0..500 {
            if what() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        panic!("did not come true");
    }

    #[tokio::test]
    async fn what_left_the_session_is_found_by_its_marker() {
        let proc = ProcFs::default();
        let marker = format!("tree-test-{}", std::process::id());
        let other = format!("{marker}-other");
        let mut child = shell(
            &marker,
            "trap '' TERM; setsid sleep 300 & setsid sh -c 'sleep 300 & sleep 300' & wait",
        );
        let mut stranger = shell(&other, "exec sleep 300");
        until(|| tree(&marker).members(&proc).len() >= 5).await;
        let killed = tree(&marker).kill(&proc, WITHIN).await.unwrap();
        assert!(killed >= 5, "{killed}");
        child.wait().unwrap();
        assert!(tree(&marker).members(&proc).is_empty());
        assert_eq!(tree(&other).members(&proc).len(), 1);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[tokio::test]
    async fn a_session_and_a_control_group_are_enough() {
        let proc = ProcFs::default();
        let mut child = Command::new("setsid")
            .args(["env", "-i", "/bin/sleep", "300"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        until(|| {
            proc.stat(pid)
                .unwrap()
                .is_some_and(|s| s.session == pid && s.comm == "sleep")
        })
        .await;
        let by_session = Tree {
            session: Some(pid),
            ..tree("none")
        };
        assert_eq!(by_session.members(&proc).len(), 1);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), format!("{pid}\n")).unwrap();
        let by_group = Tree {
            cgroup: Some(dir.path().into()),
            ..tree("none")
        };
        assert_eq!(by_group.kill(&proc, WITHIN).await.unwrap(), 1);
        child.wait().unwrap();
    }
}
