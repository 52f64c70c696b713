//! What a machine is told at its first boot: a `NoCloud` seed with its address.
//! <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>

use std::fs;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use herdsman_wire::Secret;

use super::iso;
use super::net::{OUTSIDE, OUTSIDE_DNS, OUTSIDE_GATEWAY, PREFIX};
use super::record::NodeRecord;

/// Takes the place of user-data once it is worthless.
const SPENT: &str = "#cloud-config\n# This machine is a node; what stood here is worthless and gone.\n";

/// Writes the seed; where user-data lies in it goes into the record.
pub(super) fn write(path: &Path, record: &mut NodeRecord, user_data: &Secret) -> io::Result<()> {
    let meta = format!(
        "instance-id: {}-{}\nlocal-hostname: {}\n",
        record.cluster.id, record.node, record.node
    );
    let network = network(record);
    let image = iso::write(
        "cidata",
        &[
            ("user-data", user_data.reveal().as_bytes()),
            ("meta-data", meta.as_bytes()),
            ("network-config", network.as_bytes()),
        ],
    );
    record.user_data = image.files.first().copied();
    let bytes = zeroize::Zeroizing::new(image.bytes);
    super::record::write(path, &bytes)
}

/// Overwrites user-data in place, so that a running machine goes on seeing a whole
/// file system with the same instance, and starts nothing anew at its next boot.
pub(super) fn spend(path: &Path, record: &NodeRecord) -> io::Result<()> {
    let Some((offset, length)) = record.user_data else {
        return Ok(());
    };
    let mut text = vec![b'\n'; length];
    let n = SPENT.len().min(length);
    text[..n].copy_from_slice(&SPENT.as_bytes()[..n]);
    let mut file = match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(&text)?;
    file.sync_all()
}

/// Version 1 of cloud-init's network configuration, which every release of it and
/// every distribution takes.
fn network(record: &NodeRecord) -> String {
    let interface = |name: &str, mac: &str, rest: &str| {
        format!(
            "- type: physical\n  name: {name}\n  mac_address: \"{mac}\"\n  subnets:\n  - type: static\n    {rest}\n"
        )
    };
    let outside = format!("address: {OUTSIDE}\n    gateway: {OUTSIDE_GATEWAY}\n    dns_nameservers: [{OUTSIDE_DNS}]");
    let cluster = format!("address: {}/{PREFIX}", record.address);
    format!(
        "version: 1\nconfig:\n{}{}",
        interface("eth0", &record.outside_mac(), &outside),
        interface("eth1", &record.mac(), &cluster)
    )
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn the_secret_can_be_overwritten_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.iso");
        let mut record = record("demo-w0", 1);
        write(&path, &mut record, &Secret::new("{\"key\": \"the secret\"}")).unwrap();
        let before = fs::read(&path).unwrap();
        let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has(&before, "the secret") && has(&before, "address: 10.89.0.17/16"));
        spend(&path, &record).unwrap();
        let after = fs::read(&path).unwrap();
        assert!(!has(&after, "the secret") && has(&after, "#cloud-config\n"));
        assert!(has(&after, "instance-id: aaaaaaaaaa-demo-w0\n"));
        assert_eq!(before.len(), after.len());
        spend(&dir.path().join("none"), &record).unwrap();
    }
}
