//! Enrolment, renewal, invitations and people: every way to a certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::api::{self, Expected, Invitation, Issued};
use herdsman_wire::pki::{self, CertificateFacts};
use herdsman_wire::report::NodeState;
use herdsman_wire::spec::{ClusterSpec, DaskSecurity};
use herdsman_wire::{ApiError, Code, Kind, NodeName, Role, Timestamp, limits};
use serde_json::json;

use super::core::Hub;
use super::decisions::{Decision, Refusal};
use super::journal::Entry;

impl Hub {
    /// Enrols a node.
    ///
    /// # Errors
    /// As the registry decides, or when a request is no good.
    pub async fn enrol(
        self: &Arc<Self>,
        boot: &CertificateFacts,
        from: IpAddr,
        request: &api::Enrol,
    ) -> Result<Issued, ApiError> {
        let who = boot.identity.to_string();
        let refuse = |r: Refusal| self.refuse("enrol", &who, from, r);
        let keys = self
            .keys_of(&request.csr_agent, &request.csr_dask, &boot.key)
            .map_err(|e| refuse(e.into()))?;
        let node = self.registry().node_of_batch(boot, from).map_err(refuse)?;
        let turn = node.as_ref().map(NodeName::as_str).or(boot.label.as_deref());
        let _turn = self.turns.of(turn).await;
        let now = Timestamp::now();
        let decision = self.registry().decide_enrol(boot, from, &keys, now).map_err(refuse);
        let (node, decision) = match decision {
            Ok(d) => d,
            Err(e) => return Err(e),
        };
        match decision {
            Decision::Again(answer) => {
                self.audit
                    .note("enrol-again", &who, json!({"node": node, "from": from}));
                Ok(self.complete(*answer))
            }
            Decision::Sign => {
                // Spent and on disk before anything is signed.
                let spent = Entry::Enrolled {
                    node: node.clone(),
                    serial: boot.serial.clone(),
                    keys: keys.clone(),
                    address: from.to_canonical(),
                    at: now,
                };
                self.remember(&[spent]).await?;
                let answer = self.issue(
                    &node,
                    Role::Worker,
                    1,
                    &request.csr_agent,
                    &request.csr_dask,
                    keys,
                    &request.facts.agent,
                );
                let answer = answer.await.map_err(|e| refuse(e.into()))?;
                self.audit.note(
                    "enrol",
                    &who,
                    json!({"node": node, "from": from, "serial": boot.serial}),
                );
                tracing::info!(%node, %from, "enrolled");
                self.set_state(&node, NodeState::Starting, None);
                self.tell_members();
                Ok(answer)
            }
        }
    }

    /// Renews a node's certificates.
    ///
    /// # Errors
    /// As the registry decides; a clone is cut off.
    pub async fn renew(
        self: &Arc<Self>,
        cert: &CertificateFacts,
        from: IpAddr,
        request: &api::Renew,
    ) -> Result<Issued, ApiError> {
        let who = cert.identity.to_string();
        let keys = self
            .keys_of(&request.csr_agent, &request.csr_dask, &cert.key)
            .map_err(|e| self.refuse("renew", &who, from, e.into()))?;
        let _turn = self.turns.of(cert.label.as_deref()).await;
        let decision = self.registry().decide_renew(cert, from, &keys);
        let (node, generation, decision) = match decision {
            Ok(d) => d,
            Err(refusal) => {
                self.quarantine_clone(cert, &refusal);
                return Err(self.refuse("renew", &who, from, refusal));
            }
        };
        match decision {
            Decision::Again(answer) => Ok(self.complete(*answer)),
            Decision::Sign => {
                let answer = self
                    .issue(
                        &node,
                        Role::Worker,
                        generation,
                        &request.csr_agent,
                        &request.csr_dask,
                        keys,
                        "",
                    )
                    .await?;
                self.audit
                    .note("renew", &who, json!({"node": node, "generation": generation}));
                Ok(answer)
            }
        }
    }

    /// Cuts a node off whose identity two machines hold. The caller is answered
    /// first: its own connection is among those that end.
    pub(super) fn quarantine_clone(self: &Arc<Self>, cert: &CertificateFacts, refusal: &Refusal) {
        let node = cert.label.as_deref().map(str::parse::<NodeName>);
        if refusal.incident != Some("clone") {
            return;
        }
        let Some(Ok(node)) = node else { return };
        let hub = self.clone();
        tokio::spawn(async move {
            let why = "an old generation of its identity was seen again";
            if let Err(e) = hub.revoke(std::slice::from_ref(&node), why).await {
                tracing::error!(%node, "a clone cannot be revoked: {e}");
            }
        });
    }

    /// Certificates of the hub's own node; no protocol is needed for these.
    ///
    /// # Errors
    /// When signing fails or the journal cannot be written.
    pub async fn issue_own(&self, csr_agent: &str, csr_dask: &str) -> Result<Issued, ApiError> {
        let generation = self
            .registry()
            .node(&self.own)
            .and_then(|n| n.issued.as_ref())
            .map_or(1, |i| i.generation + 1);
        let keys = self.keys_of(csr_agent, csr_dask, "")?;
        let own = self.own.clone();
        let issued = self
            .issue(
                &own,
                Role::Scheduler,
                generation,
                csr_agent,
                csr_dask,
                keys,
                env!("CARGO_PKG_VERSION"),
            )
            .await?;
        if let Some(n) = self.registry().node_mut(&self.own) {
            n.address = Some(self.scheduler.ip());
            n.role = Role::Scheduler;
        }
        Ok(issued)
    }

    pub(super) fn keys_of(&self, csr_agent: &str, csr_dask: &str, old: &str) -> Result<String, ApiError> {
        let hash = |field: &str, csr: &str| {
            pki::public_key_hash(csr).map_err(|e| ApiError::new(Code::EnrolRequest, format!("field `{field}`: {e}")))
        };
        let agent = hash("csr_agent", csr_agent)?;
        let dask = hash("csr_dask", csr_dask)?;
        if agent == dask || agent == old || dask == old {
            return Err(ApiError::new(
                Code::EnrolRequest,
                "fields `csr_agent`, `csr_dask`: each certificate needs a new key of its own",
            ));
        }
        Ok(format!("{agent}:{dask}"))
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different fact of the answer")]
    pub(super) async fn issue(
        &self,
        node: &NodeName,
        role: Role,
        generation: u64,
        csr_agent: &str,
        csr_dask: &str,
        keys: String,
        agent: &str,
    ) -> Result<Issued, ApiError> {
        let spec = self.spec();
        let now = Timestamp::now();
        let (mut issued, serials) =
            self.issuers
                .node(node, role, generation, csr_agent, csr_dask, &spec, self.scheduler, now)?;
        // The journal keeps no secrets: the specification is filled in again
        // whenever the answer goes out.
        issued.spec = ClusterSpec::default();
        let entry = Entry::Issued {
            answer: Box::new(issued.clone()),
            keys,
            serials,
            agent: agent.to_owned(),
        };
        self.remember(&[entry]).await?;
        Ok(self.complete(issued))
    }

    pub(super) fn complete(&self, mut answer: Issued) -> Issued {
        self.issuers.complete(&mut answer);
        answer.spec = self.spec();
        if answer.role == Role::Worker
            && let DaskSecurity::Own { scheduler, .. } = &mut answer.spec.dask.security
        {
            // A worker has no use for the scheduler's key.
            scheduler.key = herdsman_wire::Secret::default();
        }
        let crl = self.crl.borrow();
        answer.crl = crl.1.to_string();
        answer.crl_number = crl.0;
        answer
    }

    /// Announces nodes that may enrol, or completes their addresses.
    ///
    /// # Errors
    /// [`Code::Conflict`] for the hub's own name; when the journal cannot be written.
    pub async fn expect(&self, nodes: Vec<Expected>) -> Result<(), ApiError> {
        if let Some(e) = nodes.iter().find(|e| e.batch.is_some() && e.address.is_none()) {
            return Err(ApiError::new(
                Code::Malformed,
                format!("field `address` of {}: a node of a batch is known by it", e.node),
            ));
        }
        if nodes.iter().any(|e| e.node == self.own) {
            return Err(ApiError::new(
                Code::Conflict,
                format!("{} is the scheduler's own name", self.own),
            ));
        }
        self.remember(&[Entry::Expected { nodes }]).await
    }

    /// Makes bootstrap certificates for new nodes.
    ///
    /// # Errors
    /// [`Code::Usage`] when the life is too long, [`Code::Conflict`] when a name
    /// is in use.
    pub async fn invite(&self, who: &str, request: &api::Invite) -> Result<api::Invited, ApiError> {
        let ttl = Duration::from_secs(request.ttl_seconds);
        if ttl.is_zero() || ttl > limits::BOOTSTRAP_LIFE_MAX {
            return Err(ApiError::new(
                Code::Usage,
                format!(
                    "field `ttl_seconds`: must be 1 to {}",
                    limits::BOOTSTRAP_LIFE_MAX.as_secs()
                ),
            ));
        }
        for name in &request.nodes {
            if self.registry().node(name).is_some_and(|n| n.issued.is_some()) || *name == self.own {
                return Err(ApiError::new(Code::Conflict, format!("there is a node {name} already")));
            }
        }
        let now = Timestamp::now();
        if let Some(uses) = request.uses {
            return self.invite_batch(who, request, uses, now, ttl).await;
        }
        let mut invites = Vec::new();
        let mut nodes = Vec::new();
        for node in &request.nodes {
            let (chain, key) = self.issuers.bootstrap(node, now, ttl)?;
            nodes.push(Expected {
                node: node.clone(),
                serial: chain.serial.clone(),
                address: None,
                any_address: request.any_address,
                batch: None,
            });
            invites.push(Invitation {
                node: node.clone(),
                serial: chain.serial,
                certificate: chain.certificate,
                key,
                not_after: now.plus(ttl),
            });
        }
        self.remember(&[Entry::Expected { nodes }]).await?;
        self.audit.note(
            "invite",
            who,
            json!({"nodes": request.nodes, "ttl": request.ttl_seconds}),
        );
        Ok(api::Invited { invites })
    }

    /// One certificate for machines that are all told the same.
    async fn invite_batch(
        &self,
        who: &str,
        request: &api::Invite,
        uses: u32,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<api::Invited, ApiError> {
        let ([label], 1..) = (request.nodes.as_slice(), uses) else {
            return Err(ApiError::new(
                Code::Usage,
                "field `uses`: a batch has one name and at least one use",
            ));
        };
        if request.any_address {
            return Err(ApiError::new(
                Code::Usage,
                "field `any_address`: nodes of a batch are told apart by their addresses",
            ));
        }
        let (chain, key) = self.issuers.bootstrap(label, now, ttl)?;
        self.remember(&[Entry::Batch {
            serial: chain.serial.clone(),
            label: label.clone(),
            uses,
        }])
        .await?;
        self.audit.note(
            "invite",
            who,
            json!({"batch": label, "uses": uses, "ttl": request.ttl_seconds}),
        );
        Ok(api::Invited {
            invites: vec![Invitation {
                node: label.clone(),
                serial: chain.serial,
                certificate: chain.certificate,
                key,
                not_after: now.plus(ttl),
            }],
        })
    }

    /// Certificates of a person.
    ///
    /// # Errors
    /// [`Code::EnrolRequest`] when a request is no good.
    pub async fn operator(
        &self,
        who: &str,
        caller: &str,
        request: &api::OperatorRequest,
    ) -> Result<api::OperatorIssued, ApiError> {
        let user = request.user.as_deref().unwrap_or(caller);
        if !herdsman_wire::identity::is_user_name(user) {
            return Err(ApiError::new(
                Code::Usage,
                "field `user`: letters, digits and . _ @ + - only",
            ));
        }
        let now = Timestamp::now();
        let life = Duration::from_secs(self.spec().lives.operator_seconds);
        let operator = self
            .issuers
            .sign(&request.csr_operator, Kind::Operator(user.to_owned()), None, now, life)?;
        let client = self
            .issuers
            .sign(&request.csr_client, Kind::Client(user.to_owned()), None, now, life)?;
        let not_after = now.plus(life).min(self.issuers.until);
        let serials = [operator.serial, client.serial];
        self.remember(&[Entry::Operator {
            user: user.to_owned(),
            serials,
            not_after,
        }])
        .await?;
        self.audit.note("operator", who, json!({"for": user}));
        Ok(api::OperatorIssued {
            operator_chain: operator.certificate,
            client_chain: client.certificate,
            not_after,
        })
    }
}
