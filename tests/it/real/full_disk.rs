//! A worker at work whose disk is full. It says so, keeps what it has, and is well
//! again by itself once there is room.

use anyhow::{Context, Result, ensure};
use herdsman_tests::machines::Cluster;
use herdsman_tests::machines::cluster::NAME;
use serde_json::Value;

use super::blows::{is_whole, node, pid_of_agent, wait_for_status};

/// The node whose disk has a size.
pub(super) const NODE: &str = "demo-w2";
/// Room for the environment and the agent, bytes.
pub(super) const SIZE: u64 = 640 << 20;

/// Work on the one worker, which is told to spill whatever does not fit into a
/// megabyte: says whether the results are right, whether anything was spilled, and
/// what a task hears that writes a file itself.
const WORK: &str = "
from dask.distributed import Client, wait
def limit(size, dask_worker):
    before, dask_worker.data.fast.n = dask_worker.data.fast.n, size
    return before
def spilled(dask_worker):
    return len(dask_worker.data.slow)
def write():
    with open('/var/lib/herdsman/home/result', 'wb') as f:
        f.write(bytes(1 << 20))
    return 'written'
with Client() as c:
    mine = [a for a, w in c.scheduler_info()['workers'].items() if w['name'] == 'demo-w2']
    before = c.run(limit, 1 << 20, workers=mine)[mine[0]]
    parts = c.map(lambda i: bytes([i]) * (1 << 20), range(24), workers=mine, pure=False)
    wait(parts)
    print(sum(c.gather(c.map(sum, parts, workers=mine, pure=False))) == sum(range(24)) << 20)
    print(c.run(spilled, workers=mine)[mine[0]] > 0)
    try:
        print(c.submit(write, workers=mine, pure=False).result())
    except OSError as e:
        print(e)
    c.run(limit, before, workers=mine)
";

fn troubles(status: &Value) -> Vec<String> {
    let all = node(status, NODE)["report"]["troubles"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |e: &Value| {
        format!(
            "{}: {}",
            e["code"].as_str().unwrap_or_default(),
            e["message"].as_str().unwrap_or_default()
        )
    };
    all.iter().map(text).collect()
}

pub(super) fn blow(cluster: &Cluster) -> Result<()> {
    let before = is_whole(cluster)?;
    let machine = cluster.machine(NODE)?;
    machine.fill_disk(0)?;
    // The next agent has to start on it, and takes Dask over.
    machine.kill(pid_of_agent(machine)?)?;
    // What the worker has stays in memory, and a task that writes hears why it cannot.
    let said = cluster.compute(WORK)?;
    ensure!(said == "True\nFalse\n[Errno 28] No space left on device\n", "{said}");
    wait_for_status(cluster, "the next agent is there", |s| {
        let node = node(s, NODE);
        node["state"] == "ready" && node["report"]["dask"]["adopted"] == true
    })?;
    cluster.post(&format!("/v1/nodes/{NODE}/renew"))?;
    let full = format!(
        "E-DISK: the disk of /var/lib/herdsman is full: 0 of {} MiB are free",
        SIZE >> 20
    );
    let failed = "E-DISK: certificates cannot be renewed, and end at ";
    wait_for_status(cluster, "both troubles are told", |s| {
        let all = troubles(s);
        all.len() == 2 && all[0].starts_with(&full) && all[1].starts_with(failed)
    })?;
    let (status, doctor) = (cluster.ok(&["status", NAME])?, cluster.run(&["doctor", NAME])?);
    let line = status.out.lines().find(|l| l.starts_with(NODE)).context("no line")?;
    ensure!(line.contains(" ready ") && line.contains(&full), "{line}");
    let told = [format!("✗ {NODE}: {full}"), format!("✗ {NODE}: {failed}")];
    ensure!(told.iter().all(|t| doctor.out.contains(t)), "{doctor:?}");
    ensure!(
        doctor.code == 1
            && doctor
                .out
                .contains(&format!("try: herdsman exec {NAME} {NODE} -- df -h "))
    );

    machine.empty_disk()?;
    let generation = |s: &Value| node(s, NODE)["generation"].as_u64();
    wait_for_status(cluster, "the node is well again", |s| {
        troubles(s).is_empty() && generation(s) > generation(&before)
    })?;
    let said = cluster.compute(WORK)?;
    ensure!(said == "True\nTrue\nwritten\n", "{said}");
    is_whole(cluster).map(drop)
}
