//! A hold on one process that no reuse of its number can slip from.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exit::Exit;
use super::procfs::ProcFs;

/// How often a process is looked at where the kernel has no pidfds (before 5.3).
const POLL: Duration = Duration::from_millis(250);

/// One process, by pidfd where the kernel has them, else by its number and
/// start time, compared before every signal.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    start_ticks: u64,
    fd: Option<OwnedFd>,
    proc: ProcFs,
}

impl Process {
    /// Takes hold of a living process. With `start_ticks` only of the one that
    /// started then. `None`: it is not there (any more).
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn open(proc: &ProcFs, pid: u32, start_ticks: Option<u64>) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => None,
            Err(e) => return Err(e.into()),
        };
        // Looked at after the descriptor is held: whatever has these ticks now
        // is what the descriptor points to.
        match proc.stat(pid)? {
            Some(stat) if !stat.is_dead() && start_ticks.is_none_or(|t| t == stat.start_ticks) => Ok(Some(Self {
                pid,
                start_ticks: stat.start_ticks,
                fd,
                proc: proc.clone(),
            })),
            _ => Ok(None),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Its start in clock ticks since boot.
    #[must_use]
    pub const fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.proc.stat(self.pid), Ok(Some(s)) if s.start_ticks == self.start_ticks && !s.is_dead())
    }

    /// Sends a signal; `false` when it had ended before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let sent = match &self.fd {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal),
            None if !self.is_alive() => return Ok(false),
            None => match i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
                Some(pid) => rustix::process::kill_process(pid, signal),
                None => return Ok(false),
            },
        };
        match sent {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has ended. May be dropped and called again.
    pub async fn ended(&self) {
        if let Some(fd) = &self.fd
            && let Ok(copy) = fd.try_clone()
            && let Ok(watched) = watch(copy)
            && watched.readable().await.is_ok()
        {
            return;
        }
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Collects the status of a process that has ended. It is known only where
    /// the process is our own child, as after the agent replaced itself by a
    /// newer one; that also takes the zombie away.
    #[must_use]
    pub fn reap(&self) -> Exit {
        let Some(fd) = &self.fd else { return Exit::Unknown };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(fd)), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that may not own their descriptor; ours does"
)]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("/bin/sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn a_child_is_watched_signalled_and_reaped() {
        let proc = ProcFs::default();
        for polled in [false, true] {
            let mut child = sleeper();
            let mut p = Process::open(&proc, child.id(), None).unwrap().unwrap();
            if polled {
                p.fd = None;
            }
            assert!(p.is_alive());
            assert!(
                tokio::time::timeout(Duration::from_millis(50), p.ended())
                    .await
                    .is_err()
            );
            assert!(p.signal(Signal::TERM).unwrap());
            tokio::time::timeout(Duration::from_secs(20), p.ended()).await.unwrap();
            let expected = if polled { Exit::Unknown } else { Exit::Signal(15) };
            assert_eq!(p.reap(), expected);
            // Collected already where there is a pidfd.
            assert_eq!(child.wait().is_ok(), polled);
            assert!(!p.is_alive());
            assert!(!p.signal(Signal::TERM).unwrap());
        }
    }

    #[tokio::test]
    async fn other_ticks_are_another_process() {
        let proc = ProcFs::default();
        let mut child = sleeper();
        let ticks = proc.stat(child.id()).unwrap().unwrap().start_ticks;
        assert!(Process::open(&proc, child.id(), Some(ticks)).unwrap().is_some());
        assert!(Process::open(&proc, child.id(), Some(ticks + 1)).unwrap().is_none());
        assert!(Process::open(&proc, 0, None).unwrap().is_none());
        assert!(Process::open(&proc, u32::MAX, None).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
