//! Amazon EC2.
//!
//! The query API of version 2016-11-15 with signatures of version 4: a form in, XML
//! out. For a cluster of any size `up` makes about ten calls: subnets, two security
//! groups with their rules, image, types, one `RunInstances` for the scheduler and
//! one for all workers, and one look for the scheduler's public address.

mod answers;
mod api;
mod auth;
mod catalogue;
mod check;
mod failure;
mod kept;
mod launch;
mod machines;
mod network;
mod patience;
mod policy;
mod prices;
mod profile;
mod settings;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::future::LocalBoxFuture;
use herdsman_wire::{ClusterId, ClusterName};
use tokio::sync::OnceCell;

use super::cloud::{Answer, Cloud, Common, Facts, Finding, Laptop, Made, Offer, Plan, Resource, SelfEnd};
use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

/// The vendor's limit, before base64.
const USER_DATA_MAX: usize = 16 * 1024;

/// The provider.
#[derive(Debug)]
pub struct Aws {
    settings: settings::Settings,
    api: api::Api,
    laptop: Laptop,
    image: OnceCell<catalogue::Chosen>,
    offers: OnceCell<Vec<Offer>>,
    /// Where machines of a cluster go, so that it is looked up once.
    nets: Mutex<Vec<(ClusterId, network::Net)>>,
}

impl Aws {
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
            offers: OnceCell::new(),
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
        nets.iter()
            .rev()
            .find(|(id, _)| *id == cluster.id)
            .map(|(_, net)| net.clone())
    }

    fn forget(&self, cluster: &ClusterRef) {
        self.nets().retain(|(id, _)| *id != cluster.id);
    }
}

impl Cloud for Aws {
    fn facts(&self) -> Facts {
        Facts {
            name: "aws",
            shares_user_data: true,
            user_data_max: USER_DATA_MAX,
            self_end: SelfEnd::Deleted,
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

    fn priced<'a>(&'a self, types: &'a [String], spot: bool) -> Answer<'a, Vec<Offer>> {
        Box::pin(self.priced_types(types, spot))
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
