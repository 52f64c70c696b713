//! A test machine that a cloud made: the vendor's strings in its firmware, and the
//! vendor's metadata service at the link-local address. cloud-init finds it by the
//! data source that it has for this vendor, unchanged; nothing else tells the machine
//! who it is, what its address is, and what to do.
//!
//! A machine of namespaces has no firmware, and a card that cloud-init takes for a
//! container's. So `cloud-init` is called by a few lines that name a folder as the
//! firmware and the port as a card, and that wait until the service answers, as a
//! vendor's does from the first moment.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herdsman_agent::source::dmi::Cloud;
use nix::sched::{CloneFlags, setns};
use serde_json::json;

use crate::machines::network::{LAPTOP, PREFIX};
use crate::machines::{LONG, Machine, Network, Setup};
use crate::metadata::{LINK_LOCAL, Service, firmware};

/// Where the firmware's strings are on such a machine.
const FIRMWARE: &str = "/etc/firmware";

/// The machine, and the service that it asks.
#[derive(Debug)]
pub struct Native {
    /// The machine.
    pub machine: Machine,
    /// Its metadata service, which only it can reach.
    pub service: Service,
}

/// How a vendor's machine is described.
#[derive(Clone, Debug)]
pub struct Birth<'a> {
    /// The vendor.
    pub cloud: Cloud,
    /// The vendor's number of the machine.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// What was sent for it.
    pub user_data: &'a str,
}

/// Path that cloud-init's data source asks first, and its name in cloud-init.
fn source(cloud: Cloud) -> Result<(&'static str, &'static str)> {
    match cloud {
        Cloud::DigitalOcean => Ok(("DigitalOcean", "/metadata/v1.json")),
        Cloud::Hetzner => Ok(("Hetzner", "/hetzner/v1/metadata")),
        other => bail!("no machine is born on {other:?} yet"),
    }
}

/// What stands in for `/usr/bin/cloud-init`.
fn caller(path: &str) -> String {
    format!(
        "#!/usr/bin/python3\n\
         import sys, time, urllib.request\n\
         import cloudinit.dmi, cloudinit.distros.networking as networking\n\
         cloudinit.dmi.is_container = lambda: False\n\
         cloudinit.dmi.DMI_SYS_PATH = '{FIRMWARE}'\n\
         networking.LinuxNetworking.is_physical = lambda self, name: name in ('host0', 'eth0')\n\
         end = time.monotonic() + 60\n\
         while time.monotonic() < end:\n    \
         try:\n        \
         urllib.request.urlopen('http://169.254.169.254{path}', timeout=2).read()\n        \
         break\n    \
         except OSError:\n        \
         time.sleep(0.1)\n\
         from cloudinit.cmd.main import main\n\
         sys.exit(main())\n"
    )
}

impl Native {
    /// Boots it; does not wait for anything but its network.
    ///
    /// # Errors
    /// When it cannot be booted, or its service not be started.
    pub fn boot(network: &Arc<Network>, birth: &Birth<'_>) -> Result<Self> {
        let (name, path) = source(birth.cloud)?;
        let mut strings = firmware(birth.cloud);
        strings.push(("product_serial", birth.id));
        let mut files: Vec<(String, Vec<u8>)> = strings
            .iter()
            .map(|(field, value)| (format!("{FIRMWARE}/{field}"), format!("{value}\n").into_bytes()))
            .collect();
        files.push(("/usr/bin/cloud-init".into(), caller(path).into_bytes()));
        let list = format!("datasource_list: [{name}]\n");
        files.push(("/etc/cloud/cloud.cfg.d/99-vendor.cfg".into(), list.into_bytes()));
        // As for the name that the port has before: no router ever speaks here.
        let quiet = b"[Network]\nIPv6AcceptRA=no\n".to_vec();
        let drop_in = "/etc/systemd/network/10-cloud-init-eth0.network.d/no-router.conf";
        files.push((drop_in.into(), quiet));
        let setup = Setup {
            files,
            ..Setup::default()
        };
        let machine = Machine::boot_with(network, birth.name, birth.address, "", setup)?;
        let hardware = card(&machine)?;
        let service = within(&machine, birth.cloud)?;
        for (path, value) in documents(birth, &hardware) {
            service.set(path, value);
        }
        Ok(Self { machine, service })
    }

    /// Wants that cloud-init told of the machine by this vendor's own source.
    ///
    /// # Errors
    /// When it was another, or none.
    pub fn was_found(&self, cloud: Cloud) -> Result<()> {
        let (name, path) = source(cloud)?;
        let result = String::from_utf8(self.machine.read_file("/run/cloud-init/result.json")?)?;
        ensure!(result.contains(&format!("DataSource{name}")), "{result}");
        ensure!(self.service.asked(path) > 0, "nobody asked for {path}");
        Ok(())
    }
}

/// Puts the service's address on the machine, and tells the hardware address of its
/// port.
fn card(machine: &Machine) -> Result<String> {
    let line = "ip link set lo up && ip address replace 169.254.169.254/32 dev lo && \
                cat /sys/class/net/host0/address /sys/class/net/eth0/address 2>/dev/null | head -n 1";
    let started = Instant::now();
    loop {
        if let Ok(ran) = machine.exec(line)
            && ran.code == 0
            && !ran.out.trim().is_empty()
        {
            return Ok(ran.out.trim().to_owned());
        }
        ensure!(started.elapsed() < LONG, "no network\n{}", machine.console());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service in the machine's own network.
fn within(machine: &Machine, cloud: Cloud) -> Result<Service> {
    let leader = machine.leader().context("it does not run")?;
    let namespace = File::open(format!("/proc/{leader}/ns/net"))?;
    let thread = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        let at: SocketAddr = LINK_LOCAL;
        Service::start_at(Some(cloud), at)
    });
    match thread.join() {
        Ok(service) => service,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What the service answers: <https://docs.digitalocean.com/reference/api/metadata/> and
/// <https://docs.hetzner.cloud/reference/cloud#server-metadata>. What is asked for first
/// comes last, as it is waited for.
fn documents(birth: &Birth<'_>, hardware: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mask = Ipv4Addr::from(u32::MAX << (32 - PREFIX));
    match birth.cloud {
        Cloud::DigitalOcean => {
            let number: u64 = birth.id.parse().unwrap_or_default();
            let all = json!({
                "droplet_id": number,
                "hostname": birth.name,
                "user_data": birth.user_data,
                "vendor_data": "#cloud-config\nmanage_etc_hosts: true\n",
                "public_keys": [],
                "region": "nyc3",
                "interfaces": {"public": [{
                    "ipv4": {"ip_address": birth.address, "netmask": mask, "gateway": LAPTOP},
                    "mac": hardware,
                    "type": "public",
                }]},
                "dns": {"nameservers": []},
                "floating_ip": {"ipv4": {"active": false}},
                "features": {"dhcp_enabled": false},
            });
            vec![
                ("/metadata/v1/id", birth.id.as_bytes().to_vec()),
                ("/metadata/v1/user-data", birth.user_data.as_bytes().to_vec()),
                ("/metadata/v1.json", all.to_string().into_bytes()),
            ]
        }
        _ => {
            let network = json!({"version": 1, "config": [{
                "type": "physical",
                "name": "eth0",
                "mac_address": hardware,
                "subnets": [{"type": "static", "address": format!("{}/{PREFIX}", birth.address), "gateway": LAPTOP}],
            }]});
            let number: u64 = birth.id.parse().unwrap_or_default();
            // The vendor's is YAML, of which JSON is a part.
            let all = json!({
                "hostname": birth.name,
                "instance-id": number,
                "public-ipv4": birth.address,
                "public-keys": [],
                "region": "eu-central",
                "availability-zone": "fsn1-dc14",
                "network-config": network,
                "vendor_data": "",
            });
            vec![
                ("/hetzner/v1/userdata", birth.user_data.as_bytes().to_vec()),
                ("/hetzner/v1/metadata/instance-id", birth.id.as_bytes().to_vec()),
                ("/hetzner/v1/metadata", all.to_string().into_bytes()),
            ]
        }
    }
}
