//! Another agent in this one's place, without Dask noticing.
//!
//! ```text
//! fetch, hash, `version` ─▶ keep the old one beside ─▶ rename ─▶ exit 75
//!    systemd: herdsman-agent.previous settle ─▶ herdsman-agent run
//!                  │ third start unconfirmed          │ node is ready
//!                  └─▶ the old one is put back        └─▶ the old one is removed
//! ```
//!
//! It is the OLD program that counts the starts and puts itself back: the new one
//! may not be able to do anything at all.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use herdsman_wire::{ApiError, Code};

use super::unit::PROGRAM;
use crate::files::{io_error, read_limited, write_atomic};

/// The old program while the new one is on trial.
pub const PREVIOUS: &str = "/usr/local/bin/herdsman-agent.previous";
/// The new one while it is fetched.
const INCOMING: &str = "/usr/local/bin/herdsman-agent.incoming";
/// How often a program on trial was started, and its SHA-256; there only during
/// the trial.
const MARKER: &str = "/var/lib/herdsman/upgrade";
/// SHA-256 of a program that failed its trial, until somebody was told.
const FAILED: &str = "/var/lib/herdsman/upgrade-failed";
/// Largest of these files, bytes.
const SMALL: usize = 256;
/// Exit code of an agent that makes way for another one: start it at once.
pub const EXIT_UPGRADED: u8 = 75;
/// The hidden subcommand that the old program is started with.
pub const SETTLE: &str = "settle";
/// Starts that a new program has.
const STARTS: u32 = 2;
/// A new program whose node is not ready after this is started once more, or
/// replaced.
pub const TRIAL: Duration = Duration::from_secs(120);
/// How long a new program may take to say its version.
const SAYS_VERSION: Duration = Duration::from_secs(20);

/// Whether this agent is on trial.
#[must_use]
pub fn is_on_trial() -> bool {
    Path::new(MARKER).is_file() && std::fs::read_link("/proc/self/exe").is_ok_and(|p| p == Path::new(PROGRAM))
}

/// The node works with this agent: the old one may go.
pub fn confirm() {
    for path in [MARKER, PREVIOUS] {
        if let Err(e) = std::fs::remove_file(path) {
            tracing::warn!("{}", io_error("remove", Path::new(path), &e));
        }
    }
}

/// What [`replace`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: this agent is the wanted one, and its trial is over.
    Already,
    /// The other one is in place; exit code [`EXIT_UPGRADED`] starts it.
    Replaced,
}

/// Puts the program that `fetch` brings to a path in this one's place. Asked again
/// for the same one, it says how that went.
///
/// # Errors
/// [`Code::Usage`] where no service manager would start it, [`Code::Malformed`]
/// when it is not what was announced or does not run, [`Code::TooEarly`] while it
/// is on trial, [`Code::Conflict`], once, when it failed its trial.
pub async fn replace(
    sha256: &str,
    fetch: impl AsyncFnOnce(&Path) -> Result<(), ApiError>,
) -> Result<Outcome, ApiError> {
    if let Some(outcome) = earlier(sha256)? {
        return Ok(outcome);
    }
    put(sha256, fetch).await.map(|()| Outcome::Replaced)
}

/// How an earlier request for the same program went.
fn earlier(sha256: &str) -> Result<Option<Outcome>, ApiError> {
    let failed = Path::new(FAILED);
    if read_limited(failed, SMALL)?.is_some_and(|text| text == sha256.as_bytes()) {
        let _ = std::fs::remove_file(failed);
        return Err(ApiError::new(
            Code::Conflict,
            "the new agent did not get its node ready; the old one is back",
        ));
    }
    let own = Path::new("/proc/self/exe");
    let bytes = std::fs::read(own).map_err(|e| io_error("read", own, &e))?;
    match (hex(&bytes) == sha256, is_on_trial()) {
        (true, false) => Ok(Some(Outcome::Already)),
        (true, true) => Err(ApiError::new(Code::TooEarly, "the new agent is on trial")),
        (false, _) => Ok(None),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

async fn put(sha256: &str, fetch: impl AsyncFnOnce(&Path) -> Result<(), ApiError>) -> Result<(), ApiError> {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    if own != Path::new(PROGRAM) {
        return Err(ApiError::new(
            Code::Usage,
            format!(
                "the agent of this node is no service at {PROGRAM}, but {}",
                own.display()
            ),
        )
        .with_hint("only machines of their own are upgraded; make the cluster anew for others"));
    }
    let incoming = Path::new(INCOMING);
    let result = async {
        fetch(incoming).await?;
        check(incoming, sha256).await?;
        let previous = Path::new(PREVIOUS);
        let _ = std::fs::remove_file(previous);
        std::fs::hard_link(PROGRAM, previous).map_err(|e| io_error("write", previous, &e))?;
        // Before the program: a trial without its marker would never end.
        write_atomic(Path::new(MARKER), format!("0 {sha256}").as_bytes())?;
        std::fs::rename(incoming, PROGRAM).map_err(|e| io_error("replace", Path::new(PROGRAM), &e))
    }
    .await;
    if result.is_err() {
        let _ = std::fs::remove_file(incoming);
        let _ = std::fs::remove_file(MARKER);
    }
    result
}

async fn check(program: &Path, sha256: &str) -> Result<(), ApiError> {
    let bytes = tokio::fs::read(program)
        .await
        .map_err(|e| io_error("read", program, &e))?;
    let found = hex(&bytes);
    if found != sha256 {
        return Err(ApiError::new(
            Code::Malformed,
            format!("the new agent's SHA-256 is {found}, not {sha256}"),
        ));
    }
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755))
        .map_err(|e| io_error("change the mode of", program, &e))?;
    let fails = |why: String| {
        ApiError::new(
            Code::Malformed,
            format!("the new agent does not run on this machine: {why}"),
        )
        .with_hint("scripts/build-agent          builds one that runs everywhere")
    };
    let run = tokio::process::Command::new(program)
        .arg("version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SAYS_VERSION, run)
        .await
        .map_err(|_| fails("it does not say its version".into()))?
        .map_err(|e| fails(e.to_string()))?;
    if output.status.success() && output.stdout.starts_with(b"herdsman-agent ") {
        return Ok(());
    }
    Err(fails(format!("`version`: {}", output.status)))
}

/// What the old program does before each start of the new one.
#[must_use]
pub fn settle() -> ExitCode {
    let marker = Path::new(MARKER);
    let Ok(Some(text)) = read_limited(marker, SMALL) else {
        return ExitCode::SUCCESS;
    };
    let text = String::from_utf8_lossy(&text);
    let (starts, sha256) = text.split_once(' ').unwrap_or((&text, ""));
    let starts: u32 = starts.parse().unwrap_or(STARTS);
    let result = if starts < STARTS {
        write_atomic(marker, format!("{} {sha256}", starts + 1).as_bytes())
    } else {
        say(&format!("the new agent failed {starts} times; the old one is back"));
        write_atomic(Path::new(FAILED), sha256.as_bytes()).and_then(|()| {
            std::fs::rename(PREVIOUS, PROGRAM)
                .and_then(|()| std::fs::remove_file(marker))
                .map_err(|e| io_error("put back", Path::new(PROGRAM), &e))
        })
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&e.message);
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "herdsman-agent: {text}");
}
