//! What can go wrong between the laptop's Python and a bundle for the nodes.

use std::io;
use std::path::PathBuf;

use herdsman_wire::{ApiError, Code};

/// Why an environment cannot be read, locked or packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interpreter was found in any of the usual places.
    #[error("no Python was found; looked at {}", looked.join(", "))]
    NoInterpreter {
        /// The places, in order.
        looked: Vec<String>,
    },
    /// What was named or found is no usable Python.
    #[error("{} cannot be used as Python: {why}", path.display())]
    NotPython {
        /// What was tried.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A package without which there is no cluster.
    #[error("{} {} not installed in {}", packages.join(" and "), if packages.len() > 1 { "are" } else { "is" }, python.display())]
    Missing {
        /// The packages.
        packages: Vec<String>,
        /// The interpreter.
        python: PathBuf,
        /// What installs them there.
        command: String,
    },
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Anything else that the user can do something about.
    #[error("{what}")]
    Refused {
        /// What failed and why.
        what: String,
        /// What to try.
        hints: Vec<String>,
    },
    /// Versions that differ where they must not.
    #[error("{what}")]
    Mismatch {
        /// The differences, one a line.
        what: String,
        /// What to try.
        hints: Vec<String>,
    },
    /// A step that took too long.
    #[error("{what} did not end within {seconds} s")]
    Deadline {
        /// The step.
        what: String,
        /// Its time.
        seconds: u64,
    },
}

impl Error {
    /// An error of the file system, with its path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A refusal with lines of what to try.
    #[must_use]
    pub fn refused(what: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Refused {
            what: what.into(),
            hints: hints.into_iter().collect(),
        }
    }

    /// The code under which users see it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::Disk,
            Self::Mismatch { .. } => Code::Mismatch,
            Self::Deadline { .. } => Code::Deadline,
            _ => Code::Environment,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let hints = match &error {
            Error::NoInterpreter { .. } => vec![
                "activate a virtual environment, or name one: --python PATH".to_owned(),
                "use what the machines have: --env image".to_owned(),
            ],
            Error::NotPython { .. } => vec!["name another interpreter: --python PATH".to_owned()],
            Error::Missing { command, .. } => vec![
                command.clone(),
                "or name the environment that has them: --python PATH".to_owned(),
            ],
            Error::Refused { hints, .. } | Error::Mismatch { hints, .. } => hints.clone(),
            Error::Io { .. } | Error::Malformed { .. } | Error::Deadline { .. } => Vec::new(),
        };
        Self {
            hint: hints,
            ..Self::new(error.code(), error.to_string())
        }
    }
}
