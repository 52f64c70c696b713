//! The driver: one task owns the node's state; everything else sends it
//! [`Input`]s and reads the report that it publishes.
//!
//! ```text
//!               ┌───────── enrol / renew (task) ──────────┐
//!  join ─▶ agent ─▶ enrol ─▶ environment ─▶ dask ─▶ ready  │
//!                     ▲           │           ▲            ▼
//!   worker: session ──┘      environment   supervisor ◀── Input ─▶ NodeReport (watch)
//!   scheduler: hub API ── install, calls, own node            └─▶ session / hub
//! ```
//!
//! * A phase that fails says why and is tried again where that can help; the
//!   report tells either way, so nobody waits for a silent node.
//! * SIGTERM means leave: a worker is emptied first, a scheduler ends its
//!   cluster, or as a service of a machine only stops until the next boot.
//!   SIGKILL means nothing: the next agent takes Dask over.
//! * Exit 0: ended in order, do not start again. Exit 3: refused for good.

mod certificates;
mod command;
mod dask_side;
mod end;
mod firewall_side;
mod hub_side;
mod input;
mod install;
mod memory;
mod notice;
mod power;
mod troubles;
mod upgrade;
mod worker_side;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::report::LogSource;
use herdsman_wire::report::{NodeReport, Notice, PhaseName, Versions};
use herdsman_wire::spec::ClusterSpec;
use herdsman_wire::{ApiError, Code, NodeName, Role, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::health::Sampler;
use crate::identity::{Identity, Store};
use crate::keeper::EXIT_REFUSED;
use crate::logs::{self, LogStore};
use crate::node::phases::Phases;
use crate::notice::Approval;
use crate::service::notify::Notifier;
use crate::source::machine::Found;

use certificates::Renewal;
use end::End;
use firewall_side::FirewallSide;
pub use firewall_side::{Wish, close};
use hub_side::HubSide;
pub use input::Input;
use worker_side::WorkerSide;

/// Inputs that may wait for the driver.
const QUEUE: usize = 256;
/// How often the machine is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);

/// What the node is to others.
enum Side {
    /// It joins a hub.
    Worker(WorkerSide),
    /// It is the hub.
    Hub(Box<HubSide>),
}

/// The node's state.
pub struct Driver {
    join: JoinConfig,
    store: Store,
    logs: LogStore,
    phases: Phases,
    side: Side,
    identity: Option<Identity>,
    renewal: Renewal,
    dask: dask_side::DaskSide,
    firewall: FirewallSide,
    report: watch::Sender<NodeReport>,
    inputs: mpsc::Sender<Input>,
    sampler: Sampler,
    measured: NodeReport,
    members: std::collections::BTreeSet<std::net::IpAddr>,
    crl: u64,
    /// What the machine's cloud announced last.
    notice: Option<Notice>,
    /// Tells the cloud, once Dask is stopped, that the machine may go.
    approval: Option<Approval>,
    /// Whether the machine is powered off when the node has ended.
    power_off: bool,
    end: End,
    manager: Notifier,
    /// Until when this agent, newly put in its place, has to have a ready node.
    trial: Option<tokio::time::Instant>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("node", &self.join.node)
            .finish_non_exhaustive()
    }
}

/// Runs the node of a join configuration until it ends. `log` is called once,
/// with the node's logs or, when there can be none, without.
///
/// The machine is closed before anything else happens that others could see.
pub async fn run(found: Result<Found, ApiError>, wish: Wish, log: impl Fn(Option<&LogStore>)) -> ExitCode {
    let started = Timestamp::now();
    let opened = found.and_then(|found| {
        let join = &found.join;
        let unnamed = || "unnamed".parse().map_err(|_| ApiError::new(Code::Internal, "name"));
        let node = join.node.clone().map_or_else(unnamed, Ok)?;
        let logs = LogStore::open(&logs::folder(&join.paths.state), node)?;
        Ok((found, logs))
    });
    let (found, logs) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            log(None);
            return refused(&e);
        }
    };
    log(Some(&logs));
    // What found its configuration by itself is a machine, wherever its folders are,
    // and closed already.
    let wish = if wish == Wish::Machine && found.machine.is_some() {
        Wish::On
    } else {
        wish
    };
    let firewall = match FirewallSide::close(wish, &found.join.paths) {
        Ok(firewall) => firewall,
        Err(e) => {
            tell(&e);
            return ExitCode::FAILURE;
        }
    };
    // A hub that has members comes back when its port is free again.
    let join = found.join.clone();
    let is_new = !crate::hub::Hub::is_installed(&join.paths.state);
    let power_off = power::is_wanted(&join.at_end, found.machine.is_some());
    let over = match Driver::start(found, logs, firewall, started).await {
        Ok((driver, inputs)) => driver.run(inputs).await,
        Err(e) if is_final(&e) || (is_new && e.code == Code::Port) => {
            let code = refused(&e);
            // The machine stays for the agent that was here before this one.
            if crate::service::upgrade::is_on_trial() {
                Over::Left(code)
            } else {
                Over::Refused(e.message, code)
            }
        }
        Err(e) => {
            tell(&e);
            Over::Left(ExitCode::FAILURE)
        }
    };
    match over {
        Over::Left(code) => code,
        Over::Ended(why, code) => {
            if power_off {
                power::off(&why).await;
            }
            code
        }
        Over::Refused(why, code) => {
            if power_off && power::linger(&join).await {
                power::off(&why).await;
            }
            code
        }
    }
}

/// How a node's process ended.
enum Over {
    /// Its machine goes on: told to by a signal, or it is started again.
    Left(ExitCode),
    /// For good, with the reason.
    Ended(String, ExitCode),
    /// It could not become a node, with the reason.
    Refused(String, ExitCode),
}

fn refused(e: &ApiError) -> ExitCode {
    tell(e);
    // What a new agent refuses, the old one may not: it has to get its turn.
    if crate::service::upgrade::is_on_trial() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(EXIT_REFUSED)
}

fn tell(e: &ApiError) {
    tracing::error!(code = %e.code, "{}", e.message);
    for hint in &e.hint {
        tracing::error!("try: {hint}");
    }
}

/// Whether starting the agent again cannot help.
const fn is_final(e: &ApiError) -> bool {
    matches!(
        e.code,
        Code::Malformed | Code::Protocol | Code::TooLarge | Code::NotFound | Code::Usage | Code::Clock
    )
}

impl Driver {
    async fn start(
        found: Found,
        logs: LogStore,
        firewall: FirewallSide,
        started: Timestamp,
    ) -> Result<(Self, mpsc::Receiver<Input>), ApiError> {
        let Found { join, machine } = found;
        let store = Store::open(&join)?;
        let output = crate::dask::command_line::output(&join.paths.state);
        tokio::spawn(logs::follow::follow(
            logs.clone(),
            LogSource::Dask,
            output,
            Some(logs::follow::Rotation::default()),
        ));
        let (inputs, rx) = mpsc::channel(QUEUE);
        let now = Timestamp::now();
        let mut phases = Phases::default();
        phases.start(PhaseName::Agent, started, None);
        phases.done(PhaseName::Agent, now);
        tracing::info!(
            node = join.node.as_ref().map_or("(named by the hub)", NodeName::as_str),
            role = join.role.as_str(),
            cluster = %join.cluster,
            version = env!("CARGO_PKG_VERSION"),
            "the agent starts"
        );
        let report = watch::Sender::new(NodeReport::default());
        let dask = dask_side::DaskSide::start(&join, store.tls_files(), inputs.clone())?;
        let known = match join.role {
            Role::Worker => store.load(now)?.is_some(),
            Role::Scheduler => crate::hub::Hub::is_installed(&join.paths.state),
        };
        if !known {
            clock::wait_until_plausible(&join).await?;
        }
        let side = match join.role {
            Role::Worker => Side::Worker(WorkerSide::new()),
            Role::Scheduler => Side::Hub(Box::new(HubSide::start(&join, inputs.clone()).await?)),
        };
        let power_off = power::is_wanted(&join.at_end, machine.is_some());
        let mut driver = Self {
            sampler: Sampler::new(&join.paths.state),
            join,
            store,
            logs,
            phases,
            side,
            identity: None,
            renewal: Renewal::default(),
            dask,
            firewall,
            report,
            inputs,
            measured: NodeReport::default(),
            members: std::collections::BTreeSet::new(),
            crl: 0,
            notice: None,
            approval: None,
            power_off,
            end: End::default(),
            manager: Notifier::of_process(),
            trial: upgrade::trial(),
        };
        notice::watch(machine.as_ref(), driver.inputs.clone());
        input::signals(driver.inputs.clone())?;
        driver.start_firewall();
        let left = driver.join.deadline.since(now);
        driver.phases.start(PhaseName::Enrol, now, Some(left));
        driver.first_identity().await?;
        driver.manager.ready("enrolling", true);
        Ok((driver, rx))
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Over {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return Over::Left(ExitCode::FAILURE),
                },
                _ = tick.tick() => self.tick(),
                _ = measure.tick() => {
                    self.measured.health = self.sampler.sample();
                    self.dask.look_at_memory(self.measured.health.memory_total);
                    self.check_firewall();
                    self.publish();
                }
            }
            if let Some(over) = self.end.over() {
                self.before_exit().await;
                return over;
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Identity(outcome) => self.on_identity(*outcome),
            Input::Environment(outcome) => self.on_environment(outcome),
            Input::Dask(health) => self.on_dask_health(health),
            Input::Guard(event) => self.on_guard(event),
            Input::Session(news) => self.on_session(news),
            Input::Down(down) => self.on_down(down),
            Input::Stream(request, io) => self.serve_stream(request, io),
            Input::Install(request) => self.on_install(request).await,
            Input::Call(call) => self.on_call(call),
            Input::Upgraded(id, outcome) => self.on_upgraded(id, outcome),
            Input::Access => self.update_firewall(),
            Input::FirewallTouched => self.check_firewall(),
            Input::Signal(signal) => self.on_signal(signal),
            Input::Notice(notice) => self.on_notice(*notice),
            Input::Ended => self.on_ended(),
        }
        self.publish();
    }

    fn tick(&mut self) {
        let now = Timestamp::now();
        let expired = self.phases.expire(now);
        self.look_at_disk();
        self.renew_when_due(now);
        self.take_root_s_wishes();
        self.end_when_due();
        self.end_when_alone();
        self.manager.alive(self.end.has_begun());
        self.judge_trial();
        if expired {
            self.on_expired_phase();
            self.publish();
        }
    }

    /// A node whose enrolment can no longer succeed gives up, so that its
    /// machine does not idle for ever.
    fn on_expired_phase(&mut self) {
        if self.identity.is_none() && Timestamp::now() > self.join.deadline && matches!(self.side, Side::Hub(_)) {
            tracing::error!("nobody installed this hub before its deadline; giving up");
            self.end.give_up("nobody installed this hub before its deadline");
        }
    }

    fn spec(&self) -> ClusterSpec {
        match (&self.side, &self.identity) {
            (Side::Hub(hub), _) if hub.hub().is_some() => hub.hub().map(|h| h.spec()).unwrap_or_default(),
            (_, Some(identity)) => identity.issued.spec.clone(),
            _ => ClusterSpec::default(),
        }
    }

    /// Tells what is so now, if that is news.
    fn publish(&mut self) {
        let mut report = NodeReport {
            phases: self.phases.list(),
            health: self.measured.health.clone(),
            dask: self.dask.health(),
            environment: self.dask.environment(),
            crl: self.crl,
            notice: self.notice.clone(),
            firewall: self.firewall.report(),
            troubles: self.troubles(),
        };
        self.manager.status(&self.phases.summary());
        if report.dask.versions == Some(Versions::default()) {
            report.dask.versions = None;
        }
        self.report.send_if_modified(|old| {
            let news = *old != report;
            if news {
                *old = report;
            }
            news
        });
    }
}

/// The agent's own program, for what it starts again as a helper of its own.
fn own_program() -> PathBuf {
    // Through /proc, so that a newer file at the same path is not mixed in.
    std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| "/proc/self/exe".into())
}

fn spawn_into<T: Send + 'static>(
    inputs: mpsc::Sender<Input>,
    work: impl Future<Output = T> + Send + 'static,
    make: impl FnOnce(T) -> Input + Send + 'static,
) {
    tokio::spawn(async move {
        let result = work.await;
        let _ = inputs.send(make(result)).await;
    });
}
