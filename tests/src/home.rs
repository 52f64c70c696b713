//! A user's home of a test's own: state folder, cleared environment, and a guard
//! that deletes what the test left, and says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::turn::{Turn, turn};

/// How long anything may take; the machine may be busy.
pub const LONG: Duration = Duration::from_secs(90);

/// A home.
#[derive(Debug)]
pub struct Home {
    dir: tempfile::TempDir,
    python: PathBuf,
    _turn: Option<Turn>,
}

/// The interpreter that tests use: `HERDSMAN_TEST_PYTHON`, else `python3`.
///
/// # Errors
/// When it has no dask.
pub fn python() -> Result<PathBuf> {
    // Asked once: it is an answer of a second, and hundreds of tests want it.
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let named = std::env::var("HERDSMAN_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let out = Command::new(&named)
        .args(["-c", "import sys, distributed; print(sys.executable)"])
        .output()
        .with_context(|| format!("{named} does not run"))?;
    ensure!(
        out.status.success(),
        "{named} has no dask and distributed; set HERDSMAN_TEST_PYTHON to one that has"
    );
    let found = PathBuf::from(String::from_utf8(out.stdout)?.trim());
    Ok(FOUND.get_or_init(|| found).clone())
}

/// A program of the workspace, beside the test's own.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test stands one folder below the programs, a benchmark beside them.
    let beside = own.parent().context("no target folder")?;
    let above = beside.parent().context("no target folder")?;
    let found = [above, beside].map(|f| f.join(name)).into_iter().find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "{} is missing; build it: cargo build -p herdsman -p herdsman-agent",
            above.join(name).display()
        )
    })
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Home {
    /// A fresh one.
    ///
    /// # Errors
    /// When programs or Python are missing.
    pub fn new() -> Result<Self> {
        Self::with(Some(turn()))
    }

    /// One of a user whose clusters run no Dask on this computer, and for which nobody
    /// has to wait.
    ///
    /// # Errors
    /// When programs or Python are missing.
    pub fn without_dask() -> Result<Self> {
        Self::with(None)
    }

    fn with(turn: Option<Turn>) -> Result<Self> {
        Ok(Self {
            // Short: paths of sockets have room for 107 bytes.
            dir: tempfile::Builder::new().prefix("hm").tempdir_in("/tmp")?,
            python: python()?,
            _turn: turn,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The interpreter.
    #[must_use]
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// A `herdsman` command in this home.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("herdsman")?);
        let bin = self.python.parent().context("python has no folder")?;
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path())
            .env("USER", "tester")
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("HERDSMAN_STATE_DIR", self.path().join("s"))
            .env("HERDSMAN_AGENT", program("herdsman-agent")?)
            .env("HERDSMAN_PYTHON", &self.python)
            .current_dir(self.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `herdsman` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    /// Runs `herdsman` and wants success.
    ///
    /// # Errors
    /// With all its output when it failed.
    pub fn ok(&self, args: &[&str]) -> Result<Ran> {
        let ran = self.run(args)?;
        ensure!(
            ran.code == 0,
            "herdsman {} ended with {}\n{}\n{}",
            args.join(" "),
            ran.code,
            ran.out,
            ran.err
        );
        Ok(ran)
    }

    /// As [`Home::ok`] with `-o json`.
    ///
    /// # Errors
    /// When it failed or printed no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let ran = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&ran.out).with_context(|| ran.out.clone())
    }

    /// A Python program that finds the cluster by `herdsman env`.
    ///
    /// # Errors
    /// When the cluster cannot be asked for its variables.
    pub fn client(&self, cluster: &str, program: &str) -> Result<Command> {
        let Value::Object(variables) = self.json(&["env", cluster])? else {
            bail!("`env -o json` is no object");
        };
        let mut command = Command::new(&self.python);
        command.args(["-c", program]).env_clear().current_dir(self.path());
        command.env("HOME", self.path());
        for (name, value) in variables {
            command.env(name, value.as_str().unwrap_or_default());
        }
        Ok(command)
    }

    /// Runs such a program; gives what it printed.
    ///
    /// # Errors
    /// When it failed, with its output.
    pub fn compute(&self, cluster: &str, program: &str) -> Result<String> {
        let ran: Ran = self.client(cluster, program)?.output()?.into();
        ensure!(ran.code == 0, "the client failed\n{}\n{}", ran.out, ran.err);
        Ok(ran.out)
    }

    /// Processes of all clusters of this home, by the mark in their environment.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("HERDSMAN_NODE_DIR={}/", self.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environ.split(|b| *b == 0).any(|v| v.starts_with(mark.as_bytes())) {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Nothing of any cluster is left: no process, no folder, no record.
    ///
    /// # Errors
    /// With what is left.
    pub fn assert_clean(&self) -> Result<()> {
        let left = self.processes();
        ensure!(left.is_empty(), "processes are left: {left:?}");
        for folder in ["s/local", "s/clusters"] {
            let path = self.path().join(folder);
            let names: Vec<_> = std::fs::read_dir(&path).into_iter().flatten().flatten().collect();
            ensure!(names.is_empty(), "{} is not empty: {names:?}", path.display());
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Ok(mut command) = self.command(&["down", "--all", "-y", "-q"]) {
            let _ = command.output();
        }
    }
}

/// Waits until `condition` gives something.
///
/// # Errors
/// When it does not within [`LONG`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(started.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
