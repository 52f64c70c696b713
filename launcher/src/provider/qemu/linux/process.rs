//! Which processes are machines of ours: those that say on their command line that
//! they keep the pid file of one. QEMU leaves its command line as it was given.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use herdsman_wire::{ClusterId, NodeName};
use rustix::process::Signal;

use super::super::super::local::linux::process;
use super::args::PID_FILE;

/// QEMU ends within milliseconds; the rest is for busy computers.
const GRACE: Duration = Duration::from_secs(5);
/// After a signal that cannot be refused.
const AT_LAST: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Machines that run below a folder: number and start of their process.
pub(super) type Running = BTreeMap<(ClusterId, NodeName), Vec<(i32, u64)>>;

/// Looks at all processes.
pub(super) fn running(base: &Path) -> Running {
    let mut found = Running::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Some(start) = process::alive_since(pid) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if let Some(key) = pid_file(&line).and_then(|file| owner(base, &file)) {
            found.entry(key).or_default().push((pid, start));
        }
    }
    found
}

/// The pid file that a command line names; only QEMU's counts, as an editor may
/// well have the same path on its own.
fn pid_file(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|b| *b == 0);
    let program = Path::new(OsStr::from_bytes(words.next()?)).file_name()?;
    if !program.as_bytes().starts_with(b"qemu-system-") {
        return None;
    }
    words.find(|w| *w == PID_FILE.as_bytes())?;
    Some(OsString::from_vec(words.next()?.to_vec()).into())
}

/// `<base>/<cluster>/<node>/pid`.
fn owner(base: &Path, file: &Path) -> Option<(ClusterId, NodeName)> {
    let mut parts = file.strip_prefix(base).ok()?.components();
    let mut part = || parts.next()?.as_os_str().to_str();
    let key = (part()?.parse().ok()?, part()?.parse().ok()?);
    (part() == Some("pid") && part().is_none()).then_some(key)
}

/// Ends processes; blocks until they are gone.
pub(super) fn end(processes: &[(i32, u64)]) -> Result<(), String> {
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, AT_LAST)] {
        for (pid, start) in processes {
            process::signal(*pid, *start, signal).map_err(|e| format!("process {pid} cannot be ended: {e}"))?;
        }
        let until = Instant::now() + patience;
        loop {
            if processes
                .iter()
                .all(|(pid, start)| process::alive_since(*pid) != Some(*start))
            {
                return Ok(());
            }
            if Instant::now() >= until {
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
    Err("its process does not end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_known_by_their_whole_command_line() {
        let base = Path::new("/s/qemu");
        let line = |text: &str| text.replace(' ', "\0").into_bytes();
        let of = |text: &str| pid_file(&line(text)).and_then(|f| owner(base, &f));
        let (id, node) = of("/usr/bin/qemu-system-x86_64 -m 1 -pidfile /s/qemu/aaaaaaaaaa/demo-w0/pid ").unwrap();
        assert_eq!((id.as_str(), node.as_str()), ("aaaaaaaaaa", "demo-w0"));
        for other in [
            "vi -pidfile /s/qemu/aaaaaaaaaa/demo-w0/pid",
            "qemu-system-x86_64 -pidfile /t/qemu/aaaaaaaaaa/demo-w0/pid",
            "qemu-system-x86_64 -pidfile /s/qemu/aaaaaaaaaa/demo-w0/other",
            "qemu-system-x86_64 -pidfile /s/qemu/aaaaaaaaaa/pid",
            "qemu-system-x86_64 -pidfile",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_is_ended_and_another_of_its_number_is_not() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = process::alive_since(pid).unwrap();
        end(&[(pid, start + 1)]).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        let ended = std::thread::spawn(move || end(&[(pid, start)]));
        child.wait().unwrap();
        ended.join().unwrap().unwrap();
    }
}
