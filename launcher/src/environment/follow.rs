//! A copy that follows a lock file of somebody else's.

use std::collections::BTreeSet;
use std::path::Path;

use herdsman_wire::environment::Pin;

use super::copy::{Action, Row};
use super::error::Error;
use super::given;
use super::index::Indexes;
use super::lock::{self, Locked, STRICT};
use super::plan::Plan;
use super::uv::Uv;
use super::versions::normalize;

impl Plan<'_> {
    /// As [`Self::packages`], with the versions of a lock file that somebody
    /// else wrote.
    pub(super) async fn given(
        &mut self,
        file: &Path,
        indexes: &Indexes,
        progress: &impl Fn(&str),
    ) -> Result<Locked, Error> {
        let uv = Uv::new(self.python, &self.settings.variables)?;
        progress(&format!("reading {}", file.display()));
        let given = given::read(file, self.python, &uv).await?;
        self.notes.extend(given.notes);
        let here = self.local(&uv, indexes, progress).await?;
        let packed: BTreeSet<String> = self.rows.iter().map(|r| r.name.clone()).collect();
        for name in given.elsewhere.iter().filter(|n| !packed.contains(&normalize(n))) {
            self.notes.push(format!(
                "`{name}` of {} comes from no index and is not installed here: it stays away",
                file.display()
            ));
        }
        // What is imported here is what the code was written against.
        let kept: Vec<&Pin> = given.locked.pins.iter().filter(|p| !packed.contains(&p.name)).collect();
        self.check_versions(file, &kept)?;
        for dist in here.iter().filter(|d| !kept.iter().any(|p| p.name == d.name)) {
            if given.pack.contains(&dist.name) {
                self.pack(dist, format!("{} says so", file.display()))?;
                continue;
            }
            let reason = format!("{} does not name it", file.display());
            self.row(dist, &dist.version, Action::LeftOut, reason);
        }
        for pin in &kept {
            match here.iter().find(|d| d.name == pin.name) {
                Some(dist) if dist.version == pin.version => self.row(dist, &pin.version, Action::Exact, String::new()),
                Some(dist) => {
                    let reason = format!("{} is installed here", dist.version);
                    self.row(dist, &pin.version, Action::Changed, reason);
                }
                None => self.rows.push(Row {
                    name: pin.name.clone(),
                    version: pin.version.clone(),
                    class: "lock".to_owned(),
                    action: Action::Exact,
                    reason: "not installed here".to_owned(),
                }),
            }
        }
        lock::only(&given.locked, &kept)
    }

    /// Packages that both sides must agree on have one version in the lock and
    /// here.
    fn check_versions(&self, file: &Path, kept: &[&Pin]) -> Result<(), Error> {
        let here = |name: &str| self.found.dists.get(name).map(|d| d.version.as_str());
        let there = |name: &str| kept.iter().find(|p| p.name == name).map(|p| p.version.as_str());
        let packed = |name: &str| self.rows.iter().any(|r| r.name == name);
        let lines: Vec<String> = STRICT
            .iter()
            .filter(|name| !packed(name))
            .filter_map(|name| match (here(name), there(name)) {
                (Some(a), Some(b)) if a != b => Some(format!("{name}: {a} here, {b} in the lock file")),
                (Some(a), None) => Some(format!("{name}: {a} here, missing in the lock file")),
                _ => None,
            })
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: format!(
                "the machines and this computer would not understand each other:\n{}",
                lines.join("\n")
            ),
            hints: vec![
                if file.ends_with("uv.lock") {
                    "install what is locked: uv sync --frozen".to_owned()
                } else {
                    format!("install what is locked: uv pip sync {}", file.display())
                },
                "or lock again what is installed: herdsman pkg lock --to FILE".to_owned(),
                "or copy what is installed: --env copy".to_owned(),
            ],
        })
    }
}
