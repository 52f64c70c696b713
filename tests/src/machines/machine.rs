//! A machine: a boot of Debian under systemd-nspawn.
//!
//! The chain of processes is `nsenter` → `unshare` → a shell that mounts the
//! disk and starts nspawn again for each reboot → nspawn → the machine's systemd. All
//! of them are in the machine's control group, whose end is the machine's end. The
//! mounts are in a namespace of theirs and end with them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disk::Layer;
use super::network::{BRIDGE, Network};
use super::place::Place;
use super::seed::{self, UserData};
use super::{cgroup, disk};
use crate::home::Ran;

/// How long a boot or a power-off may take; the machine under the tests may be busy.
pub const LONG: Duration = Duration::from_secs(120);
/// How long a command inside may take.
pub const SHORT: Duration = Duration::from_secs(30);

/// What nspawn ends with when the machine wants to be started again
/// (systemd-nspawn(1), with `--keep-unit`).
const REBOOT: u8 = 133;

/// How a machine is to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The tree that it boots from, which stays as it is; absent: stock Debian.
    pub tree: Option<PathBuf>,
    /// The disk's size in bytes. It is in memory then and lost at power-off, though
    /// not at a reboot.
    pub disk: Option<u64>,
    /// Files that the image has beside the stock ones: path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Folders whose content the image has, with owners and modes.
    pub trees: Vec<PathBuf>,
    /// Folders of this machine that it sees read-only: from, to.
    pub folders: Vec<(PathBuf, String)>,
}

/// A machine. Its drop is a cut of power, and the end of its disk.
#[derive(Debug)]
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    port: String,
    group: String,
    layer: Layer,
    setup: Setup,
    console: PathBuf,
    child: Option<Child>,
    network: Arc<Network>,
}

impl Machine {
    /// Boots stock Debian with this user-data; does not wait for anything.
    ///
    /// # Errors
    /// When the root file system cannot be made, or nspawn not be started.
    pub fn boot(network: &Arc<Network>, name: &str, address: Ipv4Addr, data: impl Into<UserData>) -> Result<Self> {
        Self::boot_with(network, name, address, data, Setup::default())
    }

    /// As [`Machine::boot`], of another machine than the usual one.
    ///
    /// # Errors
    /// As there.
    pub fn boot_with(
        network: &Arc<Network>,
        name: &str,
        address: Ipv4Addr,
        data: impl Into<UserData>,
        setup: Setup,
    ) -> Result<Self> {
        let lower = match &setup.tree {
            Some(tree) => tree.clone(),
            None => disk::built("root")?,
        };
        let run = network.run();
        let number = run.next();
        let folder = run.folder().join(format!("m{number}"));
        let layer = Layer::new(&folder, &lower, setup.disk)?;
        seed::plant(&layer, &format!("i-{number}"), name, address, &data.into())?;
        for (path, content) in &setup.files {
            layer.write(path, content)?;
        }
        let mut machine = Self {
            name: name.to_owned(),
            address,
            // nspawn calls the port of machine NAME vb-NAME, within 15 characters.
            port: format!("vb-m{number}"),
            group: format!("{}/m{number}", run.group()),
            console: folder.join("console"),
            layer,
            setup,
            child: None,
            network: Arc::clone(network),
        };
        machine.power_on()?;
        Ok(machine)
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of all that it has on this computer.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.console.parent().unwrap_or(&self.console)
    }

    /// Its control group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Whether its disk has a size of its own.
    pub(super) fn sized(&self) -> bool {
        self.setup.disk.is_some()
    }

    pub(super) fn port(&self) -> &str {
        &self.port
    }

    pub(super) fn bridge_side(&self) -> &Place {
        self.network.laptop()
    }

    /// Starts it again after [`Machine::power_off`] or [`Machine::pull_plug`].
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs", self.name);
        let entries = cgroup::make(&self.group)?;
        let machine = self.port.trim_start_matches("vb-");
        let mut nspawn = format!(
            "systemd-nspawn -q --register=no --keep-unit --boot --console=read-only --settings=no \
             --machine={machine} --hostname=debian --directory='{}' --network-bridge={BRIDGE} \
             --resolv-conf=off --timezone=off --link-journal=no",
            self.layer.root().display()
        );
        for (from, to) in &self.setup.folders {
            nspawn += &format!(" '--bind-ro={}:{to}'", from.display());
        }
        let enter: String = entries
            .iter()
            .map(|f| format!("echo $$ >'{}' || exit 1\n", f.display()))
            .collect();
        let script = format!(
            // A /run of its own: what nspawn keeps there ends with it.
            "{enter}mount -t tmpfs herdsman-test /run || exit 1\n{} || exit 1\n{} || exit 1\nwhile :; do\n{nspawn}\ncode=$?\n[ $code = {REBOOT} ] || exit $code\ndone\n",
            self.layer.mount(),
            self.layer.fill(&self.setup.trees),
        );
        let console = File::options().create(true).append(true).open(&self.console)?;
        let mut command = self.network.laptop().command("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            // Debian 12 has one hierarchy, whatever this machine has.
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .process_group(0);
        let mut child = command.spawn().context("nsenter")?;
        let started = Instant::now();
        while cgroup::members(&self.group).is_empty() {
            if child.try_wait()?.is_some() || started.elapsed() > SHORT {
                self.child = Some(child);
                self.pull_plug();
                bail!("{} does not start\n{}", self.name, self.console());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        Ok(())
    }

    /// What its console has shown since it was made, over all its boots.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// The machine's first process as this machine sees it, if it runs.
    #[must_use]
    pub fn leader(&self) -> Option<i32> {
        let all = cgroup::members(&self.group);
        all.into_iter().find(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
            ids.is_some_and(|l| l.split_whitespace().skip(1).eq(["1"]))
        })
    }

    /// A command that runs inside as root, in an environment as a login's. It is not
    /// bounded in time: see [`Machine::exec`].
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let leader = self
            .leader()
            .with_context(|| format!("{} does not run", self.name))?
            .to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &leader, "--all", "--root", "--wd", "--"])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a shell line inside as root, within [`SHORT`].
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn exec(&self, line: &str) -> Result<Ran> {
        self.exec_within(line, SHORT)
    }

    /// As [`Machine::exec`] with another deadline; exit code 124 says that it passed.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn exec_within(&self, line: &str, deadline: Duration) -> Result<Ran> {
        let inner = self.command(&["sh", "-c", line])?;
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", &format!("{}s", deadline.as_secs_f64())])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear();
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        Ok(command.stdin(Stdio::null()).output().context("timeout")?.into())
    }

    /// Runs a shell line inside and wants success; gives what it printed.
    ///
    /// # Errors
    /// With all its output when it failed.
    pub fn ok(&self, line: &str) -> Result<String> {
        let ran = self.exec(line)?;
        ensure!(
            ran.code == 0,
            "{}: `{line}` ended with {}\n{}\n{}",
            self.name,
            ran.code,
            ran.out,
            ran.err
        );
        Ok(ran.out)
    }

    /// A file of the machine.
    ///
    /// # Errors
    /// When the machine does not run, or has no such file.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let out = self.command(&["cat", "--", path])?.output()?;
        ensure!(
            out.status.success(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(out.stdout)
    }

    /// Waits until `condition` gives something.
    ///
    /// # Errors
    /// With the end of the console when it does not within `deadline`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(value) = condition(self)? {
                return Ok(value);
            }
            let ended = cgroup::members(&self.group).is_empty();
            if ended && let Some(value) = condition(self)? {
                return Ok(value);
            }
            if ended || started.elapsed() > deadline {
                let console = self.console();
                let tail: Vec<_> = console.lines().rev().take(40).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                let why = if ended {
                    "it does not run".into()
                } else {
                    format!("not within {deadline:?}")
                };
                bail!("{}: {why}: {what}\nits console:\n{}", self.name, tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a line on the console that holds `text`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_console(&self, text: &str) -> Result<()> {
        self.wait_for(&format!("`{text}` on the console"), LONG, |m| {
            Ok(m.console().contains(text).then_some(()))
        })
    }

    /// Waits until cloud-init has run the last line of the user-data.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_cloud_init(&self) -> Result<()> {
        self.wait_for("the end of cloud-init", LONG, |m| {
            let ran = m.exec("test -e /run/cloud-init/result.json");
            Ok(ran.is_ok_and(|r| r.code == 0).then_some(()))
        })
    }

    /// Ends a process of the machine (its own number) with SIGKILL.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, pid: i32) -> Result<()> {
        self.ok(&format!("kill -9 {pid}")).map(drop)
    }

    /// Reboots it in order and waits until its systemd is up again.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&self) -> Result<()> {
        let before = self.leader().with_context(|| format!("{} does not run", self.name))?;
        self.exec("systemctl reboot")?;
        self.wait_for("the next boot", LONG, |m| {
            if m.leader().is_none_or(|l| l == before) {
                return Ok(None);
            }
            // Neither word comes before all units are started.
            let state = m.exec_within("systemctl is-system-running --wait", LONG)?;
            Ok(["running", "degraded"].contains(&state.out.trim()).then_some(()))
        })
    }

    /// Shuts it down in order and waits for that.
    ///
    /// # Errors
    /// When it does not end.
    pub fn power_off(&mut self) -> Result<()> {
        self.exec("systemctl poweroff")?;
        self.wait_for_end()
    }

    /// Waits until it has powered itself off.
    ///
    /// # Errors
    /// When it does not within [`LONG`].
    pub fn wait_for_end(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        let ended = self.wait_for("its power-off", LONG, |_| Ok(child.try_wait()?));
        let Ok(status) = ended else {
            self.child = Some(child);
            bail!("{}: no power-off\n{}", self.name, self.console());
        };
        cgroup::remove(&self.group);
        ensure!(
            status.success(),
            "{}: nspawn ended with {status}\n{}",
            self.name,
            self.console()
        );
        Ok(())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When its process cannot be asked.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Cuts its power: nothing is shut down, the disk stays as it is.
    pub fn pull_plug(&mut self) {
        cgroup::remove(&self.group);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.pull_plug();
    }
}
