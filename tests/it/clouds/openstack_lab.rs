//! The whole way on OpenStack: `up` on the emulated cloud, whose machines boot for real.
//! They are told nothing but by Nova's metadata service, which cloud-init's own data
//! source for OpenStack reads; its only help is that they say they are Nova's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::network::LAPTOP;
use herdsman_tests::machines::{Cluster, LONG, Machine, Setup, available, thorough};
use serde_json::{Map, Value, json};

use super::openstack::KEYS;

/// Where machines ask.
const METADATA: &str = "169.254.169.254";

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(%N%, timeout=60)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    print(len(c.scheduler_info()['workers']))
";

/// A machine of namespaces has no firmware. Nova's own containers have none either: they
/// name it in the environment of their first process, where cloud-init's source looks as
/// well. There is no DHCP server here, for whose answer it would wait.
const CONTAINER: &str = "\
set -e
printf 'product_name=OpenStack Nova\\0' >/run/environ-$$
mount --bind /run/environ-$$ /proc/1/environ
mount --bind /dev/null /usr/sbin/dhclient
exec /usr/bin/cloud-init \"$@\"
";

fn setup(address: &str) -> Setup {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    let network = format!(
        "[Match]\nName=host0\n[Network]\nAddress={address}/16\nGateway=10.99.0.1\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    );
    let mut files = vec![
        file("/opt/container", CONTAINER),
        file("/etc/systemd/network/05-host0.network", &network),
        file(
            "/etc/cloud/cloud.cfg.d/99-test.cfg",
            "datasource_list: [OpenStack]\nssh_genkeytypes: [ed25519]\nlocale: false\nnetwork: {config: disabled}\n",
        ),
    ];
    for (unit, stage) in [("cloud-init-local", "init --local"), ("cloud-init", "init")] {
        let text = format!(
            "[Service]\nExecStart=\nExecStart=/usr/bin/unshare --mount --propagation private /bin/sh /opt/container {stage}\n"
        );
        files.push(file(
            &format!("/etc/systemd/system/{unit}.service.d/container.conf"),
            &text,
        ));
    }
    Setup {
        files,
        ..Setup::default()
    }
}

/// A cluster whose machines an emulated cloud gives.
struct Lab {
    cluster: Cluster,
    emulator: Emulator,
    /// Ends of consoles of machines that were deleted, for a test that failed.
    gone: String,
}

impl Lab {
    fn new() -> Result<Option<Self>> {
        if !available() {
            return Ok(None);
        }
        // This thread stands at the laptop from here on, and the emulator with it.
        let cluster = Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let Some(emulator) = Emulator::start("openstack", "openstack.py", &[])? else {
            return Ok(None);
        };
        let added = Command::new("ip")
            .args(["address", "add", &format!("{METADATA}/32"), "dev", "lo"])
            .status()?;
        ensure!(added.success(), "no address for the metadata service");
        emulator.ask("metadata", &json!({"address": METADATA, "port": 80}))?;
        let mut addresses = Map::new();
        for node in std::iter::once(SCHEDULER.to_owned()).chain((0..5).map(|n| format!("{NAME}-w{n}"))) {
            addresses.insert(node.clone(), cluster.address(&node)?.to_string().into());
        }
        emulator.ask("addresses", &Value::Object(addresses))?;
        let text = format!(
            "provider = \"openstack\"\n[place]\nprivate = true\n[agent]\nurl = [\"{}\"]\n",
            cluster.files.url("agent")
        );
        std::fs::write(cluster.laptop.project.join("herdsman.toml"), text)?;
        Ok(Some(Self {
            cluster,
            emulator,
            gone: String::new(),
        }))
    }

    /// Runs a command, and boots whatever the cloud was asked for, until it ends.
    fn run(&mut self, args: &[&str]) -> Result<()> {
        let log = self.cluster.laptop.home.path().join(format!("going-{}", args[0]));
        let out = std::fs::File::create(&log)?;
        let mut command = self.cluster.command(args)?;
        command
            .envs(KEYS)
            .env(
                "HERDSMAN_OPENSTACK_ENDPOINT",
                format!("{}/identity", self.emulator.url()),
            )
            .env("HERDSMAN_MY_ADDRESS", LAPTOP.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut child = command.spawn()?;
        let started = Instant::now();
        let code = loop {
            let booted = self.boot_new();
            if let Some(status) = child.try_wait()? {
                booted?;
                break status.code();
            }
            if booted.is_err() || started.elapsed() > 4 * LONG {
                child.kill()?;
                child.wait()?;
                booted?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(
            code == Some(0),
            "{args:?} ended with {code:?}\n{said}{}{}\n{}",
            self.cluster.consoles(),
            self.gone,
            self.emulator.ask("asked-by-machines", &Value::Null)?
        );
        Ok(())
    }

    /// Boots what has an address, and takes the power from what is deleted.
    fn boot_new(&mut self) -> Result<()> {
        let all = self.emulator.ask("there", &json!(false))?;
        let servers = all["servers"].as_array().context("no list")?;
        for s in servers {
            let name = s["name"].as_str().unwrap_or_default();
            let Some(address) = s["address"].as_str() else { continue };
            if self.cluster.machines.contains_key(name) || s["deleting"] == true {
                continue;
            }
            // Nothing is given to the machine itself.
            let none = "#cloud-config\n{}\n";
            let machine = Machine::boot_with(&self.cluster.network, name, address.parse()?, none, setup(address))?;
            self.cluster.machines.insert(name.to_owned(), machine);
        }
        let is_there = |name: &String| servers.iter().any(|s| s["name"] == **name);
        for (name, machine) in self.cluster.machines.extract_if(.., |name, _| !is_there(name)) {
            let console = machine.console();
            let lines: Vec<&str> = console.lines().collect();
            self.gone += &format!(
                "\n== console of {name}\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
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
fn servers_become_a_cluster_by_the_vendor_s_own_data_source() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(mut lab) = Lab::new()? else { return Ok(()) };
    lab.run(&["up", NAME, "--workers", "2", "--env", "copy"])?;
    lab.compute(2)?;
    let asked = lab.emulator.ask("asked-by-machines", &Value::Null)?;
    for (name, machine) in &lab.cluster.machines {
        let source = machine.ok("cat /run/cloud-init/cloud-id")?;
        ensure!(source.trim() == "openstack", "{name}: {source}");
        ensure!(machine.ok("hostname")?.trim() == name, "{name} is called otherwise");
        let of = |a: &&Value| {
            a[0] == machine.address().to_string()
                && a[2] == 200
                && a[1]
                    .as_str()
                    .is_some_and(|p| p.starts_with("/openstack/2") && p.ends_with("/user_data"))
        };
        ensure!(
            asked.as_array().into_iter().flatten().any(|a| of(&a)),
            "{name}: {asked}"
        );
    }
    lab.run(&["scale", NAME, "3"])?;
    lab.compute(3)?;
    lab.run(&["scale", NAME, "1"])?;
    lab.compute(1)?;
    lab.run(&["down", NAME, "-y"])?;
    lab.emulator.asked()?;
    let all = lab.emulator.ask("there", &json!(false))?;
    let none = json!({"servers": [], "groups": [], "ports": [], "floating": [], "server_groups": []});
    ensure!(all == none, "{all:#}");
    Ok(())
}
