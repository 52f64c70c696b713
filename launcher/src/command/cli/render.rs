//! Arguments of `render`.

use clap::{Args, Subcommand, ValueEnum};
use herdsman_wire::{ClusterName, NodeName};
use ipnet::IpNet;

use crate::bootstrap::UserDataForm;
use crate::config::{Period, ProviderName};

/// What can be rendered. One more is a variant here, an arm in
/// `command/render.rs` and a file that does it.
#[derive(Clone, Debug, Subcommand)]
pub enum RenderVerb {
    /// User-data that makes a machine of your own a worker of a running cluster
    CloudInit(CloudInitArgs),
    /// The agent's systemd unit, for images of your own
    Systemd,
    /// A Packer template that makes images with the agent in them, for four clouds
    Packer,
    /// An example of worker machines for Terraform or OpenTofu
    Terraform,
    /// The least that a cloud's account has to allow
    Iam(IamArgs),
    /// The packet filter of a new node, as `nft` reads it
    Firewall(FirewallArgs),
}

/// Arguments of `render iam`.
#[derive(Clone, Debug, Args)]
pub struct IamArgs {
    /// The cloud [default: the settings' provider]
    #[arg(long, value_name = "NAME")]
    pub provider: Option<ProviderName>,
}

/// Arguments of `render firewall`.
#[derive(Clone, Debug, Args)]
pub struct FirewallArgs {
    /// Network of the owner's to let in, such as 203.0.113.7/32; may be repeated
    #[arg(long, value_name = "NETWORK")]
    pub allow: Vec<IpNet>,
}

/// What a machine becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RenderRole {
    /// A worker
    #[default]
    Worker,
    /// The scheduler; only `up` can make it
    Scheduler,
    /// An image that machines start from: the agent and `extra_bootstrap`, without any key
    Image,
}

/// Arguments of `render cloud-init`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman render cloud-init --cluster demo > user-data      for a console, Terraform …
  herdsman render cloud-init --cluster demo --form script    the same as a shell script
  herdsman render cloud-init --role image > user-data        what makes an image of a machine

But for an image, each output is good for one machine, once, and for a short time.")]
pub struct CloudInitArgs {
    /// The cluster [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// What the machine becomes
    #[arg(long, value_name = "ROLE", default_value = "worker")]
    pub role: RenderRole,
    /// The node's name [default: the next free one]
    #[arg(long, value_name = "NAME")]
    pub node: Option<NodeName>,
    /// Form that the machine takes
    #[arg(long, value_name = "FORM", default_value = "cloud-config")]
    pub form: UserDataForm,
    /// How long the machine may take to come; at most 30m
    #[arg(long, value_name = "20m", default_value = "20m")]
    pub ttl: Period,
}
