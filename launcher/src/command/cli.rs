//! What can be typed. Types only; the words here are the manual.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use herdsman_wire::{ClusterName, NodeName};

use super::unseen::Unseen;
use crate::config::{
    Allow, EnvSource, Limit, LocalNetwork, Period, ProviderName, SecretName, Size, Tag, Threads, Variable, Wait,
    WorkerRange,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Dask clusters on cloud machines: secure by default, in a minute.
#[derive(Debug, Parser)]
#[command(name = "herdsman", version, styles = STYLES, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Try `herdsman up demo` first: it needs no account, and costs nothing.")]
pub struct Cli {
    /// What all commands know.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Form of the output on stdout
    #[arg(short, long, global = true, value_name = "FORM", default_value = "table")]
    pub output: Output,
    /// Tell each step on stderr, in this form, while waiting
    #[arg(long, global = true, value_name = "FORM")]
    pub events: Option<Events>,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: the program's own log
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Never ask; what needs an answer is an error that names the flag
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// The user's settings file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Profile of the user's settings
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
}

/// Form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// Names only, one a line
    Name,
}

/// Form of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Events {
    /// One JSON object a line
    Jsonl,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a cluster up, or an existing one to what is asked for
    Up(Box<UpArgs>),
    /// Delete everything of a cluster, and look that nothing is left
    Down(DownArgs),
    /// List clusters
    Ls(LsArgs),
    /// Show a cluster's nodes, their state, and when it ends by itself
    Status(StatusArgs),
    /// Change the number of workers; finished work is never lost
    Scale(ScaleArgs),
    /// Put off the time when a cluster ends by itself
    Extend(ExtendArgs),
    /// Show the logs of a cluster or of one node
    Logs(LogsArgs),
    /// Open Dask's dashboard on this computer
    Dash(DashArgs),
    /// Keep a local port open to Dask's scheduler
    Connect(ConnectArgs),
    /// Print what a shell needs to reach a cluster: eval "$(herdsman env NAME)"
    Env(EnvArgs),
    /// Run a command on a node
    Exec(ExecArgs),
    /// Take trust away from a node and cut it off within seconds
    Remove(RemoveArgs),
    /// Find out why something is slow, stuck or out of reach
    Doctor(DoctorArgs),
    /// See what the copied Python environment holds
    #[command(subcommand)]
    Pkg(PkgVerb),
    /// See and change settings
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print versions
    Version,
}

/// Arguments of `up`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  herdsman up                            a cluster on this machine, with defaults
  herdsman up demo --workers 8           with eight workers
  herdsman up demo --idle 1h             ends by itself an hour after the last task
  herdsman up ci -f herdsman.toml -o json --events jsonl")]
pub struct UpArgs {
    /// Name of the cluster
    pub name: Option<ClusterName>,
    /// Settings file in place of ./herdsman.toml
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What makes the machines
    #[arg(long, value_name = "NAME")]
    pub provider: Option<ProviderName>,
    /// How many workers: 4, or 2..8 to follow the work
    #[arg(short = 'n', long, value_name = "N|MIN..MAX")]
    pub workers: Option<WorkerRange>,
    /// Threads of each worker process
    #[arg(long, value_name = "N|auto")]
    pub threads: Option<Threads>,
    /// Memory of each worker's node, such as 16GiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Worker processes on each node
    #[arg(long, value_name = "N")]
    pub workers_per_node: Option<std::num::NonZeroU16>,
    /// Class of worker processes under the nanny
    #[arg(long, value_name = "CLASS")]
    pub worker_class: Option<String>,
    /// Further argument of `dask worker` (again for more)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub worker_option: Vec<String>,
    /// Further argument of `dask scheduler` (again for more)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub scheduler_option: Vec<String>,
    /// Where the nodes' Python environment comes from: auto, copy, lock:FILE, image, none
    #[arg(long, value_name = "SOURCE", help_heading = "Python environment")]
    pub env: Option<EnvSource>,
    /// Environment or interpreter to copy [default: the active one]
    #[arg(long, value_name = "PATH", help_heading = "Python environment")]
    pub python: Option<PathBuf>,
    /// Environment variable of Dask's processes (again for more)
    #[arg(long, value_name = "NAME=VALUE", value_parser = Unseen::<Variable>::new(), help_heading = "Python environment")]
    pub env_var: Vec<Variable>,
    /// Secret variable whose value is read here and sent over mTLS (again for more)
    #[arg(long, value_name = "NAME", value_parser = Unseen::<SecretName>::new(), help_heading = "Python environment")]
    pub secret: Vec<SecretName>,
    /// End by itself after this long without a task [default: 20m]
    #[arg(long, value_name = "20m|off", help_heading = "Limits")]
    pub idle: Option<Limit>,
    /// End by itself after this long without a client
    #[arg(long, value_name = "1h|off", help_heading = "Limits")]
    pub no_client: Option<Limit>,
    /// End by itself this long after the start [default: 12h]
    #[arg(long, value_name = "12h|off", help_heading = "Limits")]
    pub lifetime: Option<Limit>,
    /// Most workers there may ever be
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_workers: Option<u32>,
    /// How long the start may take [default: 5m]
    #[arg(long, value_name = "5m", help_heading = "Limits")]
    pub start_timeout: Option<Period>,
    /// What to wait for: none, scheduler, first, all, or a share such as 50%
    #[arg(long, value_name = "WHAT")]
    pub wait: Option<Wait>,
    /// Who may reach the cluster's ports: me, none, or a network (again for more)
    #[arg(long, value_name = "CIDR|me|none", help_heading = "Security")]
    pub allow: Vec<Allow>,
    /// Certificates of your own for Dask's traffic.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// How the nodes of provider `local` are joined
    #[arg(long, value_name = "HOW")]
    pub local_network: Option<LocalNetwork>,
    /// Tag of everything that is made (again for more)
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<Tag>,
    /// Only print the resolved settings; nothing is made
    #[arg(long)]
    pub plan: bool,
    /// Keep what was made when the start fails
    #[arg(long)]
    pub keep_failed: bool,
}

/// The user's own certificates.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct TlsArgs {
    /// Plain TCP for Dask's own traffic: anybody who reaches it can run code
    #[arg(long)]
    pub insecure: bool,
    /// Certificates that Dask trusts, in place of the cluster's own
    #[arg(long, value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// Certificate for all roles without one of their own
    #[arg(long, value_name = "FILE", requires = "tls_ca_file")]
    pub tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The scheduler's certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca_file")]
    pub tls_scheduler_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_scheduler_cert")]
    pub tls_scheduler_key: Option<PathBuf>,
    /// The workers' certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca_file")]
    pub tls_worker_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_worker_cert")]
    pub tls_worker_key: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca_file")]
    pub tls_client_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_client_cert")]
    pub tls_client_key: Option<PathBuf>,
}

/// Arguments of `down`.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// Names of the clusters [default: the only one]
    pub names: Vec<ClusterName>,
    /// All clusters
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

/// Arguments of `ls`.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// Do not ask the clusters themselves, only who has machines
    #[arg(long)]
    pub offline: bool,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Name of the cluster [default: the only one]
    pub name: Option<ClusterName>,
    /// Show it again whenever it changes
    #[arg(short, long)]
    pub watch: bool,
    /// Only what this computer remembers, without the network
    #[arg(long, conflicts_with = "watch")]
    pub offline: bool,
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
    /// How long new workers may take
    #[arg(long, value_name = "5m", default_value = "5m")]
    pub start_timeout: Period,
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
    /// Do not open a browser
    #[arg(long)]
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
    /// Name of the cluster
    pub name: ClusterName,
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
}

/// Arguments of `completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// A limit as the API has it: 0 is off.
#[must_use]
pub fn limit_seconds(limit: Limit) -> u64 {
    limit.seconds().map_or(0, |s| s.max(1))
}
