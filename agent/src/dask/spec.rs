//! What a supervised process is: everything that is needed to start it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::{ApiError, Code, Secret};
use serde::{Deserialize, Serialize};

/// Environment variable that marks every process of a supervised tree, so that
/// those which left the session are found again. Not the one that marks the
/// whole node: the agent and its keeper carry that too.
pub const MARKER: &str = "HERDSMAN_DASK";

/// Variables that a child gets from the agent's own environment where the
/// specification does not set them.
pub const INHERITED: [&str; 7] = [
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    // By these a provider without machines finds what belongs to a node.
    "HERDSMAN_NODE",
    "HERDSMAN_NODE_DIR",
    "HERDSMAN_NODE_OF",
];

/// How long a process may take for an orderly end unless told otherwise: Dask's
/// nannies give their workers ten seconds.
pub const GRACE: Duration = Duration::from_secs(20);

/// A process to supervise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments without the program's name; never a secret.
    pub args: Vec<String>,
    /// Environment; nothing else is inherited but [`INHERITED`].
    pub env: BTreeMap<String, Secret>,
    /// Value of [`MARKER`]; unique among everything supervised on this machine.
    pub marker: String,
    /// Working directory.
    pub cwd: PathBuf,
    /// Whose rights it gets; absent: the agent's own.
    pub user: Option<User>,
    /// Control group that it is started in.
    pub cgroup: Option<Group>,
    /// File mode creation mask.
    pub umask: u32,
    /// Limit of open files; the hard limit where absent or out of reach.
    pub nofile: Option<u64>,
    /// Makes the kernel prefer (above 0) this process when memory is out.
    pub oom_score: i16,
    /// File that standard output and error are appended to.
    pub output: PathBuf,
    /// Where the running process is written down.
    pub pid_file: PathBuf,
    /// Time for an orderly end at a restart.
    pub grace: Duration,
}

/// Numeric identity of a user: names would need the host's own libraries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups; all others are dropped.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// A control group of version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its folder.
    pub path: PathBuf,
    /// Memory limit in bytes, where the controller is available.
    #[serde(default)]
    pub memory_max: Option<u64>,
}

/// What the child reads from its standard input before it becomes the program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instructions {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, Secret>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: Option<User>,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) umask: u32,
    pub(crate) nofile: Option<u64>,
    pub(crate) oom_score: i16,
}

impl ProcessSpec {
    /// A process with defaults for everything that need not be chosen.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, marker: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            marker: marker.into(),
            cwd: folder.clone(),
            user: None,
            cgroup: None,
            umask: 0o027,
            nofile: None,
            oom_score: 0,
            output: folder.join("dask.log"),
            pid_file: folder.join("dask.pid"),
            grace: GRACE,
        }
    }

    /// Digest of everything that shapes the running process. Where the PID file
    /// and the output lie does not, nor does the time for its end.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut ctx = ring::digest::Context::new(&ring::digest::SHA256);
        let mut put = |bytes: &[u8]| {
            ctx.update(&(bytes.len() as u64).to_be_bytes());
            ctx.update(bytes);
        };
        put(self.program.as_os_str().as_encoded_bytes());
        put(self.cwd.as_os_str().as_encoded_bytes());
        put(self.marker.as_bytes());
        put(&(self.args.len() as u64).to_be_bytes());
        for a in &self.args {
            put(a.as_bytes());
        }
        for (name, value) in &self.env {
            put(name.as_bytes());
            put(value.reveal().as_bytes());
        }
        let rest = format!("{:?} {:?} {:o} {:?}", self.user, self.cgroup, self.umask, self.nofile);
        put(rest.as_bytes());
        ctx.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The complete environment of the child; `own` looks a variable up in the
    /// agent's.
    pub(crate) fn environment(&self, own: impl Fn(&str) -> Option<String>) -> BTreeMap<String, Secret> {
        let mut env = self.env.clone();
        for name in INHERITED {
            if !env.contains_key(name)
                && let Some(value) = own(name)
            {
                env.insert(name.to_owned(), Secret::new(value));
            }
        }
        env.insert(MARKER.to_owned(), Secret::new(self.marker.as_str()));
        env
    }

    /// The child's instructions as JSON.
    pub(crate) fn instructions(&self) -> Result<Vec<u8>, ApiError> {
        let all = Instructions {
            program: self.program.clone(),
            args: self.args.clone(),
            env: self.environment(|name| std::env::var(name).ok()),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            cgroup: self.cgroup.as_ref().map(|g| g.path.clone()),
            umask: self.umask,
            nofile: self.nofile,
            oom_score: self.oom_score,
        };
        serde_json::to_vec(&all).map_err(|e| {
            ApiError::new(
                Code::Usage,
                format!("{} cannot be started: {e}", self.program.display()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ProcessSpec {
        let mut s = ProcessSpec::new("/bin/true", "n1", "/tmp");
        s.env.insert("A".into(), Secret::new("hunter2"));
        s
    }

    #[test]
    fn the_digest_follows_what_matters() {
        let base = spec().digest();
        assert_eq!(base.len(), 64);
        let mut s = spec();
        s.output = "/elsewhere".into();
        s.pid_file = "/elsewhere".into();
        s.grace = Duration::from_secs(1);
        assert_eq!(s.digest(), base);
        let changes: [fn(&mut ProcessSpec); 6] = [
            |s| s.args.push("x".into()),
            |s| s.umask = 0o77,
            |s| s.marker = "n2".into(),
            |s| {
                s.user = Some(User {
                    uid: 1,
                    gid: 1,
                    groups: vec![],
                })
            },
            |s| {
                s.env.insert("A".into(), Secret::new("hunter3"));
            },
            |s| {
                s.env.remove("A");
                s.env.insert("Ah".into(), Secret::new("unter2"));
            },
        ];
        for change in changes {
            let mut s = spec();
            change(&mut s);
            assert_ne!(s.digest(), base);
        }
    }

    #[test]
    fn the_environment_is_the_given_one_and_a_few_more() {
        let own = |name: &str| Some(format!("agent's {name}"));
        let mut s = spec();
        s.env.insert("HOME".into(), Secret::new("/h"));
        let env = s.environment(own);
        let names: Vec<_> = env.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "A",
                "HERDSMAN_DASK",
                "HERDSMAN_NODE",
                "HERDSMAN_NODE_DIR",
                "HERDSMAN_NODE_OF",
                "HOME",
                "LANG",
                "PATH",
                "TMPDIR"
            ]
        );
        assert_eq!(env["HOME"].reveal(), "/h");
        assert_eq!(env["LANG"].reveal(), "agent's LANG");
    }

    #[test]
    fn debug_output_keeps_secrets() {
        assert!(!format!("{:?}", spec()).contains("hunter2"));
    }
}
