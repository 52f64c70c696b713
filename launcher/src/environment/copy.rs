//! The whole way from an interpreter to what travels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use herdsman_wire::environment::{IndexCredential, MAX_WHEELS, Manifest, PLATFORM, VERSION, Wheel, id};

use super::error::Error;
use super::index::{self, Indexes};
use super::interpreter::{Interpreter, Variables};
use super::lock::{Locked, Locker, Misfit, merge};
use super::scan::{Class, Dist, Scan, kept, required_by, scan};
use super::uv::Uv;
use super::versions::{installed_versions, key_versions};
use super::{build, modules, repack};

/// What the user wants copied.
#[derive(Clone, Debug, Default)]
pub struct EnvRequest {
    /// The project's folder whose loose modules travel (see
    /// [`modules::project_of`]); none: no loose modules.
    pub project: Option<PathBuf>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file.
    Path(PathBuf),
    /// In memory.
    Bytes(Vec<u8>),
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
    /// Where it comes from: [`Class`] as text, or `project`.
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
        let count = |a: Action| self.rows.iter().filter(|r| r.action == a).count();
        let bytes: u64 = self.blobs.iter().map(|b| b.size).sum();
        let mut parts = vec![format!("{} packages exact", count(Action::Exact))];
        for action in [Action::Changed, Action::Packed, Action::LeftOut] {
            if count(action) > 0 {
                parts.push(format!("{} {action}", count(action)));
            }
        }
        format!(
            "Python {}, {}, {} KiB to send",
            self.manifest.python,
            parts.join(", "),
            bytes.div_ceil(1024)
        )
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
    let locked = plan.packages(&indexes, &progress).await?;
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

struct Plan<'a> {
    python: &'a Interpreter,
    settings: &'a EnvRequest,
    found: &'a Scan,
    stays: &'a BTreeSet<String>,
    packed: Vec<(String, Blob)>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Plan<'_> {
    /// Index packages into a lock, everything else into wheels.
    async fn packages(&mut self, indexes: &Indexes, progress: &impl Fn(&str)) -> Result<Locked, Error> {
        let uv = Uv::new(self.python, &self.settings.variables)?;
        let temporary = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let locker = Locker {
            uv: &uv,
            indexes,
            executable: &self.python.executable,
            version: &self.python.version,
            folder: temporary.path(),
        };
        let found = self.found;
        let mut pins = Vec::new();
        for dist in self.stays.iter().filter_map(|n| found.dists.get(n)) {
            match &dist.class {
                Class::Index | Class::Conda | Class::Tool | Class::Own => {
                    pins.push((dist.name.clone(), dist.version.clone()));
                }
                Class::Editable(source) => {
                    progress(&format!("building {}", dist.name));
                    let executable = self.python.executable.to_string_lossy();
                    let cache = &self.settings.cache;
                    let path = build::wheel(&uv, &dist.name, source, &executable, indexes, cache).await?;
                    self.add_built(dist, path)?;
                }
                Class::Vcs(from) | Class::Url(from) => self.pack(dist, format!("as installed from {from}"))?,
                Class::Local(_) => self.pack(dist, "as installed from a folder or file of this machine".to_owned())?,
            }
        }
        progress(&format!("locking {} packages", pins.len()));
        let (mut locked, misfits) = locker.lock(&pins).await?;
        for pin in &locked.pins {
            if let Some(dist) = found.dists.get(&pin.name) {
                let note = if dist.class == Class::Conda {
                    "installed by conda here, from an index there"
                } else {
                    ""
                };
                self.row(dist, &pin.version, Action::Exact, note.to_owned());
            }
        }
        for misfit in &misfits {
            progress(&format!("finding another way for {}", misfit.name));
            if let Some(more) = self.other_way(&locker, misfit).await? {
                merge(&mut locked, &more)?;
            }
        }
        Ok(locked)
    }

    /// For a package whose version has no fitting wheel: pure code travels as it
    /// is; what is made for other systems and needed by nobody stays; compiled
    /// Linux code travels from Linux; else another patch; else an error.
    async fn other_way(&mut self, locker: &Locker<'_>, misfit: &Misfit) -> Result<Option<Locked>, Error> {
        let found = self.found;
        let Some(dist) = found.dists.get(&misfit.name) else {
            return Ok(None);
        };
        let needed = required_by(found, self.stays, &dist.name);
        if repack::is_pure(dist)
            && self
                .pack(dist, "no index has a wheel of it; as installed here".to_owned())
                .is_ok()
        {
            return Ok(None);
        }
        let elsewhere = misfit.said.contains("Wheels are available for") || made_elsewhere(dist);
        if needed.is_empty() && elsewhere {
            self.row(
                dist,
                &dist.version,
                Action::LeftOut,
                "made for other systems, and nothing here needs it on Linux".to_owned(),
            );
            return Ok(None);
        }
        if needed.is_empty() && dist.class == Class::Conda {
            self.row(
                dist,
                &dist.version,
                Action::LeftOut,
                "only conda has it, and no other package needs it".to_owned(),
            );
            return Ok(None);
        }
        // conda's compiled code expects conda's libraries around it.
        let here = cfg!(all(target_os = "linux", target_arch = "x86_64")) && dist.class != Class::Conda;
        if here && repack::runs_on_linux(dist) && self.pack(dist, "compiled; as installed here".to_owned()).is_ok() {
            return Ok(None);
        }
        if let Some(other) = locker.neighbour(misfit, self.settings.allow_skew).await? {
            let version = other.pins.first().map(|p| p.version.clone()).unwrap_or_default();
            self.notes.push(format!(
                "{} {} has no wheel for Linux; the machines get {version}",
                dist.name, dist.version
            ));
            self.row(
                dist,
                &version,
                Action::Changed,
                format!("{} has no wheel for Linux", dist.version),
            );
            return Ok(Some(other));
        }
        let by = if needed.is_empty() {
            "nothing else that is installed needs it".to_owned()
        } else {
            format!(
                "{} need{} it",
                needed.join(", "),
                if needed.len() == 1 { "s" } else { "" }
            )
        };
        Err(Error::refused(
            format!(
                "{} {} has no wheel for Python {} on Linux; {by}",
                dist.name, dist.version, self.python.version
            ),
            [
                format!("leave it out: env.ignore = [\"{}\"]", dist.name),
                format!(
                    "install a version that has wheels: {} -m pip install -U {}",
                    self.python.executable.display(),
                    dist.name
                ),
                "or use an image that has it: --env image".to_owned(),
            ],
        ))
    }

    /// Packs an installed distribution as it is.
    fn pack(&mut self, dist: &Dist, reason: String) -> Result<(), Error> {
        let linux = cfg!(all(target_os = "linux", target_arch = "x86_64")) && repack::runs_on_linux(dist);
        if !repack::is_pure(dist) && !linux {
            return Err(Error::refused(
                format!(
                    "{} {} has compiled parts that do not run on the machines",
                    dist.name, dist.version
                ),
                [
                    format!("leave it out: env.ignore = [\"{}\"]", dist.name),
                    "install it from an index that has Linux wheels".to_owned(),
                    "or use an image that has it: --env image".to_owned(),
                ],
            ));
        }
        let wheel = repack::repack(dist).map_err(|why| {
            Error::refused(
                format!("{} {} cannot be packed: {why}", dist.name, dist.version),
                [
                    format!("leave it out: env.ignore = [\"{}\"]", dist.name),
                    "or install it anew".to_owned(),
                ],
            )
        })?;
        if wheel.dropped > 0 {
            self.notes.push(format!(
                "{}: {} files outside of the packages' folder stay here",
                dist.name, wheel.dropped
            ));
        }
        self.row(dist, &dist.version, Action::Packed, reason);
        self.blob(wheel.file, wheel.bytes);
        Ok(())
    }

    fn add_built(&mut self, dist: &Dist, path: PathBuf) -> Result<(), Error> {
        let bytes = fs_err::read(&path).map_err(Error::io(&path))?;
        let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let version = file.split('-').nth(1).unwrap_or(&dist.version).to_owned();
        let blob = Blob {
            sha256: id(&bytes),
            size: bytes.len() as u64,
            content: Content::Path(path),
        };
        self.packed.push((file, blob));
        self.row(dist, &version, Action::Packed, "built from its folder".to_owned());
        Ok(())
    }

    fn project(&mut self, include: &[PathBuf]) -> Result<(), Error> {
        let collected = modules::collect(self.settings.project.as_deref(), include)?;
        self.notes.extend(collected.notes.iter().cloned());
        if let Some((file, bytes)) = modules::wheel(&collected) {
            self.rows.push(Row {
                name: "herdsman-project".to_owned(),
                version: "0".to_owned(),
                class: "project".to_owned(),
                action: Action::Packed,
                reason: format!(
                    "{} files, {} KiB",
                    collected.files.len(),
                    collected.bytes.div_ceil(1024)
                ),
            });
            self.blob(file, bytes);
        }
        Ok(())
    }

    /// Rows of what never was a candidate.
    fn left_out(&mut self, tools: &[String]) {
        let found = self.found;
        for dist in found.dists.values().filter(|d| !self.stays.contains(&d.name)) {
            let reason = match dist.class {
                Class::Own => "herdsman's own side of the laptop",
                Class::Tool if !tools.contains(&dist.name) && !self.settings.ignore.contains(&dist.name) => {
                    "a tool that workers have no use for; env.include keeps it"
                }
                _ => "named in env.ignore",
            };
            self.row(dist, &dist.version, Action::LeftOut, reason.to_owned());
        }
    }

    fn row(&mut self, dist: &Dist, version: &str, action: Action, reason: String) {
        self.rows.push(Row {
            name: dist.name.clone(),
            version: version.to_owned(),
            class: dist.class.to_string(),
            action,
            reason,
        });
    }

    fn blob(&mut self, file: String, bytes: Vec<u8>) {
        let blob = Blob {
            sha256: id(&bytes),
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
        };
        self.packed.push((file, blob));
    }

    fn finish(mut self, locked: Locked, indexes: Indexes) -> Result<Copy, Error> {
        if self.packed.len() > MAX_WHEELS {
            return Err(Error::refused(format!("more than {MAX_WHEELS} local packages"), []));
        }
        self.packed.sort_by(|a, b| a.0.cmp(&b.0));
        self.rows.sort_by(|a, b| a.name.cmp(&b.name));
        // What must agree is what gets installed, not what is here: a patch may
        // have been changed above, and that was said.
        let there: BTreeMap<&str, &Row> = self.rows.iter().map(|r| (r.name.as_str(), r)).collect();
        let mut versions: BTreeMap<String, String> = key_versions(self.python)
            .into_keys()
            .filter_map(|n| {
                let row = there.get(n.as_str()).filter(|r| r.action != Action::LeftOut)?;
                Some((n, row.version.clone()))
            })
            .collect();
        versions.insert("python".to_owned(), self.python.version.clone());
        let manifest = Manifest {
            version: VERSION,
            python: self.python.version.clone(),
            platform: PLATFORM.to_owned(),
            lock: locked.text,
            wheels: self
                .packed
                .iter()
                .map(|(file, blob)| Wheel {
                    file: file.clone(),
                    sha256: blob.sha256.clone(),
                    size: blob.size,
                })
                .collect(),
            indexes: indexes.list.into_iter().map(|i| i.url).collect(),
            versions,
            setup: self.settings.setup.clone(),
        };
        let bytes = manifest.to_bytes().map_err(|e| Error::refused(e.message, e.hint))?;
        let id = id(&bytes);
        let mut blobs: Vec<Blob> = self.packed.into_iter().map(|(_, b)| b).collect();
        blobs.push(Blob {
            sha256: id.clone(),
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
        });
        Ok(Copy {
            id,
            manifest,
            blobs,
            rows: self.rows,
            credentials: indexes.credentials,
            notes: self.notes,
        })
    }
}

/// Whether its compiled parts are for macOS or Windows.
fn made_elsewhere(dist: &Dist) -> bool {
    fs_err::read_to_string(Path::new(&dist.info).join("WHEEL")).is_ok_and(|t| {
        t.lines()
            .any(|l| l.starts_with("Tag:") && (l.contains("macosx") || l.contains("-win")))
    })
}

#[cfg(test)]
mod tests;
