//! NoCloud and config drives: folders, drives, web servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_agent::source::seed;
use herdsman_tests::metadata::{Place, Service};
use herdsman_wire::Code;

use super::{PACE, host, join, script};

fn write(root: &Path, path: &str, content: &str) -> Result<()> {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    Ok(std::fs::write(path, content)?)
}

async fn node(place: &Place, service: &Service) -> Result<Option<String>> {
    let found = host(place.path(), service.address, PACE).look().await?;
    Ok(found.and_then(|f| f.join.node).map(|n| n.to_string()))
}

#[tokio::test]
async fn the_file_comes_first_then_nocloud_then_the_cloud() -> Result<()> {
    let place = Place::new(Some(Cloud::Hetzner), "0a-1")?;
    let service = Service::start(Some(Cloud::Hetzner))?;
    ensure!(node(&place, &service).await?.is_none());
    service.set_user_data(script(&join("demo-w0")?).as_bytes());
    ensure!(node(&place, &service).await?.as_deref() == Some("demo-w0"));
    let asked = service.facts().log.len();
    for (path, name) in [
        ("var/lib/cloud/seed/nocloud-net/user-data", "demo-w1"),
        ("var/lib/cloud/seed/nocloud/user-data", "demo-w2"),
    ] {
        write(place.path(), path, &script(&join(name)?))?;
        ensure!(node(&place, &service).await?.as_deref() == Some(name));
    }
    write(place.path(), "var/lib/herdsman/join.json", &join("demo-w3")?)?;
    ensure!(node(&place, &service).await?.as_deref() == Some("demo-w3"));
    ensure!(service.facts().log.len() == asked, "{:?}", service.facts().log);
    Ok(())
}

#[tokio::test]
async fn what_was_found_is_kept_and_another_cluster_gets_no_old_keys() -> Result<()> {
    let place = Place::new(None, "0a-1")?;
    let idle = Service::start(None)?;
    let state = place.path().join("var/lib/herdsman");
    let mut clusters = Vec::new();
    for (name, kept) in [("demo-w0", false), ("demo-w0", true), ("demo-w1", false)] {
        if !kept {
            let mut join: serde_json::Value = serde_json::from_str(&join(name)?)?;
            join["paths"]["state"] = state.display().to_string().into();
            let seed = "var/lib/cloud/seed/nocloud/user-data";
            write(place.path(), seed, &script(&join.to_string()))?;
            let _ = std::fs::remove_file(place.join());
        }
        let found = host(place.path(), idle.address, PACE).wait().await;
        ensure!(found.join.node.map(|n| n.to_string()).as_deref() == Some(name));
        ensure!(place.join_mode()? == 0o600);
        // The identity of the cluster before is gone, one's own stays.
        ensure!(state.join("identity.json").exists() == kept);
        std::fs::write(state.join("identity.json"), "{}")?;
        clusters.push(found.join.cluster);
    }
    ensure!(clusters[0] == clusters[1] && clusters[1] != clusters[2]);
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_is_replaced_by_what_is_found_elsewhere() -> Result<()> {
    let place = Place::new(None, "0a-1")?;
    let idle = Service::start(None)?;
    let text = join("demo-w0")?;
    write(place.path(), "var/lib/herdsman/join.json", &text[..text.len() / 2])?;
    let e = host(place.path(), idle.address, PACE)
        .look()
        .await
        .err()
        .context("half a file")?;
    ensure!(e.code == Code::Malformed && e.message.contains("join.json"), "{e}");
    write(place.path(), "var/lib/cloud/seed/nocloud/user-data", &script(&text))?;
    let found = host(place.path(), idle.address, PACE).wait().await;
    ensure!(found.join.node.is_some_and(|n| n.as_str() == "demo-w0"));
    ensure!(std::fs::read_to_string(place.join())? == text.trim());
    Ok(())
}

#[tokio::test]
async fn a_damaged_seed_does_not_hide_the_cloud() -> Result<()> {
    let place = Place::new(Some(Cloud::DigitalOcean), "0a-1")?;
    let service = Service::start(Some(Cloud::DigitalOcean))?;
    let seed = "var/lib/cloud/seed/nocloud/user-data";
    write(place.path(), seed, "#HERDSMAN-JOIN-BEGIN\n{\"cut\": ")?;
    let e = node(&place, &service).await.err().context("damage was taken")?;
    ensure!(e.to_string().contains(seed) && e.to_string().contains("cut off"), "{e}");
    service.set_user_data(script(&join("demo-w0")?).as_bytes());
    ensure!(node(&place, &service).await?.as_deref() == Some("demo-w0"));
    Ok(())
}

#[tokio::test]
async fn a_web_server_named_by_firmware_or_kernel() -> Result<()> {
    let web = Service::start(None)?;
    let idle = Service::start(None)?;
    web.set("/seed/user-data", script(&join("demo-w0")?));
    let line = format!("ds=nocloud-net;s=http://{}/seed/", web.address);
    let place = Place::new(None, "0a-1")?;
    place.firmware("product_serial", &line)?;
    ensure!(node(&place, &idle).await?.as_deref() == Some("demo-w0"));
    let place = Place::new(None, "0a-1")?;
    write(
        place.path(),
        "proc/cmdline",
        &format!("ro quiet {line} console=ttyS0\n"),
    )?;
    ensure!(node(&place, &idle).await?.as_deref() == Some("demo-w0"));
    place.firmware("product_serial", "ds=nocloud;s=http://seed.example/")?;
    let e = host(place.path(), idle.address, PACE)
        .look()
        .await
        .err()
        .context("a name")?;
    ensure!(e.code == Code::Usage && !e.hint.is_empty(), "{e}");
    Ok(())
}

/// A drive with files, attached as a block device until it is dropped.
struct Loop(PathBuf);

impl Loop {
    fn attach(image: &Path) -> Result<Self> {
        let out = Command::new("losetup").args(["--show", "-f"]).arg(image).output()?;
        ensure!(out.status.success(), "{out:?}");
        Ok(Self(String::from_utf8(out.stdout)?.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(out.status.success(), "{program}: {out:?}");
    Ok(())
}

#[tokio::test]
async fn a_drive_that_is_mounted_already() -> Result<()> {
    let place = Place::new(None, "0a-1")?;
    let idle = Service::start(None)?;
    let files = place.path().join("files");
    write(&files, "user-data", &script(&join("demo-w0")?))?;
    write(&files, "openstack/latest/user_data", &script(&join("demo-w1")?))?;
    let image = place.path().join("drive.img");
    std::fs::File::create(&image)?.set_len(4 << 20)?;
    run(
        "mke2fs",
        &["-q".as_ref(), "-d".as_ref(), files.as_os_str(), image.as_os_str()],
    )?;
    let drive = Loop::attach(&image)?;
    let at = place.path().join("mnt");
    std::fs::create_dir_all(&at)?;
    run(
        "mount",
        &["-o".as_ref(), "ro".as_ref(), drive.0.as_os_str(), at.as_os_str()],
    )?;
    let labels = place.path().join("dev/disk/by-label");
    std::fs::create_dir_all(&labels)?;
    let mut found = Vec::new();
    for label in ["config-2", "cidata"] {
        std::os::unix::fs::symlink(&drive.0, labels.join(label))?;
        found.push(node(&place, &idle).await);
    }
    run("umount", &[at.as_os_str()])?;
    let found: Vec<_> = found.into_iter().collect::<Result<_>>()?;
    ensure!(
        found == [Some("demo-w1".to_owned()), Some("demo-w0".to_owned())],
        "{found:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_drive_that_is_mounted_for_a_moment() -> Result<()> {
    let known = std::fs::read_to_string("/proc/filesystems")?;
    if !known.contains("\tvfat") {
        eprintln!("SKIPPED: this kernel has no vfat");
        return Ok(());
    }
    let place = Place::new(None, "0a-1")?;
    let idle = Service::start(None)?;
    let image = place.path().join("drive.img");
    let text = place.path().join("text");
    std::fs::write(&text, script(&join("demo-w0")?))?;
    std::fs::File::create(&image)?.set_len(1440 * 1024)?;
    let [i, image_] = ["-i".as_ref(), image.as_os_str()];
    run(
        "mformat",
        &[
            i,
            image_,
            "-v".as_ref(),
            "cidata".as_ref(),
            "-f".as_ref(),
            "1440".as_ref(),
            "::".as_ref(),
        ],
    )?;
    run("mcopy", &[i, image_, text.as_os_str(), "::user-data".as_ref()])?;
    let drive = Loop::attach(&image)?;
    let labels = place.path().join("dev/disk/by-label");
    std::fs::create_dir_all(&labels)?;
    std::os::unix::fs::symlink(&drive.0, labels.join("cidata"))?;
    ensure!(node(&place, &idle).await?.as_deref() == Some("demo-w0"));
    // For who may not mount there are copies, which do not outlive the next start.
    seed::copy_all(place.path())?;
    let copy = place.path().join("run/herdsman-seed/cidata/user-data");
    ensure!(std::fs::read(&copy)? == std::fs::read(&text)?);
    std::fs::write(&copy, script(&join("demo-w1")?))?;
    ensure!(node(&place, &idle).await?.as_deref() == Some("demo-w1"));
    std::fs::remove_file(labels.join("cidata"))?;
    seed::copy_all(place.path())?;
    ensure!(!copy.exists() && node(&place, &idle).await?.is_none());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&drive.0.display().to_string()), "{mounts}");
    Ok(())
}
