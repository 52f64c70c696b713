//! Machines that an emulated cloud was asked for, as light as can be. The scheduler's
//! is the agent's own program, started from the user-data that was sent; a worker's
//! enrols with what its own user-data says, by the agent's own code, and keeps a
//! session, without the processes around it.
//!
//! Standard input has one machine a line; it boots so many seconds later:
//! `{"id": "i-1", "address": "172.31.0.5", "user_data": "#!/bin/sh …", "after": 20.0}`.
//! Standard output says `{"agent": ID}`, `{"enrolled": ID}` and `{"failed": ID, "why": …}`
//! as they happen. All of it ends with standard input.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use herdsman_agent::identity::{Store, enrol};
use herdsman_agent::source::extract::{self, Joined};
use herdsman_wire::join::Paths;
use herdsman_wire::{Role, session};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::nodes::{self, Counts};

/// How long the scheduler's agent may take to end its Dask.
const ENDING: Duration = Duration::from_secs(20);

/// A machine to be.
#[derive(Deserialize)]
struct Machine {
    id: String,
    address: IpAddr,
    user_data: String,
    /// Seconds until it has booted.
    after: f64,
}

/// Boots what it is told of until standard input ends.
///
/// The scheduler's files go to `disk`, as on a machine of its own. A thousand workers
/// have a disk each, and here share `memory`: they would wait for each other's.
pub(crate) async fn run(agent: &Path, disk: &Path, memory: &Path) -> Result<Value> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let counts = std::sync::Arc::new(Counts::default());
    let (agents, mut started) = tokio::sync::mpsc::unbounded_channel::<Child>();
    let mut number = 0;
    while let Some(line) = lines.next_line().await? {
        let machine: Machine = serde_json::from_str(&line)?;
        let agent = agent.to_owned();
        let (disk, memory) = (disk.join(&machine.id), memory.join(&machine.id));
        let (counts, agents) = (counts.clone(), agents.clone());
        number += 1;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs_f64(machine.after.max(0.0))).await;
            let id = machine.id.clone();
            let become_node = async {
                let mut joined = extract::join(machine.user_data.as_bytes(), "user-data")?
                    .context("user-data has no join configuration")?;
                if joined.join.role == Role::Scheduler {
                    joined.join.paths = folders(&disk);
                    // Nobody waits for it any more when everything ends.
                    let _ = agents.send(scheduler(&agent, &disk, &joined)?);
                    return say(&json!({"agent": id}));
                }
                joined.join.paths = folders(&memory);
                worker(number, joined, &id, machine.address, counts).await
            };
            if let Err(e) = become_node.await {
                let _ = say(&json!({"failed": machine.id, "why": format!("{e:#}")}));
            }
        });
    }
    started.close();
    while let Some(mut child) = started.recv().await {
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
            child.kill().await?;
        }
    }
    Ok(json!({"machines": number}))
}

fn folders(of: &Path) -> Paths {
    Paths {
        state: of.join("state"),
        run: of.join("run"),
        environments: of.join("environments"),
    }
}

fn scheduler(agent: &Path, folder: &Path, joined: &Joined) -> Result<Child> {
    std::fs::create_dir_all(folder)?;
    let file: PathBuf = folder.join("join.json");
    crate::hub::write_private(&file, &serde_json::to_vec(&joined.join)?)?;
    let log = std::fs::File::create(folder.join("log"))?;
    // The machine has no network of its own, so no packet filter either.
    let child = Command::new(agent)
        .args(["run", "--firewall", "off", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    child.context("the agent")
}

async fn worker(
    number: usize,
    joined: Joined,
    id: &str,
    address: IpAddr,
    counts: std::sync::Arc<Counts>,
) -> Result<()> {
    let mut join = joined.join;
    // Each machine has one address; here all of them are in one place.
    join.bind = Some(address);
    let store = Store::open(&join)?;
    let identity = enrol::enrol(&join, &store, |_| {}).await?;
    say(&json!({"enrolled": id}))?;
    let client = enrol::client(&join, &identity.issued.agent_chain, &identity.agent_key)?;
    // A session that breaks is begun anew, as an agent does.
    for tries in 0.. {
        match client.upgrade("/v1/beat", session::UPGRADE).await {
            Ok(io) => {
                let _ = nodes::node(number, address, io, &counts).await;
            }
            Err(e) if e.retryable => {}
            Err(e) => bail!("no session: {e}"),
        }
        tokio::time::sleep(enrol::wait(tries, enrol::dice())).await;
    }
    Ok(())
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
