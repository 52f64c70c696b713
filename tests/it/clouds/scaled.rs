//! `scale` that dies after any call, on each of the six clouds.
//!
//! The scheduler's agent is a real one, on this computer in a network of its own: `scale`
//! asks it first. Workers are only asked for, and never boot. After each death there are
//! two looks at the account. One is at a copy of it: `down` from an empty home, with
//! credentials only, leaves nothing there. The other is the next `scale`, which has to
//! bring the cluster to where its user wants it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_agent::source::extract;
use herdsman_tests::clouds::{Emulator, killed_after};
use herdsman_tests::home::{Home, LONG, Ran};
use herdsman_tests::machines::cluster::SCHEDULER;
use herdsman_tests::machines::{available, is_complete, thorough};
use herdsman_tests::metadata::{Booted, LINK_LOCAL, Place, Service, apart};
use serde_json::{Value, json};

use super::vendors::{self, Vendor};

/// The scheduler's address, where it is not the vendor that chooses it.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
/// Workers at the beginning: enough for a `scale` down by one for each call that is cut
/// off.
fn workers() -> usize {
    if is_complete() { 20 } else { 8 }
}

/// Calls that are cut off: each in the complete suite, else every second.
fn calls() -> impl Iterator<Item = u64> {
    let step = if is_complete() { 1 } else { 2 };
    (1..).filter(move |nth| nth % step == 0)
}

/// A cluster whose scheduler lives and whose workers do not.
struct Cluster {
    vendor: &'static Vendor,
    emulator: Emulator,
    home: Home,
    place: Place,
    hub: Option<Booted>,
    service: Service,
}

impl Cluster {
    /// Brings it up; the calling thread is in a network of its own.
    fn up(vendor: &'static Vendor) -> Result<Option<Self>> {
        let address = |node: &str| {
            let number: u8 = node.rsplit_once("-w").and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
            if node == SCHEDULER {
                HUB
            } else {
                Ipv4Addr::new(10, 99, 2, number + 1)
            }
        };
        let Some(emulator) = vendor.start(address, 200)? else {
            return Ok(None);
        };
        let home = Home::without_dask()?;
        let settings = format!(
            "provider = \"{}\"\n[env]\nmode = \"image\"\nimage_python = \"{}\"\n\
             [agent]\nurl = [\"https://agents.example/{{arch}}\"]\n{}",
            vendor.name,
            home.python().display(),
            vendor.settings
        );
        std::fs::write(home.path().join("herdsman.toml"), settings)?;
        let service = Service::start_at(Some(Cloud::Hetzner), LINK_LOCAL)?;
        let mut cluster = Self {
            vendor,
            emulator,
            home,
            place: Place::new(Some(Cloud::Hetzner), "hub-0001")?,
            hub: None,
            service,
        };
        let log = cluster.home.path().join("up");
        let out = std::fs::File::create(&log)?;
        let count = workers().to_string();
        let mut command = cluster.command(&["up", "demo", "-y", "--workers", &count, "--wait", "none"])?;
        let mut up = command.stdout(out.try_clone()?).stderr(out).spawn()?;
        let started = Instant::now();
        let code = loop {
            if cluster.hub.is_none() {
                cluster.boot_hub()?;
            }
            if let Some(status) = up.try_wait()? {
                break status.code();
            }
            if started.elapsed() > 4 * LONG {
                up.kill()?;
                break up.wait()?.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = std::fs::read_to_string(&log)?;
        ensure!(code == Some(0), "{code:?}\n{said}\n{}", cluster.place.console());
        Ok(Some(cluster))
    }

    /// Starts the scheduler's agent once its machine was asked for.
    fn boot_hub(&mut self) -> Result<()> {
        let machines = self.vendor.machines(&self.emulator)?;
        let Some(born) = machines.into_iter().find(|m| m.is_scheduler) else {
            return Ok(());
        };
        let own = format!("{}/32", born.address);
        let added = Command::new("ip")
            .args(["address", "add", &own, "dev", "lo"])
            .status()?;
        ensure!(added.success(), "no address for the hub");
        let joined = extract::join(born.user_data.as_bytes(), "user-data").map_err(|e| anyhow::anyhow!(e.message))?;
        let joined = joined.context("no join configuration")?;
        let mut join: Value = serde_json::from_str(joined.text.reveal())?;
        // Nothing powers this computer off. With a folder elsewhere, Dask needs no user of
        // its own, which this computer has not.
        join["at_end"] = json!({"power_off": false});
        join["paths"] = json!({"environments": "/var/lib/herdsman/environments"});
        self.service.set_user_data(join.to_string().as_bytes());
        self.hub = Some(self.place.boot()?);
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        self.command_at(&self.emulator, args)
    }

    fn command_at(&self, emulator: &Emulator, args: &[&str]) -> Result<Command> {
        let mut command = self.home.command(args)?;
        self.vendor.dress(&mut command, emulator, &self.home)?;
        command
            .env("HERDSMAN_MY_ADDRESS", HUB.to_string())
            // It is in a network of its own.
            .env_remove("HERDSMAN_PROXY_COMMAND");
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    /// What somebody without anything but credentials deletes in a copy of the account.
    fn leaves_nothing(&self, when: &str) -> Result<()> {
        let copy = self.emulator.fork()?;
        let empty = tempfile::tempdir()?;
        let mut command = self.command_at(&copy, &["down", "demo", "-y"])?;
        command
            .env("HOME", empty.path())
            .env("HERDSMAN_STATE_DIR", empty.path().join("s"))
            .env("HERDSMAN_PROVIDER", self.vendor.name)
            .current_dir(empty.path());
        let ran: Ran = command.output()?.into();
        ensure!(ran.code == 0, "{when}: {} {}", ran.code, ran.err);
        self.vendor
            .is_empty(&copy)
            .with_context(|| format!("{when}\n{}", ran.err))
    }

    /// So many workers at the vendor, each of which the hub knows, and no other.
    fn has(&self, workers: usize, when: &str) -> Result<()> {
        let machines = self.vendor.machines(&self.emulator)?;
        let there = machines.iter().filter(|m| !m.is_scheduler).count();
        let ran = self.run(&["status", "demo", "-o", "json"])?;
        let status: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
        let nodes = status["status"]["nodes"].as_array().context("no nodes")?;
        let known = nodes
            .iter()
            .filter(|n| n["role"] == "worker" && n["state"] == "expected")
            .count();
        let told = || -> Vec<String> {
            let node = |n: &Value| format!("{} {}", n["name"], n["state"]);
            let machine = |m: &vendors::Born| format!("machine {} {}", m.name, m.address);
            nodes.iter().map(node).chain(machines.iter().map(machine)).collect()
        };
        ensure!(
            there == workers && known == workers,
            "{when}: {there} machines, {known} nodes of {workers}\n{:#?}",
            told()
        );
        Ok(())
    }

    /// Kills a `scale` after its `nth` call, looks, and finishes what was begun. Whether
    /// there was such a call.
    fn dies(&self, args: &[&str], nth: u64, after: usize) -> Result<bool> {
        let was_cut = killed_after(&self.emulator, &mut self.command(args)?, nth)?;
        let when = format!("{} {args:?} after call {nth}", self.vendor.name);
        if was_cut {
            self.leaves_nothing(&when)?;
        }
        let count = after.to_string();
        let ran = self.run(&["scale", "demo", &count])?;
        ensure!(ran.code == 0, "{when}, and then: {} {}", ran.code, ran.err);
        self.has(after, &when)?;
        self.emulator.asked()?;
        Ok(was_cut)
    }
}

fn story(vendor: &'static Vendor) -> Result<()> {
    if !available() {
        return Ok(());
    }
    apart(move || {
        let Some(cluster) = Cluster::up(vendor)? else {
            return Ok(());
        };
        let all = workers();
        cluster.has(all, "after up")?;
        // More, which never come: `scale` gives up after a second and takes them back, so
        // that its calls are those that make machines and those that delete them.
        let more = (all + 2).to_string();
        let mut cut = 0;
        for nth in calls() {
            if !cluster.dies(&["scale", "demo", &more, "--start-timeout", "1s"], nth, all)? {
                break;
            }
            cut = nth;
        }
        ensure!(cut >= 2, "only {cut} calls of a scale up were cut off");
        let mut left = all;
        let mut cut = 0;
        for nth in calls() {
            if left == 0 {
                break;
            }
            left -= 1;
            let count = left.to_string();
            if !cluster.dies(&["scale", "demo", &count], nth, left)? {
                break;
            }
            cut = nth;
        }
        ensure!(cut >= 2, "only {cut} calls of a scale down were cut off");
        // And the whole of it goes.
        let ran = cluster.run(&["down", "demo", "-y"])?;
        ensure!(ran.code == 0, "{} {}", ran.code, ran.err);
        vendor.is_empty(&cluster.emulator)
    })
}

#[test]
fn a_scale_that_dies_on_aws_loses_nothing() -> Result<()> {
    story(&vendors::AWS)
}

#[test]
fn a_scale_that_dies_on_azure_loses_nothing() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    story(&vendors::AZURE)
}

#[test]
fn a_scale_that_dies_on_digitalocean_loses_nothing() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    story(&vendors::DIGITALOCEAN)
}

#[test]
fn a_scale_that_dies_on_gcp_loses_nothing() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    story(&vendors::GCP)
}

#[test]
fn a_scale_that_dies_on_hetzner_loses_nothing() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    story(&vendors::HETZNER)
}

#[test]
fn a_scale_that_dies_on_openstack_loses_nothing() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    story(&vendors::OPENSTACK)
}
