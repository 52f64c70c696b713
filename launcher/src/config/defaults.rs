//! What holds where nobody said anything, each with its reason.

use std::time::Duration;

/// Nothing to sign up for, nothing to pay, and the same code path as a cloud.
pub const PROVIDER: super::ProviderName = super::ProviderName::Local;

/// Enough to see work spread, cheap enough to be forgotten for a few minutes.
pub const WORKERS: u32 = 4;

/// Long enough for a coffee between two cells of a notebook, short enough that
/// a forgotten cluster costs cents.
pub const IDLE: Duration = Duration::from_secs(20 * 60);

/// A working day: what runs longer should have been asked for.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Stock images are ready in one to two minutes; after five something is wrong
/// and the user should learn why.
pub const START_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A person has to make machines meanwhile; what they are told is good for
/// twenty minutes.
pub const MANUAL_START_TIMEOUT: Duration = herdsman_wire::limits::BOOTSTRAP_LIFE;

/// One process of many threads a node: NumPy and pandas release the GIL, and
/// data is shared inside a process.
pub const WORKERS_PER_NODE: u16 = 1;

/// Only the computer that made the cluster.
pub const ALLOW: super::Allow = super::Allow::Me;

/// The environment of the laptop is what pickles were made with.
pub const ENV: super::EnvSource = super::EnvSource::Auto;

/// `up` says "up" when everything is.
pub const WAIT: super::Wait = super::Wait::All;

/// One cluster a user works without thinking of a name, and a second `up`
/// finds the first one's.
pub const NAME: &str = "dask-{user}";

/// Name where the user has none that fits.
pub const NAME_WITHOUT_USER: &str = "dask";

/// Workers of provider `local`: [`WORKERS`], but not more than processors,
/// since they would only take turns.
#[must_use]
pub fn local_workers(cpus: usize) -> u32 {
    u32::try_from(cpus).unwrap_or(WORKERS).clamp(1, WORKERS)
}
