//! The keeper stands in for systemd where nodes are process trees of one
//! machine: one keeper a node, `herdsman-agent keep --dir DIR`.
//!
//! ```text
//! keeper ── agent ── dask
//!    ▲                 │ agent killed: its orphans come to the keeper,
//!    └─────────────────┘ and the next agent adopts them
//! ```
//!
//! Promises:
//! - Ports are bound in the namespace the keeper was started in; everything
//!   else, connections behind these ports included, happens in the node's
//!   namespace. So a node without any route is reached at a loopback address.
//! - An agent that ends unasked is started again, with back-off, and Dask lives
//!   on meanwhile. Exit code 0 (ended in order) and 3 (configuration refused)
//!   are final.
//! - No zombie stays: the keeper is the subreaper of everything below it.
//! - It ends last. When it is gone in order, no process of the node is left.
//! - `keeper-state.json` in DIR tells what is so now; it is replaced, never
//!   written in place.
//!
//! The keeper has one thread, opens no name service and allocates little: there
//! may be many of it.

mod config;
mod forward;
mod process;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::resource::Resource;

pub use config::{Forward, KeeperConfig, KeeperState, Phase, VERSION};

use config::StateFile;

/// Environment variable that everything of a node carries: `<cluster id>/<node>`.
pub const MARKER: &str = "HERDSMAN_NODE";

/// Exit code of an agent whose configuration is refused: no second try helps.
pub const EXIT_REFUSED: u8 = 3;

/// Two descriptors for each of the forwarded connections, and some of our own.
const DESCRIPTORS: u64 = 2 * forward::CONNECTIONS as u64 + 256;

/// Why the keeper cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The command line is no good.
    #[error("usage: herdsman-agent keep --dir DIR")]
    Usage,
    /// The marker is missing, so nobody could find the node's processes.
    #[error("{MARKER} is not set")]
    Unmarked,
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `keeper.json` does not parse.
    #[error("{path}: {why}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// A forward cannot listen.
    #[error("forward {name}: cannot listen on {listen}: {source}")]
    Listen {
        /// The forward's name.
        name: String,
        /// Where it should listen.
        listen: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A step of the set-up was refused by the kernel.
    #[error("{step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

fn system(step: &'static str) -> impl FnOnce(nix::Error) -> KeeperError {
    move |e| KeeperError::System { step, source: e.into() }
}

/// Entry of `herdsman-agent keep`; `args` are what follows `keep`. Must run on
/// the process's only thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match keep(args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            note(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A line on the node's console, which is what the keeper's standard error is.
fn note(text: &str) {
    // The console may be on a full disk; the keeper's work goes on without it.
    let _ = writeln!(std::io::stderr(), "keeper: {text}");
}

fn keep(args: impl IntoIterator<Item = OsString>) -> Result<u8, KeeperError> {
    let dir = parse(args)?;
    if std::env::var_os(MARKER).is_none() {
        return Err(KeeperError::Unmarked);
    }
    // Fails only for the leader of a group, which is as far from the terminal.
    let _ = nix::unistd::setsid();
    let config = KeeperConfig::read(&dir)?;

    // Before the namespace is left: these ports belong to the host.
    let (listeners, forwards) = forward::bind(&config.forwards)?;
    if let Some(path) = &config.netns {
        let netns = File::open(path).map_err(|source| KeeperError::File {
            path: path.clone(),
            source,
        })?;
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).map_err(system("enter the network namespace"))?;
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(system("become a subreaper"))?;
    raise_descriptors();

    let state = StateFile::new(&dir, forwards).map_err(|source| KeeperError::File {
        path: dir.clone(),
        source,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| KeeperError::System {
            step: "start the event loop",
            source,
        })?;
    runtime
        .block_on(async {
            forward::serve(listeners)?;
            supervise::Supervisor::new(config, state)?.run().await
        })
        .map_err(|source| KeeperError::System {
            step: "keep the node",
            source,
        })
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<PathBuf, KeeperError> {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(dir), None) if flag == "--dir" && !dir.is_empty() => Ok(dir.into()),
        _ => Err(KeeperError::Usage),
    }
}

/// The usual soft limit of 1024 descriptors is less than full forwards need.
/// Best effort: with fewer, connections wait.
fn raise_descriptors() {
    if let Ok((soft, hard)) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = DESCRIPTORS.min(hard);
        if soft < wanted {
            let _ = nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_exact() {
        let parse = |args: &[&str]| parse(args.iter().map(OsString::from));
        assert_eq!(parse(&["--dir", "/x"]).unwrap(), PathBuf::from("/x"));
        for bad in [&[][..], &["--dir"], &["--dir", ""], &["/x"], &["--dir", "/x", "y"]] {
            assert!(matches!(parse(bad), Err(KeeperError::Usage)), "{bad:?}");
        }
    }
}
