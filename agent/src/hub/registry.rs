//! Who belongs to the cluster: a pure state machine. Time, addresses and what
//! the network said are arguments; what must be remembered comes back as journal
//! entries, and the state is nothing but those entries applied in order.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use herdsman_wire::api::{Expected, Issued};
use herdsman_wire::pki::{CertificateFacts, CrlEntry};
use herdsman_wire::report::{NodeReport, NodeState, PhaseStatus, WorkerStatus};
use herdsman_wire::{ApiError, Code, Kind, NodeName, Role, Timestamp, limits};

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
    keys: String,
    /// Serials of its certificates that have not expired, and their ends.
    serials: Vec<(String, Timestamp)>,
    /// When it was heard of last.
    pub seen: Option<Timestamp>,
    /// Its last report.
    pub report: NodeReport,
    /// What Dask's scheduler says of its workers, by Dask's name.
    pub workers: BTreeMap<String, WorkerStatus>,
    /// Its agent's release.
    pub agent: String,
    /// When it turned silent or was removed.
    pub since: Timestamp,
}

impl Node {
    fn new(role: Role, now: Timestamp) -> Self {
        Self {
            role,
            state: NodeState::Expected,
            expected: None,
            address: None,
            issued: None,
            keys: String::new(),
            serials: Vec::new(),
            seen: None,
            report: NodeReport::default(),
            workers: BTreeMap::new(),
            agent: String::new(),
            since: now,
        }
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
struct Spent {
    node: NodeName,
    keys: String,
}

/// What to do with an enrolment that is in order.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Spend the serial, then sign.
    Sign,
    /// The same request came before: give the same answer again.
    Again(Box<Issued>),
}

/// A refusal and whether it is an incident that people must see.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What the caller is told.
    pub error: ApiError,
    /// `Some(event)` when it goes into the audit log as more than a refusal.
    pub incident: Option<&'static str>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, incident: None }
    }
}

/// All nodes and certificates of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<NodeName, Node>,
    by_serial: HashMap<String, NodeName>,
    spent: HashMap<String, Spent>,
    revoked: BTreeMap<String, Timestamp>,
    /// Serials of people's certificates by person.
    people: BTreeMap<String, Vec<(String, Timestamp)>>,
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
            Entry::Enrolled {
                node,
                serial,
                keys,
                address,
                at,
            } => {
                self.spent.insert(
                    serial.clone(),
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
                if let Some(n) = node.as_ref().and_then(|n| self.nodes.get_mut(n)) {
                    n.state = NodeState::Revoked;
                    n.since = *at;
                }
            }
            Entry::Removed { node, .. } => {
                if let Some(n) = self.nodes.remove(node)
                    && let Some(e) = n.expected
                {
                    self.by_serial.remove(&e.serial);
                }
            }
            Entry::Crl { number, at } => {
                self.crl = (*number).max(self.crl);
                self.crl_at = (*at).max(self.crl_at);
            }
            Entry::Limits { .. } | Entry::Spec { .. } => {}
        }
    }

    fn expect(&mut self, e: &Expected, now: Timestamp) {
        let node = match self.by_serial.get(&e.serial) {
            Some(known) => known.clone(),
            None => e.node.clone(),
        };
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
            slot => *slot = Some(e.clone()),
        }
        self.by_serial.insert(e.serial.clone(), node);
    }

    /// Decides on an enrolment, in the order of the protocol: the certificate's
    /// kind, its time, its serial, the expectation, the address. The requests'
    /// own signatures are checked when they are signed.
    ///
    /// # Errors
    /// A [`Refusal`]; two uses of one serial with different keys are an incident.
    pub fn decide_enrol(
        &self,
        boot: &CertificateFacts,
        from: IpAddr,
        keys: &str,
        now: Timestamp,
    ) -> Result<(NodeName, Decision), Refusal> {
        if boot.identity.kind != Kind::Boot(Role::Worker) {
            return Err(ApiError::new(Code::Forbidden, "only a worker's bootstrap certificate may enrol").into());
        }
        if boot.not_after < now {
            return Err(
                ApiError::new(Code::EnrolExpired, "the bootstrap certificate is expired")
                    .with_hint("make the node anew with `herdsman scale` or `herdsman up`")
                    .into(),
            );
        }
        if self.revoked.contains_key(&boot.serial) {
            return Err(ApiError::new(Code::Revoked, "the bootstrap certificate is revoked").into());
        }
        if let Some(spent) = self.spent.get(&boot.serial) {
            let answer = self.nodes.get(&spent.node).and_then(|n| n.issued.clone());
            return match answer {
                Some(answer) if spent.keys == keys && answer.generation == 1 => {
                    Ok((spent.node.clone(), Decision::Again(Box::new(answer))))
                }
                // Spent, but the answer was never made: the hub died in between.
                None if spent.keys == keys => Ok((spent.node.clone(), Decision::Sign)),
                _ => Err(Refusal {
                    error: ApiError::new(
                        Code::EnrolSpent,
                        format!(
                            "the bootstrap certificate of {} was used before, with other keys",
                            spent.node
                        ),
                    )
                    .with_hint(
                        "somebody else holds this machine's user-data, or its disk was cloned; see `herdsman logs`",
                    ),
                    incident: Some("double-use"),
                }),
            };
        }
        let unexpected = || ApiError::new(Code::EnrolUnexpected, "the hub does not expect this node");
        let name = self.by_serial.get(&boot.serial).ok_or_else(unexpected)?;
        let node = self.nodes.get(name).ok_or_else(unexpected)?;
        let expected = node.expected.as_ref().ok_or_else(unexpected)?;
        // A newer invitation takes the place of an older one: two certificates must
        // not make two machines of one name. And nobody becomes the hub's own node.
        if expected.serial != boot.serial || node.role != Role::Worker {
            return Err(unexpected().into());
        }
        if boot.label.as_deref() != Some(name.as_str()) {
            return Err(Refusal {
                error: unexpected(),
                incident: Some("wrong-name"),
            });
        }
        match expected.address {
            Some(address) if address == canonical(from) => {}
            _ if expected.any_address => {}
            None => {
                return Err(ApiError::new(Code::TooEarly, format!("the address of {name} is not known yet")).into());
            }
            Some(_) => {
                return Err(Refusal {
                    error: ApiError::new(
                        Code::EnrolAddress,
                        format!("{from} is not the address of {name}; its certificate is good from there only"),
                    ),
                    incident: Some("wrong-address"),
                });
            }
        }
        Ok((name.clone(), Decision::Sign))
    }

    /// Checks a node's certificate at each use: that it is a member, from its
    /// own address, not revoked and not of an old generation.
    ///
    /// # Errors
    /// A [`Refusal`]; a clone is an incident and the caller must quarantine.
    pub fn check_member(&self, cert: &CertificateFacts, from: IpAddr) -> Result<NodeName, Refusal> {
        self.check_revoked(cert)?;
        let unknown = || ApiError::new(Code::Revoked, "this node does not belong to the cluster any more");
        let name: NodeName = cert
            .label
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|_| unknown())?;
        let node = self.nodes.get(&name).ok_or_else(unknown)?;
        if matches!(node.state, NodeState::Revoked) {
            return Err(unknown().into());
        }
        let any = node.expected.as_ref().is_some_and(|e| e.any_address);
        if !any && node.address != Some(canonical(from)) {
            return Err(Refusal {
                error: ApiError::new(Code::EnrolAddress, format!("{from} is not the address of {name}")),
                incident: Some("wrong-address"),
            });
        }
        let current = node.issued.as_ref().map_or(0, |i| i.generation);
        if let Kind::Agent { generation, .. } = cert.identity.kind
            && generation + 1 < current
        {
            // A node that missed an answer shows the last but one, never an older one.
            return Err(clone_of(&name, generation, current));
        }
        Ok(name)
    }

    /// Decides on a renewal. An old generation with other keys means that two
    /// machines hold one identity.
    ///
    /// # Errors
    /// A [`Refusal`]; a clone is an incident and the caller must quarantine.
    pub fn decide_renew(
        &self,
        cert: &CertificateFacts,
        from: IpAddr,
        keys: &str,
    ) -> Result<(NodeName, u64, Decision), Refusal> {
        let name = self.check_member(cert, from)?;
        let Kind::Agent { generation, .. } = cert.identity.kind else {
            return Err(ApiError::new(Code::Forbidden, "only an agent's certificate can be renewed").into());
        };
        let node = &self.nodes[&name];
        let current = node.issued.as_ref().map_or(0, |i| i.generation);
        if generation == current {
            if keys.split(':').any(|k| node.keys.split(':').any(|old| old == k)) {
                return Err(ApiError::new(
                    Code::EnrolRequest,
                    "fields `csr_agent`, `csr_dask`: a renewal needs new keys for both",
                )
                .into());
            }
            return Ok((name, current + 1, Decision::Sign));
        }
        match &node.issued {
            Some(answer) if generation + 1 == current && node.keys == keys => {
                Ok((name, current, Decision::Again(Box::new(answer.clone()))))
            }
            _ => Err(clone_of(&name, generation, current)),
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
                .chain(n.expected.iter().map(|e| e.serial.clone()))
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
    pub fn members(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self
            .nodes
            .values()
            .filter(|n| n.is_member())
            .filter_map(|n| n.address)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// One node, for what is not journalled: reports and presence.
    pub fn node_mut(&mut self, name: &NodeName) -> Option<&mut Node> {
        self.nodes.get_mut(name)
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes.iter()
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
            .filter(|(_, n)| old(n))
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

fn clone_of(name: &NodeName, generation: u64, current: u64) -> Refusal {
    Refusal {
        error: ApiError::new(
            Code::Clone,
            format!("{name} came with generation {generation} of its identity; generation {current} is in use"),
        )
        .with_hint("two machines hold this node's identity; it was cut off, make a new one with `herdsman scale`"),
        incident: Some("clone"),
    }
}

/// A v4 address that came mapped into v6 is the v4 address.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
