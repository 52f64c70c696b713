//! Who may be in the middle of a handshake. Connections that have not proven
//! anything yet are few and cheap to lose: when there are too many, the oldest
//! goes, first the oldest of a source that has more than its share. A real node
//! needs some milliseconds, a silent connection is old soon.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use herdsman_wire::limits;
use tokio_util::sync::CancellationToken;

/// Handshakes under way.
#[derive(Debug, Default)]
pub struct Admission {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: VecDeque<(u64, IpAddr)>,
    tokens: HashMap<u64, CancellationToken>,
    per_source: HashMap<IpAddr, usize>,
    evicted: u64,
}

/// A place among the handshakes; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    id: u64,
    /// Cancelled when the place is taken away.
    pub gone: CancellationToken,
}

/// Most handshakes at once: four times what may work at the same moment, so
/// that a burst of real nodes is not cut.
const MOST: usize = limits::HANDSHAKES_IN_FLIGHT * 4;

impl Admission {
    /// Takes a place for a new connection, if need be from another.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Place {
        let gone = CancellationToken::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner
            .per_source
            .get(&source)
            .is_some_and(|n| *n >= limits::HANDSHAKES_PER_SOURCE)
        {
            inner.evict(|s| s == source);
        } else if inner.waiting.len() >= MOST {
            inner.evict(|_| true);
        }
        let id = inner.next;
        inner.next += 1;
        inner.waiting.push_back((id, source));
        inner.tokens.insert(id, gone.clone());
        *inner.per_source.entry(source).or_default() += 1;
        Place {
            admission: self.clone(),
            id,
            gone,
        }
    }

    /// How many connections lost their place so far.
    pub fn evicted(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).evicted
    }
}

impl Inner {
    fn evict(&mut self, mine: impl Fn(IpAddr) -> bool) {
        if let Some(at) = self.waiting.iter().position(|(_, s)| mine(*s)) {
            let (id, _) = self.waiting[at];
            if let Some(token) = self.tokens.get(&id) {
                token.cancel();
            }
            self.remove(id);
            self.evicted += 1;
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(at) = self.waiting.iter().position(|(i, _)| *i == id)
            && let Some((_, source)) = self.waiting.remove(at)
        {
            self.tokens.remove(&id);
            if let Some(n) = self.per_source.get_mut(&source) {
                *n -= 1;
                if *n == 0 {
                    self.per_source.remove(&source);
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn a_greedy_source_loses_its_own_oldest() {
        let a = Arc::new(Admission::default());
        let quiet = a.enter(ip(1));
        let greedy: Vec<_> = (0..limits::HANDSHAKES_PER_SOURCE + 3).map(|_| a.enter(ip(2))).collect();
        assert!(!quiet.gone.is_cancelled());
        let lost: Vec<bool> = greedy.iter().map(|p| p.gone.is_cancelled()).collect();
        assert_eq!(lost.iter().filter(|l| **l).count(), 3);
        assert!(lost[0] && lost[1] && lost[2]);
        drop(greedy);
        let inner = a.inner.lock().unwrap();
        assert_eq!(
            (inner.waiting.len(), inner.tokens.len(), inner.per_source.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn many_sources_lose_the_oldest_of_all() {
        let a = Arc::new(Admission::default());
        let places: Vec<_> = (0..=MOST)
            .map(|i| a.enter(IpAddr::from((i as u32).to_be_bytes())))
            .collect();
        assert!(places[0].gone.is_cancelled());
        assert!(!places[1].gone.is_cancelled());
        assert_eq!(a.evicted(), 1);
    }
}
