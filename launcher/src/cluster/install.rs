//! Making an agent the cluster's hub: its issuing certificates are signed, and it
//! learns what to expect.

use std::time::Duration;

use herdsman_wire::api::{CsrReply, Done, Expected, Install, OperatorSerials, VersionReply};
use herdsman_wire::{ApiError, Code, Timestamp, limits};
use tokio::time::Instant;

use super::Wanted;
use super::access::ONE_TRY;
use crate::link::{Link, SOON};
use crate::pki::Roots;
use crate::state::Record;

/// Wait between two tries to reach a hub that boots: an agent on this machine
/// is there within milliseconds, one in a cloud within half a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// An installation that an agent's end cut off is tried so often in all.
const INSTALLS: u32 = 5;
/// And after this long.
const AGAIN: Duration = Duration::from_millis(300);

/// Making an agent the cluster's hub. The agent may be started anew at any point
/// of it, with other keys as long as it was not installed.
pub(super) struct Installation<'a> {
    pub(super) link: &'a Link,
    pub(super) record: &'a Record,
    pub(super) roots: &'a Roots,
    pub(super) wanted: &'a Wanted,
    pub(super) expected: Vec<Expected>,
    pub(super) operator: OperatorSerials,
    pub(super) until: Instant,
}

impl Installation<'_> {
    /// Tries until the hub has what it needs and shows that it uses it.
    ///
    /// # Errors
    /// The last obstacle.
    pub(super) async fn run(&self) -> Result<(), ApiError> {
        let mut tries = 0;
        loop {
            let result = match self.once().await {
                // Over a new connection the hub now has to show the certificate
                // that it signed itself.
                Ok(()) => self.is_done().await,
                Err(e) => Err(e),
            };
            let Err(e) = result else { return Ok(()) };
            tries += 1;
            if tries >= INSTALLS || Instant::now() >= self.until || e.code == Code::Clock {
                return Err(e);
            }
            if e.code == Code::Conflict && self.is_done().await.is_ok() {
                return Ok(());
            }
            tracing::debug!("the installation is tried again: {e}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn once(&self) -> Result<(), ApiError> {
        let requests: CsrReply = patiently(self.until, || self.link.get("/v1/csr", ONE_TRY)).await?;
        let now = Timestamp::now();
        clocks(now, requests.facts.now)?;
        let [issue_control, issue_scheduler, issue_node] = self.roots.sign(&requests, now)?.0;
        let install = Install {
            issue_control,
            issue_scheduler,
            issue_node,
            expected: self.expected.clone(),
            spec: self.wanted.spec.clone(),
            created: self.record.created,
            operator: Some(self.operator.clone()),
        };
        let _: Done = self.link.post("/v1/install", &install, SOON).await?;
        Ok(())
    }

    async fn is_done(&self) -> Result<(), ApiError> {
        let version: VersionReply = patiently(self.until, || self.link.get("/v1/version", ONE_TRY)).await?;
        if version.installed && version.cluster == self.record.cluster.id {
            return Ok(());
        }
        Err(ApiError::new(
            Code::Internal,
            "the hub does not say that it is installed",
        ))
    }
}

/// Certificates are good from five minutes back; a clock that differs more than
/// that would refuse them with words nobody understands.
fn clocks(ours: Timestamp, theirs: Timestamp) -> Result<(), ApiError> {
    let apart = ours.since(theirs).max(theirs.since(ours));
    if apart < limits::CLOCK_SKEW {
        return Ok(());
    }
    Err(ApiError::new(
        Code::Clock,
        format!(
            "this computer's clock and the scheduler's differ by {} s; certificates would be refused",
            apart.as_secs()
        ),
    )
    .with_hint("set both clocks, for example with `timedatectl set-ntp true`, and try again"))
}

/// Asks again for as long as the answer may still come.
pub(super) async fn patiently<T, F>(until: Instant, ask: impl Fn() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(left, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) if !e.retryable && e.code != Code::Deadline => return Err(e),
            Ok(Err(e)) => Some(e),
            Err(_) => None,
        };
        if Instant::now() + pause >= until {
            let last = error.map_or_else(String::new, |e| format!(": {}", e.message));
            return Err(ApiError::new(
                Code::Deadline,
                format!("the scheduler's agent did not answer in time{last}"),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_a_day_are_told_before_any_certificate_fails() {
        let now = Timestamp::now();
        assert!(clocks(now, now.plus(Duration::from_secs(200))).is_ok());
        for theirs in [now.plus(limits::LEAF_LIFE), now.minus(limits::LEAF_LIFE)] {
            let e = clocks(now, theirs).unwrap_err();
            assert_eq!(e.code, Code::Clock);
            assert!(e.message.contains("86400 s"), "{e}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_at_the_deadline_with_the_last_obstacle() {
        let until = Instant::now() + Duration::from_secs(30);
        let refused = || async { Err::<(), _>(ApiError::new(Code::Unreachable, "connection refused")) };
        let e = patiently(until, refused).await.unwrap_err();
        assert_eq!(e.code, Code::Deadline);
        assert!(e.message.contains("connection refused"), "{e}");
        assert!(Instant::now() <= until);
        let final_ = || async { Err::<(), _>(ApiError::new(Code::Certificate, "no")) };
        assert_eq!(patiently(until, final_).await.unwrap_err().code, Code::Certificate);
    }
}
