//! Where a join configuration comes from. On a machine of its own it is a file
//! that user-data wrote; metadata services follow.

use std::path::Path;

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Code, limits};

use crate::files::read_limited;

/// Reads the join configuration of a file.
///
/// # Errors
/// [`Code::NotFound`], or what [`JoinConfig::parse`] says.
pub fn from_file(path: &Path) -> Result<JoinConfig, ApiError> {
    let bytes = read_limited(path, limits::JOIN_CONFIG)?.ok_or_else(|| {
        ApiError::new(Code::NotFound, format!("no join configuration at {}", path.display()))
            .with_hint("the machine's user-data writes it; `herdsman render cloud-init` shows how")
    })?;
    JoinConfig::parse(&bytes)
}
