//! Which machine a node's files belong to.
//!
//! A machine made from a snapshot or an image of a node has the node's files. It must
//! not become that node a second time: its keys would be used in two places, which
//! the hub takes for theft. So the first start writes down what is the machine's own
//! (`machine.json`), and a start that finds something else puts the files aside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, ClusterId, Code, limits};
use serde::{Deserialize, Serialize};

use crate::files::{io_error, make_dir, read_limited, write_atomic};

/// What belongs to a node's identity in its state folder.
const IDENTITY: [&str; 3] = ["identity.json", "next.json", "hub"];
/// Where it is put aside, in the same folder.
const ASIDE: &str = "former";

/// What the first start wrote down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine's own marks, by kind.
    pub marks: BTreeMap<String, String>,
    /// The cluster that it joined.
    pub cluster: ClusterId,
    /// Where the node's state is.
    pub state: PathBuf,
    /// SHA-256 of the join configuration, in hex.
    pub join: String,
}

/// What has to be put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The files are this node's.
    Own,
    /// The identity is of another machine, the join configuration is new.
    Identity,
    /// Both are of another machine.
    All,
}

impl Record {
    /// A record of a node on this machine.
    #[must_use]
    pub fn new(marks: BTreeMap<String, String>, join: &JoinConfig, text: &[u8]) -> Self {
        Self {
            marks,
            cluster: join.cluster.clone(),
            state: join.paths.state.clone(),
            join: digest(text),
        }
    }

    /// Reads the record of an earlier start.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, ApiError> {
        let Some(bytes) = read_limited(path, limits::JOIN_CONFIG)? else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Some)
            .map_err(|e| ApiError::new(Code::Malformed, format!("{}: {e}", path.display())))
    }

    /// Writes it.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, path: &Path) -> Result<(), ApiError> {
        let text = serde_json::to_vec(self).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        write_atomic(path, &text)
    }

    /// What to do on a machine with these marks, where the join configuration has
    /// this text (absent: there is none).
    #[must_use]
    pub fn verdict(&self, marks: &BTreeMap<String, String>, text: Option<&[u8]>) -> Verdict {
        // A mark that only one of them has says nothing: firmware updates and
        // containers add and hide some.
        let differs = marks.iter().any(|(k, v)| self.marks.get(k).is_some_and(|old| old != v));
        let is_new = text.is_some_and(|t| digest(t) != self.join);
        match (differs, is_new) {
            (false, _) => Verdict::Own,
            (true, true) => Verdict::Identity,
            (true, false) => Verdict::All,
        }
    }
}

/// Moves a node's identity out of the way; an identity that was put aside before is
/// lost.
///
/// # Errors
/// As the file system says.
pub fn put_aside(state: &Path) -> Result<(), ApiError> {
    let aside = state.join(ASIDE);
    let present: Vec<_> = IDENTITY.iter().filter(|name| state.join(name).exists()).collect();
    if present.is_empty() {
        return Ok(());
    }
    if let Err(e) = std::fs::remove_dir_all(&aside)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(io_error("remove", &aside, &e));
    }
    make_dir(&aside)?;
    for name in present {
        let from = state.join(name);
        std::fs::rename(&from, aside.join(name)).map_err(|e| io_error("move", &from, &e))?;
    }
    Ok(())
}

fn digest(text: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.trim_ascii());
    hash.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn only_a_mark_that_differs_makes_another_machine() {
        let record = Record {
            marks: marks(&[("product_uuid", "a"), ("seed", "x")]),
            cluster: "aaaaaaaaaa".parse().unwrap(),
            state: "/s".into(),
            join: digest(b"{}"),
        };
        for (now, text, verdict) in [
            (
                marks(&[("product_uuid", "a"), ("seed", "x")]),
                Some(&b"{}"[..]),
                Verdict::Own,
            ),
            (marks(&[("product_uuid", "a")]), Some(b"{}\n"), Verdict::Own),
            (marks(&[]), Some(b"{}"), Verdict::Own),
            (marks(&[("instance", "i-1")]), None, Verdict::Own),
            (marks(&[("product_uuid", "b")]), Some(b"{}\n"), Verdict::All),
            (marks(&[("product_uuid", "b")]), None, Verdict::All),
            (
                marks(&[("product_uuid", "a"), ("seed", "y")]),
                Some(b"{\"new\": 1}"),
                Verdict::Identity,
            ),
        ] {
            assert_eq!(record.verdict(&now, text), verdict, "{now:?}");
        }
    }

    #[test]
    fn an_identity_is_moved_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        put_aside(dir.path()).unwrap();
        for round in ["one", "two"] {
            std::fs::create_dir(dir.path().join("hub")).unwrap();
            std::fs::write(dir.path().join("hub/key"), round).unwrap();
            std::fs::write(dir.path().join("identity.json"), round).unwrap();
            std::fs::write(dir.path().join("agent.log"), round).unwrap();
            put_aside(dir.path()).unwrap();
            assert!(!dir.path().join("hub").exists() && !dir.path().join("identity.json").exists());
            assert_eq!(
                std::fs::read_to_string(dir.path().join("former/hub/key")).unwrap(),
                round
            );
            assert!(dir.path().join("agent.log").exists());
        }
    }
}
