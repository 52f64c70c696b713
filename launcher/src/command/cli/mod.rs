//! What can be typed. Types only; the words here are the manual.

mod clouds;
mod render;
mod unseen;
mod up;
mod verbs;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Given, Limit, Period, ProxyCommand};

pub use clouds::{CheckArgs, CostArgs, ReapArgs, SizesArgs};
pub use render::{CloudInitArgs, FirewallArgs, IamArgs, RenderRole, RenderVerb};
pub(crate) use unseen::masked;
pub use up::{MachineArgs, TlsArgs, UpArgs};
pub use verbs::{
    AllowArgs, AttendArgs, CompletionArgs, ConfigVerb, ConnectArgs, DashArgs, DenyArgs, DoctorArgs, DownArgs, EnvArgs,
    ExecArgs, ExtendArgs, LogsArgs, LsArgs, MigrateArgs, PkgArgs, PkgLockArgs, PkgPackArgs, PkgVerb, PkgWhyArgs,
    RemoveArgs, ScaleArgs, ScaleWait, Shell, StatusArgs, UpgradeArgs,
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
    /// Give up after this long
    #[arg(long, global = true, value_name = "10m")]
    pub timeout: Option<Period>,
    /// Only what this computer knows, without the network
    #[arg(long, global = true)]
    pub offline: bool,
    /// Program whose input and output lead to the hub, such as "ssh -W %h:%p bastion"
    #[arg(long, global = true, value_name = "COMMAND")]
    pub proxy_command: Option<ProxyCommand>,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// The user's settings file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Profile of the user's settings
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Settings that a program gives: a file, or - for the standard input
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    pub settings: Option<PathBuf>,
    /// What was read of it.
    #[arg(skip)]
    pub given: Option<Given>,
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
    /// For programs: tell what happens to a cluster, and hold tunnels and certificates, until
    /// the standard input ends
    #[command(hide = true)]
    Attend(AttendArgs),
    /// Print what a shell needs to reach a cluster: eval "$(herdsman env NAME)"
    Env(EnvArgs),
    /// Run a command on a node
    Exec(ExecArgs),
    /// Take trust away from a node and cut it off within seconds
    Remove(RemoveArgs),
    /// Let a network reach a cluster
    Allow(AllowArgs),
    /// Let a network reach a cluster no longer
    Deny(DenyArgs),
    /// Find out why something is slow, stuck or out of reach
    Doctor(DoctorArgs),
    /// Look whether providers can be used: credentials, permissions, quota, network
    Check(CheckArgs),
    /// List machine types with their prices
    Sizes(SizesArgs),
    /// Say what clusters cost
    Cost(CostArgs),
    /// Find what no cluster owns any more, and delete it
    Reap(ReapArgs),
    /// See what the copied Python environment holds
    #[command(subcommand)]
    Pkg(PkgVerb),
    /// Put this launcher's agent on all nodes; computations go on
    Upgrade(UpgradeArgs),
    /// Print what people need who make machines by themselves
    #[command(subcommand)]
    Render(RenderVerb),
    /// See and change settings
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print versions
    Version,
}

/// A limit as the API has it: 0 is off.
#[must_use]
pub fn limit_seconds(limit: Limit) -> u64 {
    limit.seconds().map_or(0, |s| s.max(1))
}

#[cfg(test)]
mod tests;
