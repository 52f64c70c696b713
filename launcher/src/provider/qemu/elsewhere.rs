//! Systems without KVM, `/proc` and Unix sockets: every call says so.

use herdsman_wire::{ClusterName, Code, NodeName};

use super::super::{ClusterRef, Deleted, Machine, MachineSpec, Placement, ProviderError, Tags};
use super::QemuSettings;

fn unsupported() -> ProviderError {
    ProviderError {
        code: Code::Provider,
        message: "provider qemu needs Linux".into(),
        hint: vec!["choose another provider, or run this on a Linux machine".into()],
        retryable: false,
    }
}

/// The provider.
#[derive(Debug)]
pub struct Qemu;

#[expect(
    clippy::unused_async,
    missing_docs,
    clippy::missing_errors_doc,
    reason = "as on Linux"
)]
impl Qemu {
    #[must_use]
    pub fn new(_: QemuSettings) -> Self {
        Self
    }

    #[must_use]
    pub const fn user_data_form(&self) -> crate::bootstrap::UserDataForm {
        crate::bootstrap::UserDataForm::CloudConfig
    }

    pub fn place(&self, _: &ClusterRef, _: &NodeName, _: u32) -> Result<Placement, ProviderError> {
        Err(unsupported())
    }

    pub async fn ensure_network(&self, _: &ClusterRef, _: &Tags) -> Result<(), ProviderError> {
        Err(unsupported())
    }

    pub async fn create(&self, _: &ClusterRef, machines: &[MachineSpec]) -> Vec<Result<Machine, ProviderError>> {
        machines.iter().map(|_| Err(unsupported())).collect()
    }

    pub fn enrolled(&self, _: &ClusterRef, _: &[NodeName]) {}

    pub async fn list(&self, _: Option<&ClusterName>) -> Result<Vec<Machine>, ProviderError> {
        // There are none.
        Ok(Vec::new())
    }

    pub async fn delete(&self, _: &[Machine]) -> Result<Deleted, ProviderError> {
        Err(unsupported())
    }

    pub fn delete_rest(&self, _: &ClusterRef) -> Result<Deleted, ProviderError> {
        Ok(Deleted::default())
    }

    pub async fn console(&self, _: &Machine) -> Result<String, ProviderError> {
        Err(unsupported())
    }
}
