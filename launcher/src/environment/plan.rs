//! What happens to each distribution, decided one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use herdsman_wire::environment::{MAX_WHEELS, Manifest, PLATFORM, VERSION, Wheel, id};

use super::copy::{Action, Blob, Content, Copy, EnvRequest, Row};
use super::error::Error;
use super::index::Indexes;
use super::interpreter::Interpreter;
use super::lock::{Locked, Locker, Misfit, merge};
use super::scan::{Class, Dist, Scan, required_by};
use super::uv::Uv;
use super::versions::{KEYS, key_versions};
use super::{build, modules, repack};

pub(super) struct Plan<'a> {
    pub(super) python: &'a Interpreter,
    pub(super) settings: &'a EnvRequest,
    pub(super) found: &'a Scan,
    pub(super) stays: &'a BTreeSet<String>,
    pub(super) packed: Vec<(String, Blob)>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Index packages into a lock, everything else into wheels.
    pub(super) async fn packages(&mut self, indexes: &Indexes, progress: &impl Fn(&str)) -> Result<Locked, Error> {
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
        let pins: Vec<(String, String)> = self
            .local(&uv, indexes, progress)
            .await?
            .into_iter()
            .map(|d| (d.name.clone(), d.version.clone()))
            .collect();
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

    /// Makes wheels of what came from elsewhere than an index; gives the rest.
    pub(super) async fn local(
        &mut self,
        uv: &Uv<'_>,
        indexes: &Indexes,
        progress: &impl Fn(&str),
    ) -> Result<Vec<&'a Dist>, Error> {
        let found = self.found;
        let mut rest = Vec::new();
        for dist in self.stays.iter().filter_map(|n| found.dists.get(n)) {
            match &dist.class {
                Class::Index | Class::Conda | Class::Tool | Class::Own => rest.push(dist),
                Class::Editable(source) => {
                    progress(&format!("building {}", dist.name));
                    let executable = self.python.executable.to_string_lossy();
                    let cache = &self.settings.cache;
                    let path = build::wheel(uv, &dist.name, source, &executable, indexes, cache).await?;
                    self.add_built(dist, path)?;
                }
                Class::Vcs(from) | Class::Url(from) => self.pack(dist, format!("as installed from {from}"))?,
                Class::Local(_) => self.pack(dist, "as installed from a folder or file of this machine".to_owned())?,
            }
        }
        Ok(rest)
    }

    /// For a package whose version has no fitting wheel: pure code travels as it
    /// is; compiled Linux code travels from Linux; else another patch; what is
    /// made for other systems only, and needed by nobody, stays; else an error.
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
        if needed.is_empty() && dist.class == Class::Conda && !KEYS.contains(&dist.name.as_str()) {
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
        // Last, so that a package with a Linux wheel in the next patch is not lost.
        let elsewhere = misfit.said.contains("Wheels are available for");
        if needed.is_empty() && elsewhere && !KEYS.contains(&dist.name.as_str()) {
            self.row(
                dist,
                &dist.version,
                Action::LeftOut,
                "made for other systems, and nothing here needs it on Linux".to_owned(),
            );
            return Ok(None);
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
    pub(super) fn pack(&mut self, dist: &Dist, reason: String) -> Result<(), Error> {
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

    pub(super) fn project(&mut self, include: &[PathBuf]) -> Result<(), Error> {
        let collected = modules::collect(self.settings.project.as_deref(), include)?;
        self.notes.extend(collected.notes.iter().cloned());
        if let Some((file, bytes)) = modules::wheel(&collected) {
            self.rows.push(Row {
                name: "herdsman-project".to_owned(),
                version: "0".to_owned(),
                class: "project".to_owned(),
                action: Action::Packed,
                reason: format!(
                    "{} {}, {} KiB",
                    collected.files.len(),
                    if collected.files.len() == 1 { "file" } else { "files" },
                    collected.bytes.div_ceil(1024)
                ),
            });
            self.blob(file, bytes);
        }
        Ok(())
    }

    /// Rows of what never was a candidate.
    pub(super) fn left_out(&mut self, tools: &[String]) {
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

    pub(super) fn row(&mut self, dist: &Dist, version: &str, action: Action, reason: String) {
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

    pub(super) fn finish(mut self, locked: Locked, indexes: Indexes) -> Result<Copy, Error> {
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
