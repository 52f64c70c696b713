//! Arguments of the verbs other than `up`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use herdsman_wire::{ClusterName, NodeName};

use crate::config::{Allow, EnvSource, Limit, Period, ProviderName};

/// Arguments of `down`.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// Names of the clusters [default: the only one]
    pub names: Vec<ClusterName>,
    /// All clusters
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Provider [default: the cluster's record, then the settings]
    #[arg(long, value_name = "NAME")]
    pub provider: Option<ProviderName>,
    /// Region
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Forget machines that only you can delete, and have (provider `manual`)
    #[arg(long)]
    pub forget: bool,
}

/// Arguments of `ls`.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// Show them again whenever they change
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Show it again whenever it changes
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman scale demo 8                  eight workers
  herdsman scale demo --without demo-w3  without this one")]
pub struct ScaleArgs {
    /// Name of the cluster, then the number; the number alone for the only one
    #[arg(required_unless_present = "without", num_args = 1..=2, value_names = ["NAME", "N"])]
    pub what: Vec<String>,
    /// Give up this node (again for more)
    #[arg(long, value_name = "NODE")]
    pub without: Vec<NodeName>,
    /// Only nodes that have nothing to do; the others stay
    #[arg(long, requires = "without")]
    pub idle: bool,
    /// How long new workers may take
    #[arg(long, value_name = "5m", default_value = "5m")]
    pub start_timeout: Period,
    /// Whether new workers are waited for
    #[arg(long, value_name = "WHAT", default_value = "all")]
    pub wait: ScaleWait,
}

/// What `scale` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ScaleWait {
    /// That new workers are ready
    #[default]
    All,
    /// That their machines are being made
    None,
}

/// Arguments of `extend`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman extend demo 2h                two more hours from now
  herdsman extend demo --idle off        however long it is idle")]
pub struct ExtendArgs {
    /// Name of the cluster
    pub name: ClusterName,
    /// End of its life, counted from now
    #[arg(value_name = "2h|off", required_unless_present = "idle")]
    pub lifetime: Option<Limit>,
    /// New idle limit
    #[arg(long, value_name = "1h|off")]
    pub idle: Option<Limit>,
}

/// Arguments of `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Only this node
    pub node: Option<NodeName>,
    /// Go on with new lines
    #[arg(short, long)]
    pub follow: bool,
    /// Only lines of the last while
    #[arg(long, value_name = "10m")]
    pub since: Option<Period>,
    /// At most so many of the newest lines of each node; 0 is all that is kept
    #[arg(short = 'n', long, value_name = "N", default_value_t = 200)]
    pub tail: u32,
    /// Only the scheduler's node
    #[arg(long, conflicts_with_all = ["node", "worker"])]
    pub scheduler: bool,
    /// Only workers' nodes
    #[arg(long, conflicts_with = "node")]
    pub worker: bool,
    /// Only Dask's own output
    #[arg(long)]
    pub dask: bool,
    /// Only the agent's
    #[arg(long)]
    pub agent: bool,
    /// The machine's console; works without the hub too
    #[arg(long, conflicts_with_all = ["follow", "dask", "agent"])]
    pub boot: bool,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
}

/// Arguments of `dash`.
#[derive(Clone, Debug, Args)]
pub struct DashArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Local port; 0 is any
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Open a browser even where none would be opened by itself
    #[arg(long, overrides_with = "no_open")]
    pub open: bool,
    /// Do not open a browser
    #[arg(long, overrides_with = "open")]
    pub no_open: bool,
}

/// Arguments of `connect`.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Local port; 0 is any
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
}

/// Arguments of `attend`.
#[derive(Clone, Debug, Args)]
pub struct AttendArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Local port for Dask's dashboard; any where it is taken
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub dashboard_port: u16,
    /// Local port for Dask's scheduler; any where it is taken
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub scheduler_port: u16,
}

/// Arguments of `env`.
#[derive(Clone, Debug, Args)]
pub struct EnvArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Shell to write for
    #[arg(long, value_name = "SHELL", default_value = "sh")]
    pub shell: Shell,
}

/// Shells that `env` writes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// sh, bash, zsh, dash
    #[default]
    Sh,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
}

/// Arguments of `exec`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman exec demo -- nproc                    on the scheduler's node
  herdsman exec demo demo-w0 -- python -V        on a worker's, with its Python
  herdsman exec demo --all -- df -h /            on all of them")]
pub struct ExecArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// The node [default: the scheduler's]
    pub node: Option<NodeName>,
    /// On every node, one after the other
    #[arg(long, conflicts_with = "node")]
    pub all: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `remove`.
#[derive(Clone, Debug, Args)]
pub struct RemoveArgs {
    /// Name of the cluster
    pub name: ClusterName,
    /// The nodes
    #[arg(required_unless_present = "user")]
    pub nodes: Vec<NodeName>,
    /// A person whose certificates are not trusted any more (again for more)
    #[arg(long, value_name = "NAME")]
    pub user: Vec<String>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "removed by its operator")]
    pub why: String,
}

/// Arguments of `upgrade`.
#[derive(Clone, Debug, Args)]
pub struct UpgradeArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// The agent's program [default: the one beside this launcher]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
}

/// Arguments of `allow`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman allow demo                    the address that this command comes from
  herdsman allow demo 203.0.113.0/24     a network, for example before you move there
When your address has changed already, nothing of yours gets in. Then, as root on the scheduler's
machine (its console, SSH): herdsman-agent firewall --allow ADDRESS; or --proxy-command through
a computer that is let in.")]
pub struct AllowArgs {
    /// Name of the cluster
    pub name: ClusterName,
    /// Networks, addresses, or me
    #[arg(default_value = "me", value_name = "NETWORK")]
    pub networks: Vec<Allow>,
}

/// Arguments of `deny`.
#[derive(Clone, Debug, Args)]
pub struct DenyArgs {
    /// Name of the cluster
    pub name: ClusterName,
    /// Networks as `herdsman status` shows them
    #[arg(required = true, value_name = "NETWORK")]
    pub networks: Vec<Allow>,
    /// Even if that shuts this computer out
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Name of the cluster; without it only this computer is looked at
    pub name: Option<ClusterName>,
    /// Write everything that helps others to help into a file, without secrets
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// The commands of `pkg`.
#[derive(Clone, Debug, Subcommand)]
pub enum PkgVerb {
    /// Show each package and what would be done with it
    Show(PkgArgs),
    /// Write the lock file that nodes would install
    Lock(PkgLockArgs),
    /// Write all that an image needs to have the environment in it
    Pack(PkgPackArgs),
    /// Say why a package is taken, changed or left out
    Why(PkgWhyArgs),
}

/// Arguments of `pkg show`.
#[derive(Clone, Debug, Args)]
pub struct PkgArgs {
    /// Environment or interpreter [default: the active one]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

/// Arguments of `pkg lock`.
#[derive(Clone, Debug, Args)]
pub struct PkgLockArgs {
    /// Environment or interpreter [default: the active one]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// File to write; without it the lock is printed
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// Arguments of `pkg pack`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman pkg pack --to packed
  sudo scripts/bake-image --image debian.qcow2 --env packed

Clusters whose machines start from that image find the environment there, with
`--env copy` and for as long as it is the same: `herdsman pkg show` tells its id.")]
pub struct PkgPackArgs {
    /// Environment or interpreter [default: the active one]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Where it comes from: copy or lock:FILE [default: as for `up`]
    #[arg(long, value_name = "SOURCE")]
    pub env: Option<EnvSource>,
    /// Folder to write; what an earlier `pkg pack` left there is replaced
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Arguments of `pkg why`.
#[derive(Clone, Debug, Args)]
pub struct PkgWhyArgs {
    /// The package
    pub package: String,
    /// Environment or interpreter [default: the active one]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

/// The commands of `config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigVerb {
    /// Show all settings in force, or one
    Get {
        /// Key, such as limits.idle
        key: Option<String>,
        /// Also where it comes from, and what it wins against
        #[arg(long)]
        why: bool,
        /// Settings file in place of ./herdsman.toml
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Change one of the user's defaults
    Set {
        /// Key, such as limits.idle
        key: String,
        /// New value
        value: String,
    },
    /// Print where settings and keys are kept
    Path,
    /// Write a settings file from dask-cloudprovider's configuration
    Migrate(MigrateArgs),
}

/// Arguments of `config migrate`.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// Which cloud, where there are settings of several
    #[arg(long, value_name = "NAME")]
    pub provider: Option<ProviderName>,
    /// The file to write [default: herdsman.toml]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Print it instead
    #[arg(long)]
    pub print: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
