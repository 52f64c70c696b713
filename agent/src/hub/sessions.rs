//! Nodes' sessions: messages to them, and what they tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herdsman_wire::report::{EventKind, NodeReport, NodeState, Notice, NoticeKind, Phase, PhaseName, PhaseStatus};
use herdsman_wire::session::{self, Command, Down};
use herdsman_wire::{ApiError, Code, NodeName, Role, Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::core::Hub;
use super::registry::state_of;

/// A frame for nodes, encoded once however many get it.
pub(super) type Message = Arc<[u8]>;

/// A message as a frame; `None` when it does not fit in one, which the log tells.
pub(super) fn message(down: &Down) -> Option<Message> {
    let encoded = session::encode(down);
    encoded
        .inspect_err(|e| tracing::error!("a message to nodes is not sent: {e}"))
        .ok()
        .map(Arc::from)
}

/// Sessions by node, and questions that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    next_command: u64,
    by_node: HashMap<NodeName, (u64, mpsc::Sender<Message>)>,
    answers: HashMap<u64, oneshot::Sender<Result<(), ApiError>>>,
    count: u64,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// A node's session began; messages for it go into this channel from now on.
    /// Gives a number that names the session. `generation` is that of the
    /// certificate it came with.
    pub(super) fn attach(&self, node: &NodeName, generation: u64, tx: mpsc::Sender<Message>) -> u64 {
        let (number, pem) = self.crl.borrow().clone();
        let pem = pem.to_string();
        if let Some(crl) = message(&Down::Crl { number, pem }) {
            let _ = tx.try_send(crl);
        }
        let mut sessions = self.sessions.lock();
        sessions.count += 1;
        let id = sessions.count;
        // An older session of the node ends when its sender is dropped here.
        sessions.by_node.insert(node.clone(), (id, tx));
        drop(sessions);
        self.registry().has_arrived(node, generation);
        self.heard(node);
        self.welcome_back(node);
        id
    }

    /// How many nodes are connected, the hub's own not counted.
    pub fn sessions(&self) -> usize {
        self.sessions.lock().by_node.len()
    }

    /// A session ended.
    pub fn detach(&self, node: &NodeName, id: u64) {
        let mut sessions = self.sessions.lock();
        if sessions.by_node.get(node).is_some_and(|(i, _)| *i == id) {
            sessions.by_node.remove(node);
        }
    }

    /// Ends a node's session from this side.
    pub(super) fn hang_up(&self, node: &NodeName) {
        self.sessions.lock().by_node.remove(node);
    }

    /// Sends to a node if it is connected; says whether it was.
    pub fn send(&self, node: &NodeName, down: Down) -> bool {
        if *node == self.own {
            return self.link.own_node.try_send(down).is_ok();
        }
        let Some(message) = message(&down) else { return false };
        let mut sessions = self.sessions.lock();
        let sent = sessions.by_node.get(node).map(|(_, tx)| tx.try_send(message).is_ok());
        if sent == Some(false) {
            sessions.by_node.remove(node);
        }
        sent == Some(true)
    }

    /// Sends to all. A node that does not read loses its session and begins a new
    /// one with the present state, so that it misses nothing.
    pub(super) fn broadcast(&self, down: &Down) {
        let _ = self.link.own_node.try_send(down.clone());
        let Some(message) = message(down) else { return };
        let mut sessions = self.sessions.lock();
        sessions
            .by_node
            .retain(|_, (_, tx)| tx.try_send(message.clone()).is_ok());
    }

    /// Sends a command and waits for its end.
    ///
    /// # Errors
    /// The node's own error, or [`Code::Unreachable`].
    pub async fn command(&self, node: &NodeName, command: Command, within: Duration) -> Result<(), ApiError> {
        let (tx, rx) = oneshot::channel();
        let id = {
            let mut sessions = self.sessions.lock();
            sessions.next_command += 1;
            let id = sessions.next_command;
            sessions.answers.insert(id, tx);
            id
        };
        if !self.send(node, Down::Command { id, command }) {
            self.sessions.lock().answers.remove(&id);
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
        self.sessions.lock().answers.remove(&id);
        result.map_err(|_| late())?.map_err(|_| late())?
    }

    /// A command ended.
    pub fn done(&self, id: u64, error: Option<ApiError>) {
        if let Some(tx) = self.sessions.lock().answers.remove(&id) {
            let _ = tx.send(error.map_or(Ok(()), Err));
        }
    }

    /// A node that left by itself is here again, after a reboot for one. A node
    /// that was retired is not: its machine is about to be deleted.
    fn welcome_back(&self, node: &NodeName) {
        let left = {
            let mut registry = self.registry();
            let Some(n) = registry.node_mut(node) else { return };
            std::mem::take(&mut n.left) && n.state == NodeState::Stopped
        };
        if left {
            self.set_state(node, NodeState::Starting, Some("back after it left"));
            self.tell_members();
        }
    }

    pub(super) fn heard(&self, node: &NodeName) {
        let back = {
            let mut registry = self.registry();
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
        let (changed, notice, troubles, state, unaware) = {
            let mut registry = self.registry();
            let Some(n) = registry.node_mut(node) else { return };
            let changed: Vec<_> = report
                .phases
                .iter()
                .filter(|p| !n.report.phases.contains(p))
                .cloned()
                .collect();
            let notice = report.notice.clone().filter(|_| n.report.notice != report.notice);
            let is_news = |e: &&ApiError| !n.report.troubles.iter().any(|old| old.code == e.code);
            let troubles: Vec<ApiError> = report.troubles.iter().filter(is_news).cloned().collect();
            n.report = report;
            let registered = match n.role {
                Role::Worker => !n.workers.is_empty(),
                Role::Scheduler => n.report.dask.address.is_some() && n.report.dask.state == "running",
            };
            // An agent that took a running Dask over does not know that its workers
            // are registered: they told the agent before it.
            let waits = |p: &Phase| p.phase == PhaseName::Dask && p.status != PhaseStatus::Done;
            let unaware =
                n.role == Role::Worker && registered && n.report.dask.adopted && n.report.phases.iter().any(waits);
            let state = state_of(&n.report, registered, n.state);
            (changed, notice, troubles, state, unaware)
        };
        for e in troubles {
            tracing::warn!(%node, "{e}");
            self.events
                .push(Some(node.clone()), EventKind::Note { text: e.to_string() });
        }
        if let Some(notice) = notice {
            self.on_notice(node, &notice);
        }
        if unaware {
            self.send(node, Down::Registered(true));
        }
        for phase in changed {
            self.events.push(Some(node.clone()), EventKind::Phase(phase));
        }
        self.set_state(node, state, None);
    }

    /// A node's cloud announced something; everybody who watches is told.
    fn on_notice(&self, node: &NodeName, notice: &Notice) {
        let text = match notice.kind {
            NoticeKind::Preempted => format!("preempted: {}", notice.text),
            NoticeKind::Warning => notice.text.clone(),
        };
        tracing::warn!(%node, "{text}");
        self.events.push(Some(node.clone()), EventKind::Note { text });
    }

    pub(super) fn set_state(&self, node: &NodeName, state: NodeState, why: Option<&str>) {
        {
            let mut registry = self.registry();
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
}
