//! What Dask's process needs on disk, and who may read it.
//!
//! Where Dask has a user of its own, the agent's folders are made passable, but
//! not listable, for it: the files that are not Dask's are 0600.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use herdsman_wire::ApiError;
use herdsman_wire::spec::DaskSecurity;

use super::command_line::{Start, guard_file};
use super::spec::User;
use crate::files::{io_error, make_dir, write_mode};
use crate::identity::TlsFiles;

/// The guard that travels in this binary.
pub const GUARD: &str = include_str!("herdsman_guard.py");

/// Writes the guard, readable for all: it holds no secret.
///
/// # Errors
/// As the file system says.
pub fn write_guard(run: &Path) -> Result<PathBuf, ApiError> {
    let path = guard_file(run);
    if let Some(folder) = path.parent() {
        make_dir(folder)?;
        set_mode(folder, 0o755)?;
    }
    write_mode(&path, GUARD.as_bytes(), 0o644)?;
    set_mode(&path, 0o644)?;
    Ok(path)
}

/// Makes folders, writes the guard and gives Dask's user what it must read. To be
/// called before every start; it may be called again at any time.
///
/// # Errors
/// As the file system says.
pub fn prepare(start: &Start<'_>) -> Result<(), ApiError> {
    make_dir(start.state)?;
    make_dir(start.run)?;
    write_guard(start.run)?;
    if let Some(logs) = start.output().parent() {
        make_dir(logs)?;
    }
    let scratch = start.scratch();
    make_dir(&scratch)?;
    set_mode(&scratch, 0o700)?;
    let Some(user) = &start.user else { return Ok(()) };
    give(&scratch, user)?;
    let temporary = start.temporary();
    make_dir(&temporary)?;
    give(&temporary, user)?;
    for folder in [start.state, start.run] {
        set_mode(folder, 0o711)?;
    }
    if matches!(start.spec.security, DaskSecurity::None) {
        return Ok(());
    }
    share_tls(start.tls, user)
}

/// Gives Dask's user its certificate, roots and CRLs. To be called again after
/// they were replaced, before the guard is told to load them.
///
/// # Errors
/// As the file system says; files that are not there are passed over.
pub fn share_tls(tls: &TlsFiles, user: &User) -> Result<(), ApiError> {
    if let Some(folder) = tls.certificate.parent() {
        set_mode(folder, 0o711)?;
    }
    for file in [&tls.certificate, &tls.ca, &tls.crl] {
        if file.is_file() {
            give(file, user)?;
        }
    }
    Ok(())
}

fn give(path: &Path, user: &User) -> Result<(), ApiError> {
    chown(path, Some(user.uid), Some(user.gid)).map_err(|e| io_error("change the owner of", path, &e))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ApiError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| io_error("change the mode of", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_written_for_all_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_guard(dir.path()).unwrap();
        write_guard(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), GUARD);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn tls_files_become_dasks() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let tls = TlsFiles {
            certificate: dir.path().join("dask.pem"),
            ca: dir.path().join("ca.pem"),
            crl: dir.path().join("crl.pem"),
        };
        std::fs::write(&tls.certificate, "x").unwrap();
        let own = nix::unistd::geteuid();
        let uid = if own.is_root() { 4711 } else { own.as_raw() };
        let gid = if own.is_root() {
            4711
        } else {
            nix::unistd::getegid().as_raw()
        };
        let user = User {
            uid,
            gid,
            groups: vec![],
        };
        share_tls(&tls, &user).unwrap();
        assert_eq!(std::fs::metadata(&tls.certificate).unwrap().uid(), uid);
    }
}
