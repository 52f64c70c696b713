//! Load for benchmarks: a real hub on one processor, simulated nodes on another.
//! Prints what it measured as JSON.
//!
//!   herdsman-load listen AGENT
//!   herdsman-load nodes AGENT COUNT SECONDS
//!   herdsman-load tunnel AGENT
//!   herdsman-load fleet AGENT DISK MEMORY
//!   herdsman-load boot ROUNDS
//!   herdsman-load boot-qemu ROUNDS

mod boot;
mod fleet;
mod hub;
mod nodes;
mod site;
mod tunnel;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use herdsman_wire::report::ClusterStatus;
use serde_json::{Value, json};

use hub::Hub;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Each simulated node has a connection, and so has the hub for it.
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    use std::io::Write;
    // It stands in a network of its own, and waits for machines.
    if let [what @ ("boot" | "boot-qemu"), rounds] = args[..] {
        let measured = boot::measure(rounds.parse()?, what == "boot-qemu")?;
        return Ok(writeln!(std::io::stdout(), "{measured}")?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        match args[..] {
            ["listen", agent] => listen(Path::new(agent)).await,
            ["nodes", agent, count, seconds] => nodes(Path::new(agent), count.parse()?, seconds.parse()?).await,
            ["tunnel", agent] => tunnel(Path::new(agent)).await,
            ["fleet", agent, disk, memory] => fleet::run(Path::new(agent), Path::new(disk), Path::new(memory)).await,
            _ => bail!("listen AGENT | nodes AGENT COUNT SECONDS | tunnel AGENT | fleet AGENT DISK MEMORY | boot ROUNDS | boot-qemu ROUNDS"),
        }
    })?;
    writeln!(std::io::stdout(), "{measured}")?;
    Ok(())
}

async fn listen(agent: &Path) -> Result<Value> {
    let hub = Hub::start(agent, 0, false).await?;
    Ok(json!({"milliseconds": hub.listening.as_secs_f64() * 1000.0}))
}

async fn nodes(agent: &Path, count: usize, seconds: u64) -> Result<Value> {
    let hub = Hub::start(agent, count, true).await?;
    let empty = hub.memory()?;
    let (clients, took, cpu) = nodes::enrol(&hub).await?;
    let enrolled = hub.memory()?;
    let (began, before) = (Instant::now(), hub.cpu()?);
    let counts = nodes::connect(clients).await?;
    let (connecting, connecting_cpu) = (began.elapsed(), hub.cpu()? - before);
    // Past the first reports, which differ from the rest.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (began, before) = (Instant::now(), hub.cpu()?);
    let (reports, answers) = (
        counts.reports.load(Ordering::Relaxed),
        counts.answers.load(Ordering::Relaxed),
    );
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (lasted, used) = (began.elapsed().as_secs_f64(), (hub.cpu()? - before).as_secs_f64());
    let reports = counts.reports.load(Ordering::Relaxed) - reports;
    let answers = counts.answers.load(Ordering::Relaxed) - answers;
    let memory = hub.memory()?;
    let asked = Instant::now();
    let status: ClusterStatus = hub.link.get("/v1/status", Duration::from_secs(30)).await?;
    let status_took = asked.elapsed();
    let heard = status.nodes.iter().filter(|n| n.report.dask.state == "running").count();
    if heard != count {
        bail!("the hub has heard of {heard} of {count} nodes");
    }
    let lost = counts.lost.load(Ordering::Relaxed);
    if lost > 0 {
        bail!("{lost} sessions ended");
    }
    Ok(json!({
        "nodes": count,
        "enrolments_per_second": count as f64 / took.as_secs_f64(),
        "enrolments_per_core_second": count as f64 / cpu.as_secs_f64(),
        "connections_per_second": count as f64 / connecting.as_secs_f64(),
        "connecting_cpu_seconds": connecting_cpu.as_secs_f64(),
        "reports_per_second": reports as f64 / lasted,
        "answers_per_second": answers as f64 / lasted,
        "cores": used / lasted,
        "reports_per_core_second": reports as f64 / used,
        "memory_empty_mib": empty,
        "memory_enrolled_mib": enrolled,
        "memory_mib": memory,
        "status_seconds": status_took.as_secs_f64(),
    }))
}

async fn tunnel(agent: &Path) -> Result<Value> {
    let hub = Hub::start(agent, 0, false).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        bare.push(tunnel::bare().await?);
        ours.push(tunnel::through(&hub).await.context("through the hub")?);
    }
    let middle = |rates: &[tunnel::Rates], up: bool| {
        let mut all: Vec<f64> = rates.iter().map(|r| if up { r.up } else { r.down }).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(json!({
        "up": middle(&ours, true),
        "down": middle(&ours, false),
        "bare_up": middle(&bare, true),
        "bare_down": middle(&bare, false),
    }))
}
