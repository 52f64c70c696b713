//! What tests of failures need: agents that misbehave, environments that lie,
//! disks that are full, and the blows that are dealt to a running cluster.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::home::{Home, Ran, program};

/// A failure that has a cause must be told by its cause, long before the
/// deadline of a start (5 minutes). Generous, as the machine may be busy.
pub const SOON: Duration = Duration::from_secs(60);

/// Writes an executable file.
///
/// # Errors
/// When it cannot be written.
pub fn script(path: &Path, text: &str) -> Result<PathBuf> {
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

/// An agent whose `run` does something else first: `$AGENT` is the real one, `$@`
/// its arguments. The keeper is always the real one.
///
/// # Errors
/// When it cannot be written.
pub fn strange_agent(home: &Home, run: &str) -> Result<PathBuf> {
    let text = format!(
        "#!/bin/sh\nAGENT={}\nHOME_OF_TEST={}\nif [ \"$1\" = run ]; then\n{run}\nfi\nexec \"$AGENT\" \"$@\"\n",
        program("herdsman-agent")?.display(),
        home.path().display()
    );
    script(&home.path().join("agent.sh"), &text)
}

/// The part of a [`strange_agent`] that takes a port of the scheduler's node
/// before the agent does, and holds it until the node ends.
#[must_use]
pub fn takes_port(port: u16) -> String {
    format!(
        r#"case "$*" in *-scheduler/*)
  if [ ! -e "$HOME_OF_TEST/bound" ]; then
    python3 -c '
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", {port}))
s.listen()
open(sys.argv[1], "w")
time.sleep(600)' "$HOME_OF_TEST/bound" &
    while [ ! -e "$HOME_OF_TEST/bound" ]; do sleep 0.02; done
  fi
esac"#
    )
}

/// A virtual environment that by its files holds dask and distributed of the
/// given version, and whose interpreter is another one.
///
/// # Errors
/// When it cannot be made.
pub fn lying_environment(home: &Home, interpreter: &str, version: &str) -> Result<PathBuf> {
    let folder = home.path().join("venv");
    let python = python_version(home)?;
    let (minor, _) = python.rsplit_once('.').context("no version")?;
    let packages = folder.join(format!("lib/python{minor}/site-packages"));
    for name in ["dask", "distributed"] {
        std::fs::create_dir_all(packages.join(format!("{name}-{version}.dist-info")))?;
    }
    std::fs::create_dir_all(folder.join("bin"))?;
    std::fs::write(
        folder.join("pyvenv.cfg"),
        format!("home = /usr/bin\nversion = {python}\n"),
    )?;
    script(
        &folder.join("bin/python"),
        &format!("#!/bin/sh\nexec {interpreter} \"$@\"\n"),
    )?;
    Ok(folder)
}

fn python_version(home: &Home) -> Result<String> {
    let code = "import platform; print(platform.python_version())";
    let out = Command::new(home.python()).args(["-c", code]).output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// An interpreter without dask: the test's own without its packages.
#[must_use]
pub fn bare(home: &Home) -> String {
    format!("{} -S", home.python().display())
}

/// Runs a command that is to fail: wants this exit code, the error's code and all
/// of these words on stderr, and all of that soon.
///
/// # Errors
/// When it does not.
pub fn fails(mut command: Command, exit: i32, code: &str, words: &[&str]) -> Result<Ran> {
    let started = Instant::now();
    let ran: Ran = command.output()?.into();
    let took = started.elapsed();
    ensure!(
        ran.code == exit && ran.err.contains(&format!("error[{code}]: ")),
        "wanted exit {exit} and {code}: {ran:?}"
    );
    for word in words {
        ensure!(ran.err.contains(word), "`{word}` is not told: {ran:?}");
    }
    ensure!(ran.err.contains("try: "), "nothing to try: {ran:?}");
    ensure!(!ran.err.contains("panicked"), "{ran:?}");
    ensure!(took < SOON, "only after {took:?}: {ran:?}");
    Ok(ran)
}

/// What `up` says when it has cleaned up behind itself.
pub const DELETED: &str = "done: what was created has been deleted";

/// The agents of a node: normally one.
#[must_use]
pub fn agents(home: &Home, node: &str) -> Vec<i32> {
    let wanted = format!("/{node}/join.json");
    let all = home.processes().into_iter();
    all.filter(|(_, line)| line.contains(" run ") && line.contains(&wanted))
        .map(|(pid, _)| pid)
        .collect()
}

/// SIGKILL. Whether it was there.
#[must_use]
pub fn strike(pid: i32) -> bool {
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

/// Folders of a node, of whatever cluster of this home: below it are the console
/// and the agent's state.
#[must_use]
pub fn folders(home: &Home, node: &str) -> Vec<PathBuf> {
    let clusters = std::fs::read_dir(home.path().join("s/local")).into_iter().flatten();
    clusters
        .flatten()
        .map(|c| c.path().join(node))
        .filter(|d| d.is_dir())
        .collect()
}

/// Files of this name below a folder.
#[must_use]
pub fn find(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(find(&path, name));
        } else if path.file_name().is_some_and(|n| n == name) {
            found.push(path);
        }
    }
    found
}

/// Namespaces of nodes with this name, of any home; tests give their clusters
/// names that nobody else uses.
///
/// # Errors
/// With the names of those that are left.
pub fn assert_no_namespace(cluster: &str) -> Result<()> {
    let all = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = all
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.contains(&format!("-{cluster}-")))
        .collect();
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    Ok(())
}

/// A small file system in the place of a home's state folder, until it is dropped.
#[derive(Debug)]
pub struct SmallDisk<'a> {
    home: &'a Home,
    at: PathBuf,
}

impl<'a> SmallDisk<'a> {
    /// Mounts it; needs root.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(home: &'a Home, options: &str) -> Result<Self> {
        let at = home.path().join("s");
        std::fs::create_dir_all(&at)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "herdsman-test"])
            .arg(&at)
            .status()?;
        ensure!(status.success(), "cannot mount a tmpfs at {}", at.display());
        Ok(Self { home, at })
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = self.home.run(&["down", "--all", "-y", "-q"]);
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
