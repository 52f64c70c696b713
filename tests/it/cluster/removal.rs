//! A node that is not trusted any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{computes, folder, inside, node, pids, signal};

/// SECURITY.md: out within ten seconds.
const WITHIN: Duration = Duration::from_secs(10);

/// Whether a peer accepts a certificate: its first bytes come after it looked.
const KNOCK: &str = "
import socket, ssl, sys
chain, key, address, port, ask = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(chain, key)
try:
    s = context.wrap_socket(socket.create_connection((address, int(port)), 20))
    if ask == 'ask':
        s.sendall(b'GET /v1/version HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
    said = s.recv(4000)
    refused = not said or (ask == 'ask' and b' 200 ' not in said.splitlines()[0])
    print('refused: %r' % said if refused else 'accepted')
except (ssl.SSLError, ConnectionError) as e:
    print('refused:', e)
";

/// What a thief took from a node: its two certificates with their keys.
struct Loot {
    dask: PathBuf,
    agent: PathBuf,
    key: PathBuf,
}

impl Loot {
    fn of(home: &Home, name: &str) -> Result<Self> {
        let folder = folder(home, name)?;
        let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
        let join = read(&folder.join("join.json"))?;
        let run = join["paths"]["run"].as_str().context("paths.run")?;
        let identity = read(&folder.join("state/identity.json"))?;
        let text = |pointer: &str| -> Result<&str> {
            let found = identity.pointer(pointer).and_then(Value::as_str);
            found.with_context(|| format!("{pointer} is not in identity.json"))
        };
        let loot = Self {
            dask: home.path().join("loot-dask.pem"),
            agent: home.path().join("loot-agent.pem"),
            key: home.path().join("loot-agent.key"),
        };
        std::fs::copy(Path::new(run).join("tls/dask.pem"), &loot.dask)?;
        std::fs::write(&loot.agent, text("/issued/agent_chain")?)?;
        std::fs::write(&loot.key, text("/agent_key")?)?;
        Ok(loot)
    }

    /// Shows them to the scheduler and to the hub, from the place of another node.
    fn shown(&self, home: &Home, from: &str, hub: &str) -> Result<[String; 2]> {
        let python = home.python().to_str().context("python")?;
        let knock = |chain: &Path, key: &Path, port: &str, ask: &str| -> Result<String> {
            let (chain, key) = (chain.to_str().context("path")?, key.to_str().context("path")?);
            let ran = inside(home, from, python, &["-c", KNOCK, chain, key, hub, port, ask])?;
            ensure!(ran.code == 0, "{ran:?}");
            Ok(ran.out.trim().to_owned())
        };
        Ok([
            knock(&self.dask, &self.dask, "8786", "listen")?,
            knock(&self.agent, &self.key, "8785", "ask")?,
        ])
    }
}

/// Connections of a node with an address.
fn connections(home: &Home, at: &str, with: &str) -> Result<Vec<String>> {
    let ran = inside(home, at, "ss", &["-Htn", "dst", with])?;
    ensure!(ran.code == 0, "{ran:?}");
    let live = ran.out.lines().filter(|l| !l.starts_with("TIME-WAIT"));
    Ok(live.map(str::to_owned).collect())
}

/// Makes workers talk to each other; then says for each line which workers there
/// are, and at last computes.
const BUSY: &str = "
import sys
from dask.distributed import Client
c = Client()
def fetch():
    a = c.submit(lambda: b'x' * 10**6, workers=['demo-w1'], pure=False)
    return c.submit(len, a, workers=['demo-w0'], pure=False).result()
assert fetch() == 10**6
print('busy', flush=True)
for line in sys.stdin:
    print(sorted(w['name'] for w in c.scheduler_info()['workers'].values()), flush=True)
print(c.submit(sum, [1, 2], pure=False).result())
";

#[test]
fn a_removed_node_is_out_within_ten_seconds_with_all_it_had() -> Result<()> {
    use std::io::{BufRead as _, Write as _};
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    let address = |name: &str| -> Result<String> {
        let node = node(&home, name)?;
        Ok(node["address"].as_str().context("address")?.to_owned())
    };
    let (hub, bad) = (address("demo-scheduler")?, address("demo-w1")?);
    let mut client = home.client("demo", BUSY)?;
    let mut client = client
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut out = std::io::BufReader::new(client.stdout.take().context("no output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line.trim() == "busy", "{line}");
    for at in ["demo-scheduler", "demo-w0"] {
        ensure!(!connections(&home, at, &bad)?.is_empty(), "nothing to cut at {at}");
    }
    let loot = Loot::of(&home, "demo-w1")?;
    let before = loot.shown(&home, "demo-w0", &hub)?;
    ensure!(before == ["accepted", "accepted"], "{before:?}");

    // A machine in strange hands does nothing that is asked of it.
    for pid in pids(&home, "demo-w1", &[]) {
        signal(pid, Signal::SIGSTOP)?;
    }
    let started = Instant::now();
    let mut remove = home.command(&["remove", "demo", "demo-w1", "--why", "stolen", "-q"])?;
    let mut remove = remove.spawn()?;
    wait_for("its connections are cut", || {
        let mut left = connections(&home, "demo-scheduler", &bad)?;
        left.extend(connections(&home, "demo-w0", &bad)?);
        Ok(left.is_empty().then_some(()))
    })?;
    wait_for("its certificates are refused", || {
        let after = loot.shown(&home, "demo-w0", &hub)?;
        Ok(after.iter().all(|a| a.starts_with("refused")).then_some(()))
    })?;
    let mut names = || -> Result<String> {
        client.stdin.as_mut().context("no input")?.write_all(b"\n")?;
        line.clear();
        out.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    };
    wait_for("the scheduler has forgotten it", || {
        Ok((names()? == "['demo-w0']").then_some(()))
    })?;
    let took = started.elapsed();
    ensure!(took < WITHIN, "only after {took:?}");
    // The rest goes on, in the same client.
    drop(client.stdin.take());
    line.clear();
    out.read_line(&mut line)?;
    ensure!(client.wait()?.success() && line.trim() == "3", "{line}");
    ensure!(remove.wait()?.success());
    ensure!(pids(&home, "demo-w1", &[]).is_empty());
    computes(&home, "demo")?;
    // Its place is filled, by a node of the same name and address even: what was
    // stolen does not come back to life.
    let scaled = home.json(&["scale", "demo", "2"])?;
    ensure!(scaled["ready"] == 2, "{scaled}");
    let after = loot.shown(&home, "demo-w0", &hub)?;
    ensure!(after.iter().all(|a| a.starts_with("refused")), "{after:?}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn only_workers_that_there_are_can_be_removed() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    for (name, code) in [("demo-w7", 3), ("demo-scheduler", 8)] {
        let ran = home.run(&["remove", "demo", name])?;
        ensure!(
            ran.code == code && ran.err.contains(name) && ran.err.contains("try: "),
            "{name}: {ran:?}"
        );
    }
    computes(&home, "demo")?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
