//! `herdsman ls`.

use std::collections::BTreeMap;
use std::time::Duration;

use herdsman_wire::report::ClusterStatus;
use herdsman_wire::{ClusterName, Code, Role, Timestamp};
use serde_json::json;

use super::cli::{LsArgs, Output};
use super::context::{Session, machines_of};
use super::signals::interruptible;
use crate::cluster::{self, Context};
use crate::provider::Machine;
use crate::state::Stage;
use crate::ui::{Error, Table, age};

/// A hub that does not answer within this is shown as out of reach.
const SOON: Duration = Duration::from_secs(3);

/// Wait between two looks of `--watch`.
const AGAIN: Duration = Duration::from_secs(2);

struct Row {
    name: ClusterName,
    provider: String,
    state: String,
    workers: String,
    age: Option<Duration>,
    idle: String,
    owner: String,
    hint: Option<String>,
}

pub(super) async fn run(session: &Session, args: &LsArgs) -> Result<(), Error> {
    let contexts = session.contexts()?;
    if args.watch {
        return interruptible(watch(session, &contexts)).await;
    }
    let rows = rows(session, &contexts).await?;
    if rows.is_empty() && session.printer.output() == Output::Table {
        session
            .printer
            .note("there is no cluster; `herdsman up demo` makes one");
        return Ok(());
    }
    session.printer.data(&shown(session, &rows)?)
}

/// Shows the list again whenever something in it changes; ages alone do not
/// count.
async fn watch(session: &Session, contexts: &[Context]) -> Result<(), Error> {
    let mut last = None;
    loop {
        let rows = rows(session, contexts).await?;
        let state: Vec<_> = rows
            .iter()
            .map(|r| (r.name.clone(), r.state.clone(), r.workers.clone(), r.hint.clone()))
            .collect();
        if last.as_ref() != Some(&state) {
            session.printer.data(&shown(session, &rows)?)?;
            last = Some(state);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn rows(session: &Session, contexts: &[Context]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (i, ctx) in contexts.iter().enumerate() {
        let mut clusters: BTreeMap<ClusterName, Vec<Machine>> = BTreeMap::new();
        for machine in machines_of(ctx, i == 0).await? {
            clusters.entry(machine.cluster.name.clone()).or_default().push(machine);
        }
        for name in ctx.store.names()? {
            // What has no readable record stands with the first provider.
            let record = ctx.store.load(&name).ok().flatten();
            let known = record.filter(|r| contexts.iter().any(|c| c.provider.name() == r.provider));
            if known.map_or(i == 0, |r| r.provider == ctx.provider.name()) {
                clusters.entry(name).or_default();
            }
        }
        for (name, machines) in clusters {
            rows.push(row(ctx, name, &machines, session.offline()).await);
        }
    }
    rows.sort_by(|a, b| (&a.name, &a.provider).cmp(&(&b.name, &b.provider)));
    Ok(rows)
}

fn shown(session: &Session, rows: &[Row]) -> Result<String, Error> {
    match session.printer.output() {
        Output::Json => {
            let list: Vec<_> = rows
                .iter()
                .map(|r| {
                    json!({
                        "name": r.name, "provider": r.provider, "state": r.state, "workers": r.workers,
                        "age_seconds": r.age.map(|a| a.as_secs()), "idle": r.idle, "owner": r.owner,
                    })
                })
                .collect();
            let text = serde_json::to_string_pretty(&json!({"clusters": list}));
            text.map(|t| t + "\n")
                .map_err(|e| Error::new(Code::Internal, e.to_string()))
        }
        Output::Name => Ok(rows.iter().map(|r| format!("{}\n", r.name)).collect()),
        Output::Table => {
            let mut table = Table::new(&["NAME", "PROVIDER", "STATE", "WORKERS", "AGE", "IDLE", "OWNER", ""]);
            for r in rows {
                table.row([
                    r.name.to_string(),
                    r.provider.clone(),
                    r.state.clone(),
                    r.workers.clone(),
                    r.age.map_or_else(|| "?".into(), age),
                    r.idle.clone(),
                    r.owner.clone(),
                    r.hint.as_ref().map_or_else(String::new, |h| format!("← {h}")),
                ]);
            }
            Ok(table.text())
        }
    }
}

async fn row(ctx: &Context, name: ClusterName, machines: &[Machine], offline: bool) -> Row {
    let now = Timestamp::now();
    let record = ctx.store.load(&name).ok().flatten();
    let tag = |key: &str| machines.first().and_then(|m| m.tags.get(key)).cloned();
    let created = record.as_ref().map(|r| r.created).or_else(|| {
        let seconds: u64 = tag("herdsman-created")?.parse().ok()?;
        Some(Timestamp(seconds * 1000))
    });
    let workers = machines.iter().filter(|m| m.role == Role::Worker).count();
    let mut row = Row {
        provider: ctx.provider.name().to_owned(),
        state: "up".into(),
        workers: workers.to_string(),
        age: created.map(|c| now.since(c)),
        idle: String::new(),
        owner: tag("herdsman-owner").unwrap_or_default(),
        hint: None,
        name,
    };
    let stage = record.as_ref().map(|r| r.stage);
    if stage.is_some_and(|s| s == Stage::Creating || (s == Stage::Deleting && !machines.is_empty())) {
        row.state = "incomplete".into();
        row.hint = Some(format!("herdsman up {0}  or  herdsman down {0}", row.name));
    } else if machines.is_empty() {
        row.state = "gone".into();
        row.hint = Some(format!("herdsman down {}   forgets it", row.name));
    } else if machines.iter().all(|m| !m.running) {
        row.state = "ended".into();
        row.hint = Some(format!("herdsman down {}   deletes what is left", row.name));
    } else if record.is_none() {
        row.state = "no key".into();
        row.hint = Some(format!("made elsewhere; herdsman down {} works", row.name));
    } else if !offline {
        match ask(ctx, &row.name).await {
            Some(status) => fill(&mut row, &status, now),
            None => {
                row.state = "no answer".into();
                row.hint = Some(format!("herdsman doctor {}", row.name));
            }
        }
    }
    row
}

async fn ask(ctx: &Context, name: &ClusterName) -> Option<ClusterStatus> {
    let work = async {
        let access = cluster::open(ctx, name).await.ok()?;
        access.link.get("/v1/status", SOON).await.ok()
    };
    tokio::time::timeout(SOON, work).await.ok()?
}

fn fill(row: &mut Row, status: &ClusterStatus, now: Timestamp) {
    let all = status.nodes.iter().filter(|n| n.role == Role::Worker).count();
    let ready = cluster::ready_workers(status);
    row.workers = if ready as usize == all {
        all.to_string()
    } else {
        format!("{ready} of {all}")
    };
    row.idle = match (status.ending.idle_since, status.ending.idle_seconds) {
        (None, _) => "busy".into(),
        (Some(since), Some(limit)) => format!("{} of {}", age(now.since(since)), age(Duration::from_secs(limit))),
        (Some(since), None) => age(now.since(since)),
    };
    if let Some(why) = &status.ending.ending {
        row.state = "ending".into();
        row.hint = Some(why.clone());
    }
}
