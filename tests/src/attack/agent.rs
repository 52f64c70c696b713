//! The agent's program with a join configuration of the launcher's making.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use herdsman::bootstrap::{Node, join_configuration};
use herdsman::pki::Roots;
use herdsman::provider::{ClusterRef, Placement};
use herdsman_wire::join::{Bootstrap, Paths};
use herdsman_wire::{NodeName, Role, Timestamp, limits};

use crate::home::program;

/// Writes a join configuration; gives the file.
///
/// # Errors
/// When it cannot be made or written.
pub fn join(
    cluster: &ClusterRef,
    roots: &Roots,
    dir: &Path,
    name: &NodeName,
    role: Role,
    (hub, own): (Option<SocketAddr>, SocketAddr),
    bootstrap: Bootstrap,
) -> Result<PathBuf> {
    let placement = Placement {
        address: Some(own.ip()),
        listen: (role == Role::Scheduler).then_some(own),
        bind: Some(own.ip()),
        paths: Some(Paths {
            state: dir.join("state"),
            run: dir.join("run"),
            environments: dir.join("env"),
        }),
        laptop: None,
    };
    let text = join_configuration(Node {
        cluster,
        name: Some(name),
        role,
        hub,
        placement: &placement,
        roots: &roots.pems,
        bootstrap,
        deadline: Timestamp::now().plus(limits::BOOTSTRAP_LIFE),
        allow: &[],
    })?;
    let path = dir.join("join.json");
    herdsman_agent::files::write_atomic(&path, text.reveal().as_bytes())?;
    Ok(path)
}

/// Starts `herdsman-agent run`.
///
/// # Errors
/// When it was not built.
pub fn agent(join: &Path, console: &Path) -> Result<Child> {
    let out = std::fs::File::create(console)?;
    Ok(Command::new(program("herdsman-agent")?)
        .args(["run", "--config"])
        .arg(join)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?)
}
