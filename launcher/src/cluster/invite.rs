//! User-data for a machine that somebody else makes: a worker by invitation.

use std::time::Duration;

use herdsman_wire::api::{Invite, Invited};
use herdsman_wire::join::Bootstrap;
use herdsman_wire::report::ClusterStatus;
use herdsman_wire::{ApiError, Code, NodeName, Role, Secret, Timestamp, limits};

use super::Context;
use super::access::{Access, scheduler};
use super::names::{next_number, worker_name};
use crate::bootstrap::{Boot, Node, UserDataForm};
use crate::link::SOON;
use crate::provider::Placement;

/// What such a machine is told.
#[derive(Debug)]
pub struct Stranger {
    /// Its name.
    pub node: NodeName,
    /// Its user-data; holds a bootstrap key.
    pub user_data: Secret,
    /// Until when it may enrol.
    pub not_after: Timestamp,
}

/// Invites one worker, which may come from any address: nobody knows yet where
/// it will be. Good for one enrolment.
///
/// # Errors
/// What the hub says, or [`Code::NotFound`] when its address is not known.
pub async fn invite(
    ctx: &Context,
    access: &Access,
    boot: &Boot,
    form: UserDataForm,
    node: Option<NodeName>,
    life: Duration,
) -> Result<Stranger, ApiError> {
    let cluster = &access.record.cluster;
    let machines = ctx.provider.list(Some(&cluster.name)).await?;
    let hub = scheduler(&machines)
        .and_then(|m| m.address)
        .ok_or_else(|| ApiError::new(Code::NotFound, "the scheduler's machine is gone"))?;
    let node = match node {
        Some(node) => node,
        None => {
            let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
            let known = status
                .nodes
                .iter()
                .map(|n| &n.name)
                .chain(machines.iter().map(|m| &m.node));
            worker_name(&cluster.name, next_number(&cluster.name, known))
                .map_err(|e| ApiError::new(Code::Usage, e.to_string()))?
        }
    };
    let request = Invite {
        nodes: vec![node],
        ttl_seconds: life.as_secs(),
        any_address: true,
        uses: None,
    };
    let invited: Invited = access.link.post("/v1/invites", &request, SOON).await?;
    let invitation = invited
        .invites
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::new(Code::Protocol, "the hub invited nobody"))?;
    let told = Node {
        cluster,
        name: Some(&invitation.node),
        role: Role::Worker,
        hub: Some((hub, limits::AGENT_PORT).into()),
        placement: &Placement::default(),
        roots: &access.record.roots,
        bootstrap: Bootstrap {
            certificate: invitation.certificate,
            key: invitation.key,
        },
        deadline: invitation.not_after,
        allow: &[],
    };
    Ok(Stranger {
        user_data: boot.user_data(told, form)?,
        not_after: invitation.not_after,
        node: invitation.node,
    })
}
