//! What users do with a running cluster, and what they may do wrong with it.

mod certificates;
mod commands;
mod interrupted;
mod leaving;
mod limits;
mod looking;
mod options;
mod preempted;
mod removal;
mod scaling;
mod stranger;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Adds two numbers on a worker.
const ADD: &str = "from dask.distributed import Client; print(Client().submit(sum, [1, 2], pure=False).result())";

/// Forty tasks that each leave a line in `counts`; the client holds their results
/// until it reads a line, then prints their sum and ends.
const HELD: &str = "
import os, sys, time
from dask.distributed import Client, wait
COUNTS = os.path.abspath('counts')
def task(i, path):
    time.sleep(0.02)
    with open(path, 'a') as f:
        f.write(f'{i}\\n')
    return i * i
client = Client()
done = client.map(task, range(40), path=COUNTS)
wait(done)
sys.stdin.readline()
print(sum(client.gather(done)))
";

/// A client that holds the results of forty tasks.
struct Held(Child);

impl Held {
    fn start(home: &Home) -> Result<Self> {
        let mut command = home.client("demo", HELD)?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let held = Self(child);
        wait_for("forty tasks", || Ok((executions(home).len() == 40).then_some(())))?;
        Ok(held)
    }

    /// The results are all there, and none was computed twice.
    fn finish(mut self, home: &Home) -> Result<()> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().context("no output")?, &mut text)?;
        ensure!(self.0.wait()?.success() && text.trim() == "20540", "{text}");
        ensure!(
            executions(home) == (0..40).collect::<Vec<_>>(),
            "{:?}",
            executions(home)
        );
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn executions(home: &Home) -> Vec<u32> {
    let text = std::fs::read_to_string(home.path().join("counts")).unwrap_or_default();
    let mut all: Vec<u32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// The cluster `demo` adds two numbers.
fn computes(home: &Home, name: &str) -> Result<()> {
    let sum = home.compute(name, ADD)?;
    ensure!(sum.trim() == "3", "{sum}");
    Ok(())
}

/// A node in the status, or null.
fn node(home: &Home, name: &str) -> Result<Value> {
    let status = home.json(&["status", "demo"])?;
    let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
    Ok(nodes.into_iter().find(|n| n["name"] == name).unwrap_or_default())
}

/// The folder of a node of the only cluster of this home.
fn folder(home: &Home, node: &str) -> Result<std::path::PathBuf> {
    let all = herdsman_tests::trouble::folders(home, node);
    all.into_iter().next().with_context(|| format!("no folder of {node}"))
}

/// The processes of a node whose command line holds all of these words.
fn pids(home: &Home, node: &str, words: &[&str]) -> Vec<i32> {
    let marks = [format!("/{node}/"), format!("/{node} ")];
    let all = home.processes().into_iter();
    all.filter(|(_, line)| marks.iter().any(|m| line.contains(m)) && words.iter().all(|w| line.contains(w)))
        .map(|(pid, _)| pid)
        .collect()
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} for {pid}"))
}

fn pid_of(child: &Child) -> Result<i32> {
    Ok(i32::try_from(child.id())?)
}

/// Runs a program in the network namespace of a node.
fn inside(home: &Home, node: &str, program: &str, args: &[&str]) -> Result<Ran> {
    let status = home.json(&["status", "demo"])?;
    let id = status["status"]["cluster"].as_str().context("cluster")?;
    let namespace = format!("hm-{id}-{node}");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace, program]).args(args);
    Ok(command.stdin(Stdio::null()).output()?.into())
}

/// Whether a folder is missing or holds nothing.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut d| d.next().is_none())
}
