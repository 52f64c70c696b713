//! A real hub: the agent's own program as a scheduler, installed as the launcher
//! does it, on loopback. Dask is left out, so that only the hub is measured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use herdsman::bootstrap::{Node, join_configuration};
use herdsman::link::{Link, Reach};
use herdsman::pki::{Roots, new_cluster_id};
use herdsman::provider::{ClusterRef, Placement};
use herdsman_wire::api::{CsrReply, Done, Expected, Install};
use herdsman_wire::join::{JoinConfig, Paths};
use herdsman_wire::report::Versions;
use herdsman_wire::spec::{ClusterSpec, EnvironmentSpec};
use herdsman_wire::{NodeName, Role, Timestamp, limits};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Where the hub listens, and Dask's scheduler would.
pub(crate) const HUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
/// Longest wait for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Address of simulated node `n`.
pub(crate) const fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 78, (n / 250) as u8, (n % 250) as u8 + 1))
}

/// A running hub.
pub(crate) struct Hub {
    child: Child,
    pub(crate) link: Link,
    /// Join configurations of the nodes.
    pub(crate) joins: Vec<JoinConfig>,
    /// From the start of the process to its first accepted connection.
    pub(crate) listening: Duration,
    _folder: tempfile::TempDir,
}

impl Hub {
    /// Starts the agent and installs it as the hub of `nodes` nodes.
    /// With `alone` the hub has processor 0 for itself, and nothing else.
    pub(crate) async fn start(agent: &Path, nodes: usize, alone: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hl").tempdir_in("/tmp")?;
        let cluster = ClusterRef {
            name: "load".parse()?,
            id: new_cluster_id()?,
        };
        let now = Timestamp::now();
        let roots = Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE)?;
        let listen = SocketAddr::new(HUB, limits::AGENT_PORT);
        let placed = |name: &NodeName, address: IpAddr, listen: Option<SocketAddr>| Placement {
            address: Some(address),
            listen,
            bind: Some(address),
            paths: Some(Paths {
                state: folder.path().join(name.as_str()).join("state"),
                run: folder.path().join(name.as_str()).join("run"),
                environments: folder.path().join("environments"),
            }),
            laptop: None,
        };
        let join = |name: &NodeName, role, placement: &Placement| -> Result<(JoinConfig, String)> {
            let (bootstrap, serial) = roots.bootstrap(role, name, now, limits::BOOTSTRAP_LIFE)?;
            let text = join_configuration(Node {
                cluster: &cluster,
                name: Some(name),
                role,
                hub: (role == Role::Worker).then_some(listen),
                placement,
                roots: &roots.pems,
                bootstrap,
                deadline: now.plus(limits::BOOTSTRAP_LIFE),
                allow: &[],
            })?;
            Ok((JoinConfig::parse(text.reveal().as_bytes())?, serial))
        };
        let mut joins = Vec::with_capacity(nodes);
        let mut expected = Vec::with_capacity(nodes);
        for n in 0..nodes {
            let name: NodeName = format!("load-w{n}").parse()?;
            let (config, serial) = join(&name, Role::Worker, &placed(&name, address(n), None))?;
            joins.push(config);
            expected.push(Expected {
                node: name,
                serial,
                address: Some(address(n)),
                any_address: false,
                batch: None,
            });
        }
        let name: NodeName = "load-scheduler".parse()?;
        let (own, _) = join(&name, Role::Scheduler, &placed(&name, HUB, Some(listen)))?;
        let file = folder.path().join("join.json");
        write_private(&file, &serde_json::to_vec(&own)?)?;

        if alone {
            processors(&[0])?;
        }
        let began = Instant::now();
        let child = Command::new(agent)
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs_err(folder.path().join("stderr"))?)
            .spawn()
            .context("the agent")?;
        if alone {
            processors(&[1])?;
        }
        while std::net::TcpStream::connect_timeout(&listen, DEADLINE).is_err() {
            if began.elapsed() > DEADLINE {
                bail!("the hub does not listen");
            }
        }
        let listening = began.elapsed();

        let operator = roots.operator("load", now, limits::OPERATOR_LIFE)?;
        let link = Link::new(
            Reach::Direct(listen),
            &cluster.id,
            &roots.pems.control,
            &operator.chain,
            &operator.key,
        )?;
        let requests: CsrReply = link.get("/v1/csr", DEADLINE).await?;
        let [issue_control, issue_scheduler, issue_node] = roots.sign(&requests, now)?.0;
        let install = Install {
            issue_control,
            issue_scheduler,
            issue_node,
            expected,
            spec: ClusterSpec {
                environment: EnvironmentSpec::Image {
                    python: "/nowhere/python".into(),
                    path: Vec::new(),
                    versions: Versions::default(),
                },
                ..ClusterSpec::default()
            },
            created: now,
            operator: None,
        };
        let _: Done = link.post("/v1/install", &install, DEADLINE).await?;
        Ok(Self {
            child,
            link,
            joins,
            listening,
            _folder: folder,
        })
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // USER_HZ is 100 on every Linux that runs here.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory, MiB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps this thread, and what it starts, on these processors, where there are
/// as many.
fn processors(which: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    for cpu in which {
        set.set((*cpu).min(most.max(2) - 1))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("processors")
}

fn fs_err(path: std::path::PathBuf) -> Result<std::fs::File> {
    std::fs::File::create(&path).with_context(|| path.display().to_string())
}

pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(())
}
