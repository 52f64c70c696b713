//! A worker whose cable is pulled in the middle of a computation, and put back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herdsman_tests::machines::cluster::SCHEDULER;
use herdsman_tests::machines::{Cluster, is_complete};

use super::blows::{Computation, all_ready, identities, is_whole, node, wait_for_status};

/// How long a worker is cut off; in the complete suite for longer than it takes Dask
/// to miss it, which is 30 seconds.
const SHORT_CUT: Duration = Duration::from_secs(12);
const LONG_CUT: Duration = Duration::from_secs(60);
pub(super) fn blow(cluster: &Cluster) -> Result<()> {
    if is_complete() {
        for_long(cluster)
    } else {
        for_short(cluster)
    }
}

/// One worker is cut off and let back, so soon that its connections live on. Meanwhile
/// another one reboots, so that a computation has lost two of its three workers for a
/// while.
fn for_short(cluster: &Cluster) -> Result<()> {
    let before = identities(&is_whole(cluster)?, &["demo-w0"]);
    let mut computation = Computation::start(cluster, "cut", 3)?;
    let cut = cluster.machine("demo-w1")?;
    cut.cut()?;
    let since = Instant::now();
    // Nor is it over before the cable is back: some results are there only.
    computation.still_goes_on()?;
    cluster.machine("demo-w0")?.reboot()?;
    std::thread::sleep(SHORT_CUT.saturating_sub(since.elapsed()));
    cut.mend()?;
    computation.ends_right()?;
    let after = identities(&is_whole(cluster)?, &[]);
    ensure!(before == after, "{before:?}\n{after:?}");
    Ok(())
}

/// The same for so long that the worker is missed, and what it had is computed by
/// others.
fn for_long(cluster: &Cluster) -> Result<()> {
    let before = identities(&is_whole(cluster)?, &["demo-w0"]);
    let mut first = Computation::start(cluster, "cut", 3)?;
    let cut = cluster.machine("demo-w1")?;
    cut.cut()?;
    let since = Instant::now();
    first.still_goes_on()?;
    let rest = [SCHEDULER, "demo-w0", "demo-w2"];
    wait_for_status(cluster, "the node is missed", |s| {
        all_ready(s, &rest) && node(s, "demo-w1")["state"] != "ready"
    })?;
    first.ends_right()?;
    let mut second = Computation::start(cluster, "reboot", 2)?;
    cluster.machine("demo-w0")?.reboot()?;
    second.still_goes_on()?;
    second.ends_right()?;
    wait_for_status(cluster, "the node is back", |s| all_ready(s, &rest))?;
    std::thread::sleep(LONG_CUT.saturating_sub(since.elapsed()));
    cut.mend()?;
    let after = identities(&is_whole(cluster)?, &[]);
    ensure!(before == after, "{before:?}\n{after:?}");
    Ok(())
}
