//! Children that end: with a deadline, with their last lines kept, and never
//! outliving the future that waits for them.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use herdsman_wire::{ApiError, Code, Secret};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Most output that is kept of a child, bytes; the end counts.
const KEPT: usize = 64 * 1024;
/// Lines of a child's output in an error.
const LINES: usize = 12;
/// Longest time of one set-up line.
const SETUP: Duration = Duration::from_secs(10 * 60);
/// Variables of the agent that its children get. Everything else stays out, so
/// that a node's odd setting cannot change what is installed.
const INHERITED: &[&str] = &[
    "HOME",
    "LANG",
    "PATH",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// How a child ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Kills a child's whole process group when its future is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// A command with a clean environment in a process group of its own.
pub(super) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(INHERITED.iter().filter_map(|n| Some((n, std::env::var_os(n)?))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Runs a command to its end. `what` names it in errors.
///
/// # Errors
/// [`Code::Environment`] when it cannot be started, [`Code::Deadline`].
pub(super) async fn run(what: &str, mut command: Command, longest: Duration) -> Result<Ended, ApiError> {
    let mut child = command.spawn().map_err(|e| {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        ApiError::new(Code::Environment, format!("{what}: cannot start {program}: {e}"))
    })?;
    let pid = child.id().and_then(|p| i32::try_from(p).ok()).map(Pid::from_raw);
    let mut group = Group(pid);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        // The pipes may be held open by something that the child left behind, so
        // its own end is what counts; what it wrote by then is in the pipes.
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = {
            let read = async {
                tokio::join!(drain(out, &mut stdout), drain(err, &mut stderr));
            };
            tokio::pin!(read);
            tokio::select! {
                () = &mut read => child.wait().await,
                status = child.wait() => {
                    let _ = tokio::time::timeout(Duration::from_secs(1), &mut read).await;
                    status
                }
            }
        };
        (status, stdout, stderr)
    };
    let (status, stdout, stderr) = tokio::time::timeout(longest, work).await.map_err(|_| {
        ApiError::new(
            Code::Deadline,
            format!("{what} did not end within {} s", longest.as_secs()),
        )
    })?;
    let status = status.map_err(|e| ApiError::new(Code::Internal, format!("{what}: {e}")))?;
    // Reaped: its number may belong to somebody else from now on.
    group.0 = None;
    Ok(Ended {
        status,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 8192];
    while let Ok(n) = pipe.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}

/// The last lines that say something, with secrets and URLs' passwords masked.
pub(super) fn tail<'a>(text: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    mask(&last.join("\n"), secrets)
}

fn mask<'a>(text: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if !secret.is_empty() {
            text = text.replace(secret.reveal(), "…");
            text = text.replace(&percent(secret.reveal()), "…");
        }
    }
    // `scheme://user:password@host`, from whatever source it came.
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '`' | '"' | '\''))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend(["…@", host]),
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// A text as it stands in a URL.
pub(super) fn percent(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut s, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            s.push(char::from(b));
        } else {
            let _ = write!(s, "%{b:02X}");
        }
        s
    })
}

/// Runs one set-up line of the user's.
pub(super) async fn setup(line: &str) -> Result<(), ApiError> {
    let mut command = command("/bin/sh");
    command
        .args(["-e", "-c", line])
        .env("DEBIAN_FRONTEND", "noninteractive");
    let ended = run(&format!("set-up line `{line}`"), command, SETUP).await?;
    if ended.status.success() {
        return Ok(());
    }
    let output = tail(&format!("{}\n{}", ended.stdout, ended.stderr), []);
    Err(ApiError::new(
        Code::Environment,
        format!("set-up line `{line}` ended with {}:\n{output}", ended.status),
    )
    .with_hint("change `env.setup`, or use an image that has it already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut c = command("/bin/sh");
        c.args(["-c", script]);
        c
    }

    #[tokio::test]
    async fn a_child_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 100 & echo $! > {}; wait", pid.display());
        let error = run("the test", sh(&script), Duration::from_millis(500))
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::Deadline);
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let mut alive = true;
        for _ in 0..100 {
            // A zombie waits for its new parent; it is dead all the same.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            alive = !(stat.is_empty() || stat.contains(") Z "));
            if !alive {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!alive);
    }

    #[tokio::test]
    async fn output_is_kept_from_its_end_and_a_left_over_child_does_not_block() {
        let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; sleep 20 & echo bad >&2; exit 3";
        let ended = run("the test", sh(script), Duration::from_secs(15)).await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.stdout.ends_with("line 29999\n"));
        assert!(ended.stdout.len() <= 2 * KEPT);
        assert_eq!(tail(&ended.stderr, []), "bad");
    }

    #[test]
    fn passwords_are_masked() {
        let secret = Secret::new("p@ss word");
        let text = "GET https://bob:x@h.example/simple failed\np@ss word and p%40ss%20word\nplain https://h/ me@h";
        let masked = tail(text, [&secret]);
        assert_eq!(
            masked,
            "GET https://…@h.example/simple failed\n… and …\nplain https://h/ me@h"
        );
    }

    #[tokio::test]
    async fn a_failing_set_up_line_is_quoted() {
        setup("true").await.unwrap();
        let error = setup("echo no such thing >&2; exit 4").await.unwrap_err();
        assert_eq!(error.code, Code::Environment);
        assert!(error.message.contains("no such thing") && error.message.contains("exit status: 4"));
    }
}
