//! To be written.

use super::{ClusterRef, Deleted, LocalSettings, Machine, MachineSpec, Placement, ProviderError, Tags};
use herdsman_wire::{ClusterName, NodeName};

/// How local nodes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Namespaces where the user is root and they work, else loopback.
    Auto,
    /// A network namespace each.
    Namespace,
    /// Addresses of the loopback interface.
    Loopback,
}

/// To be written.
#[derive(Debug)]
pub struct Local {
    #[expect(dead_code, reason = "to be written")]
    settings: LocalSettings,
}

#[expect(
    clippy::unused_async,
    missing_docs,
    clippy::missing_errors_doc,
    reason = "to be written"
)]
impl Local {
    pub fn new(settings: LocalSettings) -> Self {
        Self { settings }
    }
    pub fn place(&self, _: &ClusterRef, _: &NodeName, _: u32) -> Result<Placement, ProviderError> {
        unimplemented!()
    }
    pub async fn ensure_network(&self, _: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        unimplemented!()
    }
    pub async fn create(&self, _: &ClusterRef, _: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        unimplemented!()
    }
    pub async fn list(&self, _: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        unimplemented!()
    }
    pub async fn delete(&self, _: &[Machine]) -> Result<Deleted, ProviderError> {
        unimplemented!()
    }
    pub async fn delete_rest(&self, _: &ClusterRef) -> Result<Deleted, ProviderError> {
        unimplemented!()
    }
    pub async fn console(&self, _: &Machine) -> Result<String, ProviderError> {
        unimplemented!()
    }
}
