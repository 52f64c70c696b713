//! The whole way on Compute Engine: `up` on the emulated cloud, whose machines boot for
//! real. They are told nothing but by the cloud's metadata server, which cloud-init's own
//! data source for Google reads; its only help is a firmware that says "Google".

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Machine, Setup, available, thorough};
use serde_json::{Value, json};

/// Where machines ask.
const METADATA: &str = "169.254.169.254";

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(%N%, timeout=60)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    print(len(c.scheduler_info()['workers']))
";

/// A container has no firmware of its own, and cloud-init knows that it is in one. This
/// runs it, unchanged, where there is a firmware and no sign of a container.
const FIRMWARE: &str = "\
set -e
cp -a /sys/class/net /run/net-$$
mount -t tmpfs none /sys/class
cp -a /run/net-$$ /sys/class/net
mkdir -p /sys/class/dmi/id
echo Google >/sys/class/dmi/id/sys_vendor
echo 'Google Compute Engine' >/sys/class/dmi/id/product_name
mount --bind /bin/false /usr/bin/systemd-detect-virt
mount --bind /dev/null /proc/1/environ
exec /usr/bin/cloud-init \"$@\"
";

/// A cluster whose machines an emulated cloud gives.
struct Lab {
    cluster: Cluster,
    emulator: Emulator,
}

fn setup(address: &str) -> Setup {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    let network = format!(
        "[Match]\nName=host0\n[Network]\nAddress={address}/16\nGateway=10.99.0.1\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    );
    let mut files = vec![
        file("/opt/firmware", FIRMWARE),
        file(
            "/etc/hosts",
            &format!("127.0.0.1 localhost\n{METADATA} metadata.google.internal metadata\n"),
        ),
        // What an image for this cloud has, and nothing of what tests have otherwise.
        file(
            "/etc/cloud/cloud.cfg.d/99-test.cfg",
            "datasource_list: [GCE]\nssh_genkeytypes: [ed25519]\nlocale: false\nnetwork: {config: disabled}\n",
        ),
        file("/etc/systemd/network/05-host0.network", &network),
    ];
    for (unit, stage) in [("cloud-init-local", "init --local"), ("cloud-init", "init")] {
        let text = format!(
            "[Service]\nExecStart=\nExecStart=/usr/bin/unshare --mount --propagation private /bin/sh /opt/firmware {stage}\n"
        );
        files.push(file(
            &format!("/etc/systemd/system/{unit}.service.d/firmware.conf"),
            &text,
        ));
    }
    Setup {
        files,
        ..Setup::default()
    }
}

impl Lab {
    fn new() -> Result<Option<Self>> {
        if !available() {
            return Ok(None);
        }
        // This thread stands at the laptop from here on, and the emulator with it.
        let cluster = Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let Some(emulator) = Emulator::start("gcp", "gcp.py", &[])? else {
            return Ok(None);
        };
        // The metadata server stands at the end of every machine's only way.
        let added = Command::new("ip")
            .args(["address", "add", &format!("{METADATA}/32"), "dev", "lo"])
            .status()?;
        ensure!(added.success(), "no address for the metadata server");
        emulator.ask("metadata", &json!({"address": METADATA, "port": 80}))?;
        let addresses: serde_json::Map<String, Value> = std::iter::once((SCHEDULER.to_owned(), json!("10.99.1.1")))
            .chain((0..8).map(|n| (format!("{NAME}-w{n}"), json!(format!("10.99.1.{}", n + 10)))))
            .collect();
        emulator.ask("set", &json!({"addresses": addresses}))?;
        let key = cluster.laptop.home.path().join("key.json");
        std::fs::write(key, emulator.ask("key", &Value::Null)?.to_string())?;
        let text = format!(
            "provider = \"gcp\"\n[place]\nprivate = true\n[agent]\nurl = [\"{}\"]\n",
            cluster.files.url("agent")
        );
        std::fs::write(cluster.laptop.project.join("herdsman.toml"), text)?;
        Ok(Some(Self { cluster, emulator }))
    }

    /// Runs a command, and boots whatever the cloud was asked for, until it ends.
    fn grow(&mut self, args: &[&str]) -> Result<String> {
        let log = self.cluster.laptop.home.path().join(format!("going-{}", args[0]));
        let out = std::fs::File::create(&log)?;
        let mut command = self.cluster.command(args)?;
        command
            .env(
                "GOOGLE_APPLICATION_CREDENTIALS",
                self.cluster.laptop.home.path().join("key.json"),
            )
            .env("HERDSMAN_GCP_ENDPOINT", self.emulator.url())
            .env("HERDSMAN_MY_ADDRESS", "10.99.0.1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut child = command.spawn()?;
        let started = Instant::now();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let code = loop {
            self.boot_new()?;
            if let Some(status) = child.try_wait()? {
                break status.code().unwrap_or(-1);
            }
            if started.elapsed() > 4 * LONG {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("{args:?} does not end\n{}{}", said(), self.cluster.consoles());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if code != 0 {
            let mut logs = String::new();
            for (name, machine) in &self.cluster.machines {
                let log = machine
                    .exec("journalctl -b -u cloud-init-local -u cloud-init -u cloud-final --no-pager | tail -n 60");
                logs += &format!("== {name}\n{}\n", log.map(|r| r.out).unwrap_or_default());
            }
            anyhow::bail!(
                "{args:?} ended with {code}\n{}{}{logs}",
                said(),
                self.cluster.consoles()
            );
        }
        Ok(said())
    }

    fn boot_new(&mut self) -> Result<()> {
        let all = self.emulator.ask("instances", &Value::Null)?;
        for i in all["instances"].as_array().context("no list")? {
            let text = |key: &str| i[key].as_str().unwrap_or_default().to_owned();
            let name = text("name");
            if text("status") != "RUNNING" || self.cluster.machines.contains_key(&name) {
                continue;
            }
            let address = text("address");
            // Nothing is given to the machine itself.
            let none = "#cloud-config\n{}\n";
            let machine = Machine::boot_with(&self.cluster.network, &name, address.parse()?, none, setup(&address))?;
            self.cluster.machines.insert(name, machine);
        }
        Ok(())
    }

    fn compute(&self, workers: usize) -> Result<()> {
        let text = self.cluster.compute(&SUM.replace("%N%", &workers.to_string()))?;
        ensure!(text == format!("332833500\n{workers}\n"), "{text}");
        Ok(())
    }
}

#[test]
fn machines_read_what_the_cloud_was_told_and_become_a_cluster() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(mut lab) = Lab::new()? else { return Ok(()) };
    lab.grow(&["up", NAME, "--workers", "2", "--env", "copy"])?;
    let asked = lab.emulator.asked()?;
    let of = |action: &str| asked.iter().filter(|a| a.action == action).count();
    ensure!(of("instances.insert") == 1 && of("instances.bulkInsert") == 1);
    lab.compute(2)?;
    // The vendor's data source read it, on each machine, from the vendor's server.
    for (name, machine) in &lab.cluster.machines {
        let source = machine.ok("cloud-init query platform 2>/dev/null || cat /run/cloud-init/cloud-id")?;
        ensure!(source.contains("gce"), "{name}: {source}");
    }
    let log = lab.emulator.ask("asked-by-machines", &Value::Null)?;
    for address in ["10.99.1.1", "10.99.1.10", "10.99.1.11"] {
        ensure!(
            log.to_string()
                .contains(&format!("{address} /computeMetadata/v1/instance/attributes/")),
            "{log}"
        );
    }
    // More, by an invitation of the hub's, with names that the vendor was told.
    lab.grow(&["scale", NAME, "3"])?;
    lab.compute(3)?;
    let status = lab.cluster.status()?.to_string();
    ensure!(status.contains("demo-w2"), "{status}");
    lab.grow(&["down", NAME, "-y"])?;
    let all = lab.emulator.ask("instances", &Value::Null)?;
    ensure!(all["instances"] == json!([]) && all["rules"] == json!([]), "{all:#}");
    Ok(())
}
