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

    /// Once there is room again, what failed for the lack of it is done at once.
    pub(super) fn look_at_disk(&mut self) {
        let for_room = self.renewal.failed.as_ref().is_some_and(|e| e.code == Code::Disk);
        if for_room && self.disk_trouble().is_none() {
            self.renew_soon();
        }
    }
}
