//! Lock files that others wrote: requirements with hashes, `pylock.toml`,
//! `uv.lock`. What counts of them is names, exact versions and hashes; where
//! packages come from is said by `env.indexes`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::error::Error;
use super::index::Indexes;
use super::interpreter::Interpreter;
use super::lock::{Locked, join};
use super::marker;
use super::uv::{Uv, failed};
use super::versions::normalize;

/// Largest lock file, bytes.
const MAX: u64 = 16 * 1024 * 1024;
/// Longest time that uv gets to translate its own lock file.
const EXPORT: Duration = Duration::from_secs(60);

/// Comment in a lock of ours before the name of a package that no index has: it
/// travels as it is installed.
pub const PACK: &str = "# as installed: ";

/// What a lock file says.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) locked: Locked,
    /// Names of what it takes from elsewhere than an index: folders,
    /// repositories, files. They travel as they are installed here.
    pub(super) elsewhere: Vec<String>,
    /// Names of what `herdsman pkg lock` found in no index.
    pub(super) pack: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Reads a lock file for this Python on the nodes' platform.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Refused`] naming what cannot be used.
pub(super) async fn read(file: &Path, python: &Interpreter, uv: &Uv<'_>) -> Result<Given, Error> {
    let size = fs_err::metadata(file).map_err(Error::io(file))?.len();
    if size > MAX {
        return Err(malformed(file, format!("it has {size} bytes; at most {MAX} are read")));
    }
    let text = fs_err::read_to_string(file).map_err(Error::io(file))?;
    let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let parsed = match name {
        "uv.lock" => requirements(&export(file, uv).await?, &python.version),
        "poetry.lock" | "Pipfile.lock" | "pdm.lock" | "pixi.lock" | "conda-lock.yml" => {
            return Err(Error::refused(
                format!("{} is of a kind that is not read", file.display()),
                [
                    "export it to requirements with hashes, and name that file".to_owned(),
                    "or copy what is installed: --env copy".to_owned(),
                ],
            ));
        }
        _ if name.ends_with(".toml") => pylock(&text, &python.version),
        _ => requirements(&text, &python.version),
    };
    parsed.map_err(|why| malformed(file, why))
}

fn malformed(file: &Path, why: String) -> Error {
    Error::Malformed {
        path: file.to_owned(),
        why,
    }
}

/// uv's own lock file as requirements; the project itself is not among them.
async fn export(file: &Path, uv: &Uv<'_>) -> Result<String, Error> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let args = [
        "export",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--no-emit-local",
        "--no-header",
        "--no-annotate",
        "--no-python-downloads",
        "--format",
        "requirements.txt",
    ]
    .map(OsStr::new);
    let none = Indexes::default();
    let ended = uv.run("reading uv.lock", &args, &none, folder, EXPORT).await?;
    if ended.code == Some(0) {
        return Ok(ended.stdout);
    }
    Err(failed(
        "reading uv.lock",
        &ended.stderr,
        ["it is read by `uv export --frozen` in its folder, beside pyproject.toml".to_owned()],
    ))
}

/// Requirements as pip and uv write them.
fn requirements(text: &str, python: &str) -> Result<Given, String> {
    let mut found = Given::default();
    let mut blocks = Vec::new();
    let mut options = false;
    // A line that ends with a backslash goes on with the next one.
    let whole = text.replace("\\\r\n", " ").replace("\\\n", " ");
    for line in whole.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix(PACK) {
            found.pack.push(normalize(name.trim()));
        }
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(option) = line.strip_prefix('-') {
            let word = option
                .trim_start_matches('-')
                .split([' ', '='])
                .next()
                .unwrap_or_default();
            match word {
                "r" | "requirement" | "c" | "constraint" => {
                    return Err(format!("`{line}`: other files are not read; put all into one"));
                }
                "e" | "editable" => found.elsewhere.push(line.to_owned()),
                _ => options = true,
            }
            continue;
        }
        let (requirement, hashes) = match line.find("--hash") {
            Some(at) => line.split_at(at),
            None => (line, ""),
        };
        let (requirement, marker) = requirement.split_once(';').unwrap_or((requirement, ""));
        if !marker.trim().is_empty()
            && !marker::holds(marker, python).map_err(|e| format!("`{}`: {e}", marker.trim()))?
        {
            continue;
        }
        let requirement = requirement.trim();
        let bare = |text: &str| text.split('[').next().unwrap_or_default().trim().to_owned();
        if requirement.contains(" @ ") || requirement.contains('/') {
            let name = requirement.split(" @ ").next().unwrap_or_default();
            found.elsewhere.push(bare(name));
            continue;
        }
        let (name, version) = requirement
            .split_once("==")
            .ok_or_else(|| format!("`{requirement}` is no exact version (name==version)"))?;
        let hashes: Vec<String> = hashes
            .split_whitespace()
            .filter_map(|h| h.strip_prefix("--hash=sha256:").map(str::to_owned))
            .collect();
        blocks.push(block(&bare(name), version.trim_matches([' ', '=']), hashes)?);
    }
    if options {
        found
            .notes
            .push("options in the lock file are not used; `env.indexes` names package indexes".to_owned());
    }
    found.locked = join(&blocks).map_err(|e| e.to_string())?;
    Ok(found)
}

/// One requirement in the one form that travels.
fn block(name: &str, version: &str, mut hashes: Vec<String>) -> Result<String, String> {
    if hashes.is_empty() {
        return Err(format!(
            "{name} {version} has no SHA-256; a lock file with hashes is needed (`uv pip compile --generate-hashes`)"
        ));
    }
    hashes.sort();
    hashes.dedup();
    let hashes: Vec<String> = hashes.iter().map(|h| format!("    --hash=sha256:{h}")).collect();
    Ok(format!("{}=={version} \\\n{}\n", normalize(name), hashes.join(" \\\n")))
}

/// `pylock.toml` (PEP 751).
fn pylock(text: &str, python: &str) -> Result<Given, String> {
    let lock: Pylock = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    if !lock.lock_version.starts_with("1.") {
        return Err(format!("lock version {} is not known", lock.lock_version));
    }
    let mine = |specifiers: &Option<String>| match specifiers {
        Some(s) => marker::fulfils(python, s),
        None => Ok(true),
    };
    if !mine(&lock.requires_python)? {
        let wanted = lock.requires_python.unwrap_or_default();
        return Err(format!("it is for Python {wanted}, and Python {python} is here"));
    }
    let mut found = Given::default();
    let mut blocks = Vec::new();
    for package in lock.packages {
        let name = &package.name;
        let holds = match &package.marker {
            Some(m) => marker::holds(m, python).map_err(|e| format!("{name}: `{m}`: {e}"))?,
            None => true,
        };
        if !holds || !mine(&package.requires_python)? {
            continue;
        }
        if package.vcs.is_some() || package.directory.is_some() || package.archive.is_some() {
            found.elsewhere.push(name.clone());
            continue;
        }
        let version = package.version.ok_or_else(|| format!("{name} has no version"))?;
        let files = package.wheels.into_iter().chain(package.sdist);
        let hashes = files
            .filter_map(|f| f.hashes.sha256.map(|h| h.to_ascii_lowercase()))
            .collect();
        blocks.push(block(name, &version, hashes)?);
    }
    found.locked = join(&blocks).map_err(|e| e.to_string())?;
    Ok(found)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Pylock {
    lock_version: String,
    requires_python: Option<String>,
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    requires_python: Option<String>,
    vcs: Option<toml::Table>,
    directory: Option<toml::Table>,
    archive: Option<toml::Table>,
    sdist: Option<File>,
    #[serde(default)]
    wheels: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    hashes: Hashes,
}

#[derive(Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn requirements_with_hashes() {
        let text = format!(
            "# by uv\n# as installed: Odd_One\n--index-url https://h/simple\nB[x] == 2.0 ; python_version >= '3.9' \\\n    --hash=sha256:{HASH} \\\n    --hash=md5:0\n    # via c\na==1 --hash=sha256:{HASH}  # why\nwin==1 ; sys_platform == 'win32' --hash=sha256:{HASH}\n-e ./mine\nmine @ file:///x\n"
        );
        let found = requirements(&text, "3.11.7").unwrap();
        let pins: Vec<_> = found.locked.pins.iter().map(|p| (&*p.name, &*p.version)).collect();
        assert_eq!(pins, [("a", "1"), ("b", "2.0")]);
        assert_eq!(found.elsewhere, ["-e ./mine", "mine"]);
        assert_eq!(found.notes.len(), 1);
        assert_eq!(found.pack, ["odd-one"]);
        for (bad, why) in [
            ("a==1", "no SHA-256"),
            ("a>=1", "no exact version"),
            ("-r other.txt", "other files"),
            ("a==1 ; odd == 'x' --hash=sha256:00", "not known"),
            ("a==1 --hash=sha256:00", "SHA-256"),
        ] {
            let e = requirements(bad, "3.11.7").unwrap_err();
            assert!(e.contains(why), "{bad}: {e}");
        }
    }

    #[test]
    fn pylock_files() {
        let head = "lock-version = \"1.0\"\nrequires-python = \">=3.10\"\ncreated-by = \"uv\"\n";
        let text = format!(
            "{head}[[packages]]\nname = \"A\"\nversion = \"1\"\nindex = \"https://pypi.org/simple\"\nsdist = {{ url = \"https://h/a.tar.gz\", hashes = {{ sha256 = \"{HASH}\" }} }}\n[[packages.wheels]]\nurl = \"https://h/a.whl\"\nsize = 3\nhashes = {{ sha256 = \"{HASH}\" }}\n[[packages]]\nname = \"w\"\nversion = \"1\"\nmarker = \"sys_platform == 'win32'\"\n[[packages]]\nname = \"mine\"\ndirectory = {{ path = \".\", editable = true }}\n"
        );
        let found = pylock(&text, "3.11.7").unwrap();
        assert_eq!(found.locked.pins.len(), 1);
        assert_eq!(found.locked.pins[0].hashes, [HASH]);
        assert_eq!(found.elsewhere, ["mine"]);
        let e = pylock(&text, "3.9.1").unwrap_err();
        assert!(e.contains(">=3.10") && e.contains("3.9.1"), "{e}");
        for bad in ["", "x = 1", "lock-version = \"2.0\"", "[tool.ruff]\nx = 1"] {
            assert!(pylock(bad, "3.11.7").is_err(), "{bad}");
        }
    }
}
