//! Who is not let in: strangers on the network, nodes that were removed, people who
//! come from elsewhere, and floods of connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, Files, LONG, Machine, Place, Serve, available, probe, scan};
use serde_json::Value;

use super::cluster;

/// SECURITY.md: out within ten seconds.
const WITHIN: Duration = Duration::from_secs(10);
/// sshd and resolved's LLMNR are the image's own.
const IMAGE: [u16; 2] = [22, 5355];
/// All that herdsman and Dask may ever listen at.
const OURS: std::ops::RangeInclusive<u16> = 8700..=8900;
const W0: &str = "demo-w0";
const W1: &str = "demo-w1";

/// Ports that a stranger should not find open.
fn surprising(from: &Place, target: Ipv4Addr, ports: std::ops::RangeInclusive<u16>) -> Result<Vec<u16>> {
    let open = scan(from, target, ports)?.open;
    Ok(open.into_iter().filter(|port| !IMAGE.contains(port)).collect())
}

/// A stranger who scans until told to stop.
struct Scanner {
    over: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<Vec<(Ipv4Addr, u16)>>>,
}

impl Scanner {
    fn start(from: &Place, targets: Vec<Ipv4Addr>) -> Self {
        let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (over, rounds, from) = (Arc::clone(&over), Arc::clone(&rounds), from.clone());
            std::thread::spawn(move || {
                let mut found = Vec::new();
                // One machine's whole range a round, and everybody's likely ports: a
                // port that is open for a second only is seen by the latter.
                for whole in (0..targets.len()).cycle() {
                    for target in &targets {
                        let open = surprising(&from, *target, OURS)?;
                        found.extend(open.into_iter().map(|port| (*target, port)));
                    }
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let open = surprising(&from, targets[whole], probe::ALL)?;
                    found.extend(open.into_iter().map(|port| (targets[whole], port)));
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
                Ok(found)
            })
        };
        Self { over, rounds, thread }
    }

    /// Ends it; gives its rounds and what was open.
    fn end(self) -> Result<(u64, Vec<(Ipv4Addr, u16)>)> {
        self.over.store(true, Ordering::SeqCst);
        let found = self.thread.join().map_err(|_| anyhow!("the scanner died"))??;
        Ok((self.rounds.load(Ordering::SeqCst), found))
    }
}

/// Waits for a condition of the cluster as its owner sees it.
fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    let status = cluster.status()?;
    let nodes = status["status"]["nodes"].as_array().context("nodes")?;
    nodes
        .iter()
        .find(|n| n["name"] == name)
        .cloned()
        .with_context(|| format!("no {name}"))
}

fn audit(cluster: &Cluster) -> Result<String> {
    let log = cluster
        .machine(SCHEDULER)?
        .read_file("/var/lib/herdsman/hub/audit.jsonl")?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Connections that the scheduler's machine has with an address.
fn connections(scheduler: &Machine, with: Ipv4Addr) -> Result<String> {
    scheduler.ok(&format!("ss -Htn state established dst {with}"))
}

#[test]
fn nobody_else_comes_in() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    let (stranger, _) = cluster.network.stranger()?;
    let addresses = [SCHEDULER, W0, W1].map(|n| cluster.address(n));
    let addresses = addresses.into_iter().collect::<Result<Vec<_>>>()?;
    let scanner = Scanner::start(&stranger, addresses.clone());
    cluster.up(2)?;
    let (rounds, open) = scanner.end()?;
    ensure!(
        rounds > 0 && open.is_empty(),
        "{rounds} rounds, open to a stranger: {open:?}"
    );
    for address in &addresses {
        let open = scan(&stranger, *address, probe::ALL)?.open;
        // 22 shows that the scan sees what is there.
        ensure!(open.contains(&22), "{address}: {open:?}");
        ensure!(open.iter().all(|port| IMAGE.contains(port)), "{address}: {open:?}");
    }
    secrets_stay(&cluster)?;
    metadata_is_for_root(&cluster)?;
    replay(&cluster)?;
    floods(&cluster, &stranger)?;
    owner_moves(&cluster)?;
    removal(&mut cluster)
}

/// No key in an argument, in a log, or in a file that others read.
fn secrets_stay(cluster: &Cluster) -> Result<()> {
    for (name, machine) in &cluster.machines {
        let said = machine.ok(
            "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c 'PRIVATE KEY' ; journalctl --no-pager | grep -c 'PRIVATE KEY'; true",
        )?;
        // The first grep is seen by itself at most; its own shell holds the word.
        let journal = said.lines().last().unwrap_or_default();
        ensure!(journal == "0", "{name}: keys in the journal: {said}");
        ensure!(
            !machine.console().contains("PRIVATE KEY"),
            "{name}: a key on the console"
        );
        // The seed is the test's own stand-in for a cloud's metadata service.
        let files = machine.ok(
            "grep -rlsI 'PRIVATE KEY-----' /run /var/lib/herdsman /var/lib/cloud/instances /var/log /etc /tmp \
             | xargs -r stat -Lc '%a %U %n'; true",
        )?;
        ensure!(
            files.contains("/run/herdsman/"),
            "{name}: no key at all, so nothing was tested\n{files}"
        );
        for line in files.lines() {
            let (mode, rest) = line.split_once(' ').context("stat")?;
            let (owner, path) = rest.split_once(' ').context("stat")?;
            let right = if path.starts_with("/run/herdsman") {
                ["dask", "root"].contains(&owner)
            } else {
                owner == "root"
            };
            ensure!(mode.ends_with("00") && right, "{name}: {line}");
        }
        let spied = machine
            .exec("setpriv --reuid=dask --regid=dask --clear-groups cat /var/lib/cloud/instance/user-data.txt")?;
        ensure!(
            spied.code != 0 && spied.out.is_empty(),
            "{name}: user dask reads user-data"
        );
    }
    Ok(())
}

/// What a task of Dask's finds out about its machine.
const TASK: &str = "
from dask.distributed import Client
def ask():
    import urllib.request
    try:
        return urllib.request.urlopen('http://169.254.169.254/credentials', timeout=5).read().decode()
    except OSError as e:
        return 'refused'
def helpers():
    return [l.split()[1] for l in open('/proc/self/status') if l.startswith('NoNewPrivs')][0]
with Client() as c:
    print(sorted(set(c.run(ask).values())), sorted(set(c.run(helpers).values())))
";

/// The metadata service's credentials are not for tasks, nor for setuid helpers.
fn metadata_is_for_root(cluster: &Cluster) -> Result<()> {
    let service = Ipv4Addr::new(169, 254, 169, 254);
    let laptop = cluster.network.laptop();
    laptop.ip(&["address", "add", &format!("{service}/32"), "dev", "lo"])?;
    let files = Files::open(laptop, SocketAddr::from((service, 80)))?;
    files.put("credentials", "secret", Serve::Whole);
    let root = cluster.machine(W0)?.ok(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://169.254.169.254/credentials', timeout=10).read().decode())\"",
    )?;
    ensure!(root.trim() == "secret", "root asks: {root}");
    let task = cluster.compute(TASK)?;
    ensure!(task.trim() == "['refused'] ['1']", "a task asks: {task}");
    Ok(())
}

/// The user-data of a node is worth nothing on another machine.
fn replay(cluster: &Cluster) -> Result<()> {
    // What whoever reads the node's disk has.
    let user_data = cluster
        .machine(W0)?
        .read_file("/var/lib/cloud/instance/user-data.txt")?;
    let address = cluster.network.address(99);
    let thief = Machine::boot(&cluster.network, "thief", address, user_data)?;
    // All nodes are in, so the hub's port is closed to everybody else.
    thief.wait_for_console("not enrolled yet: the hub at 10.99.1.1:8785 does not answer")?;
    ensure!(!audit(cluster)?.contains(&address.to_string()));
    // From an address that may come in it is heard, and refused.
    cluster.ok(&["allow", NAME, &address.to_string()])?;
    thief.wait_for_console("was used before, with other keys")?;
    // It stays up for a while, to be looked at.
    let log = audit(cluster)?;
    ensure!(
        log.contains("double-use") && log.contains(&address.to_string()),
        "{log}"
    );
    ensure!(node(cluster, W0)?["state"] == "ready");
    // Its owner is told: what, whose, from where, and what to do.
    let incident = &cluster.status()?["status"]["incidents"][0];
    ensure!(
        incident["kind"] == "double-use" && incident["node"] == W0 && incident["from"] == address.to_string(),
        "{incident}"
    );
    let (status, doctor) = (cluster.ok(&["status", NAME])?, cluster.run(&["doctor", NAME])?);
    ensure!(doctor.code == 1, "{doctor:?}");
    for said in [status.out, doctor.out] {
        let told = format!("the bootstrap certificate of {W0} was used again, with other keys, ");
        let line = said.lines().find(|l| l.contains(&told)).context("nothing is told")?;
        ensure!(line.contains(&format!(" from {address}, ")), "{line}");
        ensure!(said.contains(&format!("try: herdsman remove {NAME} {W0} ")), "{said}");
    }
    cluster.ok(&["deny", NAME, &format!("{address}/32")])?;
    Ok(())
}

/// A computation of about ten seconds, over the floods.
const SLOW: &str = "
import time
from dask.distributed import Client
def slow(x):
    time.sleep(0.1)
    return x * x
with Client() as c:
    print('begins', flush=True)
    print(sum(c.gather(c.map(slow, range(300), pure=False))))
";

/// Connections of a flood: so many were tried, and so many taken.
#[derive(Debug, Default)]
struct Flooded {
    tried: u64,
    taken: u64,
}

/// Opens 2,000 connections a second to both ports, and holds those that are taken.
fn flood(from: &Place, target: Ipv4Addr, lasts: Duration) -> Result<Flooded> {
    const A_SECOND: u32 = 2000;
    const STEP: Duration = Duration::from_millis(20);
    from.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let taken = Arc::new(AtomicU64::new(0));
            let mut tries = tokio::task::JoinSet::new();
            let mut flooded = Flooded::default();
            let mut beat = tokio::time::interval(STEP);
            let started = Instant::now();
            while started.elapsed() < lasts {
                beat.tick().await;
                for n in 0..A_SECOND / 50 {
                    let taken = Arc::clone(&taken);
                    let port = if n % 2 == 0 { 8785 } else { 8786 };
                    flooded.tried += 1;
                    tries.spawn(async move {
                        let open = tokio::net::TcpStream::connect((target, port));
                        let open = tokio::time::timeout(Duration::from_secs(1), open).await;
                        if let Ok(Ok(stream)) = open {
                            taken.fetch_add(1, Ordering::SeqCst);
                            // A hub hangs up by itself; Dask's scheduler does not.
                            let _ = tokio::time::timeout(Duration::from_secs(2), stream.readable()).await;
                        }
                    });
                    while tries.try_join_next().is_some() {}
                }
            }
            tries.shutdown().await;
            flooded.taken = taken.load(Ordering::SeqCst);
            Ok(flooded)
        })
    })
}

/// The computation goes on, whoever knocks.
fn floods(cluster: &Cluster, stranger: &Place) -> Result<()> {
    let (friend, address) = cluster.network.stranger()?;
    cluster.ok(&["allow", NAME, &address.to_string()])?;
    let target = cluster.address(SCHEDULER)?;
    let dropped = |kind: &str| -> Result<u64> {
        let node = node(cluster, SCHEDULER)?;
        Ok(node["report"]["firewall"]["dropped"][kind].as_u64().unwrap_or(0))
    };
    let before = (dropped("strangers")?, dropped("too_fast")? + dropped("too_many")?);
    let client = cluster.client(SLOW)?.stdout(std::process::Stdio::piped()).spawn()?;
    let lasts = Duration::from_secs(8);
    let (unknown, known) = std::thread::scope(|scope| {
        let unknown = scope.spawn(|| flood(stranger, target, lasts));
        let known = scope.spawn(|| flood(&friend, target, lasts));
        let join =
            |t: std::thread::ScopedJoinHandle<'_, Result<Flooded>>| t.join().map_err(|_| anyhow!("a flood died"))?;
        // The owner is heard meanwhile.
        let heard = cluster.status();
        let both = (join(unknown), join(known));
        heard.map(|_| both)
    })?;
    let (unknown, known) = (unknown?, known?);
    let out = client.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success() && said.ends_with("8955050\n"),
        "the computation: {said}"
    );
    ensure!(unknown.tried > 5000 && unknown.taken == 0, "a stranger: {unknown:?}");
    // 200 at once and 50 a second of one source, and as many again for the clock.
    ensure!(
        known.taken > 0 && known.taken < 1500,
        "without a certificate: {known:?}"
    );
    wait_for("the counts", LONG, || {
        let now = (dropped("strangers")?, dropped("too_fast")? + dropped("too_many")?);
        Ok((now.0 > before.0 + 1000 && now.1 > before.1 + 1000).then_some(()))
    })?;
    for name in [SCHEDULER, W0, W1] {
        ensure!(node(cluster, name)?["state"] == "ready", "{name}");
    }
    cluster.ok(&["deny", NAME, &format!("{address}/32")])?;
    Ok(())
}

/// The owner comes from other addresses.
fn owner_moves(cluster: &Cluster) -> Result<()> {
    let [told, untold] = [2, 3].map(|n| Ipv4Addr::new(10, 99, 0, n));
    let hub = cluster.address(SCHEDULER)?;
    let reaches = || Ok::<_, anyhow::Error>(scan(cluster.network.laptop(), hub, 8785..=8786)?.open);
    cluster.ok(&["allow", NAME, &told.to_string()])?;
    cluster.network.move_laptop(told)?;
    cluster.ok(&["status", NAME])?;

    cluster.network.move_laptop(untold)?;
    ensure!(reaches()?.is_empty());
    let shut_out = cluster.run(&["doctor", NAME])?;
    let hint = format!("herdsman-agent firewall --allow {untold}");
    ensure!(shut_out.code != 0 && shut_out.out.contains(&hint), "{shut_out:?}");
    ensure!(cluster.machine(SCHEDULER)?.ok(&hint)? == "done\n");
    wait_for("the way in", WITHIN, || Ok((reaches()? == [8785, 8786]).then_some(())))?;
    cluster.ok(&["status", NAME])?;
    ensure!(audit(cluster)?.contains("root on the scheduler's machine"));

    cluster.ok(&["deny", NAME, &format!("{told}/32")])?;
    cluster.network.move_laptop(told)?;
    ensure!(reaches()?.is_empty(), "{told} was denied");
    cluster.network.move_laptop(untold)?;
    cluster.ok(&["status", NAME])?;
    Ok(())
}

/// A removed node is out, whether it obeys or not.
fn removal(cluster: &mut Cluster) -> Result<()> {
    let hub = cluster.address(SCHEDULER)?;
    // One obeys. It stays in the list, as its machine is its owner's to delete.
    let said = cluster.run(&["remove", NAME, W0])?;
    ensure!(said.code != 0 && said.err.contains("E-LEFTOVER"), "{said:?}");
    cluster.machines.get_mut(W0).context(W0)?.wait_for_end()?;
    ensure!(node(cluster, W0)?["state"] == "revoked");

    // The other one was taken over: its agent does nothing, and connections stay.
    let machine = cluster.machine(W1)?;
    let scheduler = cluster.machine(SCHEDULER)?;
    machine.ok(
        "for port in 8785 8786; do setsid bash -c \"exec 3<>/dev/tcp/10.99.1.1/$port; exec sleep 600\" >/dev/null 2>&1 & done; \
         pkill -STOP -x herdsman-agent; true",
    )?;
    wait_for("its connections", WITHIN, || {
        let all = connections(scheduler, machine.address())?;
        Ok((all.contains(":8785") && all.contains(":8786")).then_some(()))
    })?;
    let removed = Instant::now();
    let said = cluster.run(&["remove", NAME, W1])?;
    wait_for("the end of its connections", WITHIN, || {
        let all = connections(scheduler, machine.address())?;
        Ok(all.trim().is_empty().then_some(()))
    })?;
    for port in [8785, 8786] {
        let knock = machine.exec(&format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{hub}/{port}'"))?;
        ensure!(knock.code != 0, "{port} takes connections of a removed node");
    }
    ensure!(
        removed.elapsed() < WITHIN + Duration::from_secs(4),
        "{:?}",
        removed.elapsed()
    );
    ensure!(said.err.contains("revoked and cut off"), "{said:?}");
    Ok(())
}
