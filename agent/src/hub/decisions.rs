//! Who is let in: decisions on enrolment, use and renewal of certificates, made
//! from the registry and nothing else.

use std::net::IpAddr;

use herdsman_wire::api::Issued;
use herdsman_wire::pki::CertificateFacts;
use herdsman_wire::report::NodeState;
use herdsman_wire::{ApiError, Code, Kind, NodeName, Role, Timestamp};

use super::batches::Use;
use super::registry::Registry;

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
    /// Whose certificate it is about; told with incidents.
    pub node: Option<NodeName>,
}

impl Refusal {
    fn incident(event: &'static str, node: &NodeName, error: ApiError) -> Self {
        Self {
            error,
            incident: Some(event),
            node: Some(node.clone()),
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            incident: None,
            node: None,
        }
    }
}

impl Registry {
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
        let of_batch = self.node_of_batch(boot, from)?;
        let spent = match &of_batch {
            Some(node) => self.spent.get(&self.batches.key(&boot.serial, node)),
            None => self.spent.get(&boot.serial),
        };
        if let Some(spent) = spent {
            let answer = self.nodes.get(&spent.node).and_then(|n| n.issued.clone());
            return match answer {
                Some(answer) if spent.keys == keys && answer.generation == 1 && !answer.agent_chain.is_empty() => {
                    Ok((spent.node.clone(), Decision::Again(Box::new(answer))))
                }
                // Spent, but the answer was never made: the hub died in between.
                None if spent.keys == keys => Ok((spent.node.clone(), Decision::Sign)),
                _ => Err(Refusal::incident(
                    "double-use",
                    &spent.node,
                    ApiError::new(
                        Code::EnrolSpent,
                        format!(
                            "the bootstrap certificate of {} was used before, with other keys",
                            spent.node
                        ),
                    )
                    .with_hint(
                        "somebody else holds this machine's user-data, or its disk was cloned; see `herdsman doctor`",
                    ),
                )),
            };
        }
        let unexpected = || ApiError::new(Code::EnrolUnexpected, "the hub does not expect this node");
        let name = match &of_batch {
            Some(node) => node,
            None => self.by_serial.get(&boot.serial).ok_or_else(unexpected)?,
        };
        let node = self.nodes.get(name).ok_or_else(unexpected)?;
        let expected = node.expected.as_ref().ok_or_else(unexpected)?;
        // A newer invitation takes the place of an older one: two certificates must
        // not make two machines of one name. And nobody becomes the hub's own node.
        if expected.serial != boot.serial || node.role != Role::Worker {
            return Err(unexpected().into());
        }
        if of_batch.is_none() && boot.label.as_deref() != Some(name.as_str()) {
            return Err(Refusal::incident("wrong-name", name, unexpected()));
        }
        match expected.address {
            Some(address) if address == canonical(from) => {}
            _ if expected.any_address => {}
            None => {
                return Err(ApiError::new(Code::TooEarly, format!("the address of {name} is not known yet")).into());
            }
            Some(_) => {
                return Err(Refusal::incident(
                    "wrong-address",
                    name,
                    ApiError::new(
                        Code::EnrolAddress,
                        format!("{from} is not the address of {name}; its certificate is good from there only"),
                    ),
                ));
            }
        }
        Ok((name.clone(), Decision::Sign))
    }

    /// The node that a batch's certificate makes from this address; `None` where the
    /// certificate is for one node alone.
    ///
    /// # Errors
    /// A [`Refusal`]; a use from elsewhere, or under another name, is an incident.
    pub fn node_of_batch(&self, boot: &CertificateFacts, from: IpAddr) -> Result<Option<NodeName>, Refusal> {
        match self.batches.look(&boot.serial, boot.label.as_deref(), from) {
            None => Ok(None),
            Some(Use::Node(node)) => Ok(Some(node)),
            Some(Use::Later) => {
                let text = format!("{from} is not known yet as an address of a node to come");
                Err(ApiError::new(Code::TooEarly, text).into())
            }
            Some(Use::Elsewhere) => Err(Refusal {
                error: ApiError::new(
                    Code::EnrolAddress,
                    format!("{from} is the address of no node of this batch"),
                ),
                incident: Some("wrong-address"),
                node: None,
            }),
            Some(Use::WrongName) => Err(Refusal {
                error: ApiError::new(Code::EnrolUnexpected, "the hub does not expect this node"),
                incident: Some("wrong-name"),
                node: None,
            }),
        }
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
            let e = ApiError::new(Code::EnrolAddress, format!("{from} is not the address of {name}"));
            return Err(Refusal::incident("wrong-address", &name, e));
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
            Some(answer) if generation + 1 == current && node.keys == keys && !answer.agent_chain.is_empty() => {
                Ok((name, current, Decision::Again(Box::new(answer.clone()))))
            }
            _ => Err(clone_of(&name, generation, current)),
        }
    }
}

fn clone_of(name: &NodeName, generation: u64, current: u64) -> Refusal {
    Refusal::incident(
        "clone",
        name,
        ApiError::new(
            Code::Clone,
            format!("{name} came with generation {generation} of its identity; generation {current} is in use"),
        )
        .with_hint("two machines hold this node's identity; it was cut off, make a new one with `herdsman scale`"),
    )
}

/// A v4 address that came mapped into v6 is the v4 address.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
