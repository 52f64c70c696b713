//! Where a join configuration comes from. On a machine of its own it is a file
//! that user-data wrote; metadata services follow.

use std::path::Path;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::pki::{PkiError, pem_chain};
use herdsman_wire::{ApiError, Code, limits, tls};

use crate::files::read_limited;

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
    let join = JoinConfig::parse(&bytes)?;
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
