//! `herdsman down`.

use herdsman_wire::{ClusterName, Code};
use serde_json::json;

use super::cli::{DownArgs, MachineArgs, Output, UpArgs};
use super::context::{Session, Wish, all_names};
use crate::cluster::{self, Context, DownReport, Step};
use crate::ui::{Error, Exit, seconds};

pub(super) async fn run(session: &Session, args: &DownArgs) -> Result<u8, Error> {
    let wish = if args.forget { Wish::Forget } else { Wish::Look };
    let mut clusters = Vec::new();
    for name in names(session, args).await? {
        clusters.push(session.find_with(&flags(args), name.as_ref(), wish).await?);
    }
    if clusters.is_empty() {
        session.printer.note("there is no cluster");
        return Ok(0);
    }
    ask(session, &clusters).await?;
    let mut reports = Vec::new();
    let mut worst = None;
    for (ctx, name) in clusters {
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
                    worst.get_or_insert_with(|| leftover(&ctx, &name, &report));
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
            .map(|(name, r)| json!({"name": name, "deleted": r.deleted, "left": [], "forgotten": r.forgotten}))
            .collect();
        session.printer.json(&json!({"clusters": all}))?;
    }
    worst.map_or(Ok(0), Err)
}

fn flags(args: &DownArgs) -> UpArgs {
    UpArgs {
        provider: args.provider,
        machines: MachineArgs {
            region: args.region.clone(),
            ..MachineArgs::default()
        },
        ..UpArgs::default()
    }
}

/// What is to be deleted; nothing named means the project's or the only one.
async fn names(session: &Session, args: &DownArgs) -> Result<Vec<Option<ClusterName>>, Error> {
    if args.all {
        let all = all_names(&session.contexts_for(&flags(args))?).await?;
        return Ok(all.into_iter().map(Some).collect());
    }
    if args.names.is_empty() {
        return Ok(vec![None]);
    }
    Ok(args.names.iter().cloned().map(Some).collect())
}

/// Asks with numbers, unless the machines cost nothing and were named.
async fn ask(session: &Session, clusters: &[(Context, ClusterName)]) -> Result<(), Error> {
    let mut all = 0;
    for (ctx, name) in clusters {
        let provider = ctx.provider.name();
        let nodes = ctx.provider.list(Some(name)).await?.len();
        session
            .printer
            .note(&format!("deleting {name}: {nodes} nodes on {provider}"));
        if provider != "local" {
            all += nodes;
        }
    }
    if clusters.iter().all(|(ctx, _)| ctx.provider.name() == "local") {
        return Ok(());
    }
    let list: Vec<&str> = clusters.iter().map(|(_, name)| name.as_str()).collect();
    session
        .printer
        .confirm(&format!("Delete {} with {all} nodes?", list.join(", ")))
}

fn tell(session: &Session, name: &ClusterName, report: &DownReport, took: std::time::Duration) {
    if !report.forgotten.is_empty() {
        session.printer.warn(&format!(
            "forgotten without a look, as you said: {}",
            report.forgotten.join(", ")
        ));
    }
    if report.left.is_empty() {
        session.printer.note(&format!(
            "{name} is gone: deleted {} resources, listed again: 0 left ({})",
            report.deleted.len(),
            seconds(took)
        ));
    }
}

fn leftover(ctx: &Context, name: &ClusterName, report: &DownReport) -> Error {
    let by_user = ctx.provider.name() == "manual";
    let mut text = if by_user {
        format!("{} machines of `{name}` are left to be deleted", report.left.len())
    } else {
        format!("{} resources of `{name}` could not be deleted", report.left.len())
    };
    for (what, why) in &report.left {
        text += &format!("\n{what}: {why}");
    }
    let error = Error::new(Code::Leftover, text)
        .with_exit(Exit::Partly)
        .with_hint(format!("herdsman down {name}      tries again"));
    if !by_user {
        return error;
    }
    error
        .with_hint(format!("herdsman down {name} --forget      when you have deleted them"))
        .with_hint("or name a program that does it: [manual] delete = \"…\" in herdsman.toml")
}
