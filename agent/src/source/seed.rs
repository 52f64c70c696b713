//! A drive with a label that holds a machine's first data: NoCloud's `cidata`,
//! OpenStack's `config-2`. It is read where it is mounted, or mounted for a moment,
//! read-only and to a folder that only root sees.

use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, Code};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::extract;
use crate::files::{io_error, make_dir, read_limited};

/// File systems that such drives have.
const KINDS: [&str; 2] = ["iso9660", "vfat"];

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
        let links = labels.iter().map(|l| root.join("dev/disk/by-label").join(l));
        let Some(device) = links.filter_map(|l| std::fs::canonicalize(l).ok()).next() else {
            return Ok(None);
        };
        if let Some(folder) = mounted_at(&device) {
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
