//! The agent's own program on machines made of namespaces: their own network with the
//! metadata address, their own firmware strings, their own `/var/lib`.

use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_tests::attack::Hub;
use herdsman_tests::home::LONG;
use herdsman_tests::metadata::{Booted, LINK_LOCAL, Place, Service, apart};
use herdsman_wire::join::Bootstrap;
use herdsman_wire::{Role, Timestamp};
use serde_json::Value;

use super::script;

/// Runs on a thread of its own, in a network of its own.
fn alone(work: impl AsyncFnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    apart(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    })
}

/// Waits until something is so.
async fn until(what: &str, place: &Place, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so().await? {
        ensure!(started.elapsed() < LONG, "{what}\n{}", place.console());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What a worker of a hub is told; its own folders are below the place, and nothing
/// powers this computer off unless a test says so.
async fn told(hub: &Hub, place: &Path, name: &str, n: u8, change: impl FnOnce(&mut Value)) -> Result<String> {
    let machine = hub.machine(name, n)?;
    hub.expect(&machine).await?;
    let bootstrap = Bootstrap {
        certificate: machine.caller.chain.clone(),
        key: machine.caller.key.clone(),
    };
    let dir = place.join("node").join(name);
    std::fs::create_dir_all(&dir)?;
    let own = (machine.caller.from, 0).into();
    let path = herdsman_tests::attack::join(
        &hub.cluster,
        &hub.roots,
        &dir,
        &machine.name,
        Role::Worker,
        (Some(hub.address), own),
        bootstrap,
    )?;
    let mut join: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    join["at_end"] = serde_json::json!({"power_off": false});
    // As on a machine: the state is beside the join configuration.
    join["paths"]["state"] = "/var/lib/herdsman".into();
    change(&mut join);
    Ok(join.to_string())
}

/// The hub's view of a node.
async fn node(hub: &Hub, name: &str) -> Result<Value> {
    let status = hub.ask(&hub.owner(), "GET", "/v1/status", &0).await?;
    let status: Value = serde_json::from_slice(&status.body)?;
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    Ok(nodes.into_iter().find(|n| n["name"] == name).unwrap_or_default())
}

async fn enrolled(hub: &Hub, place: &Place, name: &str) -> Result<()> {
    until("it does not enrol", place, async || {
        let phases = node(hub, name).await?["report"]["phases"].clone();
        let phases = phases.as_array().cloned().unwrap_or_default();
        Ok(phases.iter().any(|p| p["phase"] == "enrol" && p["status"] == "done"))
    })
    .await
}

fn ticks(booted: &Booted) -> Result<u64> {
    // The agent is the only process below `unshare`.
    let pid = booted.0.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let agent = children.split_whitespace().next().context("no agent")?;
    let stat = std::fs::read_to_string(format!("/proc/{agent}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

#[test]
fn an_image_without_any_script_becomes_a_node_and_its_copy_becomes_another() -> Result<()> {
    alone(async || {
        let hub = Hub::start().await?;
        let service = Service::start_at(Some(Cloud::Ec2), LINK_LOCAL)?;
        service.set_user_data(b"#!/bin/sh\necho nothing for herdsman\n");
        let place = Place::new(Some(Cloud::Ec2), "ec2aaaaa-0001")?;

        // Nothing to do: it waits, quietly.
        let booted = place.boot()?;
        until("it does not ask", &place, async || {
            Ok(service.asked("/latest/user-data") > 1)
        })
        .await?;
        let before = ticks(&booted)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(ticks(&booted)? - before < 20, "it spins while it waits");
        let lines = place.console().lines().count();
        ensure!(
            lines == 1 && place.console().contains("waiting for one"),
            "{}",
            place.console()
        );

        // Told while it runs.
        let text = script(&told(&hub, place.path(), "demo-w0", 10, |_| {}).await?);
        service.set_user_data(text.as_bytes());
        enrolled(&hub, &place, "demo-w0").await?;
        ensure!(place.join_mode()? == 0o600, "{:o}", place.join_mode()?);
        ensure!(!place.console().contains("PRIVATE"), "{}", place.console());
        drop(booted);

        // A reboot, and the cloud says nothing any more: it is the same node.
        service.facts().values.clear();
        let asked = service.facts().log.len();
        let booted = place.boot()?;
        until("it does not come back", &place, async || {
            Ok(place.console().contains("identity of an earlier start is still good"))
        })
        .await?;
        enrolled(&hub, &place, "demo-w0").await?;
        drop(booted);
        let user_data = service
            .facts()
            .log
            .iter()
            .skip(asked)
            .filter(|l| l.contains("user-data"))
            .count();
        ensure!(user_data == 0, "{:?}", service.facts().log);

        // Another machine with a copy of the disk.
        place.firmware("product_uuid", "ec2bbbbb-0002")?;
        let booted = place.boot()?;
        until("it takes over an identity", &place, async || {
            Ok(place.console().contains("made from another node's disk"))
        })
        .await?;
        let text = script(&told(&hub, place.path(), "demo-w1", 11, |_| {}).await?);
        service.set_user_data(text.as_bytes());
        enrolled(&hub, &place, "demo-w1").await?;
        drop(booted);
        let former = place.path().join("var/lib/herdsman/former/identity.json");
        ensure!(former.is_file(), "the other identity is lost");
        ensure!(hub.audited("clone").await? == 0);
        Ok(())
    })
}

#[test]
fn a_script_that_writes_the_file_is_not_waited_for_long() -> Result<()> {
    alone(async || {
        let hub = Hub::start().await?;
        let place = Place::new(None, "0a-1")?;
        let booted = place.boot()?;
        until("it does not wait", &place, async || {
            Ok(place.console().contains("waiting for one"))
        })
        .await?;
        let text = told(&hub, place.path(), "demo-w0", 10, |_| {}).await?;
        std::fs::create_dir_all(place.path().join("var/lib/herdsman"))?;
        // Half of it first, as a slow disk would show it.
        std::fs::write(place.join(), &text[..text.len() / 2])?;
        until("it does not see the damage", &place, async || {
            Ok(place.console().contains("waiting for a better one"))
        })
        .await?;
        std::fs::write(place.join(), &text)?;
        enrolled(&hub, &place, "demo-w0").await?;
        drop(booted);
        Ok(())
    })
}

#[test]
fn the_metadata_service_may_come_later_than_the_agent() -> Result<()> {
    alone(async || {
        let hub = Hub::start().await?;
        let place = Place::new(Some(Cloud::Gce), "0a-1")?;
        let booted = place.boot()?;
        until("it says nothing", &place, async || {
            Ok(place.console().contains("waiting for a better one"))
        })
        .await?;
        let service = Service::start_at(Some(Cloud::Gce), LINK_LOCAL)?;
        let text = told(&hub, place.path(), "demo-w0", 10, |_| {}).await?;
        service.set("/computeMetadata/v1/instance/attributes/herdsman-join", text);
        enrolled(&hub, &place, "demo-w0").await?;
        drop(booted);
        Ok(())
    })
}

/// The kernel ends the first process of a tree that powers off with SIGINT, and
/// `unshare` passes that on.
async fn powered_off(booted: &mut Booted, place: &Place) -> Result<()> {
    let mut status = None;
    until("the machine runs on", place, async || {
        status = booted.0.try_wait()?;
        Ok(status.is_some())
    })
    .await?;
    let status = status.context("no status")?;
    let by_int = status.signal() == Some(2) || status.code() == Some(130);
    ensure!(
        by_int && place.console().contains("powering this machine off"),
        "{status:?}\n{}",
        place.console()
    );
    Ok(())
}

fn with_power(join: &mut Value) {
    // Absent: what a machine does by default.
    if let Some(join) = join.as_object_mut() {
        join.remove("at_end");
    }
}

#[test]
fn machines_power_off_when_there_is_nothing_left_to_do() -> Result<()> {
    alone(async || {
        let hub = Hub::start().await?;
        let service = Service::start_at(Some(Cloud::Hetzner), LINK_LOCAL)?;
        let start = async |name: &str, n: u8, change: &dyn Fn(&mut Value)| {
            let place = Place::new(Some(Cloud::Hetzner), name)?;
            let text = told(&hub, place.path(), name, n, change).await?;
            service.set_user_data(script(&text).as_bytes());
            anyhow::Ok((place.boot()?, place))
        };

        // Removed by its owner.
        let (mut booted, place) = start("demo-w0", 10, &with_power).await?;
        enrolled(&hub, &place, "demo-w0").await?;
        let answer = hub
            .ask(
                &hub.owner(),
                "POST",
                "/v1/revoke",
                &serde_json::json!({"nodes": ["demo-w0"], "why": "test"}),
            )
            .await?;
        ensure!(answer.status == 200, "{answer:?}");
        powered_off(&mut booted, &place).await?;

        // Refused: it stays up to be looked at until its deadline.
        let soon = Timestamp::now().plus(Duration::from_secs(6));
        let (mut booted, place) = start("demo-w1", 11, &|join| {
            with_power(join);
            join["deadline"] = soon.0.into();
            // An address that the hub does not expect this node at.
            let other: IpAddr = hub.node_address(99);
            join["bind"] = other.to_string().into();
        })
        .await?;
        powered_off(&mut booted, &place).await?;
        ensure!(Timestamp::now() >= soon, "{}", place.console());

        // Nobody can be reached any more.
        let (mut booted, place) = start("demo-w2", 12, &|join| {
            join["at_end"] = serde_json::json!({"no_contact_seconds": 3});
        })
        .await?;
        enrolled(&hub, &place, "demo-w2").await?;
        drop(hub);
        powered_off(&mut booted, &place).await?;
        ensure!(place.console().contains("not reached for 3 s"), "{}", place.console());
        Ok(())
    })
}

#[test]
fn a_machine_that_an_administrator_works_on_stays_up() -> Result<()> {
    alone(async || {
        let hub = Hub::start().await?;
        let service = Service::start_at(Some(Cloud::Hetzner), LINK_LOCAL)?;
        let place = Place::new(Some(Cloud::Hetzner), "0a-1")?;
        let text = told(&hub, place.path(), "demo-w0", 10, with_power).await?;
        service.set_user_data(script(&text).as_bytes());
        let mut booted = place.boot()?;
        enrolled(&hub, &place, "demo-w0").await?;
        let pid = booted.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let agent: i32 = children.split_whitespace().next().context("no agent")?.parse()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), nix::sys::signal::Signal::SIGTERM)?;
        let mut status = None;
        until("it does not end", &place, async || {
            status = booted.0.try_wait()?;
            Ok(status.is_some())
        })
        .await?;
        let console = place.console();
        ensure!(status.context("status")?.code() == Some(0), "{status:?}\n{console}");
        ensure!(!console.contains("powering"), "{console}");
        Ok(())
    })
}
