//! Every environment variable that the launcher reads, and the only place where
//! it does so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use etcetera::base_strategy::BaseStrategy;

/// Folder of keys and records; default: `herdsman` in the user's data folder.
pub const STATE_DIR: &str = "HERDSMAN_STATE_DIR";
/// Second name of the same folder; the first one wins.
pub const STATE: &str = "HERDSMAN_STATE";
/// The user's settings file; default: `herdsman/config.toml` in the user's
/// configuration folder. `--config` wins.
pub const CONFIG: &str = "HERDSMAN_CONFIG";
/// Profile of the user's settings file; `--profile` wins.
pub const PROFILE: &str = "HERDSMAN_PROFILE";
/// The cluster's name.
pub const NAME: &str = "HERDSMAN_NAME";
/// What makes the machines.
pub const PROVIDER: &str = "HERDSMAN_PROVIDER";
/// How many workers, `4` or `2..8`.
pub const WORKERS: &str = "HERDSMAN_WORKERS";
/// Threads of each worker process.
pub const THREADS: &str = "HERDSMAN_THREADS";
/// Memory of each worker's node.
pub const MEMORY: &str = "HERDSMAN_MEMORY";
/// Worker processes on each node.
pub const WORKERS_PER_NODE: &str = "HERDSMAN_WORKERS_PER_NODE";
/// Most workers there may ever be.
pub const MAX_WORKERS: &str = "HERDSMAN_MAX_WORKERS";
/// Where the nodes' environment comes from.
pub const ENV: &str = "HERDSMAN_ENV";
/// The interpreter whose environment is copied.
pub const PYTHON: &str = "HERDSMAN_PYTHON";
/// Who may reach the cluster, separated by commas.
pub const ALLOW: &str = "HERDSMAN_ALLOW";
/// Idle time after which the cluster ends.
pub const IDLE: &str = "HERDSMAN_IDLE";
/// Time without a client after which the cluster ends.
pub const NO_CLIENT: &str = "HERDSMAN_NO_CLIENT";
/// Life after which the cluster ends.
pub const LIFETIME: &str = "HERDSMAN_LIFETIME";
/// How long a node may take to start.
pub const START_TIMEOUT: &str = "HERDSMAN_START_TIMEOUT";
/// What `up` waits for.
pub const WAIT: &str = "HERDSMAN_WAIT";
/// How local nodes are joined.
pub const LOCAL_NETWORK: &str = "HERDSMAN_LOCAL_NETWORK";
/// Program whose standard input and output lead to the hub.
pub const PROXY_COMMAND: &str = "HERDSMAN_PROXY_COMMAND";
/// The agent's program, where it is not beside the launcher.
pub const AGENT: &str = "HERDSMAN_AGENT";
/// The launcher's program, for the Python package; the launcher itself has no use for it.
pub const BINARY: &str = "HERDSMAN_BINARY";
/// Set to anything but `0` or nothing: never ask, as with `--no-input`.
pub const NO_INPUT: &str = "HERDSMAN_NO_INPUT";
/// Set to anything but `0` or nothing: no calls beyond the cluster, as with
/// `--offline`.
pub const OFFLINE: &str = "HERDSMAN_OFFLINE";
/// The `uv` program that locks and fetches packages, where it is neither on the
/// path nor beside Python.
pub const UV: &str = "HERDSMAN_UV";
/// Level of the program's own log where no `-v` is given: `error`, `warn`,
/// `info`, `debug` or `trace`.
pub const LOG: &str = "HERDSMAN_LOG";
/// Address with which a cloud sees this computer, where no service is to be asked.
pub const MY_ADDRESS: &str = "HERDSMAN_MY_ADDRESS";
/// Beginning of Dask's way to name a setting in the environment:
/// `DASK_HERDSMAN__LIMITS__IDLE` is `limits.idle`.
pub const DASK_PREFIX: &str = "DASK_HERDSMAN__";
/// Set to anything: no colours (<https://no-color.org>).
pub const NO_COLOR: &str = "NO_COLOR";
/// Set to anything but `0`: colours even where no terminal is.
pub const CLICOLOR_FORCE: &str = "CLICOLOR_FORCE";
/// `dumb`: neither colours nor moving lines.
pub const TERM: &str = "TERM";
/// The user's home.
pub const HOME: &str = "HOME";
/// The user's configuration folder.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The user's data folder.
pub const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// The user's login name, on Unix.
pub const USER: &str = "USER";
/// The user's login name, on Windows.
pub const USERNAME: &str = "USERNAME";

/// Variables that stand for one setting each, with the setting's key.
pub const SETTINGS: &[(&str, &str)] = &[
    (PROFILE, "profile"),
    (NAME, "name"),
    (PROVIDER, "provider"),
    (WORKERS, "workers.count"),
    (THREADS, "workers.threads"),
    (MEMORY, "workers.memory"),
    (WORKERS_PER_NODE, "workers.workers_per_vm"),
    (MAX_WORKERS, "limits.max_workers"),
    (ENV, "env.mode"),
    (PYTHON, "env.python"),
    (ALLOW, "place.allow"),
    (IDLE, "limits.idle"),
    (NO_CLIENT, "limits.no_client"),
    (LIFETIME, "limits.lifetime"),
    (START_TIMEOUT, "limits.start_timeout"),
    (WAIT, "wait"),
    (LOCAL_NETWORK, "local.network"),
    (PROXY_COMMAND, "connect.proxy_command"),
];

/// Variables of ours that stand for no setting of a cluster.
pub const OTHERS: &[&str] = &[
    STATE_DIR,
    STATE,
    CONFIG,
    BINARY,
    AGENT,
    UV,
    NO_INPUT,
    OFFLINE,
    LOG,
    MY_ADDRESS,
    "HERDSMAN_AWS_ENDPOINT",
    "HERDSMAN_AZURE_ENDPOINT",
    "HERDSMAN_DIGITALOCEAN_ENDPOINT",
    "HERDSMAN_GCP_ENDPOINT",
    "HERDSMAN_HETZNER_ENDPOINT",
    "HERDSMAN_OPENSTACK_ENDPOINT",
];

/// Names of the Python class's arguments, which `DASK_HERDSMAN__` may use as
/// well, with the setting's key.
pub const PYTHON_NAMES: &[(&str, &str)] = &[
    ("n_workers", "workers.count"),
    ("worker_cpu", "workers.cpu"),
    ("worker_memory", "workers.memory"),
    ("worker_type", "workers.type"),
    ("worker_disk", "workers.disk"),
    ("worker_class", "workers.class"),
    ("threads", "workers.threads"),
    ("workers_per_node", "workers.workers_per_vm"),
    ("scheduler_cpu", "scheduler.cpu"),
    ("scheduler_memory", "scheduler.memory"),
    ("scheduler_type", "scheduler.type"),
    ("region", "place.region"),
    ("zone", "place.zones"),
    ("worker_gpu", "workers.gpus"),
    ("private", "place.private"),
    ("allow", "place.allow"),
    ("spot", "workers.spot"),
    ("env", "env.mode"),
    ("python", "env.python"),
    ("idle_timeout", "limits.idle"),
    ("no_client_timeout", "limits.no_client"),
    ("max_lifetime", "limits.lifetime"),
    ("max_cost", "limits.max_cost"),
    ("max_workers", "limits.max_workers"),
    ("start_timeout", "limits.start_timeout"),
    ("wait_for_workers", "wait"),
];

/// Settings under `DASK_HERDSMAN__` which only the Python class reads.
pub const PYTHON_ONLY: &[&str] = &[
    "asynchronous",
    "create_mode",
    "debug",
    "drop_in_provider",
    "loop",
    "quiet",
    "shutdown_on_close",
    "silence_logs",
];

/// The environment as a value, so that nothing below reads the process's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// The process's environment. Entries that are no UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of a variable; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Whether a switch is on: set, and not `0`.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "0")
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The user's login name.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.get(USER).or_else(|| self.get(USERNAME))
    }

    /// Folder of the user's settings, without `herdsman`.
    #[must_use]
    pub fn config_home(&self) -> Option<PathBuf> {
        self.home(XDG_CONFIG_HOME, ".config", |s| s.config_dir())
    }

    /// Folder of the user's data, without `herdsman`.
    #[must_use]
    pub fn data_home(&self) -> Option<PathBuf> {
        self.home(XDG_DATA_HOME, ".local/share", |s| s.data_dir())
    }

    /// The XDG rules (a relative path in the variable is to be ignored) over
    /// this environment; where there is no `HOME`, what the system says.
    fn home(&self, variable: &str, below: &str, other: impl Fn(&dyn BaseStrategy) -> PathBuf) -> Option<PathBuf> {
        if let Some(dir) = self.get(variable).map(PathBuf::from).filter(|d| d.is_absolute()) {
            return Some(dir);
        }
        if let Some(home) = self.get(HOME) {
            return Some(PathBuf::from(home).join(below));
        }
        etcetera::choose_base_strategy().ok().map(|s| other(&s))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
