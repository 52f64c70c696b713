//! Numbers as people read them.

use std::time::Duration;

/// `0.4s`, `12s`, `3m20s`, `2h05m`, `3d4h`.
#[must_use]
pub fn seconds(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..10 => format!("{:.1}s", d.as_secs_f64()),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86400, s / 3600 % 24),
    }
}

/// `12s`, `3m`, `2h`, `3d`: one unit, for columns.
#[must_use]
pub fn age(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86400),
    }
}

/// `512 B`, `1.5 MiB`, `16 GiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let s = |n| seconds(Duration::from_millis(n));
        assert_eq!(s(420), "0.4s");
        assert_eq!(s(12_000), "12s");
        assert_eq!(s(200_000), "3m20s");
        assert_eq!(s(7_500_000), "2h05m");
        assert_eq!(s(273_600_000), "3d4h");
        assert_eq!(age(Duration::from_secs(119)), "1m");
        assert_eq!(age(Duration::from_secs(90_000)), "25h");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(bytes(17_179_869_184), "16 GiB");
    }
}
