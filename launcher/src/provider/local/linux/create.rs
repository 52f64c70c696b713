//! Starting nodes: files, namespaces, keepers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use herdsman_wire::{Code, Role, limits};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::lock::{self, Lock};
use super::record::{ClusterRecord, Forward, KeeperConfig, KeeperState, Kind, NodeFiles, NodeRecord, VERSION};
use super::{Local, blocking, disk, fail, netns, place, process, record};

/// Name of the forward to the agent.
pub(super) const FORWARD_AGENT: &str = "agent";
/// Name of the forward to Dask's scheduler.
pub(super) const FORWARD_SCHEDULER: &str = "scheduler";

/// A keeper listens within milliseconds; the rest is for busy machines.
const KEEPER_DEADLINE: Duration = Duration::from_secs(10);
/// How often a keeper is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Keepers started at the same time.
const AT_ONCE: usize = 32;
/// What of the user's environment a node gets.
const ENVIRONMENT: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// For a user without PATH: a node without any could not be told from others.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// Lines of a node's console that go into an error.
const CONSOLE_LINES: usize = 5;

/// A node between its files and its keeper.
#[derive(Debug)]
enum Prepared {
    /// Its keeper is to be started.
    New(Box<NodeRecord>),
    /// An earlier call made it.
    Runs(Box<Machine>),
}

impl Prepared {
    fn to_start(&self) -> Option<&NodeRecord> {
        match self {
            Self::New(node) => Some(node),
            Self::Runs(_) => None,
        }
    }
}

impl Local {
    pub(in super::super) async fn create(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
    ) -> Vec<Result<Machine, ProviderError>> {
        if machines.is_empty() {
            return Vec::new();
        }
        let (me, cluster, specs) = (self.clone(), cluster.clone(), machines.to_vec());
        let making = self.making.begin().await;
        let prepared = blocking(move || {
            let _making = making;
            me.prepare_all(&cluster, &specs)
        })
        .await
        .and_then(|prepared| prepared);
        // Held until all keepers listen, so that nobody takes a node that is
        // about to come for one that is broken.
        let (prepared, _lock) = match prepared {
            Ok(p) => p,
            Err(e) => return machines.iter().map(|_| Err(e.clone())).collect(),
        };
        futures_util::stream::iter(prepared)
            .map(|prepared| self.start(prepared))
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// All but the keepers. The outer error is one for all nodes.
    fn prepare_all(
        &self,
        cluster: &ClusterRef,
        specs: &[MachineSpec],
    ) -> Result<(Vec<Result<Prepared, ProviderError>>, Lock), ProviderError> {
        check_program(&self.agent)?;
        let places = {
            let _lock = lock::take(&self.layout.base)?;
            self.cluster_record(cluster)?
        };
        let lock = lock::take(&self.layout.cluster(&cluster.id))?;
        // Looked at once: a table costs more than all files of a node.
        let table = process::Table::read(false);
        let prepared: Vec<_> = specs
            .iter()
            .map(|spec| {
                let node = self.record(&places, spec)?;
                if let Some(machine) = self.existing(&node, spec, &table)? {
                    return Ok(Prepared::Runs(Box::new(machine)));
                }
                self.prepare(&places, &node, spec)
                    .inspect_err(|_| self.undo(&[&node]))?;
                Ok(Prepared::New(Box::new(node)))
            })
            .collect();
        if places.network == Kind::Namespace {
            let new: Vec<&NodeRecord> = prepared.iter().flatten().filter_map(Prepared::to_start).collect();
            let nodes: Vec<_> = new.iter().map(|n| (&n.node, n.address)).collect();
            if let Err(e) = netns::add_nodes(&cluster.id, &nodes) {
                self.undo(&new);
                return Err(fail(
                    Code::Provider,
                    format!("cannot make the nodes' network namespaces: {e}"),
                ));
            }
        }
        Ok((prepared, lock))
    }

    /// The node if it is there and well and is what is asked for. Whatever is
    /// left of one that is not well is removed.
    fn existing(
        &self,
        node: &NodeRecord,
        spec: &MachineSpec,
        table: &process::Table,
    ) -> Result<Option<Machine>, ProviderError> {
        let files = self.layout.node(&node.cluster.id, &node.node);
        let marker = process::marker(&node.cluster.id, &node.node);
        let nothing = !files.dir.exists()
            && !netns::file(&netns::name(&node.cluster.id, &node.node)).exists()
            && table.marked().all(|(m, _)| m != marker);
        if nothing {
            return Ok(None);
        }
        let runs = super::keeper(&files).filter(process::runs);
        let Some(keeper) = runs else {
            let left = self.delete_locked(&[(node.cluster.clone(), node.node.clone())]).left;
            return match left.into_iter().next() {
                None => Ok(None),
                Some((name, why)) => Err(fail(
                    Code::Leftover,
                    format!("an earlier {name} cannot be removed: {why}"),
                )),
            };
        };
        let told = std::fs::read(files.join()).map_err(disk(&files.join()))?;
        let same = told == spec.user_data.reveal().as_bytes()
            && self.node(&node.cluster.id, &node.node).is_ok_and(|f| f.record == *node);
        if !same {
            return Err(fail(
                Code::Conflict,
                format!("the node {} exists with other settings and runs", node.node),
            ));
        }
        let mut machine = super::machine(node, Some(&keeper));
        machine.running = true;
        Ok(Some(machine))
    }

    fn record(&self, places: &ClusterRecord, spec: &MachineSpec) -> Result<NodeRecord, ProviderError> {
        let address = *places.places.get(&spec.node).ok_or_else(|| {
            fail(
                Code::Internal,
                format!("{} was not placed before its creation", spec.node),
            )
        })?;
        Ok(NodeRecord {
            version: VERSION,
            cluster: places.cluster.clone(),
            node: spec.node.clone(),
            role: spec.role,
            address,
            network: places.network,
            tags: spec.tags.clone(),
        })
    }

    /// A node's files, its tags first.
    fn prepare(&self, places: &ClusterRecord, node: &NodeRecord, spec: &MachineSpec) -> Result<(), ProviderError> {
        let files = self.layout.node(&node.cluster.id, &node.node);
        let run = self.layout.run(&node.cluster.id, &node.node);
        let at = |path: &Path, result: io::Result<()>| result.map_err(disk(path));
        at(&files.dir, record::make_dir(&files.dir))?;
        at(&files.tags(), record::write_json(&files.tags(), node))?;
        at(&files.state(), record::make_dir(&files.state()))?;
        at(&run, record::make_dir(&run))?;
        at(
            &files.join(),
            record::write(&files.join(), spec.user_data.reveal().as_bytes()),
        )?;
        let forward = |name: &str, port| Forward {
            name: name.into(),
            listen: place::outside(places.outer, port),
            to: SocketAddr::new(IpAddr::V4(node.address), port),
        };
        let inside = node.network == Kind::Namespace;
        let config = KeeperConfig {
            version: VERSION,
            agent: self.agent.clone(),
            config: files.join(),
            netns: inside.then(|| netns::file(&netns::name(&node.cluster.id, &node.node))),
            forwards: if inside && node.role == Role::Scheduler {
                vec![
                    forward(FORWARD_AGENT, limits::AGENT_PORT),
                    forward(FORWARD_SCHEDULER, limits::SCHEDULER_PORT),
                ]
            } else {
                vec![]
            },
            boot_log: files.boot_log(),
        };
        at(&files.keeper(), record::write_json(&files.keeper(), &config))
    }

    /// Removes nodes that did not come to be. What cannot be removed is found by
    /// `list` and by `delete_rest`.
    fn undo(&self, nodes: &[&NodeRecord]) {
        let nodes: Vec<_> = nodes.iter().map(|n| (n.cluster.clone(), n.node.clone())).collect();
        let left = self.delete_locked(&nodes).left;
        if !left.is_empty() {
            tracing::warn!(?left, "nodes that failed could not be removed");
        }
    }

    async fn start(&self, prepared: Result<Prepared, ProviderError>) -> Result<Machine, ProviderError> {
        let node = match prepared? {
            Prepared::Runs(machine) => return Ok(*machine),
            Prepared::New(node) => node,
        };
        match self.keep(&node).await {
            Ok(machine) => Ok(machine),
            Err(e) => {
                let me = self.clone();
                blocking(move || me.undo(&[&node])).await?;
                Err(e)
            }
        }
    }

    /// Starts the keeper and waits until it listens.
    async fn keep(&self, node: &NodeRecord) -> Result<Machine, ProviderError> {
        let files = self.layout.node(&node.cluster.id, &node.node);
        let failed = |what: String| {
            let console = super::tail(&files.boot_log()).unwrap_or_default();
            let lines: Vec<&str> = console.lines().rev().take(CONSOLE_LINES).collect();
            ProviderError {
                hint: lines.into_iter().rev().map(|l| format!("its console: {l}")).collect(),
                ..fail(Code::Provider, format!("the keeper of {} {what}", node.node))
            }
        };
        let mut keeper = self
            .spawn(node, &files)
            .map_err(|e| failed(format!("did not start: {e}")))?;
        let deadline = Instant::now() + KEEPER_DEADLINE;
        loop {
            let state: Option<KeeperState> = super::keeper(&files);
            if let Some(state) = state {
                let mut machine = super::machine(node, Some(&state));
                machine.running = true;
                // Dropped unkilled: the runtime reaps it should it end before us.
                return Ok(machine);
            }
            if let Some(status) = keeper.try_wait().map_err(|e| failed(e.to_string()))? {
                return Err(failed(format!("ended at once ({status})")));
            }
            if Instant::now() >= deadline {
                return Err(failed(format!("did not listen within {} s", KEEPER_DEADLINE.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The keeper leaves our session by itself.
    fn spawn(&self, node: &NodeRecord, files: &NodeFiles) -> io::Result<Child> {
        let console = record::append(&files.boot_log())?;
        let mut command = Command::new(&self.agent);
        command
            .arg("keep")
            .arg("--dir")
            .arg(&files.dir)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .current_dir("/")
            .env_clear()
            .env("PATH", PATH);
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env(process::MARKER, process::marker(&node.cluster.id, &node.node))
            .env(process::MARKER_DIR, &files.dir)
            .env(process::MARKER_OF, format!("{}/{}", node.cluster.name, node.role));
        command.spawn()
    }
}

fn check_program(agent: &Path) -> Result<(), ProviderError> {
    let usable = agent.is_file() && rustix::fs::access(agent, rustix::fs::Access::EXEC_OK).is_ok();
    if usable {
        return Ok(());
    }
    Err(ProviderError {
        hint: vec!["install `herdsman-agent` beside `herdsman`, or say where it is".into()],
        ..fail(
            Code::NotFound,
            format!("the agent's program {} is missing or not executable", agent.display()),
        )
    })
}
