//! `herdsman logs`: of all nodes, in the order of time.

use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, LogLine, LogSource};
use herdsman_wire::session::{LogQuery, StreamRequest};
use herdsman_wire::{Code, NodeName, Role, Timestamp};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use super::cli::{LogsArgs, Output};
use super::context::{Session, Wish};
use super::signals::interruptible;
use crate::cluster::Access;
use crate::link::SOON;
use crate::ui::{Error, clean, iso};

/// Without a new line for this long, what a node keeps has been read.
const WHOLE: Duration = Duration::from_secs(20);

pub(super) async fn run(session: &Session, args: &LogsArgs) -> Result<(), Error> {
    if args.boot {
        return boot(session, args).await;
    }
    let (_, access) = session.open(args.name.as_ref()).await?;
    let nodes = nodes(&access, args).await?;
    let mut sources = Vec::new();
    if args.dask {
        sources.push(LogSource::Dask);
    }
    if args.agent {
        sources.push(LogSource::Agent);
    }
    let query = LogQuery {
        since: args.since.map(|p| Timestamp::now().minus(p.get()).0),
        follow: args.follow,
        tail: args.tail,
        sources,
    };
    let (tx, rx) = mpsc::channel(1024);
    for node in nodes {
        let (access, query, tx) = (access.link.clone(), query.clone(), tx.clone());
        tokio::spawn(async move {
            let end = read(&access, &node, query, &tx).await;
            if let Err(e) = end {
                let _ = tx.send(Err((node, e))).await;
            }
        });
    }
    drop(tx);
    if args.follow {
        interruptible(follow(session, args, rx)).await
    } else {
        merge(session, args, rx).await
    }
}

async fn nodes(access: &Access, args: &LogsArgs) -> Result<Vec<NodeName>, Error> {
    if let Some(node) = &args.node {
        return Ok(vec![node.clone()]);
    }
    let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
    let wanted = |role| match role {
        Role::Scheduler => !args.worker,
        Role::Worker => !args.scheduler,
    };
    Ok(status
        .nodes
        .into_iter()
        .filter(|n| n.seen.is_some() && wanted(n.role))
        .map(|n| n.name)
        .collect())
}

type Item = Result<LogLine, (NodeName, herdsman_wire::ApiError)>;

async fn read(
    link: &crate::link::Link,
    node: &NodeName,
    query: LogQuery,
    tx: &mpsc::Sender<Item>,
) -> Result<(), herdsman_wire::ApiError> {
    let follow = query.follow;
    let io = link.node_stream(node, &StreamRequest::Logs(query)).await?;
    let mut lines = BufReader::new(io).lines();
    loop {
        let next = if follow {
            lines.next_line().await
        } else {
            tokio::time::timeout(WHOLE, lines.next_line()).await.unwrap_or(Ok(None))
        };
        let Ok(Some(text)) = next else { return Ok(()) };
        let Ok(line) = serde_json::from_str(&text) else {
            continue;
        };
        if tx.send(Ok(line)).await.is_err() {
            return Ok(());
        }
    }
}

async fn merge(session: &Session, args: &LogsArgs, mut rx: mpsc::Receiver<Item>) -> Result<(), Error> {
    let mut lines = Vec::new();
    let mut error = None;
    while let Some(item) = rx.recv().await {
        match item {
            Ok(line) => lines.push(line),
            Err((node, e)) => error = Some((node, e)),
        }
    }
    lines.sort_by_key(|l| l.t);
    for line in &lines {
        print(session, args, line)?;
    }
    match error {
        Some((_, e)) if lines.is_empty() => Err(e.into()),
        Some((node, e)) => {
            session.printer.warn(&format!("{node}: {}", e.message));
            Ok(())
        }
        None => Ok(()),
    }
}

async fn follow(session: &Session, args: &LogsArgs, mut rx: mpsc::Receiver<Item>) -> Result<(), Error> {
    while let Some(item) = rx.recv().await {
        match item {
            Ok(line) => print(session, args, &line)?,
            Err((node, e)) => session.printer.warn(&format!("{node}: {}", e.message)),
        }
    }
    Err(Error::new(Code::Unreachable, "the connection to the cluster ended"))
}

fn print(session: &Session, args: &LogsArgs, line: &LogLine) -> Result<(), Error> {
    if args.grep.as_ref().is_some_and(|g| !line.text.contains(g.as_str())) {
        return Ok(());
    }
    if session.printer.output() == Output::Json {
        let text = serde_json::to_string(line).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
        return session.printer.data(&format!("{text}\n"));
    }
    let source = match line.source {
        LogSource::Agent => "agent",
        LogSource::Dask => "dask",
        LogSource::Boot => "boot",
    };
    session.printer.text(&format!(
        "{} {} {source}: {}\n",
        iso(line.t),
        line.node,
        clean(&line.text)
    ))
}

async fn boot(session: &Session, args: &LogsArgs) -> Result<(), Error> {
    let (ctx, name) = session.find(args.name.as_ref(), Wish::Look).await?;
    let machines = ctx.provider.list(Some(&name)).await?;
    let wanted = machines
        .iter()
        .filter(|m| args.node.as_ref().is_none_or(|n| *n == m.node))
        .filter(|m| match m.role {
            Role::Scheduler => !args.worker,
            Role::Worker => !args.scheduler,
        });
    let mut any = false;
    for machine in wanted {
        any = true;
        let text = ctx.provider.console(machine).await?;
        for line in text.lines() {
            if session.printer.output() == Output::Json {
                let line = serde_json::json!({"node": machine.node, "source": "boot", "text": line});
                session.printer.data(&format!("{line}\n"))?;
                continue;
            }
            let line = clean(line);
            session.printer.text(&format!("{} boot: {line}\n", machine.node))?;
        }
    }
    if any {
        Ok(())
    } else {
        Err(Error::new(Code::NotFound, format!("no such machine in `{name}`")))
    }
}
