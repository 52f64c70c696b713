//! What only a worker has: its session with the hub.

use herdsman_wire::ApiError;
use herdsman_wire::join::JoinConfig;
use herdsman_wire::report::NodeReport;
use herdsman_wire::session::Up;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Input;
use crate::client::HubClient;
use crate::identity::{Identity, enrol};
use crate::node::session;

/// Messages that may wait for the session.
const QUEUE: usize = 64;

/// A worker's way to the hub.
#[derive(Debug, Default)]
pub(super) struct WorkerSide {
    /// Whether a session is up.
    pub(super) connected: bool,
    /// Since when there is none.
    pub(super) alone_since: Option<Instant>,
    client: Option<watch::Sender<HubClient>>,
    up: Option<mpsc::Sender<Up>>,
}

impl WorkerSide {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn client(&self) -> Option<HubClient> {
        self.client.as_ref().map(|c| c.borrow().clone())
    }

    /// Queues a message for the hub; `false` when no session is up.
    pub(super) fn up(&self, message: Up) -> bool {
        self.connected && self.up.as_ref().is_some_and(|up| up.try_send(message).is_ok())
    }

    /// Starts the session, or starts it anew with another certificate.
    pub(super) fn use_identity(
        &mut self,
        join: &JoinConfig,
        identity: &Identity,
        report: &watch::Sender<NodeReport>,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<(), ApiError> {
        let client = enrol::client(join, &identity.issued.agent_chain, &identity.agent_key)?;
        if let Some(sender) = &self.client {
            sender.send_replace(client);
            return Ok(());
        }
        let (sender, receiver) = watch::channel(client);
        self.alone_since = Some(Instant::now());
        let (up, up_rx) = mpsc::channel(QUEUE);
        let (news, mut news_rx) = mpsc::channel(QUEUE);
        tokio::spawn(session::run(receiver, report.subscribe(), up_rx, news));
        let inputs = inputs.clone();
        tokio::spawn(async move {
            while let Some(news) = news_rx.recv().await {
                if inputs.send(Input::Session(news)).await.is_err() {
                    return;
                }
            }
        });
        self.client = Some(sender);
        self.up = Some(up);
        Ok(())
    }
}
