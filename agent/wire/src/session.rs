//! The session of a node with the hub: one connection that the node opened
//! (`GET /v1/beat`, upgraded), frames of JSON in both directions.
//!
//! A frame is its length (4 bytes, big endian, at most [`crate::limits::FRAME`])
//! and that many bytes of JSON. Reports go up, at least every
//! [`crate::limits::REPORT_EVERY`] and at once on change; commands, members and
//! CRLs come down as soon as they exist, so nothing waits for a beat.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Code};
use crate::limits;
use crate::report::NodeReport;
use crate::spec::EndSpec;

/// Value of the `Upgrade` header.
pub const UPGRADE: &str = "herdsman-session";

/// Node to hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Up {
    /// The node's present state.
    Report(Box<NodeReport>),
    /// Result of a command.
    Done {
        /// The command's number.
        id: u64,
        /// Absent when it went well.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ApiError>,
    },
    /// The node ends in order and wants its workers emptied first.
    Leaving,
}

/// Hub to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Down {
    /// The report was taken; sent so that a node knows the hub is alive.
    Seen,
    /// A new CRL bundle in PEM and its number.
    Crl {
        /// Grows with each issue.
        number: u64,
        /// One CRL for each issuing certificate.
        pem: String,
    },
    /// Addresses of all members, complete.
    Members(Vec<IpAddr>),
    /// Members that came and went since the message before.
    MembersChanged {
        /// New ones.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        joined: Vec<IpAddr>,
        /// Those that are none any more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<IpAddr>,
    },
    /// The worker's names appeared at the scheduler or went.
    Registered(bool),
    /// Something to do.
    Command {
        /// Its number, for the answer.
        id: u64,
        /// What.
        command: Command,
    },
    /// Leaving was granted: the workers are empty.
    MayLeave,
}

/// Why a node stops that is a member no more, in [`Command::Stop`]: there is nothing
/// that it could still give away.
pub const REVOKED: &str = "revoked";

/// What the hub can ask of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Command {
    /// Start Dask's process anew.
    RestartDask,
    /// Stop Dask and end; the machine is about to be deleted.
    Stop {
        /// For the log.
        why: String,
    },
    /// Renew the certificates now.
    Renew,
    /// Connect back for a stream (logs, a command's terminal) and serve it.
    Stream {
        /// Token for `GET /v1/stream/<token>`; single use.
        token: String,
        /// What to serve on it.
        stream: StreamRequest,
    },
    /// Use another environment from now on.
    Environment {
        /// Its id.
        id: String,
    },
    /// Put another agent, a blob of the hub's, in this one's place.
    Upgrade {
        /// The blob, SHA-256 in lower-case hex.
        sha256: String,
    },
    /// Limits changed.
    Limits(EndSpec),
}

/// What a stream through the hub carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stream")]
pub enum StreamRequest {
    /// Log lines as JSON, one a line.
    Logs(LogQuery),
    /// A command's input and output, see [`ExecFrame`].
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// Which log lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogQuery {
    /// Only lines at or after this time, ms since the epoch.
    pub since: Option<u64>,
    /// Go on with new lines until the reader closes.
    pub follow: bool,
    /// At most this many of the newest lines; 0 is all that is kept.
    pub tail: u32,
    /// Only these sources: `agent`, `dask`, `boot`; empty is all.
    pub sources: Vec<crate::report::LogSource>,
}

/// Frames of a command's stream (the same framing as the session).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecFrame {
    /// Bytes for the command's standard input, base64; empty ends it.
    Stdin(String),
    /// Bytes of its standard output, base64.
    Stdout(String),
    /// Bytes of its standard error, base64.
    Stderr(String),
    /// It ended: its code, or 128 + the signal.
    Exit(i32),
    /// It could not be started.
    Failed(ApiError),
}

/// Puts a message into a frame.
///
/// # Errors
/// [`Code::TooLarge`] when it does not fit.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ApiError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)
        .map_err(|e| ApiError::new(Code::Internal, format!("message cannot be written: {e}")))?;
    let len = out.len() - 4;
    if len > limits::FRAME {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("message of {len} bytes; the limit is {}", limits::FRAME),
        ));
    }
    let head = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    out[..4].copy_from_slice(&head);
    Ok(out)
}

/// Length that a frame's head announces.
///
/// # Errors
/// [`Code::TooLarge`] when it is over the limit.
pub fn frame_length(head: [u8; 4]) -> Result<usize, ApiError> {
    let len = u32::from_be_bytes(head) as usize;
    if len > limits::FRAME {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("frame of {len} bytes; the limit is {}", limits::FRAME),
        ));
    }
    Ok(len)
}

/// Reads a frame's body.
///
/// # Errors
/// [`Code::Malformed`] naming the place.
pub fn decode<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|e| ApiError::new(Code::Malformed, format!("session message: {e}")))
}
