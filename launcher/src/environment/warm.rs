//! Packages for nodes of this computer, fetched before the nodes start.
//!
//! Nodes in network namespaces have no route to an index. They share a folder
//! with the laptop, so the laptop lets uv install the lock once into a folder
//! that is thrown away: after that, all of it is in uv's cache beside the
//! environments, and the nodes install from there without asking anybody. Files
//! are linked, so it costs little more than the fetching itself.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use herdsman_wire::environment::{id, is_sha256};

use super::copy::{Copy, EnvRequest};
use super::error::Error;
use super::index::{Index, Indexes};
use super::interpreter::Interpreter;
use super::uv::{Uv, failed};

/// Longest time for fetching all packages.
const FETCH: Duration = Duration::from_secs(20 * 60);

/// Name of the file that an agent leaves in a whole environment.
const RECORD: &str = "herdsman.json";

/// What nobody used for this long may go; longer than any step of ours takes.
const UNUSED: Duration = Duration::from_secs(30 * 60);

/// Fetches what `copy` locks into uv's cache below `root`, the folder of
/// environments; `false` where nothing was left to do.
///
/// # Errors
/// uv's last lines, or what the file system says.
pub async fn warm(
    copy: &Copy,
    settings: &EnvRequest,
    python: &Interpreter,
    root: &Path,
    progress: impl Fn(&str),
) -> Result<bool, Error> {
    fs_err::create_dir_all(root).map_err(Error::io(root))?;
    sweep(root, &copy.id);
    if root.join(&copy.id).join(RECORD).is_file() {
        return Ok(false);
    }
    if copy.manifest.lock.is_empty() {
        return Ok(false);
    }
    let cache = root.join(".cache");
    // Goes with the cache, so a cache that was emptied is filled again.
    let what = format!("{}\n{}", copy.manifest.indexes.join("\n"), copy.manifest.lock);
    let mark = cache.join(format!("herdsman-{}", id(what.as_bytes())));
    if mark.is_file() {
        return Ok(false);
    }
    let mut variables = settings.variables.clone();
    variables.insert("UV_CACHE_DIR".to_owned(), cache.into());
    let uv = Uv::new(python, &variables)?;
    // In the same file system as the cache, or nothing could be linked.
    let folder = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(root)
        .map_err(Error::io(root))?;
    let lock = folder.path().join("requirements.txt");
    fs_err::write(&lock, &copy.manifest.lock).map_err(Error::io(&lock))?;
    let target = folder.path().join("packages");
    let mut args: Vec<&OsStr> = ["pip", "install", "--no-deps", "--require-hashes", "--no-build"]
        .map(OsStr::new)
        .to_vec();
    args.extend([
        OsStr::new("--no-python-downloads"),
        OsStr::new("--python"),
        python.executable.as_os_str(),
        OsStr::new("--target"),
        target.as_os_str(),
        OsStr::new("-r"),
        lock.as_os_str(),
    ]);
    let list = copy.manifest.indexes.iter();
    let indexes = Indexes {
        list: list
            .map(|url| Index {
                name: None,
                url: url.clone(),
            })
            .collect(),
        credentials: copy.credentials.clone(),
    };
    progress(&format!(
        "fetching {} packages",
        copy.manifest.lock.matches("==").count()
    ));
    let ended = uv
        .run("fetching the packages", &args, &indexes, folder.path(), FETCH)
        .await?;
    if ended.code == Some(0) {
        fs_err::write(&mark, "").map_err(Error::io(&mark))?;
        return Ok(true);
    }
    Err(failed(
        "fetching the packages",
        &ended.stderr,
        ["check that the package index can be reached from here, and `env.indexes`".to_owned()],
    ))
}

/// Removes environments that no node holds and none was started with lately:
/// each change of the project's code makes a new one. What cannot be removed now
/// is tried again by the next `up`.
fn sweep(root: &Path, keep: &str) {
    for entry in fs_err::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("fetch-") && is_old(&path) {
            // Of a launcher that was killed.
            let _ = fs_err::remove_dir_all(&path);
        }
        if !is_sha256(&name) || name == keep {
            continue;
        }
        // Agents hold this file as long as they run; one that starts again in
        // this very moment makes its environment anew.
        let mark = root.join(format!("{name}.use"));
        let Ok(file) = File::open(&mark) else { continue };
        if !is_old(&mark) {
            continue;
        }
        match file.try_lock() {
            Ok(()) => drop(fs_err::remove_dir_all(&path)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs_err::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|m| m.elapsed().is_ok_and(|age| age > UNUSED))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{folder, write};
    use super::*;

    #[test]
    fn what_nobody_holds_goes_after_a_while() {
        let dir = folder();
        let root = dir.path();
        let old = std::time::SystemTime::now() - 2 * UNUSED;
        let ids = ["free", "held", "fresh", "kept", "unmarked"].map(|n| id(n.as_bytes()));
        for (n, id) in ids.iter().enumerate() {
            write(root.join(id).join(RECORD), "{}");
            if n < 4 {
                let mark = write(root.join(format!("{id}.use")), "");
                if n != 2 {
                    File::options()
                        .write(true)
                        .open(mark)
                        .unwrap()
                        .set_modified(old)
                        .unwrap();
                }
            }
        }
        let held = File::open(root.join(format!("{}.use", ids[1]))).unwrap();
        held.lock_shared().unwrap();
        sweep(root, &ids[3]);
        let there: Vec<bool> = ids.iter().map(|id| root.join(id).exists()).collect();
        assert_eq!(there, [false, true, true, true, true]);
        drop(held);
        sweep(root, &ids[3]);
        assert!(!root.join(&ids[1]).exists());
    }
}
