//! Connections that become something else: tunnels into the cluster and streams
//! of its nodes.

use std::sync::Arc;
use std::time::Duration;

use herdsman_wire::session::{Command, StreamRequest};
use herdsman_wire::{ApiError, Code, NodeName, session};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::core::Hub;
use super::reply::{Answer, empty};
use super::server::Peer;
use super::streams::CONNECT_BACK;

/// Bytes that a tunnel takes at once: several TLS records, so that a fast one
/// is not all system calls.
const COPY: usize = 128 * 1024;

/// Header in which an upgrade request carries its JSON, since it has no body.
pub const REQUEST_HEADER: &str = "herdsman-request";

pub(super) async fn node_stream(hub: &Arc<Hub>, peer: &Peer, name: &NodeName, request: Request<Incoming>) -> Answer {
    let wanted = request
        .headers()
        .get(REQUEST_HEADER)
        .ok_or_else(|| ApiError::new(Code::Malformed, format!("header `{REQUEST_HEADER}` is missing")))?;
    let wanted: StreamRequest = serde_json::from_slice(wanted.as_bytes())
        .map_err(|e| ApiError::new(Code::Malformed, format!("header `{REQUEST_HEADER}`: {e}")))?;
    if let StreamRequest::Exec { argv } = &wanted {
        let detail = serde_json::json!({"node": name, "program": argv.first()});
        hub.audit.note("exec", &peer.cert.identity.to_string(), detail);
    }
    if *name == hub.own {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let gone = |_| ApiError::new(Code::Unreachable, format!("{name} does not serve streams"));
        hub.link.own_streams.send((wanted, theirs)).await.map_err(gone)?;
        return upgrade(request, peer, "herdsman-stream", move |io| join(io, ours));
    }
    let (token, connected) = hub.streams.expect(name)?;
    let order = Command::Stream { token, stream: wanted };
    if !hub.send(name, session::Down::Command { id: 0, command: order }) {
        let known = hub.status().nodes.iter().any(|n| n.name == *name);
        return Err(if known {
            ApiError::new(Code::Unreachable, format!("{name} is not connected to the hub"))
        } else {
            hub.no_node(name)
        });
    }
    let Ok(Ok((node, their_end))) = tokio::time::timeout(CONNECT_BACK, connected).await else {
        return Err(ApiError::new(
            Code::Deadline,
            format!("{name} did not connect back for the stream"),
        ));
    };
    upgrade(request, peer, "herdsman-stream", move |io| async move {
        tokio::select! {
            () = join(io, node) => {}
            () = their_end.over() => {}
        }
    })
}

pub(super) async fn tunnel(hub: &Hub, peer: &Peer, target: &str, request: Request<Incoming>) -> Answer {
    let spec = hub.spec();
    let address = match target {
        "scheduler" => hub.scheduler,
        "dashboard" => std::net::SocketAddr::new(
            crate::dask::dashboard_address(hub.scheduler.ip()),
            spec.dask.dashboard_port,
        ),
        _ => {
            return Err(ApiError::new(
                Code::NotFound,
                "tunnels lead to `scheduler` or `dashboard`, nowhere else",
            ));
        }
    };
    let connect = tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(address));
    let tcp = match connect.await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => {
            return Err(ApiError::new(
                Code::Unreachable,
                format!("Dask's {target} does not answer: {e}"),
            ));
        }
        Err(_) => {
            return Err(ApiError::new(
                Code::Unreachable,
                format!("Dask's {target} does not answer in time"),
            ));
        }
    };
    let _ = tcp.set_nodelay(true);
    upgrade(request, peer, "herdsman-tunnel", move |io| join(io, tcp))
}

async fn join<A, B>(mut a: A, mut b: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // How it ends matters to neither: both see the end.
    let _ = copy_bidirectional_with_sizes(&mut a, &mut b, COPY, COPY).await;
}

/// Switches protocols and hands the connection to `then`, until that ends or the
/// peer has to be cut off.
pub(super) fn upgrade<F>(
    mut request: Request<Incoming>,
    peer: &Peer,
    protocol: &'static str,
    then: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) -> Answer
where
    F: Future<Output = ()> + Send + 'static,
{
    let asked = request
        .headers()
        .get(UPGRADE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if asked != protocol {
        return Err(ApiError::new(
            Code::Malformed,
            format!("this needs `Upgrade: {protocol}`"),
        ));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let peer = peer.clone();
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => tokio::select! {
                () = then(TokioIo::new(io)) => {}
                () = peer.over() => {}
            },
            Err(e) => tracing::debug!("upgrade: {e}"),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, protocol)
        .body(empty())
        .map_err(|e| ApiError::new(Code::Internal, e.to_string()))
}
