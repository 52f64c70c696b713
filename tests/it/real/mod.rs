//! Clusters on real machines: stock Debian with systemd and cloud-init, whose only
//! input is user-data.

mod baked;
mod blows;
mod clock;
mod cut;
mod downloads;
mod full_disk;
mod memory;
mod strangers;

use std::path::Path;

use anyhow::{Result, ensure};
use herdsman_tests::machines::cluster::NAME;
use herdsman_tests::machines::{Cluster, available, probe, scan};

fn cluster() -> Result<Cluster> {
    Cluster::new(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

const SUM: &str = "
from dask.distributed import Client
with Client() as c:
    c.wait_for_workers(3, timeout=60)
    assert str(c.scheduler.address).startswith('tls://'), c.scheduler.address
    print(sum(c.gather(c.map(lambda x: x * x, range(1000)))))
    import os
    print(sorted(set(c.run(os.getuid).values())) != [0])
";

#[test]
fn machines_become_a_closed_cluster_from_user_data_alone() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    cluster.up(3)?;
    ensure!(cluster.compute(SUM)? == "332833500\nTrue\n");
    let (stranger, _) = cluster.network.stranger()?;
    for (node, machine) in &cluster.machines {
        let open = scan(&stranger, machine.address(), probe::ALL)?.open;
        // sshd and resolved's LLMNR are the image's own.
        ensure!(open.iter().all(|port| [22, 5355].contains(port)), "{node}: {open:?}");
    }
    cluster.ok(&["status", NAME])?;
    Ok(())
}
