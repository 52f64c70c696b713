//! Locks between commands: a folder is locked itself, so that no file of a lock
//! is ever left behind. The kernel gives a lock up when its holder dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use herdsman_wire::Code;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::super::ProviderError;
use super::{disk, fail, record};

/// Longer than the longest work under a lock, which is a delete of nodes that do
/// not end when told.
const DEADLINE: Duration = Duration::from_secs(45);
/// How often a lock that another holds is tried again.
const LOOK: Duration = Duration::from_millis(3);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Flock<File>,
}

/// Locks a folder, which is made where it is missing. Blocks the thread for as
/// long as another command holds it.
pub(super) fn take(dir: &Path) -> Result<Lock, ProviderError> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        record::make_dir(dir).map_err(disk(dir))?;
        if let Some(lock) = try_once(dir, deadline)? {
            return Ok(lock);
        }
    }
}

/// Locks a folder if it is there.
pub(super) fn take_existing(dir: &Path) -> Result<Option<Lock>, ProviderError> {
    let deadline = Instant::now() + DEADLINE;
    while dir.is_dir() {
        if let Some(lock) = try_once(dir, deadline)? {
            return Ok(Some(lock));
        }
    }
    Ok(None)
}

/// `None`: the folder was removed before its lock came to us.
fn try_once(dir: &Path, deadline: Instant) -> Result<Option<Lock>, ProviderError> {
    let mut file = match File::open(dir) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(disk(dir)(e)),
    };
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => {
                let same = same_folder(&held, dir).map_err(disk(dir))?;
                return Ok(same.then_some(Lock { _held: held }));
            }
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(LOOK);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(ProviderError {
                    retryable: true,
                    ..fail(
                        Code::Conflict,
                        format!("another herdsman is still at work in {}", dir.display()),
                    )
                });
            }
            Err((_, e)) => return Err(disk(dir)(e.into())),
        }
    }
}

/// A folder may be removed, and even made again, while its lock is waited for.
fn same_folder(held: &File, dir: &Path) -> io::Result<bool> {
    let ours = held.metadata()?;
    match fs::metadata(dir) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_next_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = take(&path).unwrap();
        let waiting = std::thread::spawn(move || take(&path).unwrap());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().unwrap();
    }

    #[test]
    fn a_removed_folder_is_locked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let first = take(&path).unwrap();
        let other = path.clone();
        let waiting = std::thread::spawn(move || take(&other).unwrap());
        std::thread::sleep(Duration::from_millis(30));
        fs::remove_dir(&path).unwrap();
        drop(first);
        let second = waiting.join().unwrap();
        assert!(path.is_dir());
        drop(second);
        fs::remove_dir(&path).unwrap();
        assert!(take_existing(&path).unwrap().is_none());
    }
}
