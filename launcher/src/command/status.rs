//! `herdsman status`.

use std::time::Duration;

use herdsman_wire::report::{
    ClusterStatus, DaskHealth, Dropped, FirewallState, NodeStatus, Notice, NoticeKind, PhaseStatus,
};
use herdsman_wire::{Code, Timestamp};
use serde_json::json;

use super::cli::{Output, StatusArgs};
use super::context::Session;
use super::signals::interruptible;
use crate::cluster::Access;
use crate::link::SOON;
use crate::state::{Record, Store};
use crate::ui::{Error, Table, age, bytes, iso, seconds};

/// Longest wait for news.
const NEWS: u64 = 20;

pub(super) async fn run(session: &Session, args: &StatusArgs) -> Result<(), Error> {
    if session.offline() {
        if args.watch {
            return Err(Error::new(
                Code::Usage,
                "--watch needs the network, which --offline rules out",
            ));
        }
        return offline(session, args);
    }
    let (_, access) = session.open(args.name.as_ref()).await?;
    if !args.watch {
        let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
        return show(session, &access.record, &status);
    }
    interruptible(watch(session, &access)).await
}

/// Only what this computer remembers: no provider, no network.
fn offline(session: &Session, args: &StatusArgs) -> Result<(), Error> {
    let store: Store = session.store()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => match store.names()?.as_slice() {
            [one] => one.clone(),
            _ => return Err(Error::new(Code::Usage, "name the cluster")),
        },
    };
    let record = store
        .load(&name)?
        .ok_or_else(|| Error::new(Code::NotFound, format!("nothing is remembered of `{name}`")))?;
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer.json(&record);
    }
    let since = age(Timestamp::now().since(record.created));
    printer.data(&format!(
        "{} on {}, made {since} ago; {}\n",
        record.cluster.name,
        record.provider,
        record.stage.as_str()
    ))
}

async fn watch(session: &Session, access: &Access) -> Result<(), Error> {
    loop {
        let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
        show(session, &access.record, &status)?;
        let path = format!("/v1/events?after={}&wait={NEWS}", status.events);
        let _: Vec<herdsman_wire::report::Event> = access.link.get(&path, SOON + Duration::from_secs(NEWS)).await?;
    }
}

fn show(session: &Session, record: &Record, status: &ClusterStatus) -> Result<(), Error> {
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer.json(&json!({
            "status": status,
            "provider": record.provider,
            "scheduler": super::up::scheduler_url(record),
            "ca_fingerprint": format!("sha256:{}", record.fingerprint),
        }));
    }
    printer.text(&text(record, status))
}

fn text(record: &Record, status: &ClusterStatus) -> String {
    let mut out = format!(
        "{} on {}, up for {}, {}\n",
        status.name,
        record.provider,
        age(status.now.since(status.started)),
        super::up::scheduler_url(record).unwrap_or_else(|| status.scheduler_address.clone()),
    );
    let mut table = Table::new(&["NODE", "STATE", "ADDRESS", "CPU", "MEMORY", "TASKS", "DASK", ""]);
    for node in &status.nodes {
        table.row(row(node, status.now));
    }
    out += &table.text();
    if let Some(t) = &status.tasks {
        out += &format!(
            "tasks: {} running, {} waiting, {} in memory, {} failed; {} clients\n",
            t.processing,
            t.waiting + t.queued + t.no_worker,
            t.memory,
            t.erred,
            status.clients
        );
    }
    out += &firewall(status);
    out += &super::incidents::text(status);
    out += &endings(status);
    out
}

/// Who is let in, and how many were kept out. Nothing where there is no packet
/// filter, which is so on nodes that share this computer's network.
fn firewall(status: &ClusterStatus) -> String {
    let reports = || status.nodes.iter().map(|n| (&n.name, &n.report.firewall));
    let mut out = String::new();
    if reports().any(|(_, f)| f.state == FirewallState::On) {
        out += &format!("lets in {}", super::allow::listed(&status.allowed));
        let sum = |of: fn(&Dropped) -> u64| reports().map(|(_, f)| of(&f.dropped)).sum::<u64>();
        let kept: Vec<String> = [
            (sum(|d| d.strangers), "of strangers"),
            (sum(|d| d.too_fast), "that came too fast"),
            (sum(|d| d.too_many), "of sources with too many connections"),
            (sum(|d| d.metadata), "to the metadata service"),
        ]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        if !kept.is_empty() {
            out += &format!("; kept out packets: {}", kept.join(", "));
        }
        out.push('\n');
    }
    for (name, f) in reports() {
        match (f.state, &f.why) {
            (FirewallState::Failed, Some(why)) => out += &format!("{name}: firewall: {why}\n"),
            (FirewallState::On, _) if f.repaired > 0 => {
                out += &format!(
                    "{name}: the firewall was taken away {} times and put back\n",
                    f.repaired
                );
            }
            _ => {}
        }
    }
    out
}

fn row(node: &NodeStatus, now: Timestamp) -> [String; 8] {
    let h = &node.report.health;
    let d = &node.report.dask;
    let heard = h.memory_total > 0;
    let used = h.memory_total.saturating_sub(h.memory_available);
    let trouble = node
        .report
        .phases
        .iter()
        .find(|p| p.status == PhaseStatus::Failed)
        .and_then(|p| p.error.as_ref())
        .map(|e| e.message.lines().next().unwrap_or_default().to_owned())
        .or_else(|| node.report.troubles.first().map(ToString::to_string));
    let dask = match (d.state.as_str(), d.restarts) {
        ("", _) => String::new(),
        (state, 0) => state.to_owned(),
        (state, n) => format!("{state}, {n} restarts"),
    };
    let silent = node.seen.map(|s| now.since(s)).filter(|s| *s > Duration::from_secs(15));
    [
        node.name.to_string(),
        format!("{:?}", node.state).to_lowercase(),
        node.address.map_or_else(String::new, |a| a.to_string()),
        if heard {
            format!("{:.0}%", h.cpu_percent)
        } else {
            String::new()
        },
        if heard {
            format!("{} of {}", bytes(used), bytes(h.memory_total))
        } else {
            String::new()
        },
        d.executing.map_or_else(String::new, |n| n.to_string()),
        dask,
        trouble
            .or_else(|| node.report.notice.as_ref().map(announced))
            .or_else(|| silent.map(|s| format!("silent for {}", seconds(s))))
            .or_else(|| out_of_memory(d))
            .unwrap_or_default(),
    ]
}

/// What the kernel took from Dask, which a nanny starts anew and does not tell.
fn out_of_memory(dask: &DaskHealth) -> Option<String> {
    let n = Some(dask.out_of_memory).filter(|n| *n > 0)?;
    Some(format!("out of memory: {n} killed"))
}

/// What the node's cloud announced.
fn announced(notice: &Notice) -> String {
    match notice.kind {
        NoticeKind::Preempted => format!("preempted: {}", notice.text),
        NoticeKind::Warning => notice.text.clone(),
    }
}

/// What will end the cluster, and when.
fn endings(status: &ClusterStatus) -> String {
    let e = &status.ending;
    if let Some(why) = &e.ending {
        return format!("it is ending: {why}\n");
    }
    let mut out = String::new();
    match (e.idle_seconds, e.idle_ends) {
        (Some(limit), Some(end)) => {
            let left = end.since(status.now);
            out += &format!(
                "idle; ends by itself in {} (after {} without a task)\n",
                seconds(left),
                seconds(Duration::from_secs(limit))
            );
        }
        (Some(limit), None) => {
            out += &format!(
                "ends by itself {} after the last task\n",
                seconds(Duration::from_secs(limit))
            );
        }
        (None, _) => out += "never ends for being idle\n",
    }
    match e.lifetime_ends {
        Some(end) => {
            out += &format!(
                "ends at {} at the latest, in {}; `herdsman extend {} 2h` puts it off\n",
                iso(end),
                seconds(end.since(status.now)),
                status.name
            );
        }
        None => out += "no end of life is set\n",
    }
    let authority = status.authority_until.since(status.now);
    if authority < Duration::from_secs(24 * 3600) {
        out += &format!(
            "its certificates end in {}; it cannot live longer\n",
            seconds(authority)
        );
    }
    out
}
