//! The life of a cluster as its user sees it.

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};
use serde_json::Value;

/// Tasks that leave a line for each execution.
pub(crate) const COUNTED: &str = "
import os, sys, time
from dask.distributed import Client, wait
COUNTS = os.path.abspath('counts')
def task(i, path, seconds):
    time.sleep(seconds)
    with open(path, 'a') as f:
        f.write(f'{i}\\n')
    return i * i
";

pub(crate) fn executions(home: &Home) -> Vec<u32> {
    let text = std::fs::read_to_string(home.path().join("counts")).unwrap_or_default();
    let mut all: Vec<u32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    all.sort_unstable();
    all
}

#[test]
fn up_compute_look_down() -> Result<()> {
    let home = Home::new()?;
    let up = home.json(&["up", "demo", "--workers", "2"])?;
    ensure!(up["workers"]["ready"] == 2, "{up}");
    ensure!(
        up["scheduler"].as_str().is_some_and(|s| s.starts_with("tls://127.")),
        "{up}"
    );
    let sum = home.compute(
        "demo",
        "from dask.distributed import Client; print(Client().submit(sum, range(100)).result())",
    )?;
    ensure!(sum.trim() == "4950", "{sum}");
    let status = home.json(&["status"])?;
    let nodes = status["status"]["nodes"].as_array().context("nodes")?;
    ensure!(
        nodes.len() == 3 && nodes.iter().all(|n| n["state"] == "ready"),
        "{status}"
    );
    ensure!(status["status"]["ending"]["idle_seconds"] == 1200, "{status}");
    ensure!(status["status"]["ending"]["lifetime_ends"].is_u64(), "{status}");
    ensure!(home.json(&["ls"])?["clusters"][0]["state"] == "up");
    let who = home.ok(&[
        "exec",
        "demo",
        "demo-w1",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; cat",
    ])?;
    ensure!(who.out == "out\n" && who.err.contains("err"), "{who:?}");
    let code = home.run(&["exec", "demo", "--", "sh", "-c", "exit 7"])?.code;
    ensure!(code == 7, "{code}");
    let logs = home.ok(&["logs", "demo", "--dask"])?.out;
    ensure!(
        logs.contains("demo-scheduler") && logs.contains("Scheduler at"),
        "{logs}"
    );
    ensure!(home.ok(&["doctor", "demo"])?.out.contains("the hub answers"));
    // Only names and addresses, never a key.
    for (_, line) in home.processes() {
        ensure!(!line.contains("PRIVATE KEY"), "{line}");
    }
    let again = home.json(&["up", "demo", "--workers", "2"])?;
    ensure!(again["existed"] == true && again["id"] == up["id"], "{again}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()?;
    ensure!(home.run(&["status", "demo"])?.code == 3);
    ensure!(home.run(&["down", "demo"])?.code == 3);
    Ok(())
}

#[test]
fn scaling_down_never_recomputes() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "3"])?;
    let program = format!(
        "{COUNTED}
client = Client()
done = client.map(task, range(40), path=COUNTS, seconds=0.02)
wait(done)
print('done', flush=True)
sys.stdin.readline()
print(sum(client.gather(done)))
"
    );
    let mut client = home.client("demo", &program)?;
    let mut child = client
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    wait_for("the tasks", || Ok((executions(&home).len() == 40).then_some(())))?;
    let scaled = home.json(&["scale", "demo", "1"])?;
    ensure!(
        scaled["ready"] == 1 && scaled["removed"].as_array().is_some_and(|r| r.len() == 2),
        "{scaled}"
    );
    drop(child.stdin.take());
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(text.contains("20540"), "{text}");
    ensure!(
        executions(&home) == (0..40).collect::<Vec<_>>(),
        "{:?}",
        executions(&home)
    );
    home.ok(&["scale", "demo", "2"])?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

pub(crate) fn pid_of_agent(home: &Home, node: &str) -> Result<i32> {
    let wanted = format!("/{node}/join.json");
    let found = home
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains(" run ") && line.contains(&wanted));
    Ok(found.with_context(|| format!("no agent of {node}"))?.0)
}

#[test]
fn killed_agents_adopt_dask_and_no_task_runs_twice() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    let program = format!(
        "{COUNTED}
client = Client()
print(sum(client.gather(client.map(task, range(100), path=COUNTS, seconds=0.1))))
"
    );
    let mut client = home.client("demo", &program)?;
    let child = client.stdout(std::process::Stdio::piped()).spawn()?;
    wait_for("some tasks", || Ok((executions(&home).len() > 5).then_some(())))?;
    for node in ["demo-scheduler", "demo-w0"] {
        let pid = pid_of_agent(&home, node)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    let out = child.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&out.stdout).trim() == "328350", "{out:?}");
    ensure!(
        executions(&home) == (0..100).collect::<Vec<_>>(),
        "{:?}",
        executions(&home)
    );
    let adopted = |status: &Value, node: &str| {
        let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.into_iter().find(|n| n["name"] == node).unwrap_or_default();
        found["state"] == "ready" && found["report"]["dask"]["adopted"] == true
    };
    wait_for("both agents are back and have adopted Dask", || {
        let Ok(status) = home.json(&["status", "demo"]) else {
            return Ok(None);
        };
        Ok((adopted(&status, "demo-scheduler") && adopted(&status, "demo-w0")).then_some(()))
    })?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn an_idle_cluster_ends_by_itself() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1", "--idle", "3s"])?;
    wait_for("its processes are gone", || {
        Ok(home.processes().is_empty().then_some(()))
    })?;
    let state = home.json(&["ls"])?["clusters"][0]["state"].clone();
    ensure!(state == "ended", "{state}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn a_removed_node_is_cut_off_and_the_rest_goes_on() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    home.ok(&["remove", "demo", "demo-w1"])?;
    let out = home.compute(
        "demo",
        "from dask.distributed import Client; c = Client(); print(sorted(w['name'] for w in c.scheduler_info()['workers'].values()), c.submit(sum, [1, 2]).result())",
    )?;
    ensure!(out.trim() == "['demo-w0'] 3", "{out}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn insecure_and_loopback_work_as_well() -> Result<()> {
    let home = Home::new()?;
    let up = home.json(&[
        "up",
        "demo",
        "--workers",
        "1",
        "--insecure",
        "--local-network",
        "loopback",
    ])?;
    ensure!(
        up["scheduler"].as_str().is_some_and(|s| s.starts_with("tcp://")),
        "{up}"
    );
    let out = home.compute(
        "demo",
        "from dask.distributed import Client; print(Client().submit(abs, -3).result())",
    )?;
    ensure!(out.trim() == "3", "{out}");
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn an_interrupted_start_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    for millis in [20, 150, 500, 1500] {
        let child = home
            .command(&["up", "demo", "--workers", "2"])?
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(millis));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        let out = child.wait_with_output()?;
        // It may have been too late: then it is up.
        if out.status.success() {
            home.ok(&["down", "demo"])?;
        }
        home.assert_clean()
            .with_context(|| format!("after {millis} ms: {}", String::from_utf8_lossy(&out.stderr)))?;
    }
    Ok(())
}

#[test]
fn mistakes_are_told_before_anything_is_made() -> Result<()> {
    let home = Home::new()?;
    let cases: [(&[&str], i32, &str); 6] = [
        (&["up", "Bad_Name"], 2, "Bad_Name"),
        (&["up", "demo", "--workers", "lots"], 2, "lots"),
        (&["up", "demo", "--python", "/usr/bin/env"], 3, "/usr/bin/env"),
        (&["up", "demo", "--provider", "nebula"], 2, "nebula"),
        (&["scale", "nothing", "3"], 3, "nothing"),
        (&["frobnicate"], 2, "frobnicate"),
    ];
    for (args, code, word) in cases {
        let ran = home.run(args)?;
        ensure!(ran.code == code && ran.err.contains(word), "{args:?}: {ran:?}");
    }
    std::fs::write(
        home.path().join("herdsman.toml"),
        "version = 1\n[limits]\nidel = \"5m\"\n",
    )?;
    let ran = home.run(&["up", "demo"])?;
    ensure!(
        ran.code == 2 && ran.err.contains("herdsman.toml:3") && ran.err.contains("idle"),
        "{ran:?}"
    );
    home.assert_clean()
}

#[test]
fn certificates_of_thirty_seconds_are_renewed_while_work_runs() -> Result<()> {
    let home = Home::new()?;
    let lives = r#"{"leaf_seconds": 30, "renew_seconds": 8}"#;
    let up = home
        .command(&["up", "demo", "--workers", "2"])?
        .env("HERDSMAN_TEST_LIVES", lives)
        .output()?;
    ensure!(up.status.success(), "{up:?}");
    let program = format!(
        "{COUNTED}
client = Client()
print(sum(client.gather(client.map(task, range(900), path=COUNTS, seconds=0.1))))
"
    );
    let mut client = home.client("demo", &program)?;
    let child = client.stdout(std::process::Stdio::piped()).spawn()?;
    let generation = |home: &Home| -> Result<u64> {
        let status = home.json(&["status", "demo"])?;
        let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
        Ok(nodes.iter().filter_map(|n| n["generation"].as_u64()).min().unwrap_or(0))
    };
    // Four renewals are more than one whole life.
    wait_for("the fourth generation on all nodes", || {
        Ok((generation(&home)? >= 5).then_some(()))
    })?;
    // A new client and new connections between workers meet renewed certificates.
    let out = home.compute(
        "demo",
        "
from dask.distributed import Client
c = Client()
a = c.submit(lambda: b'x' * 10**6, workers=['demo-w0'], pure=False)
print(c.submit(len, a, workers=['demo-w1'], pure=False).result())",
    )?;
    ensure!(out.trim() == "1000000", "{out}");
    let out = child.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&out.stdout).trim() == "242595150", "{out:?}");
    ensure!(executions(&home) == (0..900).collect::<Vec<_>>());
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

/// A `herdsman` command that stays until it is told to end, and the first JSON
/// document that it prints.
pub(crate) struct Staying(std::process::Child);

impl Staying {
    pub(crate) fn start(home: &Home, args: &[&str]) -> Result<(Self, Value)> {
        use std::io::BufRead as _;
        let mut child = home
            .command(&[args, &["-o", "json"]].concat())?
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut text = String::new();
        let mut value = None;
        for line in std::io::BufReader::new(out).lines() {
            text += &line?;
            value = serde_json::from_str(&text).ok();
            if value.is_some() {
                break;
            }
        }
        Ok((Self(child), value.context(text)?))
    }

    /// Ctrl-C; it must end well.
    pub(crate) fn interrupt(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dashboard_and_scheduler_are_reached_through_the_hub() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let (dash, said) = Staying::start(&home, &["dash", "demo", "--no-open"])?;
    let url = said["dashboard"].as_str().context("dashboard")?;
    let program = format!(
        "
import http.cookiejar, urllib.error, urllib.parse, urllib.request
url = {url:?}
base = '{{0.scheme}}://{{0.netloc}}'.format(urllib.parse.urlsplit(url))
def code(opener, path, **headers):
    try:
        return opener.open(urllib.request.Request(base + path, headers=headers), timeout=30).status
    except urllib.error.HTTPError as e:
        return e.code
jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
stranger = urllib.request.build_opener()
page = jar.open(url, timeout=30).read().decode()
assert 'Dask Diagnostic UI' in page and 'bokeh' in page, page[:500]
print(code(jar, '/workers'), code(jar, '/health'), code(stranger, '/status'), code(jar, '/status', Host='evil.example'),
      code(jar, '/status', Origin='http://evil.example'), code(jar, '/proxy/1/x/'))
"
    );
    let codes = home.compute("demo", &program)?;
    ensure!(
        codes.trim() == "200 200 403 403 403 403" || codes.trim() == "200 200 403 403 403 404",
        "{codes}"
    );
    dash.interrupt()?;
    let (connect, said) = Staying::start(&home, &["connect", "demo"])?;
    let address = said["scheduler"].as_str().context("scheduler")?;
    let out = home.compute(
        "demo",
        &format!("from dask.distributed import Client; print(Client({address:?}).submit(abs, -5).result())"),
    )?;
    ensure!(out.trim() == "5", "{out}");
    connect.interrupt()?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn dask_that_dies_at_its_start_is_told_with_its_last_words() -> Result<()> {
    let home = Home::new()?;
    let started = std::time::Instant::now();
    let ran = home.run(&["up", "demo", "--workers", "1", "--scheduler-option=--no-such-flag"])?;
    ensure!(ran.code == 7 && ran.err.contains("error[E-DASK]"), "{ran:?}");
    ensure!(
        ran.err.contains("Unknown argument") || ran.err.contains("No such option"),
        "{ran:?}"
    );
    ensure!(ran.err.contains("what was created has been deleted"), "{ran:?}");
    // By its cause, not by the deadline of five minutes.
    ensure!(started.elapsed() < herdsman_tests::home::LONG);
    home.assert_clean()
}
