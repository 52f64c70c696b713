//! Simulated nodes: real keys, real requests and real connections of the agent's
//! own client, without the processes around them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use herdsman_agent::client::HubClient;
use herdsman_agent::frame;
use herdsman_agent::identity::enrol::client;
use herdsman_wire::api::{Enrol, Facts, Issued};
use herdsman_wire::report::{DaskHealth, Health, NodeReport, Phase, PhaseName, PhaseStatus, Versions};
use herdsman_wire::session::{self, Down, Up};
use herdsman_wire::{Secret, Timestamp, limits, pki};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::hub::Hub;

/// Nodes that enrol or connect at the same moment.
const AT_ONCE: usize = 48;
const DEADLINE: Duration = Duration::from_secs(60);

/// Enrols all nodes; gives their clients, wall and processor time.
pub(crate) async fn enrol(hub: &Hub) -> Result<(Vec<HubClient>, Duration, Duration)> {
    let mut ready = Vec::with_capacity(hub.joins.len());
    for join in &hub.joins {
        let (agent, dask) = (pki::new_key()?, pki::new_key()?);
        let request = Enrol {
            csr_agent: pki::new_csr("agent", &agent)?,
            csr_dask: pki::new_csr("dask", &dask)?,
            facts: Facts::default(),
        };
        let key = Secret::new(agent.serialize_pem());
        ready.push((
            join.clone(),
            client(join, &join.bootstrap.certificate, &join.bootstrap.key)?,
            request,
            key,
        ));
    }
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (began, cpu) = (Instant::now(), hub.cpu()?);
    let mut all = JoinSet::new();
    for (n, (join, boot, request, key)) in ready.into_iter().enumerate() {
        let place = places.clone().acquire_owned().await?;
        all.spawn(async move {
            let issued: Issued = boot.post("/v1/enrol", &request, DEADLINE).await?;
            drop(place);
            anyhow::Ok((n, client(&join, &issued.agent_chain, &key)?))
        });
    }
    let mut clients = Vec::new();
    while let Some(one) = all.join_next().await {
        clients.push(one??);
    }
    let (took, cpu) = (began.elapsed(), hub.cpu()? - cpu);
    clients.sort_by_key(|(n, _)| *n);
    Ok((clients.into_iter().map(|(_, c)| c).collect(), took, cpu))
}

/// What the simulated nodes did.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) reports: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// Connects all nodes; each reports every five seconds until the end.
pub(crate) async fn connect(clients: Vec<HubClient>) -> Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = JoinSet::new();
    for (n, client) in clients.into_iter().enumerate() {
        let place = places.clone().acquire_owned().await?;
        let counts = counts.clone();
        all.spawn(async move {
            let io = client.upgrade("/v1/beat", session::UPGRADE).await?;
            drop(place);
            tokio::spawn(async move {
                let e = node(n, crate::hub::address(n), io, &counts).await;
                counts.lost.fetch_add(1, Ordering::Relaxed);
                if let Err(e) = e {
                    tracing::debug!("node {n}: {e}");
                }
            });
            anyhow::Ok(())
        });
    }
    while let Some(one) = all.join_next().await {
        one?.context("connecting a node")?;
    }
    if counts.lost.load(Ordering::Relaxed) > 0 {
        bail!("sessions ended while others began");
    }
    Ok(counts)
}

/// Reports until the session ends.
pub(crate) async fn node(
    n: usize,
    address: IpAddr,
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    counts: &Counts,
) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(io);
    let read = async {
        while let Some(message) = frame::read::<Down>(&mut from).await? {
            if message == Down::Seen {
                counts.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    };
    let write = async {
        // Spread over the period, as nodes that started at different times are.
        tokio::time::sleep(limits::REPORT_EVERY.mul_f64(n as f64 * 0.618 % 1.0)).await;
        let mut ticks = tokio::time::interval(limits::REPORT_EVERY);
        for round in 0_u32.. {
            ticks.tick().await;
            frame::write(&mut to, &Up::Report(Box::new(report(address, round)))).await?;
            counts.reports.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = read => done,
        done = write => done,
    }
}

/// As a worker in the middle of its work reports.
fn report(address: IpAddr, round: u32) -> NodeReport {
    let at = Timestamp(1_700_000_000_000);
    let phase = |phase| Phase {
        phase,
        status: PhaseStatus::Done,
        started: at,
        ended: Some(at),
        deadline: Some(at),
        detail: None,
        error: None,
    };
    NodeReport {
        phases: [
            PhaseName::Agent,
            PhaseName::Enrol,
            PhaseName::Environment,
            PhaseName::Dask,
        ]
        .map(phase)
        .to_vec(),
        health: Health {
            cpu_percent: (round % 100) as f32,
            load: 1.5,
            cpus: 4,
            memory_total: 16 << 30,
            memory_available: (8 << 30) + u64::from(round),
            disk_total: 100 << 30,
            disk_free: 50 << 30,
            net_rx_rate: f64::from(round) * 1.5,
            net_tx_rate: 2e6,
            agent_rss: 5 << 20,
        },
        dask: DaskHealth {
            state: "running".into(),
            pid: Some(1234),
            since: Some(at),
            address: Some(format!("tls://{address}:8788")),
            versions: Some(Versions {
                python: "3.11.7".into(),
                dask: "2026.8.0".into(),
                distributed: "2026.8.0".into(),
            }),
            executing: Some(4),
            ..DaskHealth::default()
        },
        environment: None,
        crl: 1,
        notice: None,
        firewall: herdsman_wire::report::FirewallReport::default(),
        troubles: Vec::new(),
    }
}
