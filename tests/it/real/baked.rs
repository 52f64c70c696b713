//! Images with the agent in them: no script, no download.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use herdsman_tests::machines::bake::installed;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Machine, Setup, UserData, Vm, VmSetup, available, bake, complete, scan};

use super::cluster;

/// What a machine leaves that somebody made an image of, and no image may have.
const LEFT: [&str; 9] = [
    "etc/ssh/ssh_host_ed25519_key",
    "var/lib/cloud/seed/nocloud/user-data",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/lib/cloud/data/instance-id",
    "var/lib/herdsman/join.json",
    "var/lib/herdsman/machine.json",
    "var/lib/herdsman/identity/key.pem",
    "var/lib/systemd/random-seed",
    "var/log/cloud-init-output.log",
];

fn spoil(tree: &Path) -> Result<()> {
    for path in LEFT {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, "secret\n")?;
    }
    std::fs::write(tree.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")?;
    Ok(())
}

fn looks_new(tree: &Path, id: &str) -> Result<()> {
    for path in LEFT {
        ensure!(!tree.join(path).exists(), "{path} stays in the image");
    }
    ensure!(std::fs::read(tree.join("etc/machine-id"))?.is_empty());
    let state: Vec<_> = std::fs::read_dir(tree.join("var/lib/herdsman"))?
        .flatten()
        .map(|e| e.file_name())
        .collect();
    ensure!(state == ["home"], "{state:?}");
    let environments = tree.join("opt/herdsman/env");
    let names: Vec<_> = std::fs::read_dir(&environments)?
        .flatten()
        .map(|e| e.file_name())
        .collect();
    ensure!(names == [id], "{names:?}");
    ensure!(!tree.join("opt/.herdsman-bake").exists());
    for program in ["usr/local/bin/herdsman-agent", "opt/herdsman/bin/uv"] {
        let meta = std::fs::metadata(tree.join(program))?;
        let owned = meta.uid() == 0 && meta.permissions().mode() & 0o7777 == 0o755;
        ensure!(owned, "{program}: {meta:?}");
    }
    // Nothing is left mounted there, nor was anything put below a mount.
    for folder in ["proc", "run", "dev"] {
        let under = std::fs::read_dir(tree.join(folder))?.count();
        let stock = std::fs::read_dir(herdsman_tests::machines::disk::built("root")?.join(folder))?.count();
        ensure!(under == stock, "{folder}: {under} entries");
    }
    Ok(())
}

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(2, timeout=60)
    assert str(c.scheduler.address).startswith('tls://'), c.scheduler.address
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    import sys
    print(*set(c.run(lambda: sys.prefix).values()))
";

/// User-data in the shapes that it comes in: the JSON object alone, or with other
/// things around it.
fn shaped(node: &str, json: &str) -> UserData {
    match node {
        "demo-w1" => format!(
            "#!/bin/sh\n: <<'HERDSMAN'\n#HERDSMAN-JOIN-BEGIN\n{json}\n#HERDSMAN-JOIN-END\nHERDSMAN\necho hello\n"
        )
        .into(),
        _ => json.into(),
    }
}

fn up(cluster: &mut Cluster, setup: &Setup, workers: &str) -> Result<()> {
    let mut going = cluster.start(&["up", NAME, "--workers", workers, "--env", "copy"])?;
    let started = Instant::now();
    let code = loop {
        for (node, json) in cluster.wanted()? {
            cluster.make(&node, shaped(&node, &json), setup.clone())?;
        }
        if let Some(code) = going.ended()? {
            break code;
        }
        ensure!(started.elapsed() < 2 * LONG, "{}{}", going.said(), cluster.consoles());
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    ensure!(code == 0, "{code}\n{}{}", going.said(), cluster.consoles());
    Ok(())
}

/// It has nothing to do, says so once, and nobody gets in.
fn waits_closed(cluster: &Cluster, idle: &Machine) -> Result<()> {
    idle.wait_for_console("no join configuration yet")?;
    let (stranger, _) = cluster.network.stranger()?;
    let open = scan(&stranger, idle.address(), 8000..=9000)?.open;
    ensure!(open.is_empty(), "{open:?}");
    ensure!(idle.ok("systemctl is-active herdsman-agent")?.trim() == "active");
    let listening = idle.ok("ss -Hltnp | grep -c herdsman || true")?;
    ensure!(listening.trim() == "0", "{listening}");
    ensure!(idle.ok("nft list table inet herdsman")?.contains("8786"));
    Ok(())
}

#[test]
fn a_baked_image_needs_no_script_and_no_download() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    // The server for agents has none, and is asked by nobody.
    cluster.configure("form = \"json\"\n")?;
    let packed = cluster.laptop.project.join("packed");
    let to = packed.to_str().context("path")?;
    // Run in the project's folder, as people name it.
    let id = cluster.ok(&["pkg", "pack", "--to", "packed"])?.out.trim().to_owned();
    let served = cluster.laptop.index.served();
    let folder = cluster.network.run().folder().to_owned();
    let tree = bake(&folder, &["--env", to], spoil)?;
    looks_new(&tree, &id)?;
    ensure!(cluster.laptop.index.served() == served, "baking asks the index");
    let record = format!("opt/herdsman/env/{id}/herdsman.json");
    let made = std::fs::metadata(tree.join(&record))?;

    let setup = Setup {
        tree: Some(tree),
        ..Setup::default()
    };
    let other = cluster.network.address(99);
    let idle = Machine::boot_with(&cluster.network, "idle", other, "#cloud-config\n{}\n", setup.clone())?;
    up(&mut cluster, &setup, "2")?;
    let out = cluster.compute(SUM)?;
    ensure!(out == format!("332833500\n/opt/herdsman/env/{id}/venv\n"), "{out}");
    for (node, machine) in &cluster.machines {
        // The same file, so nothing was installed again.
        let now = machine.ok(&format!("stat -c %Y.%s /{record}"))?;
        ensure!(
            now.trim() == format!("{}.{}", made.mtime(), made.len()),
            "{node}: {now}"
        );
        let kept = machine.ok("ls /opt/herdsman/env")?;
        ensure!(!kept.contains(".cache"), "{node}: {kept}");
    }
    ensure!(cluster.files.requests().is_empty(), "{:?}", cluster.files.requests());

    waits_closed(&cluster, &idle)?;
    // Two machines of one image are two machines.
    let of = |m: &Machine| m.ok("cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub");
    ensure!(of(cluster.machine(SCHEDULER)?)? != of(&idle)?);
    Ok(())
}

#[test]
fn an_agent_in_an_image_reads_a_seed_drive_that_it_may_not_mount() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    let cluster = cluster()?;
    cluster.configure("form = \"json\"\n")?;
    let going = cluster.start(&["up", NAME, "--workers", "0", "--env", "copy", "--wait", "none"])?;
    let started = Instant::now();
    let text = loop {
        if let Some(text) = cluster.wanted()?.remove(SCHEDULER) {
            break text;
        }
        ensure!(started.elapsed() < LONG, "no user-data\n{}", going.said());
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let setup = VmSetup {
        folders: vec![(installed(cluster.laptop.home.path())?, "/".into())],
        ..VmSetup::default()
    };
    let address = cluster.address(SCHEDULER)?;
    let mut vm = Vm::boot(&cluster.network, SCHEDULER, address, text, &setup)?;
    // The image's, which no script has put there.
    vm.wait_for_console("join configuration found in user-data of the drive `cidata`")?;
    vm.wait_for_console(&format!("the agent starts node=\"{SCHEDULER}\""))?;
    Ok(())
}
