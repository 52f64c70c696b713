//! The hub's state and its decisions; transport is elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herdsman_wire::api::{self, Expected, Invitation, Issued};
use herdsman_wire::join::JoinConfig;
use herdsman_wire::pki::CertificateFacts;
use herdsman_wire::report::{ClusterStatus, EventKind, NodeReport, NodeState, NodeStatus, Tasks, WorkerStatus};
use herdsman_wire::session::{Command, Down};
use herdsman_wire::spec::{ClusterSpec, DaskSecurity, EnvironmentSpec};
use herdsman_wire::{ApiError, ClusterId, ClusterName, Code, Kind, NodeName, Role, Timestamp, limits, pki};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::audit::Audit;
use super::blobs::Blobs;
use super::ending::{self, Activity};
use super::events::Events;
use super::issue::{Issuers, IssuingKeys};
use super::journal::{Entry, Journal};
use super::live::Live;
use super::registry::{Decision, Refusal, Registry, state_of};
use super::streams::Streams;
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
struct SchedulerView {
    tasks: Option<Tasks>,
    clients: u64,
    idle_since: Option<Timestamp>,
    clientless_since: Option<Timestamp>,
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
    issuers: Issuers,
    journal: Journal,
    registry: Mutex<Registry>,
    spec: Mutex<ClusterSpec>,
    view: Mutex<SchedulerView>,
    sessions: Mutex<Sessions>,
    /// When the last CRL was issued; held while the next one is made, so that none
    /// overtakes another.
    crl_issued: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Sessions {
    next_command: u64,
    by_node: HashMap<NodeName, (u64, mpsc::Sender<Down>)>,
    answers: HashMap<u64, oneshot::Sender<Result<(), ApiError>>>,
    count: u64,
}

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
                Entry::Spec { spec: new } => spec = (**new).clone(),
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
        let hub = Arc::new(Self {
            cluster: join.cluster.clone(),
            name: join.cluster_name.clone(),
            own,
            scheduler: installed.address,
            created: installed.created,
            audit: Audit::open(&dir.join("audit.jsonl"))?,
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
            sessions: Mutex::default(),
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

    async fn remember(&self, entries: &[Entry]) -> Result<(), ApiError> {
        self.journal.add(entries).await?;
        let now = Timestamp::now();
        let mut registry = locked(&self.registry);
        entries.iter().for_each(|e| registry.apply(e, now));
        Ok(())
    }

    /// Puts a refusal into the audit log and hands its error on.
    pub fn refuse(&self, what: &str, who: &str, from: IpAddr, refusal: Refusal) -> ApiError {
        let event = refusal.incident.unwrap_or("refuse");
        let error = refusal.error;
        if error.code != Code::TooEarly {
            self.audit.note(
                event,
                who,
                json!({"at": what, "from": from, "code": error.code, "why": error.message}),
            );
            tracing::warn!(%from, who, what, code = %error.code, "refused: {}", error.message);
        }
        error
    }

    /// Enrols a node.
    ///
    /// # Errors
    /// As the registry decides, or when a request is no good.
    pub async fn enrol(
        self: &Arc<Self>,
        boot: &CertificateFacts,
        from: IpAddr,
        request: &api::Enrol,
    ) -> Result<Issued, ApiError> {
        let who = boot.identity.to_string();
        let refuse = |r: Refusal| self.refuse("enrol", &who, from, r);
        let keys = self
            .keys_of(&request.csr_agent, &request.csr_dask, &boot.key)
            .map_err(|e| refuse(e.into()))?;
        let now = Timestamp::now();
        let decision = locked(&self.registry)
            .decide_enrol(boot, from, &keys, now)
            .map_err(refuse);
        let (node, decision) = match decision {
            Ok(d) => d,
            Err(e) => return Err(e),
        };
        match decision {
            Decision::Again(answer) => {
                self.audit
                    .note("enrol-again", &who, json!({"node": node, "from": from}));
                Ok(self.complete(*answer))
            }
            Decision::Sign => {
                // Spent and on disk before anything is signed.
                let spent = Entry::Enrolled {
                    node: node.clone(),
                    serial: boot.serial.clone(),
                    keys: keys.clone(),
                    address: from.to_canonical(),
                    at: now,
                };
                self.remember(&[spent]).await?;
                let answer = self.issue(
                    &node,
                    Role::Worker,
                    1,
                    &request.csr_agent,
                    &request.csr_dask,
                    keys,
                    &request.facts.agent,
                );
                let answer = answer.await.map_err(|e| refuse(e.into()))?;
                self.audit.note(
                    "enrol",
                    &who,
                    json!({"node": node, "from": from, "serial": boot.serial}),
                );
                tracing::info!(%node, %from, "enrolled");
                self.set_state(&node, NodeState::Starting, None);
                self.tell_members();
                Ok(answer)
            }
        }
    }

    /// Renews a node's certificates.
    ///
    /// # Errors
    /// As the registry decides; a clone is cut off.
    pub async fn renew(
        self: &Arc<Self>,
        cert: &CertificateFacts,
        from: IpAddr,
        request: &api::Renew,
    ) -> Result<Issued, ApiError> {
        let who = cert.identity.to_string();
        let keys = self
            .keys_of(&request.csr_agent, &request.csr_dask, &cert.key)
            .map_err(|e| self.refuse("renew", &who, from, e.into()))?;
        let decision = locked(&self.registry).decide_renew(cert, from, &keys);
        let (node, generation, decision) = match decision {
            Ok(d) => d,
            Err(refusal) => {
                let clone = refusal.incident == Some("clone");
                let error = self.refuse("renew", &who, from, refusal);
                if clone && let Some(Ok(node)) = cert.label.as_deref().map(str::parse::<NodeName>) {
                    self.revoke(&[node], "an old generation of its identity was seen again")
                        .await?;
                }
                return Err(error);
            }
        };
        match decision {
            Decision::Again(answer) => Ok(self.complete(*answer)),
            Decision::Sign => {
                let answer = self
                    .issue(
                        &node,
                        Role::Worker,
                        generation,
                        &request.csr_agent,
                        &request.csr_dask,
                        keys,
                        "",
                    )
                    .await?;
                self.audit
                    .note("renew", &who, json!({"node": node, "generation": generation}));
                Ok(answer)
            }
        }
    }

    /// Certificates of the hub's own node; no protocol is needed for these.
    ///
    /// # Errors
    /// When signing fails or the journal cannot be written.
    pub async fn issue_own(&self, csr_agent: &str, csr_dask: &str) -> Result<Issued, ApiError> {
        let generation = locked(&self.registry)
            .node(&self.own)
            .and_then(|n| n.issued.as_ref())
            .map_or(1, |i| i.generation + 1);
        let keys = self.keys_of(csr_agent, csr_dask, "")?;
        let own = self.own.clone();
        let issued = self
            .issue(
                &own,
                Role::Scheduler,
                generation,
                csr_agent,
                csr_dask,
                keys,
                env!("CARGO_PKG_VERSION"),
            )
            .await?;
        if let Some(n) = locked(&self.registry).node_mut(&self.own) {
            n.address = Some(self.scheduler.ip());
            n.role = Role::Scheduler;
        }
        Ok(issued)
    }

    fn keys_of(&self, csr_agent: &str, csr_dask: &str, old: &str) -> Result<String, ApiError> {
        let hash = |field: &str, csr: &str| {
            pki::public_key_hash(csr).map_err(|e| ApiError::new(Code::EnrolRequest, format!("field `{field}`: {e}")))
        };
        let agent = hash("csr_agent", csr_agent)?;
        let dask = hash("csr_dask", csr_dask)?;
        if agent == dask || agent == old || dask == old {
            return Err(ApiError::new(
                Code::EnrolRequest,
                "fields `csr_agent`, `csr_dask`: each certificate needs a new key of its own",
            ));
        }
        Ok(format!("{agent}:{dask}"))
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different fact of the answer")]
    async fn issue(
        &self,
        node: &NodeName,
        role: Role,
        generation: u64,
        csr_agent: &str,
        csr_dask: &str,
        keys: String,
        agent: &str,
    ) -> Result<Issued, ApiError> {
        let spec = self.spec();
        let now = Timestamp::now();
        let (mut issued, serials) =
            self.issuers
                .node(node, role, generation, csr_agent, csr_dask, &spec, self.scheduler, now)?;
        // The journal keeps no secrets: the specification is filled in again
        // whenever the answer goes out.
        issued.spec = ClusterSpec::default();
        let entry = Entry::Issued {
            answer: Box::new(issued.clone()),
            keys,
            serials,
            agent: agent.to_owned(),
        };
        self.remember(&[entry]).await?;
        Ok(self.complete(issued))
    }

    fn complete(&self, mut answer: Issued) -> Issued {
        answer.spec = self.spec();
        if answer.role == Role::Worker
            && let DaskSecurity::Own { scheduler, .. } = &mut answer.spec.dask.security
        {
            // A worker has no use for the scheduler's key.
            scheduler.key = herdsman_wire::Secret::default();
        }
        let crl = self.crl.borrow();
        answer.crl = crl.1.to_string();
        answer.crl_number = crl.0;
        answer
    }

    /// Announces nodes that may enrol, or completes their addresses.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn expect(&self, nodes: Vec<Expected>) -> Result<(), ApiError> {
        self.remember(&[Entry::Expected { nodes }]).await
    }

    /// Makes bootstrap certificates for new nodes.
    ///
    /// # Errors
    /// [`Code::Usage`] when the life is too long, [`Code::Conflict`] when a name
    /// is in use.
    pub async fn invite(&self, who: &str, request: &api::Invite) -> Result<api::Invited, ApiError> {
        let ttl = Duration::from_secs(request.ttl_seconds);
        if ttl.is_zero() || ttl > limits::BOOTSTRAP_LIFE_MAX {
            return Err(ApiError::new(
                Code::Usage,
                format!(
                    "field `ttl_seconds`: must be 1 to {}",
                    limits::BOOTSTRAP_LIFE_MAX.as_secs()
                ),
            ));
        }
        for name in &request.nodes {
            if locked(&self.registry).node(name).is_some_and(|n| n.issued.is_some()) || *name == self.own {
                return Err(ApiError::new(Code::Conflict, format!("there is a node {name} already")));
            }
        }
        let now = Timestamp::now();
        let mut invites = Vec::new();
        let mut nodes = Vec::new();
        for node in &request.nodes {
            let (chain, key) = self.issuers.bootstrap(node, now, ttl)?;
            nodes.push(Expected {
                node: node.clone(),
                serial: chain.serial.clone(),
                address: None,
                any_address: request.any_address,
            });
            invites.push(Invitation {
                node: node.clone(),
                serial: chain.serial,
                certificate: chain.certificate,
                key,
                not_after: now.plus(ttl),
            });
        }
        self.remember(&[Entry::Expected { nodes }]).await?;
        self.audit.note(
            "invite",
            who,
            json!({"nodes": request.nodes, "ttl": request.ttl_seconds}),
        );
        Ok(api::Invited { invites })
    }

    /// Certificates of a person.
    ///
    /// # Errors
    /// [`Code::EnrolRequest`] when a request is no good.
    pub async fn operator(
        &self,
        who: &str,
        caller: &str,
        request: &api::OperatorRequest,
    ) -> Result<api::OperatorIssued, ApiError> {
        let user = request.user.as_deref().unwrap_or(caller);
        if !herdsman_wire::identity::is_user_name(user) {
            return Err(ApiError::new(
                Code::Usage,
                "field `user`: letters, digits and . _ @ + - only",
            ));
        }
        let now = Timestamp::now();
        let life = Duration::from_secs(self.spec().lives.operator_seconds);
        let operator = self
            .issuers
            .sign(&request.csr_operator, Kind::Operator(user.to_owned()), None, now, life)?;
        let client = self
            .issuers
            .sign(&request.csr_client, Kind::Client(user.to_owned()), None, now, life)?;
        let not_after = now.plus(life).min(self.issuers.until);
        let serials = [operator.serial, client.serial];
        self.remember(&[Entry::Operator {
            user: user.to_owned(),
            serials,
            not_after,
        }])
        .await?;
        self.audit.note("operator", who, json!({"for": user}));
        Ok(api::OperatorIssued {
            operator_chain: operator.certificate,
            client_chain: client.certificate,
            not_after,
        })
    }

    /// Takes trust away: serials onto the CRL, live connections cut, workers out
    /// of Dask, sessions told.
    ///
    /// # Errors
    /// When the journal cannot be written; nothing has changed then.
    pub async fn revoke(&self, nodes: &[NodeName], why: &str) -> Result<(), ApiError> {
        let at = Timestamp::now();
        let mut entries = Vec::new();
        let mut all = Vec::new();
        for node in nodes {
            self.must_be_worker(node, "removed")?;
            let serials = locked(&self.registry).serials_of(node);
            if serials.is_empty() {
                return Err(self.no_node(node));
            }
            all.extend(serials.iter().cloned());
            entries.push(Entry::Revoked {
                node: Some(node.clone()),
                serials,
                why: why.to_owned(),
                at,
            });
        }
        self.remember(&entries).await?;
        self.audit.note("revoke", "hub", json!({"nodes": nodes, "why": why}));
        self.issue_crl().await?;
        let cut = self.live.cut(&all);
        tracing::warn!(?nodes, cut, "revoked: {why}");
        for node in nodes {
            self.set_state(node, NodeState::Revoked, Some(why));
            locked(&self.sessions).by_node.remove(node);
        }
        self.tell_members();
        let names = self.worker_names(nodes);
        if !names.is_empty() {
            // Dask's own view of the node has to go as well; if its scheduler is
            // down there is nothing to forget.
            let _ = self
                .link
                .call("forget", json!({"names": names}), Duration::from_secs(5))
                .await;
        }
        Ok(())
    }

    /// Takes trust away from a person.
    ///
    /// # Errors
    /// When there is no such person or the journal cannot be written.
    pub async fn revoke_person(&self, user: &str) -> Result<(), ApiError> {
        let serials = locked(&self.registry).serials_of_person(user);
        if serials.is_empty() {
            return Err(ApiError::new(
                Code::NotFound,
                format!("nobody called {user} has a certificate"),
            ));
        }
        let entry = Entry::Revoked {
            node: None,
            serials: serials.clone(),
            why: "person".into(),
            at: Timestamp::now(),
        };
        self.remember(&[entry]).await?;
        self.issue_crl().await?;
        self.live.cut(&serials);
        Ok(())
    }

    /// Signs a new CRL and tells everybody.
    ///
    /// # Errors
    /// When signing fails or the journal cannot be written.
    pub async fn issue_crl(&self) -> Result<(), ApiError> {
        let mut issued = self.crl_issued.lock().await;
        let now = Timestamp::now();
        let (number, at, entries) = {
            let registry = locked(&self.registry);
            // OpenSSL keeps the older of two CRLs whose times are the same second,
            // and the one of before when the clock was set back.
            let at = now.max(registry.crl_at.plus(Duration::from_secs(1)));
            (registry.crl + 1, at, registry.crl_entries())
        };
        let pem: Arc<str> = self.issuers.crl(number, &entries, &self.spec().lives, at)?.into();
        self.remember(&[Entry::Crl { number, at }]).await?;
        *issued = Some(Instant::now());
        self.crl.send_replace((number, pem.clone()));
        self.broadcast(&Down::Crl {
            number,
            pem: pem.to_string(),
        });
        Ok(())
    }

    /// Forgets nodes that are gone in order.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn remove(&self, nodes: &[NodeName]) -> Result<(), ApiError> {
        let at = Timestamp::now();
        // A removed node's certificates are revoked as well: its machine may
        // still run if its deletion failed.
        let mut entries = Vec::new();
        let mut serials_of_all = Vec::new();
        for node in nodes {
            if *node == self.own {
                return Err(ApiError::new(
                    Code::Conflict,
                    "the scheduler cannot be removed from its own cluster",
                ));
            }
            let serials = locked(&self.registry).serials_of(node);
            if serials.is_empty() {
                continue;
            }
            serials_of_all.extend(serials.iter().cloned());
            entries.push(Entry::Revoked {
                node: Some(node.clone()),
                serials,
                why: "removed".into(),
                at,
            });
            entries.push(Entry::Removed { node: node.clone(), at });
        }
        if entries.is_empty() {
            return Ok(());
        }
        let names = self.worker_names(nodes);
        self.remember(&entries).await?;
        self.audit.note("remove", "hub", json!({"nodes": nodes}));
        self.issue_crl().await?;
        self.live.cut(&serials_of_all);
        for node in nodes {
            locked(&self.sessions).by_node.remove(node);
            self.events.push(
                Some(node.clone()),
                EventKind::State {
                    state: NodeState::Stopped,
                    why: Some("removed".into()),
                },
            );
        }
        self.tell_members();
        if !names.is_empty() {
            let _ = self
                .link
                .call("forget", json!({"names": names}), Duration::from_secs(5))
                .await;
        }
        Ok(())
    }

    fn worker_names(&self, nodes: &[NodeName]) -> Vec<String> {
        let registry = locked(&self.registry);
        nodes
            .iter()
            .filter_map(|n| registry.node(n))
            .flat_map(|n| n.workers.keys().cloned())
            .collect()
    }

    /// The error for a name that is none.
    pub(super) fn no_node(&self, node: &NodeName) -> ApiError {
        ApiError::new(Code::NotFound, format!("no node {node} in this cluster")).with_hint(format!(
            "herdsman status {}          shows the nodes there are",
            self.name
        ))
    }

    fn must_be_worker(&self, node: &NodeName, what: &str) -> Result<(), ApiError> {
        let role = locked(&self.registry).node(node).map(|n| n.role);
        match role {
            None => Err(self.no_node(node)),
            Some(Role::Worker) => Ok(()),
            Some(Role::Scheduler) => {
                Err(
                    ApiError::new(Code::Usage, format!("{node} is the scheduler; only workers are {what}")).with_hint(
                        format!("herdsman down {}          deletes the whole cluster", self.name),
                    ),
                )
            }
        }
    }

    /// Empties workers so that their machines can go.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a name that is none, [`Code::Dask`] when the
    /// scheduler does not run.
    pub async fn retire(&self, request: &api::Retire) -> Result<api::Retired, ApiError> {
        let within = Duration::from_secs(request.timeout_seconds.clamp(1, 24 * 3600));
        let nodes = if request.nodes.is_empty() {
            self.pick(request.count).await?
        } else {
            request.nodes.clone()
        };
        for node in &nodes {
            self.must_be_worker(node, "retired")?;
        }
        // Only when all names are good: nothing would take a state back.
        for node in &nodes {
            self.set_state(node, NodeState::Draining, None);
        }
        let names = self.worker_names(&nodes);
        let mut result = api::Retired::default();
        let mut kept: HashMap<NodeName, String> = HashMap::new();
        if !names.is_empty() {
            let args = json!({"names": names, "timeout": within.as_secs()});
            let answer = self.link.call("retire", args, within + Duration::from_secs(5)).await;
            match answer {
                Ok(answer) => {
                    for k in answer["kept"].as_array().map(Vec::as_slice).unwrap_or_default() {
                        let worker = k["name"].as_str().unwrap_or_default();
                        let why = k["why"].as_str().unwrap_or("its data could not be moved").to_owned();
                        if let Some(node) = locked(&self.registry).node_of_worker(worker) {
                            kept.insert(node, why);
                        }
                    }
                }
                Err(e) => {
                    for node in &nodes {
                        self.set_state(node, NodeState::Ready, Some(&e.message));
                    }
                    return Err(e);
                }
            }
        }
        for node in nodes {
            if let Some(why) = kept.remove(&node) {
                self.set_state(&node, NodeState::Ready, Some(&why));
                result.kept.push((node, why));
            } else {
                self.set_state(&node, NodeState::Stopped, Some("retired"));
                self.send(
                    &node,
                    Down::Command {
                        id: 0,
                        command: Command::Stop { why: "retired".into() },
                    },
                );
                result.retired.push(node);
            }
        }
        Ok(result)
    }

    /// Chooses nodes to give up: those without a worker first, then those that
    /// Dask itself would close first.
    async fn pick(&self, count: usize) -> Result<Vec<NodeName>, ApiError> {
        let (mut bare, with): (Vec<NodeName>, usize) = {
            let registry = locked(&self.registry);
            let workers = registry
                .nodes()
                .filter(|(_, n)| n.role == Role::Worker && !matches!(n.state, NodeState::Stopped | NodeState::Revoked));
            let (bare, with): (Vec<_>, Vec<_>) = workers.partition(|(_, n)| n.workers.is_empty());
            (bare.into_iter().map(|(n, _)| n.clone()).collect(), with.len())
        };
        bare.truncate(count);
        let missing = (count - bare.len()).min(with);
        if missing == 0 {
            return Ok(bare);
        }
        let per_node = self.spec().dask.workers_per_node.max(1);
        let n = missing * usize::from(per_node);
        let answer = self.link.call("pick", json!({"n": n}), Duration::from_secs(10)).await?;
        let names: Vec<String> = serde_json::from_value(answer["names"].clone())
            .map_err(|e| ApiError::new(Code::Malformed, format!("the guard's answer to `pick`: {e}")))?;
        let registry = locked(&self.registry);
        let mut picked: Vec<NodeName> = Vec::new();
        for node in names.iter().filter_map(|w| registry.node_of_worker(w)) {
            if !picked.contains(&node) && picked.len() < missing {
                picked.push(node);
            }
        }
        bare.extend(picked);
        Ok(bare)
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
        locked(&self.spec).limits = limits;
        Ok(())
    }

    /// Changes the environment of nodes to come and of Dask's next starts.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn change_environment(&self, change: api::ChangeEnvironment) -> Result<(), ApiError> {
        let mut spec = self.spec();
        let open = change.environment.without_credentials();
        if spec.environment.without_credentials() != open {
            spec.environment = open;
            self.remember(&[Entry::Spec {
                spec: Box::new(spec.clone()),
            }])
            .await?;
        }
        spec.environment = change.environment;
        *locked(&self.spec) = spec;
        Ok(())
    }

    /// A certificate is checked at each use, not only in its handshake.
    ///
    /// # Errors
    /// A refusal, which is in the audit log already.
    pub fn check(&self, cert: &CertificateFacts, from: IpAddr) -> Result<Option<NodeName>, ApiError> {
        let who = cert.identity.to_string();
        if cert.not_after < Timestamp::now() {
            let e = ApiError::new(Code::Certificate, "this certificate expired while the connection lived");
            return Err(self.refuse("request", &who, from, e.into()));
        }
        let registry = locked(&self.registry);
        let result = match cert.identity.kind {
            Kind::Agent { role: Role::Worker, .. } => registry.check_member(cert, from).map(Some),
            _ => registry.check_revoked(cert).map(|()| None).map_err(Refusal::from),
        };
        drop(registry);
        result.map_err(|r| self.refuse("request", &who, from, r))
    }

    /// Whether a certificate was taken away; see [`Self::check`] for all else.
    ///
    /// # Errors
    /// [`Code::Revoked`].
    pub fn check_revoked(&self, cert: &CertificateFacts) -> Result<(), ApiError> {
        locked(&self.registry).check_revoked(cert)
    }

    // Sessions ------------------------------------------------------------

    /// A node's session began; messages for it go into this channel from now on.
    /// Gives a number that names the session.
    pub fn attach(&self, node: &NodeName, tx: mpsc::Sender<Down>) -> u64 {
        let crl = self.crl.borrow().clone();
        let _ = tx.try_send(Down::Crl {
            number: crl.0,
            pem: crl.1.to_string(),
        });
        let members = locked(&self.registry).members();
        let _ = tx.try_send(Down::Members(members));
        let mut sessions = locked(&self.sessions);
        sessions.count += 1;
        let id = sessions.count;
        // An older session of the node ends when its sender is dropped here.
        sessions.by_node.insert(node.clone(), (id, tx));
        drop(sessions);
        self.heard(node);
        id
    }

    /// How many nodes are connected, the hub's own not counted.
    pub fn sessions(&self) -> usize {
        locked(&self.sessions).by_node.len()
    }

    /// A session ended.
    pub fn detach(&self, node: &NodeName, id: u64) {
        let mut sessions = locked(&self.sessions);
        if sessions.by_node.get(node).is_some_and(|(i, _)| *i == id) {
            sessions.by_node.remove(node);
        }
    }

    /// Sends to a node if it is connected; says whether it was.
    pub fn send(&self, node: &NodeName, message: Down) -> bool {
        if *node == self.own {
            return self.link.own_node.try_send(message).is_ok();
        }
        let sessions = locked(&self.sessions);
        sessions
            .by_node
            .get(node)
            .is_some_and(|(_, tx)| tx.try_send(message).is_ok())
    }

    fn broadcast(&self, message: &Down) {
        let _ = self.link.own_node.try_send(message.clone());
        for (_, tx) in locked(&self.sessions).by_node.values() {
            let _ = tx.try_send(message.clone());
        }
    }

    fn tell_members(&self) {
        let members = locked(&self.registry).members();
        self.broadcast(&Down::Members(members));
    }

    /// Sends a command and waits for its end.
    ///
    /// # Errors
    /// The node's own error, or [`Code::Unreachable`].
    pub async fn command(&self, node: &NodeName, command: Command, within: Duration) -> Result<(), ApiError> {
        let (tx, rx) = oneshot::channel();
        let id = {
            let mut sessions = locked(&self.sessions);
            sessions.next_command += 1;
            let id = sessions.next_command;
            sessions.answers.insert(id, tx);
            id
        };
        if !self.send(node, Down::Command { id, command }) {
            locked(&self.sessions).answers.remove(&id);
            return Err(ApiError::new(
                Code::Unreachable,
                format!("{node} is not connected to the hub"),
            ));
        }
        let late = || {
            ApiError::new(
                Code::Deadline,
                format!("{node} did not do it within {} s", within.as_secs()),
            )
        };
        let result = tokio::time::timeout(within, rx).await;
        locked(&self.sessions).answers.remove(&id);
        result.map_err(|_| late())?.map_err(|_| late())?
    }

    /// A command ended.
    pub fn done(&self, id: u64, error: Option<ApiError>) {
        if let Some(tx) = locked(&self.sessions).answers.remove(&id) {
            let _ = tx.send(error.map_or(Ok(()), Err));
        }
    }

    fn heard(&self, node: &NodeName) {
        let back = {
            let mut registry = locked(&self.registry);
            let Some(n) = registry.node_mut(node) else { return };
            n.seen = Some(Timestamp::now());
            n.state == NodeState::Lost
        };
        if back {
            self.set_state(node, NodeState::Starting, Some("heard of again"));
            self.tell_members();
        }
    }

    /// Takes a node's report.
    pub fn report(&self, node: &NodeName, report: NodeReport) {
        self.heard(node);
        let (changed, state) = {
            let mut registry = locked(&self.registry);
            let Some(n) = registry.node_mut(node) else { return };
            let changed: Vec<_> = report
                .phases
                .iter()
                .filter(|p| !n.report.phases.contains(p))
                .cloned()
                .collect();
            n.report = report;
            let registered = match n.role {
                Role::Worker => !n.workers.is_empty(),
                Role::Scheduler => n.report.dask.address.is_some() && n.report.dask.state == "running",
            };
            (changed, state_of(&n.report, registered, n.state))
        };
        for phase in changed {
            self.events.push(Some(node.clone()), EventKind::Phase(phase));
        }
        self.set_state(node, state, None);
    }

    fn set_state(&self, node: &NodeName, state: NodeState, why: Option<&str>) {
        {
            let mut registry = locked(&self.registry);
            let Some(n) = registry.node_mut(node) else { return };
            if n.state == state {
                return;
            }
            n.state = state;
            n.since = Timestamp::now();
        }
        self.events.push(
            Some(node.clone()),
            EventKind::State {
                state,
                why: why.map(str::to_owned),
            },
        );
    }

    // Dask's scheduler ----------------------------------------------------

    /// A worker appeared at Dask's scheduler.
    pub fn worker_added(&self, worker: WorkerStatus) {
        let node = {
            let mut registry = locked(&self.registry);
            let Some(node) = registry.node_of_worker(&worker.name) else {
                return;
            };
            let Some(n) = registry.node_mut(&node) else { return };
            n.workers.insert(worker.name.clone(), worker);
            let all = n.workers.len() >= usize::from(self.spec().dask.workers_per_node.max(1));
            if !all {
                return;
            }
            let state = state_of(&n.report, true, n.state);
            drop(registry);
            self.set_state(&node, state, None);
            node
        };
        self.send(&node, Down::Registered(true));
    }

    /// A worker went from Dask's scheduler.
    pub fn worker_removed(&self, worker: &str) {
        let node = {
            let mut registry = locked(&self.registry);
            let Some(node) = registry.node_of_worker(worker) else {
                return;
            };
            let Some(n) = registry.node_mut(&node) else { return };
            n.workers.remove(worker);
            let state = state_of(&n.report, !n.workers.is_empty(), n.state);
            drop(registry);
            self.set_state(&node, state, Some("its worker left the scheduler"));
            node
        };
        self.send(&node, Down::Registered(false));
    }

    /// Dask's scheduler started anew: nobody is registered any more but these.
    pub fn scheduler_started(&self, workers: Vec<WorkerStatus>) {
        let gone: Vec<String> = {
            let registry = locked(&self.registry);
            let known = registry.nodes().flat_map(|(_, n)| n.workers.keys().cloned());
            known.filter(|k| !workers.iter().any(|w| w.name == *k)).collect()
        };
        gone.iter().for_each(|w| self.worker_removed(w));
        workers.into_iter().for_each(|w| self.worker_added(w));
    }

    /// Dask's scheduler told its counts.
    pub fn scheduler_report(&self, tasks: Tasks, clients: u64, idle_seconds: Option<f64>, workers: Vec<WorkerStatus>) {
        let now = Timestamp::now();
        {
            let mut view = locked(&self.view);
            view.tasks = Some(tasks);
            view.clients = clients;
            view.idle_since = idle_seconds.map(|s| now.minus(Duration::from_secs_f64(s.clamp(0.0, 1e9))));
            view.clientless_since = if clients > 0 {
                None
            } else {
                view.clientless_since.or(Some(now))
            };
        }
        let mut registry = locked(&self.registry);
        for w in workers {
            if let Some(node) = registry.node_of_worker(&w.name)
                && let Some(known) = registry.node_mut(&node).and_then(|n| n.workers.get_mut(&w.name))
            {
                known.processing = w.processing;
                known.memory_tasks = w.memory_tasks;
                known.memory_bytes = w.memory_bytes;
            }
        }
    }

    // Time ----------------------------------------------------------------

    /// What has to be looked after every few seconds.
    pub async fn tick(&self) {
        let now = Timestamp::now();
        let lost = locked(&self.registry).mark_silent(now);
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
        if !lost.is_empty() {
            self.tell_members();
        }
        let gone = locked(&self.registry).gone(now);
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

    fn activity(&self) -> Activity {
        let view = locked(&self.view);
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

    /// Everything, for people.
    pub fn status(&self) -> ClusterStatus {
        let registry = locked(&self.registry);
        let mut nodes: Vec<NodeStatus> = registry
            .nodes()
            .map(|(name, n)| NodeStatus {
                name: name.clone(),
                role: n.role,
                state: n.state,
                address: n.address.or_else(|| n.expected.as_ref().and_then(|e| e.address)),
                seen: n.seen,
                generation: n.issued.as_ref().map_or(0, |i| i.generation),
                certificate_until: n.issued.as_ref().map(|i| i.not_after),
                agent_version: n.agent.clone(),
                report: n.report.clone(),
                workers: n.workers.values().cloned().collect(),
            })
            .collect();
        nodes.sort_by(|a, b| {
            a.role
                .cmp(&b.role)
                .then_with(|| natural(a.name.as_str(), b.name.as_str()))
        });
        drop(registry);
        let spec = self.spec();
        let mut ending = ending::outlook(&spec.limits, &self.activity());
        ending.ending = self.ending.borrow().clone();
        let view = locked(&self.view).clone();
        let protocol = if spec.dask.security == DaskSecurity::None {
            "tcp"
        } else {
            "tls"
        };
        ClusterStatus {
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            now: Timestamp::now(),
            started: self.created,
            nodes,
            tasks: view.tasks,
            clients: view.clients,
            ending,
            events: *self.events.newest().borrow(),
            authority_until: self.issuers.until,
            scheduler_address: format!("{protocol}://{}", self.scheduler),
            environment: spec.environment.id().map(str::to_owned),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// `w10` after `w9`.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |s: &str| {
        let front = s.trim_end_matches(|c: char| c.is_ascii_digit());
        (front.to_owned(), s[front.len()..].parse::<u64>().unwrap_or(0))
    };
    key(a).cmp(&key(b))
}
