//! `herdsman down`.

use herdsman_wire::{ClusterName, Code};
use serde_json::json;

use super::cli::{DownArgs, Output};
use super::context::Session;
use crate::cluster::{self, Context, DownReport, Step};
use crate::ui::{Error, Exit, seconds};

pub(super) async fn run(session: &Session, args: &DownArgs) -> Result<u8, Error> {
    let ctx = session.plain_context()?;
    let names = names(session, &ctx, args).await?;
    if names.is_empty() {
        session.printer.note("there is no cluster");
        return Ok(0);
    }
    ask(session, &ctx, &names).await?;
    let mut reports = Vec::new();
    let mut worst = None;
    for name in names {
        let started = std::time::Instant::now();
        let see = |step: &Step| {
            if let Step::Note(text) = step {
                session.printer.note(text);
            }
        };
        match cluster::down(&ctx, &name, &see).await {
            Ok(report) => {
                tell(session, &name, &report, started.elapsed());
                if !report.left.is_empty() {
                    worst.get_or_insert_with(|| leftover(&name, &report));
                }
                reports.push((name, report));
            }
            Err(e) => {
                worst.get_or_insert_with(|| e.into());
            }
        }
    }
    if session.printer.output() == Output::Json && worst.is_none() {
        let all: Vec<_> = reports
            .iter()
            .map(|(name, r)| json!({"name": name, "deleted": r.deleted, "left": []}))
            .collect();
        session.printer.json(&json!({"clusters": all}))?;
    }
    worst.map_or(Ok(0), Err)
}

async fn names(session: &Session, ctx: &Context, args: &DownArgs) -> Result<Vec<ClusterName>, Error> {
    if args.all {
        let mut all = ctx.store.names()?;
        all.extend(ctx.provider.list(None).await?.into_iter().map(|m| m.cluster.name));
        all.sort();
        all.dedup();
        return Ok(all);
    }
    if args.names.is_empty() {
        return Ok(vec![session.cluster(ctx, None).await?]);
    }
    Ok(args.names.clone())
}

/// Asks with numbers, unless the machines cost nothing and were named.
async fn ask(session: &Session, ctx: &Context, names: &[ClusterName]) -> Result<(), Error> {
    let mut nodes = 0;
    for name in names {
        nodes += ctx.provider.list(Some(name)).await?.len();
    }
    let list: Vec<&str> = names.iter().map(ClusterName::as_str).collect();
    let list = list.join(", ");
    session
        .printer
        .note(&format!("deleting {list}: {nodes} nodes on {}", ctx.provider.name()));
    if ctx.provider.name() == "local" {
        return Ok(());
    }
    session.printer.confirm(&format!("Delete {list} with {nodes} nodes?"))
}

fn tell(session: &Session, name: &ClusterName, report: &DownReport, took: std::time::Duration) {
    if report.left.is_empty() {
        session.printer.note(&format!(
            "{name} is gone: deleted {} resources, listed again: 0 left ({})",
            report.deleted.len(),
            seconds(took)
        ));
    }
}

fn leftover(name: &ClusterName, report: &DownReport) -> Error {
    let mut text = format!("{} resources of `{name}` could not be deleted", report.left.len());
    for (what, why) in &report.left {
        text += &format!("\n{what}: {why}");
    }
    Error::new(Code::Leftover, text)
        .with_exit(Exit::Partly)
        .with_hint(format!("herdsman down {name}      tries again"))
}
