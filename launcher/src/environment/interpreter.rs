//! Which Python of the laptop counts, and why.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::{layout, shim};

/// Environment variables, as the process got them or as a test gives them.
pub type Variables = BTreeMap<String, OsString>;

/// The variables of this process whose names are UTF-8.
#[must_use]
pub fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| name.into_string().ok().map(|name| (name, value)))
        .collect()
}

/// How an interpreter's packages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A virtual environment (`pyvenv.cfg`).
    Virtual,
    /// A conda environment (`conda-meta`).
    Conda,
    /// An installation of its own: the system's, pyenv's, uv's, Homebrew's.
    Base,
}

/// Why an interpreter was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Named by the user.
    Named(String),
    /// `$VIRTUAL_ENV` is set.
    VirtualEnv,
    /// `$CONDA_PREFIX` is set and names no base environment.
    Conda,
    /// A `.venv` in this folder.
    Project(PathBuf),
    /// `$CONDA_PREFIX` names conda's base environment.
    CondaBase,
    /// The first of this name on `$PATH`.
    Path(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(text) => write!(f, "named as `{text}`"),
            Self::VirtualEnv => f.write_str("$VIRTUAL_ENV is active"),
            Self::Conda => f.write_str("$CONDA_PREFIX is active"),
            Self::Project(folder) => write!(f, ".venv in {}", folder.display()),
            Self::CondaBase => f.write_str("conda's base environment is active"),
            Self::Path(name) => write!(f, "first `{name}` on $PATH"),
        }
    }
}

/// An interpreter and where its packages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// What to run. A virtual environment's own path, never the one behind it:
    /// Python finds its packages by the path that it was started with.
    pub executable: PathBuf,
    /// `sys.prefix`.
    pub prefix: PathBuf,
    /// Full version, for example `3.11.7`.
    pub version: String,
    /// `cpython`, `pypy`…, lower case.
    pub implementation: String,
    /// Built without the global interpreter lock; its wheels differ.
    pub free_threaded: bool,
    /// How its packages are kept.
    pub kind: Kind,
    /// Folders that hold packages, in the order of `sys.path`.
    pub packages: Vec<PathBuf>,
    /// Why it was chosen.
    pub reason: Reason,
    /// What was passed over on the way, for people.
    pub notes: Vec<String>,
}

impl Interpreter {
    /// Major and minor version.
    #[must_use]
    pub fn minor(&self) -> (u32, u32) {
        layout::minor(&self.version).unwrap_or((0, 0))
    }
}

/// Chooses the interpreter: `explicit` (a path of an interpreter or of an
/// environment, a name on `$PATH`, or a version), else `$VIRTUAL_ENV`, a conda
/// environment, `.venv` in `cwd` or above it in the same project, conda's base
/// environment, then `python3` and `python` on `$PATH`.
///
/// Files are read wherever they say enough; only interpreters whose layout is
/// not known are started, once, and get ten seconds.
///
/// # Errors
/// [`Error::NoInterpreter`] with the places, or [`Error::NotPython`] when what
/// was named or found first cannot be used.
pub fn find_interpreter(cwd: &Path, env: &Variables, explicit: Option<&str>) -> Result<Interpreter, Error> {
    if let Some(text) = explicit {
        let executable = named(cwd, env, text)?;
        return finish(&executable, cwd, env, Reason::Named(text.to_owned()), Vec::new());
    }
    let mut looked = Vec::new();
    let mut notes = Vec::new();
    for (place, folder, reason) in environments(cwd, env) {
        if let Some(executable) = layout::executable_in(&folder) {
            return finish(&executable, cwd, env, reason, notes);
        }
        // A deactivated or deleted environment leaves its variable behind.
        notes.push(format!("{place} names {}, which holds no Python", folder.display()));
        looked.push(place);
    }
    for name in ["python3", "python"] {
        if let Some(executable) = on_path(env, name) {
            return finish(&executable, cwd, env, Reason::Path(name.to_owned()), notes);
        }
        looked.push(format!("{name} on $PATH"));
    }
    looked.push(format!(".venv in {}", cwd.display()));
    Err(Error::NoInterpreter { looked })
}

/// Environments that are active or at hand, in their order.
fn environments(cwd: &Path, env: &Variables) -> Vec<(String, PathBuf, Reason)> {
    let set = |name: &str| env.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut found = Vec::new();
    if let Some(folder) = set("VIRTUAL_ENV") {
        found.push(("$VIRTUAL_ENV".to_owned(), folder, Reason::VirtualEnv));
    }
    // conda activates `base` in every shell, so it says nothing about the
    // project at hand; any other environment was meant.
    let base = env.get("CONDA_DEFAULT_ENV").is_some_and(|v| v == "base" || v == "root");
    let conda = set("CONDA_PREFIX");
    if let Some(folder) = conda.clone().filter(|_| !base) {
        found.push(("$CONDA_PREFIX".to_owned(), folder, Reason::Conda));
    }
    for folder in cwd.ancestors() {
        let venv = folder.join(".venv");
        if venv.join("pyvenv.cfg").is_file() {
            found.push((".venv".to_owned(), venv, Reason::Project(folder.to_owned())));
            break;
        }
        if ["herdsman.toml", "pyproject.toml", ".git"]
            .iter()
            .any(|f| folder.join(f).exists())
        {
            break;
        }
    }
    if let Some(folder) = conda.filter(|_| base) {
        found.push(("$CONDA_PREFIX".to_owned(), folder, Reason::CondaBase));
    }
    found
}

/// Finds what the user named.
fn named(cwd: &Path, env: &Variables, text: &str) -> Result<PathBuf, Error> {
    let expanded = match (text.strip_prefix("~/"), env.get("HOME")) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(text),
    };
    let path = cwd.join(&expanded);
    if path.is_dir() {
        return layout::executable_in(&path).ok_or_else(|| Error::NotPython {
            path,
            why: "the folder holds neither bin/python nor Scripts/python.exe".to_owned(),
        });
    }
    if path.is_file() {
        return Ok(path);
    }
    let bare = expanded.components().count() == 1;
    if bare {
        let name = if text.starts_with(|c: char| c.is_ascii_digit()) {
            format!("python{text}")
        } else {
            text.to_owned()
        };
        if let Some(found) = on_path(env, &name) {
            return Ok(found);
        }
    }
    Err(Error::NotPython {
        path,
        why: if bare {
            "no such file, and nothing of that name on $PATH".to_owned()
        } else {
            // It may be there and not to be seen by this user.
            fs_err::metadata(cwd.join(&expanded)).map_or_else(|e| e.kind().to_string(), |_| "it is no file".to_owned())
        },
    })
}

/// The first executable file of that name on `$PATH`.
pub(super) fn on_path(env: &Variables, name: &str) -> Option<PathBuf> {
    let path = env.get("PATH")?;
    let suffixes: &[&str] = if cfg!(windows) { &[".exe", ".bat", ""] } else { &[""] };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .flat_map(|folder| suffixes.iter().map(move |s| folder.join(format!("{name}{s}"))))
        .find(|file| is_executable(file))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

fn finish(
    executable: &Path,
    cwd: &Path,
    env: &Variables,
    reason: Reason,
    notes: Vec<String>,
) -> Result<Interpreter, Error> {
    let (executable, found) = match layout::read(executable, env) {
        Some(found) => (executable.to_owned(), found),
        None => match shim::behind(executable, cwd, env).and_then(|real| Some((layout::read(&real, env)?, real))) {
            Some((found, real)) => (real, found),
            None => shim::ask(executable, cwd, env)?,
        },
    };
    Ok(Interpreter {
        executable,
        prefix: found.prefix,
        version: found.version,
        implementation: found.implementation,
        free_threaded: found.free_threaded,
        kind: found.kind,
        packages: found.packages,
        reason,
        notes,
    })
}

#[cfg(test)]
mod tests;
