//! A cloud takes a worker's machine back: what the worker holds is moved in the time
//! that is left.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_tests::home::{Home, wait_for};
use herdsman_tests::metadata::{LINK_LOCAL, Place, Service};
use herdsman_tests::trouble::strange_agent;
use herdsman_wire::Timestamp;
use nix::sched::{CloneFlags, setns};

use super::{Held, computes, node, pids};

const WORKER: &str = "demo-w1";

/// The metadata service in the network of the node.
fn service(home: &Home, cloud: Cloud) -> Result<Service> {
    let status = home.json(&["status", "demo"])?;
    let id = status["status"]["cluster"].as_str().context("cluster")?;
    let namespace = format!("/run/netns/hm-{id}-{WORKER}");
    let thread = std::thread::spawn(move || {
        setns(File::open(&namespace).context(namespace)?, CloneFlags::CLONE_NEWNET)?;
        let added = Command::new("ip")
            .args(["address", "add", "169.254.169.254/32", "dev", "lo"])
            .status()?;
        ensure!(added.success(), "ip address add");
        Service::start_at(Some(cloud), LINK_LOCAL)
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread broke off"))?
}

/// A cluster whose second worker is on a machine of a cloud.
fn up(home: &Home, place: &Place) -> Result<()> {
    let machine = format!(
        "case \"$3\" in */{WORKER}/*) exec unshare --mount sh -c '{}mkdir -p /var/lib/herdsman; \
         sed \"s/^{{/{{\\\"at_end\\\":{{\\\"power_off\\\":false}},/\" \"$1\" >/var/lib/herdsman/join.json; \
         exec \"$2\" run' sh \"$3\" \"$AGENT\" ;; esac",
        place.dress()
    );
    let agent = strange_agent(home, &machine)?;
    let mut command = home.command(&["up", "demo", "--workers", "3"])?;
    let out = command.env("HERDSMAN_AGENT", agent).output()?;
    ensure!(out.status.success(), "{out:?}");
    Ok(())
}

/// The worker goes before its time is up, with nothing lost, and everybody is told.
fn leaves(home: &Home, by: Timestamp, words: &str) -> Result<()> {
    wait_for("the node's processes are gone", || {
        Ok(pids(home, WORKER, &[]).is_empty().then_some(()))
    })?;
    ensure!(Timestamp::now() < by, "only after its machine was gone");
    let seen = wait_for("the status says so", || {
        let seen = node(home, WORKER)?;
        Ok((seen["state"] == "stopped").then_some(seen))
    })?;
    let notice = &seen["report"]["notice"];
    let text = notice["text"].as_str().unwrap_or_default();
    ensure!(notice["kind"] == "preempted" && text.contains(words), "{seen}");
    ensure!(text.contains(", in "), "the time that is left is not told: {text}");
    let shown = home.ok(&["status", "demo"])?.out;
    let line = shown.lines().find(|l| l.starts_with(WORKER)).unwrap_or_default();
    ensure!(line.contains(&format!("preempted: {words}")), "{shown}");
    let logs = home.ok(&["logs", "demo"])?.out;
    ensure!(logs.contains(&format!("preempted: {words}")), "{logs}");
    Ok(())
}

#[test]
fn a_spot_worker_of_ec2_moves_its_data_before_its_machine_goes() -> Result<()> {
    let home = Home::new()?;
    let place = Place::new(Some(Cloud::Ec2), "ec2aaaaa-1")?;
    up(&home, &place)?;
    let service = service(&home, Cloud::Ec2)?;
    service.set("/latest/meta-data/instance-life-cycle", "spot");
    let held = Held::start(&home)?;
    let by = Timestamp::now().plus(Duration::from_secs(120));
    let action = serde_json::json!({"action": "terminate", "time": by.to_string()});
    service.set("/latest/meta-data/spot/instance-action", action.to_string());
    leaves(&home, by, "EC2 takes this spot machine back")?;
    held.finish(&home)?;
    computes(&home, "demo")?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn a_spot_worker_of_azure_says_when_it_is_ready() -> Result<()> {
    let home = Home::new()?;
    let place = Place::new(Some(Cloud::Azure), "0a-1")?;
    up(&home, &place)?;
    let service = service(&home, Cloud::Azure)?;
    service.set("/metadata/instance/compute/name", "vm-7");
    let held = Held::start(&home)?;
    let event = |at: &str| {
        let event = serde_json::json!({
            "EventId": "E-1", "EventType": "Preempt", "ResourceType": "VirtualMachine",
            "Resources": ["vm-7"], "EventStatus": "Scheduled", "NotBefore": at
        });
        serde_json::json!({"DocumentIncarnation": 2, "Events": [event]}).to_string()
    };
    let by = Timestamp::now().plus(Duration::from_secs(120));
    // The year 2100 has a time that needs no calendar here; what counts is the approval.
    service.set("/metadata/scheduledevents", event("Fri, 01 Jan 2100 00:00:00 GMT"));
    leaves(&home, by, "Azure takes this spot machine back")?;
    ensure!(service.facts().posted.len() == 1, "{:?}", service.facts().posted);
    held.finish(&home)?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn a_preempted_worker_of_google_uses_its_half_minute() -> Result<()> {
    let home = Home::new()?;
    let place = Place::new(Some(Cloud::Gce), "0a-1")?;
    up(&home, &place)?;
    let service = service(&home, Cloud::Gce)?;
    let preempted = "/computeMetadata/v1/instance/preempted";
    service.set(preempted, "FALSE");
    let held = Held::start(&home)?;
    wait_for("it waits for news", || {
        Ok((service.asked("preempted?wait_for_change=true") > 0).then_some(()))
    })?;
    let by = Timestamp::now().plus(Duration::from_secs(30));
    service.set(preempted, "TRUE");
    leaves(&home, by, "GCE preempts this machine")?;
    held.finish(&home)?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
