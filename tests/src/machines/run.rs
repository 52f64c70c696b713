//! What one run of the test program owns on this machine, so that its leftovers
//! can be told from what belongs to others.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{cgroup, network};

/// One file a run, named by its process id, locked as long as the run lives; it
/// holds the path of the run's folder.
const LOCKS: &str = "/run/herdsman-tests";

static CURRENT: Mutex<Weak<Run>> = Mutex::new(Weak::new());
/// Whether a run of this process is there, or is being taken down: nobody can have
/// it any more then, and its lock is not free yet.
static HELD: AtomicBool = AtomicBool::new(false);
/// How long a run's end may take.
const END: Duration = Duration::from_secs(120);

/// This run, as long as something of it is there.
#[derive(Debug)]
pub struct Run {
    id: String,
    folder: PathBuf,
    lock: File,
    made: AtomicUsize,
}

impl Run {
    /// This process's run; the first call removes what killed runs left.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn current() -> Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = current.upgrade() {
            return Ok(run);
        }
        let started = Instant::now();
        while HELD.load(Ordering::Acquire) {
            ensure!(started.elapsed() < END, "the last test's run does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::create_dir_all(LOCKS)?;
        sweep();
        let run = Arc::new(Self::new()?);
        *current = Arc::downgrade(&run);
        Ok(run)
    }

    fn new() -> Result<Self> {
        let id = std::process::id().to_string();
        let folder = super::disk::cache()?.join("run").join(&id);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(Path::new(LOCKS).join(&id))?;
        lock.try_lock().context("another run has this process id")?;
        lock.set_len(0)?;
        lock.write_all(folder.to_string_lossy().as_bytes())?;
        std::fs::create_dir_all(&folder)?;
        HELD.store(true, Ordering::Release);
        Ok(Self {
            id,
            folder,
            lock,
            made: AtomicUsize::new(0),
        })
    }

    /// Where machines have their disks.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A number that nothing else in this run has.
    #[must_use]
    pub fn next(&self) -> usize {
        self.made.fetch_add(1, Ordering::Relaxed)
    }

    /// What the names of its namespaces begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        prefix(&self.id)
    }

    /// The name of its control groups' folder.
    #[must_use]
    pub fn group(&self) -> String {
        group(&self.id)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.id, &self.folder);
        let _ = std::fs::remove_file(Path::new(LOCKS).join(&self.id));
        let _ = self.lock.unlock();
        HELD.store(false, Ordering::Release);
    }
}

fn prefix(id: &str) -> String {
    format!("hmt{id}-")
}

fn group(id: &str) -> String {
    format!("herdsman-tests-{id}")
}

/// Processes first: what holds a folder or a namespace is gone then.
fn remove(id: &str, folder: &Path) {
    cgroup::remove(&group(id));
    network::remove_all(&prefix(id));
    let _ = std::fs::remove_dir_all(folder);
    if let Some(parent) = folder.parent() {
        // Only if it was the last one.
        let _ = std::fs::remove_dir(parent);
    }
}

/// Removes what runs left that were killed: their lock is free. The first
/// [`Run::current`] of a program does it too.
pub fn sweep() {
    for entry in std::fs::read_dir(LOCKS).into_iter().flatten().flatten() {
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(entry.path()) else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        if !ours || file.try_lock().is_err() {
            continue;
        }
        let mut folder = String::new();
        if file.rewind().is_err() || file.read_to_string(&mut folder).is_err() {
            continue;
        }
        // Never a folder that the fixture cannot have made.
        if folder.ends_with(&format!("/run/{name}")) {
            remove(&name, Path::new(&folder));
        }
        let _ = std::fs::remove_file(entry.path());
    }
}
