//! What is asked for of Dask's processes reaches them.

use anyhow::{Result, ensure};
use herdsman_tests::home::{Home, Ran};
use serde_json::json;

use super::Held;

const ASK: &str = "
import json, os
from dask.distributed import Client
c = Client()
c.wait_for_workers(4, timeout=60)
known = c.scheduler_info()['workers'].values()
def own(dask_worker):
    return [dask_worker.lifetime, os.environ.get('PLAIN'), os.environ.get('HIDDEN')]
print(json.dumps({
    'names': sorted(w['name'] for w in known),
    'threads': [w['nthreads'] for w in known],
    'memory': [w['memory_limit'] for w in known],
    'resources': [w['resources'] for w in known],
    'own': list(c.run(own).values()),
    'mine': c.run_on_scheduler(lambda dask_scheduler: getattr(dask_scheduler, 'mine', None)),
}))";

#[test]
fn options_reach_dask_and_two_processes_share_a_node() -> Result<()> {
    let home = Home::new()?;
    std::fs::write(
        home.path().join("herdsman.toml"),
        "version = 1\n[[workers]]\nresources = { GPU = 2, SLOTS = 0.5 }\n",
    )?;
    std::fs::write(
        home.path().join("mine.py"),
        "def dask_setup(scheduler):\n    scheduler.mine = 42\n",
    )?;
    let preload = format!("--preload={}", home.path().join("mine.py").display());
    let ran: Ran = home
        .command(&[
            "up",
            "demo",
            "--workers",
            "2",
            "--workers-per-node",
            "2",
            "--threads",
            "3",
            "--memory",
            "1GiB",
            "--worker-option=--lifetime",
            "--worker-option=3h",
            "--scheduler-option",
            &preload,
            "--env-var",
            "PLAIN=two words",
            "--secret",
            "HIDDEN",
            "--tag",
            "team=geo",
        ])?
        .env("HIDDEN", "swordfish-4711")
        .output()?
        .into();
    ensure!(ran.code == 0 && !ran.err.contains("swordfish"), "{ran:?}");
    let said: serde_json::Value = serde_json::from_str(&home.compute("demo", ASK)?)?;
    ensure!(
        said["names"] == json!(["demo-w0-0", "demo-w0-1", "demo-w1-0", "demo-w1-1"]),
        "{said}"
    );
    ensure!(said["threads"] == json!([3, 3, 3, 3]), "{said}");
    let half = 1u64 << 29;
    ensure!(said["memory"] == json!([half, half, half, half]), "{said}");
    let resources = json!({"GPU": 2.0, "SLOTS": 0.5});
    ensure!(
        said["resources"] == json!([resources, resources, resources, resources]),
        "{said}"
    );
    let own = json!([10800.0, "two words", "swordfish-4711"]);
    ensure!(said["own"] == json!([own, own, own, own]), "{said}");
    ensure!(said["mine"] == 42, "{said}");
    for (_, line) in home.processes() {
        ensure!(!line.contains("swordfish"), "{line}");
    }
    let status = home.json(&["status"])?;
    let workers = &status["status"]["nodes"][1]["workers"];
    ensure!(workers.as_array().is_some_and(|w| w.len() == 2), "{status}");
    // A node goes with both of its processes, and what they hold is moved.
    let held = Held::start(&home)?;
    let scaled = home.json(&["scale", "1"])?;
    ensure!(scaled["ready"] == 1 && scaled["kept"] == json!([]), "{scaled}");
    held.finish(&home)?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn options_that_are_herdsmans_own_are_refused_with_the_reason() -> Result<()> {
    let home = Home::new()?;
    let cases: [(&[&str], i32, &[&str]); 4] = [
        (&["--worker-option=--nanny-port=9"], 2, &["--nanny-port", "firewall"]),
        (
            &["--scheduler-option=--dashboard-address=:1"],
            2,
            &["--dashboard-address"],
        ),
        (&["--secret", "NOT_SET_ANYWHERE"], 3, &["NOT_SET_ANYWHERE", "export"]),
        (&["--workers-per-node", "0"], 2, &["workers-per-node"]),
    ];
    for (more, code, words) in cases {
        let ran = home.run(&[&["up", "demo", "--workers", "1"], more].concat())?;
        ensure!(
            ran.code == code && words.iter().all(|w| ran.err.contains(w)),
            "{more:?}: {ran:?}"
        );
        home.assert_clean()?;
    }
    Ok(())
}
