//! Dask on this node: its environment, its process, and what its guard tells.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::report::{DaskHealth, PhaseName, Versions};
use herdsman_wire::spec::{ClusterSpec, EnvironmentSpec};
use herdsman_wire::{ApiError, Code, Role, Timestamp};
use tokio::sync::{mpsc, watch};

use super::install;
use super::memory::Memory;
use super::{Driver, Input, Side, own_program, spawn_into};
use crate::dask::cgroup;
use crate::dask::command_line::{self, Start};
use crate::dask::diagnose::diagnose;
use crate::dask::guard_link::{GuardEvent, GuardLink};
use crate::dask::guard_message::{Hello, PeerKind, Report};
use crate::dask::prepare;
use crate::dask::procfs::ProcFs;
use crate::dask::spec::{Group, User};
use crate::dask::supervisor::{self, Control};
use crate::environment;
use crate::hub::Hub;
use crate::identity::TlsFiles;
use crate::node::stream::ExecSettings;
use crate::service::accounts;

/// A Dask process that was not heard of for this long counts as failed; it may
/// still come.
pub(super) const DASK_WITHIN: Duration = Duration::from_secs(120);
/// So many crashes in a row before Dask ever ran are a failed start.
const CRASHES: u32 = 2;
/// An environment is made within this.
const INSTALL_WITHIN: Duration = Duration::from_secs(20 * 60);

/// An environment that can be used.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The interpreter.
    pub python: PathBuf,
    /// Folders to put before all modules.
    pub modules: Vec<PathBuf>,
    /// Its id, for a copied environment.
    pub id: Option<String>,
    /// What it holds.
    pub versions: Versions,
    /// Keeps a copied environment from being removed.
    pub hold: Option<Arc<nix::fcntl::Flock<std::fs::File>>>,
}

/// Dask's process and the ways to it.
pub(super) struct DaskSide {
    supervisor: mpsc::Sender<Control>,
    guard: GuardLink,
    health: DaskHealth,
    ready: Option<Ready>,
    last_words: watch::Receiver<Vec<String>>,
    /// Ends in a row since Dask ran last.
    crashes: u32,
    /// Whether this process of ours has seen Dask run.
    has_run: bool,
    /// Running tasks of each worker process.
    executing: HashMap<u64, u64>,
    /// Whose rights Dask gets; absent: the agent's own.
    user: Option<User>,
    /// Its control group, where it has a user of its own.
    cgroup: Option<Group>,
    memory: Memory,
    tls: TlsFiles,
}

impl DaskSide {
    /// Starts the supervisor, without a process yet, and listens for guards.
    pub(super) fn start(join: &JoinConfig, tls: TlsFiles, inputs: mpsc::Sender<Input>) -> Result<Self, ApiError> {
        let user = accounts::for_dask(&join.paths)?;
        let cgroup = user
            .as_ref()
            .and_then(|_| cgroup::below_own(&ProcFs::default(), "dask"))
            .map(|path| Group { path, memory_max: None });
        let memory = Memory::new(cgroup.as_ref());
        let supervisor::Handle {
            control,
            mut health,
            mut notes,
            last_words,
        } = supervisor::start(own_program());
        let socket = command_line::guard_socket(&join.paths.run);
        let (guard, mut events) = GuardLink::bind(&socket, user.as_ref())?;
        tokio::spawn(async move {
            loop {
                let input = tokio::select! {
                    changed = health.changed() => match changed {
                        Ok(()) => Input::Dask(health.borrow_and_update().clone()),
                        Err(_) => return,
                    },
                    // The supervisor has logged it.
                    Some(_) = notes.recv() => continue,
                    Some(event) = events.recv() => Input::Guard(event),
                };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            supervisor: control,
            guard,
            health: DaskHealth::default(),
            ready: None,
            last_words,
            crashes: 0,
            has_run: false,
            executing: HashMap::new(),
            user,
            cgroup,
            memory,
            tls,
        })
    }

    pub(super) fn guard(&self) -> GuardLink {
        self.guard.clone()
    }

    /// Tells the supervisor; its queue is short of nothing but its own death.
    pub(super) fn control(&self, what: Control) {
        if self.supervisor.try_send(what).is_err() {
            tracing::error!("Dask's supervisor does not listen");
        }
    }

    pub(super) fn detach(&self) {
        self.control(Control::Detach);
    }

    /// Dask loads its certificates and CRL again.
    pub(super) fn reload(&self) {
        if let Some(user) = &self.user
            && let Err(e) = prepare::share_tls(&self.tls, user)
        {
            super::tell(&e);
        }
        let guard = self.guard.clone();
        tokio::spawn(async move {
            let within = Duration::from_secs(10);
            for (kind, name, result) in guard.call_all("reload", serde_json::json!({}), within).await {
                if let Err(e) = result {
                    // The guard looks at the files by itself too.
                    tracing::warn!(kind = kind.as_str(), name, "did not load its files again: {e}");
                }
            }
        });
    }

    /// Dask loads a new CRL, and ends live connections of the certificates on it:
    /// the list itself is asked in handshakes only.
    pub(super) fn revoke(&self, serials: Vec<String>) {
        self.reload();
        if serials.is_empty() {
            return;
        }
        let guard = self.guard.clone();
        tokio::spawn(async move {
            let args = serde_json::json!({ "serials": serials });
            for (kind, name, result) in guard.call_all("cut", args, Duration::from_secs(10)).await {
                match result {
                    Ok(answer) if answer["cut"].as_u64() > Some(0) => {
                        tracing::info!(kind = kind.as_str(), name, "cut {} connections", answer["cut"]);
                    }
                    Ok(_) => {}
                    Err(e) => tracing::warn!(kind = kind.as_str(), name, "did not cut connections: {e}"),
                }
            }
        });
    }

    pub(super) fn health(&self) -> DaskHealth {
        DaskHealth {
            out_of_memory: self.memory.ended(),
            ..self.health.clone()
        }
    }

    /// Tells if the kernel took something of Dask: a nanny starts its worker anew and
    /// says no more than that it was killed. `size` is what this node may use, bytes.
    pub(super) fn look_at_memory(&mut self, size: u64) {
        if let Some(e) = self.memory.look(self.cgroup.as_ref(), size) {
            super::tell(&e);
        }
    }

    fn sum_up(&mut self) {
        let any = !self.executing.is_empty();
        self.health.executing = any.then(|| self.executing.values().sum());
    }

    pub(super) fn environment(&self) -> Option<String> {
        self.ready.as_ref().and_then(|r| r.id.clone())
    }

    /// Where and as what commands of an operator run.
    pub(super) fn exec_settings(&self, join: &JoinConfig, spec: &ClusterSpec) -> ExecSettings {
        let python = self.ready.as_ref().map(|r| r.python.as_path());
        let variables = spec.dask.variables.iter();
        ExecSettings {
            path: python.and_then(Path::parent).map(Path::to_owned).into_iter().collect(),
            cwd: match &self.user {
                Some(_) => accounts::HOME.into(),
                None => join.paths.state.clone(),
            },
            variables: variables.map(|(k, v)| (k.clone(), v.reveal().to_owned())).collect(),
            user: self.user.as_ref().map(|u| (u.uid, u.gid)),
        }
    }
}

impl Driver {
    /// Makes or checks the environment, beside everything else.
    pub(super) fn start_environment(&mut self) {
        self.report_to_own_hub();
        let spec = self.spec();
        let now = Timestamp::now();
        self.phases.start(PhaseName::Environment, now, Some(INSTALL_WITHIN));
        match spec.environment {
            EnvironmentSpec::Image { python, path, .. } => {
                // Dask itself tells its versions when it starts; asking before
                // would cost as much as starting it.
                let ready = is_there(&python).map(|()| Ready {
                    python,
                    modules: path,
                    id: None,
                    versions: Versions::default(),
                    hold: None,
                });
                self.on_environment(ready);
            }
            locked @ EnvironmentSpec::Locked { .. } => self.install_environment(locked),
        }
    }

    /// Another environment from now on.
    pub(super) fn change_environment(&mut self, id: String) {
        self.phases
            .start(PhaseName::Environment, Timestamp::now(), Some(INSTALL_WITHIN));
        let mut wanted = self.spec().environment;
        match &mut wanted {
            EnvironmentSpec::Locked { id: old, .. } => *old = id,
            EnvironmentSpec::Image { .. } => {
                wanted = EnvironmentSpec::Locked {
                    id,
                    uv: None,
                    uv_blob: None,
                    python: None,
                    offline: false,
                    credentials: Vec::new(),
                };
            }
        }
        self.install_environment(wanted);
    }

    fn install_environment(&self, wanted: EnvironmentSpec) {
        let EnvironmentSpec::Locked {
            id,
            uv,
            uv_blob,
            python,
            offline,
            credentials,
        } = wanted
        else {
            return;
        };
        let source = match &self.side {
            Side::Worker(w) => w.client().map(install::Source::Hub),
            Side::Hub(_) => self.environment_blobs().map(|h| install::Source::Here(h.blobs.clone())),
        };
        let root = self.join.paths.environments.clone();
        // Unpacking and hashing take whole seconds: not on the thread that
        // answers the hub.
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || {
            let source = source.ok_or_else(|| ApiError::new(Code::Unreachable, "the hub cannot be asked"))?;
            let uv = runtime.block_on(install::have_uv(uv, uv_blob.as_deref(), &root, &source))?;
            let request = environment::Install {
                id: &id,
                root: &root,
                uv: &uv,
                python: python.as_deref(),
                offline,
                credentials: &credentials,
            };
            runtime.block_on(install::patiently(&request, &source))
        });
        let work = async move {
            thread.await.unwrap_or_else(|e| {
                Err(ApiError::new(
                    Code::Internal,
                    format!("the installation broke off: {e}"),
                ))
            })
        };
        spawn_into(self.inputs.clone(), work, Input::Environment);
    }

    pub(super) fn on_environment(&mut self, outcome: Result<Ready, ApiError>) {
        let now = Timestamp::now();
        match outcome {
            Ok(ready) => {
                tracing::info!(python = %ready.python.display(), id = ready.id, "environment is ready");
                self.phases.done(PhaseName::Environment, now);
                self.dask.ready = Some(ready);
                self.start_dask();
            }
            Err(e) => {
                super::tell(&e);
                self.phases.fail(PhaseName::Environment, now, e);
            }
        }
    }

    fn start_dask(&mut self) {
        let now = Timestamp::now();
        self.phases.start(PhaseName::Dask, now, Some(DASK_WITHIN));
        match self.is_closed().and_then(|()| self.dask_process()) {
            Ok(spec) => self.dask.control(Control::Start(Box::new(spec))),
            Err(e) => {
                super::tell(&e);
                self.phases.fail(PhaseName::Dask, now, e);
            }
        }
    }

    /// Starts Dask if it was kept from that while the machine was open.
    pub(super) fn start_dask_late(&mut self) {
        let kept = self.phases.error_of(PhaseName::Dask).map(|e| e.code);
        if kept == Some(Code::Firewall) && self.dask.ready.is_some() && self.is_closed().is_ok() {
            self.start_dask();
        }
    }

    fn dask_process(&self) -> Result<crate::dask::spec::ProcessSpec, ApiError> {
        let missing = |what: &str| ApiError::new(Code::Internal, format!("{what} is not known yet"));
        let identity = self.identity.as_ref().ok_or_else(|| missing("the node's identity"))?;
        let ready = self.dask.ready.as_ref().ok_or_else(|| missing("the environment"))?;
        let spec = self.spec();
        let tls = self.store.tls_files();
        let start = Start {
            cluster: &self.join.cluster,
            node: &identity.issued.node,
            role: identity.issued.role,
            own: self.own_address(identity.issued.scheduler.ip()),
            scheduler: identity.issued.scheduler,
            spec: &spec.dask,
            tls: &tls,
            python: &ready.python,
            modules: &ready.modules,
            state: &self.join.paths.state,
            run: &self.join.paths.run,
            path: &std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into()),
            user: self.dask.user.clone(),
            cgroup: self.dask.cgroup.clone(),
        };
        prepare::prepare(&start)?;
        command_line::process(&start)
    }

    /// The address under which others reach this node: the one that connections
    /// to the scheduler leave from.
    fn own_address(&self, scheduler: IpAddr) -> IpAddr {
        match (self.join.role, self.join.bind) {
            (Role::Scheduler, _) => scheduler,
            (Role::Worker, Some(bind)) => bind,
            (Role::Worker, None) => source_address(scheduler).unwrap_or(scheduler),
        }
    }

    pub(super) fn on_dask_health(&mut self, health: DaskHealth) {
        let now = Timestamp::now();
        let old = std::mem::replace(&mut self.dask.health, health);
        let new = &mut self.dask.health;
        // What the guard told stays until the process changes. The guard of a Dask
        // that is taken over may be heard before the supervisor has found it.
        if new.pid == old.pid || (new.adopted && old.pid.is_none()) {
            new.address.clone_from(&old.address);
            new.executing = old.executing;
        }
        new.versions = old.versions.clone();
        if self.end.has_begun() {
            return;
        }
        let new = new.clone();
        let is_scheduler = matches!(self.side, Side::Hub(_));
        if is_scheduler && new.adopted && new.state == "starting" && new.address.is_some() {
            // Its hello came too early to mean anything.
            self.scheduler_runs(now);
            return;
        }
        match new.state.as_str() {
            "backoff" | "failed" => self.on_dask_crash(&new, &old, now),
            "starting" if old.state == "backoff" || old.state == "failed" || old.state == "running" => {
                let keep = self.phases.error_of(PhaseName::Dask);
                let why = keep
                    .map(|e| e.message)
                    .or_else(|| self.phases.detail_of(PhaseName::Dask));
                self.phases.start(PhaseName::Dask, now, Some(DASK_WITHIN));
                if let Some(why) = why {
                    self.phases.detail(PhaseName::Dask, &why);
                }
            }
            _ => {}
        }
    }

    /// Dask ended by itself and will be started again. Its first end at a start may
    /// have a cause that is over (a port just left, a slow disk); the second in a
    /// row is a failure, told at once: whoever waits must not wait for the fifth.
    fn on_dask_crash(&mut self, new: &DaskHealth, old: &DaskHealth, now: Timestamp) {
        if new.state == old.state && new.restarts == old.restarts {
            return;
        }
        self.dask.crashes += 1;
        let how = new.last_exit.as_deref().unwrap_or("ended");
        let words = self.dask.last_words.borrow().clone();
        let mut e = diagnose(self.join.role, how, &words);
        // On a full disk the last words are lost as well.
        if e.code == Code::Dask && crate::health::is_full(&self.join.paths.state) {
            let text = format!("no space left at {}: {}", self.join.paths.state.display(), e.message);
            e = ApiError::new(Code::Disk, text).with_hint("free space on the node's disk, or give it a larger one");
        }
        if self.dask.has_run || self.dask.crashes >= CRASHES || new.state == "failed" {
            if self.dask.crashes > 1 {
                e.message = format!("{} times in a row: {}", self.dask.crashes, e.message);
            }
            self.phases.start(PhaseName::Dask, now, Some(DASK_WITHIN));
            self.phases.fail(PhaseName::Dask, now, e);
        } else {
            let first = e.message.lines().next().unwrap_or_default();
            self.phases
                .detail(PhaseName::Dask, &format!("{first}; it is started again"));
        }
    }

    /// Its guard has said hello.
    fn scheduler_runs(&mut self, now: Timestamp) {
        self.dask.health.state = "running".into();
        self.dask.control(Control::Running);
        self.dask_runs();
        self.phases.done(PhaseName::Dask, now);
    }

    /// Dask is up: from now on an end is an accident, not a failed start.
    pub(super) fn dask_runs(&mut self) {
        self.dask.has_run = true;
        self.dask.crashes = 0;
    }

    pub(super) fn on_guard(&mut self, event: GuardEvent) {
        let hub = match &self.side {
            Side::Hub(side) => side.hub().cloned(),
            Side::Worker(_) => None,
        };
        match (event, hub) {
            (GuardEvent::Connected { hello, .. }, hub) => self.on_hello(hello, hub.as_ref()),
            (GuardEvent::WorkerAdded(worker), Some(hub)) => hub.worker_added(worker),
            (GuardEvent::WorkerRemoved { name, .. }, Some(hub)) => hub.worker_removed(&name),
            (
                GuardEvent::Report {
                    report: Report::Scheduler(r),
                    ..
                },
                Some(hub),
            ) => {
                hub.scheduler_report(r.tasks, r.clients, r.idle_seconds, r.detail);
            }
            (
                GuardEvent::Report {
                    peer,
                    report: Report::Worker(r),
                },
                _,
            ) => {
                self.dask.executing.insert(peer, r.executing);
                self.dask.sum_up();
            }
            (GuardEvent::Gone { peer, .. }, _) => {
                self.dask.executing.remove(&peer);
                self.dask.sum_up();
            }
            (GuardEvent::Problem { kind, code, message }, _) => {
                tracing::warn!(?kind, code, "Dask's guard: {message}");
            }
            _ => {}
        }
    }

    fn on_hello(&mut self, hello: Hello, hub: Option<&Arc<Hub>>) {
        tracing::debug!(
            kind = hello.kind.as_str(),
            name = hello.name,
            "Dask's guard is connected"
        );
        let differences = self.differences(&hello.versions);
        self.dask.health.versions = Some(hello.versions);
        if !differences.is_empty() {
            let e = ApiError::new(
                Code::Mismatch,
                format!(
                    "this node's Python differs from the laptop's:\n{}",
                    differences.join("\n")
                ),
            )
            .with_hint("use the same versions on both sides, or let the environment be copied: `--env auto`");
            super::tell(&e);
            self.phases.fail(PhaseName::Dask, Timestamp::now(), e);
            let (done, _) = tokio::sync::oneshot::channel();
            self.dask.control(Control::Stop {
                grace: Duration::from_secs(2),
                done,
            });
            return;
        }
        match (hello.kind, hub) {
            (PeerKind::Scheduler, Some(hub)) => {
                self.dask.health.address = Some(hello.address);
                self.scheduler_runs(Timestamp::now());
                self.publish();
                hub.report(&hub.own.clone(), self.report.borrow().clone());
                hub.scheduler_started(hello.workers);
            }
            (PeerKind::Worker, _) => self.dask.health.address = Some(hello.address),
            _ => {}
        }
    }

    fn differences(&self, found: &Versions) -> Vec<String> {
        match self.spec().environment {
            EnvironmentSpec::Image { versions, .. } => herdsman_wire::environment::differences(&versions, found),
            // Checked when it was installed.
            EnvironmentSpec::Locked { .. } => Vec::new(),
        }
    }
}

fn is_there(python: &Path) -> Result<(), ApiError> {
    let e = match std::fs::metadata(python) {
        Ok(m) if m.is_file() => return Ok(()),
        Ok(_) => "is no file".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(
        ApiError::new(Code::Environment, format!("no Python at {}: {e}", python.display()))
            .with_hint("name the interpreter with `--python`, or let the laptop's environment be copied: `--env auto`"),
    )
}

/// The address that packets to `to` leave from; nothing is sent.
fn source_address(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
