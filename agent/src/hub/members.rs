//! Who belongs to the cluster, told to all nodes: the whole list at the start of
//! a session, what changed since then. When hundreds of nodes enrol at once,
//! their changes go out together, or each of them would be a message to all.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::session::Down;
use tokio::sync::{Notify, watch};

use super::core::Hub;
use super::sessions::{Message, message};

/// Addresses in one message; a frame takes more than twice as many of the longest.
const IN_A_MESSAGE: usize = 3000;
/// Pause between two changes: this, and something for each session.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_A_SESSION: Duration = Duration::from_micros(100);

/// A state of the members' list, ready to be sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    version: u64,
    all: Arc<BTreeSet<IpAddr>>,
    whole: Arc<[Message]>,
    changes: Arc<[Message]>,
}

impl Published {
    /// Messages for a node that knows version `known`, 0 for none.
    pub(super) fn since(&self, known: u64) -> Arc<[Message]> {
        if known > 0 && known + 1 == self.version {
            self.changes.clone()
        } else {
            self.whole.clone()
        }
    }

    /// Its number.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    fn next(&self, all: BTreeSet<IpAddr>) -> Self {
        let joined: Vec<IpAddr> = all.difference(&self.all).copied().collect();
        let left: Vec<IpAddr> = self.all.difference(&all).copied().collect();
        let list: Vec<IpAddr> = all.iter().copied().collect();
        let (first, rest) = list.split_at(list.len().min(IN_A_MESSAGE));
        let whole = std::iter::once(Down::Members(first.to_vec())).chain(steps(rest, &[]));
        Self {
            version: self.version + 1,
            whole: whole.filter_map(|m| message(&m)).collect(),
            changes: steps(&joined, &left).filter_map(|m| message(&m)).collect(),
            all: Arc::new(all),
        }
    }
}

fn steps(joined: &[IpAddr], left: &[IpAddr]) -> impl Iterator<Item = Down> {
    let joined = joined.chunks(IN_A_MESSAGE).map(|c| Down::MembersChanged {
        joined: c.to_vec(),
        left: Vec::new(),
    });
    let left = left.chunks(IN_A_MESSAGE).map(|c| Down::MembersChanged {
        joined: Vec::new(),
        left: c.to_vec(),
    });
    joined.chain(left)
}

/// The list in force, and that it may have changed.
#[derive(Debug, Default)]
pub(super) struct Members {
    changed: Notify,
    published: watch::Sender<Published>,
}

impl Members {
    /// The list from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}

impl Hub {
    /// The members may have changed; nodes are told soon.
    pub(super) fn tell_members(&self) {
        self.members.changed.notify_one();
    }

    /// Tells nodes of changes as they come, for as long as the hub lives.
    pub fn keep_members_told(self: &Arc<Self>) {
        let (weak, members) = (Arc::downgrade(self), self.members.clone());
        self.tell_members();
        tokio::spawn(async move {
            loop {
                members.changed.notified().await;
                let Some(hub) = weak.upgrade() else { return };
                hub.publish_members();
                let pause = PAUSE + PAUSE_A_SESSION.saturating_mul(u32::try_from(hub.sessions()).unwrap_or(u32::MAX));
                drop(hub);
                tokio::time::sleep(pause).await;
            }
        });
    }

    fn publish_members(&self) {
        self.publish_access();
        let all = self.registry().members();
        let before = self.members.published.borrow().clone();
        if *before.all == all && before.version > 0 {
            return;
        }
        let whole = all.iter().copied().collect();
        self.members.published.send_replace(before.next(all));
        let _ = self.link.own_node.try_send(Down::Members(whole));
    }
}

#[cfg(test)]
mod tests {
    use herdsman_wire::session::decode;

    use super::*;

    fn addresses(range: std::ops::Range<u32>) -> BTreeSet<IpAddr> {
        range.map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect()
    }

    /// What a node holds after these messages.
    fn follow(known: &mut BTreeSet<IpAddr>, messages: &[Message]) {
        for m in messages {
            match decode::<Down>(&m[4..]).unwrap() {
                Down::Members(all) => *known = all.into_iter().collect(),
                Down::MembersChanged { joined, left } => {
                    known.extend(joined);
                    known.retain(|a| !left.contains(a));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn changes_lead_to_the_same_list_as_the_whole() {
        let mut follower = BTreeSet::new();
        let mut published = Published::default();
        for all in [
            addresses(0..2),
            addresses(1..9000),
            addresses(4000..4001),
            addresses(0..0),
        ] {
            let known = published.version();
            published = published.next(all.clone());
            follow(&mut follower, &published.since(known));
            assert_eq!(follower, all);
            let mut stranger = addresses(77..99);
            follow(&mut stranger, &published.since(0));
            assert_eq!(stranger, all);
            let mut late = addresses(5..6);
            follow(&mut late, &published.since(known.saturating_sub(1)));
            assert_eq!(late, all, "who missed one gets the whole list");
        }
    }
}
