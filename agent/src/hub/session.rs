//! The hub's end of a node's session.

use std::sync::{Arc, LazyLock};

use herdsman_wire::session::{Down, Up};
use herdsman_wire::{Kind, NodeName, api, limits};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::core::Hub;
use super::server::Peer;
use super::sessions::{Message, message};
use crate::frame;

/// Messages that may wait for a slow node; when there are more, its session
/// ends and it starts a new one, which begins with the present state.
const QUEUE: usize = 64;

/// The answer to every report.
static SEEN: LazyLock<Option<Message>> = LazyLock::new(|| message(&Down::Seen));

/// How long a node may be silent before its session counts as dead.
const SILENCE: std::time::Duration = limits::REPORT_EVERY.saturating_mul(4);

/// Longest wait for a leaving node's data to move.
const LEAVE_SECONDS: u64 = 600;

/// Serves a session until either side ends it, the node's certificate expires
/// or it is revoked.
pub(super) async fn run<IO>(hub: Arc<Hub>, node: NodeName, peer: Peer, io: IO)
where
    IO: AsyncRead + AsyncWrite,
{
    let (mut from, mut to) = tokio::io::split(io);
    let (tx, mut rx) = mpsc::channel::<Message>(QUEUE);
    let mut members = hub.members.subscribe();
    let generation = match peer.cert.identity.kind {
        Kind::Agent { generation, .. } => generation,
        _ => 0,
    };
    let id = hub.attach(&node, generation, tx.clone());
    // Only the hub's own copy keeps the session open, so that a newer session
    // or a revocation ends this one.
    let seen = tx.downgrade();
    drop(tx);
    let read = async {
        while let Ok(Ok(Some(message))) = tokio::time::timeout(SILENCE, frame::read(&mut from)).await {
            match message {
                Up::Report(report) => {
                    hub.report(&node, *report);
                    match seen.upgrade() {
                        Some(tx) => drop(SEEN.clone().map(|m| tx.try_send(m))),
                        None => break,
                    }
                }
                Up::Done { id, error } => hub.done(id, error),
                Up::Leaving => {
                    let (hub, node) = (hub.clone(), node.clone());
                    tokio::spawn(async move { leave(&hub, &node).await });
                }
            }
        }
    };
    let write = async {
        let mut known = 0;
        loop {
            let messages: Arc<[Message]> = tokio::select! {
                message = rx.recv() => match message {
                    Some(message) => Arc::new([message]),
                    None => break,
                },
                changed = members.wait_for(|m| m.version() != known) => match changed {
                    Ok(now) => {
                        let messages = now.since(known);
                        known = now.version();
                        messages
                    }
                    Err(_) => break,
                },
            };
            for message in messages.iter() {
                if to.write_all(message).await.is_err() {
                    return;
                }
            }
            if to.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
        () = peer.over() => {}
    }
    hub.detach(&node, id);
}

/// A node that ends in order is emptied first, so that no work is lost.
async fn leave(hub: &Hub, node: &NodeName) {
    let request = api::Retire {
        nodes: vec![node.clone()],
        count: 0,
        idle: false,
        running_seconds: 0,
        timeout_seconds: LEAVE_SECONDS,
    };
    if let Err(e) = hub.retire(&request).await {
        tracing::warn!(%node, "cannot be emptied before it leaves: {e}");
    }
    if let Some(n) = hub.registry().node_mut(node) {
        n.left = true;
    }
    hub.send(node, Down::MayLeave);
}
