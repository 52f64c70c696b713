//! `herdsman config`.

use herdsman_wire::Code;
use serde_json::json;

use super::cli::{ConfigVerb, Output, UpArgs};
use super::context::Session;
use super::migrate;
use crate::config::{Entry, config_path, find_project, set_user_default, state_dir};
use crate::ui::{Error, Table};

/// Gives the exit code.
pub(super) fn run(session: &Session, verb: &ConfigVerb) -> Result<u8, Error> {
    let printer = &session.printer;
    let done: Result<(), Error> = match verb {
        ConfigVerb::Get { key, why, file } => {
            let args = UpArgs {
                file: file.clone(),
                ..UpArgs::default()
            };
            let loaded = session.load(&args)?;
            match key {
                Some(key) => one(session, key, loaded.entries.get(key)?, *why),
                None if printer.output() == Output::Json && *why => printer.json(&loaded.entries),
                None if printer.output() == Output::Json => printer.json(&loaded.entries.document()),
                None => {
                    let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
                    for (key, entry) in loaded.entries.iter() {
                        table.row([key.to_owned(), plain(&entry.value), entry.origin.to_string()]);
                    }
                    printer.text(&table.text())
                }
            }
        }
        ConfigVerb::Set { key, value } => {
            let path = config_path(&session.global, &session.env)
                .ok_or_else(|| Error::new(Code::NotFound, "there is no home folder; name a file with --config"))?;
            set_user_default(&path, key, value)?;
            printer.note(&format!("{key} = {value} in {}", path.display()));
            Ok(())
        }
        ConfigVerb::Migrate(args) => return migrate::run(session, args),
        ConfigVerb::Path => {
            let settings = config_path(&session.global, &session.env);
            let state = state_dir(&session.env)?;
            let project = find_project(&session.cwd()?);
            if printer.output() == Output::Json {
                printer.json(&json!({"settings": settings, "project": project, "state": state}))?;
                return Ok(0);
            }
            let shown = |p: Option<std::path::PathBuf>| p.map_or_else(|| "none".into(), |p| p.display().to_string());
            printer.data(&format!(
                "settings  {}\nproject   {}\nstate     {}\n",
                shown(settings),
                shown(project),
                state.display()
            ))
        }
    };
    done.map(|()| 0)
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn one(session: &Session, key: &str, entry: &Entry, why: bool) -> Result<(), Error> {
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return if why {
            printer.json(entry)
        } else {
            printer.json(&entry.value)
        };
    }
    let mut text = format!("{}\n", plain(&entry.value));
    if why {
        text = format!("{key} = {}  from {}\n", plain(&entry.value), entry.origin);
        for (origin, value) in &entry.instead_of {
            text += &format!("  instead of {}  from {origin}\n", plain(value));
        }
    }
    printer.text(&text)
}
