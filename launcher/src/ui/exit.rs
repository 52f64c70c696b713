//! Exit codes. Scripts rely on them, so they never change their meaning.

use herdsman_wire::Code;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, the state is as asked.
    Done = 0,
    /// A bug, or an answer nobody foresaw.
    Failed = 1,
    /// Wrong usage or an invalid file.
    Usage = 2,
    /// Not found, or a precondition is missing.
    NotFound = 3,
    /// Not authenticated or not permitted.
    Forbidden = 4,
    /// Quota or capacity.
    Quota = 5,
    /// A deadline passed.
    Deadline = 6,
    /// Partly done, or something is left.
    Partly = 7,
    /// Exists with other settings, or another command is at work.
    Conflict = 8,
    /// The user said no, or nobody was there to ask.
    Declined = 9,
    /// `--plan`: changes are needed.
    Changes = 10,
    /// Interrupted; what was created has been deleted.
    Interrupted = 130,
    /// The same, when another program asked for it (SIGTERM).
    Terminated = 143,
}

impl Exit {
    /// Whether the command was interrupted, by whomever.
    #[must_use]
    pub const fn is_interrupted(self) -> bool {
        matches!(self, Self::Interrupted | Self::Terminated)
    }
}

/// The exit code that an error's code leads to.
#[must_use]
pub const fn exit_of(code: Code) -> Exit {
    match code {
        Code::Usage | Code::Malformed | Code::TooLarge => Exit::Usage,
        Code::NotFound | Code::Environment | Code::Mismatch | Code::Unreachable | Code::Protocol | Code::Clock => {
            Exit::NotFound
        }
        Code::Forbidden
        | Code::Certificate
        | Code::EnrolSpent
        | Code::EnrolExpired
        | Code::EnrolUnexpected
        | Code::EnrolAddress
        | Code::EnrolRequest
        | Code::Clone
        | Code::Revoked
        | Code::Credentials
        | Code::Permission => Exit::Forbidden,
        Code::Quota | Code::Capacity | Code::Rate | Code::Busy => Exit::Quota,
        Code::Deadline | Code::TooEarly => Exit::Deadline,
        Code::Boot | Code::Leftover | Code::Dask | Code::Firewall => Exit::Partly,
        Code::Conflict | Code::Port => Exit::Conflict,
        Code::Declined => Exit::Declined,
        Code::Interrupted => Exit::Interrupted,
        Code::Internal | Code::Disk | Code::Provider | Code::Unknown => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_scripts_rely_on() {
        for (code, exit) in [
            (Code::Usage, 2),
            (Code::NotFound, 3),
            (Code::Permission, 4),
            (Code::Quota, 5),
            (Code::Capacity, 5),
            (Code::Rate, 5),
            (Code::Credentials, 4),
            (Code::Deadline, 6),
            (Code::Leftover, 7),
            (Code::Conflict, 8),
            (Code::Declined, 9),
            (Code::Interrupted, 130),
            (Code::Internal, 1),
        ] {
            assert_eq!(exit_of(code) as u8, exit, "{code}");
        }
        // No error may look like success.
        assert!(Code::ALL.iter().all(|c| exit_of(*c) != Exit::Done));
    }
}
