//! Who belongs to the cluster: a pure state machine. Time, addresses and what
//! the network said are arguments; what must be remembered comes back as journal
//! entries, and the state is nothing but those entries applied in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use herdsman_wire::api::{Expected, Issued};
use herdsman_wire::pki::{CertificateFacts, CrlEntry};
use herdsman_wire::report::{NodeReport, NodeState, PhaseStatus, WorkerStatus};
use herdsman_wire::{ApiError, Code, NodeName, Role, Timestamp, limits};

use ipnet::IpNet;

use super::batches::Batches;
use super::journal::Entry;

/// A node as the hub knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its role.
    pub role: Role,
    /// Its state.
    pub state: NodeState,
    /// What was announced of it.
    pub expected: Option<Expected>,
    /// Where it enrolled from.
    pub address: Option<IpAddr>,
    /// The last certificates it got.
    pub issued: Option<Issued>,
    /// Hash over the keys of those.
    pub(super) keys: String,
    /// Serials of its certificates that have not expired, and their ends.
    serials: Vec<(String, Timestamp)>,
    /// When it was heard of last.
    pub seen: Option<Timestamp>,
    /// Its last report.
    pub report: NodeReport,
    /// Whether it stopped because it said so itself, as a machine does that shuts
    /// down: it may come back.
    pub left: bool,
    /// What Dask's scheduler says of its workers, by Dask's name.
    pub workers: BTreeMap<String, WorkerStatus>,
    /// Its agent's release.
    pub agent: String,
    /// When it was announced, turned silent or was removed.
    pub since: Timestamp,
}

impl Node {
    fn new(role: Role, now: Timestamp) -> Box<Self> {
        Box::new(Self {
            role,
            state: NodeState::Expected,
            expected: None,
            address: None,
            issued: None,
            keys: String::new(),
            serials: Vec::new(),
            seen: None,
            report: NodeReport::default(),
            left: false,
            workers: BTreeMap::new(),
            agent: String::new(),
            since: now,
        })
    }

    /// Whether it may take part: enrolled and neither revoked nor gone.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        matches!(
            self.state,
            NodeState::Starting | NodeState::Ready | NodeState::Draining | NodeState::Failed
        )
    }
}

#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub(super) node: NodeName,
    pub(super) keys: String,
}

/// Nodes that may enrol and whose address is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unplaced {
    /// There are none.
    None,
    /// Their address is told soon, and they are refused until then anyway.
    Later,
    /// It will never be known; they may come from anywhere.
    Anywhere,
}

/// All nodes and certificates of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Boxed, as about half of a tree's places are empty.
    pub(super) nodes: BTreeMap<NodeName, Box<Node>>,
    pub(super) by_serial: HashMap<String, NodeName>,
    pub(super) spent: HashMap<String, Spent>,
    pub(super) batches: Batches,
    pub(super) revoked: BTreeMap<String, Timestamp>,
    /// Serials of people's certificates by person.
    pub(super) people: BTreeMap<String, Vec<(String, Timestamp)>>,
    /// Networks from which people are let in.
    pub allowed: BTreeSet<IpNet>,
    /// Number of the last CRL.
    pub crl: u64,
    /// Time of the last CRL.
    pub crl_at: Timestamp,
}

impl Registry {
    /// Applies what was decided. The same entries in the same order give the
    /// same registry.
    pub fn apply(&mut self, entry: &Entry, now: Timestamp) {
        match entry {
            Entry::Expected { nodes } => nodes.iter().for_each(|e| self.expect(e, now)),
            Entry::Batch { serial, label, uses } => self.batches.open(serial, label.as_str(), *uses),
            Entry::Enrolled {
                node,
                serial,
                keys,
                address,
                at,
            } => {
                self.spent.insert(
                    self.batches.key(serial, node),
                    Spent {
                        node: node.clone(),
                        keys: keys.clone(),
                    },
                );
                let n = self
                    .nodes
                    .entry(node.clone())
                    .or_insert_with(|| Node::new(Role::Worker, *at));
                n.address = Some(*address);
            }
            Entry::Issued {
                answer,
                keys,
                serials,
                agent,
            } => {
                let n = self
                    .nodes
                    .entry(answer.node.clone())
                    .or_insert_with(|| Node::new(answer.role, now));
                n.role = answer.role;
                n.keys.clone_from(keys);
                // A life is longer than the time between two renewals: older
                // generations must be revocable until they expire.
                n.serials.retain(|(_, until)| *until > now);
                n.serials.extend(serials.iter().map(|s| (s.clone(), answer.not_after)));
                if !agent.is_empty() {
                    n.agent.clone_from(agent);
                }
                if n.state == NodeState::Expected || n.state == NodeState::Lost {
                    n.state = NodeState::Starting;
                }
                n.issued = Some((**answer).clone());
            }
            Entry::Operator {
                user,
                serials,
                not_after,
            } => {
                let list = self.people.entry(user.clone()).or_default();
                list.retain(|(_, until)| *until > now);
                list.extend(serials.iter().map(|s| (s.clone(), *not_after)));
            }
            Entry::Revoked { node, serials, at, .. } => {
                self.revoked.extend(serials.iter().map(|s| (s.clone(), *at)));
                if let Some((name, n)) = node.as_ref().and_then(|n| Some((n, self.nodes.get_mut(n)?))) {
                    n.state = NodeState::Revoked;
                    n.since = *at;
                    if let Some(e) = n.expected.as_ref().filter(|e| e.batch.is_some()) {
                        self.batches.remove(&e.serial, name);
                    }
                }
            }
            Entry::Removed { node, .. } => {
                if let Some(n) = self.nodes.remove(node)
                    && let Some(e) = n.expected
                {
                    if e.batch.is_some() {
                        self.batches.remove(&e.serial, node);
                    } else {
                        self.by_serial.remove(&e.serial);
                    }
                }
            }
            Entry::Crl { number, at } => {
                self.crl = (*number).max(self.crl);
                self.crl_at = (*at).max(self.crl_at);
            }
            Entry::Allowed { add, remove } => {
                self.allowed.extend(add);
                self.allowed.retain(|n| !remove.contains(n));
            }
            Entry::Limits { .. } | Entry::Spec { .. } => {}
        }
    }

    fn expect(&mut self, e: &Expected, now: Timestamp) {
        if let (Some(label), Some(address)) = (&e.batch, e.address) {
            self.batches.place(&e.serial, label.as_str(), &e.node, address);
        }
        let known = self.by_serial.get(&e.serial).filter(|_| e.batch.is_none());
        let node = known.unwrap_or(&e.node).clone();
        let n = self
            .nodes
            .entry(node.clone())
            .or_insert_with(|| Node::new(Role::Worker, now));
        match &mut n.expected {
            // A known serial: only its address may become known.
            Some(old) if old.serial == e.serial => {
                old.address = e.address.or(old.address);
                old.any_address |= e.any_address;
            }
            slot => {
                *slot = Some(e.clone());
                if n.state == NodeState::Expected {
                    n.since = now;
                }
            }
        }
        if e.batch.is_none() {
            self.by_serial.insert(e.serial.clone(), node);
        }
    }

    /// Whether a certificate is revoked.
    ///
    /// # Errors
    /// [`Code::Revoked`].
    pub fn check_revoked(&self, cert: &CertificateFacts) -> Result<(), ApiError> {
        if self.revoked.contains_key(&cert.serial) {
            return Err(ApiError::new(Code::Revoked, "this certificate is revoked"));
        }
        Ok(())
    }

    /// All serials that a node's or a person's revocation must cover.
    #[must_use]
    pub fn serials_of(&self, node: &NodeName) -> Vec<String> {
        self.nodes.get(node).map_or_else(Vec::new, |n| {
            n.serials
                .iter()
                .map(|(serial, _)| serial.clone())
                // That of a batch is others' as well; this node's use of it ends.
                .chain(
                    n.expected
                        .iter()
                        .filter(|e| e.batch.is_none())
                        .map(|e| e.serial.clone()),
                )
                .collect()
        })
    }

    /// Serials of a person's certificates.
    #[must_use]
    pub fn serials_of_person(&self, user: &str) -> Vec<String> {
        self.people
            .get(user)
            .map_or_else(Vec::new, |l| l.iter().map(|(s, _)| s.clone()).collect())
    }

    /// Revoked certificates, for CRLs.
    #[must_use]
    pub fn crl_entries(&self) -> Vec<CrlEntry> {
        self.revoked
            .iter()
            .map(|(serial, at)| CrlEntry {
                serial: serial.clone(),
                at: *at,
            })
            .collect()
    }

    /// Addresses of all members.
    #[must_use]
    pub fn members(&self) -> BTreeSet<IpAddr> {
        let members = self.nodes.values().filter(|n| n.is_member());
        members.filter_map(|n| n.address).collect()
    }

    /// From where nodes may come that are no members: those that may enrol until
    /// their bootstrap certificates end, and those that went silent. Also says
    /// what is known of those whose address is not.
    #[must_use]
    pub fn joining(&self, now: Timestamp) -> (BTreeSet<IpNet>, Unplaced) {
        let (mut known, mut unplaced) = (BTreeSet::new(), Unplaced::None);
        for n in self.nodes.values().filter(|n| n.role == Role::Worker) {
            match (n.state, &n.expected) {
                (NodeState::Lost, _) => known.extend(n.address.map(IpNet::from)),
                (NodeState::Expected, Some(e)) if now.since(n.since) <= limits::BOOTSTRAP_LIFE_MAX => {
                    match n.address.or(e.address) {
                        _ if e.any_address => unplaced = unplaced.max(Unplaced::Anywhere),
                        None => unplaced = unplaced.max(Unplaced::Later),
                        Some(address) => drop(known.insert(IpNet::from(address))),
                    }
                }
                _ => {}
            }
        }
        (known, unplaced)
    }

    /// A node showed the certificate of this generation, so its answer arrived: it
    /// is never asked for again by the one who got it, and needs no memory.
    pub fn has_arrived(&mut self, node: &NodeName, generation: u64) {
        let issued = self.nodes.get_mut(node).and_then(|n| n.issued.as_mut());
        if let Some(answer) = issued.filter(|a| a.generation == generation) {
            answer.agent_chain = String::new();
            answer.dask_chain = String::new();
        }
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name).map(Box::as_ref)
    }

    /// One node, for what is not journalled: reports and presence.
    pub fn node_mut(&mut self, name: &NodeName) -> Option<&mut Node> {
        self.nodes.get_mut(name).map(Box::as_mut)
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes.iter().map(|(name, node)| (name, &**node))
    }

    /// The node that a Dask worker's name belongs to: itself, or `NODE-3` of a
    /// node with several.
    #[must_use]
    pub fn node_of_worker(&self, worker: &str) -> Option<NodeName> {
        let exact = worker.parse().ok().filter(|n: &NodeName| self.nodes.contains_key(n));
        exact.or_else(|| {
            let (front, number) = worker.rsplit_once('-')?;
            number.parse::<u16>().ok()?;
            front.parse().ok().filter(|n: &NodeName| self.nodes.contains_key(n))
        })
    }

    /// Nodes that turned silent, which are marked so.
    pub fn mark_silent(&mut self, now: Timestamp) -> Vec<NodeName> {
        let mut lost = Vec::new();
        for (name, n) in &mut self.nodes {
            let silent = n.seen.is_some_and(|s| now.since(s) > limits::NODE_SILENT);
            if silent && n.is_member() && n.role == Role::Worker {
                n.state = NodeState::Lost;
                n.since = now;
                lost.push(name.clone());
            }
        }
        lost
    }

    /// Nodes that have been lost for so long that nobody should wait for them.
    #[must_use]
    pub fn gone(&self, now: Timestamp) -> Vec<NodeName> {
        let old = |n: &&Node| n.state == NodeState::Lost && now.since(n.since) > limits::NODE_GONE;
        self.nodes
            .iter()
            .filter(|(_, n)| old(&&***n))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// State that a report speaks for.
#[must_use]
pub fn state_of(report: &NodeReport, registered: bool, before: NodeState) -> NodeState {
    if matches!(before, NodeState::Revoked | NodeState::Draining | NodeState::Stopped) {
        return before;
    }
    if report.phases.iter().any(|p| p.status == PhaseStatus::Failed) {
        return NodeState::Failed;
    }
    if registered {
        NodeState::Ready
    } else {
        NodeState::Starting
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
