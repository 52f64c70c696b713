//! Times as clouds write them. Pure.

use herdsman_wire::Timestamp;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `2026-11-24T08:15:00Z`, as EC2 writes it; fractions of a second are dropped.
pub(super) fn iso(text: &str) -> Option<Timestamp> {
    let (date, time) = text.trim().strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    point(year, month, day, time)
}

/// `Tue, 24 Nov 2026 08:15:00 GMT`, as Azure writes it (RFC 1123).
pub(super) fn rfc1123(text: &str) -> Option<Timestamp> {
    let mut fields = text.split_once(',')?.1.split_whitespace();
    let day = number(fields.next()?)?;
    let name = fields.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? + 1;
    let year = number(fields.next()?)?;
    let time = fields.next()?;
    (fields.next()? == "GMT").then_some(())?;
    point(year, u32::try_from(month).ok()?, day, time)
}

fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn point(year: u32, month: u32, day: u32, time: &str) -> Option<Timestamp> {
    let mut time = time.split(':');
    let (hour, minute) = (number(time.next()?)?, number(time.next()?)?);
    let second = number(time.next()?.split('.').next()?)?;
    let sane = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !sane {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + u64::from(hour)) * 60 + u64::from(minute)) * 60 + u64::from(second);
    Some(Timestamp(seconds * 1000))
}

/// Days since 1970. The year is counted from March, so that the leap day is its last.
fn days(year: u32, month: u32, day: u32) -> u64 {
    let year = u64::from(if month <= 2 { year - 1 } else { year });
    let month = u64::from((month + 9) % 12);
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    // 719468 days from the first of March of year 0 to 1970.
    of_years + (month * 153 + 2) / 5 + u64::from(day) - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2026-11-24T08:15:00Z",
            "2100-03-01T00:00:00Z",
        ] {
            assert_eq!(iso(text).unwrap().to_string(), text);
        }
        assert_eq!(iso("2026-11-24T08:15:00.250Z"), iso("2026-11-24T08:15:00Z"));
        assert_eq!(rfc1123("Tue, 24 Nov 2026 08:15:00 GMT"), iso("2026-11-24T08:15:00Z"));
        assert_eq!(rfc1123("Mon, 19 Sep 2016 18:29:47 GMT"), iso("2016-09-19T18:29:47Z"));
    }

    #[test]
    fn everything_else_is_no_time() {
        for text in [
            "",
            "soon",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01",
            "T:Z",
            "1-1-1T1:1:1Z",
        ] {
            assert_eq!(iso(text), None, "{text}");
        }
        for text in [
            "",
            ",",
            "Tue, 24 Nov 2026 08:15:00",
            "Tue, 24 Foo 2026 08:15:00 GMT",
            "Tue, -1 Nov 2026 0:0:0 GMT",
        ] {
            assert_eq!(rfc1123(text), None, "{text}");
        }
    }
}
