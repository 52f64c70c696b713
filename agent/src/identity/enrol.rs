//! A worker's enrolment and renewal at the hub.

use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Code, Timestamp, api, tls};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Identity, Store};
use crate::client::HubClient;

/// First wait between two tries; a hub on the same machine is installed within
/// a few tens of milliseconds.
const FIRST_WAIT: Duration = Duration::from_millis(40);
/// Longest wait while the hub's machine may still be booting: a worker that is there
/// first shall not be the last to know.
const WAIT_FOR_BOOT: Duration = Duration::from_millis(600);
/// So many tries are about 20 seconds.
const TRIES_FOR_BOOT: u32 = 36;
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Wait before try number `n` (from 0); `dice` is 0 to 1.
#[must_use]
pub fn wait(n: u32, dice: f64) -> Duration {
    let grown = FIRST_WAIT.as_secs_f64() * 1.5_f64.powi(i32::try_from(n.min(60)).unwrap_or(60));
    Duration::from_secs_f64(grown.min(LONGEST_WAIT.as_secs_f64()) * (0.5 + dice))
}

/// The same for the first way to a hub, which may still be booting.
fn wait_for_boot(n: u32, dice: f64) -> Duration {
    match n.checked_sub(TRIES_FOR_BOOT) {
        None => wait(n, dice).min(WAIT_FOR_BOOT.mul_f64(0.5 + dice)),
        Some(n) => wait(n + 7, dice),
    }
}

/// A number from 0 to 1 for jitter.
#[must_use]
pub fn dice() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all nodes would wait equally long, which is no harm.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

/// Whether a refusal of the hub is final: trying again with the same
/// certificate cannot help.
const fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::EnrolSpent
            | Code::EnrolExpired
            | Code::EnrolUnexpected
            | Code::EnrolRequest
            | Code::Revoked
            | Code::Protocol
            | Code::Forbidden
            | Code::Clone
            | Code::Malformed
    )
}

/// What a machine says of itself.
#[must_use]
pub fn facts() -> api::Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    api::Facts {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: read("/proc/sys/kernel/hostname"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        now: Timestamp::now(),
    }
}

/// Client of the hub with a certificate of ours.
///
/// # Errors
/// When a part does not parse.
pub fn client(join: &JoinConfig, chain: &str, key: &herdsman_wire::Secret) -> Result<HubClient, ApiError> {
    let hub = join
        .hub
        .ok_or_else(|| ApiError::new(Code::Malformed, "field `hub` is missing"))?;
    let config = tls::client_config(&join.roots.control, chain, key)
        .map_err(|e| ApiError::new(Code::Certificate, format!("our own certificate: {e}")))?;
    Ok(HubClient {
        hub,
        bind: join.bind,
        name: join.cluster.hub_dns(),
        config: Arc::new(config),
    })
}

/// Enrols, trying until the deadline. `said` is told what stands in the way.
///
/// # Errors
/// The hub's final refusal, or [`Code::Deadline`] with the last obstacle.
pub async fn enrol(join: &JoinConfig, store: &Store, mut said: impl FnMut(&ApiError)) -> Result<Identity, ApiError> {
    let keys = store.next_keys()?;
    let (csr_agent, csr_dask) = keys.requests()?;
    let client = client(join, &join.bootstrap.certificate, &join.bootstrap.key)?;
    let mut last: Option<ApiError> = None;
    let mut tries = 0;
    loop {
        let now = Timestamp::now();
        if now >= join.deadline {
            let obstacle = last.map_or_else(
                || "its deadline had passed before the first try".to_owned(),
                |e| e.message,
            );
            return Err(
                ApiError::new(Code::Deadline, format!("not enrolled in time: {obstacle}"))
                    .with_hint("check that this machine reaches the scheduler's port 8785, and both clocks"),
            );
        }
        let request = api::Enrol {
            csr_agent: csr_agent.clone(),
            csr_dask: csr_dask.clone(),
            facts: facts(),
        };
        let answer: Result<api::Issued, ApiError> = client.post("/v1/enrol", &request, ANSWER).await;
        match answer {
            Ok(issued) => return store.publish(issued, keys, Timestamp::now()),
            Err(e) if is_final(e.code) => {
                store.forget_next_keys();
                return Err(e);
            }
            Err(e) => {
                said(&e);
                last = Some(e);
            }
        }
        let left = join.deadline.since(Timestamp::now());
        tokio::time::sleep(wait_for_boot(tries, dice()).min(left)).await;
        tries += 1;
    }
}

/// Renews once.
///
/// # Errors
/// The hub's own error, or why it could not be asked.
pub async fn renew(join: &JoinConfig, store: &Store, identity: &Identity) -> Result<Identity, ApiError> {
    let keys = store.next_keys()?;
    let (csr_agent, csr_dask) = keys.requests()?;
    let client = client(join, &identity.issued.agent_chain, &identity.agent_key)?;
    let request = api::Renew { csr_agent, csr_dask };
    let issued: api::Issued = client.post("/v1/renew", &request, ANSWER).await?;
    store.publish(issued, keys, Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(wait(0, 0.5), FIRST_WAIT);
        assert!(wait(0, 0.0) >= FIRST_WAIT / 2);
        assert!(wait(5, 0.5) > wait(4, 0.5));
        assert_eq!(wait(1000, 0.5), LONGEST_WAIT);
        let first: Duration = (0..TRIES_FOR_BOOT).map(|n| wait_for_boot(n, 0.5)).sum();
        assert!((15..30).contains(&first.as_secs()), "{first:?}");
        assert!(wait_for_boot(TRIES_FOR_BOOT, 0.5) >= WAIT_FOR_BOOT);
        assert_eq!(wait_for_boot(1000, 0.5), LONGEST_WAIT);
        assert!((0.0..=1.0).contains(&dice()));
    }
}
