//! The join configuration of the machine that we are on, wherever it is.
//!
//! ```text
//! /var/lib/herdsman/join.json ─ none ─▶ NoCloud ─ none ─▶ config drive ─ none ─▶ the cloud's
//!          │ ▲                                                          metadata service
//!          │ └── written, so that the next boot is the same ◀── found ────────┤
//!          ▼                                                          none    ▼
//!       the node                                       asked again with growing pauses
//! ```
//!
//! An image with the agent in it boots before anybody said what it shall be, and may
//! be told while it runs: a script of its user-data writes the file seconds later,
//! GCE's attributes and the tags of EC2 and Azure can be set at any time. So an agent
//! without a configuration waits for as long as its machine runs. It looks for the
//! file once a second, later every ten, and asks the metadata service with pauses that
//! grow to a minute where an answer can change and to five where it cannot. That costs
//! next to nothing and says next to nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Secret, limits};
use tokio::time::Instant;

use super::birth::{self, Record, Verdict};
use super::dmi::{Cloud, Dmi};
use super::extract::{self, Joined};
use super::metadata::{Metadata, Pace};
use super::seed::Drive;
use super::{Text, azure, digitalocean, ec2, gce, hetzner, nocloud, openstack, parse};
use crate::files::{make_dir, read_limited, write_atomic};
use crate::identity::enrol::dice;

/// The join configuration's place on a machine, below its root.
const JOIN: &str = "var/lib/herdsman/join.json";
/// What the machine is, beside it.
const RECORD: &str = "var/lib/herdsman/machine.json";

/// Pauses between looks at everything but the file: the first, and the longest where
/// an answer can change while the machine runs and where it cannot. The network may
/// come a little after the agent.
const FIRST: Duration = Duration::from_millis(500);
const LIVE: Duration = Duration::from_secs(60);
const FIXED: Duration = Duration::from_secs(300);
/// Pauses between looks for the file, at first and after [`LONG`].
const FILE: Duration = Duration::from_secs(1);
const FILE_LATER: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(600);

/// A machine to look around on.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    metadata: Metadata,
    pace: Pace,
}

/// What a node is to become.
#[derive(Clone, Debug)]
pub struct Found {
    /// The join configuration.
    pub join: JoinConfig,
    /// The machine, where the node has one of its own.
    pub machine: Option<Machine>,
}

/// What is known of a node's own machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The cloud that it runs on.
    pub cloud: Option<Cloud>,
    /// The cloud's metadata service.
    pub metadata: Metadata,
}

impl Host {
    /// The machine that this program runs on.
    #[must_use]
    pub fn this() -> Self {
        Self::new("/".into(), Metadata::link_local(), Pace::default())
    }

    /// A machine with its files below a folder and its metadata service at an address
    /// of its own.
    #[must_use]
    pub const fn new(root: PathBuf, metadata: Metadata, pace: Pace) -> Self {
        Self { root, metadata, pace }
    }

    /// The join configuration, waited for as long as it takes.
    pub async fn wait(&self) -> Found {
        let dmi = Dmi::read(&self.root);
        let cloud = dmi.cloud();
        let marks = self.marks(&dmi);
        if let Err(e) = self.recognise(&marks) {
            tracing::error!("cannot put another machine's files aside: {}", e.message);
        }
        let longest = match cloud {
            Some(Cloud::Azure | Cloud::Ec2 | Cloud::Gce | Cloud::OpenStack) => LIVE,
            _ => FIXED,
        };
        let started = Instant::now();
        let (mut pause, mut next) = (FIRST, started);
        let mut last = None;
        loop {
            let mut result = self.of_file();
            if !matches!(result, Ok(Some(_))) && Instant::now() >= next {
                result = self.or_elsewhere(result, &dmi, cloud).await;
                next = Instant::now() + pause.mul_f64(0.75 + 0.5 * dice());
                pause = (pause * 2).min(longest);
            }
            match result {
                Ok(Some(joined)) => {
                    if let Err(e) = self.leave_former_cluster(&joined.join) {
                        tracing::error!("cannot put the former cluster's files aside: {}", e.message);
                    }
                    self.keep(&joined, marks);
                    return Found {
                        join: joined.join,
                        machine: Some(Machine {
                            cloud,
                            metadata: self.metadata.clone(),
                        }),
                    };
                }
                Ok(None) if last.is_none() => {
                    let cloud = cloud.map_or("no cloud that is known", Cloud::as_str);
                    tracing::info!(cloud, "no join configuration yet; waiting for one");
                    last = Some(String::new());
                }
                Ok(None) => {}
                Err(e) if last.as_deref() == Some(&e.message) => {}
                Err(e) => {
                    tracing::error!(code = %e.code, "{}; waiting for a better one", e.message);
                    last = Some(e.message);
                }
            }
            let file = if started.elapsed() < LONG { FILE } else { FILE_LATER };
            let left = next.saturating_duration_since(Instant::now());
            tokio::time::sleep(if left.is_zero() { FILE } else { file.min(left) }).await;
        }
    }

    /// One look everywhere.
    ///
    /// # Errors
    /// What was found and is no good, or what could not be asked.
    pub async fn look(&self) -> Result<Option<Joined>, ApiError> {
        let dmi = Dmi::read(&self.root);
        match self.of_file() {
            Ok(Some(found)) => Ok(Some(found)),
            other => self.or_elsewhere(other, &dmi, dmi.cloud()).await,
        }
    }

    /// A file that is damaged is replaced by what is found elsewhere.
    async fn or_elsewhere(
        &self,
        file: Result<Option<Joined>, ApiError>,
        dmi: &Dmi,
        cloud: Option<Cloud>,
    ) -> Result<Option<Joined>, ApiError> {
        match self.elsewhere(dmi, cloud).await {
            Ok(None) => file,
            found => found,
        }
    }

    fn of_file(&self) -> Result<Option<Joined>, ApiError> {
        let path = self.root.join(JOIN);
        let Some(bytes) = read_limited(&path, limits::JOIN_CONFIG)? else {
            return Ok(None);
        };
        let join = parse(&bytes).map_err(|e| ApiError {
            message: format!("{}: {}", path.display(), e.message),
            ..e
        })?;
        let text = Secret::new(String::from_utf8_lossy(&bytes));
        Ok(Some(Joined { join, text }))
    }

    /// A place that fails does not hide what the next one has.
    async fn elsewhere(&self, dmi: &Dmi, cloud: Option<Cloud>) -> Result<Option<Joined>, ApiError> {
        let mut fault = None;
        let seeds = nocloud::texts(&self.root, dmi, self.pace).await;
        if let Some(found) = first(seeds, &mut fault) {
            return Ok(Some(found));
        }
        let drive = Drive::labelled(&self.root, &[openstack::LABEL])
            .and_then(|drive| drive.map_or(Ok(Vec::new()), |d| openstack::of_drive(&d)));
        if let Some(found) = first(drive, &mut fault) {
            return Ok(Some(found));
        }
        if let Some(cloud) = cloud {
            let texts = texts(cloud, &self.metadata).await;
            if let Some(found) = first(texts, &mut fault) {
                return Ok(Some(found));
            }
        }
        fault.map_or(Ok(None), Err)
    }

    /// Writes down what was found and where; a disk that is full does not stop a node.
    fn keep(&self, joined: &Joined, marks: BTreeMap<String, String>) {
        let path = self.root.join(JOIN);
        let text = joined.text.reveal().as_bytes();
        let record = Record::new(marks, &joined.join, text);
        let written = || {
            make_dir(path.parent().unwrap_or(&self.root))?;
            if read_limited(&path, limits::JOIN_CONFIG)?.as_deref() != Some(text) {
                write_atomic(&path, text)?;
            }
            let at = self.root.join(RECORD);
            if Record::read(&at).ok().flatten().as_ref() != Some(&record) {
                record.write(&at)?;
            }
            Ok(())
        };
        let written: Result<(), ApiError> = written();
        if let Err(e) = written {
            tracing::error!("the join configuration is not kept: {}", e.message);
        }
    }

    /// A machine that is told to join another cluster keeps nothing of the one before:
    /// a hub's keys would sign for the wrong one.
    fn leave_former_cluster(&self, join: &JoinConfig) -> Result<(), ApiError> {
        let record = Record::read(&self.root.join(RECORD))?;
        match record.filter(|r| r.cluster != join.cluster) {
            Some(record) => {
                tracing::info!(former = %record.cluster, now = %join.cluster, "this machine joins another cluster");
                birth::put_aside(&record.state)
            }
            None => Ok(()),
        }
    }

    fn marks(&self, dmi: &Dmi) -> BTreeMap<String, String> {
        let mut marks = dmi.birthmarks();
        if let Some(id) = nocloud::instance_id(&self.root) {
            marks.insert("seed".into(), id);
        }
        marks
    }

    /// Puts the files of another machine aside, if that is whose they are.
    fn recognise(&self, marks: &BTreeMap<String, String>) -> Result<(), ApiError> {
        let (path, join) = (self.root.join(RECORD), self.root.join(JOIN));
        let Some(record) = Record::read(&path)? else {
            return Ok(());
        };
        let text = read_limited(&join, limits::JOIN_CONFIG)?;
        let verdict = record.verdict(marks, text.as_deref());
        if verdict == Verdict::Own {
            return Ok(());
        }
        tracing::warn!(
            cluster = %record.cluster,
            "this machine was made from another node's disk; it starts as a new one and the other's identity is put aside"
        );
        birth::put_aside(&record.state)?;
        let remove = |path: &PathBuf| match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(crate::files::io_error("remove", path, &e)),
            _ => Ok(()),
        };
        if verdict == Verdict::All {
            remove(&join)?;
        }
        remove(&path)
    }
}

/// The texts of a cloud's metadata service.
///
/// # Errors
/// What stood in the way, naming the cloud.
pub async fn texts(cloud: Cloud, metadata: &Metadata) -> Result<Vec<Text>, ApiError> {
    let texts = match cloud {
        Cloud::Azure => azure::texts(metadata).await,
        Cloud::DigitalOcean => digitalocean::texts(metadata).await,
        Cloud::Ec2 => ec2::texts(metadata).await,
        Cloud::Gce => gce::texts(metadata).await,
        Cloud::Hetzner => hetzner::texts(metadata).await,
        Cloud::OpenStack => openstack::texts(metadata).await,
    };
    texts.map_err(|e| e.told(cloud.as_str()))
}

/// The first text that has a join configuration. The first fault of all is kept.
fn first(texts: Result<Vec<Text>, ApiError>, fault: &mut Option<ApiError>) -> Option<Joined> {
    let texts = texts.unwrap_or_else(|e| {
        fault.get_or_insert(e);
        Vec::new()
    });
    for text in texts {
        match extract::join(&text.content, &text.place) {
            Ok(Some(found)) => {
                tracing::info!("join configuration found in {}", text.place);
                return Some(found);
            }
            Ok(None) => {}
            Err(e) => {
                fault.get_or_insert(e);
            }
        }
    }
    None
}
