//! Azure.
//!
//! Azure Resource Manager with interfaces of fixed versions: resources by path, JSON.
//! A machine is one call, which makes its disk, interface and address with it and
//! deletes them with it. Each cluster has a resource group of its own, whose deletion
//! deletes everything, unless the user names one. For scheduler and N workers `up`
//! makes N + 1 calls for machines, about ten for the network, one for the catalogue,
//! and three for each look at all of them.

mod answers;
mod api;
mod assertion;
mod auth;
mod azcli;
mod catalogue;
mod check;
mod failure;
mod key;
mod launch;
mod look;
mod machines;
mod names;
mod network;
mod patience;
mod policy;
mod prices;
mod rest;
mod settings;

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use futures_util::future::LocalBoxFuture;
use herdsman_wire::{ClusterId, ClusterName, Code};
use tokio::sync::OnceCell;

use super::cloud::{Answer, Cloud, Common, Facts, Finding, Laptop, Made, Offer, Plan, Resource, SelfEnd, error};
use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

/// The vendor's limit of custom data, before base64.
const USER_DATA_MAX: usize = 65_535;

/// The provider.
#[derive(Debug)]
pub struct Azure {
    settings: settings::Settings,
    api: api::Api,
    laptop: Laptop,
    catalogue: OnceCell<catalogue::Catalogue>,
    /// Where machines of a cluster go, so that it is looked up once.
    nets: Mutex<Vec<(ClusterId, network::Net)>>,
    /// Whether a machine could not be deleted. It holds what hangs on it for as long as
    /// anyone waits.
    is_held: AtomicBool,
}

impl Azure {
    /// A provider with these settings; makes no call.
    ///
    /// # Errors
    /// `E-USAGE` naming the setting.
    pub fn new(common: Common) -> Result<Self, ProviderError> {
        let settings = settings::Settings::new(common)?;
        Ok(Self {
            api: api::Api::new(&settings)?,
            settings,
            laptop: Laptop::default(),
            catalogue: OnceCell::new(),
            nets: Mutex::default(),
            is_held: AtomicBool::new(false),
        })
    }

    /// The subscription that everything is in.
    fn subscription(&self) -> Result<&str, ProviderError> {
        self.settings.subscription.as_deref().ok_or_else(|| {
            error(Code::Usage, "nothing says which subscription of Azure to use")
                .with_hint("az account set --subscription ID      sets it for az and for herdsman")
                .with_hint("export AZURE_SUBSCRIPTION_ID=…        or `subscription` in [azure]")
        })
    }

    fn nets(&self) -> std::sync::MutexGuard<'_, Vec<(ClusterId, network::Net)>> {
        self.nets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, cluster: &ClusterRef, net: network::Net) {
        self.nets().push((cluster.id.clone(), net));
    }

    fn remembered(&self, cluster: &ClusterRef) -> Option<network::Net> {
        let nets = self.nets();
        let found = nets.iter().rev().find(|(id, _)| *id == cluster.id);
        found.map(|(_, net)| net.clone())
    }

    fn forget(&self, cluster: &ClusterRef) {
        self.nets().retain(|(id, _)| *id != cluster.id);
    }
}

impl Cloud for Azure {
    fn facts(&self) -> Facts {
        Facts {
            name: "azure",
            shares_user_data: false,
            user_data_max: USER_DATA_MAX,
            self_end: SelfEnd::Billed,
        }
    }

    fn region(&self) -> Option<String> {
        Some(self.settings.region.clone())
    }

    fn check(&self) -> LocalBoxFuture<'_, Vec<Finding>> {
        Box::pin(self.look_around())
    }

    fn sizes(&self) -> Answer<'_, Vec<Offer>> {
        Box::pin(self.sizes_with_prices())
    }

    fn plan(&self, workers: u32) -> Answer<'_, Plan> {
        Box::pin(self.outline(workers))
    }

    fn ensure_network<'a>(&'a self, cluster: &'a ClusterRef, tags: &'a Tags) -> Answer<'a, ()> {
        Box::pin(self.make_network(cluster, tags))
    }

    fn laptop(&self) -> Option<IpAddr> {
        self.laptop.known()
    }

    fn create<'a>(
        &'a self,
        cluster: &'a ClusterRef,
        machines: &'a [MachineSpec],
        made: Made<'a>,
    ) -> LocalBoxFuture<'a, Vec<Result<Machine, ProviderError>>> {
        Box::pin(self.make(cluster, machines, made))
    }

    fn settled<'a>(&'a self, machine: &'a Machine) -> Answer<'a, Machine> {
        Box::pin(self.settle(machine))
    }

    fn list<'a>(&'a self, cluster: Option<&'a ClusterName>) -> Answer<'a, Vec<Machine>> {
        Box::pin(self.machines(cluster.map(ClusterName::as_str)))
    }

    fn shared<'a>(&'a self, cluster: Option<&'a ClusterName>) -> Answer<'a, Vec<Resource>> {
        Box::pin(self.shared_resources(cluster.map(ClusterName::as_str)))
    }

    fn delete<'a>(&'a self, machines: &'a [Machine]) -> Answer<'a, Deleted> {
        Box::pin(self.terminate(machines))
    }

    fn delete_rest<'a>(&'a self, cluster: &'a ClusterRef) -> Answer<'a, Deleted> {
        Box::pin(self.delete_network(cluster))
    }

    fn console<'a>(&'a self, machine: &'a Machine) -> Answer<'a, String> {
        Box::pin(self.output(machine))
    }

    fn policy(&self) -> String {
        policy::policy(&self.settings)
    }
}
