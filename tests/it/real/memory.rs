//! A task that wants more memory than its machine has. Containers have no memory
//! controller here, so the worker is a machine with a kernel of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::{Setup, Vm, VmSetup, available, complete};
use herdsman_wire::limits::BOOTSTRAP_LIFE;
use serde_json::Value;

const WORKER: &str = "demo-w0";
/// What a small machine keeps for itself, bytes.
const ROOM: u64 = 256 << 20;
/// For what a machine without KVM does.
const SLOW: Duration = Duration::from_secs(120);

/// Without Dask's own limit, which a task that is fast enough outruns, and without
/// further tries, which would end the same way.
const SETTINGS: &str = "
[env.variables]
DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE = \"false\"
DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES = \"0\"
";

const EAT: &str = "
from dask.distributed import Client, KilledWorker
def eat():
    blocks = []
    while True:
        blocks.append(b'x' * (8 << 20))
with Client() as c:
    c.wait_for_workers(1, timeout=60)
    try:
        c.submit(eat).result(timeout=240)
    except KilledWorker as e:
        print(type(e).__name__)
    c.wait_for_workers(1, timeout=120)
    print(c.submit(sum, range(100)).result(timeout=120))
";

/// The unit's limit and what the kernel did about it; who lives.
const FACTS: &str = "
cd /sys/fs/cgroup/system.slice/herdsman-agent.service
echo total=$(awk '/^MemTotal/ { print $2 * 1024 }' /proc/meminfo)
echo limit=$(cat memory.max)
awk '{ print $1 \"=\" $2 }' memory.events
echo agent=$(systemctl show -p MainPID --value herdsman-agent)
echo restarts=$(systemctl show -p NRestarts --value herdsman-agent)
echo dask=$(cat dask/cgroup.procs | wc -l)
";

fn facts(vm: &Vm) -> Result<impl Fn(&str) -> Result<u64>> {
    let out = vm.exec(FACTS, SLOW)?;
    ensure!(out.code == 0, "{out:?}");
    Ok(move |name: &str| {
        let value = out.out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        let value = value.with_context(|| format!("no {name}: {}", out.out))?;
        Ok(value.parse()?)
    })
}

#[test]
fn a_task_that_eats_all_memory_ends_and_its_machine_does_not() -> Result<()> {
    if !available() || !complete() {
        return Ok(());
    }
    let mut cluster = super::cluster()?;
    cluster.configure(SETTINGS)?;
    let wait = format!("{}s", BOOTSTRAP_LIFE.as_secs());
    let mut going = cluster.start(&["up", NAME, "--workers", "1", "--env", "copy", "--start-timeout", &wait])?;
    let mut vm = None;
    let started = Instant::now();
    let code = loop {
        for (node, text) in cluster.wanted()? {
            if node == SCHEDULER {
                cluster.make(SCHEDULER, text, Setup::default())?;
            } else if vm.is_none() {
                let setup = VmSetup {
                    arguments: ["-m", "2048"].map(Into::into).into(),
                    ..VmSetup::default()
                };
                let address = cluster.address(&node)?;
                vm = Some(Vm::boot(&cluster.network, &node, address, text, &setup)?);
            }
        }
        if let Some(code) = going.ended()? {
            break code;
        }
        ensure!(started.elapsed() < BOOTSTRAP_LIFE + SLOW, "{}", going.said());
        std::thread::sleep(Duration::from_millis(100));
    };
    let vm = vm.with_context(|| format!("no user-data of {WORKER}: {}", going.said()))?;
    ensure!(code == 0, "{}\n{}", going.said(), vm.console());

    let before = facts(&vm)?;
    let (total, max) = (before("total")?, before("limit")?);
    let room = total - max;
    ensure!((ROOM..ROOM + (1 << 20)).contains(&room), "{max} of {total}");
    ensure!(before("dask")? >= 2 && before("oom_kill")? == 0);
    let out = cluster.compute(EAT)?;
    ensure!(out == "KilledWorker\n4950\n", "{out}\n{}", vm.console());
    let after = facts(&vm)?;
    // It was this limit, and not the machine's own end of memory.
    let (kills, hits) = (after("oom_kill")?, after("oom")?);
    ensure!(
        kills == 1 && hits > 0,
        "{kills} kills, {hits} of the unit's limit\n{}",
        vm.console()
    );
    ensure!(after("agent")? == before("agent")? && after("restarts")? == 0);

    // Whoever looks is told.
    let told = Instant::now();
    let node = loop {
        let status = cluster.status()?;
        let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.into_iter().find(|n| n["name"] == WORKER).context("no worker")?;
        if node["report"]["dask"]["out_of_memory"].as_u64() > Some(0) {
            break node;
        }
        ensure!(told.elapsed() < SLOW, "{node:#}");
        std::thread::sleep(Duration::from_millis(500));
    };
    ensure!(
        node["state"] == "ready" && node["report"]["phases"].as_array().is_some_and(|p| p.iter().all(done)),
        "{node:#}"
    );
    let text = cluster.ok(&["status", NAME])?.out;
    ensure!(text.contains("out of memory: 1 killed"), "{text}");
    let logs = cluster.ok(&["logs", NAME, WORKER])?.out;
    ensure!(
        logs.contains("out of memory: the kernel ended 1 process of Dask; this node may use "),
        "{logs}"
    );
    Ok(())
}

fn done(phase: &Value) -> bool {
    phase["status"] == "done"
}
