//! The whole way on Azure: `up` on the emulated cloud, whose machines boot for real with
//! the custom data that was sent, get their address by DHCP, are told of themselves by
//! cloud-init's own data source of this vendor, and compute.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::azure::{Birth, Dhcp, Vm};
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::NAME;
use herdsman_tests::machines::network::LAPTOP;
use herdsman_tests::machines::{Cluster, LONG, Machine, Network, available, thorough};
use serde_json::{Value, json};

use super::azure::KEYS;

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(%N%, timeout=60)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    print(len(c.scheduler_info()['workers']))
";

struct Lab {
    /// Services before machines: what a machine asks ends with it.
    vms: Vec<Vm>,
    dhcp: Dhcp,
    cluster: Cluster,
    emulator: Emulator,
}

impl Lab {
    fn new() -> Result<Option<Self>> {
        if !available() {
            return Ok(None);
        }
        // This thread stands at the laptop from here on, and the emulator with it.
        let cluster = Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let Some(emulator) = Emulator::start("azure", "resource_manager.py", &[])? else {
            return Ok(None);
        };
        let network = json!({"group": "lab", "name": "net", "subnets": {"machines": "10.99.1.0/24"}});
        emulator.ask("network", &network)?;
        let text = format!(
            "provider = \"azure\"\n[place]\nprivate = true\nnetwork = \"lab/net\"\n[agent]\nurl = [\"{}\"]\n",
            cluster.files.url("agent")
        );
        std::fs::write(cluster.laptop.project.join("herdsman.toml"), text)?;
        Ok(Some(Self {
            vms: Vec::new(),
            dhcp: Dhcp::start(&cluster.network)?,
            cluster,
            emulator,
        }))
    }

    /// Runs a command, and boots whatever the cloud was asked for, until it ends.
    fn run(&mut self, args: &[&str]) -> Result<String> {
        let log = self.cluster.laptop.home.path().join(format!("going-{}", args[0]));
        let out = std::fs::File::create(&log)?;
        let mut command = self.cluster.command(args)?;
        command
            .envs(KEYS)
            .env("HERDSMAN_AZURE_ENDPOINT", self.emulator.url())
            // There is no way out of this network that would tell.
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
                anyhow::bail!("{args:?} does not end\n{}{}", said(), self.consoles());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        ensure!(code == 0, "{args:?} ended with {code}\n{}{}", said(), self.consoles());
        Ok(said())
    }

    fn consoles(&self) -> String {
        let mut text = String::new();
        for vm in &self.vms {
            let console = vm.machine.console();
            let lines: Vec<&str> = console.lines().collect();
            text += &format!("\n== console of {}\n", vm.machine.name());
            text += &lines[lines.len().saturating_sub(60)..].join("\n");
        }
        text
    }

    fn boot_new(&mut self) -> Result<()> {
        let there = self.emulator.ask("there", &Value::Null)?;
        for m in there["machines"].as_array().context("no machines")? {
            let text = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
            let name = text("computer");
            if self.vms.iter().any(|vm| vm.machine.name() == name) {
                continue;
            }
            let vm = Vm::boot(
                &self.cluster.network,
                &self.dhcp,
                &Birth {
                    id: &text("id"),
                    name: &name,
                    address: text("private").parse()?,
                    custom_data: &text("user_data"),
                },
            )?;
            self.vms.push(vm);
        }
        Ok(())
    }

    fn compute(&self, workers: usize) -> Result<()> {
        let text = self.cluster.compute(&SUM.replace("%N%", &workers.to_string()));
        let text = text.with_context(|| self.consoles())?;
        ensure!(text == format!("332833500\n{workers}\n"), "{text}");
        Ok(())
    }
}

/// Cuts the power of machines first: their mounts end before their network.
impl Drop for Lab {
    fn drop(&mut self) {
        for vm in &mut self.vms {
            Machine::pull_plug(&mut vm.machine);
        }
    }
}

#[test]
fn machines_that_azure_was_asked_for_become_a_cluster() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(mut lab) = Lab::new()? else { return Ok(()) };
    lab.run(&["up", NAME, "--workers", "2", "--env", "copy"])?;
    lab.compute(2)?;
    for vm in &lab.vms {
        vm.was_found().with_context(|| vm.machine.console())?;
        ensure!(vm.machine.ok("hostname")?.trim() == vm.machine.name());
    }
    lab.run(&["scale", NAME, "3"])?;
    lab.compute(3)?;
    lab.run(&["scale", NAME, "1"])?;
    lab.compute(1)?;
    lab.run(&["down", NAME, "-y"])?;
    lab.emulator.asked()?;
    let there = lab.emulator.ask("there", &Value::Null)?;
    for kind in [
        "machines",
        "disks",
        "interfaces",
        "addresses",
        "firewalls",
        "asgs",
        "gateways",
    ] {
        ensure!(there[kind] == json!([]), "{kind} are left: {:#}", there[kind]);
    }
    Ok(())
}

#[test]
fn a_machine_is_found_by_azures_own_data_source() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let network = Network::new()?;
    let dhcp = Dhcp::start(&network)?;
    let vm = Vm::boot(
        &network,
        &dhcp,
        &Birth {
            id: "0c9a7c3e-51b0-4b2f-9d3a-7a3d9f0f2b11",
            name: "born",
            address: network.address(1),
            custom_data: "#!/bin/sh\necho told > /root/told\n",
        },
    )?;
    vm.machine.wait_for_cloud_init()?;
    let log = vm
        .machine
        .exec("grep -E 'Source|DHCP|dhcp|WARN|rror|raceback' /var/log/cloud-init.log | tail -n 80")?
        .out;
    vm.was_found().with_context(|| log.clone())?;
    ensure!(vm.machine.ok("cat /root/told")? == "told\n", "{log}");
    Ok(())
}
