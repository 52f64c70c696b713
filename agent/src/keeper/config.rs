//! The keeper's two files: `keeper.json`, what it shall do, and
//! `keeper-state.json`, what is so.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::KeeperError;
use super::process;

/// Version of both documents that this build reads and writes.
pub const VERSION: u32 = 1;

/// Name of the file read.
const CONFIG_FILE: &str = "keeper.json";
/// Name of the file written.
const STATE_FILE: &str = "keeper-state.json";

/// What a keeper shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeeperConfig {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's program, started as `PROGRAM run --config FILE --firewall on|off`.
    pub agent: PathBuf,
    /// The FILE above.
    pub config: PathBuf,
    /// Network namespace to enter, as a file; absent: stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Ports to forward into the node.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// The node's console: output of agent and keeper.
    pub boot_log: PathBuf,
}

/// A port outside that leads to one inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// What it is for.
    pub name: String,
    /// Where the keeper listens; in the configuration with port 0, in the state
    /// with the real one.
    pub listen: SocketAddr,
    /// Where connections lead, in the node's namespace.
    pub to: SocketAddr,
}

/// What a node's agent is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Listening; the agent was not started yet.
    Starting,
    /// The agent runs.
    Running,
    /// The agent ended unasked and will be started again.
    Waiting,
    /// Asked to end; agent or Dask still run.
    Stopping,
    /// The agent ended in order; the keeper is about to end or has ended.
    Ended,
    /// The agent refused its configuration; the keeper likewise.
    Refused,
}

/// What a keeper tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperState {
    /// [`VERSION`].
    pub version: u32,
    /// The keeper's process.
    pub pid: i32,
    /// Its start, in clock ticks since boot: with `boot_id` it tells the keeper
    /// from a later process of the same number.
    pub start_ticks: u64,
    /// The boot that these numbers belong to.
    pub boot_id: String,
    /// Forwards with their real ports.
    pub forwards: Vec<Forward>,
    /// The agent's process, while it runs.
    pub agent: Option<i32>,
    /// How often the agent was started again.
    pub restarts: u32,
    /// What the agent is at.
    pub state: Phase,
}

impl KeeperConfig {
    /// Reads `keeper.json` in `dir`.
    ///
    /// # Errors
    /// When it is missing, malformed or of another version.
    pub fn read(dir: &Path) -> Result<Self, KeeperError> {
        let path = dir.join(CONFIG_FILE);
        let bytes = fs::read(&path).map_err(|source| KeeperError::File {
            path: path.clone(),
            source,
        })?;
        Self::parse(&bytes).map_err(|why| KeeperError::Config { path, why })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if head.version != VERSION {
            return Err(format!(
                "has version {}, this keeper reads version {VERSION}",
                head.version
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }
}

/// The state and the file that shows it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    shown: KeeperState,
}

impl StateFile {
    /// Writes the first state: listening.
    pub(super) fn new(dir: &Path, forwards: Vec<Forward>) -> io::Result<Self> {
        let me = process::Stat::read(nix::unistd::getpid().as_raw())
            .ok_or_else(|| io::Error::other("cannot read /proc/self/stat"))?;
        let file = Self {
            path: dir.join(STATE_FILE),
            shown: KeeperState {
                version: VERSION,
                pid: me.pid,
                start_ticks: me.start_ticks,
                boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().into(),
                forwards,
                agent: None,
                restarts: 0,
                state: Phase::Starting,
            },
        };
        file.write()?;
        Ok(file)
    }

    /// Changes the state and writes it if that made a difference. A full disk is
    /// noted and no reason to leave the node alone.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut KeeperState)) {
        let before = self.shown.clone();
        change(&mut self.shown);
        if self.shown != before
            && let Err(e) = self.write()
        {
            super::note(&format!("{}: {e}", self.path.display()));
        }
    }

    fn write(&self) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&self.shown)?)?;
        // No fsync: after a crash of the machine these processes are gone too.
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_provider_writes() {
        let c = KeeperConfig::parse(
            br#"{"version":1,"agent":"/a","config":"/c","netns":"/run/netns/x","boot_log":"/b",
                 "forwards":[{"name":"agent","listen":"127.0.0.1:0","to":"10.88.0.2:8785"}]}"#,
        )
        .unwrap();
        assert_eq!(c.forwards[0].to.port(), 8785);
        let least = KeeperConfig::parse(br#"{"version":1,"agent":"/a","config":"/c","boot_log":"/b"}"#).unwrap();
        assert_eq!((least.netns, least.forwards), (None, vec![]));
    }

    #[test]
    fn another_version_is_named() {
        let e = KeeperConfig::parse(br#"{"version":7,"new":1}"#).unwrap_err();
        assert!(e.contains("version 7") && e.contains("version 1"), "{e}");
        assert!(KeeperConfig::parse(b"{").is_err());
        assert!(KeeperConfig::parse(br#"{"version":1,"agent":"/a"}"#).is_err());
    }

    #[test]
    fn the_state_file_is_whole_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path(), vec![]).unwrap();
        file.update(|s| s.state = Phase::Running);
        let path = dir.path().join(STATE_FILE);
        let read: KeeperState = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((read.state, read.restarts), (Phase::Running, 0));
        assert_eq!(read.pid, std::process::id() as i32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The folder may be deleted under a running keeper.
        drop(dir);
        file.update(|s| s.restarts = 1);
    }
}
