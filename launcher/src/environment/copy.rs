//! The whole way from an interpreter to what travels.

use std::fmt;
use std::path::PathBuf;

use herdsman_wire::environment::{IndexCredential, Manifest};

use super::error::Error;
use super::index;
use super::interpreter::{Interpreter, Variables};
use super::plan::Plan;
use super::scan::{kept, scan};
use super::versions::installed_versions;

/// Names of local packages in a summary.
const SHOWN: usize = 4;

/// What the user wants copied.
#[derive(Clone, Debug, Default)]
pub struct EnvRequest {
    /// The project's folder whose loose modules travel (see
    /// [`super::project_of`]); none: no loose modules.
    pub project: Option<PathBuf>,
    /// A lock file that says which versions come from indexes; absent: those that
    /// are installed.
    pub lock: Option<PathBuf>,
    /// Further files and folders of code, and names of tools that shall stay.
    pub include: Vec<String>,
    /// Packages to leave out.
    pub ignore: Vec<String>,
    /// Package indexes, `URL` or `NAME=URL`, before the public one. Empty: what
    /// uv's and pip's variables name.
    pub indexes: Vec<String>,
    /// Shell lines that run on each node before the installation.
    pub setup: Vec<String>,
    /// Let even dask's patch version differ when nothing else fits.
    pub allow_skew: bool,
    /// Keep passwords of indexes at home.
    pub no_index_credentials: bool,
    /// Folder for wheels that were built.
    pub cache: PathBuf,
    /// The process's variables.
    pub variables: Variables,
}

/// Content of a blob.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A file.
    Path(PathBuf),
    /// In memory.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
        }
    }
}

/// Something to send, by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Its size, bytes.
    pub size: u64,
    /// Its content.
    pub content: Content,
}

/// What happens to a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The same version comes from an index.
    Exact,
    /// Another patch comes from an index.
    Changed,
    /// It travels as a wheel made here.
    Packed,
    /// It stays at home.
    LeftOut,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Changed => "changed",
            Self::Packed => "packed",
            Self::LeftOut => "left out",
        })
    }
}

/// A line of `herdsman pkg show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Normal name.
    pub name: String,
    /// Version on the nodes, or here for what is left out.
    pub version: String,
    /// Where it comes from: [`super::scan::Class`] as text, or `project`.
    pub class: String,
    /// What happens to it.
    pub action: Action,
    /// Why, for people; empty where nothing is to be said.
    pub reason: String,
}

/// A copy of the laptop's environment, ready to travel.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The environment's id: the hash of the manifest's bytes.
    pub id: String,
    /// The manifest.
    pub manifest: Manifest,
    /// Everything to send, the manifest itself included.
    pub blobs: Vec<Blob>,
    /// What happens to each distribution, by name.
    pub rows: Vec<Row>,
    /// Access to the indexes. Travels beside the manifest, over mTLS only.
    pub credentials: Vec<IndexCredential>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Copy {
    /// One line for the plan.
    #[must_use]
    pub fn summary(&self) -> String {
        let of = |a: Action| self.rows.iter().filter(move |r| r.action == a);
        let bytes: u64 = self.blobs.iter().map(|b| b.size).sum();
        let changed = of(Action::Changed).count();
        let mut text = format!(
            "python {} + {} packages",
            self.manifest.python,
            of(Action::Exact).count() + changed
        );
        let mut also = |n: usize, what: &str| {
            if n > 0 {
                text += &format!(", {n} {what}");
            }
        };
        also(changed, "changed");
        let local: Vec<String> = of(Action::Packed)
            .map(|r| match r.class.as_str() {
                "project" => {
                    let files = r.reason.split(',').next().unwrap_or_default();
                    format!("the project's modules ({files})")
                }
                "index" | "conda" | "tool" => format!("{} (as installed)", r.name),
                class => format!("{} ({class})", r.name),
            })
            .collect();
        let shown = local.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = if local.len() > SHOWN { ", …" } else { "" };
        also(local.len(), &format!("local: {shown}{more}"));
        also(of(Action::LeftOut).count(), "left out");
        text + &format!("; {} KiB to send", bytes.div_ceil(1024))
    }
}

/// Scans, locks, builds and packs the environment of `python`. Nothing of it
/// leaves the laptop but questions to the package indexes, by package name.
///
/// `progress` gets a few words at each step.
///
/// # Errors
/// [`Error::Missing`] without dask or distributed, [`Error::Refused`] with ways
/// out for a package that cannot get to Linux, trouble with uv or an index, too
/// much code, [`Error::Deadline`]. No text holds a password.
pub async fn prepare(settings: &EnvRequest, python: &Interpreter, progress: impl Fn(&str)) -> Result<Copy, Error> {
    check_interpreter(python)?;
    progress("reading what is installed");
    let found = scan(python);
    let (paths, tools) = includes(settings);
    let stays = kept(&found, &tools, &settings.ignore);
    for name in ["dask", "distributed"] {
        if !stays.contains(name) {
            return Err(Error::refused(
                format!("{name} is left out, and there is no cluster without it"),
                [format!("take {name} out of `env.ignore`")],
            ));
        }
    }
    let indexes = index::gather(&settings.indexes, &settings.variables, !settings.no_index_credentials)?;
    let mut plan = Plan {
        python,
        settings,
        found: &found,
        stays: &stays,
        packed: Vec::new(),
        rows: Vec::new(),
        notes: found.notes.clone(),
    };
    let locked = match &settings.lock {
        None => plan.packages(&indexes, &progress).await?,
        Some(file) => plan.given(file, &indexes, &progress).await?,
    };
    progress("collecting the project's modules");
    plan.project(&paths)?;
    plan.left_out(&tools);
    plan.finish(locked, indexes)
}

fn check_interpreter(python: &Interpreter) -> Result<(), Error> {
    installed_versions(python)?;
    if python.implementation != "cpython" || python.free_threaded {
        return Err(Error::refused(
            format!(
                "{} is no ordinary CPython; only that is copied",
                python.executable.display()
            ),
            [
                "name another interpreter: --python PATH".to_owned(),
                "use what the machines have: --env image".to_owned(),
            ],
        ));
    }
    Ok(())
}

/// `include` holds paths and names of tools: what exists is a path.
fn includes(settings: &EnvRequest) -> (Vec<PathBuf>, Vec<String>) {
    let mut paths = Vec::new();
    let mut names = Vec::new();
    for text in &settings.include {
        let path = settings
            .project
            .as_ref()
            .map_or_else(|| PathBuf::from(text), |p| p.join(text));
        if text.contains(['/', '\\']) || path.exists() {
            paths.push(path);
        } else {
            names.push(text.clone());
        }
    }
    (paths, names)
}

#[cfg(test)]
mod tests;
