//! The whole way: `up` on an emulated cloud, whose machines boot for real, ask the
//! vendor's metadata service by the vendor's own data source of cloud-init, and
//! compute.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::network::LAPTOP;
use herdsman_tests::machines::{Cluster, LONG, Machine, Network, available, thorough};
use herdsman_tests::native::{Birth, Native};
use serde_json::{Map, Value, json};

use super::plain::Vendor;
use super::{digitalocean, hetzner};

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(%N%, timeout=60)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    print(len(c.scheduler_info()['workers']))
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

struct Lab {
    /// Services before machines: what a machine asks ends with it.
    natives: Vec<Native>,
    cluster: Cluster,
    emulator: Emulator,
    vendor: &'static Vendor,
    cloud: Cloud,
}

impl Lab {
    fn new(vendor: &'static Vendor, cloud: Cloud) -> Result<Option<Self>> {
        if !available() {
            return Ok(None);
        }
        // This thread stands at the laptop from here on, and the emulator with it.
        let cluster = Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let Some(emulator) = Emulator::start(vendor.name, vendor.script, &[])? else {
            return Ok(None);
        };
        let mut pool = Map::new();
        for node in [SCHEDULER.to_owned()]
            .into_iter()
            .chain((0..4).map(|n| format!("demo-w{n}")))
        {
            pool.insert(node.clone(), cluster.address(&node)?.to_string().into());
        }
        emulator.ask("pool", &Value::Object(pool))?;
        let text = format!(
            "provider = \"{}\"\n[agent]\nurl = [\"{}\"]\n",
            vendor.name,
            cluster.files.url("agent")
        );
        std::fs::write(cluster.laptop.project.join("herdsman.toml"), text)?;
        Ok(Some(Self {
            natives: Vec::new(),
            cluster,
            emulator,
            vendor,
            cloud,
        }))
    }

    /// Runs a command, and boots whatever the cloud was asked for, until it ends.
    fn run(&mut self, args: &[&str]) -> Result<String> {
        let command = self.cluster.command(args)?;
        self.follow(command, args[0])
    }

    /// The same with a program of Python's.
    fn python(&mut self, args: &[&Path]) -> Result<String> {
        let launcher = self.cluster.command(&[])?;
        let mut command = Command::new(self.cluster.laptop.python());
        command
            .args(args)
            .env_clear()
            .envs(launcher.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("HERDSMAN_BINARY", launcher.get_program())
            .env("PYTHONPATH", root().join("launcher/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(&self.cluster.laptop.project);
        self.follow(command, "python")
    }

    fn follow(&mut self, mut command: Command, what: &str) -> Result<String> {
        let log = self.cluster.laptop.home.path().join(format!("going-{what}"));
        let out = std::fs::File::create(&log)?;
        command
            .env(self.vendor.token.0, self.vendor.token.1)
            .env(
                format!("HERDSMAN_{}_ENDPOINT", self.vendor.name.to_ascii_uppercase()),
                self.emulator.url(),
            )
            .env("HERDSMAN_MY_ADDRESS", LAPTOP.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut child = command.spawn()?;
        let started = Instant::now();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let code = loop {
            let booted = self.boot_new();
            if let Some(status) = child.try_wait()? {
                booted?;
                break status.code().unwrap_or(-1);
            }
            if booted.is_err() || started.elapsed() > 4 * LONG {
                child.kill()?;
                child.wait()?;
                booted?;
                anyhow::bail!("{what} does not end\n{}{}", said(), self.consoles());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        ensure!(code == 0, "{what} ended with {code}\n{}{}", said(), self.consoles());
        Ok(said())
    }

    fn consoles(&self) -> String {
        let mut text = String::new();
        for native in &self.natives {
            let console = native.machine.console();
            let lines: Vec<&str> = console.lines().collect();
            text += &format!("\n== console of {}\n", native.machine.name());
            text += &lines[lines.len().saturating_sub(60)..].join("\n");
        }
        text
    }

    fn boot_new(&mut self) -> Result<()> {
        let there = self.emulator.ask("there", &Value::Null)?;
        for m in there["machines"].as_array().context("no machines")? {
            let text = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
            let name = text("name");
            if self.natives.iter().any(|n| n.machine.name() == name) {
                continue;
            }
            let native = Native::boot(
                &self.cluster.network,
                &Birth {
                    cloud: self.cloud,
                    id: &m["id"].to_string(),
                    name: &name,
                    address: text("private").parse()?,
                    user_data: &text("user_data"),
                },
            )?;
            self.natives.push(native);
        }
        Ok(())
    }

    fn compute(&self, workers: usize) -> Result<()> {
        let text = self.cluster.compute(&SUM.replace("%N%", &workers.to_string()));
        let text = text.with_context(|| self.consoles())?;
        ensure!(text == format!("332833500\n{workers}\n"), "{text}");
        Ok(())
    }

    /// Up, a computation, more, fewer, down.
    fn story(&mut self) -> Result<()> {
        self.run(&["up", NAME, "--workers", "2", "--env", "copy"])?;
        self.compute(2)?;
        for native in &self.natives {
            native.was_found(self.cloud).with_context(|| native.machine.console())?;
            ensure!(native.machine.ok("hostname")?.trim() == native.machine.name());
        }
        self.run(&["scale", NAME, "3"])?;
        self.compute(3)?;
        self.run(&["scale", NAME, "1"])?;
        self.compute(1)?;
        // What is deleted at the vendor has lost its power.
        let there = self.emulator.ask("there", &Value::Null)?;
        let left = there["machines"].as_array().map_or(0, Vec::len);
        ensure!(left == 2, "{left} machines");
        self.run(&["down", NAME, "-y"])?;
        self.emulator.asked()?;
        let there = self.emulator.ask("there", &Value::Null)?;
        for kind in self.vendor.things {
            ensure!(there[kind] == json!([]), "{kind} are left: {:#}", there[kind]);
        }
        Ok(())
    }
}

/// Cuts the power of machines first: their mounts end before their network.
impl Drop for Lab {
    fn drop(&mut self) {
        for native in &mut self.natives {
            Machine::pull_plug(&mut native.machine);
        }
    }
}

#[test]
fn droplets_become_a_cluster() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(mut lab) = Lab::new(&digitalocean::VENDOR, Cloud::DigitalOcean)? else {
        return Ok(());
    };
    lab.story()
}

#[test]
fn hetzners_servers_become_a_cluster() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(mut lab) = Lab::new(&hetzner::VENDOR, Cloud::Hetzner)? else {
        return Ok(());
    };
    lab.story()
}

/// A notebook that was written for dask-cloudprovider, with its import changed: it makes
/// a cluster of the cloud's machines, computes, grows it, shrinks it, and ends it.
#[test]
fn a_notebook_of_dask_cloudproviders_makes_a_cluster() -> Result<()> {
    let Some(mut lab) = Lab::new(&hetzner::VENDOR, Cloud::Hetzner)? else {
        return Ok(());
    };
    let tests = root().join("tests/python");
    let said = lab.python(&[&tests.join("run_notebook.py"), &tests.join("notebooks/hetzner.ipynb")])?;
    for word in ["332833500", "s \"me\"", "HetznerCluster(demo", "Status.closed"] {
        ensure!(said.contains(word), "no {word}: {said}");
    }
    let asked = lab.emulator.asked()?;
    let made: Vec<_> = asked.iter().filter(|a| a.action == lab.vendor.create).collect();
    ensure!(made.len() == 3, "{} machines were made", made.len());
    for call in made {
        let body = &call.facts["body"];
        ensure!(body["server_type"] == "cpx22" && body["location"] == "nbg1", "{body:#}");
    }
    let there = lab.emulator.ask("there", &Value::Null)?;
    for kind in lab.vendor.things {
        ensure!(there[kind] == json!([]), "{kind} are left: {:#}", there[kind]);
    }
    Ok(())
}

#[test]
fn a_machine_is_found_by_the_vendors_own_data_source() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let network = Network::new()?;
    for (cloud, n) in [(Cloud::DigitalOcean, 1), (Cloud::Hetzner, 2)] {
        let native = Native::boot(
            &network,
            &Birth {
                cloud,
                id: "3164444",
                name: "born",
                address: network.address(n),
                user_data: "#!/bin/sh\necho told > /root/told\n",
            },
        )?;
        native.machine.wait_for_cloud_init()?;
        let log = native
            .machine
            .exec("grep -E 'Source|WARN|rror|raceback' /var/log/cloud-init.log | tail -n 60")?
            .out;
        native.was_found(cloud).with_context(|| log.clone())?;
        ensure!(native.machine.ok("cat /root/told")? == "told\n", "{log}");
    }
    Ok(())
}
