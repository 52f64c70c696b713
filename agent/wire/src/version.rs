//! Version of the protocol, and what a peer of another version is told.

use crate::error::{ApiError, Code};

/// Version of everything in this crate that crosses the network.
pub const PROTOCOL: u32 = 1;

/// Header that each request and each answer on 8785 carries: the sender's
/// [`PROTOCOL`] as a decimal number.
pub const HEADER: &str = "herdsman-protocol";

/// Checks the version that a peer announced.
///
/// # Errors
/// [`Code::Protocol`] naming both versions and which side is the older one; also
/// when the header is missing or no number.
pub fn check(header: Option<&str>) -> Result<(), ApiError> {
    let Some(text) = header else {
        return Err(ApiError::new(
            Code::Protocol,
            format!("the request names no protocol version (header `{HEADER}`); this agent speaks version {PROTOCOL}"),
        ));
    };
    let theirs: u32 = text.trim().parse().map_err(|_| {
        ApiError::new(
            Code::Protocol,
            format!("the protocol version in header `{HEADER}` is no number; this agent speaks version {PROTOCOL}"),
        )
    })?;
    if theirs == PROTOCOL {
        return Ok(());
    }
    let hint = if theirs > PROTOCOL {
        "upgrade the agent (`herdsman upgrade NAME`), or use the launcher that made this cluster"
    } else {
        "upgrade the launcher to the agent's version"
    };
    Err(ApiError::new(
        Code::Protocol,
        format!("the caller speaks protocol version {theirs}, this agent speaks version {PROTOCOL}"),
    )
    .with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_both_versions_and_the_older_side() {
        assert!(check(Some("1")).is_ok());
        let newer = check(Some("7")).unwrap_err();
        assert!(newer.message.contains("version 7") && newer.message.contains("version 1"));
        assert!(newer.hint[0].contains("upgrade the agent"));
        let older = check(Some("0")).unwrap_err();
        assert!(older.hint[0].contains("upgrade the launcher"));
        assert_eq!(check(None).unwrap_err().code, Code::Protocol);
        assert_eq!(check(Some("one")).unwrap_err().code, Code::Protocol);
    }
}
