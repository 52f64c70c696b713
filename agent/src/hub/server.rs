//! Accepting connections on 8785: admission, handshake, peer, HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use herdsman_wire::api::CsrReply;
use herdsman_wire::pki::{self, CertificateFacts};
use herdsman_wire::{ApiError, ClusterId, Timestamp, api, limits};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::core::Hub;
use super::live::{Entry, Live};
use super::routes;

/// An installation that the launcher asks for: what, our address as it reached
/// us, and where the outcome goes.
pub type InstallRequest = (Box<api::Install>, IpAddr, oneshot::Sender<Result<(), ApiError>>);

/// What a server answers with: before the installation little, then the hub.
#[derive(Debug)]
pub struct Stage {
    /// The cluster that callers must belong to.
    pub cluster: ClusterId,
    /// Requests for issuing certificates, while there is no hub.
    pub requests: CsrReply,
    /// Where installations go.
    pub install: mpsc::Sender<InstallRequest>,
    /// The hub, once there is one.
    pub hub: OnceLock<Arc<Hub>>,
    /// Live connections, before and after the installation.
    pub live: Arc<Live>,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What its certificate says.
    pub cert: CertificateFacts,
    /// Its address.
    pub from: IpAddr,
    /// Our address as it reached us.
    pub to: IpAddr,
    /// Its place among the live connections, kept by whatever the connection
    /// becomes: a session, a tunnel.
    pub place: Arc<Entry>,
}

impl Peer {
    /// Ends when the peer has to be cut off: revoked, or its certificate is over.
    pub async fn over(&self) {
        let life = self.cert.not_after.since(Timestamp::now());
        tokio::select! {
            () = self.place.cut.cancelled() => {}
            () = tokio::time::sleep(life) => {}
        }
    }
}

/// Serves until `stop` is cancelled. An accept that fails is tried again: running
/// out of file descriptors must not end the hub.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, stage: Arc<Stage>, stop: CancellationToken) {
    let admission = Arc::new(Admission::default());
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            a = listener.accept() => a,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, from)) => {
                let place = admission.enter(from.ip().to_canonical());
                let connection = connection(tcp, from, acceptor.clone(), stage.clone(), place);
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    tcp: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    stage: Arc<Stage>,
    place: super::admission::Place,
) {
    let _ = tcp.set_nodelay(true);
    let to = tcp
        .local_addr()
        .map_or_else(|_| IpAddr::from([0, 0, 0, 0]), |a| a.ip().to_canonical());
    let from = from.ip().to_canonical();
    let handshake = tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(tcp));
    let gone = place.gone.clone();
    let tls = tokio::select! {
        done = handshake => match done {
            Ok(Ok(tls)) => tls,
            Ok(Err(e)) => {
                tracing::debug!(%from, "handshake: {e}");
                return;
            }
            Err(_) => return,
        },
        () = gone.cancelled() => return,
    };
    drop(place);
    let facts = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|c| pki::facts(c));
    let cert = match facts {
        Some(Ok(cert)) if cert.identity.cluster == stage.cluster => cert,
        other => {
            tracing::warn!(%from, "a certificate of our root that is none of ours: {other:?}");
            return;
        }
    };
    let place = Arc::new(stage.live.enter(&cert.serial));
    let peer = Peer { cert, from, to, place };
    let caller = peer.clone();
    let service = service_fn(move |request| {
        let (stage, peer) = (stage.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&stage, &peer, request).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HANDSHAKE)
        .max_buf_size(limits::SMALL_BODY * 2)
        .max_headers(32)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    tokio::select! {
        // Errors here are the peer's way of going; requests log their own.
        _ = http => {}
        () = peer.over() => {}
    }
}
