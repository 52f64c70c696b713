//! A prober: which TCP ports of a machine answer, seen from a place.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::place::Place;

/// Every TCP port there is.
pub const ALL: RangeInclusive<u16> = 1..=65535;
/// Connections that are tried at the same time, if there are descriptors for them.
const AT_ONCE: u64 = 4000;
/// How long a port may take to answer: all is on one machine.
const ANSWER: Duration = Duration::from_millis(1500);

/// What a port scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Ports that took a connection.
    pub open: Vec<u16>,
    /// How many said no (a reset, or an ICMP answer).
    pub refused: usize,
    /// Ports that said nothing.
    pub silent: Vec<u16>,
}

enum Answer {
    Open,
    Refused,
    Silent,
}

/// Tries all the `ports` of `target` from `place`, each by a whole connection.
/// A silent port is tried twice, as one lost packet on a busy machine is no answer.
///
/// # Errors
/// When the place cannot be entered, or a connection fails here and not there.
pub fn scan(place: &Place, target: Ipv4Addr, ports: RangeInclusive<u16>) -> Result<Scan> {
    let at_once = descriptors()?;
    place.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut scan = round(target, ports.collect(), at_once).await?;
            let again = round(target, std::mem::take(&mut scan.silent), at_once).await?;
            scan.open.extend(again.open);
            scan.open.sort_unstable();
            scan.refused += again.refused;
            scan.silent = again.silent;
            scan.silent.sort_unstable();
            Ok(scan)
        })
    })
}

/// How many connections may be open at the same time.
fn descriptors() -> Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(AT_ONCE + 500);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    let have = soft.max(wanted);
    Ok(usize::try_from(have.saturating_sub(500).clamp(100, AT_ONCE))?)
}

async fn round(target: Ipv4Addr, ports: Vec<u16>, at_once: usize) -> Result<Scan> {
    let room = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    let mut scan = Scan::default();
    let mut note = |port, answer| match answer {
        Answer::Open => scan.open.push(port),
        Answer::Refused => scan.refused += 1,
        Answer::Silent => scan.silent.push(port),
    };
    for port in ports {
        let permit = Arc::clone(&room).acquire_owned().await?;
        tasks.spawn(async move {
            let answer = knock(SocketAddr::from((target, port))).await;
            drop(permit);
            (port, answer)
        });
        while let Some(done) = tasks.try_join_next() {
            let (port, answer) = done?;
            note(port, answer?);
        }
    }
    while let Some(done) = tasks.join_next().await {
        let (port, answer) = done?;
        note(port, answer?);
    }
    Ok(scan)
}

async fn knock(target: SocketAddr) -> Result<Answer> {
    match tokio::time::timeout(ANSWER, TcpStream::connect(target)).await {
        Err(_) => Ok(Answer::Silent),
        Ok(Ok(_)) => Ok(Answer::Open),
        Ok(Err(e)) => match e.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Answer::Refused),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Answer::Refused),
            ErrorKind::TimedOut => Ok(Answer::Silent),
            _ => Err(e).with_context(|| format!("a connection to {target}")),
        },
    }
}
