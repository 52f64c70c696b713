//! `herdsman attend`: the companion of a program that uses a cluster.
//!
//! One JSON object a line on stdout, `kind` says what it is:
//!
//! * `open`, first: how the cluster is reached and with which files;
//! * `status`: the hub's, whenever something has happened, and at least every
//!   [`STATUS`];
//! * `event`: what happened, each once;
//! * `renewed`: the files hold new certificates;
//! * `trouble`: the hub does not answer; it is asked again;
//! * `gone`: this computer knows no such cluster any more.
//!
//! It ends when its standard input does, so that it never outlives who started it.

use std::time::Duration;

use herdsman_wire::report::{ClusterStatus, Event, NodeState, Versions};
use herdsman_wire::{ApiError, Code, Role, Timestamp};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::cli::AttendArgs;
use super::context::Session;
use super::signals::interruptible;
use crate::cluster::{self, Access, Context};
use crate::config::PROGRAM_PROTOCOL;
use crate::link::{Link, SOON, dash, forward};
use crate::ui::Error;

/// Longest time without a status.
const STATUS: Duration = Duration::from_secs(15);
/// Shortest time between two.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is looked whether certificates are due.
const RENEWAL: Duration = Duration::from_secs(60);
/// Pause before a hub that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, args: &AttendArgs) -> Result<(), Error> {
    let (ctx, access) = session.open(args.name.as_ref()).await?;
    let status: ClusterStatus = access.link.get("/v1/status", SOON).await?;
    let work = async {
        tokio::select! {
            result = attend(session, &ctx, access, &status, args) => result,
            () = end_of_input() => Ok(()),
        }
    };
    match interruptible(work).await {
        Err(e) if e.exit.is_interrupted() => Ok(()),
        other => other,
    }
}

/// Who holds the other end is gone, or wants no more.
async fn end_of_input() {
    let mut stdin = tokio::io::stdin();
    let mut rest = [0; 256];
    while !matches!(stdin.read(&mut rest).await, Ok(0) | Err(_)) {}
}

async fn attend(
    session: &Session,
    ctx: &Context,
    access: Access,
    status: &ClusterStatus,
    args: &AttendArgs,
) -> Result<(), Error> {
    let dashboard = listen(args.dashboard_port).await?;
    let scheduler = listen(args.scheduler_port).await?;
    let token = dash::Token::random()?;
    let (dashboard_port, tunnel_port) = (port(&dashboard)?, port(&scheduler)?);
    say(
        session,
        &opened(
            ctx,
            &access,
            status,
            &token.link(dashboard_port),
            dashboard_port,
            tunnel_port,
        )?,
    )?;
    // Tunnels of the future use the certificates of the future.
    let (links, current) = watch::channel(access.link.clone());
    let to = |target: &'static str| {
        let current = current.clone();
        move || {
            let link: Link = current.borrow().clone();
            async move { link.tunnel(target).await }
        }
    };
    let (to_dashboard, to_scheduler) = (to("dashboard"), to("scheduler"));
    tokio::select! {
        result = dash::serve(dashboard, to_dashboard, token) => {
            result.map_err(|e| Error::new(Code::Port, format!("the local port: {e}")))
        }
        () = forward::serve(scheduler, to_scheduler) => Ok(()),
        result = tell(session, current.clone()) => result,
        result = renew(session, ctx, access, &links) => result,
    }
}

/// The port that was asked for, or any.
async fn listen(port: u16) -> Result<TcpListener, ApiError> {
    match forward::listen(port).await {
        Err(_) if port != 0 => forward::listen(0).await,
        other => other,
    }
}

fn port(listener: &TcpListener) -> Result<u16, Error> {
    let address = listener.local_addr();
    Ok(address.map_err(|e| Error::new(Code::Port, e.to_string()))?.port())
}

fn opened(
    ctx: &Context,
    access: &Access,
    status: &ClusterStatus,
    dashboard: &str,
    dashboard_port: u16,
    tunnel_port: u16,
) -> Result<serde_json::Value, Error> {
    let record = &access.record;
    let protocol = if record.insecure { "tcp" } else { "tls" };
    let tunnel = format!("{protocol}://127.0.0.1:{tunnel_port}");
    // Whoever needs a program to carry connections cannot reach the scheduler itself.
    let direct = super::up::scheduler_url(record).filter(|_| ctx.proxy.is_none());
    let files = if record.insecure {
        None
    } else {
        Some(ctx.store.client_files(&record.cluster.name)?)
    };
    Ok(json!({
        "kind": "open",
        "protocol": PROGRAM_PROTOCOL,
        "name": record.cluster.name,
        "id": record.cluster.id,
        "provider": record.provider,
        "scheduler": direct,
        "tunnel": tunnel,
        "tunnel_port": tunnel_port,
        "dashboard": dashboard,
        "dashboard_port": dashboard_port,
        "files": files,
        "own": record.own,
        "tags": record.tags,
        "versions": versions(status),
        "workers_per_node": workers_per_node(status),
    }))
}

/// Those of the nodes' Python, once a node has told.
fn versions(status: &ClusterStatus) -> Option<&Versions> {
    status.nodes.iter().find_map(|n| n.report.dask.versions.as_ref())
}

/// From the names of Dask's workers: `NODE`, or `NODE-0`, `NODE-1` ….
fn workers_per_node(status: &ClusterStatus) -> usize {
    let of = |n: &herdsman_wire::report::NodeStatus| match n.workers.as_slice() {
        [one] if one.name == n.name.as_str() => 1,
        many => many.len(),
    };
    let ready = |n: &&herdsman_wire::report::NodeStatus| n.role == Role::Worker && n.state == NodeState::Ready;
    status.nodes.iter().filter(ready).map(of).max().unwrap_or(1).max(1)
}

fn say(session: &Session, value: &serde_json::Value) -> Result<(), Error> {
    session.printer.data(&format!("{value}\n"))
}

/// Status and events, until stdout is closed.
async fn tell(session: &Session, link: watch::Receiver<Link>) -> Result<(), Error> {
    let mut after = 0;
    loop {
        let link = link.borrow().clone();
        let news = async {
            let status: ClusterStatus = link.get("/v1/status", SOON).await?;
            let path = format!("/v1/events?after={after}&wait=0");
            let events: Vec<Event> = link.get(&path, SOON).await?;
            Ok::<_, ApiError>((status, events))
        };
        let status = match news.await {
            Ok((status, events)) => {
                for event in events {
                    after = after.max(event.seq);
                    say(session, &kind(&event, "event")?)?;
                }
                say(session, &kind(&status, "status")?)?;
                status
            }
            Err(e) => {
                say(session, &json!({"kind": "trouble", "error": e}))?;
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let seen = after.max(status.events);
        tokio::time::sleep(QUIET).await;
        let path = format!("/v1/events?after={seen}&wait={}", STATUS.as_secs());
        if link.get::<Vec<Event>>(&path, SOON + STATUS).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn kind<T: serde::Serialize>(value: &T, kind: &str) -> Result<serde_json::Value, Error> {
    let mut value = serde_json::to_value(value).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".into(), kind.into());
    }
    Ok(value)
}

/// Keeps the certificates on disk and those of the tunnels good, whoever renews them:
/// several programs may attend to one cluster.
async fn renew(session: &Session, ctx: &Context, mut access: Access, links: &watch::Sender<Link>) -> Result<(), Error> {
    let name = access.record.cluster.name.clone();
    let mut every = tokio::time::interval(renewal(&access));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    every.tick().await;
    loop {
        every.tick().await;
        if !ctx.store.load(&name).is_ok_and(|r| r.is_some()) {
            return say(session, &json!({"kind": "gone"}));
        }
        let before = access.keys.client.serial.clone();
        // Opens with what is on disk, which may be newer, and renews it when it is due.
        match cluster::open(ctx, &name).await {
            Ok(now) => access = now,
            Err(e) => {
                say(session, &json!({"kind": "trouble", "error": e}))?;
                continue;
            }
        }
        if access.keys.client.serial != before {
            links.send_replace(access.link.clone());
            say(session, &json!({"kind": "renewed"}))?;
        }
    }
}

/// Often enough for certificates that live for seconds, as in tests.
fn renewal(access: &Access) -> Duration {
    let life = herdsman_wire::pki::facts_of_pem(&access.keys.operator.chain)
        .map_or(Duration::ZERO, |f| f.not_after.since(Timestamp::now()));
    RENEWAL.min(life / 6).max(Duration::from_secs(1))
}
