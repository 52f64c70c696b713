//! Live connections by certificate, so that a revoked one can be cut.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// All connections that passed their handshake.
#[derive(Debug, Default)]
pub struct Live {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    connections: HashMap<u64, (String, CancellationToken)>,
}

/// A connection's entry; dropping it takes it out.
#[derive(Debug)]
pub struct Entry {
    live: Arc<Live>,
    id: u64,
    /// Cancelled when the connection has to end.
    pub cut: CancellationToken,
}

impl Live {
    /// Enters a connection whose peer showed the certificate of this serial.
    pub fn enter(self: &Arc<Self>, serial: &str) -> Entry {
        let cut = CancellationToken::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inner.next;
        inner.next += 1;
        inner.connections.insert(id, (serial.to_owned(), cut.clone()));
        Entry {
            live: self.clone(),
            id,
            cut,
        }
    }

    /// Cuts all connections of these serials; gives their number.
    pub fn cut(&self, serials: &[String]) -> usize {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = inner.connections.values().filter(|(s, _)| serials.contains(s));
        hit.map(|(_, token)| token.cancel()).count()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .connections
            .remove(&self.id);
    }
}
