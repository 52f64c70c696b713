//! Arguments of the verbs about providers: what they have, cost and left.

use clap::Args;
use herdsman_wire::ClusterName;

use crate::config::{Period, ProviderName, Size};

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman check            the settings' provider
  herdsman check aws gcp    these
  herdsman check --all      all of them")]
pub struct CheckArgs {
    /// Providers [default: the one of the settings]
    pub providers: Vec<ProviderName>,
    /// All providers
    #[arg(long, conflicts_with = "providers")]
    pub all: bool,
    /// Region
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
}

/// Arguments of `sizes`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  herdsman sizes aws --cpu 4 --memory 16GiB    the cheapest first
  herdsman sizes aws --gpu --region eu-central-1")]
pub struct SizesArgs {
    /// The provider [default: the one of the settings]
    pub provider: Option<ProviderName>,
    /// Processors, at least
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// Memory, at least
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Only with graphics processors
    #[arg(long)]
    pub gpu: bool,
    /// Only this architecture: x86_64 or aarch64
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Region
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value = "40")]
    pub limit: usize,
}

/// Arguments of `cost`.
#[derive(Clone, Debug, Args)]
pub struct CostArgs {
    /// Name of the cluster [default: all]
    pub name: Option<ClusterName>,
}

/// Arguments of `reap`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Without -y nothing is deleted, only shown.

Examples:
  herdsman reap aws                        what there is
  herdsman reap aws -y --older-than 24h    in a timer")]
pub struct ReapArgs {
    /// The provider [default: the one of the settings]
    pub provider: Option<ProviderName>,
    /// Whole clusters of this age as well
    #[arg(long, value_name = "24h")]
    pub older_than: Option<Period>,
    /// Region
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
}
