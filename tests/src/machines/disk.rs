//! The cached root file system, and a machine's own layer over it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

/// The workspace.
fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")
}

/// Where the root file system is kept.
///
/// # Errors
/// When there is no workspace.
pub fn cache() -> Result<PathBuf> {
    Ok(match std::env::var_os("HERDSMAN_MACHINE_DIR") {
        Some(folder) => folder.into(),
        None => workspace()?.join("target/machine"),
    })
}

/// What `scripts/build-machine WHAT` prints; it builds what is not there.
///
/// # Errors
/// With the last words of the script.
pub fn built(what: &'static str) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<(&'static str, PathBuf)>> = Mutex::new(Vec::new());
    let mut all = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, path)) = all.iter().find(|(w, _)| *w == what) {
        return Ok(path.clone());
    }
    let out = Command::new(workspace()?.join("scripts/build-machine"))
        .arg(what)
        .output()?;
    ensure!(
        out.status.success(),
        "scripts/build-machine {what}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let path = PathBuf::from(String::from_utf8(out.stdout)?.trim());
    ensure!(
        path.is_dir(),
        "scripts/build-machine gave no folder: {}",
        path.display()
    );
    all.push((what, path.clone()));
    Ok(path)
}

/// A machine's layer: what it has written, kept over its reboots and power-offs.
#[derive(Debug)]
pub struct Layer {
    folder: PathBuf,
    lower: PathBuf,
    size: Option<u64>,
}

impl Layer {
    /// An empty layer in `folder`, over the tree `lower`. With a `size` (bytes) it is
    /// in memory and holds no more, and is lost at power-off.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path, lower: &Path, size: Option<u64>) -> Result<Self> {
        for name in ["layer/upper", "layer/work", "root"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            lower: lower.to_owned(),
            size,
        })
    }

    /// Where the machine's root is seen by who has mounted it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Shell commands that mount it, in a mount namespace of the caller's own, so
    /// that the mounts end with the machine.
    ///
    /// Overlays do not work on every file system (not on another overlay): memory is
    /// the second choice then.
    #[must_use]
    pub fn mount(&self) -> String {
        let layer = self.folder.join("layer");
        let (layer, lower, root) = (layer.display(), self.lower.display(), self.root());
        let root = root.display();
        let memory = |options: &str| {
            format!(
                "mount -t tmpfs -o mode=0755{options} herdsman-test '{layer}' && mkdir '{layer}/upper' '{layer}/work'"
            )
        };
        let overlay = format!(
            "mount -t overlay -o 'lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work' herdsman-test '{root}'"
        );
        match self.size {
            Some(bytes) => format!("{} && {overlay}", memory(&format!(",size={bytes}"))),
            None => format!("{overlay} 2>/dev/null || {{ {} && {overlay}; }}", memory("")),
        }
    }

    /// Writes a file into the layer, which must not be mounted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let at = self.folder.join("seed").join(path.trim_start_matches('/'));
        std::fs::create_dir_all(at.parent().context("a path without a folder")?)?;
        std::fs::write(&at, content).with_context(|| at.display().to_string())
    }

    /// Shell commands that put whole trees and the written files into the mounted
    /// root, at the first start only.
    #[must_use]
    pub fn fill(&self, trees: &[PathBuf]) -> String {
        let (seed, root) = (self.folder.join("seed"), self.root());
        let (seed, root) = (seed.display(), root.display());
        let trees: String = trees
            .iter()
            .map(|t| format!("cp -aT '{}' '{root}' && ", t.display()))
            .collect();
        format!("if [ -d '{seed}' ]; then {trees}cp -rT '{seed}' '{root}' && rm -rf '{seed}'; fi")
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
