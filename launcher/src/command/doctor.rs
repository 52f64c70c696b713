//! `herdsman doctor`: why something is slow, stuck or out of reach.

use std::time::{Duration, Instant};

use herdsman_wire::api::VersionReply;
use herdsman_wire::report::{ClusterStatus, FirewallState, NodeState};
use herdsman_wire::{Code, Timestamp};
use serde_json::json;

use super::cli::{DoctorArgs, Output};
use super::context::{Session, Wish};
use crate::cluster;
use crate::environment;
use crate::link::SOON;
use crate::ui::{Error, Exit, seconds};

/// A finding: fine or not, what, and what to try.
struct Finding {
    fine: bool,
    what: String,
    hint: Option<String>,
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    status: Option<ClusterStatus>,
}

impl Report {
    fn fine(&mut self, what: impl Into<String>) {
        self.findings.push(Finding {
            fine: true,
            what: what.into(),
            hint: None,
        });
    }

    fn bad(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding {
            fine: false,
            what: what.into(),
            hint: Some(hint.into()).filter(|h: &String| !h.is_empty()),
        });
    }

    fn error(&mut self, what: &str, e: &Error) {
        let mut lines = e.message.lines();
        let first = lines.next().unwrap_or_default();
        self.bad(format!("{what}: {first}"), e.hint.join("\n"));
    }
}

pub(super) async fn run(session: &Session, args: &DoctorArgs) -> Result<u8, Error> {
    let mut report = Report::default();
    computer(session, &mut report);
    if let Some(name) = &args.name {
        cluster(session, name, &mut report).await;
    }
    if let Some(path) = &args.bundle {
        bundle(session, args, &report, path).await?;
    }
    let printer = &session.printer;
    let bad = report.findings.iter().filter(|f| !f.fine).count();
    if printer.output() == Output::Json {
        let list: Vec<_> = report
            .findings
            .iter()
            .map(|f| json!({"ok": f.fine, "what": f.what, "try": f.hint}))
            .collect();
        printer.json(&json!({"findings": list}))?;
    } else {
        for f in &report.findings {
            let mark = if f.fine { "✓" } else { "✗" };
            printer.text(&format!("{mark} {}\n", f.what))?;
            for line in f.hint.iter().flat_map(|h| h.lines()) {
                printer.text(&format!("  try: {line}\n"))?;
            }
        }
    }
    Ok(if bad == 0 { Exit::Done } else { Exit::Failed } as u8)
}

fn computer(session: &Session, report: &mut Report) {
    match session.agent() {
        Ok(path) => report.fine(format!("agent at {}", path.display())),
        Err(e) => report.error("agent", &e),
    }
    match session.store() {
        Ok(store) => report.fine(format!("state folder {} can be written", store.folder().display())),
        Err(e) => report.error("state folder", &e),
    }
    let found = session.cwd().and_then(|cwd| {
        let python = environment::find_interpreter(&cwd, &environment::interpreter::variables(), None)
            .map_err(herdsman_wire::ApiError::from)?;
        let versions = environment::installed_versions(&python).map_err(herdsman_wire::ApiError::from)?;
        Ok((python, versions))
    });
    match found {
        Ok((python, v)) => report.fine(format!(
            "python {} with dask {} and distributed {} ({})",
            v.python, v.dask, v.distributed, python.reason
        )),
        Err(e) => report.error("python", &e),
    }
}

async fn cluster(session: &Session, name: &herdsman_wire::ClusterName, report: &mut Report) {
    let ctx = match session.find(Some(name), Wish::Look).await {
        Ok((ctx, _)) => ctx,
        Err(e) => return report.error("settings", &e),
    };
    match ctx.provider.list(Some(name)).await {
        Ok(machines) => {
            let runs = machines.iter().filter(|m| m.running).count();
            let what = format!("{} says {runs} of {} machines run", ctx.provider.name(), machines.len());
            if runs == machines.len() && runs > 0 {
                report.fine(what);
            } else {
                report.bad(what, format!("herdsman down {name}     deletes what is left"));
            }
        }
        Err(e) => report.error("provider", &e.into()),
    }
    let access = match cluster::open(&ctx, name).await {
        Ok(access) => access,
        Err(e) => return report.error("access", &e.into()),
    };
    let started = Instant::now();
    let version: VersionReply = match access.link.get("/v1/version", SOON).await {
        Ok(v) => v,
        Err(e) => {
            let shut_out = matches!(e.code, Code::Unreachable | Code::Deadline);
            report.error("hub", &e.into());
            if shut_out && ctx.provider.name() != "local" {
                moved(access.record.agent, report);
            }
            return;
        }
    };
    report.fine(format!("the hub answers in {}", seconds(started.elapsed())));
    let now = Timestamp::now();
    let apart = now.since(version.now).max(version.now.since(now));
    if apart > Duration::from_secs(30) {
        report.bad(
            format!("the clocks differ by {}", seconds(apart)),
            "timedatectl set-ntp true     on the machine whose clock is wrong",
        );
    } else {
        report.fine("the clocks agree");
    }
    match access.link.get::<ClusterStatus>("/v1/status", SOON).await {
        Ok(status) => {
            nodes(name, &status, report);
            firewall(name, &status, report);
            incidents(&status, report);
            report.status = Some(status);
        }
        Err(e) => report.error("status", &e.into()),
    }
    match access.link.tunnel("scheduler").await {
        Ok(_) => report.fine("Dask's scheduler answers through the hub"),
        Err(e) => report.error("scheduler", &e.into()),
    }
    if let Some(address) = access.record.scheduler {
        let direct = tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await;
        match direct {
            Ok(Ok(_)) => report.fine(format!("Dask's scheduler is reached at {address}")),
            _ => report.bad(
                format!("Dask's scheduler is not reached at {address} from here"),
                format!("herdsman connect {name}     reaches it through the hub"),
            ),
        }
    }
}

/// A hub that does not answer at all may have closed its port to us, because our
/// address is another one than it was. Nobody outside can tell.
fn moved(agent: Option<std::net::SocketAddr>, report: &mut Report) {
    let own = cluster::own_address::towards(agent.map(|a| a.ip()));
    let own = own.map_or_else(|| "ADDRESS".to_owned(), |a| a.to_string());
    report.bad(
        "the scheduler's machine may not let in this computer's present address",
        format!(
            "herdsman-agent firewall --allow {own}     as root on the scheduler's machine; behind a NAT the \
             address that it has outside\n\
             the same command with --proxy-command \"ssh -W %h:%p HOST\", where HOST is let in"
        ),
    );
}

fn firewall(name: &herdsman_wire::ClusterName, status: &ClusterStatus, report: &mut Report) {
    let scheduler = status.nodes.iter().find(|n| n.role == herdsman_wire::Role::Scheduler);
    let Some((scheduler, you)) = scheduler.zip(status.you) else {
        return;
    };
    for node in &status.nodes {
        if let (FirewallState::Failed, Some(why)) = (node.report.firewall.state, &node.report.firewall.why) {
            report.bad(
                format!("{}: firewall: {why}", node.name),
                format!("herdsman logs {name} {}", node.name),
            );
        }
    }
    if scheduler.report.firewall.state != FirewallState::On {
        return;
    }
    let allowed = super::allow::listed(&status.allowed);
    if status.allowed.iter().any(|n| n.contains(&you)) {
        report.fine(format!(
            "the firewall lets in {allowed}; this computer comes from {you}"
        ));
    } else if you.is_loopback() || Some(you) == scheduler.address {
        report.fine(format!(
            "the firewall lets in {allowed}; this computer comes through the scheduler's own machine"
        ));
    } else {
        report.bad(
            format!("the firewall lets in {allowed}, and this computer comes from {you}"),
            format!("herdsman allow {name}     lets it in for Dask's own connections too"),
        );
    }
}

fn nodes(name: &herdsman_wire::ClusterName, status: &ClusterStatus, report: &mut Report) {
    for node in &status.nodes {
        let phase = node.report.phases.iter().find_map(|p| p.error.as_ref());
        let h = &node.report.health;
        for e in &node.report.troubles {
            let named = e.hint.join("\n").replace("NAME NODE", &format!("{name} {}", node.name));
            report.bad(format!("{}: {e}", node.name), named);
        }
        match (node.state, phase) {
            // Told above.
            (NodeState::Ready, _) if !node.report.troubles.is_empty() => {}
            (NodeState::Ready, _) if h.disk_total > 0 && h.disk_free < h.disk_total / 50 => report.bad(
                format!("{}: the disk is nearly full", node.name),
                "free space, or make the disk larger",
            ),
            (NodeState::Ready, _) if node.report.dask.restarts > 3 => report.bad(
                format!(
                    "{}: Dask was started anew {} times",
                    node.name, node.report.dask.restarts
                ),
                format!("herdsman logs {name} {} --dask", node.name),
            ),
            (NodeState::Ready, _) if node.report.dask.out_of_memory > 0 => report.bad(
                format!(
                    "{}: the kernel ended {} processes of Dask for lack of memory",
                    node.name, node.report.dask.out_of_memory
                ),
                "give workers more memory, or let fewer or smaller tasks run on each at once",
            ),
            (NodeState::Ready, _) => report.fine(format!("{} is ready", node.name)),
            (state, Some(e)) => report.bad(
                format!(
                    "{} is {}: {}",
                    node.name,
                    format!("{state:?}").to_lowercase(),
                    e.message
                ),
                e.hint.join("\n"),
            ),
            (state, None) => {
                // Of a node that was never heard of, its machine's console is all there is.
                let boot = if state == NodeState::Expected { " --boot" } else { "" };
                report.bad(
                    format!("{} is {}", node.name, format!("{state:?}").to_lowercase()),
                    format!("herdsman logs {name} {}{boot}", node.name),
                );
            }
        }
    }
}

/// Misused certificates; of a node that is gone they are history.
fn incidents(status: &ClusterStatus, report: &mut Report) {
    for incident in status.incidents.iter().rev() {
        let what = super::incidents::sentence(incident);
        if super::incidents::is_open(status, incident) {
            report.bad(what, super::incidents::hint(status, incident));
        } else {
            report.fine(format!("refused, and the node is removed: {what}"));
        }
    }
}

/// Everything that helps others to help, without secrets: findings, status, and
/// the newest log lines of each node.
async fn bundle(session: &Session, args: &DoctorArgs, report: &Report, path: &std::path::Path) -> Result<(), Error> {
    let mut text = format!(
        "herdsman {} doctor at {}\n",
        env!("CARGO_PKG_VERSION"),
        crate::ui::iso(Timestamp::now())
    );
    for f in &report.findings {
        text += &format!("{} {}\n", if f.fine { "ok " } else { "BAD" }, f.what);
    }
    if let Some(status) = &report.status {
        let json = serde_json::to_string_pretty(status).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
        text += &format!("\nstatus:\n{json}\n");
        if let Ok((_, access)) = session.open(args.name.as_ref()).await {
            for node in &status.nodes {
                text += &format!("\nlog of {}:\n", node.name);
                for line in cluster::tail_of(&access.link, &node.name, 200)
                    .await
                    .unwrap_or_default()
                {
                    text += &format!("{} {:?}: {}\n", crate::ui::iso(line.t), line.source, line.text);
                }
            }
        }
    }
    std::fs::write(path, text).map_err(|e| Error::new(Code::Disk, format!("cannot write {}: {e}", path.display())))?;
    session
        .printer
        .note(&format!("written to {}; read it before you send it on", path.display()));
    Ok(())
}
