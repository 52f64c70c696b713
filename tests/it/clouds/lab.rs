//! The whole way: `up` on an emulated cloud, whose machines boot for real with what
//! the launcher sent for them, and a computation on them.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::Emulator;
use herdsman_tests::machines::cluster::NAME;
use herdsman_tests::machines::{Cluster, LONG, Machine, Setup, available};
use serde_json::{Value, json};

use super::aws::KEYS;

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(%N%, timeout=60)
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    print(len(c.scheduler_info()['workers']))
";

/// A cluster whose machines an emulated cloud gives.
struct Lab {
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
        let Some(emulator) = Emulator::start("aws", "ec2.py", &[])? else {
            return Ok(None);
        };
        let network = json!({"name": "lab", "network": "10.99.0.0/16", "subnet": "10.99.1.0/24"});
        emulator.ask("network", &network)?;
        let text = format!(
            "provider = \"aws\"\n[place]\nprivate = true\nnetwork = \"lab\"\n[agent]\nurl = [\"{}\"]\n\
             [scheduler]\ntype = [\"t3.medium\"]\n[[workers]]\ntype = [\"t3.large\"]\n",
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
            .envs(KEYS)
            .env("HERDSMAN_AWS_ENDPOINT", self.emulator.url())
            // There is no way out of this network that would tell.
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
        ensure!(
            code == 0,
            "{args:?} ended with {code}\n{}{}",
            said(),
            self.cluster.consoles()
        );
        Ok(said())
    }

    fn boot_new(&mut self) -> Result<()> {
        let all = self.emulator.ask("instances", &json!(true))?;
        for i in all["instances"].as_array().context("no list")? {
            let text = |key: &str| i[key].as_str().unwrap_or_default().to_owned();
            let id = text("id");
            if text("state") != "running" || self.cluster.machines.contains_key(&id) {
                continue;
            }
            let address = text("address").parse()?;
            let data = text("user_data");
            ensure!(data.len() < 16_384, "{} bytes of user-data", data.len());
            let machine = Machine::boot_with(&self.cluster.network, &id, address, data.as_str(), Setup::default())?;
            self.cluster.machines.insert(id, machine);
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
fn machines_that_the_cloud_was_asked_for_become_a_cluster() -> Result<()> {
    let Some(mut lab) = Lab::new()? else { return Ok(()) };
    lab.grow(&["up", NAME, "--workers", "2", "--env", "copy"])?;
    // Both workers came from one call, were told the same, and have names of their own.
    let asked = lab.emulator.asked()?;
    let runs: Vec<_> = asked.iter().filter(|a| a.action == "RunInstances").collect();
    ensure!(runs.len() == 2, "{} calls made machines", runs.len());
    ensure!(runs[1].facts["MaxCount"] == "2", "{}", runs[1].facts["MaxCount"]);
    lab.compute(2)?;
    let status = lab.cluster.status()?;
    let nodes = status["status"]["nodes"].as_array().context("no nodes")?;
    let named = nodes
        .iter()
        .filter(|n| n["name"].as_str().is_some_and(|n| n.starts_with("i-")));
    ensure!(named.count() == 2, "{nodes:#?}");
    // More, by an invitation of the hub's.
    lab.grow(&["scale", NAME, "4"])?;
    lab.compute(4)?;
    lab.grow(&["scale", NAME, "1"])?;
    lab.compute(1)?;
    lab.grow(&["down", NAME, "-y"])?;
    let all = lab.emulator.ask("instances", &Value::Null)?;
    let alive = all["instances"].as_array().into_iter().flatten();
    let alive: Vec<_> = alive.filter(|i| i["state"] != "terminated").collect();
    ensure!(
        alive.is_empty() && all["groups"] == json!([]),
        "{alive:?} {}",
        all["groups"]
    );
    Ok(())
}
