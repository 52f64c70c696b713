//! A worker's end of the session with the hub: kept up for as long as the node
//! lives, with back-off between tries.

use std::time::Duration;

use herdsman_wire::report::NodeReport;
use herdsman_wire::session::{self, Down, Up};
use herdsman_wire::{ApiError, limits};
use tokio::sync::{mpsc, watch};

use crate::client::HubClient;
use crate::frame;
use crate::identity::enrol::{dice, wait};

/// A hub that says nothing for this long is taken for dead.
const SILENCE: Duration = limits::REPORT_EVERY.saturating_mul(4);

/// What the session tells the driver.
#[derive(Clone, Debug)]
pub enum News {
    /// A message of the hub.
    Down(Down),
    /// Connected.
    Connected,
    /// The connection broke or was refused.
    Disconnected(ApiError),
}

/// Runs sessions until dropped. `client` changes when the certificate is
/// renewed, and a new session starts with it; `report` is sent whenever it
/// changes, at least every [`limits::REPORT_EVERY`]; `up` carries the rest.
pub async fn run(
    mut client: watch::Receiver<HubClient>,
    mut report: watch::Receiver<NodeReport>,
    mut up: mpsc::Receiver<Up>,
    news: mpsc::Sender<News>,
) {
    let mut tries = 0;
    loop {
        let current = client.borrow_and_update().clone();
        match current.upgrade("/v1/beat", session::UPGRADE).await {
            Ok(io) => {
                tries = 0;
                if news.send(News::Connected).await.is_err() {
                    return;
                }
                let (from, to) = tokio::io::split(io);
                let end = tokio::select! {
                    e = read(from, &news) => e,
                    e = write(to, &mut report, &mut up) => e,
                    _ = client.changed() => None,
                };
                if let Some(e) = end
                    && news.send(News::Disconnected(e)).await.is_err()
                {
                    return;
                }
            }
            Err(e) => {
                if news.send(News::Disconnected(e)).await.is_err() {
                    return;
                }
            }
        }
        let pause = wait(tries, dice());
        tries += 1;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = client.changed() => {}
        }
    }
}

async fn read(mut io: impl tokio::io::AsyncRead + Unpin, news: &mpsc::Sender<News>) -> Option<ApiError> {
    loop {
        match tokio::time::timeout(SILENCE, frame::read::<Down>(&mut io)).await {
            Ok(Ok(Some(message))) => news.send(News::Down(message)).await.ok()?,
            Ok(Ok(None)) => return Some(broken("the hub ended the session")),
            Ok(Err(e)) => return Some(e),
            Err(_) => return Some(broken("the hub is silent")),
        }
    }
}

async fn write(
    mut io: impl tokio::io::AsyncWrite + Unpin,
    report: &mut watch::Receiver<NodeReport>,
    up: &mut mpsc::Receiver<Up>,
) -> Option<ApiError> {
    loop {
        let now = report.borrow_and_update().clone();
        if let Err(e) = frame::write(&mut io, &Up::Report(Box::new(now))).await {
            return Some(e);
        }
        let every = limits::REPORT_EVERY.mul_f64(0.8 + 0.4 * dice());
        let beat = tokio::time::sleep(every);
        tokio::pin!(beat);
        loop {
            tokio::select! {
                () = &mut beat => break,
                changed = report.changed() => {
                    changed.ok()?;
                    break;
                }
                message = up.recv() => {
                    let message = message?;
                    if let Err(e) = frame::write(&mut io, &message).await {
                        return Some(e);
                    }
                }
            }
        }
    }
}

fn broken(why: &str) -> ApiError {
    ApiError::new(herdsman_wire::Code::Unreachable, why)
}
