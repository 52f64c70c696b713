//! Settings, in three types: a [`file::File`] as users write it, [`merge`]d from
//! all sources with the origin of each value, and the checked [`Settings`], which
//! is the only one that leaves this folder.
//!
//! Sources, the strongest first: flags and what a program gives, a file named by
//! `-f`, environment variables, dask.config, `herdsman.toml` (or `pyproject.toml`) of the working folder or,
//! inside of a repository, of a folder above, a profile of the user's settings,
//! the user's defaults, built-in defaults.

mod check;
pub mod choice;
pub mod defaults;
mod edit;
pub mod error;
pub mod file;
mod given;
mod key;
mod layer;
mod load;
mod merge;
mod name;
pub mod origin;
pub mod pair;
pub mod parse;
mod places;
mod proxy;
pub mod secrets;
mod security;
mod settings;
mod user_file;
pub mod value;
pub mod vars;

pub use choice::{Accel, Allow, EnvMode, EnvSource, LocalNetwork, ProviderName, Spot, WORKERS_MAX, Wait, WorkerRange};

pub use error::{ConfigError, Problem};
pub use file::{File, UserFile};
pub use given::{Given, PROTOCOL as PROGRAM_PROTOCOL};
#[cfg(test)]
pub(crate) use layer::FLAGS;
pub use load::{Loaded, config_path, find_project, load, state_dir};
pub use merge::{Entries, Entry};
pub use origin::{Origin, Sourced};
pub use pair::{SecretName, Setting, Tag, Variable};
pub use parse::{parse_file, parse_user_file};
pub use proxy::{Program, ProxyCommand};
pub use settings::{MachineSize, Manual, OwnCertificates, Qemu, Settings};
pub use user_file::set as set_user_default;
pub use value::{Limit, Period, Size, Threads};
pub use vars::Env;

#[cfg(test)]
mod tests;
