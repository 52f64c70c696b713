//! Whether this machine's clock can be right: a clock that is wrong by a day would
//! show as certificates that are refused, in words that nobody understands.

use std::time::Duration;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Code, Timestamp, pki};
use tokio::time::Instant;

/// A machine that just booted may still get its time from the network.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(250);

/// Waits a moment for a clock that fits the node's bootstrap certificate, which
/// was made minutes ago.
///
/// # Errors
/// [`Code::Clock`] with both times; [`Code::Certificate`] when the certificate
/// cannot be read.
pub async fn wait_until_plausible(join: &JoinConfig) -> Result<(), ApiError> {
    let facts = pki::facts_of_pem(&join.bootstrap.certificate)
        .map_err(|e| ApiError::new(Code::Certificate, format!("the bootstrap certificate: {e}")))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match check(Timestamp::now(), facts.not_before, facts.not_after) {
            Err(e) if Instant::now() < until => tracing::debug!("{e}"),
            result => return result,
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn check(now: Timestamp, from: Timestamp, to: Timestamp) -> Result<(), ApiError> {
    let why = if now < from {
        "its clock is slow"
    } else if now > to {
        "its clock is fast, or it started too late"
    } else {
        return Ok(());
    };
    Err(ApiError::new(
        Code::Clock,
        format!("this machine's clock shows {now}, but its certificate is good from {from} to {to}: {why}"),
    )
    .with_hint("set the clock, for example with `timedatectl set-ntp true`, and make the node anew"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_times_are_told() {
        let day = Duration::from_secs(86400);
        let (from, to) = (Timestamp(1_700_000_000_000), Timestamp(1_700_001_500_000));
        assert!(check(from.plus(Duration::from_secs(1)), from, to).is_ok());
        for (now, word) in [(from.minus(day), "slow"), (to.plus(day), "fast")] {
            let e = check(now, from, to).unwrap_err();
            assert_eq!(e.code, Code::Clock);
            assert!(
                e.message.contains(word) && e.message.contains("2023-11-14T22:13:20Z"),
                "{e}"
            );
            assert!(e.message.contains(&now.to_string()), "{e}");
        }
    }
}
