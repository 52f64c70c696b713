//! What is wrong with a node that goes on all the same: told in its reports, until
//! it is over.

use herdsman_wire::{ApiError, Code};

use super::Driver;
use crate::health;

impl Driver {
    /// All of it, the cause before its effect.
    pub(super) fn troubles(&self) -> Vec<ApiError> {
        let mut all: Vec<ApiError> = self.disk_trouble().into_iter().collect();
        if let (Some(e), Some(identity)) = (self.renewal.failed.clone(), &self.identity) {
            let text = format!(
                "certificates cannot be renewed, and end at {}: {}",
                identity.issued.not_after, e.message
            );
            all.push(ApiError { message: text, ..e });
        }
        all
    }

    fn disk_trouble(&self) -> Option<ApiError> {
        health::disk_trouble(&self.measured.health, &self.join.paths.state)
    }

    /// Looks at nothing but the disk, which costs a system call, so that a full one is
    /// told at once. When there is room again, what failed for lack of it is done.
    pub(super) fn look_at_disk(&mut self) {
        let health = self.sampler.with_disk(&self.measured.health);
        let is_full = health::disk_trouble(&health, &self.join.paths.state).is_some();
        if is_full == self.disk_trouble().is_some() {
            return;
        }
        self.measured.health = health;
        if !is_full && self.renewal.failed.as_ref().is_some_and(|e| e.code == Code::Disk) {
            self.renew_soon();
        }
        self.publish();
    }
}
