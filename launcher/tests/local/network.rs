//! Who reaches whom.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use herdsman::provider::local::Network;
use nix::sched::{CloneFlags, setns};

use super::{Fixture, networks};

const SHORT: Duration = Duration::from_millis(300);

/// Runs something in a node's network, on a thread of its own.
fn inside<T: Send + 'static>(f: &Fixture, node: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let name = format!("/run/netns/hm-{}-{node}", f.cluster.id);
    std::thread::spawn(move || {
        setns(File::open(name).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// A server that answers each connection with a word.
fn serve(f: &Fixture, node: &str, at: SocketAddr, word: &'static str) {
    let listener = inside(f, node, move || TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(word.as_bytes());
        }
    });
}

fn ask(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&at, SHORT).ok()?;
    stream.set_read_timeout(Some(SHORT)).ok()?;
    let mut word = String::new();
    stream.read_to_string(&mut word).ok()?;
    (!word.is_empty()).then_some(word)
}

#[tokio::test]
async fn a_namespace_is_reached_by_its_forwards_only() {
    if !networks().contains(&Network::Namespace) {
        return;
    }
    let (f, g) = (Fixture::new(Network::Namespace), Fixture::new(Network::Namespace));
    let nodes = [("demo-s", "good"), ("demo-w0", "good")];
    let ours: Vec<_> = f.up(&nodes).await.into_iter().map(Result::unwrap).collect();
    let theirs: Vec<_> = g.up(&nodes).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        ours[0].address, theirs[0].address,
        "each has the same network for itself"
    );
    let hub = SocketAddr::new(ours[0].address.unwrap(), 8785);
    let dask = SocketAddr::new(ours[0].address.unwrap(), 8786);
    serve(&f, "demo-s", hub, "our hub");
    serve(&f, "demo-s", dask, "our dask");
    serve(&g, "demo-s", hub, "their hub");

    // From the host.
    let (agent, scheduler) = (ours[0].agent.unwrap(), ours[0].scheduler.unwrap());
    assert!(matches!(agent.ip(), IpAddr::V4(a) if a.is_loopback()));
    assert_eq!(ask(agent).as_deref(), Some("our hub"));
    assert_eq!(ask(scheduler).as_deref(), Some("our dask"));
    assert_eq!(ask(theirs[0].agent.unwrap()).as_deref(), Some("their hub"));
    assert_eq!(ask(theirs[0].scheduler.unwrap()), None);
    assert_eq!(ask(hub), None, "no way but the forward");

    // From nodes.
    assert_eq!(inside(&f, "demo-w0", move || ask(hub)).as_deref(), Some("our hub"));
    assert_eq!(inside(&g, "demo-w0", move || ask(hub)).as_deref(), Some("their hub"));
    assert_eq!(
        inside(&f, "demo-w0", move || ask(agent)),
        None,
        "the host is out of reach"
    );
    let routes = inside(&f, "demo-w0", || {
        std::fs::read_to_string("/proc/thread-self/net/route").unwrap()
    });
    assert_eq!(routes.lines().count(), 2, "one network, no default: {routes}");

    f.down().await;
    g.down().await;
}

/// A program that has the usual port on all addresses is in nobody's way.
#[tokio::test]
async fn forwards_give_way_to_taken_ports() {
    if !networks().contains(&Network::Namespace) {
        return;
    }
    let f = Fixture::new(Network::Namespace);
    let node = "demo-s".parse().unwrap();
    f.provider().place(&f.cluster, &node, 0).unwrap();
    let made = f.up(&[("demo-s", "good")]).await.remove(0).unwrap();
    let usual = made.agent.unwrap();
    f.provider().delete(&[made]).await.unwrap();
    let taken = TcpListener::bind(usual);
    let made = f.up(&[("demo-s", "good")]).await.remove(0).unwrap();
    if taken.is_ok() {
        assert_eq!(made.agent.unwrap().ip(), usual.ip());
        assert_ne!(made.agent.unwrap().port(), usual.port());
    }
    f.down().await;
}
