//! The packet filter between real network namespaces: who gets in where, what
//! floods cost, and that other rule sets live beside it. A namespace belongs to
//! a thread and goes with it. Needs root; without it each test says that it is
//! skipped.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test, for a failure is a panic"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use herdsman_agent::firewall::{self, Firewall, Policy, Ports};
use tokio::time::Instant;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it that does what it is told.
struct Place {
    jobs: mpsc::Sender<Job>,
    tid: i32,
}

impl Place {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            run("/sbin/ip", &["link", "set", "lo", "up"]);
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self {
            jobs,
            tid: told.recv().unwrap(),
        }
    }

    /// Does something there and waits for it. A panic there is one here.
    fn at<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tx, rx) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _ = tx.send(work());
            }))
            .unwrap();
        rx.recv().expect("the work in the namespace failed, see above")
    }

    /// Joins two places by a pair of interfaces with these addresses.
    fn join(&self, other: &Self, name: &'static str, ours: &'static [&str], theirs: &'static [&str]) {
        let tid = other.tid.to_string();
        self.at(move || {
            run(
                "/sbin/ip",
                &["link", "add", name, "type", "veth", "peer", "name", name, "netns", &tid],
            );
        });
        let set = move |addresses: &'static [&str]| {
            move || {
                for a in addresses {
                    let mut args = vec!["address", "add", a, "dev", name];
                    // Usable at once, without looking for the same address elsewhere.
                    args.extend(a.contains(':').then_some("nodad"));
                    run("/sbin/ip", &args);
                }
                run("/sbin/ip", &["link", "set", name, "up"]);
            }
        };
        self.at(set(ours));
        other.at(set(theirs));
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

fn nft(input: &str) {
    let mut child = Command::new("/usr/sbin/nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn ruleset() -> String {
    run("/usr/sbin/nft", &["list", "ruleset"])
}

/// The rule set with its counts at zero.
fn without_counts(text: &str) -> String {
    let mut words = text.split(' ').peekable();
    let mut out = Vec::new();
    while let Some(word) = words.next() {
        out.push(word);
        let counts = matches!(word.trim(), "packets" | "bytes");
        if counts && words.peek().is_some() {
            let number = words.next().unwrap_or_default();
            out.push(if number.ends_with('\n') { "0\n" } else { "0" });
        }
    }
    out.join(" ")
}

fn root() -> bool {
    let is = nix::unistd::geteuid().is_root();
    if !is {
        eprintln!("skipped: network namespaces need root");
    }
    is
}

/// How a connection fares: in, refused at once, or no answer.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Fate {
    In,
    Refused,
    Silence,
}

fn knock(to: &str) -> Fate {
    let to: SocketAddr = to.parse().unwrap();
    // The kernel asks again after a second: one packet may be lost.
    match TcpStream::connect_timeout(&to, Duration::from_millis(1300)) {
        Ok(_) => Fate::In,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Fate::Refused,
        Err(_) => Fate::Silence,
    }
}

/// Accepts and keeps all connections to these ports, for as long as the place
/// lives, in threads that are born in it.
fn serve(ports: &'static [u16]) {
    for port in ports {
        let listener = TcpListener::bind(("::", *port)).unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for connection in listener.incoming().flatten() {
                let echo = connection.try_clone().unwrap();
                kept.push(connection);
                std::thread::spawn(move || {
                    let (mut from, mut to) = (echo.try_clone().unwrap(), echo);
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    }
}

const ALL: &[u16] = &[22, 8785, 8786, 8787, 8788, 8838, 9000];

fn nets<T: FromIterator<ipnet::IpNet>>(list: &[&str]) -> T {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

fn policy() -> Policy {
    Policy {
        owners: nets(&["10.0.1.0/24", "fd00:1::/64"]),
        members: ["10.0.2.2", "fd00:2::2"].map(|a| a.parse::<IpAddr>().unwrap()).into(),
        joining: nets(&["10.0.3.2/32"]),
        ..Policy::default()
    }
}

/// A machine with the filter, and around it an owner, a member, a node on its
/// way and a stranger.
struct World {
    machine: Place,
    owner: Place,
    member: Place,
    joining: Place,
    stranger: Place,
    run: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            machine: Place::new(),
            owner: Place::new(),
            member: Place::new(),
            joining: Place::new(),
            stranger: Place::new(),
            run: tempfile::tempdir().unwrap(),
        };
        let m = &world.machine;
        m.join(
            &world.owner,
            "v1",
            &["10.0.1.1/24", "fd00:1::1/64"],
            &["10.0.1.2/24", "10.0.1.3/24", "fd00:1::2/64"],
        );
        m.join(
            &world.member,
            "v2",
            &["10.0.2.1/24", "fd00:2::1/64"],
            &["10.0.2.2/24", "fd00:2::2/64"],
        );
        m.join(&world.joining, "v3", &["10.0.3.1/24"], &["10.0.3.2/24"]);
        m.join(
            &world.stranger,
            "v4",
            &["10.0.4.1/24", "fd00:4::1/64"],
            &["10.0.4.2/24", "fd00:4::2/64"],
        );
        m.at(|| serve(ALL));
        // The first packet of a place waits until it knows who has the address.
        for (place, hosts) in [
            (&world.owner, &["10.0.1.1:22", "[fd00:1::1]:22"][..]),
            (&world.member, &["10.0.2.1:22", "[fd00:2::1]:22"]),
            (&world.joining, &["10.0.3.1:22"]),
            (&world.stranger, &["10.0.4.1:22", "[fd00:4::1]:22"]),
        ] {
            for host in hosts {
                let until = Instant::now() + Duration::from_secs(60);
                while place.at(move || knock(host)) != Fate::In {
                    assert!(Instant::now() < until, "{host} is never reached");
                }
            }
        }
        world
    }

    fn firewall(&self, policy: Policy) -> Firewall {
        let run = self.run.path().to_owned();
        self.machine.at(move || {
            let mut firewall = Firewall::close(&run).unwrap();
            firewall.apply(policy).unwrap();
            firewall
        })
    }
}

#[test]
fn each_gets_in_where_he_belongs_and_nowhere_else() {
    if !root() {
        return;
    }
    let world = World::new();
    let open = |place: &Place, host: &'static str| -> Vec<u16> {
        place.at(move || {
            ALL.iter()
                .copied()
                .filter(|p| knock(&format!("{host}:{p}")) == Fate::In)
                .collect()
        })
    };
    assert_eq!(open(&world.stranger, "10.0.4.1"), ALL, "before, everything is open");
    let closed = world.firewall(Policy::default());
    for (place, host) in [(&world.member, "10.0.2.1"), (&world.stranger, "[fd00:4::1]")] {
        assert_eq!(open(place, host), [22, 9000], "closed to all, other ports untouched");
    }
    drop(closed);
    let mut firewall = world.firewall(policy());
    for host in ["10.0.4.1", "[fd00:4::1]"] {
        assert_eq!(open(&world.stranger, host), [22, 9000], "{host}");
        let fate = world.stranger.at(move || knock(&format!("{host}:8786")));
        assert_eq!(fate, Fate::Silence);
    }
    for host in ["10.0.1.1", "[fd00:1::1]"] {
        assert_eq!(open(&world.owner, host), [22, 8785, 8786, 9000], "{host}");
    }
    for host in ["10.0.2.1", "[fd00:2::1]"] {
        assert_eq!(open(&world.member, host), [22, 8785, 8786, 8788, 8838, 9000], "{host}");
    }
    assert_eq!(open(&world.joining, "10.0.3.1"), [22, 8785, 9000]);
    let here = open(&world.machine, "127.0.0.1");
    assert_eq!(here, ALL, "the machine itself is not kept out");
    assert_eq!(
        open(&world.machine, "10.0.4.1"),
        ALL,
        "whatever address of its own it uses"
    );
    let dropped = world.machine.at(move || (firewall.report(), firewall)).0.dropped;
    assert!(dropped.strangers >= 10, "{dropped:?}");
    assert_eq!((dropped.too_fast, dropped.too_many), (0, 0), "{dropped:?}");
}

#[test]
fn who_is_out_is_out_with_live_connections() {
    if !root() {
        return;
    }
    let world = World::new();
    let mut firewall = world.firewall(policy());
    let live = |place: &Place, host: &'static str| {
        place.at(move || {
            let c = TcpStream::connect_timeout(&host.parse().unwrap(), Duration::from_secs(5)).unwrap();
            c.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            c
        })
    };
    fn answers(c: &mut TcpStream) -> bool {
        let mut byte = [0];
        c.write_all(&[7]).is_ok() && c.read_exact(&mut byte).is_ok()
    }
    let mut theirs = live(&world.member, "10.0.2.1:8786");
    let mut owners = live(&world.owner, "10.0.1.1:8786");
    assert!(answers(&mut theirs) && answers(&mut owners));
    let removed = Instant::now();
    let mut firewall = world.machine.at(move || {
        firewall
            .apply(Policy {
                members: ["fd00:2::2".parse::<IpAddr>().unwrap()].into(),
                ..policy()
            })
            .unwrap();
        firewall
    });
    assert!(!answers(&mut theirs), "the filter alone stops it");
    world
        .machine
        .at(|| firewall::cut(&["10.0.2.2".parse().unwrap()], &Ports::default()));
    assert!(removed.elapsed() < Duration::from_secs(10));
    assert_eq!(world.member.at(|| knock("10.0.2.1:8785")), Fate::Silence);
    // Nobody else felt it, and neither changes nor a new agent cut anybody.
    assert!(answers(&mut owners));
    let run = world.run.path().to_owned();
    let mut firewall = world.machine.at(move || {
        firewall.apply(policy()).unwrap();
        drop(firewall);
        Firewall::close(&run).unwrap()
    });
    assert!(answers(&mut owners));
    // Somebody flushes everything: closed again, and live ones live on.
    world.machine.at(move || {
        nft("flush ruleset");
        assert!(firewall.check().unwrap().is_some());
    });
    assert!(answers(&mut owners));
    assert_eq!(world.stranger.at(|| knock("10.0.4.1:8785")), Fate::Silence);
}

#[test]
fn answers_to_our_own_connections_come_in() {
    if !root() {
        return;
    }
    let world = World::new();
    world.stranger.at(|| serve(&[443]));
    let _firewall = world.firewall(policy());
    // From a port of the cluster's, to somebody who is a stranger.
    let answered = world.machine.at(|| {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        use std::os::fd::AsRawFd as _;
        let ours: nix::sys::socket::SockaddrIn = "10.0.4.1:8850".parse().unwrap();
        nix::sys::socket::bind(socket.as_raw_fd(), &ours).unwrap();
        let theirs: nix::sys::socket::SockaddrIn = "10.0.4.2:443".parse().unwrap();
        nix::sys::socket::connect(socket.as_raw_fd(), &theirs).is_ok()
    });
    assert!(answered);
}

#[test]
fn a_flood_of_one_source_costs_only_that_source() {
    if !root() {
        return;
    }
    let world = World::new();
    let firewall = world.firewall(policy());
    // Silent connections, as fast as they can be made, kept for ever.
    let flood = world.owner.at(|| {
        let mut got = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        let to = "10.0.1.1:8786".parse().unwrap();
        let mut failed = 0;
        while failed < 3 && Instant::now() < until {
            match TcpStream::connect_timeout(&to, Duration::from_millis(1500)) {
                Ok(c) => got.push(c),
                Err(_) => failed += 1,
            }
        }
        (got.len(), got)
    });
    assert!(flood.0 >= 200, "what is usual is let in: {}", flood.0);
    assert!(flood.0 <= 256, "{} connections of one source", flood.0);
    assert_eq!(world.member.at(|| knock("10.0.2.1:8786")), Fate::In);
    // Its neighbour in the same network has a share of its own.
    let neighbour = world.owner.at(|| {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
        use std::os::fd::AsRawFd as _;
        let s = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(s.as_raw_fd(), &"10.0.1.3:0".parse::<SockaddrIn>().unwrap()).unwrap();
        connect(s.as_raw_fd(), &"10.0.1.1:8786".parse::<SockaddrIn>().unwrap()).is_ok()
    });
    assert!(neighbour);
    let (report, firewall) = world.machine.at(move || {
        let mut firewall = firewall;
        (firewall.report(), firewall)
    });
    let d = &report.dropped;
    assert!(d.too_many + d.too_fast > 0, "{d:?}");
    // Room that is given back can be used again.
    drop(flood);
    let until = Instant::now() + Duration::from_secs(60);
    while world.owner.at(|| knock("10.0.1.1:8786")) != Fate::In {
        assert!(Instant::now() < until, "the source never gets in again");
    }
    drop(firewall);
}

#[test]
fn other_rule_sets_work_on_and_stay_as_they_were() {
    if !root() {
        return;
    }
    for (name, rules) in [
        ("ufw", include_str!("rules/ufw.nft")),
        ("firewalld", include_str!("rules/firewalld.nft")),
        ("docker", include_str!("rules/docker.nft")),
    ] {
        let world = World::new();
        let before = world.machine.at(move || {
            nft(rules);
            ruleset()
        });
        let firewall = world.firewall(policy());
        let fates = |place: &Place, host: &'static str| {
            place.at(move || [22, 8785, 8786, 8788, 9000].map(|p| knock(&format!("{host}:{p}")) == Fate::In))
        };
        // Theirs still close what they closed, and open what they opened; a drop
        // of ours is final all the same.
        let others = name == "docker";
        assert_eq!(
            fates(&world.stranger, "10.0.4.1"),
            [true, false, false, false, others],
            "{name}"
        );
        assert_eq!(
            fates(&world.owner, "10.0.1.1"),
            [true, true, true, false, others],
            "{name}"
        );
        assert_eq!(
            fates(&world.member, "10.0.2.1"),
            [true, true, true, true, others],
            "{name}"
        );
        let after = world.machine.at(move || {
            firewall.remove().unwrap();
            ruleset()
        });
        assert_eq!(without_counts(&after), without_counts(&before), "{name}");
    }
}

/// Tries the metadata service as somebody; bash connects by itself.
fn ask_as(uid: u32, to: &str) -> bool {
    let (host, port) = to.rsplit_once(':').unwrap();
    Command::new("/usr/bin/setpriv")
        .args([
            &format!("--reuid={uid}"),
            "--clear-groups",
            "--",
            "/usr/bin/timeout",
            "3",
        ])
        .args(["/bin/bash", "-c", &format!("exec 3<>/dev/tcp/{host}/{port}")])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn the_metadata_service_is_roots_alone() {
    if !root() {
        return;
    }
    // A container on a bridge of the machine's, and the service behind it.
    let (machine, service, container) = (Place::new(), Place::new(), Place::new());
    machine.join(
        &service,
        "m0",
        &["169.254.169.1/24", "fd00:ec2::1/64"],
        &["169.254.169.254/24", "fd00:ec2::254/64"],
    );
    machine.join(&container, "c0", &["172.17.0.1/16"], &["172.17.0.2/16"]);
    service.at(|| {
        serve(&[80, 53]);
        run("/sbin/ip", &["route", "add", "172.17.0.0/16", "via", "169.254.169.1"]);
    });
    container.at(|| {
        run("/sbin/ip", &["route", "add", "default", "via", "172.17.0.1"]);
    });
    machine.at(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    let four = "169.254.169.254:80";
    assert!(machine.at(move || ask_as(65534, four)), "open at first");
    assert_eq!(container.at(move || knock(four)), Fate::In);

    let run = tempfile::tempdir().unwrap();
    let path = run.path().to_owned();
    let firewall = machine.at(move || Firewall::close(&path).unwrap());
    assert!(machine.at(move || ask_as(0, four)), "root may ask");
    assert!(machine.at(|| ask_as(0, "fd00:ec2::254:80")));
    for uid in [65534, 1000] {
        assert!(!machine.at(move || ask_as(uid, four)), "uid {uid}");
        assert!(!machine.at(move || ask_as(uid, "fd00:ec2::254:80")), "uid {uid}");
        assert!(machine.at(move || ask_as(uid, "169.254.169.254:53")), "names are found");
    }
    assert_ne!(
        container.at(move || knock(four)),
        Fate::In,
        "root in a container is not root"
    );
    assert_eq!(container.at(|| knock("169.254.169.254:53")), Fate::In);
    let firewall = machine.at(move || {
        let mut firewall = firewall;
        assert!(firewall.report().dropped.metadata >= 5, "{:?}", firewall.report());
        let asked_for = Policy {
            metadata_open: true,
            ..Policy::default()
        };
        firewall.apply(asked_for).unwrap();
        assert!(firewall.report().dropped.metadata >= 5, "counted on");
        firewall
    });
    assert!(machine.at(move || ask_as(65534, four)), "a role was asked for");
    machine.at(move || firewall.remove().unwrap());
}
