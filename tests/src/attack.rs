//! A real hub that tests attack: the agent's program with a join configuration of
//! the launcher's making, on a loopback address of its own, without any Dask. And
//! callers who may show any certificate from any address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herdsman::bootstrap::{Node, join_configuration};
use herdsman::link::{Link, Reach, SOON};
use herdsman::pki::{self, Credentials, Roots};
use herdsman::provider::{ClusterRef, Placement};
use herdsman_agent::client::HubClient;
use herdsman_agent::identity::NewKeys;
use herdsman_wire::api::{CsrReply, Done, Enrol, Expect, Expected, Install, Issued, OperatorSerials, Renew};
use herdsman_wire::join::{Bootstrap, Paths};
use herdsman_wire::spec::{ClusterSpec, EnvironmentSpec};
use herdsman_wire::{ApiError, NodeName, Role, Secret, Timestamp, limits, tls, version};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::home::{LONG, program};

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

/// Who calls: from where, with which certificate.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Source address.
    pub from: IpAddr,
    /// Chain, PEM.
    pub chain: String,
    /// Key, PEM.
    pub key: Secret,
}

/// A machine that may enrol.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: NodeName,
    /// Serial of its bootstrap certificate.
    pub serial: String,
    /// How it calls before it has enrolled.
    pub caller: Caller,
}

/// A machine that has enrolled.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its keys.
    pub keys: NewKeys,
    /// What the hub answered.
    pub issued: Issued,
    /// Its address.
    pub from: IpAddr,
}

/// What came back.
#[derive(Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(500).collect();
        write!(f, "{}: {body}", self.status)
    }
}

impl Answer {
    /// The error that it carries.
    ///
    /// # Errors
    /// When it carries none.
    pub fn error(&self) -> Result<ApiError> {
        ensure!(self.status >= 400, "no error: {self:?}");
        self.json()
    }

    /// Its JSON.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            let text = String::from_utf8_lossy(&self.body);
            format!("{}{text}", self.head)
        })
    }
}

impl Member {
    /// Calls with the agent's certificate.
    #[must_use]
    pub fn agent(&self) -> Caller {
        Caller {
            from: self.from,
            chain: self.issued.agent_chain.clone(),
            key: self.keys.agent.clone(),
        }
    }

    /// Calls with Dask's certificate.
    #[must_use]
    pub fn dask(&self) -> Caller {
        Caller {
            from: self.from,
            chain: self.issued.dask_chain.clone(),
            key: self.keys.dask.clone(),
        }
    }
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

    /// The agent's own client with this certificate.
    ///
    /// # Errors
    /// When the certificate does not parse.
    pub fn client(&self, caller: &Caller) -> Result<HubClient, ApiError> {
        let config = tls::client_config(&self.roots.pems.control, &caller.chain, &caller.key)
            .map_err(|e| ApiError::new(herdsman_wire::Code::Certificate, e.to_string()))?;
        Ok(HubClient {
            hub: self.address,
            bind: Some(caller.from),
            name: self.cluster.id.hub_dns(),
            config: Arc::new(config),
        })
    }

    /// The owner as a caller.
    #[must_use]
    pub fn owner(&self) -> Caller {
        Caller {
            from: self.node_address(250),
            chain: self.operator.chain.clone(),
            key: self.operator.key.clone(),
        }
    }

    /// A TCP connection from an address.
    ///
    /// # Errors
    /// As the system says.
    pub async fn tcp(&self, from: IpAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(self.address).await
    }

    /// A TLS connection with a configuration of one's own.
    ///
    /// # Errors
    /// When the handshake fails on our side; what the hub thinks of us comes with
    /// the first read.
    pub async fn tls(&self, from: IpAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.cluster.id.hub_dns()).map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, self.tcp(from).await?).await
    }

    /// A TLS connection of a caller.
    ///
    /// # Errors
    /// As [`Hub::tls`].
    pub async fn connect(&self, caller: &Caller) -> std::io::Result<TlsStream<TcpStream>> {
        let config = tls::client_config(&self.roots.pems.control, &caller.chain, &caller.key);
        self.tls(caller.from, Arc::new(config.map_err(std::io::Error::other)?))
            .await
    }

    /// Sends bytes over a connection of its own; gives the answer.
    ///
    /// # Errors
    /// When the connection broke, before the answer was whole.
    pub async fn send(&self, caller: &Caller, request: &[u8]) -> std::io::Result<Answer> {
        let mut tls = self.connect(caller).await?;
        tls.write_all(request).await?;
        // TLS keeps what did not fit into the socket until then.
        tls.flush().await?;
        answer(&mut tls).await
    }

    /// Asks as a good client does.
    ///
    /// # Errors
    /// As [`Hub::send`].
    pub async fn ask(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> std::io::Result<Answer> {
        let body = serde_json::to_vec(body)?;
        self.send(caller, &request(method, path, &body)).await
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

/// A request as our own clients write it.
#[must_use]
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\n{}: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        version::HEADER,
        version::PROTOCOL,
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Reads an answer to its end.
///
/// # Errors
/// When the connection broke, or nothing came within [`LONG`].
pub async fn answer(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Answer> {
    let mut all = Vec::new();
    let read = async {
        loop {
            let head_end = all.windows(4).position(|w: &[u8]| w == b"\r\n\r\n").map(|i| i + 4);
            if let Some(end) = head_end {
                let head = String::from_utf8_lossy(&all[..end]).into_owned();
                let length = head.lines().find_map(|l| {
                    let (name, value) = l.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse().ok())?
                });
                let is_upgrade = head.starts_with("HTTP/1.1 101");
                if is_upgrade || all.len() >= end + length.unwrap_or(usize::MAX / 2) {
                    return Ok::<_, std::io::Error>((head, end));
                }
            }
            let mut piece = [0; 8192];
            let n = match io.read(&mut piece).await {
                // Closed without a goodbye after a whole head counts as its end.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => 0,
                n => n?,
            };
            if n == 0 {
                return match head_end {
                    Some(end) => Ok((String::from_utf8_lossy(&all[..end]).into_owned(), end)),
                    None => Err(std::io::ErrorKind::UnexpectedEof.into()),
                };
            }
            all.extend_from_slice(&piece[..n]);
        }
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (head, end) = tokio::time::timeout(LONG, read).await.map_err(late)??;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok(Answer {
        status,
        body: all.split_off(end),
        head,
    })
}

/// The alert with which the other end refused us, if that is what happened.
pub fn alert<T>(result: &std::io::Result<T>) -> Option<AlertDescription> {
    match tls_error(result)? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// What TLS itself says of a failure.
pub fn tls_error<T>(result: &std::io::Result<T>) -> Option<&rustls::Error> {
    let error = result.as_ref().err()?;
    error.get_ref()?.downcast_ref()
}

/// Writes a join configuration; gives the file.
///
/// # Errors
/// When it cannot be made or written.
pub fn join(
    cluster: &ClusterRef,
    roots: &Roots,
    dir: &Path,
    name: &NodeName,
    role: Role,
    (hub, own): (Option<SocketAddr>, SocketAddr),
    bootstrap: Bootstrap,
) -> Result<PathBuf> {
    let placement = Placement {
        address: Some(own.ip()),
        listen: (role == Role::Scheduler).then_some(own),
        bind: Some(own.ip()),
        paths: Some(Paths {
            state: dir.join("state"),
            run: dir.join("run"),
            environments: dir.join("env"),
        }),
    };
    let text = join_configuration(Node {
        cluster,
        name,
        role,
        hub,
        placement: &placement,
        roots: &roots.pems,
        bootstrap,
        deadline: Timestamp::now().plus(limits::BOOTSTRAP_LIFE),
    })?;
    let path = dir.join("join.json");
    herdsman_agent::files::write_atomic(&path, text.reveal().as_bytes())?;
    Ok(path)
}

/// Starts `herdsman-agent run`.
///
/// # Errors
/// When it was not built.
pub fn agent(join: &Path, console: &Path) -> Result<Child> {
    let out = std::fs::File::create(console)?;
    Ok(Command::new(program("herdsman-agent")?)
        .args(["run", "--config"])
        .arg(join)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?)
}

/// Whether a process is there.
#[must_use]
pub fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None::<Signal>).is_ok()
}
