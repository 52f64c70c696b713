//! A cluster on test machines: the laptop runs `herdsman up --provider manual`, and
//! this is the person who makes a machine for each file of user-data that it
//! writes. Nothing else reaches the machines.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use herdsman::link::{Link, Reach, SOON};
use herdsman::pki::Credentials;
use herdsman::state::Store;
use herdsman_wire::api::Done;
use nix::sched::{CloneFlags, setns};

use super::network::LAPTOP;
use super::{Files, LONG, Machine, Network, Serve, Setup, UserData};
use crate::environment::Laptop;
use crate::home::{Ran, program};
use crate::index::Index;

/// The cluster's name.
pub const NAME: &str = "demo";
/// The scheduler's node.
pub const SCHEDULER: &str = "demo-scheduler";
/// Port of the server that machines download the agent from.
const AGENTS: u16 = 8000;

/// The agent as it is downloaded: linked statically. `scripts/test` builds it.
///
/// # Errors
/// When it was not built.
pub fn static_agent() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["musl", "gnu"].map(|libc| {
        let triple = format!("{}-unknown-linux-{libc}", std::env::consts::ARCH);
        target.join(triple).join("agent/herdsman-agent")
    });
    let found = built.into_iter().find(|p| p.is_file());
    found.context("there is no static agent: run scripts/build-agent")
}

/// A laptop, its network and the machines on it.
#[derive(Debug)]
pub struct Cluster {
    /// By node. A machine that is taken out is pulled from its plug.
    pub machines: BTreeMap<String, Machine>,
    /// By node, machines that are to be other than usual.
    pub setups: BTreeMap<String, Setup>,
    /// The laptop.
    pub laptop: Laptop,
    /// Where machines get their agent.
    pub files: Files,
    /// What joins them.
    pub network: Arc<Network>,
    folder: PathBuf,
}

/// A command of the laptop's that goes on meanwhile.
#[derive(Debug)]
pub struct Going {
    child: Child,
    log: PathBuf,
}

impl Going {
    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended, and with which code.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|s| s.code().unwrap_or(-1)))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// A laptop with a network, and no machine yet. The calling thread stands at
    /// the laptop from now on: what it starts and opens is there.
    ///
    /// # Errors
    /// When namespaces, programs or packages are missing.
    pub fn new(scratch: &Path) -> Result<Self> {
        let mut laptop = Laptop::new(scratch)?;
        let network = Network::new()?;
        let file = File::open(network.laptop().file())?;
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        laptop.index = Index::serve_at(LAPTOP, &scratch.join("wheels"), None)?;
        let files = Files::open(network.laptop(), SocketAddr::from((LAPTOP, AGENTS)))?;
        let agent = static_agent()?;
        files.put("agent", std::fs::read(agent)?, Serve::Whole);
        let folder = laptop.home.path().join("user-data");
        std::fs::create_dir_all(&folder)?;
        let cluster = Self {
            machines: BTreeMap::new(),
            setups: BTreeMap::new(),
            laptop,
            files,
            network,
            folder,
        };
        cluster.configure("")?;
        Ok(cluster)
    }

    /// Writes the project's file, with further lines.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, more: &str) -> Result<()> {
        let text = format!(
            "provider = \"manual\"\n[place]\njoin = [\"10.99.1.0/24\"]\n[agent]\nurl = [\"{}\"]\n[manual]\nscheduler_address = \"{}\"\nuser_data_dir = \"{}\"\n{more}",
            self.files.url("agent"),
            self.network.address(1),
            self.folder.display()
        );
        Ok(std::fs::write(self.laptop.project.join("herdsman.toml"), text)?)
    }

    /// A `herdsman` command at the laptop. Its agent is the static one.
    ///
    /// # Errors
    /// When programs were not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.laptop.command(args)?;
        command.env("HERDSMAN_AGENT", static_agent()?);
        Ok(command)
    }

    /// Runs `herdsman` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    /// Runs `herdsman` and wants success.
    ///
    /// # Errors
    /// With all its output when it failed.
    pub fn ok(&self, args: &[&str]) -> Result<Ran> {
        let ran = self.run(args)?;
        ensure!(
            ran.code == 0,
            "herdsman {args:?} ended with {}\n{}\n{}",
            ran.code,
            ran.out,
            ran.err
        );
        Ok(ran)
    }

    /// What `status -o json` says.
    ///
    /// # Errors
    /// When it fails.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ok(&["status", NAME, "-o", "json"])?.out)?)
    }

    /// Posts to the hub as the laptop's user, for what no command asks for.
    ///
    /// # Errors
    /// The hub's own, or when the laptop has no keys of the cluster.
    pub fn post(&self, path: &str) -> Result<()> {
        let store = Store::open(self.laptop.home.path().join("s"))?;
        let name = NAME.parse()?;
        let (record, keys) = (store.load(&name)?, store.keys(&name)?);
        let (record, keys) = record.zip(keys).context("no record, or no keys")?;
        let reach = Reach::Direct(record.agent.context("no address")?);
        let Credentials { chain, key, .. } = &keys.operator;
        let link = Link::new(reach, &record.cluster.id, &record.roots.control, chain, key)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = serde_json::json!({});
        let _: Done = runtime.block_on(link.post(path, &body, SOON))?;
        Ok(())
    }

    /// Starts a command and goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Result<Going> {
        let log = self
            .laptop
            .home
            .path()
            .join(format!("going-{}", args.join("-").replace('/', "_")));
        let out = File::create(&log)?;
        let child = self
            .command(args)?
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        Ok(Going { child, log })
    }

    /// Brings it up with so many workers.
    ///
    /// # Errors
    /// With what the command said, and the consoles.
    pub fn up(&mut self, workers: u8) -> Result<String> {
        self.grow(&["up", NAME, "--workers", &workers.to_string(), "--env", "copy"])
    }

    /// Runs a command that wants machines, and makes them, until it ends.
    ///
    /// # Errors
    /// With what the command said, and the consoles.
    pub fn grow(&mut self, args: &[&str]) -> Result<String> {
        let mut going = self.start(args)?;
        let started = Instant::now();
        let code = loop {
            self.make_wanted()?;
            if let Some(code) = going.ended()? {
                break code;
            }
            ensure!(
                started.elapsed() < 3 * LONG,
                "{args:?} does not end\n{}{}",
                going.said(),
                self.consoles()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        ensure!(
            code == 0,
            "{args:?} ended with {code}\n{}{}",
            going.said(),
            self.consoles()
        );
        Ok(going.said())
    }

    /// User-data that waits for its machine, by node.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn wanted(&self) -> Result<BTreeMap<String, String>> {
        let mut wanted = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(node) = name.strip_suffix(".user-data") else {
                continue;
            };
            if self.machines.contains_key(node) {
                continue;
            }
            // It is removed once its machine is a node.
            if let Ok(text) = std::fs::read_to_string(entry.path())
                && !text.is_empty()
            {
                wanted.insert(node.to_owned(), text);
            }
        }
        Ok(wanted)
    }

    fn make_wanted(&mut self) -> Result<()> {
        for (node, text) in self.wanted()? {
            let setup = self.setups.get(&node).cloned().unwrap_or_default();
            self.make(&node, text.as_str(), setup)?;
        }
        Ok(())
    }

    /// Address of a node: the scheduler's first, then by a worker's number.
    ///
    /// # Errors
    /// For a name that is none of this cluster's.
    pub fn address(&self, node: &str) -> Result<Ipv4Addr> {
        if node == SCHEDULER {
            return Ok(self.network.address(1));
        }
        let number: u8 = node
            .strip_prefix("demo-w")
            .and_then(|n| n.parse().ok())
            .with_context(|| format!("{node} is no worker"))?;
        Ok(self.network.address(number + 10))
    }

    /// Makes the machine of a node.
    ///
    /// # Errors
    /// When it cannot be booted.
    pub fn make(&mut self, node: &str, user_data: impl Into<UserData>, setup: Setup) -> Result<()> {
        let address = self.address(node)?;

        let machine = Machine::boot_with(&self.network, node, address, user_data, setup)?;
        self.machines.insert(node.to_owned(), machine);
        Ok(())
    }

    /// The machine of a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn machine(&self, node: &str) -> Result<&Machine> {
        self.machines.get(node).with_context(|| format!("no machine {node}"))
    }

    /// The ends of all consoles, for a test that failed.
    #[must_use]
    pub fn consoles(&self) -> String {
        let mut text = String::new();
        for (node, machine) in &self.machines {
            let console = machine.console();
            let lines: Vec<&str> = console.lines().collect();
            text += &format!("\n== console of {node}\n");
            text += &lines[lines.len().saturating_sub(40)..].join("\n");
        }
        text
    }

    /// A program of the laptop's Python that finds the cluster by `herdsman env`.
    ///
    /// # Errors
    /// When the cluster cannot be asked for its variables.
    pub fn client(&self, code: &str) -> Result<Command> {
        let text = self.ok(&["env", NAME, "-o", "json"])?.out;
        let serde_json::Value::Object(variables) = serde_json::from_str(&text)? else {
            bail!("`env -o json` is no object: {text}");
        };
        let mut command = Command::new(self.laptop.python());
        command
            .args(["-c", code])
            .env_clear()
            .env("HOME", self.laptop.home.path())
            .current_dir(&self.laptop.project);
        for (name, value) in variables {
            command.env(name, value.as_str().unwrap_or_default());
        }
        Ok(command)
    }

    /// Runs such a program; gives what it printed.
    ///
    /// # Errors
    /// With its output and the consoles when it failed.
    pub fn compute(&self, code: &str) -> Result<String> {
        let ran: Ran = self.client(code)?.output()?.into();
        ensure!(
            ran.code == 0,
            "the client failed\n{}\n{}{}",
            ran.out,
            ran.err,
            self.consoles()
        );
        Ok(ran.out)
    }

    /// Waits until a node is in a state that `status` tells.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_state(&self, node: &str, wanted: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let status = self.status()?;
            let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
            let is = nodes.iter().find(|n| n["name"] == node).map(|n| n["state"].clone());
            if is.as_ref().is_some_and(|s| s == wanted) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < LONG,
                "{node} is {is:?}, not {wanted}\n{status:#}{}",
                self.consoles()
            );
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    /// The launcher, for those who need its path.
    ///
    /// # Errors
    /// When it was not built.
    pub fn launcher() -> Result<PathBuf> {
        program("herdsman")
    }
}
