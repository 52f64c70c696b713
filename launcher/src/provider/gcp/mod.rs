//! Google Compute Engine.
//!
//! The REST API `compute/v1` with the vendor's own credentials. Calls that make or
//! delete are answered by an operation, which is waited for. For a cluster of any size
//! `up` makes about twelve calls: a list, types, three rules of the firewall and a look
//! at them, `insert` for the scheduler and `bulkInsert` for all workers with a wait and
//! a look each. `down` is a call for each machine, as the vendor has no other way.
//!
//! Machines and disks have our tags as labels; rules have none, so that they stand in
//! the description. A call's request id begins with the cluster's mark: a bulk call
//! goes on when the launcher is dead, and whoever cleans up finds it by that.

mod answers;
mod api;
mod auth;
mod catalogue;
mod check;
mod failure;
mod gcloud;
mod launch;
mod machines;
mod network;
mod operations;
mod policy;
mod prices;
mod removal;
mod settings;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::LocalBoxFuture;
use herdsman_wire::ClusterName;
use tokio::sync::OnceCell;

use super::cloud::{Answer, Cloud, Common, Facts, Finding, Laptop, Made, Offer, Plan, Resource, SelfEnd};
use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

/// The vendor's limit of one entry of metadata.
const USER_DATA_MAX: usize = 256 * 1024;

/// The provider.
#[derive(Debug)]
pub struct Gcp {
    settings: settings::Settings,
    api: api::Api,
    laptop: Laptop,
    /// Projects whose networks machines of ours were seen in.
    hosts: Mutex<BTreeSet<String>>,
    net: OnceCell<network::Net>,
    pending: tokio::sync::Mutex<Option<network::Pending>>,
    image: OnceCell<catalogue::Chosen>,
    offers: OnceCell<Vec<Offer>>,
    region: OnceCell<answers::Region>,
    prices: OnceCell<prices::Prices>,
}

impl Gcp {
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
            hosts: Mutex::default(),
            net: OnceCell::new(),
            pending: tokio::sync::Mutex::default(),
            image: OnceCell::new(),
            offers: OnceCell::new(),
            region: OnceCell::new(),
            prices: OnceCell::new(),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cloud for Gcp {
    fn facts(&self) -> Facts {
        Facts {
            name: "gcp",
            shares_user_data: true,
            user_data_max: USER_DATA_MAX,
            // A machine that powers off stops, and its disk is billed. The limit of its
            // life does not count while it is stopped.
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
        Box::pin(self.terminate(machines))
    }

    fn delete_rest<'a>(&'a self, cluster: &'a ClusterRef) -> Answer<'a, Deleted> {
        Box::pin(self.delete_shared(cluster))
    }

    fn console<'a>(&'a self, machine: &'a Machine) -> Answer<'a, String> {
        Box::pin(self.output(machine))
    }

    fn policy(&self) -> String {
        policy::policy(&self.settings)
    }
}
