//! What may befall a cluster on real machines in the middle of a computation. It ends
//! right, or with the cause's name; the cluster is whole again by itself.
//!
//! One cluster takes all blows, one after the other: what one of them left broken
//! shows in the next.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::Ran;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER, static_agent};
use herdsman_tests::machines::{Cluster, LONG, Machine, Setup, available};
use serde_json::Value;

/// Where tasks leave a line for each execution: Dask's own folder, which lives through
/// a reboot.
const COUNTS: &str = "/var/lib/herdsman/home/counts";
/// Tasks of a computation; with two threads a worker it takes about six seconds.
const TASKS: u32 = 72;

#[test]
fn a_cluster_of_machines_survives_what_befalls_it() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut cluster = super::cluster()?;
    let small = Setup {
        disk: Some(super::full_disk::SIZE),
        ..Setup::default()
    };
    cluster.setups.insert(super::full_disk::NODE.to_owned(), small);
    cluster.up(3)?;
    step("agents are killed", || kill_agents(&cluster))?;
    step("a worker's Dask is killed", || kill_workers_dask(&cluster))?;
    step("a worker's disk is full", || super::full_disk::blow(&cluster))?;
    step("agents are upgraded", || upgrade(&cluster))?;
    step("the scheduler's Dask is killed", || kill_scheduler_s_dask(&cluster))?;
    step("the scheduler reboots", || reboot_scheduler(&cluster))?;
    step("a worker is cut off, another reboots", || super::cut::blow(&cluster))?;
    step("up by one and down again", || scale(&mut cluster))?;
    step("down", || down(&mut cluster))
}

/// Names the blow that failed, and tells how long each took.
fn step(name: &str, blow: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    blow().with_context(|| format!("when {name}"))?;
    let line = format!("{name}: {:.1} s\n", started.elapsed().as_secs_f64());
    // Straight to stderr, as it would be kept for a test that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    Ok(())
}

/// A computation whose tasks count their executions.
pub(super) struct Computation<'a> {
    cluster: &'a Cluster,
    name: &'static str,
    child: Option<Child>,
}

impl<'a> Computation<'a> {
    /// Starts it on so many workers, and waits until some tasks are done.
    pub(super) fn start(cluster: &'a Cluster, name: &'static str, workers: u8) -> Result<Self> {
        let program = format!(
            "
import time
from dask.distributed import Client
def task(i):
    time.sleep(0.5)
    with open('{COUNTS}-{name}', 'a') as f:
        f.write(f'{{i}}\\n')
    return i * i
client = Client()
client.wait_for_workers({workers}, timeout=60)
print(sum(client.gather(client.map(task, range({TASKS}), pure=False))))
"
        );
        let mut command = cluster.client(&program)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut this = Self {
            cluster,
            name,
            child: Some(child),
        };
        wait_for("the first tasks", || {
            let child = this.child.as_mut().context("it is waited for")?;
            ensure!(child.try_wait()?.is_none(), "it ended: {:?}", this.end()?);
            Ok((this.executions()?.len() >= 6).then_some(()))
        })?;
        Ok(this)
    }

    /// The tasks that were executed, as often as they were; only of machines that run.
    fn executions(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for machine in self.cluster.machines.values() {
            let Ok(ran) = machine.exec(&format!("cat {COUNTS}-{}", self.name)) else {
                continue;
            };
            all.extend(ran.out.lines().filter_map(|l| l.parse::<u32>().ok()));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The blow must fall while there is something left to do.
    pub(super) fn still_goes_on(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it is waited for")?;
        let is_over = child.try_wait()?.is_some();
        ensure!(!is_over, "the computation was over before the blow: {:?}", self.end()?);
        Ok(())
    }

    fn end(&mut self) -> Result<Ran> {
        let child = self.child.take().context("it is waited for")?;
        Ok(child.wait_with_output()?.into())
    }

    /// Waits for its end; the result must be right and each task have run.
    pub(super) fn ends_right(&mut self) -> Result<Vec<u32>> {
        wait_for("the computation's end", || {
            let child = self.child.as_mut().context("it is waited for")?;
            Ok(child.try_wait()?)
        })?;
        let ran = self.end()?;
        let right: u32 = (0..TASKS).map(|i| i * i).sum();
        ensure!(ran.code == 0 && ran.out.trim() == right.to_string(), "{ran:?}");
        let executions = self.executions()?;
        let mut distinct = executions.clone();
        distinct.dedup();
        ensure!(distinct == (0..TASKS).collect::<Vec<_>>(), "{executions:?}");
        Ok(executions)
    }

    /// As [`Self::ends_right`]; and no task has run twice.
    fn ends_unharmed(&mut self) -> Result<()> {
        let executions = self.ends_right()?;
        ensure!(executions.len() == TASKS as usize, "tasks ran twice: {executions:?}");
        Ok(())
    }
}

impl Drop for Computation<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(started.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(super) fn node(status: &Value, name: &str) -> Value {
    let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|n| n["name"] == name).unwrap_or_default()
}

/// Waits for a state of all nodes that `status` shows. It may fail meanwhile.
pub(super) fn wait_for_status(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = String::new();
    let found = wait_for(what, || {
        let ran = cluster.run(&["status", NAME, "-o", "json"])?;
        last = format!("{}{}", ran.out, ran.err);
        let status: Value = serde_json::from_str(&ran.out).unwrap_or_default();
        Ok(wanted(&status).then_some(status))
    });
    found.with_context(|| format!("status was {last}\n{}", cluster.consoles()))
}

/// Whether these nodes are all ready.
pub(super) fn all_ready(status: &Value, names: &[&str]) -> bool {
    names.iter().all(|n| node(status, n)["state"] == "ready")
}

const ALL: [&str; 4] = [SCHEDULER, "demo-w0", "demo-w1", "demo-w2"];

/// The cluster is whole: all are ready. The computation of the next blow shows that
/// the workers are at work again.
pub(super) fn is_whole(cluster: &Cluster) -> Result<Value> {
    wait_for_status(cluster, "all nodes are ready", |s| all_ready(s, &ALL))
}

pub(super) fn pid_of_agent(machine: &Machine) -> Result<i32> {
    let text = machine.ok("systemctl show --property=MainPID --value herdsman-agent")?;
    let pid = text.trim().parse()?;
    ensure!(pid > 1, "{} has no agent", machine.name());
    Ok(pid)
}

fn kill_agents(cluster: &Cluster) -> Result<()> {
    let mut computation = Computation::start(cluster, "agents", 3)?;
    for name in [SCHEDULER, "demo-w0"] {
        let machine = cluster.machine(name)?;
        machine.kill(pid_of_agent(machine)?)?;
    }
    computation.still_goes_on()?;
    computation.ends_unharmed()?;
    wait_for_status(cluster, "the next agents have adopted Dask", |s| {
        let adopted = |n: &str| node(s, n)["report"]["dask"]["adopted"] == true;
        all_ready(s, &ALL) && adopted(SCHEDULER) && adopted("demo-w0")
    })?;
    Ok(())
}

/// Dask's processes on a machine, the oldest first: it is the nanny or the scheduler.
fn dasks(machine: &Machine) -> Result<Vec<i32>> {
    let text = machine
        .ok("for p in /proc/[0-9]*; do [ \"$(stat -c %U $p 2>/dev/null)\" != dask ] || echo ${p#/proc/}; done")?;
    let mut all: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    all.sort_unstable();
    ensure!(!all.is_empty(), "{} runs no Dask", machine.name());
    Ok(all)
}

/// The nanny on one worker loses its process; on another all of Dask is killed.
fn kill_workers_dask(cluster: &Cluster) -> Result<()> {
    let mut computation = Computation::start(cluster, "dask", 3)?;
    let (one, other) = (cluster.machine("demo-w1")?, cluster.machine("demo-w2")?);
    let child = *dasks(one)?.last().context("no process")?;
    one.kill(child)?;
    let all: Vec<String> = dasks(other)?.iter().map(ToString::to_string).collect();
    other.ok(&format!("kill -9 {}", all.join(" ")))?;
    computation.still_goes_on()?;
    computation.ends_right()?;
    ensure!(!dasks(one)?.contains(&child), "the worker was not killed");
    let status = is_whole(cluster)?;
    let dask = &node(&status, "demo-w2")["report"]["dask"];
    ensure!(dask["restarts"].as_u64() > Some(0), "{dask}");
    ensure!(dask["last_exit"].as_str().is_some_and(|e| e.contains("KILL")), "{dask}");
    Ok(())
}

/// What makes a node this node and no other: its address, and the generation of its
/// identity, which begins anew with an enrolment. Dask's key is lost at a reboot, and
/// only the node that has the last generation gets the next one.
pub(super) fn identities(status: &Value, rebooted: &[&str]) -> BTreeMap<String, (u64, Value)> {
    let what = |name: &str| {
        let n = node(status, name);
        let more = u64::from(rebooted.contains(&name));
        let generation = n["generation"].as_u64().unwrap_or_default() + more;
        (name.to_owned(), (generation, n["address"].clone()))
    };
    ALL.iter().map(|n| what(n)).collect()
}

/// Another build of the agent: of the same program, with a tail nobody reads.
fn upgrade(cluster: &Cluster) -> Result<()> {
    let program = cluster.laptop.home.path().join("another-agent");
    let mut bytes = std::fs::read(static_agent()?)?;
    bytes.extend(b"another");
    std::fs::write(&program, bytes)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut computation = Computation::start(cluster, "upgrade", 3)?;
    let ran: Ran = cluster
        .command(&["upgrade", NAME])?
        .env("HERDSMAN_AGENT", &program)
        .output()?
        .into();
    ensure!(ran.code == 0, "{ran:?}");
    computation.ends_unharmed()?;
    let wanted = Command::new("sha256sum").arg(&program).output()?.stdout;
    let wanted = String::from_utf8(wanted)?;
    let wanted = wanted.split(' ').next().context("sha256sum")?;
    for machine in cluster.machines.values() {
        let running = machine.ok(&format!("sha256sum </proc/{}/exe", pid_of_agent(machine)?))?;
        ensure!(running.starts_with(wanted), "{} runs {running}", machine.name());
    }
    is_whole(cluster).map(drop)
}

/// The client hears why, and the cluster is there again at the same address.
fn named_and_back(cluster: &Cluster, mut computation: Computation, before: &Value, rebooted: &[&str]) -> Result<()> {
    wait_for("the computation's end", || {
        let child = computation.child.as_mut().context("it is waited for")?;
        Ok(child.try_wait()?)
    })?;
    let ran = computation.end()?;
    ensure!(ran.code != 0, "without a scheduler there is no result: {ran:?}");
    let named = [
        "scheduler-connection-lost",
        "lost connection to the scheduler",
        "CommClosedError",
    ];
    ensure!(
        named.iter().any(|n| ran.err.contains(n)),
        "no cause is named: {}",
        ran.err
    );
    let after = is_whole(cluster)?;
    let (old, new) = (identities(before, rebooted), identities(&after, &[]));
    ensure!(old == new, "{old:?}\n{new:?}");
    let address = |s: &Value| node(s, SCHEDULER)["report"]["dask"]["address"].clone();
    ensure!(
        address(before) == address(&after) && address(before).is_string(),
        "{after:#}"
    );
    Ok(())
}

fn kill_scheduler_s_dask(cluster: &Cluster) -> Result<()> {
    let before = is_whole(cluster)?;
    let mut computation = Computation::start(cluster, "scheduler", 3)?;
    computation.still_goes_on()?;
    let machine = cluster.machine(SCHEDULER)?;
    machine.kill(dasks(machine)?[0])?;
    named_and_back(cluster, computation, &before, &[])
}

fn reboot_scheduler(cluster: &Cluster) -> Result<()> {
    let before = is_whole(cluster)?;
    let mut computation = Computation::start(cluster, "boot", 3)?;
    computation.still_goes_on()?;
    cluster.machine(SCHEDULER)?.reboot()?;
    named_and_back(cluster, computation, &before, &[SCHEDULER])
}

/// A machine that is scaled away powers itself off.
fn scale(cluster: &mut Cluster) -> Result<()> {
    cluster.grow(&["scale", NAME, "4"])?;
    let status = cluster.status()?;
    ensure!(node(&status, "demo-w3")["state"] == "ready", "{status:#}");
    let ran = cluster.run(&["scale", NAME, "3", "-o", "json"])?;
    // Partly done: the machine itself is its user's to delete.
    ensure!(ran.code == 7, "{ran:?}");
    let scaled: Value = serde_json::from_str(&ran.out)?;
    let gone = scaled["removed"][0].as_str().context("removed")?.to_owned();
    ensure!(scaled["ready"] == 3, "{scaled}");
    let mut machine = cluster.machines.remove(&gone).context("no such machine")?;
    machine.wait_for_end()?;
    for machine in cluster.machines.values_mut() {
        ensure!(machine.runs()?, "{} is off as well", machine.name());
    }
    let sum = cluster.compute(super::SUM)?;
    ensure!(sum == "332833500\nTrue\n", "{sum}");
    Ok(())
}

fn down(cluster: &mut Cluster) -> Result<()> {
    let ran = cluster.run(&["down", NAME, "-y"])?;
    ensure!(ran.code == 7 && ran.err.contains("E-LEFTOVER"), "{ran:?}");
    ensure!(cluster.machines.len() == 4, "{:?}", cluster.machines.keys());
    for machine in cluster.machines.values_mut() {
        machine.wait_for_end()?;
    }
    // Its user sees that they are off, and has deleted them.
    cluster.ok(&["down", NAME, "-y", "--forget"])?;
    ensure!(cluster.run(&["status", NAME])?.code == 3);
    ensure!(cluster.wanted()?.is_empty(), "user-data is left");
    Ok(())
}
