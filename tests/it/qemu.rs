//! Provider `qemu`: commands without a machine always, one real cluster in the
//! complete suite.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran};
use herdsman_tests::machines::cluster::static_agent;
use herdsman_tests::machines::disk::built;
use herdsman_tests::machines::{available, complete};
use herdsman_tests::mirror::{Manner, Mirror};
use herdsman_wire::limits::BOOTSTRAP_LIFE;

/// This computer as machines see it.
const GATEWAY: &str = "10.0.2.2";

/// Writes distributed and what it needs into an archive.
const PACK: &str = "
import importlib.metadata as m, re, sys, tarfile
found, todo = {}, ['distributed']
while todo:
    name = re.sub('[-_.]+', '-', todo.pop()).lower()
    if name not in found:
        d = found[name] = m.distribution(name)
        needs = [r for r in d.requires or [] if 'extra ==' not in r]
        for need in needs:
            name = re.match('[A-Za-z0-9._-]+', need)[0]
            try:
                m.distribution(name)
            except m.PackageNotFoundError:
                continue
            todo.append(name)
with tarfile.open(sys.argv[1], 'w:gz', compresslevel=1) as t:
    for d in found.values():
        for f in d.files or []:
            if '..' not in f.parts and f.locate().is_file() and f.suffix != '.pyc':
                t.add(f.locate(), str(f))
";

/// `scripts/test` installs it, as it does systemd-nspawn.
fn needs_qemu() -> Result<()> {
    for name in ["qemu-img", "qemu-system-x86_64"] {
        let runs = Command::new(name).arg("--version").output();
        let said = "install qemu-system-x86 and qemu-utils";
        ensure!(
            runs.with_context(|| format!("{name}: {said}"))?.status.success(),
            "{name}: {said}"
        );
    }
    Ok(())
}

fn project(home: &Home, qemu: &str) -> Result<()> {
    let text = format!("provider = \"qemu\"\n[env]\nmode = \"none\"\n{qemu}");
    Ok(std::fs::write(home.path().join("herdsman.toml"), text)?)
}

fn clean(home: &Home) -> Result<()> {
    home.assert_clean()?;
    let folder = home.path().join("s/qemu");
    let left: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().collect();
    ensure!(left.is_empty(), "{left:?}");
    let ours = folder.display().to_string();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        ensure!(!line.contains(&ours), "a machine is left: {line}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_an_image_is_told_before_a_machine_is_made() -> Result<()> {
    let home = Home::new()?;
    let agent = "[agent]\nurl = [\"http://10.0.2.2:1/agent\"]\n";
    let image = home.path().join("image.qcow2");
    let run = |qemu: &str| -> Result<_> {
        project(&home, &format!("{agent}[qemu]\n{qemu}"))?;
        let ran = home.run(&["up", "demo", "--workers", "1"])?;
        ensure!(ran.code != 0, "{ran:?}");
        clean(&home)?;
        Ok(ran.err)
    };
    let none = run("")?;
    ensure!(
        none.contains("error[E-USAGE]") && none.contains("cloud.debian.org"),
        "{none}"
    );
    let missing = run("image = \"image.qcow2\"\n")?;
    ensure!(
        missing.contains("error[E-NOT-FOUND]") && missing.contains("image.qcow2"),
        "{missing}"
    );
    needs_qemu()?;
    let make = |args: &[&str]| -> Result<()> {
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args(args)
            .status()?;
        ensure!(status.success());
        Ok(())
    };
    let path = image.to_str().context("path")?;
    make(&["-b", "/etc/passwd", "-F", "raw", path])?;
    let leads = run("image = \"image.qcow2\"\n")?;
    ensure!(
        leads.contains("E-MALFORMED") && leads.contains("/etc/passwd"),
        "{leads}"
    );
    make(&[path, "1M"])?;
    let other = run(&format!("image = \"image.qcow2\"\nsha256 = \"{}\"\n", "0".repeat(64)))?;
    ensure!(
        other.contains("error[E-MISMATCH]") && other.contains("qemu.sha256"),
        "{other}"
    );
    let huge = run("image = \"image.qcow2\"\n[scheduler]\nmemory = \"900TiB\"\n")?;
    ensure!(huge.contains("error[E-QUOTA]") && huge.contains("MiB left"), "{huge}");
    Ok(())
}

#[test]
fn machines_without_a_system_are_made_found_and_deleted() -> Result<()> {
    needs_qemu()?;
    let home = Home::new()?;
    let image = home.path().join("image.raw");
    std::fs::File::create(&image)?.set_len(1 << 20)?;
    project(
        &home,
        "[agent]\nurl = [\"http://10.0.2.2:1/agent\"]\n[scheduler]\nmemory = \"64MiB\"\n[[workers]]\n\
         memory = \"64MiB\"\n[qemu]\nimage = \"image.raw\"\naccel = \"tcg\"\n",
    )?;
    // Nothing boots from an empty disk, so nobody ever answers.
    let up = home.run(&["up", "demo", "--workers", "2", "--start-timeout", "6s", "--keep-failed"])?;
    ensure!(up.code != 0 && up.err.contains("did not answer in time"), "{up:?}");
    let row = home.json(&["ls"])?["clusters"][0].clone();
    ensure!(row["provider"] == "qemu" && row["workers"] == "2", "{row}");
    let folder = std::fs::read_dir(home.path().join("s/qemu"))?
        .next()
        .context("no cluster")??
        .path();
    let seed = std::fs::metadata(folder.join("demo-w0/seed.iso"))?;
    ensure!(std::os::unix::fs::PermissionsExt::mode(&seed.permissions()) & 0o777 == 0o600);
    // Without any record of it, by what runs.
    std::fs::remove_file(home.path().join("herdsman.toml"))?;
    std::fs::remove_dir_all(folder.join("demo-w1"))?;
    let down = home.ok(&["down", "demo", "-y"])?;
    ensure!(down.err.contains("0 left"), "{down:?}");
    clean(&home)
}

/// Serves a file to machines; its address as they see it.
fn served(content: &[u8]) -> Result<(Mirror, String)> {
    let mirror = Mirror::serve(content, Manner::Whole)?;
    let url = mirror.url().replace("127.0.0.1", GATEWAY).replace("-{arch}", "");
    Ok((mirror, url))
}

#[test]
fn a_stock_system_becomes_a_cluster_that_computes() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    needs_qemu()?;
    let disk = built("disk")?;
    let home = Home::new()?;
    let agent = static_agent()?;
    let (_agent, agent_url) = served(&std::fs::read(&agent)?)?;
    let archive = home.path().join("dask.tar.gz");
    let packed = Command::new(home.python()).args(["-c", PACK]).arg(&archive).status()?;
    ensure!(packed.success(), "distributed cannot be packed");
    let (_dask, dask_url) = served(&std::fs::read(&archive)?)?;
    let python = "/opt/dask/bin/python";
    project(
        &home,
        &format!(
            "image_python = \"{python}\"\n\
             [agent]\nurl = [\"{agent_url}\"]\n[scheduler]\nmemory = \"1GiB\"\n[[workers]]\nmemory = \"1GiB\"\n\
             [qemu]\nimage = \"{0}/disk.ext4\"\nkernel = \"{0}/vmlinuz\"\ninitrd = \"{0}/initrd\"\n",
            disk.display()
        ),
    )?;
    // Above the tables: before the first of them.
    let file = home.path().join("herdsman.toml");
    let text = std::fs::read_to_string(&file)?;
    let extra = format!(
        "extra_bootstrap = [\"python3 -m venv --without-pip /opt/dask\", \"{} {dask_url} | tar xz -C /opt/dask/lib/python3.*/site-packages\"]\n",
        "curl -fsS"
    );
    std::fs::write(&file, extra + &text)?;
    let wait = format!("{}s", BOOTSTRAP_LIFE.as_secs());
    let mut up = home.command(&["up", "demo", "--workers", "2", "--start-timeout", &wait, "-o", "json"])?;
    let up: Ran = up.env("HERDSMAN_AGENT", &agent).output()?.into();
    ensure!(up.code == 0, "{}", up.err);
    let up: serde_json::Value = serde_json::from_str(&up.out)?;
    ensure!(up["workers"]["ready"] == 2 && up["provider"] == "qemu", "{up}");
    // Workers reach each other: one's data is wanted by the other.
    let out = home.compute(
        "demo",
        "
from dask.distributed import Client
c = Client()
a = c.submit(lambda: b'x' * 10**6, workers=['demo-w0'], pure=False)
print(c.submit(len, a, workers=['demo-w1'], pure=False).result())",
    )?;
    ensure!(out.trim() == "1000000", "{out}");
    let boot = home.ok(&["logs", "demo", "demo-w1", "--boot"])?.out;
    ensure!(boot.contains("herdsman: the agent is"), "{boot}");
    let folder = std::fs::read_dir(home.path().join("s/qemu"))?
        .next()
        .context("no cluster")??
        .path();
    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        let seed = std::fs::read(folder.join(node).join("seed.iso"))?;
        let secret = seed.windows(11).any(|w| w == b"PRIVATE KEY");
        ensure!(!secret, "the key of {node} is still in its seed");
    }
    let scaled = home.json(&["scale", "demo", "1"])?;
    ensure!(scaled["ready"] == 1, "{scaled}");
    home.ok(&["down", "demo", "-y"])?;
    clean(&home)
}
