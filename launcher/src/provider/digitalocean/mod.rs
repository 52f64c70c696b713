//! DigitalOcean.
//!
//! Up to ten droplets that are told the same are made by one call; there is no
//! idempotency key, so that after a lost answer the list tells what was made. Firewalls
//! hold for tags, which belong to the account and are deleted with the cluster. `up`
//! makes about 10 calls, one for each ten machines, and a list every few seconds until
//! all have their addresses.

mod answers;
mod api;
mod catalogue;
mod check;
mod failure;
mod launch;
mod machines;
mod network;
mod settings;
mod tags;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::future::LocalBoxFuture;
use herdsman_wire::{ClusterId, ClusterName, Code};
use tokio::sync::OnceCell;

use super::cloud::{Answer, Cloud, Common, Facts, Finding, Laptop, Made, Offer, Plan, Resource, SelfEnd, error};
use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

/// The vendor's limit.
const USER_DATA_MAX: usize = 64 * 1024;

/// The provider.
#[derive(Debug)]
pub struct DigitalOcean {
    settings: settings::Settings,
    api: api::Api,
    laptop: Laptop,
    image: OnceCell<catalogue::Chosen>,
    kinds: OnceCell<Vec<catalogue::Kind>>,
    /// Where machines of a cluster go, so that it is looked up once.
    nets: Mutex<Vec<(ClusterId, network::Net)>>,
}

impl DigitalOcean {
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
            image: OnceCell::new(),
            kinds: OnceCell::new(),
            nets: Mutex::default(),
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

impl Cloud for DigitalOcean {
    fn facts(&self) -> Facts {
        Facts {
            name: "digitalocean",
            shares_user_data: true,
            user_data_max: USER_DATA_MAX,
            self_end: SelfEnd::Billed,
        }
    }

    fn region(&self) -> Option<String> {
        Some(self.settings.region.clone())
    }

    fn check(&self) -> LocalBoxFuture<'_, Vec<Finding>> {
        Box::pin(self.look())
    }

    fn sizes(&self) -> Answer<'_, Vec<Offer>> {
        Box::pin(self.catalogue())
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
        Box::pin(self.resources(cluster.map(ClusterName::as_str)))
    }

    fn delete<'a>(&'a self, machines: &'a [Machine]) -> Answer<'a, Deleted> {
        Box::pin(self.remove_all(machines))
    }

    fn delete_rest<'a>(&'a self, cluster: &'a ClusterRef) -> Answer<'a, Deleted> {
        Box::pin(self.delete_network(cluster))
    }

    fn console<'a>(&'a self, _: &'a Machine) -> Answer<'a, String> {
        // The vendor has a screen for people, and nothing of it in its API.
        Box::pin(async {
            let text = "DigitalOcean gives no output of a machine's boot; its console is a screen in the control panel";
            Err(error(Code::NotFound, text))
        })
    }

    fn policy(&self) -> String {
        check::policy(&self.settings)
    }
}
