//! Packages for nodes of this computer, fetched before the nodes start.
//!
//! Nodes in network namespaces have no route to an index. They share a folder
//! with the laptop, so the laptop lets uv install the lock once into a folder
//! that is thrown away: after that, all of it is in uv's cache beside the
//! environments, and the nodes install from there without asking anybody. Files
//! are linked, so it costs little more than the fetching itself.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use herdsman_wire::environment::id;

use super::copy::{Copy, EnvRequest};
use super::error::Error;
use super::index::{Index, Indexes};
use super::interpreter::Interpreter;
use super::uv::{Uv, failed};

/// Longest time for fetching all packages.
const FETCH: Duration = Duration::from_secs(20 * 60);

/// Name of the file that an agent leaves in a whole environment.
const RECORD: &str = "herdsman.json";

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
    fs_err::create_dir_all(root).map_err(Error::io(root))?;
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
