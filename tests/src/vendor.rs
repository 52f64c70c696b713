//! A vendor's machine with a kernel, a firmware and a network card of its own, under
//! QEMU. Its firmware has the vendor's strings, its address comes by DHCP, and at the
//! link-local address answers the vendor's metadata service. Nothing in it was changed
//! and nobody tells it who made it: that, cloud-init's own search has to find out.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use serde_json::json;

use crate::azure::Dhcp;
use crate::machines::network::{LAPTOP, PREFIX};
use crate::machines::vm::hardware;
use crate::machines::{Network, Vm, VmSetup};
use crate::metadata::{LINK_LOCAL, Service, firmware};

/// Memory of such a machine in MiB: Dask is installed in it.
const MEMORY: &str = "1536";
/// Version of EC2's tree that cloud-init prefers.
const NEWEST: &str = "2021-03-23";
/// The one that it asks for first, as every imitation has it.
const OLDEST: &str = "2009-04-04";

/// What is known of a machine from the call that made it.
#[derive(Clone, Debug)]
pub struct Birth<'a> {
    /// The vendor.
    pub cloud: Cloud,
    /// The vendor's number of it.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// What was sent for it.
    pub user_data: &'a str,
}

/// The service of a vendor at the link-local address, which the laptop has.
///
/// # Errors
/// When the address cannot be had.
pub fn service(network: &Network, cloud: Cloud) -> Result<Service> {
    claim(network)?;
    network.laptop().inside(|| Service::start_at(Some(cloud), LINK_LOCAL))
}

/// Gives the laptop the link-local address: it is where all ways of machines lead.
///
/// # Errors
/// When it has it already.
pub fn claim(network: &Network) -> Result<()> {
    let own = format!("{}/32", LINK_LOCAL.ip());
    network.laptop().ip(&["address", "add", &own, "dev", "lo"])
}

/// Boots a machine; does not wait for anything. With a service, that tells it of itself;
/// without, somebody else does.
///
/// # Errors
/// When it cannot be booted.
pub fn boot(network: &Arc<Network>, dhcp: &Dhcp, service: Option<&Service>, birth: &Birth<'_>) -> Result<Vm> {
    let mut strings: Vec<(&'static str, String)> = firmware(birth.cloud)
        .into_iter()
        .map(|(k, v)| (k, v.to_owned()))
        .collect();
    match birth.cloud {
        Cloud::Ec2 => {
            // Nitro's firmware: the number of the machine, and a UUID that begins so.
            strings.push(("product_serial", "ec2e1916-9099-7caf-fd21-012345abcdef".into()));
            strings.push(("product_uuid", "ec2e1916-9099-7caf-fd21-012345abcdef".into()));
        }
        Cloud::Gce => strings.push(("product_serial", "GoogleCloud-0123456789ABCDEF0123456789ABCDEF".into())),
        _ => strings.push(("product_serial", birth.id.to_owned())),
    }
    dhcp.add(&hardware(birth.address), birth.address)?;
    if let Some(service) = service {
        for (path, value) in documents(birth) {
            service.set_for(IpAddr::V4(birth.address), &path, value);
        }
    }
    let image = tempfile::tempdir()?;
    let mut folders = Vec::new();
    if birth.cloud == Cloud::Gce {
        // What this vendor's images have: its name server is not of this world.
        let hosts = format!(
            "127.0.0.1 localhost\n{} metadata.google.internal metadata\n",
            LINK_LOCAL.ip()
        );
        std::fs::write(image.path().join("hosts"), hosts)?;
        // The folder's own mode goes with it.
        std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o755))?;
        folders.push((image.path().to_owned(), "/etc".to_owned()));
    }
    let setup = VmSetup {
        arguments: ["-m", MEMORY].map(Into::into).into(),
        firmware: strings,
        folders,
        ..VmSetup::default()
    };
    Vm::boot(network, birth.name, birth.address, "", &setup)
}

/// Wants that cloud-init said at its end which of its sources told of the machine.
///
/// # Errors
/// When it was another, or it has not come so far.
pub fn was_found(vm: &mut Vm, source: &str) -> Result<()> {
    vm.wait_for_console("finished at ")?;
    let console = vm.console();
    let said = console
        .lines()
        .find(|l| l.contains("Cloud-init v.") && l.contains("finished at"));
    let said = said.unwrap_or_default();
    ensure!(said.contains(&format!("Datasource {source}")), "{said}\n{console}");
    Ok(())
}

/// What the service answers: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html>
/// and <https://docs.hetzner.cloud/reference/cloud#server-metadata>.
fn documents(birth: &Birth<'_>) -> Vec<(String, Vec<u8>)> {
    let mac = hardware(birth.address);
    match birth.cloud {
        Cloud::Ec2 => ec2(birth, &mac),
        Cloud::Hetzner => hetzner(birth, &mac),
        _ => Vec::new(),
    }
}

fn ec2(birth: &Birth<'_>, mac: &str) -> Vec<(String, Vec<u8>)> {
    let address = birth.address.to_string();
    let host = format!("ip-{}.ec2.internal", address.replace('.', "-"));
    let network = Ipv4Addr::from(u32::from(birth.address) & (u32::MAX << (32 - PREFIX)));
    let card = format!("network/interfaces/macs/{mac}");
    let leaves = [
        ("ami-id".to_owned(), "ami-0d13000000000002a".to_owned()),
        ("ami-launch-index".into(), "0".into()),
        ("hostname".into(), host.clone()),
        ("instance-action".into(), "none".into()),
        ("instance-id".into(), birth.id.into()),
        ("instance-life-cycle".into(), "on-demand".into()),
        ("instance-type".into(), "t3.large".into()),
        ("local-hostname".into(), host.clone()),
        ("local-ipv4".into(), address.clone()),
        ("mac".into(), mac.into()),
        (format!("{card}/device-number"), "0".into()),
        (format!("{card}/interface-id"), "eni-0123456789abcdef0".into()),
        (format!("{card}/local-hostname"), host),
        (format!("{card}/local-ipv4s"), address),
        (format!("{card}/mac"), mac.into()),
        (format!("{card}/subnet-ipv4-cidr-block"), format!("{network}/{PREFIX}")),
        ("placement/availability-zone".into(), "us-east-1a".into()),
        ("placement/region".into(), "us-east-1".into()),
        ("services/domain".into(), "amazonaws.com".into()),
    ];
    let identity = json!({
        "accountId": "123456789012", "architecture": "x86_64", "availabilityZone": "us-east-1a",
        "imageId": "ami-0d13000000000002a", "instanceId": birth.id, "instanceType": "t3.large",
        "privateIp": birth.address, "region": "us-east-1", "version": "2017-09-30",
    });
    let mut all = Vec::new();
    for version in [NEWEST, OLDEST, "latest"] {
        let root = format!("/{version}/meta-data/");
        // A folder is a list of what is in it, and folders of it end with a slash.
        let mut folders = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (path, value) in &leaves {
            let parts: Vec<&str> = path.split('/').collect();
            for (n, part) in parts.iter().enumerate() {
                let at = parts[..n].iter().map(|p| format!("{p}/")).collect::<String>();
                let entry = format!("{part}{}", if n + 1 < parts.len() { "/" } else { "" });
                let list = folders.entry(at).or_default();
                if !list.contains(&entry) {
                    list.push(entry);
                }
            }
            all.push((format!("{root}{path}"), value.clone().into_bytes()));
        }
        for (folder, list) in folders {
            all.push((format!("{root}{folder}"), list.join("\n").into_bytes()));
        }
        all.push((format!("/{version}/user-data"), birth.user_data.as_bytes().to_vec()));
        let papers = format!("/{version}/dynamic/instance-identity");
        all.push((format!("{papers}/document"), identity.to_string().into_bytes()));
        all.push((papers, b"document".to_vec()));
    }
    all
}

fn hetzner(birth: &Birth<'_>, mac: &str) -> Vec<(String, Vec<u8>)> {
    let number: u64 = birth.id.parse().unwrap_or_default();
    let network = json!({"version": 1, "config": [{
        "type": "physical", "name": "eth0", "mac_address": mac,
        "subnets": [{"type": "static", "address": format!("{}/{PREFIX}", birth.address), "gateway": LAPTOP}],
    }]});
    // The vendor's is YAML, of which JSON is a part.
    let all = json!({
        "hostname": birth.name, "instance-id": number, "public-ipv4": birth.address, "public-keys": [],
        "region": "eu-central", "availability-zone": "fsn1-dc14", "network-config": network, "vendor_data": "",
    });
    [
        ("/hetzner/v1/userdata", birth.user_data.to_owned()),
        ("/hetzner/v1/metadata", all.to_string()),
        ("/hetzner/v1/metadata/instance-id", birth.id.to_owned()),
        ("/hetzner/v1/metadata/hostname", birth.name.to_owned()),
    ]
    .map(|(path, value)| (path.to_owned(), value.into_bytes()))
    .into()
}
