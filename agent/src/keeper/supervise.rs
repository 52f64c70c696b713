//! The keeper's loop: start the agent, reap everything, start it again, end it.
//!
//! This task is the only one that waits for children, so the agent's number
//! stands for the agent until its status was seen here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::config::{KeeperConfig, Phase, StateFile};
use super::process::signal_descendants;
use super::{EXIT_REFUSED, note};

/// First pause before an agent is started again.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause: a node must come back within seconds of its cause going away.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// An agent that lived this long was well; pauses start from the first again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// What the agent leaves behind when it ended by itself may take this long.
const LEFTOVER_GRACE: Duration = Duration::from_secs(10);
/// The same when the node was told to end, so Dask was told as well.
const LEFTOVER_GRACE_TOLD: Duration = Duration::from_secs(3);
/// An agent that was told to end may take this long.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two rounds of killing.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// How often the console's size is looked at.
const CONSOLE_EVERY: Duration = Duration::from_secs(60);
/// The console is emptied beyond this size: agents keep logs of their own.
const CONSOLE_MAX: u64 = 8 * 1024 * 1024;

/// Pauses between starts; pure.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after an agent that lived for `lived`.
    fn after(&mut self, lived: Duration) -> Duration {
        if lived >= WELL_AFTER {
            self.failures = 0;
        }
        let factor = 1u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        PAUSE_FIRST.saturating_mul(factor).min(PAUSE_MAX)
    }
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The agent runs.
    Running { agent: Pid, since: Instant },
    /// The agent is started when the time comes.
    Waiting { until: Instant },
    /// The agent was told to end.
    Stopping { agent: Pid, kill_at: Instant },
    /// The agent is gone for good; what it left is killed when the time comes.
    Clearing { code: u8, kill_at: Instant },
}

/// Owner of the node's processes.
#[derive(Debug)]
pub(super) struct Supervisor {
    config: KeeperConfig,
    state: StateFile,
    stage: Stage,
    backoff: Backoff,
    started: bool,
    child_ended: Signal,
    told: [Signal; 2],
    // Held so that a closed terminal does not end the node.
    _hangup: Signal,
}

impl Supervisor {
    /// Takes over the signals; nothing is started yet.
    pub(super) fn new(config: KeeperConfig, state: StateFile) -> io::Result<Self> {
        Ok(Self {
            config,
            state,
            stage: Stage::Waiting { until: Instant::now() },
            backoff: Backoff::default(),
            started: false,
            child_ended: signal(SignalKind::child())?,
            told: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
            _hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Runs until the node has ended; answers the keeper's exit code.
    pub(super) async fn run(mut self) -> io::Result<u8> {
        let mut console = tokio::time::interval(CONSOLE_EVERY);
        loop {
            let childless = self.reap();
            if let Stage::Clearing { code, .. } = self.stage
                && childless
            {
                self.state.update(|s| {
                    s.agent = None;
                    s.state = if code == EXIT_REFUSED {
                        Phase::Refused
                    } else {
                        Phase::Ended
                    };
                });
                return Ok(code);
            }
            let timer = self.timer();
            let [terminate, interrupt] = &mut self.told;
            tokio::select! {
                _ = self.child_ended.recv() => {}
                _ = terminate.recv() => self.told_to_end(),
                _ = interrupt.recv() => self.told_to_end(),
                () = until(timer) => self.time_came(),
                _ = console.tick() => bound_console(&self.config.boot_log),
            }
        }
    }

    const fn timer(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running { .. } => None,
            Stage::Waiting { until } => Some(until),
            Stage::Stopping { kill_at, .. } | Stage::Clearing { kill_at, .. } => Some(kill_at),
        }
    }

    fn time_came(&mut self) {
        let again = Instant::now() + KILL_AGAIN;
        match &mut self.stage {
            Stage::Running { .. } => {}
            Stage::Waiting { .. } => self.start(),
            Stage::Stopping { kill_at, .. } => {
                note("the agent did not end in time; killing the node's processes");
                signal_descendants(rustix::process::Signal::KILL);
                *kill_at = again;
            }
            Stage::Clearing { kill_at, .. } => {
                let left = signal_descendants(rustix::process::Signal::KILL);
                note(&format!("killed {left} processes that the agent left"));
                *kill_at = again;
            }
        }
    }

    fn told_to_end(&mut self) {
        let now = Instant::now();
        match self.stage {
            Stage::Running { agent, .. } => {
                // Not reaped yet, so the number is still the agent's.
                let _ = nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGTERM);
                self.stage = Stage::Stopping {
                    agent,
                    kill_at: now + STOP_DEADLINE,
                };
            }
            Stage::Waiting { .. } => self.clear(0, true),
            Stage::Stopping { .. } => {}
            Stage::Clearing { code, kill_at } => {
                signal_descendants(rustix::process::Signal::TERM);
                self.stage = Stage::Clearing {
                    code,
                    kill_at: kill_at.min(now + LEFTOVER_GRACE_TOLD),
                };
            }
        }
        self.state.update(|s| s.state = Phase::Stopping);
    }

    /// From here on no agent is started.
    fn clear(&mut self, code: u8, told: bool) {
        let grace = if told {
            signal_descendants(rustix::process::Signal::TERM);
            LEFTOVER_GRACE_TOLD
        } else {
            LEFTOVER_GRACE
        };
        self.stage = Stage::Clearing {
            code,
            kill_at: Instant::now() + grace,
        };
    }

    fn start(&mut self) {
        let now = Instant::now();
        match spawn(&self.config) {
            Ok(agent) => {
                self.stage = Stage::Running { agent, since: now };
                let again = std::mem::replace(&mut self.started, true);
                self.state.update(|s| {
                    s.agent = Some(agent.as_raw());
                    s.restarts += u32::from(again);
                    s.state = Phase::Running;
                });
            }
            Err(e) => {
                note(&format!("cannot start {}: {e}", self.config.agent.display()));
                self.wait(Duration::ZERO);
            }
        }
    }

    fn wait(&mut self, lived: Duration) {
        self.stage = Stage::Waiting {
            until: Instant::now() + self.backoff.after(lived),
        };
        self.state.update(|s| {
            s.agent = None;
            s.state = Phase::Waiting;
        });
    }

    /// Takes the status of everything that has ended. Answers whether no child
    /// is left: as orphans become children, no process of the node is then.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, Some(code), &format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, None, signal.as_str()),
                Ok(WaitStatus::StillAlive) => return false,
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return true,
            }
        }
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>, how: &str) {
        match self.stage {
            Stage::Running { agent, since } if agent == pid => {
                note(&format!("the agent (process {pid}) ended: {how}"));
                match code {
                    Some(0) => self.clear(0, false),
                    Some(c) if c == i32::from(EXIT_REFUSED) => self.clear(EXIT_REFUSED, false),
                    _ => self.wait(since.elapsed()),
                }
            }
            Stage::Stopping { agent, .. } if agent == pid => {
                note(&format!("the agent (process {pid}) ended as told: {how}"));
                self.clear(0, true);
            }
            _ => return,
        }
        self.state.update(|s| {
            s.agent = None;
            if matches!(self.stage, Stage::Clearing { .. }) {
                s.state = Phase::Stopping;
            }
        });
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn spawn(config: &KeeperConfig) -> io::Result<Pid> {
    let console = append(&config.boot_log)?;
    let child = Command::new(&config.agent)
        .arg("run")
        .arg("--config")
        .arg(&config.config)
        // Only in a network of its own a node may close ports.
        .args(["--firewall", if config.netns.is_some() { "on" } else { "off" }])
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    // The handle is dropped: `reap` waits for all children, this one among them.
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid))
}

fn append(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Empties a console that grew too large. All writers append, so they go on at
/// its new end.
fn bound_console(path: &Path) {
    if fs::metadata(path).is_ok_and(|m| m.len() > CONSOLE_MAX)
        && let Ok(file) = append(path)
    {
        let _ = file.set_len(0);
        note("the console was full and was emptied");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_start_over() {
        let mut b = Backoff::default();
        let short = Duration::from_secs(1);
        let got: Vec<u128> = (0..8).map(|_| b.after(short).as_millis()).collect();
        assert_eq!(got, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(b.after(WELL_AFTER), PAUSE_FIRST);
        for _ in 0..100 {
            assert!(b.after(short) <= PAUSE_MAX);
        }
    }

    #[test]
    fn a_full_console_is_emptied_under_its_writers() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.log");
        let mut writer = append(&path).unwrap();
        writer.write_all(b"before").unwrap();
        bound_console(&path);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        writer.set_len(CONSOLE_MAX + 1).unwrap();
        bound_console(&path);
        writer.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
    }
}
