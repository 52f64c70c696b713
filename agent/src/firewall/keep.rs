//! The table in force, and keeping it so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herdsman_wire::report::{Dropped, FirewallReport, FirewallState};
use ring::digest::{SHA256, digest};
use tokio::io::unix::AsyncFd;

use super::encode::{self, Counts};
use super::netlink::{Ear, Error, Socket};
use super::policy::Policy;
use super::rules::{Table, counter, table};
use super::verify::{self, Found};
use crate::files;

/// The last policy of this boot: an agent that starts anew goes on with it, as
/// Dask does.
pub(super) const SAVED: &str = "firewall.json";
/// Largest file of that: ten thousand members.
const SAVED_MOST: usize = 1024 * 1024;

/// The firewall of this network namespace.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    saved: PathBuf,
    policy: Policy,
    table: Table,
    /// What the kernel had after the last change.
    seen: Option<Found>,
    repaired: u64,
    /// As read last: a table that is made anew goes on from there.
    counts: BTreeMap<String, Counts>,
}

impl Firewall {
    /// Closes the machine: with the policy that an earlier agent of this boot had,
    /// or to everybody. `run` is the node's folder in memory.
    ///
    /// # Errors
    /// When there is no right to do so, or the kernel has no nf_tables.
    pub fn close(run: &Path) -> Result<Self, Error> {
        let saved = run.join(SAVED);
        let policy = load(&saved).unwrap_or_default();
        let table = table(&policy);
        let mut firewall = Self {
            socket: Socket::open()?,
            saved,
            policy,
            table,
            seen: None,
            repaired: 0,
            counts: BTreeMap::new(),
        };
        let found = verify::read(&mut firewall.socket, &firewall.table)?;
        let kind = comment(&firewall.table);
        let stays = found
            .as_ref()
            .is_some_and(|f| f.is_of(&kind) && f.differs(&firewall.table, &kind).is_none());
        if found.is_some() {
            firewall.counts = verify::counters(&mut firewall.socket).unwrap_or_default();
        }
        if stays {
            firewall.seen = found;
        } else {
            firewall.replace()?;
        }
        Ok(firewall)
    }

    /// What is in force.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Puts a policy into force.
    ///
    /// # Errors
    /// As the kernel says; what was in force before still is.
    pub fn apply(&mut self, policy: Policy) -> Result<(), Error> {
        if policy == self.policy {
            return Ok(());
        }
        let new = table(&policy);
        let same_kind = comment(&new) == comment(&self.table);
        let old = std::mem::replace(&mut self.table, new);
        let changed = if same_kind {
            let changes = encode::changes(&old, &self.table);
            // A set that somebody else changed is made anew with all the rest.
            self.socket.batch(changes).or_else(|_| self.replace())
        } else {
            self.replace()
        };
        if let Err(e) = changed {
            self.table = old;
            return Err(e);
        }
        self.policy = policy;
        self.seen = verify::read(&mut self.socket, &self.table)?;
        self.save();
        Ok(())
    }

    /// Looks whether the table is in force as applied, and puts it back where it
    /// is not. Says what was wrong.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn check(&mut self) -> Result<Option<String>, Error> {
        let found = verify::read(&mut self.socket, &self.table)?;
        let wrong = match (&found, &self.seen) {
            (None, _) => Some("the table was taken away".to_owned()),
            (Some(f), seen) => f.differs(&self.table, &comment(&self.table)).or_else(|| {
                let changed = seen.as_ref().is_some_and(|s| !f.has_rules_of(s));
                changed.then(|| "a rule was changed".to_owned())
            }),
        };
        if wrong.is_some() {
            self.replace()?;
            self.repaired += 1;
        }
        Ok(wrong)
    }

    /// What it counted, and how it is.
    pub fn report(&mut self) -> FirewallReport {
        let why = match verify::counters(&mut self.socket) {
            Ok(counts) => {
                self.counts = counts;
                None
            }
            Err(e) => Some(full(&e)),
        };
        let packets = |name: &str| self.counts.get(name).map_or(0, |c| c.0);
        FirewallReport {
            state: if why.is_none() {
                FirewallState::On
            } else {
                FirewallState::Failed
            },
            why,
            dropped: Dropped {
                strangers: packets(counter::STRANGERS),
                too_fast: packets(counter::TOO_FAST),
                too_many: packets(counter::TOO_MANY),
                metadata: packets(counter::METADATA),
            },
            repaired: self.repaired,
        }
    }

    /// Takes the table away: the node has ended in order.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn remove(mut self) -> Result<(), Error> {
        let _ = std::fs::remove_file(&self.saved);
        delete(&mut self.socket)
    }

    /// Makes the table anew, in one step.
    fn replace(&mut self) -> Result<(), Error> {
        if let Ok(counts) = verify::counters(&mut self.socket)
            && !counts.is_empty()
        {
            self.counts = counts;
        }
        let counts = |name: &str| self.counts.get(name).copied().unwrap_or_default();
        let messages = encode::whole(&self.table, &comment(&self.table), counts);
        self.socket.batch(messages)?;
        self.seen = verify::read(&mut self.socket, &self.table)?;
        match self
            .seen
            .as_ref()
            .map(|s| s.differs(&self.table, &comment(&self.table)))
        {
            Some(None) => Ok(()),
            // Somebody was quicker; the next check repairs it.
            Some(Some(why)) => {
                tracing::warn!("firewall: {why} right after it was applied");
                Ok(())
            }
            None => Err(Error::Refused {
                what: "the table: it is not there after it was made".into(),
                source: std::io::ErrorKind::NotFound.into(),
            }),
        }
    }

    /// Best effort: without it the next agent begins closed.
    fn save(&self) {
        let saved = serde_json::to_vec(&self.policy)
            .map_err(|e| e.to_string())
            .and_then(|text| files::write_atomic(&self.saved, &text).map_err(|e| e.message));
        if let Err(e) = saved {
            tracing::warn!("firewall: {e}");
        }
    }
}

/// Reads the policy of this boot, if there is one that can be read.
pub(super) fn load(saved: &Path) -> Option<Policy> {
    let bytes = files::read_limited(saved, SAVED_MOST).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Counts of the table in force, if there is one.
pub(super) fn counts() -> Result<Option<BTreeMap<String, Counts>>, Error> {
    let counts = verify::counters(&mut Socket::open()?)?;
    Ok((!counts.is_empty()).then_some(counts))
}

/// Takes our table away, if there is one.
///
/// # Errors
/// As the kernel says.
pub fn remove(run: &Path) -> Result<(), Error> {
    let _ = std::fs::remove_file(run.join(SAVED));
    delete(&mut Socket::open()?)
}

fn delete(socket: &mut Socket) -> Result<(), Error> {
    match socket.batch(vec![encode::delete_table()]) {
        Err(e) if e.is_missing() => Ok(()),
        other => other,
    }
}

/// An error with its cause, for reports.
pub(super) fn full(e: &Error) -> String {
    use std::error::Error as _;
    e.source()
        .map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
}

/// Says of which kind a table is: all of it but what its sets hold. A table of
/// another kind, for example of an older agent, is made anew.
fn comment(table: &Table) -> String {
    let mut frame = table.clone();
    frame.sets.iter_mut().for_each(|s| s.elements.clear());
    let hash = digest(&SHA256, frame.to_string().as_bytes());
    let short: String = hash.as_ref()[..4].iter().map(|b| format!("{b:02x}")).collect();
    format!("made by herdsman-agent, rules {short}")
}

/// Tells when somebody changed a table of this network namespace.
#[derive(Debug)]
pub struct News(AsyncFd<Ear>);

impl News {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no way to the kernel's packet filter.
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe to call; our descriptor is the same and open for as long as it lives"
    )]
    pub fn open() -> Result<Self, Error> {
        AsyncFd::new(Ear::open()?).map(Self).map_err(Error::Socket)
    }

    /// Waits for the next change.
    pub async fn next(&self) {
        loop {
            match self.0.readable().await {
                Ok(mut ready) => {
                    ready.clear_ready();
                    if self.0.get_ref().drain() {
                        return;
                    }
                }
                // Checks go on by the clock.
                Err(_) => std::future::pending().await,
            }
        }
    }
}
