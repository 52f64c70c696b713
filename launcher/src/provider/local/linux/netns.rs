//! Network namespaces: one for a cluster's bridge, one for each of its nodes,
//! joined by veth pairs. The host's own network is never touched; what it sees
//! are the names under `/run/netns`.
//!
//! ```text
//! hm-<cluster id>              br0 10.88.0.1/16 ── v2, v3 …
//! hm-<cluster id>-<node>       eth0 10.88.0.2/16, lo
//! ```
//!
//! iproute2 does the work, in batches: starting a program costs more than what
//! it then does.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use herdsman_wire::{ClusterId, NodeName};

use super::place::{BRIDGE, NAMESPACE_PREFIX};
use super::process::{self, Inode};

/// Where `ip` keeps named namespaces; ip-netns(8).
const NAMED: &str = "/run/netns";
/// Where distributions install `ip`; a user's PATH often lacks the first two.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// A batch of hundreds of lines takes about a second on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many `ip` run at the same time.
const AT_ONCE: usize = 32;
/// How often a running `ip` is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Prefix of all names of a cluster, and the name of its bridge's namespace.
pub(super) fn prefix(id: &ClusterId) -> String {
    format!("hm-{id}")
}

/// Name of a node's namespace.
pub(super) fn name(id: &ClusterId, node: &NodeName) -> String {
    format!("hm-{id}-{node}")
}

/// The file that stands for a named namespace.
pub(super) fn file(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}

/// The namespace's identity, which its processes show as well. Never that of the
/// namespace we are in: whatever the name leads to, it is not for killing all of
/// the host.
pub(super) fn inode(name: &str) -> Option<Inode> {
    let ours = process::inode(Path::new("/proc/self/ns/net"))?;
    process::inode(&file(name)).filter(|i| *i != ours)
}

/// Named namespaces of a cluster: its bridge's and its nodes'.
pub(super) fn of_cluster(id: &ClusterId) -> Vec<String> {
    let bridge = prefix(id);
    let nodes = format!("{bridge}-");
    let Ok(entries) = fs::read_dir(NAMED) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| *n == bridge || n.starts_with(&nodes))
        .collect();
    // Nodes first: "hm-x" is shorter than all "hm-x-…".
    names.sort_by(|a, b| b.cmp(a));
    names
}

fn program() -> Option<PathBuf> {
    FOLDERS.iter().map(|f| Path::new(f).join("ip")).find(|p| p.is_file())
}

/// Says why namespaces cannot be used, by making some and removing them.
pub(super) fn usable(id: &ClusterId) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    // No node's name starts with a hyphen, and what an interrupted probe leaves
    // goes with the cluster.
    let probe = format!("{}--probe", prefix(id));
    remove(std::slice::from_ref(&probe)).ok();
    let result = ip(None, &format!("netns add {probe}\n")).and_then(|()| {
        ip(
            Some(&probe),
            "link add br0 type bridge\nlink add v0 type veth peer name v1\n",
        )
    });
    remove(std::slice::from_ref(&probe)).and(result)
}

/// Makes the bridge's namespace unless it is there and whole.
pub(super) fn ensure_bridge(id: &ClusterId) -> Result<(), String> {
    let bridge = prefix(id);
    if file(&bridge).exists() {
        if ip(Some(&bridge), "link set br0 up\n").is_ok() {
            return Ok(());
        }
        remove(std::slice::from_ref(&bridge))?;
    }
    ip(None, &format!("netns add {bridge}\n"))?;
    ip(
        Some(&bridge),
        // The name last: where there is a br0, all before it is done.
        &format!(
            "link set lo up\nlink add new type bridge\naddress add {BRIDGE}/{NAMESPACE_PREFIX} dev new\n\
             link set new name br0\nlink set br0 up\n"
        ),
    )
}

/// Makes namespaces for nodes, anew where one is there already, and joins them
/// to the bridge.
pub(super) fn add_nodes(id: &ClusterId, nodes: &[(&NodeName, Ipv4Addr)]) -> Result<(), String> {
    if nodes.is_empty() {
        return Ok(());
    }
    let clear = || {
        let names: Vec<String> = nodes.iter().map(|(node, _)| name(id, node)).collect();
        let ports: Vec<Ipv4Addr> = nodes.iter().map(|(_, address)| *address).collect();
        remove_ports(id, &ports);
        remove(&names)
    };
    // What an interrupted command left is in the way of the first try only.
    add_nodes_once(id, nodes).or_else(|_| {
        clear()?;
        add_nodes_once(id, nodes).inspect_err(|_| {
            let _ = clear();
        })
    })
}

fn add_nodes_once(id: &ClusterId, nodes: &[(&NodeName, Ipv4Addr)]) -> Result<(), String> {
    let names: Vec<String> = nodes.iter().map(|(node, _)| name(id, node)).collect();
    ip(
        None,
        &names.iter().map(|n| format!("netns add {n}\n")).collect::<String>(),
    )?;

    let bridge = prefix(id);
    let joined: String = nodes
        .iter()
        .zip(&names)
        .map(|((_, address), name)| {
            let port = port(*address);
            format!("link add {port} type veth peer name eth0 netns {name}\nlink set {port} master br0 up\n")
        })
        .collect();
    ip(Some(&bridge), &joined)?;

    // Each namespace needs an `ip` of its own.
    let work: Vec<(Ipv4Addr, String)> = nodes.iter().map(|(_, a)| *a).zip(names).collect();
    work.chunks(AT_ONCE).try_for_each(|chunk| {
        std::thread::scope(|scope| {
            let running: Vec<_> = chunk.iter().map(|(a, n)| scope.spawn(|| set_up(*a, n))).collect();
            running
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a helper thread died".to_owned())))
        })
    })
}

/// Removes ports of the bridge. With a namespace goes its end of the pair, and
/// with that the port, but some time after the command. Best effort.
pub(super) fn remove_ports(id: &ClusterId, addresses: &[Ipv4Addr]) {
    let bridge = prefix(id);
    if addresses.is_empty() || !file(&bridge).exists() {
        return;
    }
    let batch: String = addresses.iter().map(|a| format!("link del {}\n", port(*a))).collect();
    let _ = run(&["-force", "-n", &bridge], &batch);
}

fn set_up(address: Ipv4Addr, name: &str) -> Result<(), String> {
    ip(
        Some(name),
        &format!("link set lo up\naddress add {address}/{NAMESPACE_PREFIX} dev eth0\nlink set eth0 up\n"),
    )
}

/// Name of a node's port at the bridge, unique in it and short enough.
fn port(address: Ipv4Addr) -> String {
    let [_, _, high, low] = address.octets();
    format!("v{}", u16::from_be_bytes([high, low]))
}

/// Removes named namespaces; those that are not there are fine. Interfaces go
/// with them.
pub(super) fn remove(names: &[String]) -> Result<(), String> {
    let there: Vec<&String> = names.iter().filter(|n| file(n).exists()).collect();
    if there.is_empty() {
        return Ok(());
    }
    let batch: String = there.iter().map(|n| format!("netns del {n}\n")).collect();
    let result = ip(None, &batch);
    // A name may have gone between looking and deleting, or be a bare file that
    // an interrupted `ip netns add` left, which `del` unmounts in vain.
    for name in &there {
        if file(name).exists() {
            result.clone()?;
            fs::remove_file(file(name)).map_err(|e| format!("{}: {e}", file(name).display()))?;
        }
    }
    Ok(())
}

/// Runs a batch, in a namespace where one is named. The error is what `ip` said.
fn ip(namespace: Option<&str>, batch: &str) -> Result<(), String> {
    match namespace {
        Some(namespace) => run(&["-n", namespace], batch),
        None => run(&[], batch),
    }
}

fn run(options: &[&str], batch: &str) -> Result<(), String> {
    let program = program().ok_or("the program `ip` (package iproute2) is missing")?;
    let said = |e: io::Error| format!("{}: {e}", program.display());
    // Files, not pipes: neither side ever waits for the other.
    let mut input = tempfile::tempfile().map_err(said)?;
    input
        .write_all(batch.as_bytes())
        .and_then(|()| input.rewind())
        .map_err(said)?;
    let mut errors = tempfile::tempfile().map_err(said)?;

    let mut child = Command::new(&program)
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(errors.try_clone().map_err(said)?)
        .spawn()
        .map_err(said)?;
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait().map_err(said)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`ip` did not end within {} s", DEADLINE.as_secs()));
            }
            None => std::thread::sleep(LOOK),
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("`ip` failed ({status}): {}", words(&mut errors)))
}

fn words(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind();
    let _ = file.take(2048).read_to_end(&mut text);
    String::from_utf8_lossy(&text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_clusters_and_nodes_apart() {
        let id: ClusterId = "aaaaaaaaaa".parse().unwrap();
        assert_eq!(prefix(&id), "hm-aaaaaaaaaa");
        assert_eq!(name(&id, &"demo-w0".parse().unwrap()), "hm-aaaaaaaaaa-demo-w0");
        assert_eq!(port(Ipv4Addr::new(10, 88, 0, 2)), "v2");
        // IFNAMSIZ is 16 with the final zero.
        assert!(port(Ipv4Addr::new(10, 88, 255, 254)).len() < 16);
    }
}
