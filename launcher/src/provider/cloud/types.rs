//! Plain data that clouds answer with.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{ClusterRef, Tags};

/// What can be said of a cloud without a call.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// As in flags and tags.
    pub name: &'static str,
    /// Whether machines of one call get the same user-data, so that a batch shares a
    /// bootstrap certificate.
    pub shares_user_data: bool,
    /// Most bytes of user-data, before any encoding of the transport.
    pub user_data_max: usize,
    /// What becomes of a machine that powers itself off.
    pub self_end: SelfEnd,
}

/// What becomes of a machine that powers itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfEnd {
    /// The cloud deletes it with its disk.
    Deleted,
    /// It stands there and costs something until somebody deletes it.
    Billed,
}

impl SelfEnd {
    /// The honest sentence for a plan.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Deleted => "machines power off, and the cloud deletes them with their disks",
            Self::Billed => {
                "machines power off, but are billed until deleted: by `herdsman down`, or by `herdsman reap` in a timer"
            }
        }
    }
}

/// An amount of money by the hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Money {
    /// How much.
    pub per_hour: f64,
    /// Of what, as ISO 4217 has it.
    pub currency: String,
}

impl Money {
    /// Dollars of the United States.
    #[must_use]
    pub fn usd(per_hour: f64) -> Self {
        Self {
            per_hour,
            currency: "USD".into(),
        }
    }

    /// So many of it.
    #[must_use]
    pub fn times(&self, n: u32) -> Self {
        Self {
            per_hour: self.per_hour * f64::from(n),
            currency: self.currency.clone(),
        }
    }

    /// What it comes to after a time.
    #[must_use]
    pub fn over(&self, time: Duration) -> f64 {
        self.per_hour * time.as_secs_f64() / 3600.0
    }

    /// Both together; absent where the currencies differ.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        (self.currency == other.currency).then(|| Self {
            per_hour: self.per_hour + other.per_hour,
            currency: self.currency.clone(),
        })
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} {}/h", self.per_hour, self.currency)
    }
}

/// A machine type that can be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The vendor's name.
    pub name: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Processors as the guest sees them.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Graphics processors.
    pub gpus: u32,
    /// Their name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Price, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Money>,
    /// Price of one that can be taken away, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot: Option<Money>,
    /// Zones that have it; empty: all of the region.
    pub zones: Vec<String>,
    /// Whether the vendor still gives it to new machines.
    pub current: bool,
    /// The order of those of one size where prices are not in the catalogue.
    #[serde(skip)]
    pub rank: u32,
}

/// How a thing that was looked at stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// Good.
    Good,
    /// Works, but not for everything.
    Fair,
    /// `up` would fail.
    Bad,
}

/// One thing that `check` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it stands.
    pub mood: Mood,
    /// What: `credentials`, `permissions`, `quota` …
    pub what: String,
    /// How, in a sentence.
    pub text: String,
    /// Lines that may be pasted, with a remark behind.
    #[serde(rename = "try")]
    pub hint: Vec<String>,
}

impl Finding {
    /// A finding without anything to try.
    #[must_use]
    pub fn new(mood: Mood, what: &str, text: impl Into<String>) -> Self {
        Self {
            mood,
            what: what.to_owned(),
            text: text.into(),
            hint: Vec::new(),
        }
    }

    /// What an error says of it.
    #[must_use]
    pub fn failed(what: &str, e: &super::ProviderError) -> Self {
        Self {
            mood: Mood::Bad,
            what: what.to_owned(),
            text: e.message.clone(),
            hint: e.hint.clone(),
        }
    }

    /// Adds a line to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.push(hint.into());
        self
    }
}

/// Machines of one kind that would be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedMachine {
    /// How many.
    pub count: u32,
    /// The type that is tried first.
    pub offer: Offer,
    /// Types that are tried after it.
    pub others: Vec<String>,
    /// Whether they can be taken away.
    pub spot: bool,
    /// Bytes.
    pub disk: u64,
}

impl PlannedMachine {
    /// What one of them costs, where that is known.
    #[must_use]
    pub fn price(&self) -> Option<&Money> {
        let spot = self.offer.spot.as_ref().filter(|_| self.spot);
        spot.or(self.offer.price.as_ref())
    }
}

/// What `up` would make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Region or zone, for people.
    pub place: String,
    /// The image that machines start from.
    pub image: String,
    /// The scheduler's machine.
    pub scheduler: PlannedMachine,
    /// The workers'.
    pub workers: PlannedMachine,
    /// What else is made or used, a line each: network, firewall.
    pub network: Vec<String>,
}

impl Plan {
    /// What all of it costs, where that is known of all of it.
    #[must_use]
    pub fn price(&self) -> Option<Money> {
        let scheduler = self.scheduler.price()?.times(self.scheduler.count);
        if self.workers.count == 0 {
            return Some(scheduler);
        }
        scheduler.plus(&self.workers.price()?.times(self.workers.count))
    }
}

/// Something with our tags that is no machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// What it is, for people: `security group`, `disk`, `address`.
    pub kind: String,
    /// The vendor's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The cluster it was made for, from its tags.
    pub cluster: ClusterRef,
    /// All its tags.
    pub tags: Tags,
}
