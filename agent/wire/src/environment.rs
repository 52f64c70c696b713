//! The laptop's Python environment as it crosses to the nodes.
//!
//! A [`Manifest`] is one JSON document; the SHA-256 of its bytes is the
//! environment's id, so two environments with one id are the same to the last
//! file. It names further blobs (wheels of local code) by their hashes. What it
//! never holds: passwords of package indexes ([`IndexCredential`] travels beside
//! it) and paths of the laptop.
//!
//! Whoever reads a manifest hands its text to programs: so the parser takes
//! nothing that an installer could read as an option, a path or another source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Code};
use crate::report::Versions;
use crate::secret::Secret;

mod check;
mod lock;

pub use lock::{Pin, parse_lock};

/// The only version of the document that this build reads and writes.
pub const VERSION: u32 = 1;
/// Largest manifest, bytes. The hashes of a thousand packages fit.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// Most local wheels.
pub const MAX_WHEELS: usize = 500;
/// Most package indexes.
pub const MAX_INDEXES: usize = 16;
/// Most set-up lines, and the longest of them, bytes.
pub const MAX_SETUP: usize = 64;
/// Longest set-up line, bytes.
pub const MAX_SETUP_LINE: usize = 4096;
/// Platform for which packages are locked: what Debian 11, RHEL 8 and all newer
/// machines take.
pub const PLATFORM: &str = "x86_64-manylinux_2_28";

/// What a node installs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the document, [`VERSION`].
    pub version: u32,
    /// Full version of the laptop's Python, for example `3.11.7`. Nodes take the
    /// same minor version, and the same patch where they have it.
    pub python: String,
    /// Platform of the locked packages, in uv's words.
    pub platform: String,
    /// Requirements with hashes, one `name==version` a package, as
    /// [`parse_lock`] reads them.
    pub lock: String,
    /// Wheels of local code; they travel as blobs.
    #[serde(default)]
    pub wheels: Vec<Wheel>,
    /// Package indexes in the order of their priority, the default one last,
    /// without credentials. Empty: the public index only.
    #[serde(default)]
    pub indexes: Vec<String>,
    /// Versions that must be found after the installation: `python` and those
    /// packages whose versions decide whether both sides understand each other.
    pub versions: BTreeMap<String, String>,
    /// Shell lines that run on a node, as root, before the installation.
    #[serde(default)]
    pub setup: Vec<String>,
}

/// A wheel that travels as a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    /// Its file name, which installers read name, version and platform from.
    pub file: String,
    /// SHA-256 of the file, lower-case hex: the blob's name.
    pub sha256: String,
    /// Its size, bytes.
    pub size: u64,
}

/// Access to a package index. Never part of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexCredential {
    /// The index's host, lower case, without port.
    pub host: String,
    /// User name.
    pub user: String,
    /// Password or token.
    pub password: Secret,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Code::TooLarge`], [`Code::Protocol`] naming both versions, or
    /// [`Code::Malformed`] naming the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ApiError::new(
                Code::TooLarge,
                format!(
                    "the environment's manifest has {} bytes; the limit is {MAX_MANIFEST}",
                    bytes.len()
                ),
            ));
        }
        let malformed = |what: String| ApiError::new(Code::Malformed, format!("the environment's manifest: {what}"));
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if head.version != VERSION {
            return Err(ApiError::new(
                Code::Protocol,
                format!(
                    "the environment's manifest has version {}, this build reads version {VERSION}",
                    head.version
                ),
            )
            .with_hint("use an agent and a launcher of the same release"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        manifest.check().map_err(malformed)?;
        Ok(manifest)
    }

    /// The bytes that travel; [`id`] of them is the environment's id.
    ///
    /// # Errors
    /// As [`Self::parse`]: what could not be read is never sent.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ApiError> {
        let bytes = serde_json::to_vec(self)
            .map_err(|e| ApiError::new(Code::Internal, format!("the environment's manifest: {e}")))?;
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// Major and minor version of Python, for example `3.11`.
    #[must_use]
    pub fn minor(&self) -> String {
        self.python.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    fn check(&self) -> Result<(), String> {
        check::python(&self.python)?;
        check::word("platform", &self.platform)?;
        let pins = parse_lock(&self.lock)?;
        if self.wheels.len() > MAX_WHEELS {
            return Err(format!("field `wheels`: more than {MAX_WHEELS}"));
        }
        let mut names: std::collections::BTreeSet<String> = pins.into_iter().map(|p| p.name).collect();
        for wheel in &self.wheels {
            let name = check::wheel(wheel)?;
            if !names.insert(name.clone()) {
                return Err(format!("package {name} is named twice"));
            }
        }
        if self.indexes.len() > MAX_INDEXES {
            return Err(format!("field `indexes`: more than {MAX_INDEXES}"));
        }
        self.indexes.iter().try_for_each(|url| check::index(url))?;
        for (name, version) in &self.versions {
            check::word("versions", name)?;
            check::version(version)?;
        }
        if self.setup.len() > MAX_SETUP
            || self
                .setup
                .iter()
                .any(|l| l.is_empty() || l.len() > MAX_SETUP_LINE || l.contains(['\0', '\n']))
        {
            return Err(format!(
                "field `setup`: at most {MAX_SETUP} lines of 1 to {MAX_SETUP_LINE} bytes each"
            ));
        }
        Ok(())
    }
}

/// File with the environment's id, in a folder of its blobs that `herdsman pkg pack`
/// wrote.
pub const PACKED_ID: &str = "id";
/// uv's cache in that folder, and beside environments.
pub const PACKED_CACHE: &str = ".cache";

/// SHA-256 of bytes in lower-case hex: the name of a blob, the id of a manifest.
#[must_use]
pub fn id(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// Whether a text is the SHA-256 of a blob: 64 lower-case hex digits.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A distribution's name in its normal form: lower case, runs of `-`, `_` and
/// `.` as one `-`.
#[must_use]
pub fn normalize(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '-' | '_' | '.') {
            if !out.ends_with('-') {
                out.push('-');
            }
        } else {
            out.push(c.to_ascii_lowercase());
        }
    }
    out
}

/// Host of an index's URL, lower case, without port; `None` where it has none.
#[must_use]
pub fn index_host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Lines that say what differs where it must not: the minor version of Python,
/// dask, distributed. Empty where both sides understand each other. What one
/// side does not know is not compared.
#[must_use]
pub fn differences(laptop: &Versions, node: &Versions) -> Vec<String> {
    let minor = |v: &str| v.split('.').take(2).collect::<Vec<_>>().join(".");
    [
        ("python", &laptop.python, &node.python, true),
        ("dask", &laptop.dask, &node.dask, false),
        ("distributed", &laptop.distributed, &node.distributed, false),
    ]
    .into_iter()
    .filter(|(_, here, there, _)| !here.is_empty() && !there.is_empty())
    .filter(|(_, here, there, loose)| {
        if *loose {
            minor(here) != minor(there)
        } else {
            here != there
        }
    })
    .map(|(name, here, there, _)| format!("{name}: {here} here, {there} on the node"))
    .collect()
}

#[cfg(test)]
mod tests;
