//! Pins with hashes for the nodes' platform, from what is installed here.
//!
//! uv decides what fits; we only ask it small questions: all pins at once, then
//! halves, down to those that do not fit. Without dependencies the pins do not
//! touch each other, so that finds each of them.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::environment::{PLATFORM, Pin, parse_lock};

use super::error::Error;
use super::index::Indexes;
use super::uv::{Ended, Uv, failed};

/// Longest time of one question.
const COMPILE: Duration = Duration::from_secs(180);
/// uv's exit status when the requirements cannot be met; anything else that is
/// not 0 is trouble of another kind.
const UNSOLVABLE: i32 = 1;
/// Packages whose versions decide whether both sides understand each other: not
/// even the patch may differ.
pub(super) const STRICT: &[&str] = &["cloudpickle", "dask", "distributed", "msgpack"];

/// How uv is asked: exact pins, wheels only, with the hashes of all files.
const OPTIONS: &[&str] = &[
    "pip",
    "compile",
    "--quiet",
    "--no-deps",
    "--generate-hashes",
    "--only-binary",
    ":all:",
    "--no-header",
    "--no-annotate",
    "--prerelease",
    "allow",
    "--no-python-downloads",
    "--python-platform",
    PLATFORM,
];

/// What locks: uv, an interpreter that it may look at, a folder for its input.
pub(super) struct Locker<'a> {
    pub(super) uv: &'a Uv<'a>,
    pub(super) indexes: &'a Indexes,
    pub(super) executable: &'a Path,
    pub(super) version: &'a str,
    pub(super) folder: &'a Path,
}

/// A pin that does not fit, and what uv said.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) said: String,
}

/// The text of a lock and what it pins.
#[derive(Debug, Default)]
pub(super) struct Locked {
    pub(super) text: String,
    pub(super) pins: Vec<Pin>,
}

impl Locker<'_> {
    /// Locks what fits, and tells what does not.
    pub(super) async fn lock(&self, pins: &[(String, String)]) -> Result<(Locked, Vec<Misfit>), Error> {
        let mut misfits = Vec::new();
        let mut open: Vec<&[(String, String)]> = vec![pins];
        let mut good = Vec::new();
        while let Some(part) = open.pop() {
            if part.is_empty() {
                continue;
            }
            let ended = self.compile(&requirements(part)).await?;
            if denied(&ended.stderr) {
                // uv calls a package unknown when the index did not let us ask.
                return Err(trouble(&ended.stderr));
            }
            match (ended.code, part) {
                (Some(0), _) => good.push(ended.stdout),
                (Some(UNSOLVABLE), [(name, version)]) => misfits.push(Misfit {
                    name: name.clone(),
                    version: version.clone(),
                    said: ended.stderr,
                }),
                (Some(UNSOLVABLE), _) => {
                    let (a, b) = part.split_at(part.len() / 2);
                    open.extend([a, b]);
                }
                _ => return Err(trouble(&ended.stderr)),
            }
        }
        // An index that knows none of them is the wrong index.
        if misfits.len() == pins.len()
            && pins.len() > 3
            && let Some(first) = misfits.first()
        {
            return Err(trouble(&first.said));
        }
        misfits.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((join(&good)?, misfits))
    }

    /// The highest patch of the same minor version that fits, if that is allowed
    /// for this package and there is one.
    pub(super) async fn neighbour(&self, misfit: &Misfit, allow_skew: bool) -> Result<Option<Locked>, Error> {
        let Some(minor) = minor(&misfit.version).filter(|_| allow_skew || !STRICT.contains(&misfit.name.as_str()))
        else {
            return Ok(None);
        };
        let ended = self.compile(&format!("{}=={minor}.*\n", misfit.name)).await?;
        match ended.code {
            Some(0) => join(&[ended.stdout]).map(Some),
            Some(UNSOLVABLE) => Ok(None),
            _ => Err(trouble(&ended.stderr)),
        }
    }

    async fn compile(&self, requirements: &str) -> Result<Ended, Error> {
        let file = self.folder.join("requirements.in");
        fs_err::write(&file, requirements).map_err(Error::io(&file))?;
        let mut args: Vec<&OsStr> = OPTIONS.iter().map(OsStr::new).collect();
        args.extend(["--python-version", self.version, "--python"].map(OsStr::new));
        args.extend([self.executable.as_os_str(), file.as_os_str()]);
        self.uv
            .run("locking the packages", &args, self.indexes, self.folder, COMPILE)
            .await
    }
}

fn requirements(pins: &[(String, String)]) -> String {
    pins.iter().map(|(n, v)| format!("{n}=={v}\n")).collect()
}

/// `1.2` of `1.2.3`.
fn minor(version: &str) -> Option<String> {
    let mut parts = version.split(['.', '+']);
    let (major, minor) = (parts.next()?, parts.next()?);
    let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    (number(major) && number(minor)).then(|| format!("{major}.{minor}"))
}

/// Puts answers together, sorted by name, so that the same packages give the
/// same lock.
pub(super) fn join(texts: &[String]) -> Result<Locked, Error> {
    let mut blocks: Vec<String> = Vec::new();
    for line in texts
        .iter()
        .flat_map(|t| t.lines())
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
    {
        match blocks.last_mut() {
            Some(block) if line.starts_with(' ') => {
                block.push_str(line);
                block.push('\n');
            }
            _ => blocks.push(format!("{line}\n")),
        }
    }
    blocks.sort();
    let text = blocks.concat();
    let pins = parse_lock(&text).map_err(|why| Error::refused(format!("the lock cannot be used: {why}"), []))?;
    Ok(Locked { text, pins })
}

/// Adds a lock to another one.
pub(super) fn merge(into: &mut Locked, more: &Locked) -> Result<(), Error> {
    *into = join(&[into.text.clone(), more.text.clone()])?;
    Ok(())
}

/// A lock of these pins only.
pub(super) fn only(of: &Locked, pins: &[&Pin]) -> Result<Locked, Error> {
    let blocks: Vec<String> = of
        .pins
        .iter()
        .filter(|p| pins.contains(p))
        .map(|p| {
            let hashes: Vec<String> = p.hashes.iter().map(|h| format!("    --hash=sha256:{h}")).collect();
            format!("{}=={} \\\n{}\n", p.name, p.version, hashes.join(" \\\n"))
        })
        .collect();
    join(&blocks)
}

/// Whether an index wants to know who asks.
fn denied(said: &str) -> bool {
    ["401 Unauthorized", "403 Forbidden"]
        .iter()
        .any(|text| said.contains(text))
}

fn trouble(said: &str) -> Error {
    failed(
        "locking the packages",
        said,
        [if denied(said) {
            "the index wants a user and a password: netrc, or UV_INDEX_<NAME>_USERNAME and _PASSWORD".to_owned()
        } else {
            "check that the package index can be reached from here, and `env.indexes`".to_owned()
        }],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_put_together_in_one_order() {
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let one = |n: &str| format!("{n}==1 \\\n    --hash=sha256:{hash}\n");
        let a = join(&[one("b"), one("a")]).unwrap();
        let b = join(&[one("a"), one("b")]).unwrap();
        assert_eq!(a.text, b.text);
        assert_eq!(a.pins.len(), 2);
        let mut c = join(&[one("b")]).unwrap();
        merge(&mut c, &join(&[one("a")]).unwrap()).unwrap();
        assert_eq!(c.text, a.text);
        assert!(join(&["a==1\n".to_owned()]).is_err());
    }

    #[test]
    fn minors() {
        assert_eq!(minor("1.2.3").as_deref(), Some("1.2"));
        assert_eq!(minor("2026.8.0+cpu").as_deref(), Some("2026.8"));
        assert_eq!(minor("3"), None);
        assert_eq!(minor("1.2rc1"), None);
    }
}
