//! A test machine that Azure made: the vendor's strings in its firmware, the paper that
//! the vendor puts into its drive, an address by DHCP, the metadata service, and the
//! wire server, which waits to hear that the machine is ready. cloud-init's own data
//! source of this vendor reads all of them, unchanged.
//!
//! A machine of namespaces has no firmware, no drive, and a card that cloud-init takes
//! for a container's. So the paper lies where a data source looks besides the drive, and
//! `cloud-init` is called by a few lines that name a folder as the firmware and the
//! port as a card, and that wait until the services answer, as a vendor's do from the
//! first moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use nix::sched::{CloneFlags, setns};
use serde_json::json;

use crate::machines::network::{BRIDGE, LAPTOP, PREFIX};
use crate::machines::{LONG, Machine, Network, Setup};
use crate::metadata::{LINK_LOCAL, Service, base64, firmware};

/// Where the firmware's strings are on such a machine.
const FIRMWARE: &str = "/etc/firmware";
/// The vendor's wire server, which hosts its agents' talk.
const WIRE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Where the data source looks for the paper besides the drive.
const PAPER: &str = "/var/lib/cloud/seed/azure/ovf-env.xml";

/// How a machine is described, from the call that made it.
#[derive(Clone, Debug)]
pub struct Birth<'a> {
    /// The vendor's number of it, a UUID.
    pub id: &'a str,
    /// Its host name.
    pub name: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// Custom data, as it was sent.
    pub custom_data: &'a str,
}

/// The machine, and what it asks.
#[derive(Debug)]
pub struct Vm {
    /// The machine.
    pub machine: Machine,
    /// Its metadata service, which only it can reach.
    pub service: Service,
    wire: Wire,
}

/// What stands in for `/usr/bin/cloud-init`.
fn caller() -> String {
    format!(
        "#!/usr/bin/python3\n\
         import sys, time, urllib.request\n\
         import cloudinit.dmi, cloudinit.distros.networking as networking\n\
         cloudinit.dmi.is_container = lambda: False\n\
         cloudinit.dmi.DMI_SYS_PATH = '{FIRMWARE}'\n\
         networking.LinuxNetworking.is_physical = lambda self, name: name in ('host0', 'eth0')\n\
         ask = urllib.request.Request(\n    \
         'http://169.254.169.254/metadata/instance?api-version=2021-08-01', headers={{'Metadata': 'true'}})\n\
         end = time.monotonic() + 60\n\
         while time.monotonic() < end:\n    \
         try:\n        \
         urllib.request.urlopen(ask, timeout=2).read()\n        \
         break\n    \
         except OSError:\n        \
         time.sleep(0.1)\n\
         from cloudinit.cmd.main import main\n\
         sys.exit(main())\n"
    )
}

/// The paper in the drive (`ovf-env.xml`), as cloud-init's own tests have it.
fn paper(birth: &Birth<'_>) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <ns0:Environment xmlns:ns0=\"http://schemas.dmtf.org/ovf/environment/1\" \
         xmlns:ns1=\"http://schemas.microsoft.com/windowsazure\">\n\
         <ns1:ProvisioningSection><ns1:Version>1.0</ns1:Version>\n\
         <ns1:LinuxProvisioningConfigurationSet>\n\
         <ns1:ConfigurationSetType>LinuxProvisioningConfiguration</ns1:ConfigurationSetType>\n\
         <ns1:HostName>{}</ns1:HostName><ns1:UserName>dask</ns1:UserName>\n\
         <ns1:DisableSshPasswordAuthentication>true</ns1:DisableSshPasswordAuthentication>\n\
         <ns1:CustomData>{}</ns1:CustomData>\n\
         </ns1:LinuxProvisioningConfigurationSet></ns1:ProvisioningSection>\n\
         <ns1:PlatformSettingsSection><ns1:Version>1.0</ns1:Version><ns1:PlatformSettings>\n\
         <ns1:ProvisionGuestAgent>false</ns1:ProvisionGuestAgent>\n\
         <ns1:PreprovisionedVm>false</ns1:PreprovisionedVm>\n\
         </ns1:PlatformSettings></ns1:PlatformSettingsSection></ns0:Environment>\n",
        birth.name,
        base64(birth.custom_data.as_bytes())
    )
}

impl Vm {
    /// Boots it; does not wait for anything but its port.
    ///
    /// # Errors
    /// When it cannot be booted, or its services not be started.
    pub fn boot(network: &Arc<Network>, dhcp: &Dhcp, birth: &Birth<'_>) -> Result<Self> {
        let mut strings = firmware(Cloud::Azure);
        strings.push(("product_uuid", birth.id));
        let mut files: Vec<(String, Vec<u8>)> = strings
            .iter()
            .map(|(field, value)| (format!("{FIRMWARE}/{field}"), format!("{value}\n").into_bytes()))
            .collect();
        files.push(("/usr/bin/cloud-init".into(), caller().into_bytes()));
        files.push((
            "/etc/cloud/cloud.cfg.d/99-vendor.cfg".into(),
            b"datasource_list: [Azure]\n".to_vec(),
        ));
        files.push((PAPER.into(), paper(birth).into_bytes()));
        // As for the name that the port has before: no router ever speaks here.
        let drop_in = "/etc/systemd/network/10-cloud-init-eth0.network.d/no-router.conf";
        files.push((drop_in.into(), b"[Network]\nIPv6AcceptRA=no\n".to_vec()));
        let setup = Setup {
            files,
            ..Setup::default()
        };
        let machine = Machine::boot_with(network, birth.name, birth.address, "", setup)?;
        let hardware = card(&machine)?;
        dhcp.add(&hardware, birth.address)?;
        let (service, wire) = within(&machine)?;
        service.set("/metadata/instance", description(birth, &hardware).to_string());
        Ok(Self { machine, service, wire })
    }

    /// Wants that cloud-init told of the machine by this vendor's own source, which has
    /// told the vendor that the machine is ready.
    ///
    /// # Errors
    /// When it was another, or none, or nothing was told.
    pub fn was_found(&self) -> Result<()> {
        let result = String::from_utf8(self.machine.read_file("/run/cloud-init/result.json")?)?;
        ensure!(result.contains("DataSourceAzure"), "{result}");
        ensure!(
            self.service.asked("/metadata/instance") > 1,
            "nobody asked for the metadata"
        );
        let told = self.wire.told();
        ensure!(
            told.iter().any(|t| t.contains("<State>Ready</State>")),
            "the vendor was not told that the machine is ready: {told:?}"
        );
        Ok(())
    }
}

/// Puts the services' addresses on the machine, and tells the hardware address of its
/// port.
fn card(machine: &Machine) -> Result<String> {
    let line = format!(
        "ip link set lo up && ip address replace 169.254.169.254/32 dev lo && ip address replace {WIRE}/32 dev lo && \
         cat /sys/class/net/host0/address /sys/class/net/eth0/address 2>/dev/null | head -n 1"
    );
    let started = Instant::now();
    loop {
        if let Ok(ran) = machine.exec(&line)
            && ran.code == 0
            && !ran.out.trim().is_empty()
        {
            return Ok(ran.out.trim().to_owned());
        }
        ensure!(started.elapsed() < LONG, "no network\n{}", machine.console());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Services in the machine's own network.
fn within(machine: &Machine) -> Result<(Service, Wire)> {
    let leader = machine.leader().context("it does not run")?;
    let namespace = File::open(format!("/proc/{leader}/ns/net"))?;
    let thread = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok((Service::start_at(Some(Cloud::Azure), LINK_LOCAL)?, Wire::start()?))
    });
    match thread.join() {
        Ok(made) => made,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What the metadata service says of a machine: Microsoft Learn, "Azure Instance
/// Metadata Service for virtual machines".
fn description(birth: &Birth<'_>, hardware: &str) -> serde_json::Value {
    let mask = u32::MAX << (32 - PREFIX);
    let net = Ipv4Addr::from(u32::from(birth.address) & mask);
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud",
            "location": "eastus",
            "name": birth.name,
            "osProfile": {"adminUsername": "dask", "computerName": birth.name, "disablePasswordAuthentication": "true"},
            "osType": "Linux",
            "provider": "Microsoft.Compute",
            "publicKeys": [{"keyData": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ nobody", "path": "/home/dask/.ssh/authorized_keys"}],
            "userData": "",
            "vmId": birth.id,
            "zone": "",
        },
        "network": {"interface": [{
            "ipv4": {
                "ipAddress": [{"privateIpAddress": birth.address, "publicIpAddress": ""}],
                "subnet": [{"address": net, "prefix": PREFIX.to_string()}],
            },
            "ipv6": {"ipAddress": []},
            "macAddress": hardware.replace(':', "").to_ascii_uppercase(),
        }]},
    })
}

/// As much of the wire server as a machine needs to say that it is ready
/// (`cloudinit/sources/helpers/azure.py` is its other side).
#[derive(Debug)]
struct Wire {
    told: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

const GOAL: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<GoalState>\
    <Version>2012-11-30</Version><Incarnation>1</Incarnation><Container><ContainerId>c-1</ContainerId>\
    <RoleInstanceList><RoleInstance><InstanceId>i-1</InstanceId><State>Started</State></RoleInstance>\
    </RoleInstanceList></Container></GoalState>";

impl Wire {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((WIRE, 80)))?;
        listener.set_nonblocking(true)?;
        let wire = Self {
            told: Arc::default(),
            stop: Arc::default(),
        };
        let (told, stop) = (wire.told.clone(), wire.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let _ = answer(&stream, &told);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        Ok(wire)
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(stream: &TcpStream, told: &Mutex<Vec<String>>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, text) = if first.starts_with("GET /machine/?comp=goalstate") {
        ("200 OK", GOAL)
    } else if first.starts_with("POST /machine?comp=health") {
        let body = String::from_utf8_lossy(&body).into_owned();
        told.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        ("200 OK", "")
    } else {
        ("404 Not Found", "")
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}

/// A server of addresses (RFC 2131) for ports that are known by their hardware, with the
/// option in which this vendor tells where its wire server is.
#[derive(Debug)]
pub struct Dhcp {
    known: Arc<Mutex<BTreeMap<Vec<u8>, Ipv4Addr>>>,
    stop: Arc<AtomicBool>,
}

impl Dhcp {
    /// Starts it at the laptop's side of a network.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(network: &Network) -> Result<Self> {
        // Answers go to everybody, as whoever asks has no address yet; nothing else says
        // by which port that is.
        let everybody = format!("{}/32", Ipv4Addr::BROADCAST);
        network.laptop().ip(&["route", "replace", &everybody, "dev", BRIDGE])?;
        let socket = network.laptop().inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?;
            socket.set_broadcast(true)?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            Ok(socket)
        })?;
        let dhcp = Self {
            known: Arc::default(),
            stop: Arc::default(),
        };
        let (known, stop) = (dhcp.known.clone(), dhcp.stop.clone());
        // Not 255.255.255.255, to which nothing leads without a default route.
        let everybody = Ipv4Addr::from(u32::from(LAPTOP) | u32::MAX >> PREFIX);
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                let Ok((n, _)) = socket.recv_from(&mut packet) else {
                    continue;
                };
                let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(reply) = lease(&packet[..n], &known) {
                    let _ = socket.send_to(&reply, (everybody, 68));
                }
            }
        });
        Ok(dhcp)
    }

    /// Gives the port with this hardware an address from now on.
    ///
    /// # Errors
    /// When it is no hardware's.
    pub fn add(&self, hardware: &str, address: Ipv4Addr) -> Result<()> {
        let bytes = hardware.split(':').map(|b| u8::from_str_radix(b, 16));
        let bytes = bytes.collect::<Result<Vec<u8>, _>>()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(bytes, address);
        Ok(())
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The answer to a request of a known port's.
fn lease(asked: &[u8], known: &BTreeMap<Vec<u8>, Ipv4Addr>) -> Option<Vec<u8>> {
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    if asked.len() <= 240 || asked[0] != 1 || asked[236..240] != COOKIE {
        return None;
    }
    let address = known.get(&asked[28..34])?;
    let mut options = &asked[240..];
    let mut kind = None;
    while let [code, rest @ ..] = options {
        match (*code, rest) {
            (255, _) => break,
            (0, rest) => options = rest,
            (code, [length, rest @ ..]) => {
                let value = rest.get(..usize::from(*length))?;
                if code == 53 {
                    kind = value.first().copied();
                }
                options = &rest[usize::from(*length)..];
            }
            _ => break,
        }
    }
    let reply = match kind? {
        1 => 2, // discover, offer
        3 => 5, // request, acknowledgement
        _ => return None,
    };
    let mut out = asked[..240].to_vec();
    out[0] = 2;
    out[16..20].copy_from_slice(&address.octets());
    out[20..24].copy_from_slice(&LAPTOP.octets());
    out[44..236].fill(0);
    let mask = Ipv4Addr::from(u32::MAX << (32 - PREFIX));
    out.extend([53, 1, reply]);
    for (code, value) in [(54, LAPTOP), (1, mask), (3, LAPTOP), (245, WIRE)] {
        out.extend([code, 4]);
        out.extend(value.octets());
    }
    out.extend([51, 4]);
    out.extend(86_400_u32.to_be_bytes());
    out.push(255);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_for_one_port_alone() {
        let mut asked = vec![0; 240];
        asked[0] = 1;
        asked[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        asked[236..240].copy_from_slice(&[99, 130, 83, 99]);
        asked.extend([12, 1, b'x', 53, 1, 1, 255]);
        let known = |last| BTreeMap::from([(vec![2, 0, 0, 0, 0, last], Ipv4Addr::new(10, 99, 1, 7))]);
        let reply = lease(&asked, &known(1)).unwrap();
        assert_eq!((reply[0], &reply[16..20], reply[242]), (2, &[10, 99, 1, 7][..], 2));
        assert!(lease(&asked, &known(2)).is_none());
    }
}
