//! Interpreters whose files do not say enough: pyenv's shims are looked
//! through, everything else is started once and asked.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::error::Error;
use super::interpreter::{Kind, Variables};
use super::layout::{self, Layout};

/// Longest time that an interpreter gets to describe itself.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Printed by the interpreter. The working folder leaves the path before
/// anything is imported, so that a file of the user's cannot shadow `json`.
const QUESTION: &str = "import sys, os
here = os.getcwd()
sys.path[:] = [p for p in sys.path if p and os.path.abspath(p) != here]
import json, platform
print(json.dumps({
    'executable': sys.executable,
    'version': platform.python_version(),
    'implementation': sys.implementation.name,
    'prefix': sys.prefix,
    'venv': sys.prefix != sys.base_prefix,
    'free_threaded': 't' in getattr(sys, 'abiflags', ''),
    'path': sys.path,
}))";

#[derive(Deserialize)]
struct Answer {
    executable: PathBuf,
    version: String,
    implementation: String,
    prefix: PathBuf,
    venv: bool,
    free_threaded: bool,
    path: Vec<PathBuf>,
}

/// The interpreter that a pyenv shim would start, chosen as pyenv does:
/// `$PYENV_VERSION`, `.python-version` in the working folder or above,
/// `$PYENV_ROOT/version`. `None` where that is not certain.
pub(super) fn behind(shim: &Path, cwd: &Path, env: &Variables) -> Option<PathBuf> {
    let folder = shim.parent()?;
    if folder.file_name()? != "shims" || !layout::is_script(shim) {
        return None;
    }
    let versions = folder.parent()?.join("versions");
    let told = match env.get("PYENV_VERSION") {
        Some(value) => value.to_str()?.to_owned(),
        None => cwd
            .ancestors()
            .map(|f| f.join(".python-version"))
            .chain([folder.parent()?.join("version")])
            .find_map(|f| fs_err::read_to_string(f).ok())?,
    };
    // Several versions may be listed; the first that has the program is taken.
    told.split([':', '\n'])
        .map(str::trim)
        .filter(|v| !v.is_empty() && !v.starts_with('#'))
        .map(|v| v.strip_prefix("python-").unwrap_or(v))
        .take_while(|v| *v != "system" && !v.contains(['/', '\\']))
        .map_while(|v| installed(&versions, v))
        .map(|v| v.join("bin").join(shim.file_name().unwrap_or_default()))
        .find(|p| p.is_file())
}

/// The folder of a version, or of the highest patch of a minor version.
fn installed(versions: &Path, wanted: &str) -> Option<PathBuf> {
    let exact = versions.join(wanted);
    if exact.is_dir() {
        return Some(exact);
    }
    let prefix = format!("{wanted}.");
    fs_err::read_dir(versions)
        .ok()?
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let patch: u32 = name.strip_prefix(&prefix)?.parse().ok()?;
            Some((patch, e.path()))
        })
        .max_by_key(|(patch, _)| *patch)
        .map(|(_, path)| path)
}

/// Starts the interpreter and lets it describe itself.
pub(super) fn ask(executable: &Path, cwd: &Path, env: &Variables) -> Result<(PathBuf, Layout), Error> {
    let refuse = |why: String| Error::NotPython {
        path: executable.to_owned(),
        why,
    };
    let mut child = Command::new(executable)
        .args(["-c", QUESTION])
        .current_dir(cwd)
        .env_clear()
        .envs(env)
        .env("PYTHONSAFEPATH", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| refuse(e.to_string()))?;
    // Both pipes are emptied by threads: a chatty start-up file must not block it.
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| refuse(e.to_string()))? {
            break status;
        }
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(refuse(format!("it did not answer within {} s", DEADLINE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let out = out.join().unwrap_or_default();
    if !status.success() {
        let err = err.join().unwrap_or_default();
        let last = err
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or("nothing was said");
        return Err(refuse(format!("it ended with {status}: {last}")));
    }
    let line = out.lines().rev().find(|l| l.starts_with('{')).unwrap_or_default();
    let answer: Answer =
        serde_json::from_str(line).map_err(|_| refuse("it does not answer as Python does".to_owned()))?;
    let kind = if answer.venv {
        Kind::Virtual
    } else if answer.prefix.join("conda-meta").is_dir() {
        Kind::Conda
    } else {
        Kind::Base
    };
    // The standard library's own folders hold no packages.
    let packages = answer
        .path
        .into_iter()
        .filter(|p| p.is_absolute() && p.is_dir() && !p.join("os.py").is_file() && !p.ends_with("lib-dynload"))
        .collect();
    Ok((
        answer.executable,
        Layout {
            prefix: answer.prefix,
            version: answer.version,
            implementation: answer.implementation,
            free_threaded: answer.free_threaded,
            kind,
            packages,
        },
    ))
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(1 << 20).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
