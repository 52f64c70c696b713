//! A virtual machine: the same Debian with a kernel of its own, under QEMU.
//!
//! For what a container cannot show: its own clock, kernel modules, DMI strings and
//! one cgroup hierarchy with all controllers. It takes 5 to 10 times as long to boot
//! without KVM, so it belongs to the complete suite.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use herdsman_wire::Timestamp;

use super::network::{BRIDGE, Network};
use super::place::{Place, run};
use super::seed::{self, UserData};
use super::{cgroup, disk};
use crate::home::Ran;

/// How long a boot may take without KVM on a busy machine.
pub const LONG: Duration = Duration::from_secs(400);
/// How long a kernel may take to its first words, if KVM is any good.
const PROBE: Duration = Duration::from_secs(15);

/// Of the kernel. On a busy computer a tick may come too late for its test of the timer,
/// and it would give up.
const LINE: &str = "root=/dev/vda rw console=ttyS0 net.ifnames=0 no_timer_check";
/// For a machine with a seed, cloud-init looks for no other source: its search runs
/// before all units, and systemd gives it 90 s, which may be too short without KVM.
const SEEDED: &str = "ci.ds=NoCloud";

/// How a virtual machine is to be.
#[derive(Clone, Debug, Default)]
pub struct VmSetup {
    /// What its clock says at power-on, as QEMU's `-rtc base=` takes it
    /// (`2026-11-24T12:00:00`); else the right time.
    pub clock: Option<String>,
    /// What its disk has beside stock Debian: a folder's content, and where it goes.
    /// Wants a loop device.
    pub folders: Vec<(PathBuf, String)>,
    /// More arguments of QEMU, for example `-m 2048`.
    pub arguments: Vec<String>,
    /// Strings of its firmware, by their names in `/sys/class/dmi/id`. With any, it is a
    /// vendor's machine: it has no seed, and nobody says who made it. cloud-init's own
    /// search has to find that out, ask for an address by DHCP, and then the vendor.
    pub firmware: Vec<(&'static str, String)>,
}

/// What hardware addresses of machines' ports begin with.
pub const HARDWARE: &str = "02:99";

/// The hardware address of the port of the machine that has this address.
#[must_use]
pub fn hardware(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{HARDWARE}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// QEMU's words for strings of the firmware; of those that it cannot have it says so.
fn smbios(strings: &[(&'static str, String)]) -> Result<Vec<String>> {
    let mut tables = std::collections::BTreeMap::<u8, String>::new();
    for (field, value) in strings {
        let (table, key) = match *field {
            "sys_vendor" => (1, "manufacturer"),
            "product_name" => (1, "product"),
            "product_serial" => (1, "serial"),
            "product_uuid" => (1, "uuid"),
            "chassis_asset_tag" => (3, "asset"),
            other => bail!("no machine has {other} here"),
        };
        // A comma ends a value, where it is not doubled.
        let text = format!(",{key}={}", value.replace(',', ",,"));
        tables.entry(table).or_default().push_str(&text);
    }
    let flag = |(table, text): (u8, String)| ["-smbios".to_owned(), format!("type={table}{text}")];
    Ok(tables.into_iter().flat_map(flag).collect())
}

/// A virtual machine. Its drop is a cut of power, and the end of its disk.
#[derive(Debug)]
pub struct Vm {
    name: String,
    address: Ipv4Addr,
    folder: PathBuf,
    port: String,
    group: String,
    on: Timestamp,
    child: Child,
    network: Arc<Network>,
}

impl Vm {
    /// Boots stock Debian with this user-data; does not wait for anything.
    ///
    /// # Errors
    /// When the disk cannot be made, or QEMU not be started.
    pub fn boot(
        network: &Arc<Network>,
        name: &str,
        address: Ipv4Addr,
        data: impl Into<UserData>,
        setup: &VmSetup,
    ) -> Result<Self> {
        let image = disk::built("disk")?;
        let number = network.run().next();
        let folder = network.run().folder().join(format!("v{number}"));
        std::fs::create_dir_all(&folder)?;
        run(Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(image.join("disk.ext4"))
            .arg(folder.join("disk")))?;
        if !setup.folders.is_empty() {
            fill(&folder, &setup.folders)?;
        }
        let seeded = setup.firmware.is_empty();
        if seeded {
            let key = folder.join("key");
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key))?;
            let public = std::fs::read_to_string(folder.join("key.pub"))?;
            seed_disk(&folder, &format!("i-{number}"), name, address, &public, &data.into())?;
        }

        let port = format!("vm{number}");
        let laptop = network.laptop();
        laptop.ip(&["tuntap", "add", "dev", &port, "mode", "tap"])?;
        laptop.ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        let group = format!("{}/v{number}", network.run().group());
        let drive = |file: &str| format!("if=virtio,format=raw,file={}", folder.join(file).display());
        let mut arguments: Vec<String> = ["-m", "1024"].map(Into::into).into();
        arguments.extend(machine(accelerated(&image)?));
        let line = if seeded {
            format!("{LINE} {SEEDED}")
        } else {
            LINE.to_owned()
        };
        arguments.extend(kernel(&image, &line));
        arguments.extend(smbios(&setup.firmware)?);
        let disks = ["disk", "seed"].into_iter().take(if seeded { 2 } else { 1 });
        arguments.extend(disks.flat_map(|file| ["-drive".to_owned(), drive(file)]));
        for (flag, value) in [
            ("-netdev", format!("tap,id=leg,ifname={port},script=no,downscript=no")),
            (
                "-device",
                format!("virtio-net-pci,netdev=leg,romfile=,mac={}", hardware(address)),
            ),
            ("-device", "virtio-rng-pci".into()),
            ("-serial", format!("file:{}", folder.join("console").display())),
            ("-rtc", format!("base={}", setup.clock.as_deref().unwrap_or("utc"))),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(setup.arguments.iter().cloned());
        let on = Timestamp::now();
        let child = start(laptop, &group, &arguments, &folder.join("qemu"))?;
        Ok(Self {
            name: name.to_owned(),
            address,
            folder,
            port,
            group,
            on,
            child,
            network: Arc::clone(network),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// When it was switched on, once its disk was there.
    #[must_use]
    pub fn on(&self) -> Timestamp {
        self.on
    }

    /// What its serial port has shown, and what QEMU said.
    #[must_use]
    pub fn console(&self) -> String {
        let read = |name| std::fs::read(self.folder.join(name)).unwrap_or_default();
        let all = [read("console"), read("qemu")].concat();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits for a line on the console that holds `text`.
    ///
    /// # Errors
    /// When QEMU ends, or it does not come within [`LONG`].
    pub fn wait_for_console(&mut self, text: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            if self.console().contains(text) {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > LONG {
                bail!(
                    "{}: no `{text}` ({ended:?}); its console:\n{}",
                    self.name,
                    self.console()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a shell line inside as root, by ssh; for a machine whose cloud-init has
    /// come as far as keys. Exit code 124: not within `deadline`; 255: no ssh.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub fn exec(&self, line: &str, deadline: Duration) -> Result<Ran> {
        let quoted = line.replace('\'', r"'\''");
        let mut command = self.network.laptop().command("timeout");
        command
            .arg(format!("{}s", deadline.as_secs_f64()))
            .args(["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-i"])
            .arg(self.folder.join("key"))
            .arg(format!("debian@{}", self.address))
            .arg(format!("sudo sh -c '{quoted}'"));
        Ok(command.stdin(Stdio::null()).output()?.into())
    }

    /// Pulls the network cable.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn cut(&self) -> Result<()> {
        self.network.laptop().ip(&["link", "set", &self.port, "nomaster"])
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn mend(&self) -> Result<()> {
        self.network.laptop().ip(&["link", "set", &self.port, "master", BRIDGE])
    }

    /// Waits until it has powered itself off.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Result<()> {
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                started.elapsed() < deadline,
                "{} does not end\n{}",
                self.name,
                self.console()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        cgroup::remove(&self.group);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.network.laptop().ip(&["link", "delete", &self.port]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Puts folders onto the disk in `folder`. The mount is in a namespace of its own and
/// ends with it.
fn fill(folder: &Path, folders: &[(PathBuf, String)]) -> Result<()> {
    let root = folder.join("root");
    std::fs::create_dir(&root)?;
    let root = root.display();
    let mut script = format!("mount -o loop '{}' '{root}'", folder.join("disk").display());
    for (from, to) in folders {
        script += &format!(" && mkdir -p '{root}{to}' && cp -aT '{}' '{root}{to}'", from.display());
    }
    script += &format!(" && umount '{root}'");
    run(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]))
}

/// Starts QEMU at a place, in a control group of its own.
fn start(place: &Place, group: &str, arguments: &[String], log: &Path) -> Result<Child> {
    let entries = cgroup::make(group)?;
    let mut script = String::new();
    for file in entries {
        script += &format!("echo $$ >'{}' || exit 1\n", file.display());
    }
    script += "exec qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor none \"$@\"";
    let log = File::create(log)?;
    let mut command = place.command("sh");
    command.args(["-c", &script, "sh"]).args(arguments);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("qemu-system-x86_64")
}

fn machine(kvm: bool) -> [String; 8] {
    // Without hardware, `max` is what works with every guest; with it, the host's own.
    // One processor then: with two, QEMU 7.2 was seen to hang a guest for good at an
    // instruction that its kernel had just patched.
    let (accel, cpu, count) = if kvm { ("kvm", "host", "2") } else { ("tcg", "max", "1") };
    ["-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", count].map(Into::into)
}

fn kernel(image: &Path, line: &str) -> [String; 6] {
    let file = |name: &str| image.join(name).display().to_string();
    [
        "-kernel".into(),
        file("vmlinuz"),
        "-initrd".into(),
        file("initrd"),
        "-append".into(),
        line.into(),
    ]
}

/// Whether KVM boots a kernel here. A device node is not enough: there are hosts
/// where it is there and a guest hangs in its first instructions.
fn accelerated(image: &Path) -> Result<bool> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    if let Some(works) = WORKS.get() {
        return Ok(*works);
    }
    let works = File::options().read(true).write(true).open("/dev/kvm").is_ok() && probe(image)?;
    Ok(*WORKS.get_or_init(|| works))
}

/// Boots the kernel without anything to start: it must get as far as to complain.
fn probe(image: &Path) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"])
        .args(["-m", "512", "-no-reboot", "-serial"])
        .arg(format!("file:{}", console.display()))
        .args(machine(true))
        .args(kernel(image, "console=ttyS0 panic=-1 rdinit=/nothing root=nothing"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64")?;
    let started = Instant::now();
    let mut works = false;
    while !works && started.elapsed() < PROBE && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(50));
        let text = std::fs::read(&console).unwrap_or_default();
        works = String::from_utf8_lossy(&text).contains("Kernel panic");
    }
    let text = std::fs::read(&console).unwrap_or_default();
    works |= String::from_utf8_lossy(&text).contains("Kernel panic");
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}

/// The seed on a small FAT disk, which cloud-init finds by its label.
fn seed_disk(folder: &Path, instance: &str, name: &str, address: Ipv4Addr, key: &str, data: &UserData) -> Result<()> {
    let image = folder.join("seed");
    run(Command::new("mformat")
        .args(["-C", "-f", "1440", "-v", "CIDATA", "-i"])
        .arg(&image)
        .arg("::"))?;
    for (file, mut content) in seed::files(instance, name, address, "eth0", data) {
        if file == "meta-data" {
            content.extend(format!("public-keys: [\"{}\"]\n", key.trim()).bytes());
        }
        let path = folder.join(file);
        std::fs::write(&path, content)?;
        run(Command::new("mcopy").arg("-i").arg(&image).arg(&path).arg("::"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_a_firmware_are_told_by_tables() {
        let of = |field, value: &str| (field, value.to_owned());
        let said = smbios(&[
            of("sys_vendor", "Microsoft, Corporation"),
            of("chassis_asset_tag", "7783-7084"),
            of("product_name", "Virtual Machine"),
        ]);
        let wanted = [
            "-smbios",
            "type=1,manufacturer=Microsoft,, Corporation,product=Virtual Machine",
        ];
        assert_eq!(
            said.unwrap(),
            [&wanted[..], &["-smbios", "type=3,asset=7783-7084"]].concat()
        );
        assert!(smbios(&[of("bios_date", "1")]).is_err());
        assert_eq!(hardware(Ipv4Addr::new(10, 99, 1, 11)), "02:99:0a:63:01:0b");
    }
}
