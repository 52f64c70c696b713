//! What happened, for everybody who watches: the newest events and a channel
//! that says there are more.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use herdsman_wire::report::{Event, EventKind};
use herdsman_wire::{NodeName, Timestamp};
use tokio::sync::watch;

/// Events kept for late watchers.
const KEPT: usize = 20_000;

/// The hub's events.
#[derive(Debug)]
pub struct Events {
    inner: Mutex<VecDeque<Event>>,
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Events {
    /// Adds an event.
    pub fn push(&self, node: Option<NodeName>, what: EventKind) {
        let mut all = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = *self.newest.borrow() + 1;
        all.push_back(Event {
            seq,
            t: Timestamp::now(),
            node,
            what,
        });
        if all.len() > KEPT {
            all.pop_front();
        }
        self.newest.send_replace(seq);
    }

    /// At most `most` events after number `after`, oldest first.
    pub fn after(&self, after: u64, most: usize) -> Vec<Event> {
        let all = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let start = all.partition_point(|e| e.seq <= after);
        all.iter().skip(start).take(most).cloned().collect()
    }

    /// Number of the newest event; changes when there are more.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
