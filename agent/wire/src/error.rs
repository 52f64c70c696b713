//! Errors as they cross the wire: a stable code, a sentence, and what to try.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal, $status:literal;)*) => {
        /// Stable codes of errors; a user can search for them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code that a newer peer knows and we do not.
            #[serde(rename = "E-UNKNOWN", other)]
            Unknown,
        }

        impl Code {
            /// All codes, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as users see it, for example `E-ENROL-SPENT`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown => "E-UNKNOWN",
                }
            }

            /// The HTTP status under which the agent's API sends it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                    Self::Unknown => 500,
                }
            }
        }
    };
}

codes! {
    /// A bug, or an answer nobody foresaw.
    Internal => "E-INTERNAL", 500;
    /// Input of the user is wrong: a flag, a file, a value.
    Usage => "E-USAGE", 400;
    /// A message does not parse or a field has no sense.
    Malformed => "E-MALFORMED", 400;
    /// A message is larger than its limit.
    TooLarge => "E-TOO-LARGE", 413;
    /// The peer speaks another version of the protocol.
    Protocol => "E-PROTOCOL", 426;
    /// The certificate does not allow this.
    Forbidden => "E-FORBIDDEN", 403;
    /// A certificate was refused in the handshake, or is revoked or expired.
    Certificate => "E-CERT", 401;
    /// No such thing: cluster, node, blob, route.
    NotFound => "E-NOT-FOUND", 404;
    /// Exists with other settings, or somebody else is at work on it.
    Conflict => "E-CONFLICT", 409;
    /// Not yet: try again after a moment.
    TooEarly => "E-TOO-EARLY", 425;
    /// Too many at once.
    Busy => "E-BUSY", 503;
    /// A deadline passed.
    Deadline => "E-DEADLINE", 504;
    /// The bootstrap certificate was used before, with other keys.
    EnrolSpent => "E-ENROL-SPENT", 409;
    /// The bootstrap certificate is expired.
    EnrolExpired => "E-ENROL-EXPIRED", 403;
    /// The hub does not expect such a node.
    EnrolUnexpected => "E-ENROL-UNEXPECTED", 403;
    /// The request comes from another address than the node's.
    EnrolAddress => "E-ENROL-ADDRESS", 403;
    /// The certificate request is no good: signature, algorithm, reused key.
    EnrolRequest => "E-ENROL-CSR", 400;
    /// An old generation of a node's identity was seen again: a clone.
    Clone => "E-CLONE", 409;
    /// The node was revoked.
    Revoked => "E-REVOKED", 403;
    /// A node did not get through its boot phases.
    Boot => "E-BOOT", 500;
    /// Dask did not start or keeps dying.
    Dask => "E-DASK", 500;
    /// The Python environment cannot be used or made.
    Environment => "E-ENV", 500;
    /// Python, dask or distributed differ between laptop and nodes.
    Mismatch => "E-MISMATCH", 409;
    /// No space left, or a file cannot be written.
    Disk => "E-DISK", 507;
    /// The clocks differ too much for certificates.
    Clock => "E-CLOCK", 401;
    /// A port that is needed is taken.
    Port => "E-PORT", 409;
    /// The machine's packet filter cannot be used.
    Firewall => "E-FIREWALL", 500;
    /// A peer cannot be reached.
    Unreachable => "E-UNREACHABLE", 502;
    /// The account may not have so much at the provider.
    Quota => "E-QUOTA", 429;
    /// The provider has no such machines left there, now.
    Capacity => "E-CAPACITY", 503;
    /// The provider takes no more calls for a while.
    Rate => "E-RATE", 429;
    /// The provider was shown no credentials, or takes them no more.
    Credentials => "E-CREDENTIALS", 401;
    /// A permission is missing at the provider.
    Permission => "E-PERM", 403;
    /// The provider failed otherwise.
    Provider => "E-PROVIDER", 502;
    /// Something could not be deleted.
    Leftover => "E-LEFTOVER", 500;
    /// The user said no, or nobody is there to ask.
    Declined => "E-DECLINED", 400;
    /// Interrupted by a signal.
    Interrupted => "E-INTERRUPTED", 500;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Body of every answer that is not a success, and cause of a failed phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// Stable code.
    pub code: Code,
    /// What failed and why, one sentence, no secret.
    pub message: String,
    /// What the user can try, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hint: Vec<String>,
    /// Whether the same request may go through later.
    #[serde(default)]
    pub retryable: bool,
}

impl ApiError {
    /// An error with nothing to try yet.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: Vec::new(),
            retryable: matches!(code, Code::TooEarly | Code::Busy | Code::Unreachable),
        }
    }

    /// Adds a line of what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.push(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_survive_json() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
            assert!((400..600).contains(&code.http_status()));
        }
        assert_eq!(
            serde_json::from_str::<Code>("\"E-FROM-THE-FUTURE\"").unwrap(),
            Code::Unknown
        );
    }
}
