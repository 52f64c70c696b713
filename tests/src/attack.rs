//! A real hub that tests attack: the agent's program with a join configuration of
//! the launcher's making, on a loopback address of its own, without any Dask. And
//! callers who may show any certificate from any address.

mod agent;
mod calls;
mod people;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use herdsman::link::{Link, Reach, SOON};
use herdsman::pki::{self, Credentials, Roots};
use herdsman::provider::ClusterRef;
use herdsman_agent::identity::NewKeys;
use herdsman_wire::api::{CsrReply, Done, Enrol, Expect, Expected, Install, OperatorSerials, Renew};
use herdsman_wire::spec::{ClusterSpec, EnvironmentSpec};
use herdsman_wire::{ApiError, NodeName, Role, Timestamp, limits};
use serde_json::Value;

use crate::home::LONG;

pub use agent::{agent, join};
pub use calls::{Answer, alert, answer, request, tls_error};
pub use people::{Caller, Machine, Member};

/// The user who owns the cluster.
pub const USER: &str = "tester";

/// A hub and its owner.
#[derive(Debug)]
pub struct Hub {
    dir: tempfile::TempDir,
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// The cluster.
    pub cluster: ClusterRef,
    /// The roots, which no real launcher keeps for so long.
    pub roots: Roots,
    /// The owner's certificate.
    pub operator: Credentials,
    /// The owner's way to the hub.
    pub link: Link,
}

/// Two octets that no other hub of this run or of another one has.
fn network() -> Result<(u8, u8)> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let a = 100 + u8::try_from(std::process::id() % 100)?;
    for _ in 0..250 {
        let b = NEXT.fetch_add(1, Ordering::Relaxed);
        let hub = SocketAddr::from(([127, a, b, 1], limits::AGENT_PORT));
        if std::net::TcpListener::bind(hub).is_ok() {
            return Ok((a, b));
        }
    }
    bail!("no free loopback address")
}

/// What the hub is told to run: a Python that does not exist, so that no Dask
/// ever starts.
#[must_use]
pub fn no_dask() -> ClusterSpec {
    ClusterSpec {
        environment: EnvironmentSpec::Image {
            python: "/nonexistent/python".into(),
            path: Vec::new(),
            versions: Default::default(),
        },
        ..ClusterSpec::default()
    }
}

impl Hub {
    /// An installed hub.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(no_dask()).await
    }

    /// An installed hub with a specification of one's own.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn start_with(spec: ClusterSpec) -> Result<Self> {
        let hub = Self::fresh().await?;
        let answer = hub.install(spec).await;
        answer.map_err(|e| anyhow::anyhow!("{e}\n{}", hub.console()))?;
        Ok(hub)
    }

    /// An agent that waits for its installation.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn fresh() -> Result<Self> {
        let (a, b) = network()?;
        let address = SocketAddr::from(([127, a, b, 1], limits::AGENT_PORT));
        let dir = tempfile::Builder::new().prefix("ha").tempdir_in("/tmp")?;
        let now = Timestamp::now();
        let cluster = ClusterRef {
            name: "demo".parse()?,
            id: pki::new_cluster_id()?,
        };
        let roots = Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE)?;
        let operator = roots.operator(USER, now, limits::OPERATOR_LIFE)?;
        let name: NodeName = "demo-scheduler".parse()?;
        let (bootstrap, _) = roots.bootstrap(Role::Scheduler, &name, now, limits::BOOTSTRAP_LIFE)?;
        let join = join(
            &cluster,
            &roots,
            dir.path(),
            &name,
            Role::Scheduler,
            (None, address),
            bootstrap,
        )?;
        let child = agent(&join, &dir.path().join("console"))?;
        let link = Link::new(
            Reach::Direct(address),
            &cluster.id,
            &roots.pems.control,
            &operator.chain,
            &operator.key,
        )?;
        let hub = Self {
            dir,
            child,
            address,
            cluster,
            roots,
            operator,
            link,
        };
        hub.is_up().await?;
        Ok(hub)
    }

    /// What [`Hub::install`] sends.
    ///
    /// # Errors
    /// When the agent gives no requests.
    pub async fn installation(&self, spec: ClusterSpec) -> Result<Install> {
        let requests: CsrReply = self.link.get("/v1/csr", SOON).await?;
        let now = Timestamp::now();
        let [issue_control, issue_scheduler, issue_node] = self.roots.sign(&requests, now)?.0;
        Ok(Install {
            issue_control,
            issue_scheduler,
            issue_node,
            expected: Vec::new(),
            spec,
            created: now,
            operator: Some(OperatorSerials {
                user: USER.into(),
                serials: [self.operator.serial.clone(), "00".into()],
                not_after: now.plus(limits::OPERATOR_LIFE),
            }),
        })
    }

    /// Makes the agent the cluster's hub.
    ///
    /// # Errors
    /// The agent's own.
    pub async fn install(&self, spec: ClusterSpec) -> Result<()> {
        let install = self.installation(spec).await?;
        let _: Done = self.link.post("/v1/install", &install, SOON).await?;
        Ok(())
    }

    /// SIGKILL, and the agent started anew on the same files.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = agent(&self.dir().join("join.json"), &self.dir().join("console"))?;
        self.is_up().await
    }

    async fn is_up(&self) -> Result<()> {
        let started = Instant::now();
        while self.link.get::<Value>("/v1/version", SOON).await.is_err() {
            ensure!(
                started.elapsed() < LONG,
                "the agent does not listen\n{}",
                self.console()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The hub's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the agent printed.
    #[must_use]
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.dir().join("console")).unwrap_or_default()
    }

    /// The hub's process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&mut self) -> Result<i32> {
        ensure!(self.child.try_wait()?.is_none(), "the hub ended\n{}", self.console());
        Ok(i32::try_from(self.child.id())?)
    }

    /// An address of a node, 2 to 254.
    #[must_use]
    pub fn node_address(&self, n: u8) -> IpAddr {
        match self.address.ip() {
            IpAddr::V4(v4) => {
                let [w, a, b, _] = v4.octets();
                IpAddr::V4(Ipv4Addr::new(w, a, b, n))
            }
            IpAddr::V6(v6) => IpAddr::V6(v6),
        }
    }

    /// A machine with a bootstrap certificate of the root; the hub knows nothing of
    /// it yet.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn machine(&self, name: &str, n: u8) -> Result<Machine> {
        let now = Timestamp::now();
        self.machine_at(name, n, now, limits::BOOTSTRAP_LIFE)
    }

    /// The same at another time.
    ///
    /// # Errors
    /// As [`Hub::machine`].
    pub fn machine_at(&self, name: &str, n: u8, now: Timestamp, life: Duration) -> Result<Machine> {
        let name: NodeName = name.parse()?;
        let (bootstrap, serial) = self.roots.bootstrap(Role::Worker, &name, now, life)?;
        Ok(Machine {
            name,
            serial,
            caller: Caller {
                from: self.node_address(n),
                chain: bootstrap.certificate,
                key: bootstrap.key,
            },
        })
    }

    /// Tells the hub of a machine.
    ///
    /// # Errors
    /// The hub's own.
    pub async fn expect(&self, machine: &Machine) -> Result<()> {
        self.expect_at(machine, Some(machine.caller.from)).await
    }

    /// The same with an address of one's own choice.
    ///
    /// # Errors
    /// The hub's own.
    pub async fn expect_at(&self, machine: &Machine, address: Option<IpAddr>) -> Result<()> {
        let nodes = vec![Expected {
            node: machine.name.clone(),
            serial: machine.serial.clone(),
            address,
            any_address: false,
            batch: None,
        }];
        let _: Done = self.link.post("/v1/expect", &Expect { nodes }, SOON).await?;
        Ok(())
    }

    /// A machine that is expected and has enrolled.
    ///
    /// # Errors
    /// The hub's own.
    pub async fn member(&self, name: &str, n: u8) -> Result<Member> {
        let machine = self.machine(name, n)?;
        self.expect(&machine).await?;
        Ok(self.enrol(&machine, &NewKeys::generate()?).await?)
    }

    /// Enrols with these keys.
    ///
    /// # Errors
    /// The hub's own.
    pub async fn enrol(&self, machine: &Machine, keys: &NewKeys) -> Result<Member, ApiError> {
        let (csr_agent, csr_dask) = keys.requests()?;
        let ask = Enrol {
            csr_agent,
            csr_dask,
            facts: herdsman_agent::identity::enrol::facts(),
        };
        let issued = self.client(&machine.caller)?.post("/v1/enrol", &ask, LONG).await?;
        Ok(Member {
            keys: keys.clone(),
            issued,
            from: machine.caller.from,
        })
    }

    /// Renews to these keys.
    ///
    /// # Errors
    /// The hub's own.
    pub async fn renew(&self, member: &Member, keys: &NewKeys) -> Result<Member, ApiError> {
        let (csr_agent, csr_dask) = keys.requests()?;
        let ask = Renew { csr_agent, csr_dask };
        let issued = self.client(&member.agent())?.post("/v1/renew", &ask, LONG).await?;
        Ok(Member {
            keys: keys.clone(),
            issued,
            from: member.from,
        })
    }

    /// The audit log, checked for its chain.
    ///
    /// # Errors
    /// When the hub does not give it.
    pub async fn audit(&self) -> Result<Vec<Value>> {
        let text = self.link.get_text("/v1/audit").await?;
        herdsman_agent::hub::audit::verify(&text).map_err(|n| anyhow::anyhow!("line {n} does not fit\n{text}"))?;
        text.lines().map(|l| Ok(serde_json::from_str(l)?)).collect()
    }

    /// How many lines of the audit log are of this event.
    ///
    /// # Errors
    /// As [`Hub::audit`].
    pub async fn audited(&self, event: &str) -> Result<usize> {
        let lines = self.audit().await?;
        Ok(lines.iter().filter(|l| l["event"] == event).count())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() || std::env::var_os("HERDSMAN_TEST_CONSOLE").is_some() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.console().as_bytes());
        }
    }
}
