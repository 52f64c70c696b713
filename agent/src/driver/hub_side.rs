//! What only the scheduler's node has: the hub and its API on 8785.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::api::CsrReply;
use herdsman_wire::join::JoinConfig;
use herdsman_wire::report::NodeReport;
use herdsman_wire::tls::{self, KnownIssuers, SwapIdentity};
use herdsman_wire::{ApiError, Code};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Driver, Input, Side};
use crate::dask::guard_message::PeerKind;
use crate::hub::issue::IssuingKeys;
use crate::hub::server::{self, Stage};
use crate::hub::{Hub, SchedulerCall, SchedulerLink};
use crate::identity::{Identity, enrol};

/// Messages that may wait in each channel between hub and driver.
const QUEUE: usize = 256;
/// Who holds the port may be about to leave it.
const PORT_WITHIN: Duration = Duration::from_secs(3);
const PORT_AGAIN: Duration = Duration::from_millis(200);
/// How often the hub looks at its clocks.
const TICK: Duration = Duration::from_secs(1);

/// The hub and what it is served with.
pub(super) struct HubSide {
    stage: Arc<Stage>,
    shown: Arc<SwapIdentity>,
    known: KnownIssuers,
    keys: Option<IssuingKeys>,
    link: SchedulerLink,
    inputs: mpsc::Sender<Input>,
    _stop: tokio_util::sync::DropGuard,
}

impl HubSide {
    /// Listens, with the identity of an installed hub or with the bootstrap
    /// certificate.
    ///
    /// # Errors
    /// [`Code::Port`] when 8785 is taken; damaged files of an earlier start.
    pub(super) async fn start(join: &JoinConfig, inputs: mpsc::Sender<Input>) -> Result<Self, ApiError> {
        let link = link(&inputs);
        let live = Arc::default();
        let (installs, mut install_rx) = mpsc::channel(1);
        let keys = IssuingKeys::new()?;
        let [issue_control, issue_scheduler, issue_node] = keys.requests(&join.cluster)?;
        let stage = Arc::new(Stage {
            cluster: join.cluster.clone(),
            requests: CsrReply {
                issue_control,
                issue_scheduler,
                issue_node,
                facts: enrol::facts(),
            },
            install: installs,
            hub: std::sync::OnceLock::new(),
            live,
        });
        let boot = certified(&join.bootstrap.certificate, &join.bootstrap.key)?;
        let shown = SwapIdentity::new(boot);
        let known = KnownIssuers::default();
        let config = tls::server_config(&join.roots.control, shown.clone(), known.clone())
            .map_err(|e| ApiError::new(Code::Certificate, format!("field `roots.control`: {e}")))?;
        let stop = CancellationToken::new();
        let side = Self {
            stage: stage.clone(),
            shown,
            known,
            keys: Some(keys),
            link,
            inputs: inputs.clone(),
            _stop: stop.clone().drop_guard(),
        };
        if Hub::is_installed(&join.paths.state) {
            side.open(join).await?;
        }
        let listener = listen(join.listen_address()).await?;
        tokio::spawn(server::serve(listener, Arc::new(config), stage, stop));
        let forward = inputs;
        tokio::spawn(async move {
            while let Some(request) = install_rx.recv().await {
                if forward.send(Input::Install(request)).await.is_err() {
                    return;
                }
            }
        });
        Ok(side)
    }

    /// The hub, once it is installed.
    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.stage.hub.get()
    }

    async fn open(&self, join: &JoinConfig) -> Result<Arc<Hub>, ApiError> {
        let hub = Hub::open(join, self.link.clone(), self.stage.live.clone())?;
        self.known
            .tell(hub.issuing_certificate())
            .map_err(|e| ApiError::new(Code::Malformed, format!("our issuing certificate: {e}")))?;
        hub.issue_crl().await?;
        let _ = self.stage.hub.set(hub.clone());
        hub.publish_access();
        hub.keep_members_told();
        self.report_access(&hub);
        let clock = Arc::downgrade(&hub);
        tokio::spawn(async move {
            while let Some(hub) = clock.upgrade() {
                hub.tick().await;
                drop(hub);
                tokio::time::sleep(TICK).await;
            }
        });
        Ok(hub)
    }

    /// Tells the driver who may reach this machine, now and with each change.
    fn report_access(&self, hub: &Arc<Hub>) {
        let (mut access, inputs) = (hub.access.subscribe(), self.inputs.clone());
        access.mark_changed();
        tokio::spawn(async move {
            while access.changed().await.is_ok() {
                if inputs.send(Input::Access).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Shows this certificate in new handshakes.
    pub(super) fn use_identity(&self, identity: &Identity) -> Result<(), ApiError> {
        self.shown
            .swap(certified(&identity.issued.agent_chain, &identity.agent_key)?);
        Ok(())
    }
}

fn certified(chain: &str, key: &herdsman_wire::Secret) -> Result<CertifiedKey, ApiError> {
    tls::certified_key(chain, key).map_err(|e| ApiError::new(Code::Certificate, format!("our own certificate: {e}")))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ApiError> {
    let until = Instant::now() + PORT_WITHIN;
    let bound = loop {
        match TcpListener::bind(address).await {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(PORT_AGAIN).await;
            }
            bound => break bound,
        }
    };
    bound.map_err(|e| {
        let (code, hint) = if e.kind() == std::io::ErrorKind::AddrInUse {
            (
                Code::Port,
                "see who has it with `ss -ltnp`, end that program, and start the agent again",
            )
        } else {
            (Code::Internal, "check the machine's addresses with `ip address`")
        };
        ApiError::new(code, format!("cannot listen on {address}: {e}")).with_hint(hint)
    })
}

/// Channels from the hub to the driver.
fn link(inputs: &mpsc::Sender<Input>) -> SchedulerLink {
    let (calls, mut calls_rx) = mpsc::channel::<SchedulerCall>(QUEUE);
    let (own_node, mut down_rx) = mpsc::channel(QUEUE);
    let (own_streams, mut stream_rx) = mpsc::channel(16);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        loop {
            let input = tokio::select! {
                Some(call) = calls_rx.recv() => Input::Call(call),
                Some(down) = down_rx.recv() => Input::Down(down),
                Some((request, io)) = stream_rx.recv() => Input::Stream(request, Box::new(io)),
                else => return,
            };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    });
    SchedulerLink {
        calls,
        own_node,
        own_streams,
    }
}

/// Brings the own node's reports to the hub, as a session does for others.
fn report_to(hub: &Arc<Hub>, mut report: watch::Receiver<NodeReport>) {
    let hub = Arc::downgrade(hub);
    tokio::spawn(async move {
        loop {
            let now = report.borrow_and_update().clone();
            let Some(hub) = hub.upgrade() else { return };
            hub.report(&hub.own.clone(), now);
            drop(hub);
            let every = herdsman_wire::limits::REPORT_EVERY;
            if let Ok(Err(_)) = tokio::time::timeout(every, report.changed()).await {
                return;
            }
        }
    });
}

impl Driver {
    pub(super) async fn on_install(&mut self, (install, reached_at, done): server::InstallRequest) {
        let result = self.install(&install, reached_at).await;
        if let Err(e) = &result {
            tracing::error!("installation refused: {e}");
        }
        let installed = result.is_ok();
        let _ = done.send(result.map(|_| ()));
        if installed {
            tracing::info!("installed as the cluster's hub");
        }
    }

    async fn install(
        &mut self,
        install: &herdsman_wire::api::Install,
        reached_at: std::net::IpAddr,
    ) -> Result<(), ApiError> {
        let Side::Hub(side) = &mut self.side else {
            return Err(ApiError::new(Code::Conflict, "this agent is a worker"));
        };
        let keys = side
            .keys
            .take()
            .ok_or_else(|| ApiError::new(Code::Conflict, "this hub is installed already"))?;
        let own = self.join.bind.unwrap_or(reached_at);
        let stored = Hub::install(&self.join, &keys, install, own);
        let opened = match stored {
            Ok(()) => side.open(&self.join).await,
            Err(e) => Err(e),
        };
        match opened {
            Ok(hub) => hub.keep_credentials(&install.spec.environment),
            Err(e) => {
                side.keys = Some(keys);
                return Err(e);
            }
        }
        let identity = self.issue_own().await?;
        self.on_identity(Ok(identity));
        Ok(())
    }

    /// The hub's own node reports to it; called once there is an identity.
    pub(super) fn report_to_own_hub(&self) {
        if let Side::Hub(side) = &self.side
            && let Some(hub) = side.hub()
        {
            report_to(hub, self.report.subscribe());
        }
    }

    pub(super) fn on_call(&self, (op, args, within, answer): SchedulerCall) {
        let guard = self.dask.guard();
        tokio::spawn(async move {
            let _ = answer.send(guard.call(PeerKind::Scheduler, &op, args, within).await);
        });
    }

    pub(super) fn environment_blobs(&self) -> Option<Arc<Hub>> {
        match &self.side {
            Side::Hub(side) => side.hub().cloned(),
            Side::Worker(_) => None,
        }
    }
}
