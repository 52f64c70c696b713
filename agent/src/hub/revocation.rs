//! Taking trust away.

use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::report::{EventKind, NodeState};
use herdsman_wire::session::{self, Command, Down};
use herdsman_wire::{ApiError, Code, NodeName, Timestamp};
use serde_json::json;
use tokio::time::Instant;

use super::core::Hub;
use super::journal::Entry;

/// For a last word to leave before the connection is cut.
const A_MOMENT: Duration = Duration::from_millis(200);

impl Hub {
    /// Takes trust away: serials onto the CRL, live connections cut, workers out
    /// of Dask, sessions told.
    ///
    /// # Errors
    /// [`Code::Conflict`] for the scheduler; when the journal cannot be written.
    /// Nothing has changed then.
    pub async fn revoke(&self, nodes: &[NodeName], why: &str) -> Result<(), ApiError> {
        if nodes.contains(&self.own) {
            return Err(ApiError::new(
                Code::Conflict,
                format!(
                    "{} is the scheduler, which cannot be cut off from its own cluster",
                    self.own
                ),
            )
            .with_hint("end the cluster with `herdsman down`, and make a new one"));
        }
        // A renewal that is under way is revoked with the rest.
        let turns = self.turns.of(nodes.iter().map(NodeName::as_str)).await;
        let at = Timestamp::now();
        let mut entries = Vec::new();
        let mut all = Vec::new();
        for node in nodes {
            let serials = self.registry().serials_of(node);
            if serials.is_empty() {
                return Err(self.no_node(node));
            }
            all.extend(serials.iter().cloned());
            entries.push(Entry::Revoked {
                node: Some(node.clone()),
                serials,
                why: why.to_owned(),
                at,
            });
        }
        self.remember(&entries).await?;
        drop(turns);
        self.dismiss(nodes).await;
        self.audit.note("revoke", "hub", json!({"nodes": nodes, "why": why}));
        self.issue_crl().await?;
        let cut = self.live.cut(&all);
        tracing::warn!(?nodes, cut, "revoked: {why}");
        for node in nodes {
            self.set_state(node, NodeState::Revoked, Some(why));
            self.hang_up(node);
        }
        self.tell_members();
        self.forget_workers(self.worker_names(nodes)).await;
        Ok(())
    }

    /// Tells nodes that they are members no more. The packet filter is closed to
    /// them from now on, so that they would learn it from nobody, and go on trying;
    /// one that does not obey is shut out all the same.
    async fn dismiss(&self, nodes: &[NodeName]) {
        let why = session::REVOKED.to_owned();
        let stop = Down::Command {
            id: 0,
            command: Command::Stop { why },
        };
        let told = nodes.iter().filter(|node| self.send(node, stop.clone())).count();
        if told > 0 {
            tokio::time::sleep(A_MOMENT).await;
        }
    }

    /// Dask's own view of nodes that are gone has to go as well; if its scheduler
    /// is down there is nothing to forget.
    async fn forget_workers(&self, names: Vec<String>) {
        if !names.is_empty() {
            let _ = self
                .link
                .call("forget", json!({"names": names}), Duration::from_secs(5))
                .await;
        }
    }

    /// The error for a name that is none.
    pub(super) fn no_node(&self, node: &NodeName) -> ApiError {
        let hint = format!("herdsman status {}          shows the nodes there are", self.name);
        ApiError::new(Code::NotFound, format!("no node {node} in this cluster")).with_hint(hint)
    }

    /// Takes trust away from a person: certificates, live connections, tunnels, and
    /// connections to Dask.
    ///
    /// # Errors
    /// When there is no such person or the journal cannot be written.
    pub async fn revoke_person(&self, who: &str, user: &str, why: &str) -> Result<(), ApiError> {
        let serials = self.registry().serials_of_person(user);
        if serials.is_empty() {
            let text = format!("nobody called {user} has a certificate that is still good");
            return Err(ApiError::new(Code::NotFound, text));
        }
        let entry = Entry::Revoked {
            node: None,
            serials: serials.clone(),
            why: why.to_owned(),
            at: Timestamp::now(),
        };
        self.remember(&[entry]).await?;
        self.audit.note("revoke", who, json!({"user": user, "why": why}));
        self.issue_crl().await?;
        let cut = self.live.cut(&serials);
        tracing::warn!(user, cut, "revoked: {why}");
        Ok(())
    }

    /// Signs a new CRL and tells everybody.
    ///
    /// # Errors
    /// When signing fails or the journal cannot be written.
    pub async fn issue_crl(&self) -> Result<(), ApiError> {
        let mut issued = self.crl_issued.lock().await;
        let now = Timestamp::now();
        let (number, at, entries) = {
            let registry = self.registry();
            // OpenSSL keeps the older of two CRLs whose times are the same second,
            // and the one of before when the clock was set back.
            let at = now.max(registry.crl_at.plus(Duration::from_secs(1)));
            (registry.crl + 1, at, registry.crl_entries())
        };
        let pem: Arc<str> = self.issuers.crl(number, &entries, &self.spec().lives, at)?.into();
        self.remember(&[Entry::Crl { number, at }]).await?;
        *issued = Some(Instant::now());
        self.crl.send_replace((number, pem.clone()));
        self.broadcast(&Down::Crl {
            number,
            pem: pem.to_string(),
        });
        Ok(())
    }

    /// Forgets nodes that are gone in order.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn remove(&self, nodes: &[NodeName]) -> Result<(), ApiError> {
        let turns = self.turns.of(nodes.iter().map(NodeName::as_str)).await;
        let at = Timestamp::now();
        // A removed node's certificates are revoked as well: its machine may
        // still run if its deletion failed.
        let mut entries = Vec::new();
        let mut serials_of_all = Vec::new();
        for node in nodes {
            if *node == self.own {
                return Err(ApiError::new(
                    Code::Conflict,
                    "the scheduler cannot be removed from its own cluster",
                ));
            }
            let serials = self.registry().serials_of(node);
            if serials.is_empty() {
                continue;
            }
            serials_of_all.extend(serials.iter().cloned());
            entries.push(Entry::Revoked {
                node: Some(node.clone()),
                serials,
                why: "removed".into(),
                at,
            });
            entries.push(Entry::Removed { node: node.clone(), at });
        }
        if entries.is_empty() {
            return Ok(());
        }
        let names = self.worker_names(nodes);
        self.remember(&entries).await?;
        drop(turns);
        self.audit.note("remove", "hub", json!({"nodes": nodes}));
        self.issue_crl().await?;
        self.live.cut(&serials_of_all);
        for node in nodes {
            self.hang_up(node);
            self.events.push(
                Some(node.clone()),
                EventKind::State {
                    state: NodeState::Stopped,
                    why: Some("removed".into()),
                },
            );
        }
        self.tell_members();
        self.forget_workers(names).await;
        Ok(())
    }

    pub(super) fn worker_names(&self, nodes: &[NodeName]) -> Vec<String> {
        let registry = self.registry();
        nodes
            .iter()
            .filter_map(|n| registry.node(n))
            .flat_map(|n| n.workers.keys().cloned())
            .collect()
    }
}
