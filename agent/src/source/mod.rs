//! Where a join configuration comes from: a file that user-data or the launcher
//! wrote, or first data that a machine finds by itself. [`machine`] says in which order.
//!
//! Each source answers with texts that may hold one, with none, or with why it could
//! not be asked; "nothing here" is never a failure. [`extract`] finds the join
//! configuration in a text. One file a cloud; each names the document that it follows.

pub mod azure;
mod base64;
pub mod birth;
pub mod digitalocean;
pub mod dmi;
pub mod ec2;
pub mod extract;
pub mod gce;
mod gzip;
pub mod hetzner;
pub mod machine;
pub mod metadata;
mod mime;
pub mod nocloud;
pub mod openstack;
pub mod seed;
pub mod tags;

use std::path::Path;

use bytes::Bytes;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::pki::{PkiError, pem_chain};
use herdsman_wire::{ApiError, Code, limits, tls};

use crate::files::read_limited;

/// Something that may hold a join configuration, and what people call it. It may hold
/// a key, so it is never printed.
#[derive(Clone)]
pub struct Text {
    /// What errors call it.
    pub place: String,
    /// Its bytes.
    pub content: Bytes,
}

impl Text {
    /// A text of a place.
    pub fn new(place: impl Into<String>, content: impl Into<Bytes>) -> Self {
        Self {
            place: place.into(),
            content: content.into(),
        }
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({}, {} bytes)", self.place, self.content.len())
    }
}

/// Reads the join configuration of a file.
///
/// # Errors
/// [`Code::NotFound`], what [`JoinConfig::parse`] says, or [`Code::Malformed`]
/// naming the certificate or key that is none.
pub fn from_file(path: &Path) -> Result<JoinConfig, ApiError> {
    let bytes = read_limited(path, limits::JOIN_CONFIG)?.ok_or_else(|| {
        ApiError::new(Code::NotFound, format!("no join configuration at {}", path.display()))
            .with_hint("the machine's user-data writes it; `herdsman render cloud-init` shows how")
    })?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<JoinConfig, ApiError> {
    let join = JoinConfig::parse(bytes)?;
    check_certificates(&join)?;
    Ok(join)
}

/// Later they would be reported as what some connection met, again and again.
fn check_certificates(join: &JoinConfig) -> Result<(), ApiError> {
    let bad = |field: &str, e: PkiError| {
        ApiError::new(Code::Malformed, format!("join configuration: field `{field}`: {e}"))
            .with_hint("render it anew with `herdsman render cloud-init`, or run `herdsman up` again")
    };
    for (field, pem) in [
        ("roots.control", &join.roots.control),
        ("roots.scheduler", &join.roots.scheduler),
        ("roots.node", &join.roots.node),
        ("bootstrap.certificate", &join.bootstrap.certificate),
    ] {
        pem_chain(pem).map_err(|e| bad(field, e))?;
    }
    tls::certified_key(&join.bootstrap.certificate, &join.bootstrap.key)
        .map(|_| ())
        .map_err(|e| bad("bootstrap.key", e))
}
