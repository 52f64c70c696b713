//! QEMU's command line, a pure function of values. What is used of it is in QEMU
//! since 7.2: <https://www.qemu.org/docs/master/system/invocation.html>

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use herdsman_wire::limits;

use super::super::Size;
use super::record::{Image, NodeFiles, NodeRecord};

/// Of a kernel that the image does not start by itself. cloud-init is told where its
/// data is: its search for that runs before all units, systemd gives it 90 s, and on a
/// busy computer without KVM that was too short, and cloud-init off.
const KERNEL_LINE: &str = "root=/dev/vda rw console=ttyS0 ci.ds=NoCloud";

/// What a machine's network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The scheduler's: it has the hub; these ports of the loopback interface lead
    /// to the agent and to Dask.
    Hub([u16; 2]),
    /// A worker's: a socket that leads to the hub.
    Port(PathBuf),
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub(super) struct Vm<'a> {
    pub(super) record: &'a NodeRecord,
    pub(super) files: NodeFiles,
    pub(super) image: &'a Image,
    pub(super) size: Size,
    pub(super) kvm: bool,
    pub(super) place: Place,
    pub(super) qmp: PathBuf,
}

/// A path inside of an option, where a comma would end the value.
fn path(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

impl Vm<'_> {
    /// All arguments of `qemu-system-x86_64`.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut put = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        // Only what is named here: no floppy, no display, no settings of the host.
        put(&["-nodefaults", "-no-user-config", "-display", "none"]);
        put(&["-name", &format!("guest={}", self.record.node)]);
        let (accel, cpu) = if self.kvm {
            ("kvm", "host")
        } else {
            ("tcg,thread=multi", "max")
        };
        put(&["-machine", "q35", "-accel", accel, "-cpu", cpu]);
        put(&["-smp", &self.size.cpus.to_string()]);
        put(&["-m", &format!("{}M", self.size.memory >> 20)]);
        put(&["-device", "virtio-rng-pci"]);
        // What a machine writes is worth nothing once this computer crashes, so
        // nothing waits for the disk.
        let disk = path(&self.files.disk());
        put(&[
            "-drive",
            &format!("if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={disk}"),
        ]);
        // A kernel of its own takes the first place.
        let order = if self.image.kernel.is_some() {
            ""
        } else {
            ",bootindex=0"
        };
        put(&["-device", &format!("virtio-blk-pci,drive=disk{order}")]);
        let seed = path(&self.files.seed());
        put(&["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={seed}")]);
        put(&["-device", "virtio-blk-pci,drive=seed"]);
        // The way outside, of its own: 10.0.2.0/24, with this computer at .2.
        let mut user = "user,id=outside,ipv6=off".to_owned();
        match &self.place {
            Place::Hub(ports) => {
                let inner = [limits::AGENT_PORT, limits::SCHEDULER_PORT];
                for (outer, inner) in ports.iter().zip(inner) {
                    user += &format!(",hostfwd=tcp:127.0.0.1:{outer}-{}:{inner}", self.record.address);
                }
                put(&["-netdev", &user, "-netdev", "hubport,id=cluster,hubid=0"]);
            }
            Place::Port(socket) => put(&[
                "-netdev",
                &user,
                "-netdev",
                &format!("stream,id=cluster,server=off,addr.type=unix,addr.path={}", path(socket)),
            ]),
        }
        // Without their boot ROMs: no machine starts from the network.
        for (netdev, mac) in [("outside", self.record.outside_mac()), ("cluster", self.record.mac())] {
            put(&["-device", &format!("virtio-net-pci,netdev={netdev},romfile=,mac={mac}")]);
        }
        if let Some((kernel, initrd)) = &self.image.kernel {
            put(&["-kernel"]);
            all.push(kernel.into());
            if let Some(initrd) = initrd {
                all.push("-initrd".into());
                all.push(initrd.into());
            }
            all.extend(["-append", KERNEL_LINE].map(OsString::from));
        }
        let mut put = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        put(&[
            "-chardev",
            &format!("file,id=console,append=on,path={}", path(&self.files.console())),
        ]);
        put(&["-serial", "chardev:console"]);
        put(&["-qmp", &format!("unix:{},server=on,wait=off", path(&self.qmp))]);
        put(&["-daemonize", PID_FILE]);
        all.push(self.files.pid().into());
        all
    }
}

/// The option by whose value a machine's process is known.
pub(super) const PID_FILE: &str = "-pidfile";

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn line(record: &NodeRecord, place: Place, kvm: bool, kernel: bool) -> String {
        let image = Image {
            path: "/images/debian.qcow2".into(),
            format: "qcow2".into(),
            size: 1,
            kernel: kernel.then(|| ("/k".into(), Some("/i".into()))),
        };
        let vm = Vm {
            record,
            files: NodeFiles {
                dir: "/state,odd/n".into(),
            },
            image: &image,
            size: Size::default(),
            kvm,
            place,
            qmp: "/run/q".into(),
        };
        let words: Vec<String> = vm
            .arguments()
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words.join(" ").replace(" -", "\n-")
    }

    #[test]
    fn the_schedulers_has_the_hub_and_the_way_outside() {
        let record = record("demo-scheduler", 0);
        insta::assert_snapshot!(line(&record, Place::Hub([1785, 1786]), true, false), @r"
        -nodefaults
        -no-user-config
        -display none
        -name guest=demo-scheduler
        -machine q35
        -accel kvm
        -cpu host
        -smp 1
        -m 2048M
        -device virtio-rng-pci
        -drive if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file=/state,,odd/n/disk.qcow2
        -device virtio-blk-pci,drive=disk,bootindex=0
        -drive if=none,id=seed,format=raw,readonly=on,file=/state,,odd/n/seed.iso
        -device virtio-blk-pci,drive=seed
        -netdev user,id=outside,ipv6=off,hostfwd=tcp:127.0.0.1:1785-10.89.0.16:8785,hostfwd=tcp:127.0.0.1:1786-10.89.0.16:8786
        -netdev hubport,id=cluster,hubid=0
        -device virtio-net-pci,netdev=outside,romfile=,mac=52:54:00:80:00:00
        -device virtio-net-pci,netdev=cluster,romfile=,mac=52:54:00:00:00:00
        -chardev file,id=console,append=on,path=/state,,odd/n/console.log
        -serial chardev:console
        -qmp unix:/run/q,server=on,wait=off
        -daemonize
        -pidfile /state,odd/n/pid
        ");
    }

    #[test]
    fn a_workers_is_plugged_into_it() {
        let record = record("demo-w0", 1);
        let text = line(&record, Place::Port("/run/a,b/n1".into()), false, true);
        assert!(
            text.contains("\n-netdev stream,id=cluster,server=off,addr.type=unix,addr.path=/run/a,,b/n1\n"),
            "{text}"
        );
        assert!(!text.contains("hostfwd") && !text.contains("hubport"), "{text}");
        assert!(text.contains("-accel tcg,thread=multi\n-cpu max"), "{text}");
        assert!(
            text.contains("\n-kernel /k\n-initrd /i\n-append root=/dev/vda rw console=ttyS0 ci.ds=NoCloud\n"),
            "{text}"
        );
        // Only in options does a comma have a meaning.
        assert!(
            text.contains("file=/state,,odd/n/disk.qcow2") && text.ends_with("-pidfile /state,odd/n/pid"),
            "{text}"
        );
    }
}
