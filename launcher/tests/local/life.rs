//! What goes well.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use herdsman_wire::{Code, Role};

use super::{Fixture, cluster, marked, namespaces, networks, up};

#[tokio::test]
async fn a_cluster_from_up_to_down() {
    for network in networks() {
        let f = Fixture::new(network);
        let made = f
            .up(&[("demo-s", "good"), ("demo-w0", "good"), ("demo-w1", "good")])
            .await;
        let mut made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
        assert!(made.iter().all(|m| m.running));
        assert!(made[0].agent.is_some() && made[0].scheduler.is_some());
        assert!(made[1].agent.is_none() && made[1].scheduler.is_none());

        // Another command sees the same, others see nothing.
        made.sort_by_key(|m| (m.role, m.address));
        assert_eq!(f.list().await, made);
        assert_eq!(
            f.provider().list(Some(&"other".parse().unwrap())).await.unwrap(),
            vec![]
        );

        // Keepers and agents.
        super::until("agents run", || marked(f.cluster.id.as_str()).len() == 6).await;
        // That they run does not say that they have spoken.
        let console = f.folder("demo-s").join("boot.log");
        super::until("the agent speaks", || {
            fs::read_to_string(&console).is_ok_and(|text| text.contains("agent as good"))
        })
        .await;
        let console = f.provider().console(&made[0]).await.unwrap();
        assert!(console.contains("agent as good"), "{console}");

        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = f.folder("demo-w0");
        assert_eq!((mode(&folder), mode(&folder.join("join.json"))), (0o700, 0o600));
        assert_eq!(mode(&folder.join("boot.log")), 0o600);

        // One node less, then another in its place.
        let worker = made.iter().find(|m| m.node.as_str() == "demo-w1").unwrap().clone();
        let gone = f.provider().delete(std::slice::from_ref(&worker)).await.unwrap();
        assert_eq!((gone.deleted, gone.left), (vec!["demo-w1".to_owned()], vec![]));
        assert!(!f.folder("demo-w1").exists());
        assert_eq!(f.list().await.len(), 2);
        let again = f.provider().delete(&[worker]).await.unwrap();
        assert_eq!(again.deleted, ["demo-w1"]);
        up(
            &f.provider(),
            &f.cluster,
            2,
            &[("demo-w1", "good"), ("demo-w2", "good")],
        )
        .await
        .into_iter()
        .for_each(|m| assert_eq!(m.unwrap().role, Role::Worker));
        assert_eq!(f.list().await.len(), 4);

        f.down().await;
        // And once more, when there is nothing.
        let nothing = f.provider().delete_rest(&f.cluster).await.unwrap();
        assert_eq!((nothing.deleted, nothing.left), (vec![], vec![]));
    }
}

#[tokio::test]
async fn to_create_twice_is_to_create_once() {
    for network in networks() {
        let f = Fixture::new(network);
        let nodes = [("demo-s", "good 1"), ("demo-w0", "good 2")];
        let first: Vec<_> = f.up(&nodes).await.into_iter().map(Result::unwrap).collect();
        let second: Vec<_> = f.up(&nodes).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(first, second);
        let other = f.up(&[("demo-s", "good 3")]).await.remove(0).unwrap_err();
        assert_eq!(other.code, Code::Conflict);
        f.down().await;
    }
}

#[tokio::test]
async fn two_commands_at_once_make_one_cluster() {
    for network in networks() {
        let f = Fixture::new(network);
        let nodes = [("demo-s", "good"), ("demo-w0", "good"), ("demo-w1", "good")];
        let (a, b) = tokio::join!(f.up(&nodes), f.up(&nodes));
        let a: Vec<_> = a.into_iter().map(Result::unwrap).collect();
        let b: Vec<_> = b.into_iter().map(Result::unwrap).collect();
        assert_eq!(a, b);
        assert_eq!(f.list().await.len(), 3);
        f.down().await;
    }
}

#[tokio::test]
async fn clusters_do_not_collide() {
    for network in networks() {
        let f = Fixture::new(network);
        let clusters: Vec<_> = (0..4).map(|_| cluster("demo")).collect();
        let (provider, nodes) = (f.provider(), [("demo-s", "good"), ("demo-w0", "good")]);
        let made = futures_util::future::join_all(clusters.iter().map(|c| up(&provider, c, 0, &nodes))).await;
        let agents: std::collections::BTreeSet<_> =
            made.into_iter().flatten().filter_map(|m| m.unwrap().agent).collect();
        assert_eq!(agents.len(), 4);
        assert_eq!(f.list().await.len(), 8);
        for cluster in &clusters {
            super::down(&provider, cluster).await;
            assert!(marked(cluster.id.as_str()).is_empty() && namespaces(cluster.id.as_str()).is_empty());
        }
        // Nothing is left of anything.
        assert!(!f.base().exists() && !f.run_base().exists());
    }
}

/// A number to look at: `cargo test -p herdsman five_nodes -- --nocapture`.
#[tokio::test]
async fn five_nodes_come_within_a_second() {
    for network in networks() {
        let f = Fixture::new(network);
        let nodes = [
            ("s", "good"),
            ("w0", "good"),
            ("w1", "good"),
            ("w2", "good"),
            ("w3", "good"),
        ];
        let start = Instant::now();
        let made = f.up(&nodes).await;
        let took = start.elapsed();
        assert!(made.iter().all(Result::is_ok));
        let start = Instant::now();
        f.down().await;
        eprintln!("{network:?}: 5 nodes up in {took:?}, down in {:?}", start.elapsed());
        // Far from what is usual, so that a busy machine fails nothing.
        assert!(took.as_secs() < 5);
    }
}
