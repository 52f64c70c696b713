//! The packet filter of a cluster: what a stranger on the same network finds,
//! and how its owner gets in from elsewhere. Nodes have network namespaces of
//! their own only where the user is root; elsewhere each test says so.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herdsman_tests::home::{Home, Ran, program, wait_for};
use herdsman_tests::trouble;
use serde_json::Value;

/// SECURITY.md: out within ten seconds.
const WITHIN: Duration = Duration::from_secs(10);
/// How long a closed port is waited for: it says nothing.
const PATIENCE: Duration = Duration::from_millis(300);
/// First address of a cluster's nodes.
const SCHEDULER: [u8; 4] = [10, 88, 0, 2];
const ADD: &str = "from dask.distributed import Client; print(Client().submit(sum, [1, 2], pure=False).result())";

fn root() -> bool {
    let is = nix::unistd::geteuid().is_root();
    if !is {
        let _ = writeln!(std::io::stderr(), "skipped: network namespaces need root");
    }
    is
}

fn ip(args: &[&str]) -> Result<String> {
    let out: Ran = Command::new("ip").args(args).stdin(Stdio::null()).output()?.into();
    ensure!(out.code == 0, "ip {args:?}: {}", out.err);
    Ok(out.out)
}

/// A machine of somebody else on a cluster's network.
struct Stranger {
    name: String,
}

impl Stranger {
    /// Joins the network of the only cluster, which may just be on its way.
    fn join(home: &Home, address: &str) -> Result<Self> {
        let records = home.path().join("s/local");
        let bridge = wait_for("the cluster's network", || {
            let ids = std::fs::read_dir(&records).into_iter().flatten().flatten();
            let mut names = ids.filter_map(|e| Some(format!("hm-{}", e.file_name().to_str()?)));
            Ok(names.find(|n| ip(&["-n", n, "link", "show", "br0"]).is_ok()))
        })?;
        let stranger = Self {
            name: format!("hmt-{}", std::process::id()),
        };
        let _ = ip(&["netns", "del", &stranger.name]);
        ip(&["netns", "add", &stranger.name])?;
        ip(&[
            "-n",
            &bridge,
            "link",
            "add",
            "stranger",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &stranger.name,
        ])?;
        ip(&["-n", &bridge, "link", "set", "stranger", "master", "br0", "up"])?;
        ip(&["-n", &stranger.name, "link", "set", "eth0", "up"])?;
        stranger.is_at(address)?;
        Ok(stranger)
    }

    /// Has this address and no other from now on.
    fn is_at(&self, address: &str) -> Result<()> {
        ip(&["-n", &self.name, "address", "flush", "dev", "eth0"])?;
        ip(&[
            "-n",
            &self.name,
            "address",
            "add",
            &format!("{address}/16"),
            "dev",
            "eth0",
        ])
        .map(|_| ())
    }

    /// Does something from its place, in a thread.
    fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        let place = std::fs::File::open(format!("/run/netns/{}", self.name));
        std::thread::spawn(move || {
            nix::sched::setns(place?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }

    /// Which of these ports take a connection.
    fn open(&self, host: impl Into<IpAddr>, ports: &[u16]) -> Result<Vec<u16>> {
        let (host, ports) = (host.into(), ports.to_vec());
        let scan = self.thread(move || scan(host, &ports));
        scan.join().map_err(|_| anyhow::anyhow!("the scan died"))?
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn scan(host: IpAddr, ports: &[u16]) -> Vec<u16> {
    let knocks = |ports: &[u16]| -> Vec<u16> {
        let is_open = |p: &&u16| TcpStream::connect_timeout(&SocketAddr::new(host, **p), PATIENCE).is_ok();
        ports.iter().filter(is_open).copied().collect()
    };
    // The ones that say nothing cost time; side by side they cost it once.
    std::thread::scope(|scope| {
        let parts: Vec<_> = ports
            .chunks(ports.len().div_ceil(32).max(1))
            .map(|part| scope.spawn(move || knocks(part)))
            .collect();
        parts.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
    })
}

fn address(n: u8) -> IpAddr {
    let [a, b, c, first] = SCHEDULER;
    [a, b, c, first + n].into()
}

fn status(home: &Home) -> Result<Value> {
    Ok(home.json(&["status", "demo"])?["status"].take())
}

/// Runs a program in the network namespace of a node.
fn inside(home: &Home, node: &str, program: &str, args: &[&str]) -> Result<Ran> {
    let id = status(home)?["cluster"].as_str().context("cluster")?.to_owned();
    let namespace = format!("hm-{id}-{node}");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace, program]).args(args);
    Ok(command.stdin(Stdio::null()).output()?.into())
}

fn table(home: &Home, node: &str) -> Result<String> {
    Ok(inside(home, node, "nft", &["list", "table", "inet", "herdsman"])?.out)
}

fn firewall_of(home: &Home, node: &str) -> Result<Value> {
    let status = status(home)?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let found = nodes.iter().find(|n| n["name"] == node).context("node")?;
    Ok(found["report"]["firewall"].clone())
}

fn run_folder(home: &Home, node: &str) -> Result<String> {
    let folder = trouble::folders(home, node).into_iter().next().context("folder")?;
    let join: Value = serde_json::from_slice(&std::fs::read(folder.join("join.json"))?)?;
    Ok(join["paths"]["run"].as_str().context("run")?.to_owned())
}

/// Kills an agent; the next one is there and answers when this returns.
fn kill_agent(home: &Home, node: &str) -> Result<()> {
    let old = trouble::agents(home, node);
    ensure!(old.len() == 1 && trouble::strike(old[0]), "{old:?}");
    wait_for("another agent", || {
        let now = trouble::agents(home, node);
        Ok((now.len() == 1 && now != old).then_some(()))
    })?;
    wait_for("an answer of it", || Ok(status(home).ok())).map(|_| ())
}

#[test]
fn a_stranger_finds_nothing_open_before_during_and_after_the_start() -> Result<()> {
    if !root() {
        return Ok(());
    }
    let home = Home::new()?;
    let mut up = home.command(&["up", "demo", "--workers", "2"])?.spawn()?;
    let stranger = Stranger::join(&home, "10.88.99.9")?;
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let seen = {
        let (over, rounds) = (over.clone(), rounds.clone());
        stranger.thread(move || {
            let mut found = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for n in 0..3 {
                    let open = scan(address(n), &[8785, 8786, 8787, 8788, 8838]);
                    found.extend(open.into_iter().map(|p| (n, p)));
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            found
        })
    };
    ensure!(up.wait()?.success());
    // And once the agent is gone, and another comes.
    kill_agent(&home, "demo-scheduler")?;
    let enough = rounds.load(Ordering::Relaxed) + 2;
    wait_for("more scans", || {
        Ok((rounds.load(Ordering::Relaxed) >= enough).then_some(()))
    })?;
    over.store(true, Ordering::Relaxed);
    let found = seen.join().map_err(|_| anyhow::anyhow!("the stranger died"))??;
    ensure!(found.is_empty(), "open to a stranger: {found:?}");

    let every: Vec<u16> = (1..=u16::MAX).collect();
    for n in 0..3 {
        let open = stranger.open(address(n), &every)?;
        ensure!(open.is_empty(), "node {n}: {open:?}");
    }
    ensure!(home.compute("demo", ADD)?.trim() == "3");

    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        let told = wait_for("the counts", || {
            let f = firewall_of(&home, node)?;
            Ok((f["dropped"]["strangers"].as_u64() > Some(0)).then_some(f))
        })?;
        ensure!(told["state"] == "on", "{told}");
        let table = table(&home, node)?;
        for n in 0..3 {
            ensure!(table.contains(&address(n).to_string()), "{node}: {table}");
        }
    }
    let shown = home.ok(&["status", "demo"])?.out;
    ensure!(
        shown.contains("lets in nobody but its own nodes; kept out packets: ") && shown.contains(" of strangers"),
        "{shown}"
    );

    // Who takes the rules away gets them back.
    ensure!(inside(&home, "demo-w0", "nft", &["flush", "ruleset"])?.code == 0);
    wait_for("the table to be back", || {
        Ok(table(&home, "demo-w0")?.contains("10.88.0.4").then_some(()))
    })?;
    wait_for("word of it", || {
        Ok((firewall_of(&home, "demo-w0")?["repaired"] == 1).then_some(()))
    })?;

    // A removed node's address is out everywhere, whoever has it next.
    let removed = Instant::now();
    home.ok(&["remove", "demo", "demo-w1"])?;
    for node in ["demo-scheduler", "demo-w0"] {
        // Sets of limits remember it for a while.
        let list = |set: &str| Ok(inside(&home, node, "nft", &["list", "set", "inet", "herdsman", set])?.out);
        let lets_in = || -> Result<bool> {
            let sets: Result<Vec<String>> = ["members4", "joining4", "owners4"].into_iter().map(list).collect();
            Ok(sets?.concat().contains("10.88.0.4"))
        };
        while lets_in()? {
            ensure!(removed.elapsed() < WITHIN, "{node} still lets it in");
        }
    }
    stranger.is_at("10.88.0.4")?;
    for n in 0..2 {
        ensure!(
            stranger.open(address(n), &[8785, 8786, 8788, 8838])?.is_empty(),
            "node {n}"
        );
    }
    home.ok(&["down", "demo", "-y"])?;
    home.assert_clean()
}

#[test]
fn the_owner_comes_from_elsewhere() -> Result<()> {
    if !root() {
        return Ok(());
    }
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1", "--allow", "10.88.99.0/29"])?;
    let stranger = Stranger::join(&home, "10.88.99.9")?;
    let ports = [8785, 8786, 8787, 8788, 8838];
    let open = |from: &str| -> Result<Vec<u16>> {
        stranger.is_at(from)?;
        let mut open = stranger.open(address(0), &ports)?;
        open.extend(stranger.open(address(1), &ports)?);
        Ok(open)
    };
    let becomes = |from: &str, wanted: &[u16]| {
        wait_for(&format!("{from} to find {wanted:?} open"), || {
            Ok((open(from)? == wanted).then_some(()))
        })
    };
    becomes("10.88.99.2", &[8785, 8786])?;
    ensure!(open("10.88.99.9")?.is_empty());

    let said = home.json(&["allow", "demo", "10.88.99.9"])?;
    ensure!(
        said["allowed"] == serde_json::json!(["10.88.99.0/29", "10.88.99.9/32"]) && said["enforced"] == true,
        "{said}"
    );
    becomes("10.88.99.9", &[8785, 8786])?;
    let shown = home.ok(&["status", "demo"])?.out;
    ensure!(shown.contains("lets in 10.88.99.0/29, 10.88.99.9/32"), "{shown}");
    let said = home.ok(&["doctor", "demo"])?.out;
    ensure!(said.contains("comes through the scheduler's own machine"), "{said}");

    home.ok(&["deny", "demo", "10.88.99.9/32"])?;
    becomes("10.88.99.9", &[])?;
    for (args, code, words) in [
        (
            &["deny", "demo", "10.88.99.9/32"][..],
            3,
            "10.88.99.9/32 is no network from which",
        ),
        (&["deny", "demo", "me"], 2, "say which network"),
        (&["allow", "demo"], 2, "cannot tell your address"),
        (&["allow", "demo", "none"], 2, "`none` is no network"),
        (&["allow", "demo", "10.88.99.9/29"], 2, "write 10.88.99.8/29"),
    ] {
        let ran = home.run(args)?;
        ensure!(ran.code == code && ran.err.contains(words), "{args:?}: {ran:?}");
    }

    // Nobody of ours is inside any more: root on the machine lets us in.
    let run = run_folder(&home, "demo-scheduler")?;
    let agent = program("herdsman-agent")?;
    let agent = agent.to_str().context("path")?;
    let ran = inside(
        &home,
        "demo-scheduler",
        agent,
        &["firewall", "--allow", "10.88.99.10", "--run", &run],
    )?;
    ensure!(ran.code == 0 && ran.out == "done\n", "{ran:?}");
    becomes("10.88.99.10", &[8785, 8786])?;
    let shown = inside(&home, "demo-scheduler", agent, &["firewall", "--show", "--run", &run])?.out;
    ensure!(
        shown.contains("10.88.99.10") && shown.contains("counter strangers"),
        "{shown}"
    );
    let audit = trouble::folders(&home, "demo-scheduler");
    let audit = std::fs::read_to_string(audit.first().context("folder")?.join("state/hub/audit.jsonl"))?;
    ensure!(audit.contains("root on the scheduler's machine"), "{audit}");

    // The hub remembers it.
    kill_agent(&home, "demo-scheduler")?;
    let list = status(&home)?;
    ensure!(
        list["allowed"] == serde_json::json!(["10.88.99.0/29", "10.88.99.10/32"]),
        "{list}"
    );
    becomes("10.88.99.10", &[8785, 8786])?;
    home.ok(&["down", "demo", "-y"])?;
    home.assert_clean()
}

#[test]
fn nodes_that_share_a_network_have_no_filter_and_say_so() -> Result<()> {
    let home = Home::new()?;
    let tables = || -> Result<String> {
        if !root() {
            return Ok(String::new());
        }
        let ran: Ran = Command::new("nft").args(["list", "tables"]).output()?.into();
        Ok(ran.out)
    };
    let before = tables()?;
    home.ok(&["up", "demo", "--workers", "1", "--local-network", "loopback"])?;
    ensure!(tables()? == before, "the host's own packet filter was touched");
    let told = firewall_of(&home, "demo-scheduler")?;
    ensure!(
        told["state"] == "off" && told["why"].as_str().is_some_and(|w| !w.is_empty()),
        "{told}"
    );
    let said = home.ok(&["allow", "demo", "203.0.113.0/24"])?;
    ensure!(said.err.contains("has no packet filter of ours"), "{said:?}");
    if home.ok(&["status", "demo"])?.out.contains("lets in") {
        bail!("status shows a list that nobody enforces");
    }
    home.ok(&["down", "demo", "-y"])?;
    home.assert_clean()
}
