//! NoCloud: first data without any cloud, as cloud-init documents it ("NoCloud" in its
//! reference of datasources). A folder of the image, a drive labelled `cidata`, or a
//! web server that the kernel's command line or the SMBIOS serial number names as
//! `ds=nocloud;s=http://ADDRESS/FOLDER/`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, Code};

use super::dmi::Dmi;
use super::metadata::{Metadata, Pace};
use super::seed::Drive;
use super::{Text, extract};
use crate::files::read_limited;

const FOLDERS: [&str; 3] = [
    "var/lib/cloud/seed/nocloud",
    "var/lib/cloud/seed/nocloud-net",
    "writable/system-data/var/lib/cloud/seed/nocloud-net",
];
/// What is read of a drive.
pub(super) const DRIVE: [&str; 1] = ["user-data"];
/// cloud-init takes the label in either case.
pub(super) const LABELS: [&str; 2] = ["cidata", "CIDATA"];

/// Where a join configuration may be.
///
/// # Errors
/// When something is there and cannot be read.
pub async fn texts(root: &Path, dmi: &Dmi, pace: Pace) -> Result<Vec<Text>, ApiError> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let path = root.join(folder).join("user-data");
        if let Some(content) = read_limited(&path, extract::LARGEST)? {
            found.push(Text::new(path.display().to_string(), content));
        }
    }
    if let Some(drive) = Drive::labelled(root, &LABELS)?
        && let Some(content) = drive.file(DRIVE[0])?
    {
        found.push(Text::new("user-data of the drive `cidata`", content));
    }
    let command_line = std::fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default();
    let lines = std::iter::once(dmi.product_serial.as_str()).chain(command_line.split_whitespace());
    for line in lines {
        if let Some(place) = seed_of(line) {
            found.extend(fetch(root, &place, pace).await?);
        }
    }
    Ok(found)
}

/// The instance's id as the seed in the image tells it; with another one the machine
/// is another one.
#[must_use]
pub fn instance_id(root: &Path) -> Option<String> {
    FOLDERS.iter().find_map(|folder| {
        let bytes = read_limited(&root.join(folder).join("meta-data"), extract::LARGEST);
        id_in(&String::from_utf8_lossy(&bytes.ok()??))
    })
}

/// `instance-id` of YAML or JSON; only its simplest forms are in use.
fn id_in(meta_data: &str) -> Option<String> {
    let fields = meta_data.split(['\n', ',', '{', '}']);
    fields.filter_map(|f| f.split_once(':')).find_map(|(key, value)| {
        let bare = |s: &str| s.trim().trim_matches(['"', '\'']).to_owned();
        (bare(key) == "instance-id")
            .then(|| bare(value))
            .filter(|id| !id.is_empty())
    })
}

/// The place that a line `ds=nocloud;s=PLACE` names.
fn seed_of(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("ds=")?;
    let mut fields = rest.split(';');
    // Systems add a mode behind the name: `nocloud-net[...]`.
    let kind = fields.next()?.to_ascii_lowercase();
    if kind != "nocloud" && kind != "nocloud-net" {
        return None;
    }
    let value = |f: &str| Some(f.strip_prefix("s=").or_else(|| f.strip_prefix("seedfrom="))?.to_owned());
    fields.find_map(value).filter(|s| !s.is_empty())
}

async fn fetch(root: &Path, place: &str, pace: Pace) -> Result<Option<Text>, ApiError> {
    if let Some(folder) = place
        .strip_prefix("file://")
        .or_else(|| place.starts_with('/').then_some(place))
    {
        let path: PathBuf = root.join(folder.trim_start_matches('/')).join("user-data");
        let content = read_limited(&path, extract::LARGEST)?;
        return Ok(content.map(|c| Text::new(path.display().to_string(), c)));
    }
    let (address, folder) = web_place(place).ok_or_else(|| {
        ApiError::new(
            Code::Usage,
            "NoCloud's web server has to be given as http://ADDRESS[:PORT]/FOLDER/ with a number as its address",
        )
        .with_hint("the agent looks no names up; name the server by its address")
    })?;
    let path = format!("{folder}user-data");
    let answer = Metadata::new(vec![address], pace).get(&path, &[]).await;
    let content = answer.and_then(|a| a.content(&path)).map_err(|e| e.told("NoCloud"))?;
    Ok(content.map(|c| Text::new("user-data of NoCloud's web server", c)))
}

/// Address and folder of `http://ADDRESS[:PORT]/FOLDER`.
fn web_place(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, folder) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let plain = host.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, 80));
    let address = host.parse::<SocketAddr>().or(plain).ok()?;
    Some((address, folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_a_place() {
        for (line, place) in [
            ("ds=nocloud;s=http://10.0.2.2:8000/", Some("http://10.0.2.2:8000/")),
            ("ds=nocloud-net;h=x;s=http://[::1]/a/", Some("http://[::1]/a/")),
            ("ds=nocloud;seedfrom=file:///seed/", Some("file:///seed/")),
            ("ds=nocloud", None),
            ("ds=nocloud;s=", None),
            ("ds=ec2;s=http://10.0.2.2/", None),
            ("VMware-56 4d", None),
        ] {
            assert_eq!(seed_of(line).as_deref(), place, "{line}");
        }
    }

    #[test]
    fn places_are_addresses() {
        for (url, address, folder) in [
            ("http://10.0.2.2:8000/", "10.0.2.2:8000", "/"),
            ("http://10.0.2.2", "10.0.2.2:80", "/"),
            ("http://[fd00::2]/x/", "[fd00::2]:80", "/x/"),
        ] {
            assert_eq!(web_place(url), Some((address.parse().unwrap(), folder.to_owned())));
        }
        for bad in [
            "https://10.0.2.2/",
            "http://seed.example/",
            "ftp://10.0.2.2/",
            "http://",
        ] {
            assert_eq!(web_place(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_of_yaml_and_json() {
        for (text, id) in [
            ("instance-id: demo-w0\nlocal-hostname: x\n", Some("demo-w0")),
            ("{\"instance-id\": \"i-1\", \"a\": 1}", Some("i-1")),
            ("local-hostname: x\n", None),
            ("instance-id:\n", None),
            ("", None),
        ] {
            assert_eq!(id_in(text).as_deref(), id, "{text}");
        }
    }
}
