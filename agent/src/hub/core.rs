//! The hub's state and its decisions; transport is elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herdsman_wire::api;
use herdsman_wire::join::JoinConfig;
use herdsman_wire::pki::CertificateFacts;
use herdsman_wire::report::{EventKind, NodeState, Tasks};
use herdsman_wire::session::{Command, Down};
use herdsman_wire::spec::{ClusterSpec, EnvironmentSpec};
use herdsman_wire::{ApiError, ClusterId, ClusterName, Code, Kind, NodeName, Role, Timestamp, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::access::Access;
use super::audit::Audit;
use super::blobs::Blobs;
use super::decisions::Refusal;
use super::ending::{self, Activity};
use super::events::Events;
use super::incidents::Incidents;
use super::issue::{Issuers, IssuingKeys};
use super::journal::{Entry, Journal};
use super::live::Live;
use super::members::Members;
use super::registry::Registry;
use super::sessions::Sessions;
use super::streams::Streams;
use super::turns::Turns;
use crate::files;

/// A question to Dask's scheduler through its guard: operation, arguments,
/// deadline, answer.
pub type SchedulerCall = (String, Value, Duration, oneshot::Sender<Result<Value, ApiError>>);

/// The way to Dask's scheduler and to the node that the hub itself is.
#[derive(Clone, Debug)]
pub struct SchedulerLink {
    /// Questions to Dask's scheduler.
    pub calls: mpsc::Sender<SchedulerCall>,
    /// Messages for the hub's own node.
    pub own_node: mpsc::Sender<Down>,
    /// Streams that the hub's own node shall serve.
    pub own_streams: mpsc::Sender<(herdsman_wire::session::StreamRequest, DuplexStream)>,
}

impl SchedulerLink {
    /// Asks Dask's scheduler.
    ///
    /// # Errors
    /// [`Code::Dask`] when it does not run or answers with an error.
    pub async fn call(&self, op: &str, args: Value, within: Duration) -> Result<Value, ApiError> {
        let gone = || ApiError::new(Code::Dask, "Dask's scheduler does not run");
        let (tx, rx) = oneshot::channel();
        self.calls
            .send((op.to_owned(), args, within, tx))
            .await
            .map_err(|_| gone())?;
        rx.await.map_err(|_| gone())?
    }
}

/// What the hub remembers beside the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Installed {
    created: Timestamp,
    address: SocketAddr,
    spec: ClusterSpec,
}

/// What Dask's scheduler says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct SchedulerView {
    pub(super) tasks: Option<Tasks>,
    pub(super) clients: u64,
    pub(super) idle_since: Option<Timestamp>,
    pub(super) clientless_since: Option<Timestamp>,
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// The hub's own node.
    pub own: NodeName,
    /// Dask's scheduler as nodes reach it.
    pub scheduler: SocketAddr,
    /// When the cluster was made.
    pub created: Timestamp,
    /// The audit log.
    pub audit: Audit,
    /// What happened.
    pub events: Events,
    /// Misused certificates.
    pub(super) incidents: Incidents,
    /// Live connections.
    pub live: Arc<Live>,
    /// Streams that wait for their node.
    pub streams: Streams,
    /// Environment blobs.
    pub blobs: Blobs,
    /// Dask's scheduler and our own node.
    pub link: SchedulerLink,
    /// CRL in force: number and PEM bundle.
    pub crl: watch::Sender<(u64, Arc<str>)>,
    /// Why the cluster ends, once it does.
    pub ending: watch::Sender<Option<String>>,
    pub(super) issuers: Issuers,
    journal: Journal,
    registry: Mutex<Registry>,
    spec: Mutex<ClusterSpec>,
    view: Mutex<SchedulerView>,
    pub(super) sessions: Sessions,
    pub(super) members: Arc<Members>,
    /// Who may reach this machine, for its packet filter.
    pub access: watch::Sender<Access>,
    pub(super) turns: Turns,
    /// When the last CRL was issued; held while the next one is made, so that none
    /// overtakes another.
    pub(super) crl_issued: tokio::sync::Mutex<Option<Instant>>,
}

/// Newest bytes of the audit log in which incidents of an earlier run are looked for.
const AUDIT_READ: usize = 16 << 20;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(state: &Path) -> PathBuf {
    state.join("hub")
}

impl Hub {
    /// Whether a state folder belongs to an installed hub.
    #[must_use]
    pub fn is_installed(state: &Path) -> bool {
        folder(state).join("installed.json").is_file()
    }

    /// Writes down what the launcher installs. The marker comes last, so that a
    /// crash in between leaves an agent that can be installed again.
    ///
    /// # Errors
    /// [`Code::Malformed`] naming the field, or as the file system says.
    pub fn install(
        join: &JoinConfig,
        keys: &IssuingKeys,
        install: &api::Install,
        own_address: IpAddr,
    ) -> Result<(), ApiError> {
        let dir = folder(&join.paths.state);
        files::make_dir(&dir)?;
        keys.store(
            &dir,
            [&install.issue_control, &install.issue_scheduler, &install.issue_node],
        )?;
        let installed = Installed {
            created: install.created,
            address: SocketAddr::new(own_address, install.spec.dask.scheduler_port),
            // Passwords of package indexes stay in memory; see `keep_credentials`.
            spec: ClusterSpec {
                environment: install.spec.environment.without_credentials(),
                ..install.spec.clone()
            },
        };
        let mut journal = Vec::new();
        let mut entries = vec![Entry::Expected {
            nodes: install.expected.clone(),
        }];
        let allow = &install.spec.firewall.allow;
        if !allow.is_empty() {
            entries.push(Entry::Allowed {
                add: allow.iter().map(ipnet::IpNet::trunc).collect(),
                remove: Vec::new(),
            });
        }
        if let Some(o) = &install.operator {
            entries.push(Entry::Operator {
                user: o.user.clone(),
                serials: o.serials.clone(),
                not_after: o.not_after,
            });
        }
        for entry in entries {
            serde_json::to_writer(&mut journal, &entry)
                .map_err(|e| ApiError::new(Code::Internal, format!("journal: {e}")))?;
            journal.push(b'\n');
        }
        files::write_atomic(&dir.join("journal.jsonl"), &journal)?;
        let text = serde_json::to_vec(&installed).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        files::write_atomic(&dir.join("installed.json"), &text)
    }

    /// Opens an installed hub.
    ///
    /// # Errors
    /// When its files are damaged, naming the file.
    pub fn open(join: &JoinConfig, link: SchedulerLink, live: Arc<Live>) -> Result<Arc<Self>, ApiError> {
        let dir = folder(&join.paths.state);
        let marker = dir.join("installed.json");
        let bytes = files::read_limited(&marker, limits::OPERATOR_BODY)?
            .ok_or_else(|| ApiError::new(Code::NotFound, "this agent is no installed hub"))?;
        let installed: Installed = serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::new(Code::Malformed, format!("{}: {e}", marker.display())))?;
        let issuers = Issuers::load(&join.cluster, &dir)?;
        let (journal, entries) = Journal::open(&dir.join("journal.jsonl"))?;
        let now = Timestamp::now();
        let mut registry = Registry::default();
        let mut spec = installed.spec;
        for entry in &entries {
            registry.apply(entry, now);
            match entry {
                Entry::Limits { limits } => spec.limits = limits.clone(),
                Entry::Spec { spec: new } => spec.environment = new.environment.clone(),
                _ => {}
            }
        }
        // After a restart every member is heard of anew or counted as silent.
        let names: Vec<NodeName> = registry.nodes().map(|(n, _)| n.clone()).collect();
        for name in names {
            if let Some(n) = registry.node_mut(&name)
                && n.issued.is_some()
            {
                n.seen = Some(now);
            }
        }
        let own = join
            .node
            .clone()
            .ok_or_else(|| ApiError::new(Code::Malformed, "field `node` is missing"))?;
        if let Some(n) = registry.node_mut(&own) {
            n.address = Some(installed.address.ip());
            n.role = Role::Scheduler;
        }
        let audit = Audit::open(&dir.join("audit.jsonl"))?;
        let hub = Arc::new(Self {
            cluster: join.cluster.clone(),
            name: join.cluster_name.clone(),
            own,
            scheduler: installed.address,
            created: installed.created,
            incidents: Incidents::of(&audit.read(AUDIT_READ)?),
            audit,
            events: Events::default(),
            live,
            streams: Streams::default(),
            blobs: Blobs::open(&dir.join("blobs"))?,
            link,
            crl: watch::Sender::new((0, Arc::from(""))),
            ending: watch::Sender::new(None),
            issuers,
            journal,
            registry: Mutex::new(registry),
            spec: Mutex::new(spec),
            view: Mutex::new(SchedulerView {
                clientless_since: Some(now),
                ..SchedulerView::default()
            }),
            sessions: Sessions::default(),
            members: Arc::default(),
            access: watch::Sender::default(),
            turns: Turns::default(),
            crl_issued: tokio::sync::Mutex::new(None),
        });
        Ok(hub)
    }

    /// The specification in force.
    pub fn spec(&self) -> ClusterSpec {
        locked(&self.spec).clone()
    }

    /// Keeps passwords of package indexes for nodes to come. They are never
    /// written down: a hub that started anew gets them with the next `up`.
    pub fn keep_credentials(&self, of: &EnvironmentSpec) {
        let mut spec = locked(&self.spec);
        if spec.environment == of.without_credentials() {
            spec.environment = of.clone();
        }
    }

    /// When the issuing certificates end.
    pub const fn authority_until(&self) -> Timestamp {
        self.issuers.until
    }

    /// The issuing certificate of this channel, PEM.
    pub fn issuing_certificate(&self) -> &str {
        self.issuers.control()
    }

    /// The registry; the lock is never held while something else is waited for.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        locked(&self.registry)
    }

    pub(super) fn spec_mut(&self) -> MutexGuard<'_, ClusterSpec> {
        locked(&self.spec)
    }

    pub(super) fn view(&self) -> MutexGuard<'_, SchedulerView> {
        locked(&self.view)
    }

    pub(super) async fn remember(&self, entries: &[Entry]) -> Result<(), ApiError> {
        self.journal.add(entries).await?;
        let now = Timestamp::now();
        let mut registry = self.registry();
        entries.iter().for_each(|e| registry.apply(e, now));
        drop(registry);
        // Whoever may come in has to get through the packet filter first.
        self.tell_members();
        Ok(())
    }

    /// Puts a refusal into the audit log and hands its error on.
    pub fn refuse(&self, what: &str, who: &str, from: IpAddr, refusal: Refusal) -> ApiError {
        let Refusal { error, incident, node } = refusal;
        if error.code != Code::TooEarly {
            let mut detail = json!({"at": what, "from": from, "code": error.code, "why": error.message});
            if let Some(node) = &node {
                detail["node"] = json!(node);
            }
            self.audit.refusal(incident.unwrap_or("refuse"), who, detail);
            tracing::warn!(%from, who, what, code = %error.code, "refused: {}", error.message);
        }
        if let Some(kind) = incident
            && self
                .incidents
                .add(kind, node.as_ref(), from, &error.message, Timestamp::now())
        {
            // Whoever watches hears of the first one; `status` counts them all.
            let text = format!("refused a request from {from}: {}", error.message);
            self.events.push(node, EventKind::Note { text });
        }
        error
    }

    /// Changes when the cluster ends.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn change_limits(&self, change: &api::LimitsChange) -> Result<(), ApiError> {
        let mut limits = self.spec().limits;
        let set = |slot: &mut Option<u64>, new: Option<u64>| match new {
            Some(0) => *slot = None,
            Some(n) => *slot = Some(n),
            None => {}
        };
        set(&mut limits.idle_seconds, change.idle_seconds);
        set(&mut limits.no_client_seconds, change.no_client_seconds);
        let age = Timestamp::now().since(self.created).as_secs();
        set(
            &mut limits.lifetime_seconds,
            change
                .lifetime_from_now_seconds
                .map(|n| if n == 0 { 0 } else { n + age }),
        );
        self.remember(&[Entry::Limits { limits: limits.clone() }]).await?;
        self.spec_mut().limits = limits;
        Ok(())
    }

    /// Changes the environment of nodes to come and of Dask's next starts.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn change_environment(&self, change: api::ChangeEnvironment) -> Result<(), ApiError> {
        let open = change.environment.without_credentials();
        if self.spec().environment.without_credentials() != open {
            // Only what can change: the rest holds secrets, which the journal does not.
            let kept = ClusterSpec {
                environment: open,
                ..ClusterSpec::default()
            };
            self.remember(&[Entry::Spec { spec: Box::new(kept) }]).await?;
        }
        self.spec_mut().environment = change.environment;
        Ok(())
    }

    /// Whether a certificate was taken away; see [`Self::check`] for all else.
    ///
    /// # Errors
    /// [`Code::Revoked`].
    pub fn check_revoked(&self, cert: &CertificateFacts) -> Result<(), ApiError> {
        self.registry().check_revoked(cert)
    }

    /// A certificate is checked at each use, not only in its handshake.
    ///
    /// # Errors
    /// A refusal, which is in the audit log already.
    pub fn check(self: &Arc<Self>, cert: &CertificateFacts, from: IpAddr) -> Result<Option<NodeName>, ApiError> {
        let who = cert.identity.to_string();
        if cert.not_after < Timestamp::now() {
            let e = ApiError::new(Code::Certificate, "this certificate expired while the connection lived");
            return Err(self.refuse("request", &who, from, e.into()));
        }
        let registry = self.registry();
        let result = match cert.identity.kind {
            Kind::Agent { role: Role::Worker, .. } => registry.check_member(cert, from).map(Some),
            _ => registry.check_revoked(cert).map(|()| None).map_err(Refusal::from),
        };
        drop(registry);
        result.map_err(|r| {
            self.quarantine_clone(cert, &r);
            self.refuse("request", &who, from, r)
        })
    }

    /// What has to be looked after every few seconds.
    pub async fn tick(&self) {
        let now = Timestamp::now();
        let lost = self.registry().mark_silent(now);
        for node in &lost {
            let state = NodeState::Lost;
            self.events.push(
                Some(node.clone()),
                EventKind::State {
                    state,
                    why: Some("silent for a minute".into()),
                },
            );
        }
        // Who did not come in time may not come any more.
        if !lost.is_empty() || !self.access.borrow().joining.is_empty() {
            self.tell_members();
        }
        let gone = self.registry().gone(now);
        if !gone.is_empty()
            && let Err(e) = self.revoke(&gone, "silent for ten minutes").await
        {
            tracing::error!("cannot revoke lost nodes: {e}");
        }
        let reissue = Duration::from_secs(self.spec().lives.crl_reissue_seconds);
        let is_fresh = self.crl_issued.lock().await.is_some_and(|at| at.elapsed() < reissue);
        if !is_fresh && let Err(e) = self.issue_crl().await {
            tracing::error!("cannot issue a CRL: {e}");
        }
        let due = ending::due(&self.spec().limits, &self.activity(), now);
        if let Some(why) = due {
            self.end(&why);
        }
    }

    pub(super) fn activity(&self) -> Activity {
        let view = self.view();
        Activity {
            started: self.created,
            idle_since: view.idle_since,
            clientless_since: view.clientless_since,
        }
    }

    /// Ends the cluster: nodes are told to stop, then the hub itself does.
    pub fn end(&self, why: &str) {
        let first = self.ending.send_if_modified(|e| {
            let first = e.is_none();
            if first {
                *e = Some(why.to_owned());
            }
            first
        });
        if first {
            tracing::info!("the cluster ends: {why}");
            self.audit.note("end", "hub", json!({"why": why}));
            self.events.push(
                None,
                EventKind::Note {
                    text: format!("the cluster ends: {why}"),
                },
            );
            let command = Command::Stop { why: why.to_owned() };
            self.broadcast(&Down::Command { id: 0, command });
        }
    }
}
