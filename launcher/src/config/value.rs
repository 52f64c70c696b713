//! Amounts as users write them: durations (`20m`), limits (`12h`, `off`) and
//! sizes (`16GiB`). A bare number is refused everywhere, because half of the
//! readers would take it for the other unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secrets;

/// Why a text is no such value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {why}")]
pub struct ValueError {
    what: &'static str,
    text: String,
    why: String,
}

impl ValueError {
    /// An error about `text`, which is shortened when it is long, and not shown
    /// when it looks like a secret.
    pub(crate) fn new(what: &'static str, text: &str, why: impl Into<String>) -> Self {
        let text = if secrets::look("", text).is_some() { "***" } else { text };
        let mut short: String = text.chars().take(60).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        Self {
            what,
            text: short,
            why: why.into(),
        }
    }

    /// The same without the text.
    pub(crate) fn hidden(mut self) -> Self {
        "***".clone_into(&mut self.text);
        self
    }
}

/// Serialises a type as its text, both ways.
macro_rules! as_text {
    ($($name:ty),+ $(,)?) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use as_text;

/// Longest duration that is taken: ten years, far above any use and far below
/// what overflows in milliseconds.
pub const PERIOD_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

const PERIOD_FORM: &str = "write it like 30s, 20m, 12h or 1h30m";

/// A duration longer than nothing, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);
as_text!(Period, Limit, Size);

impl Period {
    /// A duration of whole milliseconds; zero becomes one millisecond.
    #[must_use]
    pub fn new(d: Duration) -> Self {
        let ms = d.min(PERIOD_MAX).as_millis().max(1);
        Self(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
    }

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: String| ValueError::new("duration", text, why);
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(fail(format!("it is empty; {PERIOD_FORM}")));
        }
        let mut total: u128 = 0;
        let mut last_unit = u128::MAX;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(fail(PERIOD_FORM.into()));
            }
            let number: u128 = rest[..digits].parse().map_err(|_| fail("it is too long".into()))?;
            rest = rest[digits..].trim_start();
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = match &rest[..letters] {
                "ms" | "millisecond" | "milliseconds" => 1,
                "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
                "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
                "d" | "day" | "days" => 86_400_000,
                "" if rest.is_empty() => {
                    return Err(fail(format!(
                        "{number} has no unit; write {number}s, {number}m or {number}h"
                    )));
                }
                "" => return Err(fail(PERIOD_FORM.into())),
                other => return Err(fail(format!("unit {other:?} is unknown; {PERIOD_FORM}"))),
            };
            // `30m1h` is more likely a slip than a wish.
            if unit >= last_unit {
                return Err(fail("larger units come first, each once".into()));
            }
            last_unit = unit;
            total = number
                .checked_mul(unit)
                .and_then(|ms| total.checked_add(ms))
                .filter(|ms| *ms <= PERIOD_MAX.as_millis())
                .ok_or_else(|| fail("it is longer than ten years".into()))?;
            rest = rest[letters..].trim_start();
        }
        if total == 0 {
            return Err(fail("it is zero".into()));
        }
        Ok(Self::new(Duration::from_millis(
            u64::try_from(total).unwrap_or(u64::MAX),
        )))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

/// A limit of time, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Ends after this long.
    After(Period),
    /// Never ends by itself.
    Off,
}

impl Limit {
    /// The limit in whole seconds, rounded up; `None` when it is off.
    #[must_use]
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::After(p) => Some(u64::try_from(p.get().as_millis().div_ceil(1000)).unwrap_or(u64::MAX)),
            Self::Off => None,
        }
    }
}

impl FromStr for Limit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.trim() {
            "off" => Ok(Self::Off),
            "never" | "none" | "no" | "false" | "0" => {
                Err(ValueError::new("limit", text, "write off to switch it off"))
            }
            other => other.parse().map(Self::After),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(p) => p.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

/// Units of sizes, the larger ones first so that writing finds the best.
const UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// An amount of memory or disk in bytes, more than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// A size; `None` when it is zero.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self(bytes)) }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: String| ValueError::new("size", text, why);
        let form = "write it like 16GiB, 4GB or 512MiB";
        let trimmed = text.trim();
        let end = trimmed.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, unit) = (&trimmed[..end], trimmed[end..].trim());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 6 {
            return Err(fail(form.into()));
        }
        if unit.is_empty() {
            return Err(fail(format!("it has no unit; write {number}GiB or {number}MiB")));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            let why = match unit.to_ascii_uppercase().as_str() {
                short @ ("K" | "M" | "G" | "T" | "P") => {
                    format!("unit {unit:?} may mean two things; write {short}iB (1024) or {short}B (1000)")
                }
                _ => format!("unit {unit:?} is unknown; {form}"),
            };
            return Err(fail(why));
        };
        let too_large = || fail("it is larger than can be counted".into());
        let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(6));
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let fraction: u128 = fraction.parse().map_err(|_| fail(form.into()))?;
        let bytes = whole
            .checked_mul(scale)
            .and_then(|n| n.checked_add(fraction))
            .and_then(|n| n.checked_mul(u128::from(*factor)))
            .map(|n| n / scale)
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(too_large)?;
        Self::new(bytes).ok_or_else(|| fail("it is zero".into()))
    }
}

impl fmt::Display for Size {
    /// The largest unit that divides it, so that nothing is lost.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = UNITS
            .iter()
            .find(|(_, factor)| self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

/// A number, or the machine's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub enum Threads {
    /// As many as the machine has, shared among its worker processes.
    #[default]
    Auto,
    /// This many for each worker process.
    Count(std::num::NonZeroU16),
}

/// What a file may hold where people write both `4` and `"4"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum NumberOrText {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = NumberOrText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_i64<E>(self, n: i64) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Number(n))
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<NumberOrText, E> {
                i64::try_from(n)
                    .map(NumberOrText::Number)
                    .map_err(|_| E::custom(format!("{n} is too large")))
            }
            fn visit_str<E>(self, s: &str) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Text(s.into()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl fmt::Display for NumberOrText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Text(t) => t.fmt(f),
        }
    }
}

impl TryFrom<NumberOrText> for Threads {
    type Error = ValueError;
    fn try_from(v: NumberOrText) -> Result<Self, ValueError> {
        v.to_string().parse()
    }
}

impl From<Threads> for NumberOrText {
    fn from(t: Threads) -> Self {
        match t {
            Threads::Auto => Self::Text("auto".into()),
            Threads::Count(n) => Self::Number(n.get().into()),
        }
    }
}

impl FromStr for Threads {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            other => other
                .parse()
                .map(Self::Count)
                .map_err(|_| ValueError::new("number of threads", text, "write auto or a number from 1 to 65535")),
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(n) => n.fmt(f),
        }
    }
}
