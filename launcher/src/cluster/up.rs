//! `up`: a cluster as wanted, whatever there was before.

use std::collections::BTreeSet;

use herdsman_wire::api::{Expected, VersionReply};
use herdsman_wire::report::{ClusterStatus, NodeState, NodeStatus};
use herdsman_wire::spec::DaskSecurity;
use herdsman_wire::{ApiError, Code, NodeName, Role};
use tokio::time::Instant;

use super::access::{self, Access, ONE_TRY};
use super::create::Making;
use super::scale::{self, Target, scale_open};
use super::watch::{self, Goal};
use super::{Context, IfExists, Observe, Step, Wanted, down};
use crate::link::Link;
use crate::provider::Machine;
use crate::state::{Record, Stage};

/// What `up` ended with.
#[derive(Debug)]
pub struct Outcome {
    /// The cluster's record.
    pub record: Record,
    /// The hub's status; absent where nothing was waited for.
    pub status: Option<ClusterStatus>,
    /// Whether it was there before.
    pub existed: bool,
}

/// Brings a cluster up, or an existing one to what is wanted. Dropping the
/// future leaves what was made; [`down`] finds all of it.
///
/// # Errors
/// With the cause. What was made by this call has been deleted then, unless it
/// is to be kept, or is a cluster that can be used with fewer workers
/// ([`Code::Boot`]); the error says so.
pub async fn up(ctx: &Context, wanted: &Wanted, see: Observe<'_>) -> Result<Outcome, ApiError> {
    let _lock = ctx.store.lock(&wanted.name, "up")?;
    let until = Instant::now() + wanted.start_timeout;
    if let Some(access) = existing(ctx, wanted, see).await? {
        return match wanted.if_exists {
            IfExists::Converge => converge(ctx, access, wanted, until, see).await,
            IfExists::Keep => keep(access).await,
            IfExists::Fail => Err(exists(wanted)),
        };
    }
    match fresh(ctx, wanted, until, see).await {
        Ok(outcome) => Ok(outcome),
        Err(Failure::Partly(e)) => Err(e),
        Err(Failure::Wholly(e)) => Err(undo(ctx, wanted, e, see).await),
    }
}

/// The cluster if it is there and can be used; remains of one that cannot are
/// deleted.
async fn existing(ctx: &Context, wanted: &Wanted, see: Observe<'_>) -> Result<Option<Access>, ApiError> {
    let name = &wanted.name;
    let record = ctx.store.load(name)?;
    let machines = ctx.provider.list(Some(name)).await?;
    let Some(record) = record else {
        if machines.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::new(
            Code::Conflict,
            format!(
                "`{name}` exists ({} machines), but this computer has no key of it",
                machines.len()
            ),
        )
        .with_hint(format!(
            "herdsman down {name}          deletes it; no key is needed for that"
        ))
        .with_hint("or choose another name"));
    };
    if machines.iter().any(|m| m.cluster.id != record.cluster.id) {
        return Err(ApiError::new(
            Code::Conflict,
            format!("there are machines of another cluster called `{name}`"),
        )
        .with_hint(format!("herdsman down {name}          deletes them all")));
    }
    let ours = machines.iter().any(|m| m.role == Role::Scheduler && m.running);
    if ours {
        if record.stage == Stage::Up {
            return access::open(ctx, name).await.map(Some);
        }
        if let Some(access) = installed(ctx, &record).await {
            return Ok(Some(access));
        }
    }
    if !machines.is_empty() {
        see(&Step::Note(format!(
            "what an interrupted or ended `{name}` left is deleted first"
        )));
    }
    let report = down::remove_all(ctx, name, see).await?;
    match report.left.first() {
        None => Ok(None),
        Some((what, why)) => Err(ApiError::new(
            Code::Conflict,
            format!(
                "{} machines of an earlier `{name}` are left, such as {what}: {why}",
                report.left.len()
            ),
        )
        .with_hint(format!("herdsman down {name}          tries to delete them again"))
        .with_hint(format!(
            "herdsman down {name} --forget     when you have deleted what herdsman cannot"
        ))),
    }
}

/// An interrupted `up` may have got as far as the installation: then the cluster
/// is whole but for the record.
async fn installed(ctx: &Context, record: &Record) -> Option<Access> {
    let keys = ctx.store.keys(&record.cluster.name).ok()??;
    let machines = ctx.provider.list(Some(&record.cluster.name)).await.ok()?;
    let mut record = record.clone();
    let scheduler = access::scheduler(&machines)?;
    record.agent = record.agent.or(scheduler.agent);
    record.scheduler = record.scheduler.or(scheduler.scheduler);
    let link = access::link(ctx, &record, &keys.operator).ok()?;
    let version: VersionReply = link.get("/v1/version", ONE_TRY).await.ok()?;
    if !version.installed {
        return None;
    }
    record.stage = Stage::Up;
    ctx.store.save(&record).ok()?;
    let mut access = Access { record, keys, link };
    access::renew(ctx, &mut access).await.ok()?;
    Some(access)
}

/// How a new cluster failed.
enum Failure {
    /// What there is of it is to be deleted.
    Wholly(ApiError),
    /// It can be used, with fewer workers than wanted.
    Partly(ApiError),
}

impl From<ApiError> for Failure {
    fn from(e: ApiError) -> Self {
        Self::Wholly(e)
    }
}

async fn fresh(ctx: &Context, wanted: &Wanted, until: Instant, see: Observe<'_>) -> Result<Outcome, Failure> {
    let mut making = Making::begin(ctx, wanted)?;
    let made = making.machines(ctx, wanted, see).await?;
    let (machines, expected): (Vec<Machine>, Vec<Expected>) = made.into_iter().unzip();
    let workers: Vec<Expected> = machines
        .iter()
        .zip(expected)
        .filter(|(m, _)| m.role == Role::Worker)
        .map(|(_, e)| e)
        .collect();
    let install = making.install(ctx, wanted, &machines, workers, until);
    let access = match install.await {
        Ok(done) => done,
        Err(e) => return Err(with_console(ctx, &machines, e).await.into()),
    };
    match wait(ctx, wanted, &access.link, &machines, 0, until, see).await {
        Ok(status) => {
            watch::enrolled(ctx, &access.record.cluster, status.as_ref());
            Ok(Outcome {
                record: access.record,
                status,
                existed: false,
            })
        }
        Err(e) if wanted.keep_failed => Err(e.into()),
        Err(e) => Err(without_failed(ctx, wanted, &access, &machines, e).await),
    }
}

/// Where the scheduler and some workers are well, only the other workers are
/// deleted: the cluster can be used and brought to its size later.
async fn without_failed(ctx: &Context, wanted: &Wanted, access: &Access, machines: &[Machine], e: ApiError) -> Failure {
    let Ok(status) = access.link.get::<ClusterStatus>("/v1/status", crate::link::SOON).await else {
        return e.into();
    };
    let is_ready = |m: &&Machine| {
        let ready = |n: &NodeStatus| n.name == m.node && n.state == NodeState::Ready;
        status.nodes.iter().any(ready)
    };
    let (ready, failed): (Vec<&Machine>, Vec<&Machine>) = machines.iter().partition(is_ready);
    let usable = ready.iter().filter(|m| m.role == Role::Worker).count();
    if usable == 0 || failed.is_empty() || failed.iter().any(|m| m.role == Role::Scheduler) {
        return e.into();
    }
    let names: Vec<NodeName> = failed.iter().map(|m| m.node.clone()).collect();
    let text: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    let done = match scale::remove(ctx, access, &names, "did not start").await {
        Ok(left) if left.is_empty() => format!("{} deleted, not replaced", text.join(", ")),
        Ok(left) => format!("{} resources of {} could not be deleted", left.len(), text.join(", ")),
        Err(cause) => format!("{} could not be deleted: {}", text.join(", "), cause.message),
    };
    let cause = e.message.replace('\n', "\n  ");
    let mut partly = ApiError::new(
        Code::Boot,
        format!(
            "{} of {} workers did not start; the cluster is up with the other {usable}\n  [{}] {cause}\n  done: {done}",
            failed.len(),
            wanted.workers,
            e.code
        ),
    );
    partly.hint = e.hint;
    // They are gone, and their logs with them.
    partly.hint.retain(|h| !h.starts_with("herdsman logs"));
    Failure::Partly(
        partly
            .with_hint(format!(
                "herdsman scale {} {}          tries again",
                wanted.name, wanted.workers
            ))
            .with_hint(format!("herdsman down {}          deletes the cluster", wanted.name)),
    )
}

async fn wait(
    ctx: &Context,
    wanted: &Wanted,
    link: &Link,
    machines: &[Machine],
    after: u64,
    until: Instant,
    see: Observe<'_>,
) -> Result<Option<ClusterStatus>, ApiError> {
    let Some(workers) = wanted.wait_for else {
        return Ok(None);
    };
    let goal = Goal {
        workers: workers.min(wanted.workers),
        nodes: machines.iter().map(|m| m.node.clone()).collect::<BTreeSet<_>>(),
        wanted: wanted.workers,
        after,
    };
    watch::wait(ctx, link, machines, &goal, until, see).await.map(Some)
}

/// A hub that was never reached has said why on its console, if anywhere.
async fn with_console(ctx: &Context, machines: &[Machine], mut e: ApiError) -> ApiError {
    if e.message.contains("'s console:") {
        return e;
    }
    if let Some(scheduler) = access::scheduler(machines) {
        let console = super::cause::Console::of(ctx, scheduler).await;
        // What the agent says is the cause of its silence.
        if let Some(cause) = console.error.filter(|_| e.code == Code::Deadline) {
            e.code = cause.code;
            e.message += &format!("\n  {}: {}", scheduler.node, cause.message);
            e.hint.extend(cause.hint);
        }
        if !console.tail.is_empty() {
            e.message += &format!("\n  last lines of {}'s console:", scheduler.node);
            for line in console.tail {
                e.message += &format!("\n    {line}");
            }
        }
    }
    e
}

async fn converge(
    ctx: &Context,
    access: Access,
    wanted: &Wanted,
    until: Instant,
    see: Observe<'_>,
) -> Result<Outcome, ApiError> {
    let status: ClusterStatus = access.link.get("/v1/status", crate::link::SOON).await?;
    same_security(&access.record, wanted)?;
    super::environment::converge(&access, wanted, &status, until, see).await?;
    let have = status.nodes.iter().filter(|n| super::scale::counts(n)).count();
    let have = u32::try_from(have).unwrap_or(u32::MAX);
    let mut status = Some(status);
    if have != wanted.workers {
        see(&Step::Note(format!(
            "`{}` is up with {have} workers; bringing it to {}",
            wanted.name, wanted.workers
        )));
        let report = scale_open(
            ctx,
            &access,
            Target::Count(wanted.workers),
            Some(wanted.start_timeout),
            see,
        )
        .await?;
        status = Some(report.status);
    } else if wanted.wait_for.is_some() {
        let machines = ctx.provider.list(Some(&wanted.name)).await?;
        let after = status.as_ref().map_or(0, |s| s.events);
        status = wait(ctx, wanted, &access.link, &machines, after, until, see).await?;
    }
    watch::enrolled(ctx, &access.record.cluster, status.as_ref());
    Ok(Outcome {
        record: access.record,
        status,
        existed: true,
    })
}

/// As it is.
async fn keep(access: Access) -> Result<Outcome, ApiError> {
    let status: ClusterStatus = access.link.get("/v1/status", crate::link::SOON).await?;
    Ok(Outcome {
        record: access.record,
        status: Some(status),
        existed: true,
    })
}

fn exists(wanted: &Wanted) -> ApiError {
    let name = &wanted.name;
    ApiError::new(Code::Conflict, format!("`{name}` exists, and was to be made anew"))
        .with_hint(format!("herdsman down {name}          deletes it"))
        .with_hint("or choose another name")
}

/// What protects Dask's traffic is settled when a cluster is made.
fn same_security(record: &Record, wanted: &Wanted) -> Result<(), ApiError> {
    let [is, asked] = [
        (record.insecure, record.own),
        match wanted.spec.dask.security {
            DaskSecurity::None => (true, false),
            DaskSecurity::Own { .. } => (false, true),
            DaskSecurity::Cluster => (false, false),
        },
    ];
    if is == asked {
        return Ok(());
    }
    let describe = |(insecure, own)| match (insecure, own) {
        (true, _) => "insecure",
        (_, true) => "secured by certificates of your own",
        _ => "secured by certificates of the cluster's own",
    };
    let name = &record.cluster.name;
    Err(ApiError::new(
        Code::Conflict,
        format!(
            "`{name}` exists and is {}; now it was to be {}",
            describe(is),
            describe(asked)
        ),
    )
    .with_hint("give the same security options as when it was made")
    .with_hint(format!(
        "herdsman down {name}          deletes it, so that it can be made anew"
    )))
}

/// Deletes what this call made, and says so in the error.
async fn undo(ctx: &Context, wanted: &Wanted, mut e: ApiError, see: Observe<'_>) -> ApiError {
    let name = &wanted.name;
    if wanted.keep_failed {
        return e
            .with_hint(format!("herdsman logs {name}          shows more; it was kept"))
            .with_hint(format!("herdsman down {name}          deletes it"));
    }
    match down::remove_all(ctx, name, see).await {
        Ok(report) if report.left.is_empty() => {
            e.message += "\n  done: what was created has been deleted";
            // There is nothing to look at any more.
            e.hint.retain(|h| !h.starts_with("herdsman logs"));
            return e.with_hint(format!(
                "herdsman up {name} --keep-failed      keeps what fails, for `herdsman logs {name}`"
            ));
        }
        Ok(report) => {
            e.message += &format!("\n  done: deleted all but {} resources", report.left.len());
            e = e.with_hint(format!("herdsman down {name}          tries again"));
        }
        Err(cause) => {
            e.message += &format!("\n  what was created could not be deleted: {}", cause.message);
            e = e.with_hint(format!("herdsman down {name}          tries again"));
        }
    }
    e
}
