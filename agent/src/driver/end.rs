//! How a node ends: leaving in order, being stopped, giving up.
//!
//! ```text
//! running ──SIGTERM──▶ leaving ──emptied / out of patience──▶ stopping ──▶ gone (0)
//!    │ stop command, revoked, cluster ends ────────────────────▲
//!    │ SIGTERM at a hub that is a service ─────────────────────▲
//!    │ the cloud takes the machine back: leaving, with the time that is left
//!    └─ SIGUSR1 ─▶ detached (0 of the agent only; Dask lives on)
//! ```
//!
//! A node that ended for good (its cluster ended, it was removed, its certificates
//! ran out, nobody was reached for too long, it was refused) powers its machine off
//! where the join configuration says so. One that was ended by a signal does not:
//! somebody is at work on the machine. Nor does one that its cloud takes back.
//!
//! Systemd signals a service at each reboot of its machine. For a hub that is not
//! the cluster's end: its workers go on trying and find it again after the boot.

use std::process::ExitCode;
use std::time::Duration;

use herdsman_wire::join::Paths;
use herdsman_wire::limits;
use herdsman_wire::session::Up;
use tokio::time::Instant;

use super::input::Signal;
use super::{Driver, Input, Over, Side};
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
/// The same on a revoked node: the cluster has forgotten its workers, and a nanny
/// whose worker the scheduler told to close would wait 8 s for it.
const GRACE_REVOKED: Duration = Duration::from_secs(1);
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
    /// Why it ends for good; absent where its machine shall go on.
    for_good: Option<String>,
    /// Somebody else sees to the machine: who sent a signal, or its cloud.
    machine_is_seen_to: bool,
    /// Dask's process tree is gone, as asked.
    in_order: bool,
}

impl End {
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Running)
    }

    pub(super) fn over(&mut self) -> Option<Over> {
        let Stage::Gone(code) = self.stage else { return None };
        let why = self.for_good.take().filter(|_| !self.machine_is_seen_to);
        let exit = ExitCode::from(code);
        Some(match why {
            None => Over::Left(exit),
            Some(why) if code == EXIT_REFUSED => Over::Refused(why, exit),
            Some(why) => Over::Ended(why, exit),
        })
    }

    /// Whether the node ended in order, with its Dask: not for another agent, and
    /// not for want of certificates.
    pub(super) const fn is_final(&self) -> bool {
        self.in_order
    }

    /// Another agent takes over at once; Dask goes on.
    pub(super) fn make_way(&mut self, code: u8) {
        self.stage = Stage::Gone(code);
    }

    /// It can never become a node; its keeper need not try again.
    pub(super) fn give_up(&mut self, why: &str) {
        self.for_good = Some(why.to_owned());
        self.stage = Stage::Gone(EXIT_REFUSED);
    }
}

impl Driver {
    pub(super) fn on_signal(&mut self, signal: Signal) {
        self.end.machine_is_seen_to = true;
        match (signal, &self.end.stage) {
            (Signal::Detach, _) => {
                tracing::info!("the agent ends, Dask goes on");
                self.dask.detach();
                self.end.stage = Stage::Gone(0);
            }
            (Signal::Terminate, Stage::Running) if self.is_hub_of_a_machine() => {
                self.manager.stopping();
                self.stop_now("told to end; the cluster waits for this machine");
            }
            (Signal::Terminate, Stage::Running) => {
                tracing::info!("told to end; leaving in order");
                self.leave(Duration::MAX, "the scheduler's machine ends");
            }
            (Signal::Terminate, _) => self.stop_now("told twice to end"),
        }
    }

    /// Whether this is an installed hub that starts again when its machine does.
    fn is_hub_of_a_machine(&self) -> bool {
        let installed = matches!(&self.side, Side::Hub(side) if side.hub().is_some());
        installed && self.join.paths == Paths::default()
    }

    /// The machine is taken back by its cloud: leaves in order, as far as there is
    /// time.
    pub(super) fn leave_within(&mut self, most: Duration) {
        self.end.machine_is_seen_to = true;
        match self.end.stage {
            Stage::Running => self.leave(most, "the cloud takes the scheduler's machine back"),
            Stage::Leaving(until) => {
                let latest = Instant::now() + most;
                self.end.stage = Stage::Leaving(until.min(latest));
            }
            Stage::Stopping(_) | Stage::Gone(_) => {}
        }
    }

    fn leave(&mut self, most: Duration, why: &str) {
        self.manager.stopping();
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
                hub.end(why);
                NODES
            }
        };
        self.end.stage = Stage::Leaving(Instant::now() + patience.min(most));
    }

    /// The hub says that the workers are empty.
    pub(super) fn on_may_leave(&mut self) {
        if matches!(self.end.stage, Stage::Leaving(_)) {
            self.stop_now("emptied");
        }
    }

    /// The node is told to end, by a command or by the end of its cluster.
    pub(super) fn on_stop(&mut self, why: &str) {
        self.end.for_good.get_or_insert_with(|| why.to_owned());
        match &self.side {
            Side::Worker(_) => self.stop_now(why),
            Side::Hub(_) => {
                if !matches!(self.end.stage, Stage::Stopping(_) | Stage::Gone(_)) {
                    self.end.stage = Stage::Leaving(Instant::now() + NODES);
                }
            }
        }
    }

    /// The node can be none any more: stops Dask and then ends.
    pub(super) fn stop_for_good(&mut self, why: &str) {
        self.end.for_good.get_or_insert_with(|| why.to_owned());
        self.stop_now(why);
    }

    /// A worker that reaches nobody for too long is of no use to anybody.
    pub(super) fn end_when_alone(&mut self) {
        let asked = self.join.at_end.no_contact_seconds.map(Duration::from_secs);
        let Some(most) = asked.or_else(|| self.power_off.then_some(limits::NO_CONTACT)) else {
            return;
        };
        let Side::Worker(worker) = &self.side else { return };
        if !self.end.has_begun() && worker.alone_since.is_some_and(|since| since.elapsed() >= most) {
            tracing::error!("the hub was not reached for {} s; this node ends", most.as_secs());
            self.stop_for_good("the hub cannot be reached");
        }
    }

    /// Stops Dask and then ends.
    pub(super) fn stop_now(&mut self, why: &str) {
        self.stop_within(GRACE, why);
    }

    /// The node is no member any more.
    pub(super) fn stop_revoked(&mut self) {
        self.end.for_good.get_or_insert_with(|| "revoked".to_owned());
        self.stop_within(GRACE_REVOKED, "revoked");
    }

    fn stop_within(&mut self, grace: Duration, why: &str) {
        if matches!(self.end.stage, Stage::Stopping(_) | Stage::Gone(_)) {
            return;
        }
        tracing::info!("stopping: {why}");
        self.end.stage = Stage::Stopping(Instant::now() + grace + AT_LAST);
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.dask.control(Control::Stop { grace, done: tx });
        super::spawn_into(self.inputs.clone(), rx, |_| Input::Ended);
    }

    pub(super) fn on_ended(&mut self) {
        if matches!(self.end.stage, Stage::Stopping(_)) {
            self.end.in_order = true;
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
        self.end_firewall();
        self.publish();
        if let Some(approval) = self.approval.take() {
            approval.give().await;
        }
        // A last report may still be written to the hub.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
