//! A place in the test's network: a network namespace in which programs run and
//! sockets are opened.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// A network namespace by name. It is a name only: who made it takes it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
}

impl Place {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// The namespace's name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs here.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // Not `ip netns exec`: that mounts another /sys, without control groups.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.file().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Moves a command here: the same program, arguments, folder and environment.
    /// What it does with its standard streams has to be said again.
    #[must_use]
    pub fn moved(&self, command: &Command) -> Command {
        let mut moved = Command::new("nsenter");
        moved
            .arg(format!("--net={}", self.file().display()))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        // The caller's own variables were cleared where that mattered, which a
        // command does not tell; so only what it names is given.
        moved.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                moved.env(name, value);
            }
        }
        if let Some(folder) = command.get_current_dir() {
            moved.current_dir(folder);
        }
        moved
    }

    /// Runs a command of `ip` here and wants success.
    ///
    /// # Errors
    /// With what it said.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// Runs `work` on a thread of its own that stands here: sockets that it opens
    /// stay here, wherever they are used later.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `work` says.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.file()).with_context(|| self.file().display().to_string())?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Whether a program is installed.
#[must_use]
pub fn installed(program: &str) -> bool {
    let folders = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    folders.iter().any(|f| std::path::Path::new(f).join(program).exists())
}

/// Runs a command to its end and wants success.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}
