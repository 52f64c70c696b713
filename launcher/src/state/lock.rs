//! One command at a time for a cluster.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use herdsman_wire::{ApiError, ClusterName, Code};

/// A program that this process is about to start holds all our files for a
/// moment, a lock that we have let go of among them. So a lock that seems to be
/// our own is waited for.
const OWN_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);

fn own() -> String {
    format!("(process {})", std::process::id())
}

/// A cluster held by this process; let go when dropped, or when the process ends
/// in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path, name: &ClusterName, verb: &str) -> Result<Self, ApiError> {
        let broken = |e: std::io::Error| ApiError::new(Code::Disk, format!("cannot lock {}: {e}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(broken)?;
        let until = Instant::now() + OWN_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(broken(e)),
            }
            let mut holder = String::new();
            // On some systems a locked file cannot be read; then it stays unnamed.
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
            if holder.ends_with(&own()) && Instant::now() < until {
                std::thread::sleep(LOOK);
                continue;
            }
            let holder: String = holder.chars().filter(|c| !c.is_control()).take(80).collect();
            let holder = if holder.is_empty() {
                "another command".into()
            } else {
                holder
            };
            return Err(
                ApiError::new(Code::Conflict, format!("{holder} is at work on `{name}`"))
                    .with_hint("wait until it is done, or end it; then run the command again"),
            );
        }
        let text = format!("`herdsman {verb}` {}", own());
        // Only for the message of others: a failure is no reason to stop.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()));
        Ok(Self { _file: file })
    }
}
