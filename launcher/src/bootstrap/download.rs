//! Where a machine gets its agent: addresses and what the file must be.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use herdsman_wire::{ApiError, Code};
use serde::{Deserialize, Serialize};

/// What stands for the machine's architecture in an address.
pub const ARCH: &str = "{arch}";

/// Longest address, bytes.
const ADDRESS_MAX: usize = 1024;

/// Where this version's released agents are, with [`ARCH`] in it. Set, like
/// their hashes, when a release is built: the agents first, then the launcher.
const RELEASES: Option<&str> = option_env!("HERDSMAN_RELEASES");

/// Hashes of this version's released agents.
const RELEASED: [(Arch, Option<&str>); 2] = [
    (Arch::X86_64, option_env!("HERDSMAN_AGENT_SHA256_X86_64")),
    (Arch::Aarch64, option_env!("HERDSMAN_AGENT_SHA256_AARCH64")),
];

/// A machine's architecture, by the name that the kernel gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Arch {
    /// As `uname -m` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        }
    }

    /// What a program was built for, by the machine field of its ELF header.
    #[must_use]
    fn of_program(head: &[u8]) -> Option<Self> {
        if head.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        match (head.get(18)?, head.get(19)?) {
            (62, 0) => Some(Self::X86_64),
            (183, 0) => Some(Self::Aarch64),
            _ => None,
        }
    }
}

/// SHA-256 in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(String);

impl FromStr for Sha256 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(hex));
        }
        Err("a SHA-256 has 64 hexadecimal digits".to_owned())
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address that the agent can be downloaded from; `{arch}` in it stands for
/// the machine's architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mirror(String);

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or("write an address that begins with https:// or http://")?;
        if text.len() > ADDRESS_MAX {
            return Err(format!("an address has at most {ADDRESS_MAX} bytes"));
        }
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if host.is_empty() {
            return Err("the address names no host".to_owned());
        }
        if host.contains('@') {
            return Err("no password in an address: user-data can be read by many".to_owned());
        }
        // What the shell would read as something else, in quotes or out of them.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/?[]@!&(),;=%+#".contains(c);
        match text.replace(ARCH, "").chars().find(|c| !plain(*c)) {
            Some(c) => Err(format!("{c:?} may not stand in it; write it as %{:02X}", u32::from(c))),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mirror> for String {
    fn from(mirror: Mirror) -> Self {
        mirror.0
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The agent to download.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// Addresses, tried in order.
    pub mirrors: Vec<Mirror>,
    /// What the file must be, for each architecture that there is an agent for.
    pub sha256: BTreeMap<Arch, Sha256>,
}

impl Download {
    /// What the settings say, and where they say nothing, what is known: with
    /// addresses of the user's own, the program beside the launcher is what lies
    /// there; without, it is the release of this version.
    ///
    /// # Errors
    /// [`Code::Usage`] when nothing says what the file must be.
    pub fn new(
        mirrors: &[Mirror],
        sha256: &BTreeMap<Arch, Sha256>,
        own: impl FnOnce() -> Result<std::path::PathBuf, ApiError>,
    ) -> Result<Self, ApiError> {
        let mut known = Self {
            mirrors: mirrors.to_vec(),
            sha256: sha256.clone(),
        };
        let released = RELEASED
            .iter()
            .filter_map(|(arch, hash)| Some((*arch, (*hash)?.parse::<Sha256>().ok()?)));
        let released: BTreeMap<Arch, Sha256> = released.collect();
        if known.sha256.is_empty() {
            known.sha256 = if mirrors.is_empty() && !released.is_empty() {
                released
            } else {
                let (arch, hash) = of_program(&own()?)?;
                BTreeMap::from([(arch, hash)])
            };
        }
        if known.mirrors.is_empty() {
            known
                .mirrors
                .extend(RELEASES.and_then(|url| url.parse::<Mirror>().ok()));
        }
        if known.mirrors.is_empty() {
            return Err(ApiError::new(
                Code::Usage,
                "this build is no release: it does not know where machines get their agent",
            )
            .with_hint("put the program that scripts/build-agent builds on a web server, and name it in herdsman.toml:")
            .with_hint("[agent]\n       url = [\"https://files.example/herdsman-agent-{arch}\"]"));
        }
        Ok(known)
    }
}

/// Architecture and hash of an agent's file.
///
/// # Errors
/// [`Code::Usage`] when it is no program for Linux, or as the file system says.
pub fn of_program(path: &Path) -> Result<(Arch, Sha256), ApiError> {
    let fail = |e: std::io::Error| ApiError::new(Code::NotFound, format!("cannot read {}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut head = Vec::new();
    loop {
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            break;
        }
        context.update(&buffer[..n]);
        if head.len() < 20 {
            head.extend_from_slice(&buffer[..n.min(20)]);
        }
    }
    let arch = Arch::of_program(&head).ok_or_else(|| {
        ApiError::new(
            Code::Usage,
            format!("{} is no agent for Linux on x86_64 or aarch64", path.display()),
        )
        .with_hint("scripts/build-agent          builds one")
        .with_hint("or name one with agent.url and agent.sha256 in herdsman.toml")
    })?;
    let hex = context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok((arch, Sha256(hex)))
}
