//! What a node does when its cloud announces something.

use std::time::Duration;

use herdsman_wire::Timestamp;
use herdsman_wire::report::NoticeKind;
use tokio::sync::mpsc;

use super::{Driver, Input};
use crate::notice::{self, Notice};
use crate::source::machine::Machine;

/// What is left of a machine's time for stopping Dask, at most a third of it.
const STOPPING: Duration = Duration::from_secs(10);
/// Where a cloud does not say when.
const UNKNOWN: Duration = Duration::from_secs(30);

/// Brings announcements to the driver.
pub(super) fn watch(machine: Option<&Machine>, inputs: mpsc::Sender<Input>) {
    let Some(mut notices) = machine.and_then(notice::watch) else {
        return;
    };
    tokio::spawn(async move {
        while let Some(notice) = notices.recv().await {
            if inputs.send(Input::Notice(Box::new(notice))).await.is_err() {
                return;
            }
        }
    });
}

impl Driver {
    pub(super) fn on_notice(&mut self, notice: Notice) {
        let Notice { mut told, approval } = notice;
        let now = Timestamp::now();
        if let Some(at) = told.at {
            told.text = format!("{}, in {} s", told.text, at.since(now).as_secs());
        }
        if told.kind == NoticeKind::Warning {
            tracing::warn!("{}", told.text);
            // A warning does not hide that the machine goes.
            self.notice.get_or_insert(told);
            return;
        }
        tracing::warn!("preempted: {}", told.text);
        let left = told.at.map_or(UNKNOWN, |at| at.since(now));
        self.notice = Some(told);
        // Before the hub hears that the node leaves, so that it can say why.
        self.publish();
        if approval.is_some() {
            self.approval = approval;
        }
        self.leave_within(left.saturating_sub(STOPPING.min(left / 3)));
    }
}
