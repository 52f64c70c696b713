//! Keeps one process running: one task owns its state, takes orders from a
//! queue and tells its health through a watch.
//!
//! ```text
//!            Start                    driver: Running
//!  stopped ────────▶ starting ──────────────────────▶ running
//!     ▲                 │ ▲                              │
//!     │ Stop            │ │ wait is over                 │ ended
//!     │                 ▼ │                              ▼
//!     └────────── backoff / failed ◀─────────── tree killed, note told
//! ```
//!
//! Orders that come while an old process is being ended wait for that, except
//! that a `Stop` with less time shortens it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::report::DaskHealth;
use herdsman_wire::{ApiError, Timestamp};
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::adoption;
use super::backoff::{Backoff, Next, Policy};
use super::child::Child;
use super::exit::Exit;
pub use super::orders::{Control, Level, Note};
use super::procfs::ProcFs;
use super::spec::ProcessSpec;
use super::tree::{self, Tree};

/// Lines of output in a note; Dask's own log has them all.
const LINES: usize = 8;
/// Notes kept for a reader that is slow; more are dropped.
const NOTES: usize = 64;

/// Ends of the channels with the supervisor.
#[derive(Debug)]
pub struct Handle {
    /// Orders.
    pub control: mpsc::Sender<Control>,
    /// Health; of `address`, `versions` and `executing` the supervisor knows nothing.
    pub health: watch::Receiver<DaskHealth>,
    /// Events in words.
    pub notes: mpsc::Receiver<Note>,
    /// The last lines of the process that ended last without an order; they are
    /// there before [`Handle::health`] tells of the end.
    pub last_words: watch::Receiver<Vec<String>>,
}

/// Starts a supervisor on the current runtime. `own_exe` is the agent's binary,
/// which is run again as [`super::exec_child`].
#[must_use]
pub fn start(own_exe: PathBuf) -> Handle {
    start_with(own_exe, Policy::default())
}

/// As [`start`], with another pace of restarts.
#[must_use]
pub fn start_with(own_exe: PathBuf, policy: Policy) -> Handle {
    let (control, orders) = mpsc::channel(16);
    let (told, health) = watch::channel(DaskHealth {
        state: "stopped".into(),
        ..DaskHealth::default()
    });
    let (notes_out, notes) = mpsc::channel(NOTES);
    let (words, last_words) = watch::channel(Vec::new());
    let supervisor = Supervisor {
        own_exe,
        orders,
        waiting: VecDeque::new(),
        health: told,
        notes: notes_out,
        words,
        proc: ProcFs::default(),
        backoff: Backoff::new(policy),
        spec: None,
        child: None,
        again: None,
        restarts: 0,
        started_once: false,
    };
    tokio::spawn(supervisor.run());
    Handle {
        control,
        health,
        notes,
        last_words,
    }
}

struct Supervisor {
    own_exe: PathBuf,
    orders: mpsc::Receiver<Control>,
    /// Orders that came while a process was being ended.
    waiting: VecDeque<Control>,
    health: watch::Sender<DaskHealth>,
    notes: mpsc::Sender<Note>,
    words: watch::Sender<Vec<String>>,
    proc: ProcFs,
    backoff: Backoff,
    /// What shall run; absent: nothing.
    spec: Option<ProcessSpec>,
    child: Option<Child>,
    /// When the next start is due.
    again: Option<Instant>,
    restarts: u32,
    started_once: bool,
}

enum What {
    Order(Control),
    Detach,
    Ended,
    Due,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            match self.next().await {
                What::Detach | What::Order(Control::Detach) => return,
                What::Order(order) => self.obey(order).await,
                What::Ended => self.ended().await,
                What::Due => self.launch().await,
            }
        }
    }

    async fn next(&mut self) -> What {
        if let Some(order) = self.waiting.pop_front() {
            return What::Order(order);
        }
        let (child, again) = (&self.child, self.again);
        let ended = async {
            match child {
                Some(c) => c.process.ended().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = self.orders.recv() => order.map_or(What::Detach, What::Order),
            () = ended => What::Ended,
            () = due => What::Due,
        }
    }

    async fn obey(&mut self, order: Control) {
        match order {
            Control::Start(spec) => self.have_running(*spec).await,
            Control::Restart(spec) => {
                let Some(spec) = spec.map(|s| *s).or_else(|| self.spec.clone()) else {
                    self.note(Level::Warn, "cannot restart Dask: nothing was started yet".into());
                    return;
                };
                self.end(None).await;
                self.fresh(spec);
                self.launch().await;
            }
            Control::Running => {
                self.health.send_if_modified(|h| {
                    let news = h.pid.is_some() && h.state != "running";
                    if news {
                        "running".clone_into(&mut h.state);
                    }
                    news
                });
            }
            Control::Stop { grace, done } => {
                self.end(Some(grace)).await;
                self.spec = None;
                self.tell("stopped");
                let _ = done.send(());
            }
            Control::Detach => {}
        }
    }

    /// Adopts what runs if it is what shall run; else starts it.
    async fn have_running(&mut self, spec: ProcessSpec) {
        let digest = spec.digest();
        if let Some(child) = &mut self.child {
            if child.file.digest == digest {
                child.spec = spec.clone();
                self.spec = Some(spec);
                return;
            }
            self.end(None).await;
        }
        match adoption::find(&self.proc, &spec.pid_file) {
            Ok(Some(found)) => {
                let same = found.file.digest == digest;
                self.restarts = found.file.restarts;
                self.started_once = true;
                let child = Child::adopt(&self.proc, found, spec.clone());
                let (pid, since) = (child.process.pid(), child.file.since);
                self.child = Some(child);
                if same {
                    self.spec = Some(spec);
                    self.again = None;
                    self.note(Level::Info, format!("took over the running Dask (process {pid})"));
                    self.health.send_modify(|h| {
                        h.pid = Some(pid);
                        h.since = Some(since);
                        h.adopted = true;
                        h.restarts = self.restarts;
                        "starting".clone_into(&mut h.state);
                    });
                    return;
                }
                self.note(
                    Level::Info,
                    format!("Dask (process {pid}) runs with other settings and is stopped first"),
                );
                self.end(None).await;
            }
            Ok(None) => {}
            Err(e) => self.note(Level::Warn, format!("looking for a running Dask: {e}")),
        }
        self.fresh(spec);
        self.launch().await;
    }

    fn fresh(&mut self, spec: ProcessSpec) {
        self.spec = Some(spec);
        self.backoff.reset();
        self.again = None;
    }

    /// Starts what shall run, after a last look that nothing of before is there.
    async fn launch(&mut self) {
        self.again = None;
        let Some(spec) = self.spec.clone() else { return };
        self.tell("starting");
        let leftovers = Tree {
            marker: spec.marker.clone(),
            session: None,
            cgroup: spec.cgroup.as_ref().map(|g| g.path.clone()),
        };
        match leftovers.kill(&self.proc, tree::WITHIN).await {
            Ok(0) => {}
            Ok(n) => self.note(
                Level::Warn,
                format!("killed {n} left-over processes of an earlier Dask"),
            ),
            Err(left) => self.note(
                Level::Error,
                format!("{} processes of an earlier Dask cannot be killed", left.len()),
            ),
        }
        let restarts = self.restarts + u32::from(self.started_once);
        match Child::start(&self.own_exe, &self.proc, spec, restarts).await {
            Ok(child) => {
                self.restarts = restarts;
                self.started_once = true;
                let (pid, since) = (child.process.pid(), child.file.since);
                self.child = Some(child);
                self.health.send_modify(|h| {
                    h.pid = Some(pid);
                    h.since = Some(since);
                    h.adopted = false;
                    h.restarts = restarts;
                    "starting".clone_into(&mut h.state);
                });
                self.note(Level::Info, format!("started Dask (process {pid})"));
            }
            Err(e) => self.not_started(&e),
        }
    }

    fn not_started(&mut self, e: &ApiError) {
        let next = self.backoff.ended(Duration::ZERO, jitter());
        self.words.send_replace(Vec::new());
        self.health.send_modify(|h| h.last_exit = Some(e.message.clone()));
        self.plan(next);
        let wait = next.delay.as_secs_f32();
        self.note(
            Level::Error,
            format!("Dask could not be started: {e}; next try in {wait:.1} s"),
        );
    }

    /// The process ended without an order.
    async fn ended(&mut self) {
        let Some(child) = self.child.take() else { return };
        let (lived, lines, oom) = (child.lived(), child.last_lines(), child.out_of_memory());
        let pid = child.process.pid();
        let (exit, left) = child.bury().await;
        let next = self.backoff.ended(lived, jitter());
        let mut last = exit.to_string();
        if oom {
            last.push_str(", out of memory");
        } else if exit == Exit::Signal(9) {
            last.push_str(", perhaps by the kernel for lack of memory");
        }
        self.words.send_replace(lines.clone());
        self.health.send_modify(|h| h.last_exit = Some(last.clone()));
        self.plan(next);
        let mut text = format!(
            "Dask (process {pid}) {last} after {} s; it is started again in {:.1} s",
            lived.as_secs(),
            next.delay.as_secs_f32()
        );
        if next.failed {
            text.push_str(&format!(
                " (crashed at its start {} times)",
                self.backoff.quick_crashes()
            ));
        }
        if let Some(left) = left {
            text.push_str(&format!("; {left}"));
        }
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            text.push_str("\n  ");
            text.push_str(line);
        }
        self.note(if next.failed { Level::Error } else { Level::Warn }, text);
    }

    fn plan(&mut self, next: Next) {
        self.again = self.spec.is_some().then(|| Instant::now() + next.delay);
        self.tell(if next.failed { "failed" } else { "backoff" });
    }

    /// Ends the process and all of its tree; `grace` or the specification's time
    /// is for an orderly end.
    async fn end(&mut self, grace: Option<Duration>) {
        self.again = None;
        let Some(child) = self.child.take() else { return };
        let began = Instant::now();
        let mut deadline = began + grace.unwrap_or(child.spec.grace);
        if let Err(e) = child.process.signal(Signal::TERM) {
            self.note(Level::Error, format!("Dask (process {}): {e}", child.process.pid()));
            deadline = began;
        }
        let orderly = loop {
            tokio::select! {
                biased;
                () = child.process.ended() => break true,
                () = tokio::time::sleep_until(deadline) => break false,
                order = self.orders.recv(), if !self.orders.is_closed() || !self.orders.is_empty() => match order {
                    Some(Control::Running) | None => {}
                    Some(order) => {
                        if let Control::Stop { grace, .. } = &order {
                            deadline = deadline.min(Instant::now() + *grace);
                        }
                        self.waiting.push_back(order);
                    }
                },
            }
        };
        if !orderly {
            let _ = child.process.signal(Signal::KILL);
            let _ = tokio::time::timeout(tree::WITHIN, child.process.ended()).await;
        }
        let pid = child.process.pid();
        let (exit, left) = child.bury().await;
        let took = began.elapsed().as_secs_f32();
        let how = if orderly {
            exit.to_string()
        } else {
            "did not end in time and was killed".into()
        };
        self.health
            .send_modify(|h| h.last_exit = Some(format!("stopped by the agent: {how}")));
        let mut text = format!("stopped Dask (process {pid}) in {took:.1} s: {how}");
        if let Some(left) = &left {
            text.push_str(&format!("; {left}"));
        }
        self.note(if left.is_some() { Level::Error } else { Level::Info }, text);
    }

    /// Tells a state in which nothing runs, or not yet.
    fn tell(&self, state: &str) {
        self.health.send_modify(|h| {
            state.clone_into(&mut h.state);
            h.pid = None;
            h.since = None;
            h.adopted = false;
        });
    }

    fn note(&self, level: Level, text: String) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        // A reader that is behind loses notes; it must not hold Dask up.
        let _ = self.notes.try_send(Note {
            at: Timestamp::now(),
            level,
            text,
        });
    }
}

/// A number within -1 to 1. Nothing hangs on its quality.
fn jitter() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.subsec_nanos());
    f64::from(nanos % 2001) / 1000.0 - 1.0
}
