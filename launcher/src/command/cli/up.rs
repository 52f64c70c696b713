//! Arguments of `up`, each of which is also a setting.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use herdsman_wire::ClusterName;

use super::unseen::Unseen;
use crate::config::{
    Allow, EnvSource, Limit, LocalNetwork, Period, ProviderName, SecretName, Setting, Size, Spot, Tag, Threads,
    Variable, Wait, WorkerRange,
};

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
    /// Where nodes come from whose address cannot be known before they enrol, as behind a NAT
    /// (again for more) [default: the networks of the scheduler's machine]
    #[arg(long, value_name = "CIDR", help_heading = "Security")]
    pub join: Vec<ipnet::IpNet>,
    /// Certificates of your own for Dask's traffic.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// How the nodes of provider `local` are joined
    #[arg(long, value_name = "HOW")]
    pub local_network: Option<LocalNetwork>,
    /// Folder for what machines of provider `manual` are to be told
    #[arg(long, value_name = "DIR")]
    pub user_data_dir: Option<PathBuf>,
    /// Address at which workers of provider `manual` reach the scheduler
    #[arg(long, value_name = "IP")]
    pub scheduler_address: Option<std::net::IpAddr>,
    /// Tag of everything that is made (again for more)
    #[arg(long, value_name = "KEY=VALUE", value_parser = Unseen::<Tag>::new())]
    pub tag: Vec<Tag>,
    /// Machines of a cloud.
    #[command(flatten)]
    pub machines: MachineArgs,
    /// Any setting by its key, such as aws.cpu_credits=standard (again for more)
    #[arg(long, value_name = "KEY=VALUE", value_parser = Unseen::<Setting>::new())]
    pub set: Vec<Setting>,
    /// While the provider has no machines left, try again until it has
    #[arg(long)]
    pub retry_until_up: bool,
    /// Only print what would be made, with its price; nothing is made
    #[arg(long)]
    pub plan: bool,
    /// Keep what was made when the start fails
    #[arg(long)]
    pub keep_failed: bool,
    /// What to do with a cluster that is there already
    #[arg(long, value_name = "WHAT", default_value = "converge")]
    pub if_exists: IfExists,
}

/// What to do with a cluster that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IfExists {
    /// Bring it to what is asked for
    #[default]
    Converge,
    /// Use it as it is
    Keep,
    /// Refuse
    Fail,
}

impl From<IfExists> for crate::cluster::IfExists {
    fn from(given: IfExists) -> Self {
        match given {
            IfExists::Converge => Self::Converge,
            IfExists::Keep => Self::Keep,
            IfExists::Fail => Self::Fail,
        }
    }
}

/// Where machines of a cloud stand and what they are.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Machines")]
pub struct MachineArgs {
    /// Region [default: what the provider's own tools use]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Zone (again for more, tried in order)
    #[arg(long, value_name = "ZONE")]
    pub zone: Vec<String>,
    /// No public address anywhere
    #[arg(long)]
    pub private: bool,
    /// Processors of each worker's machine, at least
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// Exact type of workers' machines (again for more, tried in order)
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Disk of each worker's machine
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Size>,
    /// Graphics processors of each worker's machine
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Kind of graphics processors, such as T4
    #[arg(long, value_name = "KIND")]
    pub gpu_type: Option<String>,
    /// Workers that the provider may take away, for less money
    #[arg(long, value_name = "WHEN")]
    pub spot: Option<Spot>,
    /// Processors of the scheduler's machine, at least
    #[arg(long, value_name = "N")]
    pub scheduler_cpu: Option<u32>,
    /// Memory of the scheduler's machine, at least
    #[arg(long, value_name = "SIZE")]
    pub scheduler_memory: Option<Size>,
    /// Exact type of the scheduler's machine (again for more, tried in order)
    #[arg(long, value_name = "TYPE")]
    pub scheduler_type: Vec<String>,
    /// Disk of the scheduler's machine
    #[arg(long, value_name = "SIZE")]
    pub scheduler_disk: Option<Size>,
    /// Graphics processors of the scheduler's machine
    #[arg(long, value_name = "N")]
    pub scheduler_gpus: Option<u32>,
    /// Their kind
    #[arg(long, value_name = "KIND")]
    pub scheduler_gpu_type: Option<String>,
    /// Existing network, by id or name
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Existing part of it (again for more, tried in order)
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Vec<String>,
    /// Existing firewall besides our own (again for more)
    #[arg(long, value_name = "GROUP")]
    pub security_group: Vec<String>,
    /// Image to start from: an id, a name or a family
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Kind of disk
    #[arg(long, value_name = "KIND")]
    pub disk_type: Option<String>,
    /// Key that the provider knows, to log in with
    #[arg(long, value_name = "KEY")]
    pub ssh_key: Option<String>,
    /// What machines may do at the provider: instance profile, service account, identity
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
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
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The scheduler's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_scheduler_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_scheduler_key: Option<PathBuf>,
    /// The workers' certificate
    #[arg(long, value_name = "FILE")]
    pub tls_worker_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_worker_key: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_client_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_client_key: Option<PathBuf>,
}
