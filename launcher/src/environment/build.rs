//! Wheels of folders that are imported in place, built by uv, kept by the hash
//! of their files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_wire::{environment, limits};

use super::error::Error;
use super::ignore::Rules;
use super::index::Indexes;
use super::uv::{Uv, failed};

/// Longest time of one build.
const BUILD: Duration = Duration::from_secs(10 * 60);
/// Most files and bytes that are hashed; beyond that a build is never reused.
const MAX_FILES: usize = 20_000;
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Builds the wheel of a folder, or takes it from the cache; gives its path.
///
/// # Errors
/// uv's last lines, or a wheel that does not run on Linux.
pub(super) async fn wheel(
    uv: &Uv<'_>,
    name: &str,
    source: &Path,
    python: &str,
    indexes: &Indexes,
    cache: &Path,
) -> Result<PathBuf, Error> {
    if !["pyproject.toml", "setup.py"].iter().any(|f| source.join(f).is_file()) {
        return Err(Error::refused(
            format!(
                "{name} is installed from {}, which holds no pyproject.toml and no setup.py",
                source.display()
            ),
            [
                format!("leave it out: env.ignore = [\"{name}\"]"),
                "or install it anew".to_owned(),
            ],
        ));
    }
    let wheels = cache.join("wheels");
    let key = key(name, source, python);
    if let Some(found) = key.as_ref().and_then(|k| only_wheel(&wheels.join(k))) {
        return Ok(found);
    }
    fs_err::create_dir_all(&wheels).map_err(Error::io(&wheels))?;
    let out = tempfile::Builder::new()
        .prefix("build-")
        .tempdir_in(&wheels)
        .map_err(Error::io(&wheels))?;
    let args = [
        OsStr::new("build"),
        "--wheel".as_ref(),
        "--python".as_ref(),
        python.as_ref(),
        "--out-dir".as_ref(),
        out.path().as_os_str(),
        source.as_os_str(),
    ];
    let what = format!("building {name} in {}", source.display());
    let ended = uv.run(&what, &args, indexes, &wheels, BUILD).await?;
    let Some(file) = only_wheel(out.path()).filter(|_| ended.code == Some(0)) else {
        return Err(failed(
            &what,
            &ended.stderr,
            [
                format!("see for yourself: uv build --wheel {}", source.display()),
                format!("or leave it out: env.ignore = [\"{name}\"]"),
            ],
        ));
    };
    fits(name, &file)?;
    let folder = wheels.join(key.unwrap_or_else(|| format!("once-{}", std::process::id())));
    let made = out.keep();
    let _ = fs_err::remove_dir_all(&folder);
    fs_err::rename(&made, &folder).map_err(Error::io(&folder))?;
    only_wheel(&folder).ok_or_else(|| Error::Malformed {
        path: folder,
        why: "a wheel that was just built is gone".to_owned(),
    })
}

fn fits(name: &str, file: &Path) -> Result<(), Error> {
    let size = fs_err::metadata(file).map_err(Error::io(file))?.len();
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let platform = stem.rsplit('-').next().unwrap_or_default();
    let linux = platform.contains("linux") && platform.ends_with("x86_64");
    if size > limits::BLOB || !(platform == "any" || linux) {
        return Err(Error::refused(
            if size > limits::BLOB {
                format!("the wheel of {name} has {size} bytes; the limit is {}", limits::BLOB)
            } else {
                format!("{name} has compiled parts, and they were built for {platform}, not for Linux")
            },
            [
                format!("leave it out: env.ignore = [\"{name}\"]"),
                "publish Linux wheels of it to an index, and install it from there".to_owned(),
                "or use an image that has it: --env image".to_owned(),
            ],
        ));
    }
    Ok(())
}

fn only_wheel(folder: &Path) -> Option<PathBuf> {
    fs_err::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|x| x == "whl"))
}

/// Hash of what a build reads; `None` where that is too much to know.
fn key(name: &str, source: &Path, python: &str) -> Option<String> {
    let mut rules = Rules::default();
    rules.read(source, "");
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    // Compiled parts depend on Python; its path stands for its version.
    for part in ["1", name, python] {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    // Version plug-ins read the commit.
    for file in ["HEAD", "logs/HEAD"] {
        hash.update(&fs_err::read(source.join(".git").join(file)).unwrap_or_default());
        hash.update(&[0]);
    }
    let mut budget = (MAX_FILES, MAX_BYTES);
    add(source, "", &rules, &mut hash, &mut budget)?;
    Some(environment::hex(hash.finish().as_ref()))
}

fn add(
    folder: &Path,
    base: &str,
    rules: &Rules,
    hash: &mut ring::digest::Context,
    budget: &mut (usize, u64),
) -> Option<()> {
    let mut entries: Vec<PathBuf> = fs_err::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name()?.to_str()?;
        let kind = fs_err::symlink_metadata(&path).ok()?;
        let inside = format!("{base}{name}");
        let noise = ["build", "dist", "__pycache__", "node_modules"].contains(&name) || name.ends_with(".egg-info");
        // Hidden folders are caches.
        if noise || (name.starts_with('.') && kind.is_dir()) || rules.ignores(&inside, kind.is_dir()) {
            continue;
        }
        if kind.is_dir() {
            let mut below = rules.clone();
            below.read(&path, &format!("{inside}/"));
            add(&path, &format!("{inside}/"), &below, hash, budget)?;
        } else if kind.is_file() {
            budget.0 = budget.0.checked_sub(1)?;
            budget.1 = budget.1.checked_sub(kind.len())?;
            let content = fs_err::read(&path).ok()?;
            hash.update(inside.as_bytes());
            hash.update(&[0]);
            hash.update(environment::id(&content).as_bytes());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{folder, write};
    use super::*;

    #[test]
    fn the_key_follows_what_a_build_reads() {
        let dir = folder();
        write(dir.path().join("pyproject.toml"), "x");
        write(dir.path().join("m/a.py"), "1");
        let first = key("m", dir.path(), "py").unwrap();
        write(dir.path().join("m/__pycache__/a.pyc"), "1");
        write(dir.path().join("build/lib/a.py"), "1");
        write(dir.path().join(".venv/x"), "1");
        assert_eq!(key("m", dir.path(), "py").unwrap(), first);
        assert_ne!(key("m", dir.path(), "other").unwrap(), first);
        write(dir.path().join("m/a.py"), "2");
        assert_ne!(key("m", dir.path(), "py").unwrap(), first);
    }

    #[test]
    fn wheels_for_other_systems_are_refused() {
        let dir = folder();
        let file = |n: &str| write(dir.path().join(n), "x");
        fits("m", &file("m-1-py3-none-any.whl")).unwrap();
        fits("m", &file("m-1-cp311-cp311-linux_x86_64.whl")).unwrap();
        let error = fits("m", &file("m-1-cp311-cp311-macosx_11_0_arm64.whl")).unwrap_err();
        assert!(error.to_string().contains("macosx_11_0_arm64"));
    }
}
