//! `up` is killed, as by a crash of the laptop: nothing is told to anybody.

use std::io::BufRead as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::Home;

use super::computes;

/// When the blow falls.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Millis(u64),
    /// With the first sign of a worker.
    Worker,
}

/// 50 ms is before the network, 200 ms in the midst of it, 600 ms about when the
/// hub is installed; but nothing depends on that.
const MOMENTS: [Moment; 5] = [
    Moment::Millis(50),
    Moment::Millis(200),
    Moment::Millis(600),
    Moment::Millis(1200),
    Moment::Worker,
];

/// What the network of clusters is called, of those that left a trace here.
fn networks(home: &Home) -> Vec<String> {
    let all = std::fs::read_dir(home.path().join("s/local")).into_iter().flatten();
    let names = all.flatten().filter_map(|e| e.file_name().into_string().ok());
    names.map(|id| format!("hm-{id}")).collect()
}

/// Neither they nor anything in them is left, tries of whether they work included.
fn assert_no_network(networks: &[String]) -> Result<()> {
    let all = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = all
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| networks.iter().any(|w| n.starts_with(w)))
        .collect();
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    Ok(())
}

/// Starts `up` and kills it at that moment.
fn killed(home: &Home, name: &str, moment: Moment) -> Result<()> {
    let mut child: Child = home
        .command(&["up", name, "--workers", "1", "--events", "jsonl"])?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    match moment {
        Moment::Millis(n) => std::thread::sleep(Duration::from_millis(n)),
        Moment::Worker => {
            let events = std::io::BufReader::new(child.stderr.take().context("no events")?);
            let wanted = format!("\"node\":\"{name}-w0\",\"phase\":\"enrol\"");
            for line in events.lines() {
                if line?.contains(&wanted) {
                    break;
                }
            }
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[test]
fn the_next_up_finishes_or_repeats_what_a_killed_one_began() -> Result<()> {
    let home = Home::new()?;
    for moment in MOMENTS {
        killed(&home, "bhkup", moment)?;
        let first = networks(&home);
        let up = home.json(&["up", "bhkup", "--workers", "1"]);
        let up = up.with_context(|| format!("after {moment:?}"))?;
        ensure!(up["workers"]["ready"] == 1, "{moment:?}: {up}");
        // Not beside what the first one made.
        let nodes = home.json(&["status"])?["status"]["nodes"]
            .as_array()
            .map_or(0, Vec::len);
        let agents = home.processes().iter().filter(|(_, l)| l.contains(" run ")).count();
        ensure!((nodes, agents) == (2, 2), "{moment:?}: {nodes} nodes, {agents} agents");
        computes(&home, "bhkup")?;
        let both = [first, networks(&home)].concat();
        home.ok(&["down", "bhkup"])?;
        home.assert_clean().with_context(|| format!("{moment:?}"))?;
        assert_no_network(&both).with_context(|| format!("{moment:?}"))?;
    }
    Ok(())
}

#[test]
fn down_leaves_nothing_of_what_a_killed_up_began() -> Result<()> {
    let home = Home::new()?;
    for moment in MOMENTS {
        killed(&home, "bhkdown", moment)?;
        let first = networks(&home);
        let ran = home.run(&["down", "bhkdown"])?;
        // The first blow may fall before anything was written down.
        let early = ran.code == 3 && matches!(moment, Moment::Millis(50));
        ensure!(ran.code == 0 || early, "{moment:?}: {ran:?}");
        home.assert_clean().with_context(|| format!("{moment:?}"))?;
        assert_no_network(&first).with_context(|| format!("{moment:?}"))?;
        ensure!(home.json(&["ls"])?["clusters"] == serde_json::json!([]));
    }
    Ok(())
}
