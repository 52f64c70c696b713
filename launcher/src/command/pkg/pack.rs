//! `herdsman pkg pack`: an environment as a folder, for images that shall have it.
//!
//! ```text
//! DIR/id       its id, by which nodes ask for it
//! DIR/<hash>   its manifest and the wheels that come from no index
//! DIR/.cache   uv's cache with all the rest, where this computer is a Linux
//! ```

use std::path::Path;

use herdsman_wire::environment::{PACKED_CACHE, PACKED_ID, is_sha256};
use herdsman_wire::{ApiError, Code};
use serde_json::json;

use super::super::cli::Output;
use super::super::context::Session;
use super::super::packages;
use crate::environment::{self, Content, Copy, EnvRequest, Interpreter};
use crate::ui::Error;

pub(super) async fn run(session: &Session, request: &EnvRequest, python: &Interpreter, to: &Path) -> Result<(), Error> {
    // uv works in a folder of its own.
    let to = &session.cwd()?.join(to);
    let copy = packages::prepare(session, request, python).await?;
    let printer = &session.printer;
    empty(to)?;
    write(&copy, to)?;
    // With the user's own access to indexes: whoever bakes the image needs none.
    if cfg!(target_os = "linux") {
        environment::warm(&copy, request, python, to, |text| printer.note(text))
            .await
            .map_err(ApiError::from)?;
    }
    // Last: a folder that has it is whole.
    let path = to.join(PACKED_ID);
    std::fs::write(&path, format!("{}\n", copy.id)).map_err(|e| failed(&path, &e))?;
    if printer.output() == Output::Json {
        return printer.json(&json!({"id": copy.id, "folder": to}));
    }
    for note in &copy.notes {
        printer.note(&format!("  {note}"));
    }
    printer.note(&copy.summary());
    printer.data(&format!("{}\n", copy.id))
}

fn failed(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Code::Disk, format!("cannot write {}: {e}", path.display()))
}

/// Takes an earlier one away, and nothing else: a slip in `--to` must cost nothing.
fn empty(to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(to).map_err(|e| failed(to, &e))?;
    let mut old = Vec::new();
    for entry in std::fs::read_dir(to).map_err(|e| failed(to, &e))? {
        let path = entry.map_err(|e| failed(to, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = [PACKED_ID, PACKED_CACHE].contains(&name.as_str()) || is_sha256(&name);
        if !ours {
            return Err(Error::new(
                Code::Usage,
                format!("{} holds {name}, which is of something else", to.display()),
            )
            .with_hint("name a folder that is empty, or not there yet"));
        }
        old.push((path, name));
    }
    // First what says that it is whole.
    old.sort_by_key(|(_, name)| name != PACKED_ID);
    for (path, _) in old {
        let gone = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        gone.map_err(|e| failed(&path, &e))?;
    }
    Ok(())
}

fn write(copy: &Copy, to: &Path) -> Result<(), Error> {
    for blob in &copy.blobs {
        let path = to.join(&blob.sha256);
        let written = match &blob.content {
            Content::Path(from) => std::fs::copy(from, &path).map(|_| ()),
            Content::Bytes(bytes) => std::fs::write(&path, bytes),
        };
        written.map_err(|e| failed(&path, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_packed_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("packed");
        empty(&to).unwrap();
        std::fs::write(to.join(PACKED_ID), "x").unwrap();
        std::fs::write(to.join("b".repeat(64)), "x").unwrap();
        std::fs::create_dir(to.join(PACKED_CACHE)).unwrap();
        empty(&to).unwrap();
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
        std::fs::write(to.join("thesis.tex"), "x").unwrap();
        let e = empty(&to).unwrap_err();
        assert!(format!("{e:?}").contains("thesis.tex"), "{e:?}");
        assert!(to.join("thesis.tex").is_file());
    }
}
