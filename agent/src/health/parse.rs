//! Pure parsers of what the kernel writes. None panics; what is not understood
//! is absent.

/// Processor time of all processors since boot, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Everything.
    pub total: u64,
    /// Idle, and waiting for disks.
    pub idle: u64,
}

/// Reads the first line of `/proc/stat`.
#[must_use]
pub fn cpu_times(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|l| l.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map(|f| f.parse().ok())
        .collect::<Option<_>>()?;
    let idle = fields.get(3)?.saturating_add(*fields.get(4).unwrap_or(&0));
    let total = fields.iter().fold(0_u64, |sum, f| sum.saturating_add(*f));
    Some(CpuTimes { total, idle })
}

/// Share of the processors in use between two times, 0 to 100.
#[must_use]
pub fn cpu_percent(before: CpuTimes, after: CpuTimes) -> f32 {
    let total = after.total.saturating_sub(before.total);
    if total == 0 {
        return 0.0;
    }
    // Idle time may go back a little, says proc(5).
    let idle = after.idle.saturating_sub(before.idle).min(total);
    ((total - idle) as f64 / total as f64 * 100.0) as f32
}

/// Load average over a minute, from `/proc/loadavg`.
#[must_use]
pub fn load(text: &str) -> Option<f32> {
    let load: f32 = text.split_ascii_whitespace().next()?.parse().ok()?;
    load.is_finite().then_some(load)
}

/// A field in kB, as bytes; from `/proc/meminfo` or `/proc/PID/status`.
#[must_use]
pub fn kib_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Bytes through all interfaces but loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetBytes {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// Reads `/proc/net/dev`.
#[must_use]
pub fn net_bytes(text: &str) -> NetBytes {
    let mut all = NetBytes::default();
    for line in text.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        // Received bytes are the first counter, sent ones the ninth.
        let mut counters = counters.split_ascii_whitespace().map(|f| f.parse::<u64>().unwrap_or(0));
        all.received = all.received.saturating_add(counters.next().unwrap_or(0));
        all.sent = all.sent.saturating_add(counters.nth(7).unwrap_or(0));
    }
    all
}

/// Growth per second; 0 when the counter went back or no time has passed.
#[must_use]
pub fn rate(before: u64, after: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return 0.0;
    }
    after.saturating_sub(before) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_text_is_understood() {
        let stat = "cpu  100 5 20 800 50 1 2 3 10 0\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
        let t = cpu_times(stat).unwrap();
        assert_eq!((t.total, t.idle), (981, 850));
        assert_eq!(load("0.25 0.10 0.05 1/234 5678\n"), Some(0.25));
        let meminfo = "MemTotal:       2038012 kB\nMemFree:         1 kB\nMemAvailable:    100 kB\n";
        assert_eq!(kib_field(meminfo, "MemTotal"), Some(2_038_012 * 1024));
        assert_eq!(kib_field(meminfo, "Mem"), None);
        let dev = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
            lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n  eth0:1000 2 0 0 0 0 0 0 70 3 0 0 0 0 0 0\n eth1: 1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(
            net_bytes(dev),
            NetBytes {
                received: 1001,
                sent: 72
            }
        );
    }

    #[test]
    fn shares_stay_in_their_range() {
        let t = |total, idle| CpuTimes { total, idle };
        assert_eq!(cpu_percent(t(100, 50), t(200, 75)), 75.0);
        assert_eq!(cpu_percent(t(100, 50), t(100, 50)), 0.0);
        assert_eq!(cpu_percent(t(100, 50), t(200, 40)), 100.0);
        assert_eq!(cpu_percent(t(100, 50), t(110, 90)), 0.0);
        assert_eq!(rate(5, 3, 1.0), 0.0);
        assert_eq!(rate(3, 5, 0.0), 0.0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(cpu |lo:|MemTotal:)?.*(\n.*)?") {
            let _ = (cpu_times(&text), load(&text), kib_field(&text, "MemTotal"), net_bytes(&text));
        }
    }
}
