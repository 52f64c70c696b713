//! The whole way with nothing in the way: `up` on an emulated cloud, whose machines are
//! QEMU's. Their firmware says whose they are, cloud-init finds that out by itself, gets
//! an address by DHCP, and reads what the launcher sent from the vendor's metadata
//! service. They become nodes, and Dask computes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_tests::azure::Dhcp;
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::NAME;
use herdsman_tests::machines::network::LAPTOP;
use herdsman_tests::machines::vm::HARDWARE;
use herdsman_tests::machines::{Cluster, Vm, available, complete};
use herdsman_tests::metadata::{LINK_LOCAL, Service};
use herdsman_tests::vendor::{self, Birth};
use herdsman_wire::limits::BOOTSTRAP_LIFE;
use serde_json::json;

use super::vendors::{self, Vendor};

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(1, timeout=300)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
";
/// What may come after the time that machines have to become nodes.
const AFTERWARDS: Duration = Duration::from_secs(300);

struct Lab {
    /// Machines before what they ask.
    vms: Vec<Vm>,
    dhcp: Dhcp,
    /// Of a vendor whose emulator has none of its own.
    service: Option<Service>,
    emulator: Emulator,
    cluster: Cluster,
    vendor: &'static Vendor,
}

impl Lab {
    fn new(vendor: &'static Vendor) -> Result<Option<Self>> {
        if !available() || !complete() {
            return Ok(None);
        }
        // This thread stands at the laptop from here on, and the emulator with it.
        let cluster = Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let address = |node: &str| cluster.address(node).unwrap_or(LAPTOP);
        let Some(emulator) = vendor.start(address, 4)? else {
            return Ok(None);
        };
        let own = [Cloud::Gce, Cloud::OpenStack].contains(&vendor.cloud);
        let service = if own {
            vendor::claim(&cluster.network)?;
            let at = json!({"address": LINK_LOCAL.ip(), "port": LINK_LOCAL.port(), "hardware": HARDWARE});
            emulator.ask("metadata", &at)?;
            None
        } else {
            Some(vendor::service(&cluster.network, vendor.cloud)?)
        };
        let text = format!(
            "provider = \"{}\"\n[agent]\nurl = [\"{}\"]\n{}",
            vendor.name,
            cluster.files.url("agent"),
            vendor.settings
        );
        std::fs::write(cluster.laptop.project.join("herdsman.toml"), text)?;
        Ok(Some(Self {
            vms: Vec::new(),
            dhcp: Dhcp::start(&cluster.network)?,
            service,
            emulator,
            cluster,
            vendor,
        }))
    }

    /// Runs a command, and boots whatever the cloud was asked for, until it ends.
    fn run(&mut self, args: &[&str]) -> Result<()> {
        let log = self.cluster.laptop.home.path().join(format!("going-{}", args[0]));
        let out = std::fs::File::create(&log)?;
        let mut command = self.cluster.command(args)?;
        self.vendor
            .dress(&mut command, &self.emulator, &self.cluster.laptop.home)?;
        command
            .env("HERDSMAN_MY_ADDRESS", LAPTOP.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut child = command.spawn()?;
        let started = Instant::now();
        let code = loop {
            let booted = self.boot_new();
            if let Some(status) = child.try_wait()? {
                booted?;
                break status.code();
            }
            if booted.is_err() || started.elapsed() > BOOTSTRAP_LIFE + AFTERWARDS {
                child.kill()?;
                child.wait()?;
                booted?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(500));
        };
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(
            code == Some(0),
            "{args:?} ended with {code:?}\n{said}{}",
            self.consoles()
        );
        Ok(())
    }

    fn consoles(&self) -> String {
        let of = |vm: &Vm| {
            let console = vm.console();
            let lines: Vec<&str> = console.lines().collect();
            let end = lines[lines.len().saturating_sub(100)..].join("\n");
            format!("\n== console of {}\n{end}", vm.name())
        };
        self.vms.iter().map(of).collect()
    }

    fn boot_new(&mut self) -> Result<()> {
        for born in self.vendor.machines(&self.emulator)? {
            if self.vms.iter().any(|vm| vm.address() == born.address) {
                continue;
            }
            let birth = Birth {
                cloud: self.vendor.cloud,
                id: &born.id,
                name: &born.name,
                address: born.address,
                user_data: &born.user_data,
            };
            let network = &self.cluster.network;
            self.vms
                .push(vendor::boot(network, &self.dhcp, self.service.as_ref(), &birth)?);
        }
        Ok(())
    }

    fn story(&mut self) -> Result<()> {
        let wait = format!("{}s", BOOTSTRAP_LIFE.as_secs());
        self.run(&["up", NAME, "--workers", "1", "--env", "copy", "--start-timeout", &wait])?;
        let text = self.cluster.compute(SUM).with_context(|| self.consoles())?;
        ensure!(text == "332833500\n", "{text}");
        ensure!(self.vms.len() == 2, "{} machines", self.vms.len());
        let source = self.vendor.source()?;
        for vm in &mut self.vms {
            vendor::was_found(vm, source)?;
        }
        self.run(&["down", NAME, "-y"])?;
        self.emulator.asked()?;
        self.vendor.is_empty(&self.emulator)
    }
}

fn story(vendor: &'static Vendor) -> Result<()> {
    let Some(mut lab) = Lab::new(vendor)? else {
        return Ok(());
    };
    lab.story()
}

#[test]
fn machines_with_ec2s_firmware_become_a_cluster() -> Result<()> {
    story(&vendors::AWS)
}

#[test]
fn machines_with_googles_firmware_become_a_cluster() -> Result<()> {
    story(&vendors::GCP)
}

#[test]
fn machines_with_hetzners_firmware_become_a_cluster() -> Result<()> {
    story(&vendors::HETZNER)
}

#[test]
fn machines_with_openstacks_firmware_become_a_cluster() -> Result<()> {
    story(&vendors::OPENSTACK)
}
