//! The hub's end of a node's session.

use std::sync::Arc;

use herdsman_wire::session::{Down, Up};
use herdsman_wire::{NodeName, Timestamp, api, limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::core::Hub;
use super::server::Peer;
use crate::frame;

/// Messages that may wait for a slow node; when there are more, its session
/// ends and it starts a new one, which begins with the present state.
const QUEUE: usize = 64;

/// How long a node may be silent before its session counts as dead.
const SILENCE: std::time::Duration = limits::REPORT_EVERY.saturating_mul(4);

/// Longest wait for a leaving node's data to move.
const LEAVE_SECONDS: u64 = 600;

/// Serves a session until either side ends it, the node's certificate expires
/// or it is revoked.
pub async fn run<IO>(hub: Arc<Hub>, node: NodeName, peer: Peer, io: IO)
where
    IO: AsyncRead + AsyncWrite,
{
    let (mut from, mut to) = tokio::io::split(io);
    let (tx, mut rx) = mpsc::channel(QUEUE);
    let id = hub.attach(&node, tx.clone());
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
                        Some(tx) => drop(tx.try_send(Down::Seen)),
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
        while let Some(message) = rx.recv().await {
            if frame::write(&mut to, &message).await.is_err() {
                break;
            }
        }
    };
    let life = peer.cert.not_after.since(Timestamp::now());
    tokio::select! {
        () = read => {}
        () = write => {}
        () = peer.cut.cancelled() => {}
        () = tokio::time::sleep(life) => {}
    }
    hub.detach(&node, id);
}

/// A node that ends in order is emptied first, so that no work is lost.
async fn leave(hub: &Hub, node: &NodeName) {
    let request = api::Retire {
        nodes: vec![node.clone()],
        count: 0,
        timeout_seconds: LEAVE_SECONDS,
    };
    if let Err(e) = hub.retire(&request).await {
        tracing::warn!(%node, "cannot be emptied before it leaves: {e}");
    }
    hub.send(node, Down::MayLeave);
}
