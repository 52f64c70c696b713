//! What the link with Dask's guards tells the driver.

use herdsman_wire::report::WorkerStatus;

use super::guard_message::{Hello, PeerKind, Report};

/// What the guards tell.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardEvent {
    /// A process introduced itself.
    Connected {
        /// Number of the connection.
        peer: u64,
        /// What it says.
        hello: Hello,
    },
    /// A connection ended; of a process that was connected before.
    Gone {
        /// Number of the connection.
        peer: u64,
        /// What it was.
        kind: PeerKind,
        /// Dask's name of it.
        name: String,
    },
    /// A worker registered at the scheduler.
    WorkerAdded(WorkerStatus),
    /// A worker went from the scheduler.
    WorkerRemoved {
        /// Dask's name of it.
        name: String,
        /// Its address.
        address: String,
    },
    /// Counts.
    Report {
        /// Number of the connection.
        peer: u64,
        /// The counts.
        report: Report,
    },
    /// Something is wrong with a process's certificates, CRLs or guard.
    Problem {
        /// Whose; absent when it did not come to a hello.
        kind: Option<PeerKind>,
        /// A stable word, for example `cert-expired`.
        code: String,
        /// A sentence.
        message: String,
    },
}
