//! How a node ends: leaving in order, being stopped, giving up.
//!
//! ```text
//! running ──SIGTERM──▶ leaving ──emptied / out of patience──▶ stopping ──▶ gone (0)
//!    │ stop command, revoked, cluster ends ────────────────────▲
//!    └─ SIGUSR1 ─▶ detached (0 of the agent only; Dask lives on)
//! ```

use std::process::ExitCode;
use std::time::Duration;

use herdsman_wire::session::Up;
use tokio::time::Instant;

use super::input::Signal;
use super::{Driver, Input, Side};
use crate::dask::supervisor::Control;
use crate::keeper::EXIT_REFUSED;

/// How long a worker waits for its emptying when the hub cannot be asked.
const UNHEARD: Duration = Duration::from_secs(20);
/// How long a worker waits for its emptying when the hub can be asked: longer
/// than the hub itself waits.
const EMPTYING: Duration = Duration::from_secs(660);
/// How long a hub waits for its nodes to end before it does.
const NODES: Duration = Duration::from_secs(15);
/// Dask's time for an orderly end.
const GRACE: Duration = Duration::from_secs(10);
/// After that the process tree has been killed; this much later the agent ends
/// whatever happened.
const AT_LAST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Running,
    /// Until then the workers may be emptied, or nodes may end.
    Leaving(Instant),
    /// Dask is being stopped; at that time the agent ends anyway.
    Stopping(Instant),
    Gone(u8),
}

/// Where the node is on its way out.
#[derive(Debug, Default)]
pub(super) struct End {
    stage: Stage,
}

impl End {
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Running)
    }

    pub(super) fn code(&self) -> Option<ExitCode> {
        match self.stage {
            Stage::Gone(code) => Some(ExitCode::from(code)),
            _ => None,
        }
    }

    /// Another agent takes over at once; Dask goes on.
    pub(super) fn make_way(&mut self, code: u8) {
        self.stage = Stage::Gone(code);
    }

    /// It can never become a node; its keeper need not try again.
    pub(super) fn give_up(&mut self) {
        self.stage = Stage::Gone(EXIT_REFUSED);
    }
}

impl Driver {
    pub(super) fn on_signal(&mut self, signal: Signal) {
        match (signal, &self.end.stage) {
            (Signal::Detach, _) => {
                tracing::info!("the agent ends, Dask goes on");
                self.dask.detach();
                self.end.stage = Stage::Gone(0);
            }
            (Signal::Terminate, Stage::Running) => self.leave(),
            (Signal::Terminate, _) => self.stop_now("told twice to end"),
        }
    }

    fn leave(&mut self) {
        self.manager.stopping();
        tracing::info!("told to end; leaving in order");
        let patience = match &mut self.side {
            Side::Worker(_) if self.identity.is_none() => {
                self.end.stage = Stage::Gone(0);
                return;
            }
            Side::Worker(worker) => {
                if worker.up(Up::Leaving) {
                    EMPTYING
                } else {
                    UNHEARD
                }
            }
            Side::Hub(side) => {
                let Some(hub) = side.hub() else {
                    self.end.stage = Stage::Gone(0);
                    return;
                };
                hub.end("the scheduler's machine ends");
                NODES
            }
        };
        self.end.stage = Stage::Leaving(Instant::now() + patience);
    }

    /// The hub says that the workers are empty.
    pub(super) fn on_may_leave(&mut self) {
        if matches!(self.end.stage, Stage::Leaving(_)) {
            self.stop_now("emptied");
        }
    }

    /// The node is told to end, by a command or by the end of its cluster.
    pub(super) fn on_stop(&mut self, why: &str) {
        match &self.side {
            Side::Worker(_) => self.stop_now(why),
            Side::Hub(_) => {
                if !matches!(self.end.stage, Stage::Stopping(_) | Stage::Gone(_)) {
                    self.end.stage = Stage::Leaving(Instant::now() + NODES);
                }
            }
        }
    }

    /// Stops Dask and then ends.
    pub(super) fn stop_now(&mut self, why: &str) {
        if matches!(self.end.stage, Stage::Stopping(_) | Stage::Gone(_)) {
            return;
        }
        tracing::info!("stopping: {why}");
        self.end.stage = Stage::Stopping(Instant::now() + GRACE + AT_LAST);
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.dask.control(Control::Stop { grace: GRACE, done: tx });
        super::spawn_into(self.inputs.clone(), rx, |_| Input::Ended);
    }

    pub(super) fn on_ended(&mut self) {
        if matches!(self.end.stage, Stage::Stopping(_)) {
            self.end.stage = Stage::Gone(0);
        }
    }

    pub(super) fn end_when_due(&mut self) {
        match self.end.stage {
            Stage::Leaving(until) => {
                let alone = match &self.side {
                    Side::Hub(side) => side.hub().is_none_or(|h| h.sessions() == 0),
                    Side::Worker(_) => false,
                };
                if alone || Instant::now() >= until {
                    self.stop_now("nothing is left to wait for");
                }
            }
            Stage::Stopping(until) if Instant::now() >= until => {
                tracing::error!("Dask's processes do not end; the agent ends without them");
                self.end.stage = Stage::Gone(0);
            }
            _ => {}
        }
    }

    /// What has to be on its way before the process ends.
    pub(super) async fn before_exit(&mut self) {
        self.publish();
        // A last report may still be written to the hub.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
