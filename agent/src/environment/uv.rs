//! What we ask of uv, and what its failures mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_wire::environment::{IndexCredential, Manifest, index_host};
use herdsman_wire::{ApiError, Code};
use tokio::process::Command;

use super::Install;
use super::run::{self, Ended, command, run, tail};
use crate::files::write_atomic;

/// Longest time of an installation.
const INSTALL: Duration = Duration::from_secs(20 * 60);
/// Longest time of what should take a second.
const SHORT: Duration = Duration::from_secs(60);

/// uv with the settings of one environment.
pub(super) struct Uv<'a> {
    program: &'a Path,
    root: &'a Path,
    credentials: &'a [IndexCredential],
    offline: bool,
    indexes: Vec<String>,
}

impl<'a> Uv<'a> {
    pub(super) fn new(request: &Install<'a>, manifest: &Manifest) -> Self {
        Self {
            program: request.uv,
            root: request.root,
            credentials: request.credentials,
            offline: request.offline,
            indexes: manifest.indexes.clone(),
        }
    }

    pub(super) fn program(&self) -> &Path {
        self.program
    }

    /// A command that reads no configuration but ours. The cache and Pythons that
    /// uv fetches lie beside the environments: on the same file system, so that
    /// files are linked and not copied, and where Dask's user may read them.
    fn base(&self) -> Command {
        let mut c = command(self.program);
        c.env("UV_CACHE_DIR", self.root.join(".cache"))
            .env("UV_PYTHON_INSTALL_DIR", self.root.join(".python"))
            .env("UV_NO_CONFIG", "1")
            .env("UV_NO_PROGRESS", "1")
            .env("NO_COLOR", "1");
        if self.offline {
            c.env("UV_OFFLINE", "1");
        }
        c
    }

    /// Adds the indexes. Passwords go through the environment: argv is for all
    /// to see, and a file would have to be cleaned up after a crash.
    fn indexes(&self, c: &mut Command) {
        let last = self.indexes.len().wrapping_sub(1);
        for (i, url) in self.indexes.iter().enumerate() {
            let option = if i == last { "--default-index" } else { "--index" };
            c.arg(option).arg(format!("h{i}={url}"));
            let host = index_host(url);
            if let Some(access) = self.credentials.iter().find(|a| Some(&a.host) == host.as_ref()) {
                c.env(format!("UV_INDEX_H{i}_USERNAME"), &access.user)
                    .env(format!("UV_INDEX_H{i}_PASSWORD"), access.password.reveal());
            }
        }
    }

    /// The interpreter that answers to a version, if one is installed.
    pub(super) async fn find(&self, version: &str) -> Option<PathBuf> {
        let mut c = self.base();
        c.args(["python", "find", "--no-project", "--system", "--no-python-downloads"])
            .arg(format!("cpython@{version}"));
        let ended = run("uv python find", c, SHORT).await.ok()?;
        let path = PathBuf::from(ended.stdout.trim());
        (ended.status.success() && path.is_absolute()).then_some(path)
    }

    /// Fetches an interpreter.
    pub(super) async fn fetch_python(&self, version: &str) -> Result<(), ApiError> {
        let mut c = self.base();
        c.args(["python", "install", "--no-bin"])
            .arg(format!("cpython@{version}"));
        let ended = run("uv python install", c, Duration::from_secs(300)).await?;
        self.judge(&format!("fetching Python {version}"), &ended)
    }

    /// Makes an empty environment that may be moved.
    pub(super) async fn venv(&self, python: &Path, folder: &Path) -> Result<(), ApiError> {
        let mut c = self.base();
        c.args([
            "venv",
            "--relocatable",
            "--no-project",
            "--no-python-downloads",
            "--python",
        ])
        .arg(python)
        .arg(folder);
        let ended = run("uv venv", c, SHORT).await?;
        self.judge("making the environment", &ended)
    }

    /// Installs the lock and the wheels in `incoming`.
    pub(super) async fn install(&self, manifest: &Manifest, incoming: &Path, python: &Path) -> Result<(), ApiError> {
        let requirements = incoming.join("requirements.txt");
        let mut text = manifest.lock.clone();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for wheel in &manifest.wheels {
            text.push_str(&format!(
                "{} --hash=sha256:{}\n",
                file_url(&incoming.join(&wheel.file)),
                wheel.sha256
            ));
        }
        write_atomic(&requirements, text.as_bytes())?;
        let mut c = self.base();
        c.args([
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            "--no-build",
            "--python",
        ])
        .arg(python)
        .arg("-r")
        .arg(&requirements);
        self.indexes(&mut c);
        let ended = run("installing the packages", c, INSTALL).await?;
        self.judge("installing the packages", &ended)
    }

    /// Turns a failure into words with what to try.
    fn judge(&self, what: &str, ended: &Ended) -> Result<(), ApiError> {
        if ended.status.success() {
            return Ok(());
        }
        let said = tail(&ended.stderr, self.credentials.iter().map(|c| &c.password));
        let has = |words: &[&str]| words.iter().any(|w| said.contains(w));
        let error = ApiError::new(Code::Environment, format!("{what} failed ({}):\n{said}", ended.status));
        Err(if has(&["No space left on device", "os error 28", "Disk quota"]) {
            ApiError {
                code: Code::Disk,
                ..error
            }
            .with_hint("give the machines a larger disk (`--disk`)")
        } else if self.offline && has(&["network was disabled", "offline"]) {
            error.with_hint("`herdsman up` fetches the packages for nodes of this machine: run it again")
        } else if has(&["401 ", "403 ", "Unauthorized", "credentials"]) {
            error.with_hint("check the index's user and password in netrc or UV_INDEX_<NAME>_USERNAME and _PASSWORD")
        } else if has(&["Hash mismatch", "hash mismatch"]) {
            error.with_hint("a file of the index changed since it was locked: lock again, or mistrust the index")
        } else if has(&["platform tag", "ABI tag", "Python tag"]) {
            error.with_hint("the machine's Linux or Python is not what the packages were locked for: use a newer image")
        } else if has(&[
            "error sending request",
            "dns error",
            "timed out",
            "Connection refused",
            "connect error",
        ]) {
            ApiError {
                retryable: true,
                ..error
            }
            .with_hint("the machine cannot reach the package index: check its route, proxy and `env.indexes`")
        } else {
            error
        })
    }
}

/// Where `uv` lies on machines that have it.
#[must_use]
pub fn on_this_machine() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ["/opt/herdsman/bin", "/usr/local/bin"].map(PathBuf::from).into_iter();
    folders
        .chain(std::env::split_paths(&path))
        .map(|d| d.join("uv"))
        .find(|p| p.is_file())
}

fn file_url(path: &Path) -> String {
    let parts: Vec<String> = path.to_string_lossy().split('/').map(run::percent).collect();
    format!("file://{}", parts.join("/"))
}

/// The version of uv, which also tells that it runs at all.
///
/// # Errors
/// [`Code::Environment`] with what to do.
pub(super) async fn version(program: &Path) -> Result<String, ApiError> {
    let mut c = command(program);
    c.arg("--version");
    let missing = |why: String| {
        ApiError::new(Code::Environment, format!("uv cannot be used: {why}"))
            .with_hint("use an image that has uv, let the machines fetch it, or `--env image`")
    };
    let ended = run("uv --version", c, SHORT).await.map_err(|e| missing(e.message))?;
    if ended.status.success() {
        Ok(ended.stdout.trim().to_owned())
    } else {
        Err(missing(tail(&ended.stderr, [])))
    }
}
