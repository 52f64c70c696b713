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
/// How often a program on trial was started; there only during the trial.
const MARKER: &str = "/var/lib/herdsman/upgrade";
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

/// Puts the program that `fetch` brings to a path in this one's place. To be
/// followed by exit code [`EXIT_UPGRADED`].
///
/// # Errors
/// [`Code::Usage`] where no service manager would start it, [`Code::Malformed`]
/// when it is not what was announced or does not run; nothing has changed then.
pub async fn replace(sha256: &str, fetch: impl AsyncFnOnce(&Path) -> Result<(), ApiError>) -> Result<(), ApiError> {
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
        write_atomic(Path::new(MARKER), b"0")?;
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
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let found: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
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
    let Ok(Some(text)) = read_limited(marker, 16) else {
        return ExitCode::SUCCESS;
    };
    let starts: u32 = String::from_utf8_lossy(&text).trim().parse().unwrap_or(STARTS);
    let result = if starts < STARTS {
        write_atomic(marker, (starts + 1).to_string().as_bytes())
    } else {
        say(&format!("the new agent failed {starts} times; the old one is back"));
        std::fs::rename(PREVIOUS, PROGRAM)
            .and_then(|()| std::fs::remove_file(marker))
            .map_err(|e| io_error("put back", Path::new(PROGRAM), &e))
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
