//! One decision about a node at a time. A decision is made, written down and only
//! then acted on; a second request that was decided on in between would be
//! granted what only one may have. Decisions about different nodes still share
//! the journal's writes.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

/// More than the requests that a hub works on at the same moment, so that nodes
/// seldom wait for each other.
const SLOTS: usize = 64;

/// Turns of nodes, by name.
#[derive(Debug)]
pub struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }
}

impl Turns {
    /// Waits until nobody else decides about these nodes; the turn lasts as long
    /// as what it gives.
    pub async fn of(&self, nodes: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<MutexGuard<'_, ()>> {
        let mut slots: Vec<usize> = nodes.into_iter().map(|n| slot(n.as_ref())).collect();
        // Always in the same order, so that two who want several never wait for
        // each other.
        slots.sort_unstable();
        slots.dedup();
        let mut turns = Vec::with_capacity(slots.len());
        for slot in slots {
            turns.push(self.0[slot].lock().await);
        }
        turns
    }
}

fn slot(node: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_never_stuck() {
        let turns = Turns::default();
        let many: Vec<String> = (0..5000).map(|n| format!("w{n}")).collect();
        let all = turns.of(&many).await;
        assert_eq!(all.len(), SLOTS);
        let wait = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(wait, turns.of(["w7"])).await.is_err());
        drop(all);
        drop(turns.of(["w7", "w8", "w7"]).await);
        let backwards = many.iter().rev();
        let (a, b) = tokio::join!(async { turns.of(&many).await.len() }, async {
            turns.of(backwards).await.len()
        });
        assert_eq!((a, b), (SLOTS, SLOTS));
    }
}
