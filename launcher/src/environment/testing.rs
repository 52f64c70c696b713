//! Fake Python installations for the tests of this module.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::interpreter::Variables;

/// A folder that is deleted at the end of a test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: impl AsRef<Path>, text: &str) -> PathBuf {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    path.to_owned()
}

/// Writes an executable file.
pub(crate) fn program(path: impl AsRef<Path>, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = write(path, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Variables from pairs.
pub(crate) fn env(pairs: &[(&str, &Path)]) -> Variables {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect()
}

/// A virtual environment of Python 3.11.7 as `venv` makes it; returns its
/// `site-packages`.
pub(crate) fn venv(root: &Path) -> PathBuf {
    write(
        root.join("pyvenv.cfg"),
        "home = /opt/python/bin\ninclude-system-site-packages = false\nversion = 3.11.7\n",
    );
    program(root.join("bin/python"), "\x7fELF");
    let packages = root.join("lib/python3.11/site-packages");
    std::fs::create_dir_all(&packages).unwrap();
    packages
}

/// Adds a distribution's metadata.
pub(crate) fn dist(packages: &Path, name: &str, version: &str, files: &[(&str, &str)]) {
    let folder = packages.join(format!("{}-{version}.dist-info", name.replace('-', "_")));
    write(
        folder.join("METADATA"),
        &format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
    );
    for (file, text) in files {
        write(folder.join(file), text);
    }
}

pub(crate) mod index;
