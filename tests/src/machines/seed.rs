//! The NoCloud seed of a machine: what a cloud's metadata service tells it.
//! Format: cloud-init's documentation, "NoCloud" and "Networking config version 2".

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::disk::Layer;
use super::network::{LAPTOP, PREFIX};

/// Where cloud-init looks for a seed on the disk.
pub const FOLDER: &str = "/var/lib/cloud/seed/nocloud";

/// A machine's user-data, in the forms that clouds take.
#[derive(Clone, Debug, Default)]
pub struct UserData(pub Vec<u8>);

impl From<&str> for UserData {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for UserData {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<Vec<u8>> for UserData {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// The files of a seed by name.
#[must_use]
pub fn files(
    instance: &str,
    name: &str,
    address: Ipv4Addr,
    port: &str,
    data: &UserData,
) -> [(&'static str, Vec<u8>); 3] {
    let meta = format!("instance-id: {instance}\nlocal-hostname: {name}\n");
    let network = format!(
        "version: 2\nethernets:\n  {port}:\n    addresses: [{address}/{PREFIX}]\n    routes: [{{to: 0.0.0.0/0, via: {LAPTOP}}}]\n"
    );
    [
        ("meta-data", meta.into_bytes()),
        ("user-data", data.0.clone()),
        ("network-config", network.into_bytes()),
    ]
}

/// Puts a seed on a machine's disk, and names its data source.
///
/// # Errors
/// When the name is no host name, or the disk cannot be written.
pub fn plant(layer: &Layer, instance: &str, name: &str, address: Ipv4Addr, data: &UserData) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ensure!(
        !name.is_empty() && name.len() < 64 && name.bytes().all(allowed),
        "`{name}` is no host name"
    );
    for (file, content) in files(instance, name, address, "host0", data) {
        layer.write(&format!("{FOLDER}/{file}"), &content)?;
    }
    // No router ever speaks here; networkd would wait 13 s for one at each boot. The
    // cloud-init of Debian 12 has no word for that.
    layer.write(
        "/etc/systemd/network/10-cloud-init-host0.network.d/no-router.conf",
        b"[Network]\nIPv6AcceptRA=no\n",
    )?;
    // One kind of host key: three of them take a second of every boot. No locale, as
    // the image has no package for them.
    layer.write(
        "/etc/cloud/cloud.cfg.d/99-test.cfg",
        b"datasource_list: [NoCloud]\nssh_genkeytypes: [ed25519]\nlocale: false\n",
    )
}
