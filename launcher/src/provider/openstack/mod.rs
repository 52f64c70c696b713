//! OpenStack, by whomever it is run.
//!
//! Keystone for a token and the catalogue, Nova for machines, Neutron for firewall and
//! addresses, Glance for images. Our tags are a server's metadata; Neutron's things
//! carry them in their descriptions, as its tags are not part of the call that creates.
//! A machine has no address when Nova answers, so that all of them are looked at
//! together, with one call, until they have.

mod answers;
mod api;
mod auth;
mod catalogue;
mod check;
mod clouds;
mod create;
mod describe;
mod failure;
mod groups;
mod images;
mod launch;
mod machines;
mod network;
mod patience;
mod policy;
mod ports;
mod removal;
mod settings;

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use futures_util::future::LocalBoxFuture;
use herdsman_wire::{ClusterId, ClusterName};
use tokio::sync::OnceCell;

use super::cloud::{Answer, Cloud, Common, Facts, Finding, Laptop, Made, Offer, Plan, Resource, SelfEnd};
use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

/// Nova's limit is 65535 characters of base64.
const USER_DATA_MAX: usize = 65_535 / 4 * 3;

/// The provider.
#[derive(Debug)]
pub struct OpenStack {
    settings: settings::Settings,
    api: api::Api,
    laptop: Laptop,
    image: OnceCell<images::Chosen>,
    flavors: OnceCell<Vec<answers::Flavor>>,
    /// Where machines of a cluster go, so that it is looked up once.
    nets: Mutex<Vec<(ClusterId, network::Net)>>,
    /// Whether a machine could not be deleted: what it holds need not be waited for.
    stuck: AtomicBool,
}

impl OpenStack {
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
            flavors: OnceCell::new(),
            nets: Mutex::default(),
            stuck: AtomicBool::new(false),
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

impl Cloud for OpenStack {
    fn facts(&self) -> Facts {
        Facts {
            name: "openstack",
            shares_user_data: false,
            user_data_max: USER_DATA_MAX,
            // Nova keeps a machine that powers itself off, with its share of the quota.
            self_end: SelfEnd::Billed,
        }
    }

    fn region(&self) -> Option<String> {
        self.settings.region.clone()
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
        Box::pin(self.remove(machines))
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
