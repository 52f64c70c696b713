//! Boot to "Dask worker registered" on test machines: a scheduler and a worker are
//! switched on at once, and the worker's way is timed by its reports and journal.
//!
//! * stock: Debian that gets nothing but user-data; agent and environment are brought;
//! * baked: agent and environment are in the image, user-data is the join configuration;
//! * floor: the same environment in the image and a bare unit that starts Dask, plain tcp.
//!
//! Under QEMU both machines have kernels and clocks of their own. A clock is set at
//! power-on to the full second, so times differ from this computer's by up to one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman::bootstrap::{JOIN_BEGIN, JOIN_END};
use herdsman_tests::machines::bake::installed;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use herdsman_tests::machines::{Cluster, LONG, Setup, available};
use herdsman_wire::Timestamp;
use herdsman_wire::limits::BOOTSTRAP_LIFE;
use serde_json::{Value, json};

use crate::site::Site;

const WORKER: &str = "demo-w0";
/// How long a kind of cluster may take to be up: without KVM a machine takes minutes.
const WITHIN: Duration = BOOTSTRAP_LIFE;
/// Where the image has its environment.
const ENVIRONMENT: &str = "/opt/baked";
/// What a worker says that has found its scheduler.
const REGISTERED: &str = "Registered to";
/// How often is looked.
const AGAIN: Duration = Duration::from_millis(50);

/// Seconds from power-on to each milestone.
type Milestones = BTreeMap<&'static str, f64>;

/// All kinds, in turn, so that none has the quieter machine.
pub(crate) fn measure(rounds: usize, under_qemu: bool) -> Result<Value> {
    if !available() {
        return Ok(json!({}));
    }
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-machines");
    std::fs::create_dir_all(&scratch)?;
    let scratch = scratch.canonicalize()?;
    let (mut stock, mut baked, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let site = || Site::new(&scratch, under_qemu);
        stock.push(apart(|| ours(site()?, false)).context("stock")?);
        baked.push(apart(|| ours(site()?, true)).context("baked")?);
        bare.push(apart(|| floor(site()?)).context("floor")?);
    }
    Ok(json!({"stock": stock, "baked": baked, "floor": bare}))
}

/// On a thread of its own: it stays at the laptop of its cluster, see [`Cluster::new`].
fn apart(measure: impl FnOnce() -> Result<Milestones> + Send) -> Result<Milestones> {
    std::thread::scope(|s| s.spawn(measure).join()).unwrap_or_else(|_| Err(anyhow::anyhow!("the measurement panicked")))
}

fn ours(mut site: Site, in_image: bool) -> Result<Milestones> {
    let cluster = &site.cluster;
    let mut setup = Setup::default();
    let mut environment = "copy";
    if in_image {
        environment = "image";
        cluster.configure(&format!("[env]\nimage_python = \"{ENVIRONMENT}/bin/python\"\n"))?;
        setup.folders = vec![(bake_environment(cluster)?, ENVIRONMENT.into())];
        setup.trees = vec![installed(cluster.laptop.home.path())?];
    }
    let within = format!("{}s", WITHIN.as_secs());
    let mut going = cluster.start(&[
        "up",
        NAME,
        "--workers",
        "1",
        "--env",
        environment,
        "--start-timeout",
        &within,
    ])?;
    let (started, mut on) = (Instant::now(), None);
    let code = loop {
        for (node, text) in site.wanted()? {
            let text = if in_image { join(&text)? } else { text };
            let power_on = site.make(&node, &text, &setup)?;
            if node == WORKER {
                on = Some(power_on);
            }
        }
        if let Some(code) = going.ended()? {
            break code;
        }
        ensure!(
            started.elapsed() < WITHIN + LONG,
            "no end\n{}{}",
            going.said(),
            site.consoles()
        );
        std::thread::sleep(AGAIN);
    };
    ensure!(code == 0, "`up` ended with {code}\n{}{}", going.said(), site.consoles());
    let on = on.context("no user-data for the worker")?;

    let mut milestones = from_journal(&site.run(WORKER, JOURNAL)?, on);
    let status = site.cluster.status()?;
    let nodes = status["status"]["nodes"].as_array().context("no nodes")?;
    let worker = nodes.iter().find(|n| n["name"] == WORKER).context("no worker")?;
    for phase in worker["report"]["phases"].as_array().context("no phases")? {
        let milestone = match phase["phase"].as_str() {
            Some("agent") => "agent",
            Some("enrol") => "enrolled",
            Some("environment") => "environment",
            Some("firewall") => "firewall",
            Some("dask") => "registered",
            _ => continue,
        };
        if milestone == "agent" {
            milestones.insert("agent started", since(&phase["started"], on)?);
        }
        if milestone == "registered" {
            milestones.insert("dask started", since(&phase["started"], on)?);
        }
        milestones.insert(milestone, since(&phase["ended"], on)?);
    }
    ensure!(milestones.contains_key("registered"), "{worker:#}");
    Ok(milestones)
}

fn since(at: &Value, on: Timestamp) -> Result<f64> {
    let at = at.as_u64().with_context(|| format!("{at} is no time"))?;
    Ok((at as f64 - on.0 as f64) / 1000.0)
}

/// All that this boot told, with times in seconds since the epoch.
const JOURNAL: &str = "journalctl -b -o short-unix --no-pager";

/// What the boot told before there was an agent to report.
fn from_journal(journal: &str, on: Timestamp) -> Milestones {
    let mut milestones = Milestones::new();
    for (milestone, text) in [
        ("kernel", "Linux version"),
        ("systemd", "Queued start job"),
        ("network", "Reached target network.target"),
        ("user-data", "'modules:final'"),
        ("downloaded", "the agent is as it should be"),
    ] {
        if let Some(at) = first(journal, text) {
            milestones.insert(milestone, at - on.0 as f64 / 1000.0);
        }
    }
    milestones
}

/// When the journal first has a line with this text; seconds since the epoch.
fn first(journal: &str, text: &str) -> Option<f64> {
    let line = journal.lines().find(|l| l.contains(text))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The join configuration in a script, as a provider gives it to a baked image.
fn join(script: &str) -> Result<String> {
    let mut lines = script.lines().map(str::trim).skip_while(|l| *l != JOIN_BEGIN).skip(1);
    let line = lines.next().context("no join configuration")?;
    ensure!(lines.next() == Some(JOIN_END), "no end of the join configuration");
    Ok(format!("{line}\n"))
}

/// The laptop's packages under the image's own interpreter.
fn bake_environment(cluster: &Cluster) -> Result<PathBuf> {
    let folder = cluster.laptop.home.path().join("baked-environment");
    let venv = cluster.laptop.home.path().join("venv");
    let library = std::fs::read_dir(venv.join("lib"))?
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with("python3."))
        .context("the laptop's environment has no library")?;
    let version = library.file_name();
    let to = folder.join("lib").join(&version);
    std::fs::create_dir_all(folder.join("bin"))?;
    std::fs::create_dir_all(&to)?;
    // An installer may have linked them into its cache.
    copy(&library.path().join("site-packages"), &to.join("site-packages"))?;
    // An image has been used once: nothing is to be compiled at the first start.
    let compiled = Command::new(cluster.laptop.python())
        .args(["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"])
        .arg(&to)
        .status()?;
    ensure!(compiled.success(), "compileall");
    let python = Path::new("/usr/bin").join(&version);
    std::os::unix::fs::symlink(python, folder.join("bin/python"))?;
    std::fs::write(
        folder.join("pyvenv.cfg"),
        "home = /usr/bin\ninclude-system-site-packages = false\n",
    )?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-aLT").arg(from).arg(to).status()?;
    ensure!(done.success(), "cannot copy {}", from.display());
    Ok(())
}

/// A unit that starts Dask, and nothing more.
fn bake_unit(cluster: &Cluster, name: &str, arguments: &str) -> Result<PathBuf> {
    let tree = cluster.laptop.home.path().join(name);
    let units = tree.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    std::fs::create_dir_all(&wants)?;
    let unit = format!(
        "[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Service]\nExecStart={ENVIRONMENT}/bin/python -m {arguments}\n\
         WorkingDirectory=/tmp\nRestart=always\nRestartSec=200ms\nStandardError=journal+console\n"
    );
    std::fs::write(units.join("floor.service"), unit)?;
    std::os::unix::fs::symlink("../floor.service", wants.join("floor.service"))?;
    Ok(tree)
}

fn floor(mut site: Site) -> Result<Milestones> {
    let folders = vec![(bake_environment(&site.cluster)?, ENVIRONMENT.into())];
    let scheduler = site.cluster.address(SCHEDULER)?;
    let of_scheduler = format!("distributed.cli.dask_scheduler --host tcp://{scheduler} --port 8786");
    let of_worker = format!("distributed.cli.dask_worker tcp://{scheduler}:8786 --no-dashboard");
    let mut on = Timestamp::now();
    for (node, arguments) in [(SCHEDULER, of_scheduler), (WORKER, of_worker)] {
        let setup = Setup {
            folders: folders.clone(),
            trees: vec![bake_unit(&site.cluster, node, &arguments)?],
            ..Setup::default()
        };
        on = site.make(node, "#cloud-config\n{}\n", &setup)?;
    }
    let started = Instant::now();
    while !site.console(WORKER)?.contains(REGISTERED) {
        ensure!(started.elapsed() < WITHIN, "no end\n{}", site.consoles());
        std::thread::sleep(AGAIN);
    }
    let journal = site.run(WORKER, JOURNAL)?;
    let mut milestones = from_journal(&journal, on);
    let at = first(&journal, REGISTERED).context("it is not in the journal")?;
    milestones.insert("registered", at - on.0 as f64 / 1000.0);
    Ok(milestones)
}
