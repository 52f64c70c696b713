//! When a cluster ends by itself: pure.

use std::time::Duration;

use herdsman_wire::Timestamp;
use herdsman_wire::report::Ending;
use herdsman_wire::spec::EndSpec;

/// What is known of a cluster's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When the cluster was made.
    pub started: Timestamp,
    /// Since when nothing runs; absent while something does.
    pub idle_since: Option<Timestamp>,
    /// Since when no client is connected; absent while one is.
    pub clientless_since: Option<Timestamp>,
}

/// What will happen when.
#[must_use]
pub fn outlook(limits: &EndSpec, activity: &Activity) -> Ending {
    let after = |from: Option<Timestamp>, seconds: Option<u64>| Some(from?.plus(Duration::from_secs(seconds?)));
    Ending {
        idle_since: activity.idle_since,
        idle_seconds: limits.idle_seconds,
        idle_ends: after(activity.idle_since, limits.idle_seconds),
        lifetime_ends: after(Some(activity.started), limits.lifetime_seconds),
        ending: None,
    }
}

/// Why the cluster has to end now, if it has to.
#[must_use]
pub fn due(limits: &EndSpec, activity: &Activity, now: Timestamp) -> Option<String> {
    let passed = |from: Option<Timestamp>, seconds: Option<u64>| match (from, seconds) {
        (Some(from), Some(s)) => now.since(from) >= Duration::from_secs(s),
        _ => false,
    };
    if passed(activity.idle_since, limits.idle_seconds) {
        return Some(format!("idle for {} s", limits.idle_seconds.unwrap_or_default()));
    }
    if passed(activity.clientless_since, limits.no_client_seconds) {
        return Some(format!(
            "without a client for {} s",
            limits.no_client_seconds.unwrap_or_default()
        ));
    }
    if passed(Some(activity.started), limits.lifetime_seconds) {
        return Some(format!(
            "its lifetime of {} s is over",
            limits.lifetime_seconds.unwrap_or_default()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_lifetime_and_clients() {
        let limits = EndSpec {
            idle_seconds: Some(60),
            no_client_seconds: Some(100),
            lifetime_seconds: Some(1000),
        };
        let at = |s: u64| Timestamp(s * 1000);
        let busy = Activity {
            started: at(0),
            idle_since: None,
            clientless_since: None,
        };
        assert_eq!(due(&limits, &busy, at(999)), None);
        assert!(due(&limits, &busy, at(1000)).unwrap().contains("lifetime"));
        let idle = Activity {
            idle_since: Some(at(10)),
            ..busy
        };
        assert_eq!(due(&limits, &idle, at(69)), None);
        assert!(due(&limits, &idle, at(70)).unwrap().contains("idle for 60 s"));
        let alone = Activity {
            clientless_since: Some(at(10)),
            ..busy
        };
        assert!(due(&limits, &alone, at(110)).unwrap().contains("without a client"));
        assert_eq!(due(&EndSpec::default(), &idle, at(1_000_000)), None);
        let seen = outlook(&limits, &idle);
        assert_eq!((seen.idle_ends, seen.lifetime_ends), (Some(at(70)), Some(at(1000))));
        assert_eq!(outlook(&limits, &busy).idle_ends, None);
        // A clock that was set back ends nothing.
        assert_eq!(
            due(
                &limits,
                &Activity {
                    started: at(50),
                    ..idle
                },
                at(5)
            ),
            None
        );
    }
}
