//! `down`: nothing is left, and that has been looked at.

use std::time::Duration;

use herdsman_wire::api::{Done, Shutdown};
use herdsman_wire::{ApiError, ClusterName, Code};

use super::access;
use super::{Context, Observe, Step};
use crate::provider::{ClusterRef, Machine};
use crate::state::Stage;

/// How long the hub may take to hear that the cluster ends.
const GOODBYE: Duration = Duration::from_secs(3);
/// Rounds of deleting and listing again.
const ROUNDS: u32 = 3;

/// What was deleted.
#[derive(Clone, Debug, Default)]
pub struct DownReport {
    /// Names of what is gone.
    pub deleted: Vec<String>,
    /// What is left, with the reason.
    pub left: Vec<(String, String)>,
    /// What the user says is gone, and nobody has looked.
    pub forgotten: Vec<String>,
    /// Whether there was anything at all, a record included.
    pub existed: bool,
}

/// Deletes everything of a cluster.
///
/// # Errors
/// [`Code::NotFound`] when there is nothing of this name; [`Code::Conflict`]
/// when another command is at work on it; when the provider cannot be asked.
pub async fn down(ctx: &Context, name: &ClusterName, see: Observe<'_>) -> Result<DownReport, ApiError> {
    let _lock = ctx.store.lock(name, "down")?;
    let report = remove_all(ctx, name, see).await?;
    if !report.existed {
        return Err(ApiError::new(Code::NotFound, format!("there is no cluster `{name}`"))
            .with_hint("herdsman ls                 shows the clusters there are"));
    }
    Ok(report)
}

/// [`down`] for a caller that holds the lock. Nothing there is no error.
pub(super) async fn remove_all(ctx: &Context, name: &ClusterName, see: Observe<'_>) -> Result<DownReport, ApiError> {
    // A damaged record must not keep machines alive: tags suffice.
    let record = ctx.store.load(name).unwrap_or_else(|e| {
        see(&Step::Note(format!(
            "the record on this computer is ignored: {}",
            e.message
        )));
        None
    });
    let mut report = DownReport {
        existed: record.is_some() || ctx.store.holds(name),
        ..DownReport::default()
    };
    if let Some(mut record) = record.clone() {
        say_goodbye(ctx, &record).await;
        record.stage = Stage::Deleting;
        // A full disk must not keep machines alive either.
        if let Err(e) = ctx.store.save(&record) {
            see(&Step::Note(format!(
                "the record is not brought up to date: {}",
                e.message
            )));
        }
    }
    for round in 1..=ROUNDS {
        let machines = ctx.provider.list(Some(name)).await?;
        report.existed |= !machines.is_empty();
        let mut clusters: Vec<ClusterRef> = machines.iter().map(|m| m.cluster.clone()).collect();
        clusters.extend(record.as_ref().map(|r| r.cluster.clone()));
        // An interrupted command may have made a network and no machine.
        let more = ctx.provider.clusters(name).await?;
        report.existed |= !more.is_empty();
        let rest = !more.is_empty();
        clusters.extend(more);
        clusters.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        clusters.dedup();
        if round > 1 && machines.is_empty() && !rest && report.left.is_empty() {
            break;
        }
        report.left.clear();
        delete(ctx, &machines, &mut report).await?;
        for cluster in &clusters {
            let rest = ctx.provider.delete_rest(cluster).await?;
            report.deleted.extend(rest.deleted);
            report.left.extend(rest.left);
            report.forgotten.extend(rest.forgotten);
        }
    }
    if report.left.is_empty() {
        ctx.store.remove(name)?;
    }
    Ok(report)
}

async fn delete(ctx: &Context, machines: &[Machine], report: &mut DownReport) -> Result<(), ApiError> {
    if machines.is_empty() {
        return Ok(());
    }
    let done = ctx.provider.delete(machines).await?;
    report.deleted.extend(done.deleted);
    report.left.extend(done.left);
    report.forgotten.extend(done.forgotten);
    Ok(())
}

/// Tells the hub, so that clients and nodes end in order. Only a courtesy.
async fn say_goodbye(ctx: &Context, record: &crate::state::Record) {
    if record.stage != Stage::Up {
        return;
    }
    let Ok(Some(keys)) = ctx.store.keys(&record.cluster.name) else {
        return;
    };
    let Ok(link) = access::link(ctx, record, &keys.operator) else {
        return;
    };
    let request = Shutdown {
        why: "herdsman down".into(),
        now: true,
    };
    let said: Result<Done, ApiError> =
        match tokio::time::timeout(GOODBYE, link.post("/v1/shutdown", &request, GOODBYE)).await {
            Ok(said) => said,
            Err(_) => return,
        };
    if let Err(e) = said {
        tracing::debug!("the hub was not told: {e}");
    }
}
