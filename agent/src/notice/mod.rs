//! What a cloud announces for this machine: that it takes it back, or may.
//!
//! A task asks the metadata service for as long as the node lives, only where the
//! machine runs on a cloud that announces anything. It tells each announcement once;
//! what to do about it is the driver's.

mod azure;
mod ec2;
mod gce;
mod when;

use std::time::Duration;

use herdsman_wire::report::{self, NoticeKind};
use tokio::sync::mpsc;

use crate::source::dmi::Cloud;
use crate::source::machine::Machine;
use crate::source::metadata::Fault;

pub use azure::Approval;

/// Announcements that may wait for the driver.
const QUEUE: usize = 16;
/// Pause after a service that does not answer, which its next try may mend.
const AGAIN: Duration = Duration::from_secs(15);

/// An announcement.
#[derive(Debug)]
pub struct Notice {
    /// What others are told.
    pub told: report::Notice,
    /// Says that the machine may go before its time is up.
    pub approval: Option<Approval>,
}

impl Notice {
    fn new(kind: NoticeKind, at: Option<herdsman_wire::Timestamp>, text: impl Into<String>) -> Self {
        Self {
            told: report::Notice {
                kind,
                text: text.into(),
                at,
            },
            approval: None,
        }
    }
}

/// Starts to watch, where there is something to watch.
#[must_use]
pub fn watch(machine: &Machine) -> Option<mpsc::Receiver<Notice>> {
    let metadata = machine.metadata.clone();
    let (tx, rx) = mpsc::channel(QUEUE);
    match machine.cloud? {
        Cloud::Azure => tokio::spawn(azure::watch(metadata, tx)),
        Cloud::Ec2 => tokio::spawn(ec2::watch(metadata, tx)),
        Cloud::Gce => tokio::spawn(gce::watch(metadata, tx)),
        Cloud::DigitalOcean | Cloud::Hetzner | Cloud::OpenStack => return None,
    };
    Some(rx)
}

/// Keeps a service's troubles out of the log but for the first of each kind. Says
/// whether to go on asking.
#[derive(Debug, Default)]
struct Troubles(Option<Fault>);

impl Troubles {
    async fn pass(&mut self, cloud: Cloud, fault: Fault) -> bool {
        let off = matches!(fault, Fault::Off(_));
        if self.0.as_ref() != Some(&fault) {
            let told = fault.clone().told(cloud.as_str());
            tracing::warn!("notices of the cloud cannot be watched: {}", told.message);
            self.0 = Some(fault);
        }
        if !off {
            tokio::time::sleep(AGAIN).await;
        }
        !off
    }

    fn over(&mut self) {
        self.0 = None;
    }
}
