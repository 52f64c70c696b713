//! `herdsman scale`.

use herdsman_wire::{ClusterName, Code};
use serde_json::json;

use super::cli::{Output, ScaleArgs, ScaleWait, UpArgs};
use super::context::{Session, Wish};
use super::signals::interruptible;
use crate::cluster::{self, ScaleReport, Step, Target};
use crate::config::WorkerRange;
use crate::ui::{Error, Exit, Progress, seconds};

pub(super) async fn run(session: &Session, args: &ScaleArgs) -> Result<u8, Error> {
    let (named, target) = parse(args)?;
    if let Target::Count(n) = target {
        // With the number among the settings it is held against the most allowed.
        let workers = Some(WorkerRange::fixed(n));
        session.load(&UpArgs {
            workers,
            ..UpArgs::default()
        })?;
    }
    let (ctx, name) = session.find(named.as_ref(), Wish::Look).await?;
    let progress = Progress::new(&session.printer);
    let see = |step: &Step| progress.see(step);
    let started = std::time::Instant::now();
    let within = (args.wait == ScaleWait::All).then(|| args.start_timeout.get());
    let work = async { Ok(cluster::scale(&ctx, &name, target, within, &see).await?) };
    let result = interruptible(work).await;
    progress.finish();
    let report = result.map_err(|e| {
        if e.exit.is_interrupted() {
            e.with_hint(format!("herdsman scale {name} N     finishes or undoes what was begun"))
        } else {
            e
        }
    })?;
    show(session, &name, &report, started.elapsed())
}

fn parse(args: &ScaleArgs) -> Result<(Option<ClusterName>, Target), Error> {
    let usage = |text: String| Error::new(Code::Usage, text).with_hint("herdsman scale NAME N");
    let number = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|n| *n <= crate::config::WORKERS_MAX)
            .ok_or_else(|| usage(format!("`{text}` is no number of workers")))
    };
    let name = |text: &str| text.parse::<ClusterName>().map_err(|e| usage(e.to_string()));
    let without = || Target::Without {
        nodes: args.without.clone(),
        idle: args.idle,
    };
    match (args.what.as_slice(), args.without.is_empty()) {
        ([n], true) => Ok((None, Target::Count(number(n)?))),
        ([c, n], true) => Ok((Some(name(c)?), Target::Count(number(n)?))),
        ([], false) => Ok((None, without())),
        ([c], false) => Ok((Some(name(c)?), without())),
        _ => Err(usage("give a number of workers, or --without NODE".into())),
    }
}

fn show(session: &Session, name: &ClusterName, report: &ScaleReport, took: std::time::Duration) -> Result<u8, Error> {
    let ready = cluster::ready_workers(&report.status);
    let printer = &session.printer;
    if printer.output() == Output::Json {
        let kept: Vec<_> = report
            .kept
            .iter()
            .map(|(n, why)| json!({"node": n, "why": why}))
            .collect();
        printer.json(&json!({
            "name": name, "ready": ready, "added": report.added, "removed": report.removed, "kept": kept,
            "status": report.status,
        }))?;
    } else {
        for (node, why) in &report.kept {
            printer.warn(&format!("{node} stays: {why}"));
        }
        printer.note(&format!(
            "{name} has {ready} workers: {} added, {} removed ({})",
            report.added.len(),
            report.removed.len(),
            seconds(took)
        ));
    }
    Ok(if report.kept.is_empty() {
        Exit::Done
    } else {
        Exit::Partly
    } as u8)
}
