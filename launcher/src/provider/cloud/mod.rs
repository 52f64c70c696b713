//! What all clouds share. How to add one is in `../README.md`.
//!
//! ```text
//! settings ─▶ Common + the cloud's own table ─▶ open() ─▶ dyn Cloud
//!                                                          │ requests, by http::Client
//! check · sizes · cost · reap · up · down ◀── plain data ──┘
//! ```
//!
//! A cloud turns our few questions into its vendor's calls, and the vendor's
//! answers into the plain data below. What is decided from that data is decided
//! here, once for all of them.

mod choice;
mod common;
mod error;
pub mod http;
pub mod labels;
mod laptop;
mod open;
mod strays;
mod types;

use std::fmt;
use std::net::IpAddr;

use futures_util::future::LocalBoxFuture;
use herdsman_wire::ClusterName;

use super::{ClusterRef, Deleted, Machine, MachineSpec, ProviderError, Tags};

pub use choice::{Need, choose};
pub use common::{Common, Gpus, MachineWish, Spot};
pub use error::{error, limited};
pub use laptop::Laptop;
pub use open::{CLOUDS, open};
pub use strays::{Stray, strays};
pub use types::{Facts, Finding, Money, Mood, Offer, Plan, PlannedMachine, Resource, SelfEnd};

/// What a cloud's call gives, some time later.  The launcher has one thread, so
/// that it needs not be sent to others.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, ProviderError>>;

/// Who is told of each machine as soon as its fate is known: its place among
/// those asked for, and what became of it.
pub type Made<'a> = &'a (dyn Fn(usize, &Result<Machine, ProviderError>) + Send + Sync);

/// A cloud. Every method may be called at any time, in any order, by a process
/// that knows nothing but the account's credentials.
///
/// No method may be left to a default that does nothing: what a vendor cannot do
/// is said by [`Facts`] or by an answer without entries.
pub trait Cloud: fmt::Debug + Send + Sync {
    /// What can be said without a call.
    fn facts(&self) -> Facts;

    /// The region that it works in, where the vendor has regions and it is known
    /// without a call. It is remembered with a cluster, as lists are by region.
    fn region(&self) -> Option<String>;

    /// Looks at everything that `up` will need, and says how it stands: credentials,
    /// identity, permissions one by one, switches, quota, network, clock, a price.
    /// Makes nothing.
    fn check(&self) -> LocalBoxFuture<'_, Vec<Finding>>;

    /// Machine types with their prices, where the account's region has them.
    fn sizes(&self) -> Answer<'_, Vec<Offer>>;

    /// These types alone, with their prices, and those of such as can be taken away
    /// where they are asked for. A cloud whose whole list is long asks for less.
    fn priced<'a>(&'a self, types: &'a [String], spot: bool) -> Answer<'a, Vec<Offer>> {
        let _ = spot;
        Box::pin(async move {
            let mut all = self.sizes().await?;
            all.retain(|o| types.contains(&o.name));
            Ok(all)
        })
    }

    /// What `up` would make. Makes nothing.
    fn plan(&self, workers: u32) -> Answer<'_, Plan>;

    /// Makes what machines share, closed to all but the owner's networks and the
    /// cluster itself. Idempotent; every resource has its tags from its first moment,
    /// or is deleted by tag of what it hangs on.
    fn ensure_network<'a>(&'a self, cluster: &'a ClusterRef, tags: &'a Tags) -> Answer<'a, ()>;

    /// This computer as machines see it, once [`Cloud::ensure_network`] has run.
    fn laptop(&self) -> Option<IpAddr>;

    /// Makes machines: all at once, in as few calls as the vendor has. One entry for
    /// each in the answer, in order; addresses are in it, as the hub has to know
    /// them. Does not wait for a boot. Where [`Facts::shares_user_data`], those with
    /// equal user-data are one batch, and [`Machine::node`] may differ from what was
    /// asked for.
    fn create<'a>(
        &'a self,
        cluster: &'a ClusterRef,
        machines: &'a [MachineSpec],
        made: Made<'a>,
    ) -> LocalBoxFuture<'a, Vec<Result<Machine, ProviderError>>>;

    /// A machine that was just made, with the address by which this computer reaches
    /// it, which some vendors give later than the machine. At most a minute.
    fn settled<'a>(&'a self, machine: &'a Machine) -> Answer<'a, Machine>;

    /// Machines by tag, of one cluster or of all, whatever state they are in as long
    /// as they cost money or hold a name. In as few calls as there are pages.
    fn list<'a>(&'a self, cluster: Option<&'a ClusterName>) -> Answer<'a, Vec<Machine>>;

    /// Everything else that carries our tags.
    fn shared<'a>(&'a self, cluster: Option<&'a ClusterName>) -> Answer<'a, Vec<Resource>>;

    /// Deletes machines with their disks and addresses. What is gone already is
    /// deleted. Comes back when they do not cost anything any more, or are known not
    /// to go.
    fn delete<'a>(&'a self, machines: &'a [Machine]) -> Answer<'a, Deleted>;

    /// Deletes everything of [`Cloud::shared`] of one cluster.
    fn delete_rest<'a>(&'a self, cluster: &'a ClusterRef) -> Answer<'a, Deleted>;

    /// The machine's serial console, as much as the vendor keeps.
    fn console<'a>(&'a self, machine: &'a Machine) -> Answer<'a, String>;

    /// The least that the account has to allow, in the vendor's own form.
    fn policy(&self) -> String;
}
