//! The supervisor with the real binary and real children: small shell scripts
//! that behave as badly as they can.

#![expect(clippy::unwrap_used, reason = "a failed test is what it is for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use herdsman_agent::dask::adoption::PidFile;
use herdsman_agent::dask::backoff::Policy;
use herdsman_agent::dask::cgroup;
use herdsman_agent::dask::procfs::ProcFs;
use herdsman_agent::dask::spec::{Group, ProcessSpec, User};
use herdsman_agent::dask::supervisor::{self, Control, Handle, Level};
use herdsman_agent::dask::tree::Tree;
use herdsman_wire::Secret;
use herdsman_wire::report::DaskHealth;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(30);

struct Fixture {
    dir: tempfile::TempDir,
    marker: String,
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            marker: format!("supervisor-{name}-{}", std::process::id()),
        }
    }

    fn shell(&self, script: &str) -> Box<ProcessSpec> {
        let mut spec = ProcessSpec::new("/bin/sh", &self.marker, self.dir.path());
        spec.args = vec!["-c".into(), script.into()];
        spec.grace = Duration::from_secs(10);
        Box::new(spec)
    }

    fn tree(&self) -> Tree {
        Tree {
            marker: self.marker.clone(),
            session: None,
            cgroup: None,
        }
    }

    fn members(&self) -> usize {
        self.tree().members(&ProcFs::default()).len()
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dask.log")).unwrap_or_default()
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("dask.pid")
    }
}

/// A test that fails leaves nothing behind either.
impl Drop for Fixture {
    fn drop(&mut self) {
        for member in self.tree().members(&ProcFs::default()) {
            let pid = nix::unistd::Pid::from_raw(member.pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn start() -> Handle {
    let policy = Policy {
        first: Duration::from_millis(50),
        base: Duration::from_millis(100),
        max: Duration::from_millis(200),
        give_up: 3,
        ..Policy::default()
    };
    supervisor::start_with(env!("CARGO_BIN_EXE_herdsman-agent").into(), policy)
}

async fn health(h: &mut Handle, what: impl FnMut(&DaskHealth) -> bool) -> DaskHealth {
    let found = tokio::time::timeout(LONG, h.health.wait_for(what)).await;
    if let Ok(found) = found {
        return found.unwrap().clone();
    }
    drop(found);
    panic!("health stays {:?}", h.health.borrow());
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..1500 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("did not come true");
}

async fn stop(h: &Handle, grace: Duration) {
    let (done, told) = oneshot::channel();
    h.control.send(Control::Stop { grace, done }).await.unwrap();
    tokio::time::timeout(LONG, told).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_child_gets_what_was_asked_for_and_stops_in_order() {
    let f = Fixture::new("plain");
    let mut h = start();
    let mut spec = f.shell(
        "trap 'echo bye; exit 0' TERM; echo \"$A $(umask) $(pwd) $(ulimit -n)\"; \
         cat; cat /proc/$$/status | grep NoNewPrivs; \
         echo sid $(cut -d' ' -f6 /proc/$$/stat) = $$; echo ready; while :; do sleep 0.05; done",
    );
    spec.env.insert("A".into(), Secret::new("hunter2"));
    spec.nofile = Some(512);
    h.control.send(Control::Start(spec)).await.unwrap();
    let pid = health(&mut h, |s| s.pid.is_some()).await.pid.unwrap();
    until(|| f.output().contains("ready")).await;
    let output = f.output();
    let folder = f.dir.path().display();
    assert!(output.starts_with(&format!("hunter2 0027 {folder} 512\n")), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    assert!(output.contains(&format!("sid {pid} = {pid}")), "{output}");
    let argv = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!argv.contains("hunter2"));
    let file = PidFile::read(&f.pid_file()).unwrap().unwrap();
    assert_eq!(file.pid, pid);
    h.control.send(Control::Running).await.unwrap();
    health(&mut h, |s| s.state == "running").await;
    stop(&h, LONG).await;
    let end = health(&mut h, |s| s.state == "stopped").await;
    assert!(end.last_exit.unwrap().contains("exit code 0"));
    assert!(f.output().contains("bye"));
    assert!(!f.pid_file().exists());
    assert_eq!(f.members(), 0);
}

#[tokio::test]
async fn what_ignores_the_signal_and_hides_is_killed() {
    let f = Fixture::new("stubborn");
    let mut h = start();
    let spec = f.shell("trap '' TERM; setsid sleep 300 & sleep 300 & echo ready; while :; do sleep 0.05; done");
    h.control.send(Control::Start(spec)).await.unwrap();
    until(|| f.output().contains("ready") && f.members() >= 3).await;
    // A second stop with less time makes the first one shorter.
    let (done, first) = oneshot::channel();
    let slow = Control::Stop { grace: LONG, done };
    h.control.send(slow).await.unwrap();
    stop(&h, Duration::from_millis(200)).await;
    first.await.unwrap();
    assert_eq!(f.members(), 0);
    let end = health(&mut h, |s| s.state == "stopped").await;
    assert!(end.last_exit.unwrap().contains("killed"));
}

#[tokio::test]
async fn crashes_are_counted_told_and_at_last_a_failure() {
    let f = Fixture::new("crash");
    let mut h = start();
    let spec = f.shell("echo so it goes; setsid sleep 300 & exit 3");
    h.control.send(Control::Start(spec)).await.unwrap();
    let failed = health(&mut h, |s| s.state == "failed").await;
    assert_eq!(failed.last_exit.as_deref(), Some("ended with exit code 3"));
    assert!(failed.restarts >= 2, "{failed:?}");
    let crash = loop {
        let note = tokio::time::timeout(LONG, h.notes.recv()).await.unwrap().unwrap();
        if note.level == Level::Error {
            break note.text;
        }
    };
    assert!(
        crash.contains("exit code 3") && crash.contains("crashed at its start 3 times"),
        "{crash}"
    );
    assert!(crash.contains("\n  so it goes"), "{crash}");
    stop(&h, Duration::ZERO).await;
    assert_eq!(f.members(), 0);
}

#[tokio::test]
async fn a_program_that_is_not_there_says_so() {
    let f = Fixture::new("absent");
    let mut h = start();
    let mut spec = f.shell("");
    spec.program = "/no/such/program".into();
    h.control.send(Control::Start(spec)).await.unwrap();
    let end = health(&mut h, |s| s.last_exit.is_some()).await;
    assert_eq!(end.last_exit.as_deref(), Some("ended with exit code 127"));
    assert!(f.output().contains("cannot start /no/such/program"), "{}", f.output());
    stop(&h, Duration::ZERO).await;
}

#[tokio::test]
async fn a_new_supervisor_adopts_what_is_the_same_and_replaces_what_is_not() {
    let f = Fixture::new("adopt");
    let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let mut first = start();
    first.control.send(Control::Start(f.shell(script))).await.unwrap();
    let pid = health(&mut first, |s| s.pid.is_some()).await.pid;
    first.control.send(Control::Detach).await.unwrap();
    until(|| first.control.is_closed()).await;

    let mut second = start();
    second.control.send(Control::Start(f.shell(script))).await.unwrap();
    let taken = health(&mut second, |s| s.pid.is_some()).await;
    assert_eq!((taken.pid, taken.adopted, taken.restarts), (pid, true, 0));
    // All orders' senders gone is the same as being told to let go.
    drop(second);

    // Its end is noticed even where it is not our own.
    let mut third = start();
    third.control.send(Control::Start(f.shell(script))).await.unwrap();
    health(&mut third, |s| s.adopted).await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.unwrap() as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let again = health(&mut third, |s| s.pid.is_some() && s.pid != pid).await;
    assert_eq!((again.adopted, again.restarts), (false, 1));
    third.control.send(Control::Detach).await.unwrap();
    until(|| third.control.is_closed()).await;

    let mut fourth = start();
    let other = format!("{script} # other");
    fourth.control.send(Control::Start(f.shell(&other))).await.unwrap();
    let replaced = health(&mut fourth, |s| s.pid.is_some() && s.pid != again.pid).await;
    assert_eq!((replaced.adopted, replaced.restarts), (false, 2));
    // The same once more changes nothing.
    fourth.control.send(Control::Start(f.shell(&other))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fourth.health.borrow().pid, replaced.pid);
    fourth.control.send(Control::Restart(None)).await.unwrap();
    health(&mut fourth, |s| s.pid.is_some() && s.pid != replaced.pid).await;
    stop(&fourth, LONG).await;
    assert_eq!(f.members(), 0);
}

#[tokio::test]
async fn leftovers_without_a_pid_file_are_killed_before_a_start() {
    let f = Fixture::new("leftover");
    let mut stray = std::process::Command::new("/bin/sleep")
        .arg("300")
        .env(herdsman_agent::dask::spec::MARKER, &f.marker)
        .spawn()
        .unwrap();
    let mut h = start();
    h.control
        .send(Control::Start(f.shell("echo ready; exec sleep 300")))
        .await
        .unwrap();
    until(|| f.output().contains("ready")).await;
    assert!(stray.wait().unwrap().code().is_none());
    let note = h.notes.recv().await.unwrap();
    assert!(note.text.contains("killed 1 left-over"), "{}", note.text);
    stop(&h, Duration::ZERO).await;
}

#[tokio::test]
async fn without_instructions_the_child_ends_by_itself() {
    let run = |input: &'static str| async move {
        use tokio::io::AsyncWriteExt as _;
        let mut child = tokio::process::Command::new(Path::new(env!("CARGO_BIN_EXE_herdsman-agent")))
            .arg("exec-child")
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        tokio::time::timeout(LONG, child.wait()).await.unwrap().unwrap().code()
    };
    assert_eq!(run("").await, Some(125));
    assert_eq!(run("{\"program\":\"/bin/true\",").await, Some(125));
}

/// Needs root; passes by itself elsewhere.
#[tokio::test]
async fn another_user_has_its_own_rights_only() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let f = Fixture::new("user");
    let mut h = start();
    let mut spec = f.shell("id -u; id -G; grep CapEff /proc/$$/status; echo x > denied; exec sleep 300");
    spec.user = Some(User {
        uid: 4711,
        gid: 4712,
        groups: vec![4713],
    });
    spec.cwd = "/".into();
    h.control.send(Control::Start(spec)).await.unwrap();
    health(&mut h, |s| s.pid.is_some()).await;
    until(|| f.output().contains("denied")).await;
    let output = f.output();
    assert!(
        output.starts_with("4711\n4712 4713\nCapEff:\t0000000000000000\n"),
        "{output}"
    );
    assert!(output.contains("cannot create denied"), "{output}");
    stop(&h, Duration::ZERO).await;
    assert_eq!(f.members(), 0);
}

/// Needs the right to make control groups; passes by itself elsewhere.
#[tokio::test]
async fn what_leaves_session_and_environment_is_held_by_its_group() {
    let f = Fixture::new("group");
    let Some(path) = cgroup::below_own(&ProcFs::default(), &f.marker) else {
        return;
    };
    let h = start();
    let mut spec = f.shell("setsid env -i sleep 300 & echo ready; exec sleep 300");
    spec.cgroup = Some(Group {
        path: path.clone(),
        memory_max: Some(1 << 30),
    });
    h.control.send(Control::Start(spec)).await.unwrap();
    until(|| f.output().contains("ready") && cgroup::members(&path).len() == 2).await;
    until(|| f.members() == 1).await;
    stop(&h, LONG).await;
    assert!(cgroup::members(&path).is_empty());
    assert!(!path.exists());
}

#[tokio::test]
async fn an_order_ends_a_wait_and_forgets_the_failures() {
    let f = Fixture::new("order");
    let mut h = supervisor::start_with(
        env!("CARGO_BIN_EXE_herdsman-agent").into(),
        Policy {
            first: Duration::from_secs(3600),
            max: Duration::from_secs(3600),
            ..Policy::default()
        },
    );
    h.control.send(Control::Start(f.shell("exit 1"))).await.unwrap();
    health(&mut h, |s| s.state == "backoff").await;
    assert!(!f.pid_file().exists());
    let good = f.shell("echo ready; exec sleep 300");
    h.control.send(Control::Restart(Some(good))).await.unwrap();
    until(|| f.output().contains("ready")).await;
    let now = h.health.borrow().clone();
    assert_eq!((now.state.as_str(), now.restarts), ("starting", 1));
    assert_eq!(now.last_exit.as_deref(), Some("ended with exit code 1"));
    stop(&h, LONG).await;
}
