//! What goes into a supervisor, and the words that come out.

use std::time::Duration;

use herdsman_wire::Timestamp;
use tokio::sync::oneshot;

use super::spec::ProcessSpec;

/// An order for the supervisor.
#[derive(Debug)]
pub enum Control {
    /// Have this run: what already runs with the same digest is adopted or left
    /// alone, anything else is stopped first.
    Start(Box<ProcessSpec>),
    /// Stop and start anew, with another specification if one is given.
    Restart(Option<Box<ProcessSpec>>),
    /// The driver has heard of Dask: it works.
    Running,
    /// Stop and stay stopped.
    Stop {
        /// Time for an orderly end.
        grace: Duration,
        /// Told when nothing is left.
        done: oneshot::Sender<()>,
    },
    /// The agent ends, the process goes on. So it is too when all senders go.
    Detach,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the order of things.
    Info,
    /// Went wrong and is being put right.
    Warn,
    /// Needs somebody.
    Error,
}

/// Something people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// What, in sentences; after a crash followed by the last lines of output.
    pub text: String,
}
