//! A machine as the agent sees one: its own network with the metadata address, its
//! firmware's strings, its own `/var/lib`. Made of namespaces, so that the agent's
//! program runs as it is. Needs root.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use nix::sched::{CloneFlags, unshare};

use crate::home::program;

/// The metadata service of all clouds.
pub const LINK_LOCAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Does something on a thread that is alone in a network of its own. Threads and
/// programs that it starts are there as well.
///
/// # Errors
/// The work's own, or why there can be no such network.
pub fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["address", "add", "169.254.169.254/32", "dev", "lo"])?;
        work()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(args).status().context("ip")?;
    ensure!(done.success(), "ip {args:?}");
    Ok(())
}

/// Firmware strings of a cloud's machines.
#[must_use]
pub fn firmware(cloud: Cloud) -> Vec<(&'static str, &'static str)> {
    match cloud {
        Cloud::Azure => vec![
            ("sys_vendor", "Microsoft Corporation"),
            ("product_name", "Virtual Machine"),
            ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"),
        ],
        Cloud::DigitalOcean => vec![("sys_vendor", "DigitalOcean"), ("product_name", "Droplet")],
        Cloud::Ec2 => vec![("sys_vendor", "Amazon EC2"), ("product_name", "m7i.large")],
        Cloud::Gce => vec![("sys_vendor", "Google"), ("product_name", "Google Compute Engine")],
        Cloud::Hetzner => vec![("sys_vendor", "Hetzner"), ("product_name", "vServer")],
        Cloud::OpenStack => vec![
            ("sys_vendor", "OpenStack Foundation"),
            ("product_name", "OpenStack Nova"),
        ],
    }
}

/// A machine.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A machine of a cloud, or one without any, with this UUID.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(cloud: Option<Cloud>, uuid: &str) -> Result<Self> {
        let place = Self {
            dir: tempfile::Builder::new().prefix("hp").tempdir_in("/tmp")?,
        };
        for folder in ["sys/class/dmi/id", "var/lib"] {
            std::fs::create_dir_all(place.path().join(folder))?;
        }
        for (field, value) in cloud.map(firmware).unwrap_or_default() {
            place.firmware(field, value)?;
        }
        place.firmware("product_uuid", uuid)?;
        Ok(place)
    }

    /// Its folder, with the same layout as a root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Sets a string of the firmware.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn firmware(&self, field: &str, value: &str) -> Result<()> {
        let path = self.path().join("sys/class/dmi/id").join(field);
        Ok(std::fs::write(path, format!("{value}\n"))?)
    }

    /// The agent's join configuration.
    #[must_use]
    pub fn join(&self) -> PathBuf {
        self.path().join("var/lib/herdsman/join.json")
    }

    /// Permissions of the join configuration.
    ///
    /// # Errors
    /// When there is none.
    pub fn join_mode(&self) -> Result<u32> {
        Ok(std::fs::metadata(self.join())?.permissions().mode() & 0o777)
    }

    /// What the agent printed.
    #[must_use]
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.path().join("console")).unwrap_or_default()
    }

    /// The shell commands that make this machine of the namespaces they run in.
    /// Without `/run` nothing on it reaches the systemd of this computer.
    #[must_use]
    pub fn dress(&self) -> String {
        let at = self.path().display();
        format!(
            "set -e; mount -t tmpfs none /run; mount -t tmpfs none /sys/class; mkdir -p /sys/class/dmi/id; \
             cp {at}/sys/class/dmi/id/* /sys/class/dmi/id/; mount --bind {at}/var/lib /var/lib; "
        )
    }

    /// Boots: runs `herdsman-agent run` as a service of this machine would, in a
    /// process tree of its own. The kernel ends it with SIGINT when it powers "the
    /// machine" off, which is that process tree.
    ///
    /// # Errors
    /// When it was not built.
    pub fn boot(&self) -> Result<Booted> {
        let agent = program("herdsman-agent")?;
        let console = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path().join("console"))?;
        // `unshare` passes on how the first process of the tree ended, by a signal of
        // the same number.
        let script = format!("{}exec {} run", self.dress(), agent.display());
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()?;
        Ok(Booted(child))
    }
}

/// An agent that runs on such a machine; killed when dropped.
#[derive(Debug)]
pub struct Booted(pub Child);

impl Drop for Booted {
    fn drop(&mut self) {
        // The tree goes with its parent.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
