//! Enrolment and renewal as the driver sees them.

use std::time::Duration;

use herdsman_wire::report::PhaseName;
use herdsman_wire::{ApiError, Code, Timestamp};

use super::{Driver, Input, Side, spawn_into};
use crate::hub::Hub;
use crate::identity::enrol::{self, dice};
use crate::identity::{Identity, Store};

/// A failed renewal is tried again after this share of what is left.
const RETRY_SHARE: u32 = 8;
/// And at least this much later.
const RETRY_LEAST: Duration = Duration::from_secs(2);
/// And at most.
const RETRY_MOST: Duration = Duration::from_secs(600);

/// When certificates are renewed next.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    due: Option<Timestamp>,
    running: bool,
    /// Why the last one failed.
    pub(super) failed: Option<ApiError>,
}

/// When to renew: after the given age, moved by up to an eighth to either side
/// so that nodes started together do not ask together. `dice` is 0 to 1.
fn due(since: Timestamp, after: Duration, dice: f64) -> Timestamp {
    since.plus(after.mul_f64(0.875 + 0.25 * dice))
}

/// When to try again after a failure.
fn retry(now: Timestamp, ends: Timestamp) -> Timestamp {
    let left = ends.since(now) / RETRY_SHARE;
    now.plus(left.clamp(RETRY_LEAST, RETRY_MOST))
}

impl Driver {
    /// The identity of an earlier life, or a way to a new one.
    pub(super) async fn first_identity(&mut self) -> Result<(), ApiError> {
        let now = Timestamp::now();
        match &self.side {
            Side::Worker(_) => {
                if let Some(identity) = self.store.load(now)? {
                    tracing::info!(node = %identity.issued.node, "identity of an earlier start is still good");
                    let lost = !self.store.has_dask_key();
                    self.on_identity(Ok(identity));
                    if lost {
                        // After a reboot Dask's key, kept in memory, is gone.
                        self.renewal.due = Some(now);
                    }
                } else {
                    let (join, store, inputs) = (self.join.clone(), self.store.clone(), self.inputs.clone());
                    let work = async move {
                        let mut last = String::new();
                        let said = |e: &ApiError| {
                            if e.message != last {
                                tracing::info!("not enrolled yet: {}", e.message);
                                last.clone_from(&e.message);
                            }
                        };
                        enrol::enrol(&join, &store, said).await
                    };
                    spawn_into(inputs, work, |r| Input::Identity(Box::new(r)));
                }
            }
            Side::Hub(side) => {
                if side.hub().is_some() {
                    let identity = match self.store.load(now)? {
                        Some(identity) if self.store.has_dask_key() => identity,
                        _ => self.issue_own().await?,
                    };
                    self.on_identity(Ok(identity));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn issue_own(&self) -> Result<Identity, ApiError> {
        let Side::Hub(side) = &self.side else {
            return Err(ApiError::new(Code::Internal, "only a hub signs for itself"));
        };
        let hub = side
            .hub()
            .ok_or_else(|| ApiError::new(Code::TooEarly, "the hub is not installed"))?;
        issue_own(hub, &self.store).await
    }

    pub(super) fn on_identity(&mut self, outcome: Result<Identity, ApiError>) {
        let now = Timestamp::now();
        self.renewal.running = false;
        match outcome {
            Ok(identity) => {
                self.renewal.failed = None;
                let after = Duration::from_secs(identity.issued.renew_after_seconds);
                let first = self.identity.is_none();
                self.renewal.due = Some(due(identity.since, after, dice()));
                self.crl = self.crl.max(identity.issued.crl_number);
                self.identity = Some(identity);
                self.use_identity();
                self.update_firewall();
                if first {
                    self.phases.done(PhaseName::Enrol, now);
                    self.start_environment();
                } else {
                    tracing::info!("certificates renewed");
                    self.dask.reload();
                }
            }
            Err(e) if self.identity.is_none() => {
                super::tell(&e);
                self.end.give_up(&e.message);
                self.phases.fail(PhaseName::Enrol, now, e);
            }
            Err(e) => {
                let ends = self.identity.as_ref().map_or(now, |i| i.issued.not_after);
                tracing::warn!("certificates cannot be renewed: {e}");
                self.renewal.failed = Some(e.clone());
                match e.code {
                    Code::Clone | Code::Revoked => {
                        tracing::error!("this node is not trusted any more; it ends");
                        self.stop_revoked();
                    }
                    _ if ends <= now => {
                        tracing::error!("the certificates expired and cannot be renewed; this node ends");
                        self.stop_for_good("its certificates expired");
                    }
                    _ => self.renewal.due = Some(retry(now, ends)),
                }
            }
        }
    }

    /// Everything that shows the agent's certificate shows this one from now on.
    fn use_identity(&mut self) {
        let Some(identity) = &self.identity else { return };
        let result = match &mut self.side {
            Side::Worker(worker) => worker.use_identity(&self.join, identity, &self.report, &self.inputs),
            Side::Hub(hub) => hub.use_identity(identity),
        };
        if let Err(e) = result {
            tracing::error!("our own certificate cannot be used: {e}");
        }
    }

    pub(super) fn renew_when_due(&mut self, now: Timestamp) {
        if self.renewal.running || self.renewal.due.is_none_or(|d| d > now) || self.end.has_begun() {
            return;
        }
        let Some(identity) = self.identity.clone() else { return };
        self.renewal.running = true;
        let (join, store, inputs) = (self.join.clone(), self.store.clone(), self.inputs.clone());
        match &self.side {
            Side::Worker(_) => {
                let work = async move { enrol::renew(&join, &store, &identity).await };
                spawn_into(inputs, work, |r| Input::Identity(Box::new(r)));
            }
            Side::Hub(side) => {
                let Some(hub) = side.hub().cloned() else { return };
                let work = async move { issue_own(&hub, &store).await };
                spawn_into(inputs, work, |r| Input::Identity(Box::new(r)));
            }
        }
    }

    /// Renews now.
    pub(super) fn renew_soon(&mut self) {
        self.renewal.due = Some(Timestamp::now());
    }
}

async fn issue_own(hub: &Hub, store: &Store) -> Result<Identity, ApiError> {
    let keys = store.next_keys()?;
    let (csr_agent, csr_dask) = keys.requests()?;
    let issued = hub.issue_own(&csr_agent, &csr_dask).await?;
    store.publish(issued, keys, Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_spread_by_a_quarter_around_its_age() {
        let age = Duration::from_secs(800);
        assert_eq!(due(Timestamp(0), age, 0.0), Timestamp(700_000));
        assert_eq!(due(Timestamp(0), age, 0.5), Timestamp(800_000));
        assert_eq!(due(Timestamp(0), age, 1.0), Timestamp(900_000));
    }

    #[test]
    fn failed_renewals_are_tried_again_well_before_the_end() {
        let now = Timestamp(1_000_000);
        assert_eq!(
            retry(now, now.plus(Duration::from_secs(800))),
            now.plus(Duration::from_secs(100))
        );
        assert_eq!(retry(now, now.plus(Duration::from_secs(1))), now.plus(RETRY_LEAST));
        assert_eq!(
            retry(now, now.plus(Duration::from_secs(1_000_000))),
            now.plus(RETRY_MOST)
        );
    }
}
