//! Attacks on Dask's own ports, with a real cluster and certificates copied out of
//! its nodes' folders, as somebody with root there could.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};
use herdsman_tests::trouble::folders;
use serde_json::Value;

/// Greets a port with Python's TLS and prints what came of it, one line for each
/// of the arguments `host:port:source:certificate:version`.
const GREET: &str = "
import os, socket, ssl, sys
ca = os.environ['ATTACK_CA']
for argument in sys.argv[1:]:
    host, port, source, cert, version = argument.split(':')
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.check_hostname = False
    context.maximum_version = getattr(ssl.TLSVersion, version)
    if cert:
        context.load_cert_chain(cert)
    try:
        s = socket.create_connection((host, int(port)), 20, source_address=(source, 0))
        t = context.wrap_socket(s)
        # A refusal comes with the first bytes, and so do tickets.
        first = t.recv(1)
        ticket = t.session is not None and t.session.has_ticket
        print(f'in {t.version()} ticket={ticket}' if first else 'closed')
        t.close()
    except (ssl.SSLError, OSError) as e:
        print(f'out {e}')
";

/// A listener that shows a certificate of the cluster; a client of the cluster that
/// connects to it, as `Client` does. Prints what the client says.
const POSE: &str = "
import asyncio, os, sys
from distributed.comm import connect, listen
from distributed.security import Security
heard = []
async def handle(comm):
    heard.append(await comm.read())
async def main():
    thief = Security(require_encryption=True, tls_ca_file=os.environ['ATTACK_CA'],
        tls_scheduler_cert=sys.argv[2], tls_scheduler_key=sys.argv[2])
    async with listen('tls://' + sys.argv[1], handle, **thief.get_listen_args('scheduler')) as listener:
        mine = Security(require_encryption=True)
        try:
            comm = await connect(listener.contact_address, timeout=10, **mine.get_connection_args('client'))
            await comm.write({'op': 'secret'})
            await asyncio.sleep(0.5)
            print('trusted')
        except OSError as e:
            print('refused', e, repr(e.__cause__))
    print('heard', len(heard))
asyncio.run(main())
";

/// A cluster and copies of its nodes' certificates.
struct Copies {
    home: Home,
    /// Where Dask's scheduler is.
    scheduler: String,
    worker: String,
    second: String,
    ca: String,
    files: PathBuf,
}

impl Copies {
    fn new(cluster: &str) -> Result<Self> {
        let home = Home::new()?;
        home.ok(&["up", cluster, "--workers", "2", "--local-network", "loopback"])?;
        let files = home.path().join("loot");
        std::fs::create_dir(&files)?;
        let mut addresses = Vec::new();
        let mut ca = String::new();
        for node in ["scheduler", "w0", "w1"] {
            let folder = folders(&home, &format!("{cluster}-{node}"))
                .pop()
                .context("no folder")?;
            let join: Value = serde_json::from_slice(&std::fs::read(folder.join("join.json"))?)?;
            let identity: Value = serde_json::from_slice(&std::fs::read(folder.join("state/identity.json"))?)?;
            let run = PathBuf::from(join["paths"]["run"].as_str().context("paths.run")?);
            std::fs::copy(run.join("tls/dask.pem"), files.join(format!("{node}.dask")))?;
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let agent = text(&identity["issued"]["agent_chain"]) + &text(&identity["agent_key"]);
            std::fs::write(files.join(format!("{node}.agent")), agent)?;
            addresses.push(text(&join["bind"]));
            ca = text(&join["roots"]["scheduler"]) + &text(&join["roots"]["node"]);
        }
        let keys = home.path().join("s/clusters").join(cluster);
        std::fs::copy(keys.join("client.pem"), files.join("client"))?;
        std::fs::copy(keys.join("operator.pem"), files.join("operator"))?;
        std::fs::write(files.join("ca"), ca)?;
        Ok(Self {
            scheduler: addresses[0].clone(),
            worker: addresses[1].clone(),
            second: addresses[2].clone(),
            ca: files.join("ca").to_string_lossy().into_owned(),
            home,
            files,
        })
    }

    fn file(&self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        self.files.join(name).to_string_lossy().into_owned()
    }

    fn python(&self, cluster: &str, program: &str, arguments: &[String]) -> Result<String> {
        let mut command = self.home.client(cluster, program)?;
        let out = command.args(arguments).env("ATTACK_CA", &self.ca).output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?)
    }

    /// What each of these greetings gets: host, port, certificate, newest version.
    fn greet(&self, cluster: &str, greetings: &[(&str, u16, &str, &str)]) -> Result<Vec<String>> {
        let arguments: Vec<String> = greetings
            .iter()
            .map(|(host, port, cert, version)| format!("{host}:{port}:{}:{}:{version}", self.worker, self.file(cert)))
            .collect();
        let out = self.python(cluster, GREET, &arguments)?;
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        ensure!(lines.len() == greetings.len(), "{out}");
        Ok(lines)
    }
}

/// Sockets that processes of the home listen on, from the kernel's own tables.
fn listening(home: &Home) -> Result<BTreeSet<String>> {
    let mut mine = BTreeSet::new();
    for (pid, _) in home.processes() {
        for file in std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = std::fs::read_link(file.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')) {
                mine.insert(inode.to_owned());
            }
        }
    }
    ensure!(!mine.is_empty(), "no sockets at all");
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}"))?;
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields[1], fields[3], fields[9]);
            // 0A: listening. Any UDP socket counts.
            if !mine.contains(inode) || (table.starts_with("tcp") && state != "0A") {
                continue;
            }
            let (host, port) = local.split_once(':').context("no port")?;
            let port = u16::from_str_radix(port, 16)?;
            let host = match u32::from_str_radix(host, 16) {
                Ok(v4) => std::net::Ipv4Addr::from(v4.swap_bytes()).to_string(),
                Err(_) => host.to_owned(),
            };
            found.insert(format!("{table} {host}:{port}"));
        }
    }
    Ok(found)
}

#[test]
fn dasks_ports_take_dasks_certificates_only_and_give_no_tickets() -> Result<()> {
    let name = "tloot";
    let loot = Copies::new(name)?;
    let (s, w) = (loot.scheduler.as_str(), loot.worker.as_str());
    let new = "TLSv1_3";
    let mut greetings = Vec::new();
    let mut wanted = Vec::new();
    for (host, port) in [(s, 8786), (w, 8788), (w, 8838)] {
        for (cert, is_in) in [("client", true), ("w1.dask", true), ("scheduler.dask", true)] {
            greetings.push((host, port, cert, new));
            wanted.push(is_in);
        }
        for cert in ["w0.agent", "scheduler.agent", "operator", ""] {
            greetings.push((host, port, cert, new));
            wanted.push(false);
        }
        greetings.push((host, port, "client", "TLSv1_2"));
        wanted.push(false);
    }
    let got = loot.greet(name, &greetings)?;
    for ((greeting, wanted), got) in greetings.iter().zip(&wanted).zip(&got) {
        if *wanted {
            ensure!(got == "in TLSv1.3 ticket=False", "{greeting:?}: {got}");
        } else {
            ensure!(got.starts_with("out "), "{greeting:?}: {got}");
        }
    }
    // Dask lives on, and nothing of it was a crash.
    let sum = loot.home.compute(
        name,
        "from dask.distributed import Client; print(Client().submit(sum, [1, 2]).result())",
    )?;
    ensure!(sum.trim() == "3", "{sum}");

    // Nothing else can be reached, and nothing on other addresses.
    let w1 = loot.second.as_str();
    let known = [
        (s, 8785),
        (s, 8786),
        (s, 8787),
        (w, 8788),
        (w, 8838),
        (w1, 8788),
        (w1, 8838),
    ];
    let mut rest = listening(&loot.home)?;
    for (host, port) in known {
        let socket = format!("tcp {host}:{port}");
        ensure!(rest.remove(&socket), "{socket} is missing");
    }
    // Each worker's own dashboard takes any port, on loopback: here that is the
    // node's own address.
    let dashboards: Vec<&str> = rest
        .iter()
        .filter_map(|r| r.strip_prefix("tcp ")?.split(':').next())
        .collect();
    ensure!(dashboards == [w, w1], "{rest:?}");

    // Who poses as the scheduler hears nothing.
    let address = format!("{w}:0");
    for (cert, word) in [
        ("w0.dask", "CERTIFICATE_VERIFY_FAILED"),
        ("w0.agent", "CERTIFICATE_VERIFY_FAILED"),
        ("client", "CERTIFICATE_VERIFY_FAILED"),
    ] {
        let said = loot.python(name, POSE, &[address.clone(), loot.file(cert)])?;
        ensure!(
            said.contains("refused") && said.contains(word) && said.contains("heard 0"),
            "{cert}: {said}"
        );
    }
    // The test itself works: the scheduler's own certificate is trusted.
    let said = loot.python(name, POSE, &[address, loot.file("scheduler.dask")])?;
    ensure!(said.contains("trusted") && said.contains("heard 1"), "{said}");

    // A removed node's Dask certificate is refused everywhere, soon.
    loot.home.ok(&["remove", name, "tloot-w1"])?;
    let places = [(s, 8786), (w, 8788), (w, 8838)].map(|(host, port)| (host, port, "w1.dask", new));
    let started = std::time::Instant::now();
    let all_out = wait_for("the removed node is refused", || {
        let got = loot.greet(name, &places)?;
        Ok(got.iter().all(|g| g.starts_with("out ")).then_some(got))
    })?;
    ensure!(started.elapsed().as_secs() < 10, "only after {:?}", started.elapsed());
    ensure!(all_out.iter().all(|g| g.contains("revoked")), "{all_out:?}");
    let others = loot.greet(name, &places.map(|(host, port, _, v)| (host, port, "w0.dask", v)))?;
    ensure!(others.iter().all(|g| g.starts_with("in ")), "{others:?}");
    loot.home.ok(&["down", name])?;
    loot.home.assert_clean()
}
