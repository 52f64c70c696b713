//! The hub's memory: JSON lines, appended and synced before anything that
//! follows from them is done, replayed when the hub starts.
//!
//! Writers are served in groups: all entries that wait when a sync ends go into
//! the next one together, so that a hundred nodes enrolling at once cost a few
//! syncs, not a hundred.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;

use herdsman_wire::api::{Expected, Issued};
use herdsman_wire::spec::{ClusterSpec, EndSpec};
use herdsman_wire::{ApiError, Code, NodeName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::files::io_error;

/// One thing to remember.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "entry")]
pub enum Entry {
    /// Nodes that may enrol.
    Expected {
        /// Them.
        nodes: Vec<Expected>,
    },
    /// A bootstrap certificate of several uses was made.
    Batch {
        /// Its serial.
        serial: String,
        /// Its name.
        label: NodeName,
        /// How many uses.
        uses: u32,
    },
    /// A node's bootstrap serial is spent.
    Enrolled {
        /// The node.
        node: NodeName,
        /// The serial.
        serial: String,
        /// Hash over both public keys.
        keys: String,
        /// Where from.
        address: IpAddr,
        /// When.
        at: Timestamp,
    },
    /// Certificates were issued: at enrolment and each renewal.
    Issued {
        /// The answer as the node got it, without the specification.
        answer: Box<Issued>,
        /// Hash over both public keys.
        keys: String,
        /// Serials of both.
        serials: [String; 2],
        /// The agent's release.
        #[serde(default)]
        agent: String,
    },
    /// A certificate of a person was issued.
    Operator {
        /// The person.
        user: String,
        /// Serials of both.
        serials: [String; 2],
        /// When they end.
        not_after: Timestamp,
    },
    /// Certificates are revoked.
    Revoked {
        /// The node, where it is one.
        node: Option<NodeName>,
        /// Serials.
        serials: Vec<String>,
        /// Why.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// A node is gone in order.
    Removed {
        /// The node.
        node: NodeName,
        /// When.
        at: Timestamp,
    },
    /// Limits changed.
    Limits {
        /// New ones.
        limits: EndSpec,
    },
    /// From where people are let in changed.
    Allowed {
        /// Networks that are let in from now on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<ipnet::IpNet>,
        /// Networks that are let in no longer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remove: Vec<ipnet::IpNet>,
    },
    /// The environment changed.
    Spec {
        /// Holds the new environment and nothing else, least of all secrets.
        spec: Box<ClusterSpec>,
    },
    /// A CRL of this number was issued.
    Crl {
        /// The number.
        number: u64,
        /// What it gives as its time.
        at: Timestamp,
    },
}

type Job = (Vec<u8>, oneshot::Sender<Result<(), ApiError>>);

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    jobs: mpsc::Sender<Job>,
}

impl Journal {
    /// Opens the journal and reads what it holds.
    ///
    /// # Errors
    /// [`Code::Malformed`] naming the line when the middle is damaged; a last
    /// line that a crash cut is dropped, since nothing followed from it.
    pub fn open(path: &Path) -> Result<(Self, Vec<Entry>), ApiError> {
        let old = match std::fs::read(path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io_error("read", path, &e)),
        };
        let whole = old.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let entries = old[..whole]
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_slice(line).map_err(|e| {
                    ApiError::new(Code::Malformed, format!("{} line {}: {e}", path.display(), i + 1)).with_hint(
                        "the hub's memory is damaged; end the cluster with `herdsman down` and start it anew",
                    )
                })
            })
            .collect::<Result<Vec<Entry>, _>>()?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| io_error("open", path, &e))?;
        file.set_len(whole as u64).map_err(|e| io_error("cut", path, &e))?;
        Ok((Self::start(file, path)?, entries))
    }

    fn start(file: File, path: &Path) -> Result<Self, ApiError> {
        let (jobs, queue) = mpsc::channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_groups(file, &path, &queue))
            .map_err(|e| ApiError::new(Code::Internal, format!("no thread for the journal: {e}")))?;
        Ok(Self { jobs })
    }

    /// Adds entries; they are on disk when this returns.
    ///
    /// # Errors
    /// [`Code::Disk`] when they cannot be written; nothing may follow from them then.
    pub async fn add(&self, entries: &[Entry]) -> Result<(), ApiError> {
        let mut bytes = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry)
                .map_err(|e| ApiError::new(Code::Internal, format!("journal entry: {e}")))?;
            bytes.push(b'\n');
        }
        let (done, answer) = oneshot::channel();
        let gone = || ApiError::new(Code::Internal, "the journal's thread ended");
        self.jobs.send((bytes, done)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn write_groups(mut file: File, path: &Path, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<Job> = std::iter::once(first).chain(queue.try_iter()).collect();
        let bytes: Vec<u8> = group.iter().flat_map(|(b, _)| b.iter().copied()).collect();
        let before = file.metadata().map(|m| m.len());
        let result = file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|e| {
            // A half-written group must not precede a later good one.
            if let Ok(len) = before {
                let _ = file.set_len(len);
            }
            ApiError {
                code: Code::Disk,
                ..io_error("write", path, &e)
            }
        });
        for (_, done) in group {
            let _ = done.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry::Crl {
            number: n,
            at: Timestamp(0),
        }
    }

    #[tokio::test]
    async fn remembers_and_drops_a_cut_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (j, old) = Journal::open(&path).unwrap();
        assert!(old.is_empty());
        futures_util::future::join_all((0..50).map(|n| {
            let j = &j;
            async move { j.add(&[entry(n)]).await.unwrap() }
        }))
        .await;
        drop(j);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"entry\":\"crl\",\"num");
        std::fs::write(&path, &text).unwrap();
        let (j, old) = Journal::open(&path).unwrap();
        assert_eq!(old, (0..50).map(entry).collect::<Vec<_>>());
        j.add(&[entry(99)]).await.unwrap();
        drop(j);
        let (_, old) = Journal::open(&path).unwrap();
        assert_eq!(old.len(), 51);
        let damaged = String::from_utf8(text).unwrap().replacen("crl", "???", 1);
        std::fs::write(&path, damaged).unwrap();
        let e = Journal::open(&path).unwrap_err();
        assert!(e.message.contains("line 1"), "{e}");
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_with_its_code() {
        let full = Path::new("/dev/full");
        let j = Journal::start(OpenOptions::new().append(true).open(full).unwrap(), full).unwrap();
        assert_eq!(j.add(&[entry(1)]).await.unwrap_err().code, Code::Disk);
    }
}
