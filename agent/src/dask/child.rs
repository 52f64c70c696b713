//! One supervised process, started or adopted, until nothing of it is left.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::{ApiError, Code, Timestamp};
use tokio::io::AsyncWriteExt as _;

use super::adoption::{Found, PidFile};
use super::cgroup;
use super::exec_child::SUBCOMMAND;
use super::exit::Exit;
use super::process::Process;
use super::procfs::ProcFs;
use super::spec::{MARKER, ProcessSpec};
use super::tree::{self, Tree};
use crate::files::io_error;

/// How long the child may take to read its instructions, and to be collected
/// after its end.
const STEP: Duration = Duration::from_secs(10);

/// How much of the output is looked at for its last lines, bytes.
const TAIL_BYTES: u64 = 16 * 1024;
/// Lines of output looked at after a crash: a chain of Python's exceptions is long,
/// and its first one is the cause.
const TAIL_LINES: usize = 120;

/// A running process.
#[derive(Debug)]
pub struct Child {
    /// A hold on it.
    pub process: Process,
    /// What was written down of it.
    pub file: PidFile,
    /// Whether it was found running.
    pub adopted: bool,
    /// What it was started with.
    pub spec: ProcessSpec,
    own: Option<tokio::process::Child>,
    output_from: u64,
    oom_before: u64,
    proc: ProcFs,
}

impl Child {
    /// Starts a process. Its PID file is on disk before the program is.
    ///
    /// # Errors
    /// When a folder, the output or the PID file cannot be written, or the agent's
    /// own binary not be started; nothing runs then.
    pub async fn start(exe: &Path, proc: &ProcFs, spec: ProcessSpec, restarts: u32) -> Result<Self, ApiError> {
        let instructions = zeroize::Zeroizing::new(spec.instructions()?);
        if let Some(group) = &spec.cgroup {
            cgroup::prepare(group)?;
        }
        let output = open_output(&spec.output)?;
        let output_from = output.metadata().map_or(0, |m| m.len());
        let cannot = |e: std::io::Error| ApiError::new(Code::Dask, format!("cannot start {}: {e}", exe.display()));
        let error = output.try_clone().map_err(cannot)?;
        let mut own = tokio::process::Command::new(exe)
            .arg(SUBCOMMAND)
            .env_clear()
            // So that it is found even before it has become the program.
            .env(MARKER, &spec.marker)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(error)
            .spawn()
            .map_err(cannot)?;
        match take_hold(&mut own, proc, &spec, restarts, &instructions).await {
            Ok((process, file)) => Ok(Self {
                process,
                file,
                adopted: false,
                oom_before: spec.cgroup.as_ref().map_or(0, |g| cgroup::oom_kills(&g.path)),
                spec,
                own: Some(own),
                output_from,
                proc: proc.clone(),
            }),
            Err(e) => {
                // Without instructions it would end by itself; this is only faster.
                let _ = tokio::time::timeout(STEP, own.kill()).await;
                Err(e)
            }
        }
    }

    /// Takes over a process that was found running.
    #[must_use]
    pub fn adopt(proc: &ProcFs, found: Found, spec: ProcessSpec) -> Self {
        Self {
            process: found.process,
            file: found.file,
            adopted: true,
            own: None,
            output_from: std::fs::metadata(&spec.output).map_or(0, |m| m.len().saturating_sub(TAIL_BYTES)),
            oom_before: spec.cgroup.as_ref().map_or(0, |g| cgroup::oom_kills(&g.path)),
            spec,
            proc: proc.clone(),
        }
    }

    /// How long it has lived, by the clock of its PID file: also for the time
    /// before it was adopted.
    #[must_use]
    pub fn lived(&self) -> Duration {
        Timestamp::now().since(self.file.since)
    }

    /// After its first process has ended: kills what is left, collects the status
    /// and removes the PID file. The second value names what could not be killed.
    pub async fn bury(mut self) -> (Exit, Option<String>) {
        // Our own child is not collected yet, so its session's number is still its own.
        let tree = Tree {
            marker: self.spec.marker.clone(),
            session: self.own.as_ref().map(|_| self.process.pid()),
            cgroup: self.spec.cgroup.as_ref().map(|g| g.path.clone()),
        };
        let left = tree.kill(&self.proc, tree::WITHIN).await.err();
        let exit = match &mut self.own {
            Some(own) => match tokio::time::timeout(STEP, own.wait()).await {
                Ok(Ok(status)) => Exit::from(status),
                _ => Exit::Unknown,
            },
            None => self.process.reap(),
        };
        let _ = std::fs::remove_file(&self.spec.pid_file);
        if let Some(group) = &self.spec.cgroup {
            cgroup::remove(&group.path);
        }
        let left = left.map(|stats| {
            let names: Vec<_> = stats
                .iter()
                .take(5)
                .map(|s| format!("{} ({})", s.comm, s.pid))
                .collect();
            format!("could not be killed: {}", names.join(", "))
        });
        (exit, left)
    }

    /// Whether the kernel killed something of it for lack of memory.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        let group = self.spec.cgroup.as_ref();
        group.is_some_and(|g| cgroup::oom_kills(&g.path) > self.oom_before)
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        tail(&self.spec.output, self.output_from).unwrap_or_default()
    }
}

async fn take_hold(
    own: &mut tokio::process::Child,
    proc: &ProcFs,
    spec: &ProcessSpec,
    restarts: u32,
    instructions: &[u8],
) -> Result<(Process, PidFile), ApiError> {
    let vanished = || ApiError::new(Code::Dask, "the child ended before it was given its instructions");
    let failed = |e: std::io::Error| ApiError::new(Code::Dask, format!("cannot start {}: {e}", spec.program.display()));
    let pid = own.id().ok_or_else(vanished)?;
    let process = Process::open(proc, pid, None).map_err(failed)?.ok_or_else(vanished)?;
    let file = PidFile {
        pid,
        start_ticks: process.start_ticks(),
        boot_id: proc.boot_id().map_err(failed)?,
        digest: spec.digest(),
        since: Timestamp::now(),
        restarts,
    };
    file.write(&spec.pid_file)?;
    let mut pipe = own.stdin.take().ok_or_else(vanished)?;
    let send = async {
        pipe.write_all(instructions).await?;
        pipe.shutdown().await
    };
    match tokio::time::timeout(STEP, send).await {
        Ok(Ok(())) => Ok((process, file)),
        Ok(Err(e)) => Err(failed(e)),
        Err(_) => Err(ApiError::new(
            Code::Deadline,
            "the child did not read its instructions in time",
        )),
    }
}

/// Opens the output for appending. A link in its place is refused: it may be
/// somebody's who wants a file of root's written to.
fn open_output(path: &Path) -> Result<File, ApiError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(|e| io_error("open", path, &e))
}

fn tail(path: &Path, from: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    // Shorter than at the start: it was truncated meanwhile, all of it is new.
    let from = if from > len { 0 } else { from };
    let start = from.max(len.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    if start > from && lines.len() > 1 {
        // Cut in its middle.
        lines.remove(0);
    }
    let skip = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines[skip..].iter().map(|l| l.chars().take(500).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_of_this_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "old\nnew 1\nnew 2\n").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), ["new 1", "new 2"]);
        // Truncated below the point where this life began.
        assert_eq!(tail(&path, 1000).unwrap().len(), 3);
        let long: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, long).unwrap();
        let lines = tail(&path, 0).unwrap();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 4999"));
        assert!(tail(&dir.path().join("gone"), 0).is_err());
    }

    #[test]
    fn a_link_is_no_output() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
        assert!(open_output(&path).is_err());
        assert!(!dir.path().join("victim").exists());
    }
}
