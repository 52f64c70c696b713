//! A drive with a label that holds a machine's first data: NoCloud's `cidata`,
//! OpenStack's `config-2`. It is read where it is mounted, or mounted for a moment,
//! read-only and to a folder that only root sees.
//!
//! The agent's service may not mount anything. Its unit runs this program before, as
//! [`SUBCOMMAND`] and with all of root's rights: that one copies the few files that are
//! of use into memory, where the service finds them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use herdsman_wire::{ApiError, Code};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{extract, nocloud, openstack};
use crate::files::{io_error, make_dir, read_limited, write_atomic};

/// File systems that such drives have.
const KINDS: [&str; 2] = ["iso9660", "vfat"];

/// The hidden subcommand of the agent's binary that copies drives.
pub const SUBCOMMAND: &str = "read-drives";
/// Where it puts what they hold, by label; only root sees it, and it is in memory.
const COPIES: &str = "run/herdsman-seed";

/// Runs [`SUBCOMMAND`] on this machine.
#[must_use]
pub fn main() -> ExitCode {
    match copy_all(Path::new("/")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("herdsman-agent: {e}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Copies what is of use on the drives of a machine, for [`Drive::labelled`] of one who
/// may not mount. Older copies are removed.
///
/// # Errors
/// For the last drive that cannot be read; the others are copied.
pub fn copy_all(root: &Path) -> Result<(), ApiError> {
    let copies = root.join(COPIES);
    match std::fs::remove_dir_all(&copies) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error("remove", &copies, &e)),
        _ => {}
    }
    let mut result = Ok(());
    let drives = nocloud::LABELS.map(|l| (l, nocloud::DRIVE.as_slice()));
    for (label, files) in drives
        .into_iter()
        .chain([(openstack::LABEL, openstack::DRIVE.as_slice())])
    {
        if let Err(e) = copy(root, label, files, &copies.join(label)) {
            result = Err(e);
        }
    }
    result
}

fn copy(root: &Path, label: &str, files: &[&str], to: &Path) -> Result<(), ApiError> {
    let Some(drive) = Drive::labelled(root, &[label])? else {
        return Ok(());
    };
    make_dir(to)?;
    for file in files {
        if let Some(content) = drive.file(file)? {
            let to = to.join(file);
            make_dir(to.parent().unwrap_or(&to))?;
            write_atomic(&to, &content)?;
        }
    }
    Ok(())
}

/// A drive whose files can be read.
#[derive(Debug)]
pub struct Drive {
    folder: PathBuf,
    ours: bool,
}

impl Drive {
    /// The drive with one of these labels, below a root folder, `/` on a real
    /// machine; `None` when there is none.
    ///
    /// # Errors
    /// When there is one and it cannot be mounted.
    pub fn labelled(root: &Path, labels: &[&str]) -> Result<Option<Self>, ApiError> {
        let device = |label: &&&str| std::fs::canonicalize(root.join("dev/disk/by-label").join(label)).ok();
        let Some((label, device)) = labels.iter().find_map(|l| Some((*l, device(&l)?))) else {
            return Ok(None);
        };
        if let Some(folder) = mounted_at(&device) {
            return Ok(Some(Self { folder, ours: false }));
        }
        let folder = root.join(COPIES).join(label);
        if folder.is_dir() {
            return Ok(Some(Self { folder, ours: false }));
        }
        let folder = root.join(format!("run/herdsman-seed.{}", std::process::id()));
        make_dir(&folder)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        let mut why = nix::Error::ENODEV;
        for kind in KINDS {
            match mount(Some(&device), &folder, Some(kind), flags, None::<&str>) {
                Ok(()) => return Ok(Some(Self { folder, ours: true })),
                // The other kind says EINVAL.
                Err(nix::Error::EINVAL) => {}
                Err(e) => why = e,
            }
        }
        let _ = std::fs::remove_dir(&folder);
        Err(ApiError::new(
            Code::Provider,
            format!("cannot mount {}: {why}", device.display()),
        ))
    }

    /// A file of the drive.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>, ApiError> {
        read_limited(&self.folder.join(path), extract::LARGEST)
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let gone = umount2(&self.folder, MntFlags::MNT_DETACH)
            .map_err(std::io::Error::from)
            .and_then(|()| std::fs::remove_dir(&self.folder));
        if let Err(e) = gone {
            tracing::warn!("{}", io_error("unmount", &self.folder, &e).message);
        }
    }
}

/// Where a device is mounted already.
fn mounted_at(device: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|l| l.split(' '));
    fields.find_map(|mut f| {
        let is_it = std::fs::canonicalize(f.next()?).is_ok_and(|d| d == device);
        // Blanks in folders are written as \040; such a folder is not ours to guess.
        f.next().filter(|at| is_it && !at.contains('\\')).map(PathBuf::from)
    })
}
