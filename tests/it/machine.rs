//! The test machines themselves: what the other tests stand on.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use herdsman_tests::machines::network::LAPTOP;
use herdsman_tests::machines::run;
use herdsman_tests::machines::{
    Files, Machine, Network, Serve, Setup, Vm, VmSetup, available, cgroup, complete, probe, scan,
};
use herdsman_tests::turn::turn;

const FETCH: &str = "curl -sS --fail --max-time 20 -o /var/tmp/got";

/// What this computer has of a machine, its folder and group, and of its network.
fn leftovers(folder: &Path, group: &str, network: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let inside = format!("{}/", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    left.extend(mounts.lines().filter(|l| l.contains(&inside)).map(str::to_owned));
    for name in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        if name == network || name.starts_with(&format!("{network}s")) {
            left.push(name);
        }
    }
    if cgroup::exists(group) || !cgroup::members(group).is_empty() {
        left.push(group.to_owned());
    }
    if folder.exists() {
        left.push(inside);
    }
    Ok(left)
}

#[test]
fn a_stock_machine_runs_its_user_data_once_and_keeps_its_disk() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let _turn = turn();
    let network = Network::new()?;
    let script = "#!/bin/sh
set -eu
echo once >>/var/tmp/ran
uname -n >>/var/tmp/ran
echo THE USER-DATA WAS HERE
";
    let mut machine = Machine::boot(&network, "plain", network.address(1), script)?;
    machine.wait_for_console("THE USER-DATA WAS HERE")?;
    machine.wait_for_cloud_init()?;
    let ran = b"once\nplain\n";
    ensure!(machine.read_file("/var/tmp/ran")? == ran);
    // Stock: as a cloud's image, with nothing of ours and no Dask.
    let bare = "! command -v dask && ! command -v herdsman-agent && ! python3 -c 'import dask' 2>/dev/null";
    machine.ok(bare)?;
    ensure!(
        machine
            .ok("systemctl is-system-running --wait; stat -fc %T /sys/fs/cgroup")?
            .contains("cgroup2fs")
    );
    // Its own firewall, with no way to this machine's.
    machine.ok("nft add table inet mine && nft list tables | grep -qx 'table inet mine'")?;
    let here = Command::new("nft").args(["list", "tables"]).output()?;
    ensure!(!String::from_utf8_lossy(&here.stdout).contains("inet mine"));

    machine.reboot()?;
    machine.wait_for_cloud_init()?;
    ensure!(machine.read_file("/var/tmp/ran")? == ran, "user-data ran again");
    ensure!(
        machine.ok("nft list tables")?.is_empty(),
        "a reboot empties the kernel's tables"
    );
    machine.ok("sync; echo kept >/var/tmp/kept; sync")?;
    machine.pull_plug();
    ensure!(!machine.runs()?);
    machine.power_on()?;
    machine.wait_for_cloud_init()?;
    ensure!(machine.read_file("/var/tmp/kept")? == b"kept\n");
    machine.power_off()?;
    ensure!(!machine.runs()?);

    let (folder, group) = (machine.folder().to_owned(), machine.group().to_owned());
    let named = network.laptop().name().to_owned();
    ensure!(!leftovers(&folder, &group, &named)?.is_empty());
    drop(machine);
    drop(network);
    let left = leftovers(&folder, &group, &named)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn machines_of_a_network_meet_each_other_and_nobody_else() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let _turn = turn();
    let network = Network::new()?;
    let files = Files::open(network.laptop(), SocketAddr::from((LAPTOP, 0)))?;
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    files.put("agent", content.clone(), Serve::Whole);
    let config = format!(
        "#cloud-config\nwrite_files:\n- {{path: /var/tmp/written, content: from cloud-config}}\nruncmd:\n- {FETCH} {}\n- echo LAST COMMAND\n",
        files.url("agent")
    );
    let first = Machine::boot(&network, "first", network.address(1), config)?;
    let listener = "import socket
s = socket.create_server(('', 4711))
while True: s.accept()[0].sendall(b'hello')";
    let serves = format!("#!/bin/sh\nsystemd-run --unit=hello python3 -c \"{listener}\"\n");
    let second = Machine::boot(&network, "second", network.address(2), serves)?;
    first.wait_for_console("LAST COMMAND")?;
    ensure!(first.read_file("/var/tmp/written")? == b"from cloud-config");
    ensure!(first.read_file("/var/tmp/got")? == content);
    let requests = files.requests();
    ensure!(
        requests.len() == 1 && requests[0].from.ip() == first.address(),
        "{requests:?}"
    );

    let hello = "python3 -c \"import socket; print(socket.create_connection(('10.99.1.2', 4711), 2).recv(9))\"";
    second.wait_for_cloud_init()?;
    let greeted = |m: &Machine| Ok(m.exec(hello)?.out.contains("hello").then_some(()));
    first.wait_for("an answer of its neighbour", Duration::from_secs(60), greeted)?;
    // Nothing leads out of the network.
    ensure!(first.exec("ip route get 192.0.2.1 && ping -c 1 -W 1 192.0.2.1")?.code != 0);

    // A cut cable: silence, not a refusal; and the same after it is mended.
    second.cut()?;
    let ran = first.exec(hello)?;
    ensure!(ran.code != 0 && !ran.err.contains("refused"), "{ran:?}");
    second.mend()?;
    first.wait_for("an answer after the cut", Duration::from_secs(60), greeted)?;

    // A stranger finds what listens, and only that; behind a firewall, silence.
    let (stranger, address) = network.stranger()?;
    let found = scan(&stranger, second.address(), probe::ALL)?;
    ensure!(
        found.open == [22, 4711] || found.open == [22, 4711, 5355],
        "{:?}",
        found.open
    );
    ensure!(found.silent.is_empty() && found.refused > 65_000, "{found:?}");
    second.ok(&format!(
        "nft 'add table inet t; add chain inet t in {{ type filter hook input priority 0; }}; add rule inet t in ip saddr {address} tcp dport 4000-5000 drop'"
    ))?;
    let found = scan(&stranger, second.address(), 4000..=5001)?;
    ensure!(
        found.open.is_empty() && found.silent.len() == 1001 && found.refused == 1,
        "{found:?}"
    );
    greeted(&first)?;
    Ok(())
}

#[test]
fn a_file_server_lies_as_it_is_told() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let _turn = turn();
    let network = Network::new()?;
    let files = Files::open(network.laptop(), SocketAddr::from((LAPTOP, 0)))?;
    let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    files.put("agent", content.clone(), Serve::Whole);
    let folder = tempfile::tempdir()?;
    let got = folder.path().join("got");
    let (stranger, _) = network.stranger()?;
    let fetch = |extra: &[&str]| -> Result<i32> {
        let mut command = stranger.command("curl");
        command
            .args(["-sS", "--fail", "--max-time", "3", "-o"])
            .arg(&got)
            .args(extra);
        Ok(command.arg(files.url("agent")).output()?.status.code().unwrap_or(-1))
    };
    for (serve, code, length, same) in [
        (Serve::Whole, 0, content.len(), true),
        (Serve::Tampered, 0, content.len(), false),
        (Serve::Truncated, 18, content.len() / 2, false),
        (Serve::Absent, 22, 0, false),
        (Serve::Unavailable, 22, 0, false),
        (Serve::Slow(1000), 28, 0, false),
        (Serve::Silent, 28, 0, false),
    ] {
        files.serve("agent", serve);
        let _ = std::fs::remove_file(&got);
        let ended = fetch(&[])?;
        ensure!(ended == code, "{serve:?}: curl ended with {ended}");
        let bytes = std::fs::read(&got).unwrap_or_default();
        ensure!(length == 0 || bytes.len() == length, "{serve:?}: {} bytes", bytes.len());
        ensure!((bytes == content) == same, "{serve:?}");
    }
    // A line that breaks, and a download that goes on where it was.
    files.serve("agent", Serve::Broken);
    let _ = std::fs::remove_file(&got);
    ensure!(fetch(&[])? == 18);
    ensure!(fetch(&["--continue-at", "-"])? == 0);
    ensure!(std::fs::read(&got)? == content);
    ensure!(files.requests().len() == 9, "{:?}", files.requests());
    Ok(())
}

#[test]
fn a_machine_has_a_full_disk_and_a_service_with_a_wrong_clock() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let _turn = turn();
    let network = Network::new()?;
    let setup = Setup {
        disk: Some(64 << 20),
        files: vec![(
            "/etc/systemd/system/clock.service".into(),
            b"[Service]\nType=oneshot\nExecStart=sh -c 'date +%%s >/run/clock'\n".to_vec(),
        )],
        ..Setup::default()
    };
    let machine = Machine::boot_with(&network, "small", network.address(1), "#!/bin/sh\n", setup)?;
    machine.wait_for_cloud_init()?;
    machine.fill_disk(0)?;
    let ran = machine.exec("cp /etc/services /var/tmp/more")?;
    ensure!(ran.code != 0 && ran.err.contains("No space left"), "{ran:?}");
    machine.empty_disk()?;
    machine.ok("echo x >/var/tmp/more")?;

    let error = || -> Result<i64> {
        let out = machine.ok("systemctl start clock && echo $(($(cat /run/clock) - $(date +%s)))")?;
        Ok(out.trim().parse()?)
    };
    ensure!(error()?.abs() < 60);
    machine.skew("clock", -7200)?;
    ensure!((error()? + 7200).abs() < 60);
    machine.skew("clock", 0)?;
    ensure!(error()?.abs() < 60);
    // A command that hangs ends at its deadline, with all of its processes.
    let ran = machine.exec_within("sleep 300 & sleep 301", Duration::from_secs(1))?;
    ensure!(ran.code == 124, "{ran:?}");
    ensure!(
        machine.exec("pgrep -x sleep")?.code == 1,
        "a command outlives its deadline"
    );
    Ok(())
}

/// Not a test: what [`a_killed_run_is_cleaned_up_by_the_next_one`] kills.
#[test]
#[ignore = "a part of another test"]
fn a_run_that_is_killed() -> Result<()> {
    let network = Network::new()?;
    let machine = Machine::boot(&network, "orphan", network.address(1), "#!/bin/sh\n")?;
    let _stranger = network.stranger()?;
    machine.wait_for("its systemd", Duration::from_secs(60), |m| Ok(m.leader().map(drop)))?;
    println!("STANDS {} {}", network.run().group(), network.run().folder().display());
    std::thread::sleep(Duration::from_secs(300));
    bail!("nobody has killed it");
}

#[test]
fn a_killed_run_is_cleaned_up_by_the_next_one() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let _turn = turn();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "machine::a_run_that_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = BufReader::new(child.stdout.take().context("no output")?);
    let line = out.lines().map_while(Result::ok).find(|l| l.contains("STANDS "));
    child.kill()?;
    child.wait()?;
    let line = line.context("it did not come up")?;
    let words: Vec<_> = line.split(' ').collect();
    let (group, folder) = (words[words.len() - 2], Path::new(words[words.len() - 1]));
    let namespaces = || -> Vec<String> {
        let all = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let prefix = format!("hmt{}-", child.id());
        all.filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| n.starts_with(&prefix))
            .collect()
    };
    ensure!(!cgroup::members(group).is_empty() && folder.is_dir() && namespaces().len() == 2);
    // A run that lives is left alone.
    let own = Network::new()?;
    run::sweep();
    ensure!(own.laptop().file().exists() && own.run().folder().is_dir());
    ensure!(!cgroup::exists(group), "{:?}", cgroup::members(group));
    ensure!(!folder.exists() && namespaces().is_empty(), "{:?}", namespaces());
    Ok(())
}

#[test]
fn the_same_debian_boots_under_qemu_with_a_clock_of_its_own() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    let _turn = turn();
    let network = Network::new()?;
    let files = Files::open(network.laptop(), SocketAddr::from((LAPTOP, 0)))?;
    files.put("agent", "the agent", Serve::Whole);
    let script = format!("#!/bin/sh\nset -e\n{FETCH} {}\necho LAST COMMAND\n", files.url("agent"));
    let setup = VmSetup {
        clock: Some("2031-02-03T04:05:06".into()),
        ..VmSetup::default()
    };
    let mut vm = Vm::boot(&network, "real", network.address(9), script, &setup)?;
    vm.wait_for_console("LAST COMMAND")?;
    let ran = vm.exec(
        "id -u; date +%Y; cat /var/tmp/got; echo; uname -n; grep -wc memory /sys/fs/cgroup/cgroup.controllers",
        Duration::from_secs(60),
    )?;
    ensure!(ran.out == "0\n2031\nthe agent\nreal\n1\n", "{ran:?}");
    vm.cut()?;
    ensure!(vm.exec("true", Duration::from_secs(5))?.code != 0);
    vm.mend()?;
    ensure!(
        vm.exec("nft add table inet t && nft list tables", Duration::from_secs(60))?
            .out
            .contains("inet t")
    );
    vm.exec("systemctl poweroff", Duration::from_secs(30))?;
    vm.wait_for_end(Duration::from_secs(120))
}
