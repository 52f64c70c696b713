//! When to try again: pure decisions.

use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::Reply;

/// When and how often to try again.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Most tries.
    pub tries: u32,
    /// Longest wait for one answer.
    pub one_try: Duration,
    /// Longest time for all tries.
    pub in_all: Duration,
    /// First pause, doubled each time.
    pub first_pause: Duration,
    /// Longest pause, also where the vendor wants a longer one.
    pub longest_pause: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tries: 8,
            one_try: Duration::from_secs(30),
            in_all: Duration::from_secs(150),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// Pause after try number `tries` (from 1). The vendor's own wish is kept, and
    /// a little more, so that not all come back at the same moment; `dice` is 0 to 1.
    #[must_use]
    pub fn pause(&self, tries: u32, asked: Option<Duration>, dice: f64) -> Duration {
        if let Some(asked) = asked {
            return asked.min(self.longest_pause) + self.first_pause.mul_f64(dice);
        }
        let doubled = self.first_pause.saturating_mul(1 << tries.saturating_sub(1).min(16));
        // Between half and all of it.
        doubled.min(self.longest_pause).mul_f64(0.5 + dice / 2.0)
    }
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one.
    Fine,
    /// It says no, and would again.
    Failed,
    /// It was not done, and may be later: a rate limit.
    Refused(Option<Duration>),
    /// Nobody knows whether it was done: the server broke.
    Broken(Option<Duration>),
    /// The credentials are over.
    Credentials,
    /// Our clock is wrong.
    Clock,
}

/// What most vendors mean by a status.
#[must_use]
pub fn by_status(reply: &Reply) -> Verdict {
    let asked = || retry_after(reply, SystemTime::now());
    match reply.status {
        200..=299 => Verdict::Fine,
        401 => Verdict::Credentials,
        429 => Verdict::Refused(asked()),
        408 | 500 | 502 | 503 | 504 => Verdict::Broken(asked()),
        _ => Verdict::Failed,
    }
}

/// `Retry-After`, in both of its forms (RFC 9110, 10.2.3).
#[must_use]
pub(super) fn retry_after(reply: &Reply, now: SystemTime) -> Option<Duration> {
    let text = reply.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    Some(http_date(text)?.duration_since(now).unwrap_or_default())
}

/// How long the vendor takes no more calls, where the headers say that the last
/// one was used up: `RateLimit-Remaining: 0` with `RateLimit-Reset`, which some give
/// as seconds of the epoch.
#[must_use]
pub(super) fn spent(reply: &Reply, now: SystemTime) -> Option<Duration> {
    let number = |name: &str| reply.header(name)?.trim().parse::<u64>().ok();
    let either = |name: &str| number(&format!("ratelimit-{name}")).or_else(|| number(&format!("x-ratelimit-{name}")));
    if either("remaining")? > 0 {
        return None;
    }
    let reset = either("reset")?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // No pause is as long as a number of seconds since 1970.
    Some(Duration::from_secs(if reset > 1_000_000_000 {
        reset.saturating_sub(since.as_secs())
    } else {
        reset
    }))
}

/// A date as HTTP writes it.
#[must_use]
pub(super) fn http_date(text: &str) -> Option<SystemTime> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(text.replace("GMT", "+0000"))
        .ok()?;
    let seconds = u64::try_from(parsed.as_second()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A number from 0 to 1.
#[must_use]
pub(super) fn dice() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all would wait equally long, which is no harm.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)]) -> Reply {
        Reply {
            status,
            headers: headers
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .collect(),
            body: bytes::Bytes::new(),
        }
    }

    #[test]
    fn pauses_grow_and_the_vendors_wish_is_kept() {
        let p = Policy::default();
        assert_eq!(p.pause(1, None, 1.0), p.first_pause);
        assert_eq!(p.pause(1, None, 0.0), p.first_pause / 2);
        assert_eq!(p.pause(3, None, 1.0), p.first_pause * 4);
        assert_eq!(p.pause(60, None, 1.0), p.longest_pause);
        let five = Duration::from_secs(5);
        assert!(p.pause(1, Some(five), 0.0) >= five);
        assert!(p.pause(1, Some(Duration::from_secs(9999)), 1.0) <= p.longest_pause + p.first_pause);
    }

    #[test]
    fn statuses_and_headers() {
        assert_eq!(by_status(&reply(204, &[])), Verdict::Fine);
        assert_eq!(by_status(&reply(404, &[])), Verdict::Failed);
        assert_eq!(by_status(&reply(401, &[])), Verdict::Credentials);
        let two = Some(Duration::from_secs(2));
        assert_eq!(by_status(&reply(429, &[("retry-after", "2")])), Verdict::Refused(two));
        assert_eq!(by_status(&reply(503, &[])), Verdict::Broken(None));
        let now = http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
        let at = reply(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(retry_after(&at, now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&at, now + Duration::from_secs(60)), Some(Duration::ZERO));
        assert_eq!(retry_after(&reply(503, &[("retry-after", "soon")]), now), None);
    }

    #[test]
    fn a_limit_that_is_used_up_is_waited_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let with = |remaining: &str, reset: &str| {
            spent(
                &reply(200, &[("ratelimit-remaining", remaining), ("ratelimit-reset", reset)]),
                now,
            )
        };
        assert_eq!(with("1", "1700000009"), None);
        assert_eq!(with("0", "1700000009"), Some(Duration::from_secs(9)));
        assert_eq!(with("0", "3"), Some(Duration::from_secs(3)));
        assert_eq!(spent(&reply(200, &[]), now), None);
    }
}
