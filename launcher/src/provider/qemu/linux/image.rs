//! The user's disk image: looked at before anything is made from it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::Code;
use serde::Deserialize;
use tokio::process::Command;

use super::super::super::ProviderError;
use super::super::QemuSettings;
use super::record::Image;
use super::{disk, fail};

/// `qemu-img` answers at once; a network file system may not.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `qemu-img info --output=json` says, as far as it counts here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    #[serde(default)]
    backing_filename: Option<String>,
    #[serde(default)]
    format_specific: Option<FormatSpecific>,
}

#[derive(Debug, Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: serde_json::Value,
}

/// Looks at the image of the settings.
///
/// # Errors
/// `E-USAGE` when none is named, `E-NOT-FOUND` when it is not there,
/// `E-MALFORMED` when it is none, `E-MISMATCH` when it is another.
pub(super) async fn look(settings: &QemuSettings) -> Result<Image, ProviderError> {
    let Some(path) = &settings.image else {
        return Err(ProviderError {
            hint: vec![
                "name one in herdsman.toml: [qemu] image = \"debian-12-genericcloud-amd64.qcow2\"".into(),
                "Debian's are at https://cloud.debian.org/images/cloud/bookworm/latest/".into(),
            ],
            ..fail(Code::Usage, "provider qemu needs a disk image to start machines from")
        });
    };
    let path = there(path)?;
    let kernel = match &settings.kernel {
        Some((kernel, initrd)) => Some((there(kernel)?, initrd.as_deref().map(there).transpose()?)),
        None => None,
    };
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json", "--force-share"]).arg(&path);
    let info = run(command, "qemu-img").await?;
    let (format, size) = check(&info, &path)?;
    if let Some(wanted) = settings.sha256.clone() {
        let file = path.clone();
        let found = super::blocking(move || hash(&file)).await?.map_err(disk(&path))?;
        if found != wanted {
            return Err(ProviderError {
                hint: vec!["download it again, or correct qemu.sha256".into()],
                ..fail(
                    Code::Mismatch,
                    format!("{} has the SHA-256 {found}, not {wanted}", path.display()),
                )
            });
        }
    }
    Ok(Image {
        path,
        format,
        size,
        kernel,
    })
}

fn there(path: &Path) -> Result<PathBuf, ProviderError> {
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        Ok(path) => Err(fail(Code::NotFound, format!("{} is no file", path.display()))),
        Err(e) => Err(fail(Code::NotFound, format!("{}: {e}", path.display()))),
    }
}

/// An image that leads to other files would let whoever made it read them through
/// a machine.
fn check(info: &str, path: &Path) -> Result<(String, u64), ProviderError> {
    let bad = |why: String| {
        fail(
            Code::Malformed,
            format!("{} cannot be used as an image: {why}", path.display()),
        )
    };
    let info: Info = serde_json::from_str(info).map_err(|e| bad(format!("qemu-img answered {e}")))?;
    if !matches!(info.format.as_str(), "qcow2" | "raw") {
        return Err(bad(format!("its format is {}, not qcow2 or raw", info.format)));
    }
    if let Some(backing) = info.backing_filename {
        return Err(bad(format!("it stands on another one, {backing}")));
    }
    let data_file = info.format_specific.is_some_and(|f| !f.data["data-file"].is_null());
    if data_file {
        return Err(bad("its data lies in another file".into()));
    }
    if info.virtual_size == 0 {
        return Err(bad("it is empty".into()));
    }
    Ok((info.format, info.virtual_size))
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// A disk of its own for a machine: what it writes, over the image.
pub(super) async fn overlay(image: &Image, disk: &Path, size: u64) -> Result<(), ProviderError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", &image.format, "-b"]);
    command.arg(&image.path).arg(disk).arg(size.max(image.size).to_string());
    run(command, "qemu-img").await.map(|_| ())
}

/// Runs one of QEMU's programs to its end; gives what it printed.
pub(super) async fn run(mut command: Command, name: &str) -> Result<String, ProviderError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.output()).await;
    let done = done.map_err(|_| {
        fail(
            Code::Deadline,
            format!("{name} did not end within {} s", PATIENCE.as_secs()),
        )
    })?;
    let output = done.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => ProviderError {
            hint: vec![
                "Debian, Ubuntu: apt install qemu-system-x86 qemu-utils".into(),
                "Fedora: dnf install qemu-kvm qemu-img".into(),
            ],
            ..fail(Code::NotFound, format!("the program {name} is not on the path"))
        },
        _ => fail(Code::Provider, format!("{name}: {e}")),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(fail(Code::Provider, format!("{name} failed: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_lead_to_other_files_are_refused() {
        let good = r#"{"format": "qcow2", "virtual-size": 100, "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}"#;
        assert_eq!(check(good, Path::new("x")).unwrap(), ("qcow2".into(), 100));
        for (bad, said) in [
            (r#"{"format": "vmdk", "virtual-size": 100}"#, "vmdk"),
            (r#"{"format": "raw", "virtual-size": 0}"#, "empty"),
            (
                r#"{"format": "qcow2", "virtual-size": 1, "backing-filename": "/etc/shadow"}"#,
                "/etc/shadow",
            ),
            (
                r#"{"format": "qcow2", "virtual-size": 1, "format-specific": {"data": {"data-file": "/etc/shadow"}}}"#,
                "another file",
            ),
            ("[]", "qemu-img answered"),
        ] {
            let e = check(bad, Path::new("x")).unwrap_err();
            assert!(e.code == Code::Malformed && e.message.contains(said), "{e}");
        }
    }

    #[tokio::test]
    async fn an_image_must_be_named_be_there_and_be_the_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut settings = QemuSettings::default();
        assert_eq!(look(&settings).await.unwrap_err().code, Code::Usage);
        settings.image = Some(path.clone());
        assert_eq!(look(&settings).await.unwrap_err().code, Code::NotFound);
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            hash(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
