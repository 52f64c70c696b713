//! `herdsman pkg`: what a copied environment would hold, and why.

use std::path::PathBuf;

use herdsman_wire::{ApiError, Code};
use serde_json::json;

use super::cli::{Output, PkgVerb, UpArgs};
use super::context::Session;
use super::signals::interruptible;
use crate::environment::{self, Copy, EnvRequest, Interpreter};
use crate::ui::{Error, Table};

pub(super) async fn run(session: &Session, verb: &PkgVerb) -> Result<(), Error> {
    match verb {
        PkgVerb::Show(args) => {
            let copy = prepare(session, args.python.as_ref()).await?;
            show(session, &copy)
        }
        PkgVerb::Lock(args) => {
            let copy = prepare(session, args.python.as_ref()).await?;
            lock(session, &copy, args.to.as_ref())
        }
        PkgVerb::Why(args) => {
            let (python, request) = source(session, args.python.as_ref())?;
            let reasons = environment::why(&python, &request, &args.package);
            if session.printer.output() == Output::Json {
                return session.printer.json(&json!({"package": args.package, "why": reasons}));
            }
            reasons.iter().try_for_each(|r| session.printer.data(&format!("{r}\n")))
        }
    }
}

/// The interpreter and what the settings say about its copy.
fn source(session: &Session, named: Option<&PathBuf>) -> Result<(Interpreter, EnvRequest), Error> {
    let settings = session.load(&UpArgs::default())?.settings;
    let cwd = session.cwd()?;
    let variables = environment::interpreter::variables();
    let named = named
        .or(settings.python.as_ref())
        .map(|p| p.to_string_lossy().into_owned());
    let python = environment::find_interpreter(&cwd, &variables, named.as_deref()).map_err(ApiError::from)?;
    let include = settings.include.iter().map(|p| p.to_string_lossy().into_owned());
    let request = EnvRequest {
        project: environment::project_of(&cwd, &variables),
        include: include.collect(),
        ignore: settings.ignore,
        indexes: settings.indexes,
        setup: settings.setup,
        cache: session.store()?.folder().join("wheels"),
        variables,
        ..EnvRequest::default()
    };
    Ok((python, request))
}

async fn prepare(session: &Session, named: Option<&PathBuf>) -> Result<Copy, Error> {
    let (python, request) = source(session, named)?;
    let printer = session.printer.clone();
    let say = move |text: &str| {
        if printer.verbose() {
            printer.note(text);
        }
    };
    let work = async {
        environment::prepare(&request, &python, say)
            .await
            .map_err(|e| ApiError::from(e).into())
    };
    let copy = interruptible(work).await?;
    for note in &copy.notes {
        session.printer.note(note);
    }
    Ok(copy)
}

fn show(session: &Session, copy: &Copy) -> Result<(), Error> {
    let printer = &session.printer;
    if printer.output() == Output::Json {
        let rows: Vec<_> = copy
            .rows
            .iter()
            .map(|r| {
                json!({
                    "name": r.name, "version": r.version, "class": r.class,
                    "action": r.action.to_string(), "reason": r.reason,
                })
            })
            .collect();
        return printer.json(&json!({"id": copy.id, "python": copy.manifest.python, "packages": rows}));
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
    printer.data(&table.text())?;
    printer.note(&format!(
        "{}, id {}",
        copy.summary(),
        copy.id.get(..12).unwrap_or(&copy.id)
    ));
    Ok(())
}

/// The lock as requirements with hashes, which pip and uv read as well.
fn lock(session: &Session, copy: &Copy, to: Option<&PathBuf>) -> Result<(), Error> {
    let printer = &session.printer;
    match to {
        Some(path) => {
            std::fs::write(path, &copy.manifest.lock)
                .map_err(|e| Error::new(Code::Disk, format!("cannot write {}: {e}", path.display())))?;
            printer.note(&format!("{}, written to {}", copy.summary(), path.display()));
            Ok(())
        }
        None if printer.output() == Output::Json => printer.json(&copy.manifest),
        None => printer.data(&copy.manifest.lock),
    }
}
