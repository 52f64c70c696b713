//! Systems without Linux's processes and namespaces: every call says so.

use herdsman_wire::{ClusterName, Code, NodeName};

use super::super::{ClusterRef, Deleted, LocalSettings, Machine, MachineSpec, Placement, ProviderError, Tags};

fn unsupported() -> ProviderError {
    ProviderError {
        code: Code::Provider,
        message: "local nodes need Linux".into(),
        hint: vec!["choose another provider, or run this on a Linux machine".into()],
        retryable: false,
    }
}

#[derive(Debug)]
pub(super) struct Local;

#[expect(clippy::unused_async, reason = "as on Linux")]
impl Local {
    pub(super) fn new(_: LocalSettings) -> Self {
        Self
    }

    pub(super) fn environments(&self) -> std::path::PathBuf {
        std::path::PathBuf::new()
    }

    pub(super) fn place(&self, _: &ClusterRef, _: &NodeName, _: u32) -> Result<Placement, ProviderError> {
        Err(unsupported())
    }

    pub(super) async fn ensure_network(&self, _: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        Err(unsupported())
    }

    pub(super) async fn create(&self, _: &ClusterRef, machines: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        machines.iter().map(|_| Err(unsupported())).collect()
    }

    pub(super) async fn list(&self, _: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        Err(unsupported())
    }

    pub(super) async fn delete(&self, _: &[Machine]) -> Result<Deleted, ProviderError> {
        Err(unsupported())
    }

    pub(super) async fn delete_rest(&self, _: &ClusterRef) -> Result<Deleted, ProviderError> {
        Err(unsupported())
    }

    pub(super) async fn console(&self, _: &Machine) -> Result<String, ProviderError> {
        Err(unsupported())
    }
}
