//! Clusters for tests, and the look for what is left of them.

mod life;
mod network;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use herdsman::provider::local::{Local, Network};
use herdsman::provider::{ClusterRef, LocalSettings, Machine, MachineSpec, ProviderError};
use herdsman_wire::{ClusterId, NodeName, Role, Secret};

/// In place of the agent; what it does is its user-data's first word.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = keep ] && exec KEEPER "$@"
mode=$(cat "$3")
echo "agent as $mode"
case "$mode" in
    good*) exec sleep 300 ;;
    refuse*) echo "bad configuration"; exit 3 ;;
    done*)
        setsid sleep 300 &
        exit 0 ;;
    crash*)
        echo >> "$3.starts"
        [ $(wc -l < "$3.starts") -gt 1 ] && exec sleep 300
        setsid sleep 300 &
        exit 1 ;;
    stubborn*)
        trap '' TERM
        setsid sh -c 'trap "" TERM; while :; do sleep 0.2; done' &
        setsid sh -c 'setsid sh -c "trap \"\" TERM; while :; do sleep 0.2; done" &'
        while :; do sleep 0.2; done ;;
    hiding*)
        env -i setsid sleep 300 &
        exec sleep 300 ;;
esac
"#;

fn keeper() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(given) = std::env::var_os("HERDSMAN_TEST_AGENT") {
            return given.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo tells tests about this crate would make it build ring anew.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"))
            {
                cargo.env_remove(name);
            }
        }
        let status = cargo
            .args(["build", "--quiet", "-p", "herdsman-agent"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the agent does not build");
        // target/debug/deps/this
        let exe = std::env::current_exe().unwrap();
        exe.ancestors().nth(2).unwrap().join("herdsman-agent")
    })
}

/// Both kinds of network as far as this user may have them; what is skipped is
/// said.
fn networks() -> Vec<Network> {
    let mut networks = vec![Network::Loopback];
    if nix::unistd::geteuid().is_root() {
        networks.push(Network::Namespace);
    } else {
        eprintln!("SKIPPED: network namespaces need root");
    }
    networks
}

struct Fixture {
    dir: tempfile::TempDir,
    network: Network,
    cluster: ClusterRef,
}

impl Fixture {
    fn new(network: Network) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("agent");
        fs::write(&script, SCRIPT.replace("KEEPER", keeper().to_str().unwrap())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            network,
            cluster: cluster("demo"),
        }
    }

    fn base(&self) -> PathBuf {
        self.dir.path().join("local")
    }

    fn run_base(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// As another command would have it.
    fn provider(&self) -> Local {
        Local::new(LocalSettings {
            agent: self.dir.path().join("agent"),
            base: self.base(),
            run_base: self.run_base(),
            network: self.network,
        })
    }

    fn folder(&self, node: &str) -> PathBuf {
        self.base().join(self.cluster.id.as_str()).join(node)
    }

    async fn up(&self, nodes: &[(&str, &str)]) -> Vec<Result<Machine, ProviderError>> {
        up(&self.provider(), &self.cluster, 0, nodes).await
    }

    /// Waits until these nodes' agents have read what they shall be.
    async fn agents_run(&self, nodes: &[&str]) {
        until("agents run", || {
            nodes.iter().all(|n| {
                let console = fs::read_to_string(self.folder(n).join("boot.log"));
                console.is_ok_and(|c| c.contains("agent as "))
            })
        })
        .await;
    }

    async fn list(&self) -> Vec<Machine> {
        self.provider().list(Some(&self.cluster.name)).await.unwrap()
    }

    /// Deletes everything as `down` does, and looks that nothing is left.
    async fn down(&self) {
        down(&self.provider(), &self.cluster).await;
        self.assert_nothing_left();
    }

    fn assert_nothing_left(&self) {
        let id = self.cluster.id.as_str();
        assert_eq!(marked(id), Vec::<i32>::new());
        assert_eq!(namespaces(id), Vec::<String>::new());
        for dir in [self.base(), self.run_base()] {
            assert!(!dir.join(id).exists(), "{} is left", dir.display());
        }
    }
}

/// After a failed test, so that it is alone in having failed.
impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pid in marked(self.cluster.id.as_str()) {
                kill(pid);
            }
            for name in namespaces(self.cluster.id.as_str()) {
                let _ = Command::new("ip").args(["netns", "del", &name]).status();
            }
        }
    }
}

async fn up(
    provider: &Local,
    cluster: &ClusterRef,
    first: u32,
    nodes: &[(&str, &str)],
) -> Vec<Result<Machine, ProviderError>> {
    let mut specs = Vec::new();
    for (index, (name, user_data)) in (first..).zip(nodes) {
        let node: NodeName = name.parse().unwrap();
        provider.place(cluster, &node, index).unwrap();
        specs.push(MachineSpec {
            node,
            role: if index == 0 { Role::Scheduler } else { Role::Worker },
            user_data: Secret::new((*user_data).to_owned()),
            tags: BTreeMap::from([("herdsman-cluster".to_owned(), cluster.name.to_string())]),
        });
    }
    provider.ensure_network(cluster, &BTreeMap::new()).await.unwrap();
    provider.create(cluster, &specs).await
}

async fn down(provider: &Local, cluster: &ClusterRef) {
    let machines: Vec<Machine> = provider
        .list(None)
        .await
        .unwrap()
        .into_iter()
        .filter(|m| m.cluster.id == cluster.id)
        .collect();
    let names: Vec<String> = machines.iter().map(|m| m.node.to_string()).collect();
    let deleted = provider.delete(&machines).await.unwrap();
    assert_eq!((deleted.deleted, deleted.left), (names, vec![]));
    // All that is a node's is gone with it; the rest is the cluster's.
    assert_eq!(marked(cluster.id.as_str()), Vec::<i32>::new());
    assert!(
        namespaces(cluster.id.as_str())
            .iter()
            .all(|n| *n == format!("hm-{}", cluster.id))
    );
    assert_eq!(provider.delete_rest(cluster).await.unwrap().left, vec![]);
    assert!(
        provider
            .list(None)
            .await
            .unwrap()
            .iter()
            .all(|m| m.cluster.id != cluster.id)
    );
}

/// A cluster with an id that no other test has.
fn cluster(name: &str) -> ClusterRef {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) + (std::process::id() << 8);
    let mut bytes = [0; 10];
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = (u64::from(number) >> (5 * i) & 31) as u8;
    }
    ClusterRef {
        name: name.parse().unwrap(),
        id: ClusterId::from_random(bytes),
    }
}

/// Processes whose environment names the cluster.
fn marked(id: &str) -> Vec<i32> {
    let mark = format!("HERDSMAN_NODE={id}/");
    processes()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|e| e.split(|b| *b == 0).any(|v| v.starts_with(mark.as_bytes())))
        })
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

fn namespaces(id: &str) -> Vec<String> {
    let prefix = format!("hm-{id}");
    fs::read_dir("/run/netns").map_or_else(
        |_| vec![],
        |entries| {
            entries
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|n| n.starts_with(&prefix))
                .collect()
        },
    )
}

fn keeper_state(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("keeper-state.json")).unwrap()).unwrap()
}

fn keeper_pid(folder: &Path) -> i32 {
    i32::try_from(keeper_state(folder)["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
}

/// Whether a process has ended; its parent need not have noticed.
fn has_ended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "))
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
