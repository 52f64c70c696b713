//! Streams of a node through the hub: an operator asks, the node is told a
//! token, connects back with it, and the two are joined.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use herdsman_wire::{ApiError, Code, NodeName};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::oneshot;

use super::server::Peer;

/// How long a node may take to connect back.
pub const CONNECT_BACK: Duration = Duration::from_secs(15);

/// An upgraded connection, and whose it is.
pub type Io = (TokioIo<Upgraded>, Peer);

/// Streams that wait for their node.
#[derive(Debug, Default)]
pub struct Streams {
    waiting: Mutex<HashMap<String, (NodeName, oneshot::Sender<Io>)>>,
}

impl Streams {
    /// Makes a token for a node to connect back with.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn expect(&self, node: &NodeName) -> Result<(String, oneshot::Receiver<Io>), ApiError> {
        let mut bytes = [0_u8; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| ApiError::new(Code::Internal, "no randomness"))?;
        let token = bytes.iter().fold(String::new(), |s, b| s + &format!("{b:02x}"));
        let (tx, rx) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, tx)| !tx.is_closed());
        waiting.insert(token.clone(), (node.clone(), tx));
        Ok((token, rx))
    }

    /// Takes a token; good once, and for its own node only.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn claim(&self, token: &str, node: &NodeName) -> Result<oneshot::Sender<Io>, ApiError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.remove(token) {
            Some((owner, tx)) if owner == *node => Ok(tx),
            other => {
                if let Some(entry) = other {
                    waiting.insert(token.to_owned(), entry);
                }
                Err(ApiError::new(Code::NotFound, "nobody waits for this stream"))
            }
        }
    }
}
