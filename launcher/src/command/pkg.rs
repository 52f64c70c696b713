//! `herdsman pkg`: what a copied environment would hold.

mod pack;

use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, Code};
use serde_json::json;

use super::cli::{Output, PkgVerb, UpArgs};
use super::context::Session;
use super::packages;
use super::signals::interruptible;
use crate::config::EnvSource;
use crate::environment::{self, Action, Copy, EnvRequest, Interpreter};
use crate::ui::{Error, Table};

pub(super) async fn run(session: &Session, verb: &PkgVerb) -> Result<(), Error> {
    match verb {
        PkgVerb::Show(args) => show(session, &copy(session, args.python.clone()).await?),
        PkgVerb::Lock(args) => lock(session, &copy(session, args.python.clone()).await?, args.to.as_deref()),
        PkgVerb::Pack(args) => {
            let (request, python) = asked(session, args.python.clone(), args.env.clone())?;
            interruptible(pack::run(session, &request, &python, &args.to)).await
        }
        PkgVerb::Why(args) => {
            let (request, python) = asked(session, args.python.clone(), None)?;
            why(session, &request, &python, &args.package)
        }
    }
}

fn asked(
    session: &Session,
    python: Option<PathBuf>,
    env: Option<EnvSource>,
) -> Result<(EnvRequest, Interpreter), Error> {
    let up = UpArgs {
        python,
        env,
        ..UpArgs::default()
    };
    let settings = session.load(&up)?.settings;
    let python = packages::interpreter(session, &settings)?;
    Ok((packages::request(session, &settings)?, python))
}

async fn copy(session: &Session, python: Option<PathBuf>) -> Result<Copy, Error> {
    let (request, python) = asked(session, python, None)?;
    interruptible(packages::prepare(session, &request, &python)).await
}

fn show(session: &Session, copy: &Copy) -> Result<(), Error> {
    let printer = &session.printer;
    if printer.output() == Output::Json {
        let rows = copy.rows.iter().map(|r| {
            json!({
                "name": r.name,
                "version": r.version,
                "from": r.class,
                "action": r.action.to_string(),
                "reason": r.reason,
            })
        });
        return printer.json(&json!({
            "id": copy.id,
            "python": copy.manifest.python,
            "platform": copy.manifest.platform,
            "indexes": copy.manifest.indexes,
            "packages": rows.collect::<Vec<_>>(),
            "bytes": copy.blobs.iter().map(|b| b.size).sum::<u64>(),
            "notes": copy.notes,
            "summary": copy.summary(),
        }));
    }
    if printer.output() == Output::Name {
        return printer.data(&format!("{}\n", copy.id));
    }
    let mut table = Table::new(&["PACKAGE", "VERSION", "FROM", "ACTION", "WHY"]);
    for r in &copy.rows {
        table.row([
            r.name.clone(),
            r.version.clone(),
            r.class.clone(),
            r.action.to_string(),
            r.reason.clone(),
        ]);
    }
    printer.text(&table.text())?;
    printer.note(&copy.summary());
    for note in &copy.notes {
        printer.note(&format!("  {note}"));
    }
    Ok(())
}

/// The lock as it stands in the manifest, so that `--env lock:FILE` takes it.
fn lock(session: &Session, copy: &Copy, to: Option<&Path>) -> Result<(), Error> {
    let printer = &session.printer;
    let manifest = &copy.manifest;
    let mut text = format!("# python {}, {}\n", manifest.python, manifest.platform);
    for row in copy.rows.iter().filter(|r| r.action == Action::Packed) {
        text += &match row.class.as_str() {
            "index" | "conda" | "tool" => format!("{}{}\n", environment::PACK, row.name),
            class => format!("# {class}, sent as a wheel each time: {}\n", row.name),
        };
    }
    text += &manifest.lock;
    let count = manifest.lock.matches("==").count();
    if let Some(file) = to {
        std::fs::write(file, &text)
            .map_err(|e| Error::new(Code::Disk, format!("cannot write {}: {e}", file.display())))?;
        let file = file.display();
        printer.note(&format!(
            "{count} packages are locked in {file}; --env lock:{file} uses it"
        ));
    }
    match (printer.output(), to) {
        (Output::Json, _) => printer.json(&json!({
            "id": copy.id,
            "python": manifest.python,
            "platform": manifest.platform,
            "packages": count,
            "file": to,
            "lock": text,
            "wheels": manifest.wheels,
        })),
        (_, None) => printer.data(&text),
        (_, Some(_)) => Ok(()),
    }
}

fn why(session: &Session, request: &EnvRequest, python: &Interpreter, package: &str) -> Result<(), Error> {
    let answer = environment::why(python, request, package);
    if !answer.installed {
        let error = ApiError::new(Code::NotFound, answer.lines.join("\n"));
        return Err(Error::from(error).with_hint("herdsman pkg show        lists what is installed"));
    }
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer.json(&json!({
            "package": answer.name,
            "version": answer.version,
            "goes": answer.goes,
            "needed_by": answer.needed_by,
            "why": answer.lines,
        }));
    }
    printer.text(&format!("{}\n", answer.lines.join("\n")))
}
