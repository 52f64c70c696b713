//! What goes wrong: killed keepers, processes that do not end, folders that were
//! damaged or removed, steps that failed half-way.

use std::fs;
use std::time::{Duration, Instant};

use herdsman::provider::local::Network;
use herdsman_wire::Code;

use super::{Fixture, has_ended, keeper_pid, keeper_state, kill, marked, namespaces, networks, processes, until};

#[tokio::test]
async fn what_does_not_end_is_killed() {
    for network in networks() {
        let f = Fixture::new(network);
        for made in f.up(&[("demo-s", "stubborn"), ("demo-w0", "stubborn")]).await {
            made.unwrap();
        }
        // Each: keeper, agent, two that left the session; sleeps come and go.
        until("all are there", || marked(f.cluster.id.as_str()).len() >= 8).await;
        let start = Instant::now();
        f.down().await;
        assert!(start.elapsed() < Duration::from_secs(25));
    }
}

#[tokio::test]
async fn killed_keepers_leave_nothing() {
    for network in networks() {
        let f = Fixture::new(network);
        for made in f.up(&[("demo-s", "good"), ("demo-w0", "stubborn")]).await {
            made.unwrap();
        }
        f.agents_run(&["demo-s", "demo-w0"]).await;
        until("all are there", || marked(f.cluster.id.as_str()).len() >= 6).await;
        for node in ["demo-s", "demo-w0"] {
            kill(keeper_pid(&f.folder(node)));
        }
        // Their agents live on, and are shown.
        until("keepers are gone", || {
            ["demo-s", "demo-w0"]
                .iter()
                .all(|n| has_ended(keeper_pid(&f.folder(n))))
        })
        .await;
        assert!(f.list().await.iter().all(|m| m.running));
        let start = Instant::now();
        f.down().await;
        assert!(start.elapsed() < Duration::from_secs(2), "nobody is left to wait for");
    }
}

#[tokio::test]
async fn a_dead_node_is_made_anew() {
    for network in networks() {
        let f = Fixture::new(network);
        f.up(&[("demo-s", "stubborn")]).await.remove(0).unwrap();
        until("all are there", || marked(f.cluster.id.as_str()).len() >= 4).await;
        let old = keeper_pid(&f.folder("demo-s"));
        kill(old);
        until("its keeper is dead", || has_ended(old)).await;
        f.up(&[("demo-s", "good")]).await.remove(0).unwrap();
        assert_ne!(keeper_pid(&f.folder("demo-s")), old);
        until("only the new ones", || marked(f.cluster.id.as_str()).len() == 2).await;
        f.down().await;
    }
}

/// With neither marker nor session nor living parents only the namespace tells.
#[tokio::test]
async fn a_namespace_tells_of_what_hides() {
    if !networks().contains(&Network::Namespace) {
        return;
    }
    let f = Fixture::new(Network::Namespace);
    f.up(&[("demo-s", "hiding")]).await.remove(0).unwrap();
    let namespace = format!("/run/netns/hm-{}-demo-s", f.cluster.id);
    let inode = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).ok().map(|m| m.ino())
    };
    let ours = inode(&namespace);
    let inside = || -> Vec<i32> {
        processes()
            .filter(|pid| inode(&format!("/proc/{pid}/ns/net")) == ours)
            .collect()
    };
    // In the middle of an exec a process shows neither arguments nor environment.
    until("one hides", || {
        inside().into_iter().any(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == b"sleep\x00300\x00")
                && !marked(f.cluster.id.as_str()).contains(&pid)
        })
    })
    .await;
    for pid in marked(f.cluster.id.as_str()) {
        kill(pid);
    }
    until("one is left", || inside().len() == 1).await;
    let hidden = inside()[0];
    f.down().await;
    until("it is gone", || !fs::exists(format!("/proc/{hidden}")).unwrap()).await;
}

#[tokio::test]
async fn damaged_nodes_are_listed_and_deleted() {
    for network in networks() {
        let f = Fixture::new(network);
        for made in f
            .up(&[("demo-s", "good"), ("demo-w0", "good"), ("demo-w1", "good")])
            .await
        {
            made.unwrap();
        }
        f.agents_run(&["demo-s", "demo-w0", "demo-w1"]).await;
        fs::write(f.folder("demo-w0").join("tags.json"), "{\"version\":1,\"clus").unwrap();
        fs::remove_file(f.folder("demo-w1").join("tags.json")).unwrap();
        // Of a node that never came to be.
        fs::create_dir(f.folder("demo-w2")).unwrap();
        let listed = f.list().await;
        let strays: Vec<_> = listed
            .iter()
            .filter(|m| m.tags.contains_key("herdsman-stray"))
            .map(|m| (m.node.as_str(), m.running))
            .collect();
        assert_eq!(strays, [("demo-w0", true), ("demo-w1", true), ("demo-w2", false)]);
        assert_eq!(listed.len(), 4);
        f.down().await;
    }
}

#[tokio::test]
async fn nodes_are_found_without_their_folders() {
    for network in networks() {
        let f = Fixture::new(network);
        for made in f.up(&[("demo-s", "good"), ("demo-w0", "stubborn")]).await {
            made.unwrap();
        }
        f.agents_run(&["demo-s", "demo-w0"]).await;
        until("all are there", || marked(f.cluster.id.as_str()).len() >= 6).await;
        fs::remove_dir_all(f.base()).unwrap();
        let listed = f.list().await;
        assert_eq!(listed.len(), 2, "{listed:?}");
        assert!(
            listed
                .iter()
                .all(|m| m.running && m.tags.contains_key("herdsman-stray"))
        );
        // Another folder's nodes are not ours.
        let other = Fixture::new(network);
        assert!(other.provider().list(None).await.unwrap().is_empty());
        f.down().await;
    }
}

#[tokio::test]
async fn an_interrupted_delete_is_finished() {
    for network in networks() {
        let f = Fixture::new(network);
        for made in f.up(&[("demo-s", "good"), ("demo-w0", "good")]).await {
            made.unwrap();
        }
        f.agents_run(&["demo-s", "demo-w0"]).await;
        // As far as it got: processes and namespace gone, files half.
        kill(keeper_pid(&f.folder("demo-w0")));
        if network == Network::Namespace {
            let name = format!("hm-{}-demo-w0", f.cluster.id);
            let status = std::process::Command::new("ip").args(["netns", "del", &name]).status();
            assert!(status.unwrap().success());
        }
        fs::remove_file(f.folder("demo-w0").join("join.json")).unwrap();
        fs::remove_file(f.folder("demo-w0").join("keeper-state.json")).unwrap();
        assert_eq!(f.list().await.len(), 2);
        f.down().await;
    }
}

#[tokio::test]
async fn a_failed_create_leaves_nothing() {
    for network in networks() {
        let f = Fixture::new(network);
        fs::write(f.dir.path().join("agent"), "#!/bin/sh\necho no luck; exit 1\n").unwrap();
        let e = f.up(&[("demo-s", "x"), ("demo-w0", "x")]).await.remove(1).unwrap_err();
        assert_eq!(e.code, Code::Provider);
        assert!(e.hint.iter().any(|h| h.contains("no luck")), "{e:?}");
        assert!(f.list().await.is_empty() && !f.folder("demo-s").exists());
        // The bridge may stay for the next try.
        assert!(namespaces(f.cluster.id.as_str()).len() <= 1);
        f.down().await;

        fs::remove_file(f.dir.path().join("agent")).unwrap();
        let e = f.up(&[("demo-s", "x")]).await.remove(0).unwrap_err();
        assert_eq!(e.code, Code::NotFound);
        f.down().await;
    }
}

/// What a crashed agent leaves runs on, below the keeper, for the next agent.
#[tokio::test]
async fn a_crashed_agent_is_started_again() {
    let f = Fixture::new(Network::Loopback);
    f.up(&[("demo-s", "crash")]).await.remove(0).unwrap();
    let folder = f.folder("demo-s");
    until("it is started again", || {
        let state = keeper_state(&folder);
        state["restarts"] == 1 && state["state"] == "running"
    })
    .await;
    let state = keeper_state(&folder);
    let (keeper, agent) = (
        keeper_pid(&folder),
        i32::try_from(state["agent"].as_i64().unwrap()).unwrap(),
    );
    let orphan = |pid: i32| {
        // One of the others may end while it is looked at.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        pid != keeper && pid != agent && stat.contains(&format!(") S {keeper} "))
    };
    assert_eq!(
        marked(f.cluster.id.as_str()).into_iter().filter(|p| orphan(*p)).count(),
        1
    );
    f.down().await;
}

/// An agent that has ended in order is not started again, and nothing outlives
/// the node.
#[tokio::test]
async fn a_node_ends_by_itself() {
    let f = Fixture::new(Network::Loopback);
    f.up(&[("demo-s", "done")]).await.remove(0).unwrap();
    until("all are there", || marked(f.cluster.id.as_str()).len() == 2).await;
    // The keeper gives what is left ten seconds.
    tokio::time::sleep(Duration::from_secs(7)).await;
    until("nothing runs", || marked(f.cluster.id.as_str()).is_empty()).await;
    assert_eq!(keeper_state(&f.folder("demo-s"))["state"], "ended");
    let listed = f.list().await;
    assert!(listed.len() == 1 && !listed[0].running);
    f.down().await;
}

#[tokio::test]
async fn a_refusing_agent_is_on_the_console() {
    let f = Fixture::new(Network::Loopback);
    let machine = f.up(&[("demo-s", "refuse")]).await.remove(0).unwrap();
    until("its keeper ended", || marked(f.cluster.id.as_str()).is_empty()).await;
    assert!(!f.list().await[0].running);
    assert!(
        f.provider()
            .console(&machine)
            .await
            .unwrap()
            .contains("bad configuration")
    );
    f.down().await;
}

/// What Dask's group holds belongs to the node, whatever it did to be forgotten.
#[tokio::test]
async fn control_groups_are_emptied_and_removed() {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mount = mounts
        .iter()
        .find(|m| fs::exists(format!("{m}/cgroup.controllers")).unwrap());
    let f = Fixture::new(Network::Loopback);
    f.up(&[("demo-s", "good")]).await.remove(0).unwrap();
    let group = mount.map(|m| format!("{m}/herdsman-{}.demo-s", f.cluster.id));
    let Some(group) = group.filter(|g| fs::create_dir_all(format!("{g}/inner")).is_ok()) else {
        eprintln!("SKIPPED: no control groups for this user");
        return f.down().await;
    };
    let mut hidden = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    fs::write(format!("{group}/inner/cgroup.procs"), hidden.id().to_string()).unwrap();
    f.down().await;
    let ended = hidden.try_wait().unwrap();
    let _ = hidden.kill();
    assert!(ended.is_some() && !fs::exists(&group).unwrap());
}
