//! Access to a cluster that exists: its record, the operator's certificate, and
//! the link to its hub.

use std::time::Duration;

use herdsman_wire::api::{OperatorIssued, OperatorRequest};
use herdsman_wire::{ApiError, ClusterName, Code, Timestamp};

use super::Context;
use crate::link::{Link, SOON};
use crate::pki::{self, Credentials};
use crate::provider::Machine;
use crate::state::{Record, Stage, UserKeys};

/// A cluster that can be talked to.
#[derive(Debug)]
pub struct Access {
    /// What this computer remembers of it.
    pub record: Record,
    /// The operator's and the client's certificates.
    pub keys: UserKeys,
    /// The way to its hub.
    pub link: Link,
}

/// Opens a cluster by name, and renews the operator's certificate on the way
/// when a third of its life is over.
///
/// # Errors
/// [`Code::NotFound`] when there is none, or none that this computer has a key
/// of; the link's own errors come with its first use.
pub async fn open(ctx: &Context, name: &ClusterName) -> Result<Access, ApiError> {
    let Some(record) = ctx.store.load(name)? else {
        let machines = ctx.provider.list(Some(name)).await?;
        return Err(if machines.is_empty() {
            ApiError::new(Code::NotFound, format!("there is no cluster `{name}`"))
                .with_hint("herdsman ls                 shows the clusters there are")
                .with_hint(format!("herdsman up {name}            makes it"))
        } else {
            ApiError::new(
                Code::NotFound,
                format!("`{name}` exists, but this computer has no key of it"),
            )
            .with_hint(format!(
                "herdsman down {name}          deletes it; no key is needed for that"
            ))
        });
    };
    if record.stage != Stage::Up {
        return Err(ApiError::new(
            Code::NotFound,
            format!("`{name}` was never brought up completely ({})", record.stage.as_str()),
        )
        .with_hint(format!("herdsman up {name}            finishes or repeats it"))
        .with_hint(format!("herdsman down {name}          deletes what there is of it")));
    }
    let keys = ctx.store.keys(name)?.ok_or_else(|| {
        ApiError::new(
            Code::NotFound,
            format!("the keys of `{name}` are gone from this computer"),
        )
        .with_hint(format!(
            "herdsman down {name}          deletes it; no key is needed for that"
        ))
    })?;
    let link = link(ctx, &record, &keys.operator)?;
    let mut access = Access { record, keys, link };
    renew_when_due(ctx, &mut access).await?;
    Ok(access)
}

/// The link of a record with these credentials.
pub(super) fn link(ctx: &Context, record: &Record, operator: &Credentials) -> Result<Link, ApiError> {
    let address = record
        .agent
        .ok_or_else(|| ApiError::new(Code::NotFound, "the hub's address was never learnt"))?;
    Link::new(
        ctx.reach(address),
        &record.cluster.id,
        &record.roots.control,
        &operator.chain,
        &operator.key,
    )
}

/// Renews operator's and client's certificates when a third of their life is
/// over. That it cannot be done now is no error as long as they are good.
///
/// # Errors
/// [`Code::Certificate`] when they are expired.
pub async fn renew_when_due(ctx: &Context, access: &mut Access) -> Result<(), ApiError> {
    let now = Timestamp::now();
    let facts = herdsman_wire::pki::facts_of_pem(&access.keys.operator.chain).map_err(|e| {
        ApiError::new(
            Code::Certificate,
            format!("the operator's certificate on this computer: {e}"),
        )
    })?;
    if facts.not_after <= now {
        let hours = now.since(facts.not_after).as_secs() / 3600;
        return Err(ApiError::new(
            Code::Certificate,
            format!("the operator's certificate on this computer expired {hours} h ago"),
        )
        .with_hint(format!(
            "herdsman down {}          deletes the cluster; no key is needed for that",
            access.record.cluster.name
        )));
    }
    let life = facts.not_after.since(facts.not_before);
    if facts.not_after.since(now) > life * 2 / 3 {
        return Ok(());
    }
    match renew(ctx, access).await {
        Ok(()) => Ok(()),
        Err(e) => {
            tracing::debug!("the operator's certificate was not renewed: {e}");
            Ok(())
        }
    }
}

/// Gets new certificates of the hub, whatever the age of the old ones.
pub(super) async fn renew(ctx: &Context, access: &mut Access) -> Result<(), ApiError> {
    let (operator, client) = request(&access.link).await?;
    use_keys(ctx, access, UserKeys { operator, client })
}

/// New certificates of the operator and of the Dask clients, from the hub.
pub(super) async fn request(link: &Link) -> Result<(Credentials, Credentials), ApiError> {
    let (csr_operator, operator_key) = pki::new_request("operator")?;
    let (csr_client, client_key) = pki::new_request("client")?;
    let request = OperatorRequest {
        user: None,
        csr_operator,
        csr_client,
    };
    let issued: OperatorIssued = link.post("/v1/operator", &request, SOON).await?;
    Ok((
        Credentials::new(issued.operator_chain, operator_key)?,
        Credentials::new(issued.client_chain, client_key)?,
    ))
}

/// From now on these.
pub(super) fn use_keys(ctx: &Context, access: &mut Access, keys: UserKeys) -> Result<(), ApiError> {
    ctx.store.save_keys(&access.record.cluster.name, &keys)?;
    access.link = link(ctx, &access.record, &keys.operator)?;
    access.keys = keys;
    Ok(())
}

/// The scheduler among machines.
pub(super) fn scheduler(machines: &[Machine]) -> Option<&Machine> {
    machines.iter().find(|m| m.role == herdsman_wire::Role::Scheduler)
}

/// How long one try to reach a hub may take while it boots.
pub(super) const ONE_TRY: Duration = Duration::from_secs(5);
