//! When an ended process is started again: a pure function of how long it lived.

use std::time::Duration;

/// The pace of restarts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Wait before the first restart: most ends have a cause that is over.
    pub first: Duration,
    /// Wait before the second restart; doubles from there.
    pub base: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Share of the wait by which it is moved to either side.
    pub jitter: f64,
    /// A process that lived for this long starts the count anew.
    pub healthy: Duration,
    /// An end within this time is a crash at start.
    pub quick: Duration,
    /// So many crashes at start in a row count as failure.
    pub give_up: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: 0.1,
            healthy: Duration::from_secs(60),
            quick: Duration::from_secs(10),
            give_up: 5,
        }
    }
}

/// Counts ends and says what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    policy: Policy,
    in_row: u32,
    quick: u32,
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Wait before the next start.
    pub delay: Duration,
    /// It keeps dying at its start: to be shown as failed, while starts go on at
    /// the longest wait.
    pub failed: bool,
}

impl Backoff {
    /// Nothing has ended yet.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            in_row: 0,
            quick: 0,
        }
    }

    /// The pace.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Crashes at start in a row.
    #[must_use]
    pub const fn quick_crashes(&self) -> u32 {
        self.quick
    }

    /// A process ended after it had lived for `lived`; `random` is within -1 to 1.
    pub fn ended(&mut self, lived: Duration, random: f64) -> Next {
        let p = self.policy;
        if lived >= p.healthy {
            self.in_row = 0;
        }
        self.quick = if lived < p.quick {
            self.quick.saturating_add(1)
        } else {
            0
        };
        let failed = self.quick >= p.give_up;
        let plain = match self.in_row {
            _ if failed => p.max,
            0 => p.first,
            n => p.base.saturating_mul(2_u32.saturating_pow(n - 1)).min(p.max),
        };
        self.in_row = self.in_row.saturating_add(1);
        let random = if random.is_finite() {
            random.clamp(-1.0, 1.0)
        } else {
            0.0
        };
        Next {
            delay: plain.mul_f64((1.0 + p.jitter.clamp(0.0, 1.0) * random).max(0.0)),
            failed,
        }
    }

    /// Forgets all ends, as after an ordered restart.
    pub const fn reset(&mut self) {
        self.in_row = 0;
        self.quick = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut b = Backoff::new(Policy::default());
        let waits: Vec<_> = (0..9).map(|_| b.ended(s(20), 0.0)).collect();
        assert!(waits.iter().all(|n| !n.failed));
        let ms: Vec<_> = waits.iter().map(|n| n.delay.as_millis()).collect();
        assert_eq!(ms, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn a_healthy_life_starts_the_count_anew() {
        let mut b = Backoff::new(Policy::default());
        for _ in 0..4 {
            b.ended(s(20), 0.0);
        }
        assert_eq!(b.ended(s(60), 0.0).delay, Duration::from_millis(500));
        assert_eq!(b.ended(s(59), 0.0).delay, s(1));
    }

    #[test]
    fn five_crashes_at_start_are_a_failure_until_one_lives() {
        let mut b = Backoff::new(Policy::default());
        let failed: Vec<_> = (0..6).map(|_| b.ended(s(1), 0.0).failed).collect();
        assert_eq!(failed, [false, false, false, false, true, true]);
        assert_eq!(
            b.ended(s(9), 0.0),
            Next {
                delay: s(60),
                failed: true
            }
        );
        assert!(!b.ended(s(10), 0.0).failed);
        b.reset();
        assert_eq!(b, Backoff::new(Policy::default()));
    }

    #[test]
    fn jitter_moves_by_a_tenth() {
        for (random, ms) in [(-1.0, 450), (1.0, 550), (9.0, 550), (f64::NAN, 500)] {
            let mut b = Backoff::new(Policy::default());
            assert_eq!(b.ended(s(20), random).delay.as_millis(), ms);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failing_starts_take_minutes_not_seconds() {
        let mut b = Backoff::new(Policy::default());
        let start = tokio::time::Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(b.ended(s(0), 0.0).delay).await;
        }
        // 0.5 + 1 + 2 + 4, then six times the longest.
        assert_eq!(start.elapsed().as_millis(), 7_500 + 6 * 60_000);
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(lives in proptest::collection::vec((0_u64..200, -2.0_f64..2.0), 1..200)) {
            let mut b = Backoff::new(Policy::default());
            for (lived, random) in lives {
                let next = b.ended(s(lived), random);
                prop_assert!(next.delay >= Duration::from_millis(449));
                prop_assert!(next.delay <= s(66));
                prop_assert!(!next.failed || lived < 10);
            }
        }
    }
}
