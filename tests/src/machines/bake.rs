//! Images as `scripts/bake-image` makes them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::cluster::static_agent;
use super::disk;
use crate::environment::uv;
use crate::home::Ran;

/// The script, with the agent and the uv of this run.
///
/// # Errors
/// When they are missing.
pub fn command(args: &[&str]) -> Result<Command> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/bake-image");
    let mut command = Command::new(script);
    command
        .args(args)
        .arg("--agent")
        .arg(static_agent()?)
        .arg("--uv")
        .arg(uv()?)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// A copy of the stock tree in `folder`, which `prepare` may spoil before it is
/// baked with further arguments of the script's. The stock tree stays as it is.
///
/// # Errors
/// With the script's output.
pub fn bake(folder: &Path, args: &[&str], prepare: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let tree = folder.join("baked");
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(disk::built("root")?).arg(&tree);
    ensure!(copy.status()?.success(), "the stock tree could not be copied");
    prepare(&tree)?;
    let mut command = command(args)?;
    let ran: Ran = command.arg("--root").arg(&tree).output()?.into();
    ensure!(
        ran.code == 0,
        "bake-image ended with {}\n{}{}",
        ran.code,
        ran.out,
        ran.err
    );
    Ok(tree)
}

/// What `herdsman-agent install --root` adds to an image, as a tree in `folder`.
///
/// # Errors
/// With what it said.
pub fn installed(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("installed");
    let etc = tree.join("etc");
    std::fs::create_dir_all(&etc)?;
    for file in ["passwd", "group", "shadow", "gshadow"] {
        let from = disk::built("root")?.join("etc").join(file);
        if from.is_file() {
            let done = Command::new("cp").arg("-a").arg(from).arg(&etc).status()?;
            ensure!(done.success(), "cannot copy {file}");
        }
    }
    let ran: Ran = Command::new(static_agent()?)
        .args(["install", "--root"])
        .arg(&tree)
        .output()?
        .into();
    ensure!(ran.code == 0, "{ran:?}");
    Ok(tree)
}
