//! The register of clouds: the one place that knows all of them.

use herdsman_wire::Code;

use super::{Cloud, Common, ProviderError, error};
use crate::config::ProviderName;

/// Clouds that this release has.
pub const CLOUDS: &[ProviderName] = &[
    ProviderName::Aws,
    ProviderName::Azure,
    ProviderName::DigitalOcean,
    ProviderName::Gcp,
    ProviderName::Hetzner,
    ProviderName::OpenStack,
];

/// A cloud with these settings. No call is made yet, and credentials are not
/// looked for.
///
/// # Errors
/// `E-USAGE` when a setting makes no sense.
pub fn open(name: ProviderName, common: Common) -> Result<Box<dyn Cloud>, ProviderError> {
    match name {
        ProviderName::Aws => Ok(Box::new(super::super::aws::Aws::new(common)?)),
        ProviderName::Gcp => Ok(Box::new(super::super::gcp::Gcp::new(common)?)),
        ProviderName::DigitalOcean => Ok(Box::new(super::super::digitalocean::DigitalOcean::new(common)?)),
        ProviderName::Hetzner => Ok(Box::new(super::super::hetzner::Hetzner::new(common)?)),
        ProviderName::OpenStack => Ok(Box::new(super::super::openstack::OpenStack::new(common)?)),
        ProviderName::Azure => Ok(Box::new(super::super::azure::Azure::new(common)?)),
        other => Err(error(
            Code::Usage,
            format!("provider `{other}` is not part of this release yet"),
        )),
    }
}
