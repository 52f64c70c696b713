//! Where a machine finds what it is to become, and what its cloud tells it later:
//! every source against a service that answers as its vendor documents it.

mod machine;
mod notices;
mod seeds;
mod services;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use herdsman::pki::{self, Roots};
use herdsman::provider::ClusterRef;
use herdsman_agent::source::machine::Host;
use herdsman_agent::source::metadata::{Metadata, Pace};
use herdsman_wire::{NodeName, Role, Timestamp, limits};

/// Fast enough for a test with many cases, slow enough for a busy machine.
const PACE: Pace = Pace {
    request: Duration::from_secs(5),
    overall: Duration::from_secs(60),
    pause: Duration::from_millis(5),
    longest: Duration::from_millis(50),
};

/// A join configuration for a worker of a cluster that nobody runs.
fn join(name: &str) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let now = Timestamp::now();
    let cluster = ClusterRef {
        name: "demo".parse()?,
        id: pki::new_cluster_id()?,
    };
    let roots = Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE)?;
    let name: NodeName = name.parse()?;
    let (bootstrap, _) = roots.bootstrap(Role::Worker, &name, now, limits::BOOTSTRAP_LIFE)?;
    let hub: SocketAddr = "127.0.0.1:1".parse()?;
    let path = herdsman_tests::attack::join(
        &cluster,
        &roots,
        dir.path(),
        &name,
        Role::Worker,
        (Some(hub), hub),
        bootstrap,
    )?;
    Ok(std::fs::read_to_string(path)?)
}

/// User-data as a stock image runs it.
fn script(join: &str) -> String {
    format!(
        "#!/bin/sh\nset -eu\numask 077\nmkdir -p /var/lib/herdsman\ncat >/var/lib/herdsman/join.json <<'EOF'\n\
         #HERDSMAN-JOIN-BEGIN\n{join}\n#HERDSMAN-JOIN-END\nEOF\n"
    )
}

fn host(root: &Path, service: SocketAddr, pace: Pace) -> Host {
    Host::new(root.to_owned(), Metadata::new(vec![service], pace), pace)
}
