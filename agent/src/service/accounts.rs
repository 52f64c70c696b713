//! Users and groups as `/etc/passwd` and `/etc/group` have them: the agent reads
//! these files itself, for the C library would load plug-ins of the host.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use herdsman_wire::join::Paths;
use herdsman_wire::{ApiError, Code};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::dask::spec::User;
use crate::files::{io_error, read_limited, write_mode};

/// User and group that Dask runs as.
pub const DASK: &str = "dask";
/// Its home, for what programs keep between runs (caches of numba, matplotlib …).
pub const HOME: &str = "/var/lib/herdsman/home";
/// Nobody logs in with this.
const SHELL: &str = "/usr/sbin/nologin";
/// Largest account file that is read, bytes.
const LARGEST: usize = 4 << 20;
/// Ids of system users, as `useradd --system` gives them.
const SYSTEM_IDS: std::ops::RangeInclusive<u32> = 100..=999;

/// Whose rights Dask gets. On a machine of its own that is user `dask`; where the
/// node's folders are elsewhere, or the agent is not root, it is the agent's own.
///
/// # Errors
/// [`Code::Usage`] when the machine has no such user: as root Dask never runs.
pub fn for_dask(paths: &Paths) -> Result<Option<User>, ApiError> {
    if *paths != Paths::default() || !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let user = user(Path::new("/"))?;
    user.map(Some).ok_or_else(|| {
        ApiError::new(
            Code::Usage,
            format!("this machine has no user `{DASK}` for Dask to run as"),
        )
        .with_hint("herdsman-agent install          makes it")
    })
}

/// The user `dask` of the system at `root`.
fn user(root: &Path) -> Result<Option<User>, ApiError> {
    let (passwd, group) = (read(root, "passwd")?, read(root, "group")?);
    let Some(user) = find(&passwd, &group, DASK) else {
        return Ok(None);
    };
    if user.uid == 0 || user.gid == 0 {
        return Err(ApiError::new(
            Code::Usage,
            format!("the user `{DASK}` of this machine is root by another name"),
        ));
    }
    Ok(Some(user))
}

fn read(root: &Path, name: &str) -> Result<String, ApiError> {
    let bytes = read_limited(&root.join("etc").join(name), LARGEST)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A user with all its groups.
fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    let mut fields = passwd
        .lines()
        .map(|l| l.split(':'))
        .find_map(|mut f| (f.next() == Some(name)).then_some(f))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let groups = group.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let id: u32 = fields.next()?.parse().ok()?;
        let is_member = fields.next()?.split(',').any(|m| m == name);
        (is_member && id != gid && id != 0).then_some(id)
    });
    Some(User {
        uid,
        gid,
        groups: groups.collect(),
    })
}

/// Makes user and group `dask` where they are missing.
///
/// # Errors
/// When the system's own program refuses, or as the file system says.
pub fn ensure(root: &Path) -> Result<User, ApiError> {
    if let Some(user) = user(root)? {
        return Ok(user);
    }
    if root == Path::new("/")
        && useradd()
        && let Some(user) = user(root)?
    {
        return Ok(user);
    }
    append(root)?;
    user(root)?.ok_or_else(|| ApiError::new(Code::Internal, format!("the user `{DASK}` was made but is not there")))
}

/// The system's own way, which keeps its own files in step; where it is missing
/// or fails, lines are appended.
fn useradd() -> bool {
    Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home", "--home-dir", HOME])
        .args(["--shell", SHELL, "--comment", "Dask of herdsman", DASK])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn append(root: &Path) -> Result<(), ApiError> {
    let etc = root.join("etc");
    let lock_path = etc.join(".pwd.lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| io_error("open", &lock_path, &e))?;
    lock_whole(&lock).map_err(|e| {
        ApiError::new(
            Code::Conflict,
            format!("somebody else changes this machine's users: {e}"),
        )
    })?;
    let (passwd, group) = (read(root, "passwd")?, read(root, "group")?);
    let existing = group.lines().find_map(|l| {
        let mut f = l.split(':');
        (f.next() == Some(DASK)).then(|| f.nth(1)?.parse::<u32>().ok())?
    });
    let taken: Vec<u32> = [&passwd, &group]
        .iter()
        .flat_map(|text| text.lines().filter_map(|l| l.split(':').nth(2)?.parse().ok()))
        .collect();
    let free = || SYSTEM_IDS.rev().find(|id| !taken.contains(id));
    let uid = free().ok_or_else(|| ApiError::new(Code::Conflict, "all ids of system users are taken"))?;
    let gid = existing.unwrap_or(uid);
    if existing.is_none() {
        add_line(&etc.join("group"), &format!("{DASK}:x:{gid}:"), true)?;
        add_line(&etc.join("gshadow"), &format!("{DASK}:!::"), false)?;
    }
    // No password and no way to set one.
    add_line(&etc.join("shadow"), &format!("{DASK}:!*:1::::::"), false)?;
    // Last: whoever finds the user finds the rest as well.
    let line = format!("{DASK}:x:{uid}:{gid}:Dask of herdsman:{HOME}:{SHELL}");
    add_line(&etc.join("passwd"), &line, true)
}

/// The lock that `lckpwdf(3)` takes; a minute is more than any user's change.
fn lock_whole(file: &std::fs::File) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let mut left = 600;
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&whole)) {
            Err(nix::Error::EACCES | nix::Error::EAGAIN) if left > 0 => {
                left -= 1;
                std::thread::park_timeout(std::time::Duration::from_millis(100));
            }
            other => return other.map(|_| ()),
        }
    }
}

/// Adds a line to an account file, which keeps its mode and owner.
fn add_line(path: &Path, line: &str, make: bool) -> Result<(), ApiError> {
    let Some(mut text) = read_limited(path, LARGEST)? else {
        return if make {
            write_mode(path, format!("{line}\n").as_bytes(), 0o644)
        } else {
            Ok(())
        };
    };
    let name = line.split(':').next().unwrap_or_default();
    let already = text.split(|b| *b == b'\n').any(|l| {
        l.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b':'))
    });
    if already {
        return Ok(());
    }
    if text.last().is_some_and(|b| *b != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    let old = std::fs::metadata(path).map_err(|e| io_error("read", path, &e))?;
    write_mode(path, &text, old.mode() & 0o777)?;
    chown(path, Some(old.uid()), Some(old.gid())).map_err(|e| io_error("change the owner of", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:999:65534::/run/sshd:/x",
        )
        .unwrap();
        std::fs::write(
            etc.join("group"),
            "root:x:0:\nvideo:x:44:dask\nrender:x:998:other,dask\nx:x:997:dask2\n",
        )
        .unwrap();
        std::fs::write(etc.join("shadow"), "root:*:1::::::\n").unwrap();
        dir
    }

    #[test]
    fn the_user_is_made_once_with_free_ids() {
        let dir = image();
        let made = ensure(dir.path()).unwrap();
        assert_eq!((made.uid, made.gid), (996, 996), "999 to 997 are taken");
        assert_eq!(made.groups, [44, 998]);
        let passwd = std::fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
        assert!(passwd.contains("/x\ndask:x:996:996:"), "{passwd}");
        let shadow = std::fs::read_to_string(dir.path().join("etc/shadow")).unwrap();
        assert!(shadow.ends_with("dask:!*:1::::::\n"));
        assert_eq!(ensure(dir.path()).unwrap(), made);
        assert_eq!(std::fs::read_to_string(dir.path().join("etc/passwd")).unwrap(), passwd);
    }

    #[test]
    fn a_group_that_is_there_is_used() {
        let dir = image();
        let group = dir.path().join("etc/group");
        std::fs::write(&group, "dask:x:500:\n").unwrap();
        assert_eq!(ensure(dir.path()).unwrap().gid, 500);
        assert_eq!(std::fs::read_to_string(&group).unwrap(), "dask:x:500:\n");
    }

    #[test]
    fn root_by_another_name_is_refused() {
        let dir = image();
        std::fs::write(dir.path().join("etc/passwd"), "dask:x:0:100::/:/bin/sh\n").unwrap();
        assert_eq!(ensure(dir.path()).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_node_with_folders_elsewhere_runs_as_itself() {
        let paths = Paths {
            state: "/tmp/x".into(),
            ..Paths::default()
        };
        assert_eq!(for_dask(&paths).unwrap(), None);
    }
}
