//! Where a value came from.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Origin {
    /// A flag of the command.
    Flag {
        /// With its dashes.
        flag: &'static str,
    },
    /// An argument of the program that runs this one, as Python's class has them.
    Argument {
        /// The setting's key.
        key: String,
    },
    /// Dask's configuration, as that program read it.
    Dask {
        /// The setting's key.
        key: String,
    },
    /// A file of the project.
    File {
        /// As it was found or named.
        path: PathBuf,
        /// Line of the key, from 1.
        line: Option<u32>,
    },
    /// An environment variable.
    Env {
        /// Its name.
        variable: String,
    },
    /// A profile of the user's settings.
    Profile {
        /// Its name.
        profile: String,
        /// The user's settings file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: Option<u32>,
    },
    /// The user's own defaults.
    User {
        /// The user's settings file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: Option<u32>,
    },
    /// Nobody said anything.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |f: &mut fmt::Formatter<'_>, path: &PathBuf, line: &Option<u32>| {
            write!(f, "{}", path.display())?;
            line.map_or(Ok(()), |line| write!(f, ":{line}"))
        };
        match self {
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Argument { key } => write!(f, "argument for {key}"),
            Self::Dask { key } => write!(f, "dask.config for {key}"),
            Self::File { path, line } | Self::User { path, line } => place(f, path, line),
            Self::Env { variable } => write!(f, "environment variable {variable}"),
            Self::Profile { profile, path, line } => {
                place(f, path, line)?;
                write!(f, " (profile {profile})")
            }
            Self::BuiltIn => f.write_str("built-in default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
    /// Folder that relative paths in the value start from.
    pub base: PathBuf,
}
