//! Choices as users write them: how many workers, what to wait for, who may
//! reach the cluster, which environment, which provider.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::value::{NumberOrText, ValueError, as_text};

/// Most workers of a cluster: what one message to the hub holds, with room.
pub const WORKERS_MAX: u32 = 10_000;

/// How many workers: a fixed number, or a range for adaptive scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub struct WorkerRange {
    min: u32,
    max: u32,
}

impl WorkerRange {
    /// A fixed number, capped at [`WORKERS_MAX`].
    #[must_use]
    pub fn fixed(n: u32) -> Self {
        let n = n.min(WORKERS_MAX);
        Self { min: n, max: n }
    }

    /// Fewest workers, and how many there are at first.
    #[must_use]
    pub const fn min(self) -> u32 {
        self.min
    }

    /// Most workers.
    #[must_use]
    pub const fn max(self) -> u32 {
        self.max
    }

    /// Whether the number changes with the load.
    #[must_use]
    pub const fn is_adaptive(self) -> bool {
        self.min != self.max
    }
}

impl FromStr for WorkerRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: String| ValueError::new("number of workers", text, why);
        let number = |part: &str| -> Result<u32, ValueError> {
            let part = part.trim();
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let n = plain.then(|| part.parse::<u32>().unwrap_or(u32::MAX)).ok_or_else(|| {
                match text.split_once(['-', ':', ',']) {
                    Some((a, b)) if a.trim().parse::<u32>().is_ok() && b.trim().parse::<u32>().is_ok() => {
                        fail(format!("write a range as {}..{}", a.trim(), b.trim()))
                    }
                    _ => fail("write a number like 4 or a range like 2..8".into()),
                }
            })?;
            if n > WORKERS_MAX {
                return Err(fail(format!("more than {WORKERS_MAX} are not supported")));
            }
            Ok(n)
        };
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (number(min)?, number(max)?),
            None => {
                let n = number(text)?;
                (n, n)
            }
        };
        if min > max {
            return Err(fail(format!("{min} is more than {max}; write {max}..{min}")));
        }
        Ok(Self { min, max })
    }
}

impl fmt::Display for WorkerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_adaptive() {
            write!(f, "{}..{}", self.min, self.max)
        } else {
            write!(f, "{}", self.min)
        }
    }
}

impl TryFrom<NumberOrText> for WorkerRange {
    type Error = ValueError;
    fn try_from(v: NumberOrText) -> Result<Self, ValueError> {
        v.to_string().parse()
    }
}

impl From<WorkerRange> for NumberOrText {
    fn from(r: WorkerRange) -> Self {
        if r.is_adaptive() {
            Self::Text(r.to_string())
        } else {
            Self::Number(r.min.into())
        }
    }
}

/// What `up` waits for before it returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wait {
    /// Nothing: return once everything is asked for.
    None,
    /// The scheduler.
    Scheduler,
    /// The first worker.
    First,
    /// All workers.
    All,
    /// This share of the workers, above 0 and up to 1.
    Fraction(f64),
}
as_text!(Wait, Allow, EnvSource);

impl Wait {
    /// How many of `wanted` workers have to be ready.
    #[must_use]
    pub fn workers(self, wanted: u32) -> u32 {
        match self {
            Self::None | Self::Scheduler => 0,
            Self::First => wanted.min(1),
            Self::All => wanted,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of at most 1 of a u32, rounded up"
            )]
            Self::Fraction(share) => ((f64::from(wanted) * share).ceil() as u32).min(wanted),
        }
    }
}

impl FromStr for Wait {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: &str| ValueError::new("thing to wait for", text, why);
        let form = "write none, scheduler, first, all or a share like 0.5 or 50%";
        let text = text.trim();
        let share = match text {
            "none" => return Ok(Self::None),
            "scheduler" => return Ok(Self::Scheduler),
            "first" => return Ok(Self::First),
            "all" => return Ok(Self::All),
            other => match other.strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0),
                None => other.parse::<f64>(),
            },
        }
        .map_err(|_| fail(form))?;
        if share > 0.0 && share <= 1.0 {
            Ok(Self::Fraction(share))
        } else {
            Err(fail(
                "a share lies above 0 and is at most 1; write all for every worker",
            ))
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Scheduler => f.write_str("scheduler"),
            Self::First => f.write_str("first"),
            Self::All => f.write_str("all"),
            Self::Fraction(share) => share.fmt(f),
        }
    }
}

/// Who may reach the cluster's ports from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allow {
    /// The address that this computer is seen with.
    Me,
    /// Nobody: only nodes among themselves.
    None,
    /// A network.
    Net(IpNet),
}

impl FromStr for Allow {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: String| ValueError::new("network", text, why);
        match text.trim() {
            "me" => Ok(Self::Me),
            "none" => Ok(Self::None),
            other => {
                if let Ok(address) = other.parse::<IpAddr>() {
                    return Ok(Self::Net(address.into()));
                }
                let net: IpNet = other
                    .parse()
                    .map_err(|_| fail("write me, none, or a network like 203.0.113.0/24".into()))?;
                // With host bits set, either the address or the length is a
                // slip, and guessing wrong opens a firewall.
                if net.trunc() != net {
                    let address = net.addr();
                    return Err(fail(format!(
                        "write {} for the network or {address} for one host",
                        net.trunc()
                    )));
                }
                Ok(Self::Net(net))
            }
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Me => f.write_str("me"),
            Self::None => f.write_str("none"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

/// Where the nodes' Python environment comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EnvSource {
    /// What suits the provider: the environment in place on this computer's own
    /// nodes, a locked copy of it everywhere else.
    Auto,
    /// A locked copy of the environment on this computer, wherever the nodes are.
    Copy,
    /// A lock file.
    Lock(PathBuf),
    /// What the machine's image has.
    Image,
    /// Nothing is checked or installed.
    None,
}

impl FromStr for EnvSource {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = |why: &str| ValueError::new("environment", text, why);
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "copy" => Ok(Self::Copy),
            "image" => Ok(Self::Image),
            "none" => Ok(Self::None),
            other => match other.split_once(':') {
                Some(("lock", file)) if !file.is_empty() => Ok(Self::Lock(file.into())),
                Some(("lock", _)) => Err(fail("name the lock file, like lock:uv.lock")),
                Some(("docker", _)) => Err(fail(
                    "containers are not supported yet; use auto, copy, lock:FILE or image",
                )),
                _ if other == "lock" => Err(fail("name the lock file, like lock:uv.lock")),
                _ => Err(fail("write auto, copy, lock:FILE, image or none")),
            },
        }
    }
}

impl fmt::Display for EnvSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Copy => f.write_str("copy"),
            Self::Lock(file) => write!(f, "lock:{}", file.display()),
            Self::Image => f.write_str("image"),
            Self::None => f.write_str("none"),
        }
    }
}

/// [`EnvSource`] as a file says it, where the lock file may have a key of its
/// own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EnvMode {
    /// Everything in one.
    Source(EnvSource),
    /// The lock file is named by `env.lock`.
    Lock,
}
as_text!(EnvMode);

impl FromStr for EnvMode {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.trim() == "lock" {
            return Ok(Self::Lock);
        }
        text.parse().map(Self::Source)
    }
}

impl fmt::Display for EnvMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => source.fmt(f),
            Self::Lock => f.write_str("lock"),
        }
    }
}

/// Everything that can make machines, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ProviderName {
    Local,
    Qemu,
    Manual,
    Gcp,
    Aws,
    Azure,
    DigitalOcean,
    Hetzner,
    OpenStack,
}

impl ProviderName {
    /// As it is written in flags, files and tags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Qemu => "qemu",
            Self::Manual => "manual",
            Self::Gcp => "gcp",
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::DigitalOcean => "digitalocean",
            Self::Hetzner => "hetzner",
            Self::OpenStack => "openstack",
        }
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether workers may be of the kind that the provider can take away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spot {
    /// Never.
    #[default]
    Never,
    /// Where there are any, else ordinary ones.
    Prefer,
    /// Only.
    Only,
}

/// How the nodes of provider `local` are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LocalNetwork {
    /// Network namespaces where they work, else loopback addresses.
    #[default]
    Auto,
    /// A network namespace for each node.
    Namespace,
    /// Addresses of the loopback interface.
    Loopback,
}

impl fmt::Display for LocalNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Namespace => "namespace",
            Self::Loopback => "loopback",
        })
    }
}

/// How the machines of provider `qemu` carry out instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor where it can, else by translation.
    #[default]
    Auto,
    /// By the processor: needs `/dev/kvm`.
    Kvm,
    /// By translation: works everywhere, about ten times slower.
    Tcg,
}
