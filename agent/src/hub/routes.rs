//! Requests to answers. Authorisation comes first, from one table; bodies are
//! read with a limit and a deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use herdsman_wire::session::{Command, StreamRequest};
use herdsman_wire::{ApiError, Code, Kind, NodeName, Timestamp, api, limits, session, version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::sync::oneshot;

use super::authority::{Caller, Route};
use super::core::Hub;
use super::server::{Peer, Stage};
use super::streams::CONNECT_BACK;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Result<Response<Body>, ApiError>;

/// Header in which an upgrade request carries its JSON, since it has no body.
pub const REQUEST_HEADER: &str = "herdsman-request";

/// Answers a request; never fails, an error becomes an answer too.
pub async fn answer(stage: &Arc<Stage>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let mut response = match route(stage, peer, request).await {
        Ok(response) => response,
        Err(e) => {
            let status = StatusCode::from_u16(e.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_body(status, &e)
        }
    };
    let own = version::PROTOCOL.to_string();
    if let Ok(value) = own.parse() {
        response.headers_mut().insert(version::HEADER, value);
    }
    response
}

async fn route(stage: &Arc<Stage>, peer: &Peer, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let (route, tail) = Route::find(request.method(), &path)?;
    let theirs = request.headers().get(version::HEADER).and_then(|v| v.to_str().ok());
    // A caller of another version may still ask which version we are.
    if route != Route::Version {
        version::check(theirs)?;
    }
    let caller = Caller::of(&peer.cert.identity);
    if !route.permits(caller) {
        let e = ApiError::new(
            Code::Forbidden,
            format!(
                "a certificate of `{}` may not {} {path}",
                peer.cert.identity,
                request.method()
            ),
        );
        return Err(match stage.hub.get() {
            Some(hub) => hub.refuse(&path, &peer.cert.identity.to_string(), peer.from, e.into()),
            None => e,
        });
    }
    if route == Route::Version
        && let Some(hub) = stage.hub.get()
    {
        // Not even this for a certificate that was taken away.
        hub.check_revoked(&peer.cert)?;
    }
    match (stage.hub.get(), route) {
        (hub, Route::Version) => json(&api::VersionReply {
            protocol: version::PROTOCOL,
            agent: env!("CARGO_PKG_VERSION").into(),
            cluster: stage.cluster.clone(),
            installed: hub.is_some(),
            now: Timestamp::now(),
        }),
        (None, Route::Csr) => json(&stage.requests),
        (None, Route::Install) => install(stage, peer, request).await,
        (Some(_), Route::Csr | Route::Install) => Err(ApiError::new(Code::Conflict, "this hub is installed already")),
        (None, _) => Err(ApiError::new(
            Code::TooEarly,
            "this agent is not installed as a hub yet",
        )),
        (Some(hub), _) => {
            let node = if route == Route::Enrol {
                None
            } else {
                hub.check(&peer.cert, peer.from)?
            };
            installed(hub, peer, node, route, tail, request).await
        }
    }
}

async fn install(stage: &Stage, peer: &Peer, request: Request<Incoming>) -> Answer {
    let install: api::Install = body(request, limits::OPERATOR_BODY).await?;
    let (tx, rx) = oneshot::channel();
    let ended = || ApiError::new(Code::Conflict, "this agent is not waiting for an installation");
    stage
        .install
        .send((Box::new(install), peer.to, tx))
        .await
        .map_err(|_| ended())?;
    rx.await.map_err(|_| ended())??;
    json(&api::Done {})
}

async fn installed(
    hub: &Arc<Hub>,
    peer: &Peer,
    node: Option<NodeName>,
    route: Route,
    tail: &str,
    request: Request<Incoming>,
) -> Answer {
    let who = peer.cert.identity.to_string();
    let no_node = || ApiError::new(Code::Forbidden, "only a node may do this");
    match route {
        Route::Enrol => {
            let ask: api::Enrol = body(request, limits::SMALL_BODY).await?;
            json(&hub.enrol(&peer.cert, peer.from, &ask).await?)
        }
        Route::Renew => {
            let ask: api::Renew = body(request, limits::SMALL_BODY).await?;
            json(&hub.renew(&peer.cert, peer.from, &ask).await?)
        }
        Route::Beat => {
            let node = node.ok_or_else(no_node)?;
            let (hub, peer) = (hub.clone(), peer.clone());
            upgrade(request, session::UPGRADE, move |io| {
                super::session::run(hub, node, peer, io)
            })
        }
        Route::Serve => {
            let node = node.ok_or_else(no_node)?;
            let waiting = hub.streams.claim(tail, &node)?;
            upgrade(request, "herdsman-stream", move |io| async move {
                let _ = waiting.send(io);
            })
        }
        Route::Expect => {
            let ask: api::Expect = body(request, limits::OPERATOR_BODY).await?;
            hub.expect(ask.nodes).await?;
            json(&api::Done {})
        }
        Route::Operator => {
            let ask: api::OperatorRequest = body(request, limits::SMALL_BODY).await?;
            let Kind::Operator(user) = &peer.cert.identity.kind else {
                return Err(no_node());
            };
            json(&hub.operator(&who, user, &ask).await?)
        }
        Route::Invites => {
            let ask: api::Invite = body(request, limits::OPERATOR_BODY).await?;
            json(&hub.invite(&who, &ask).await?)
        }
        Route::Retire => {
            let ask: api::Retire = body(request, limits::OPERATOR_BODY).await?;
            json(&hub.retire(&ask).await?)
        }
        Route::Remove => {
            let ask: api::Nodes = body(request, limits::OPERATOR_BODY).await?;
            hub.remove(&ask.nodes).await?;
            json(&api::Done {})
        }
        Route::Revoke => {
            let ask: api::Nodes = body(request, limits::OPERATOR_BODY).await?;
            hub.revoke(&ask.nodes, &ask.why).await?;
            json(&api::Done {})
        }
        Route::Limits => {
            let ask: api::LimitsChange = body(request, limits::SMALL_BODY).await?;
            hub.change_limits(&ask).await?;
            json(&hub.status().ending)
        }
        Route::Environment => {
            hub.change_environment(body(request, limits::SMALL_BODY).await?).await?;
            json(&api::Done {})
        }
        Route::Shutdown => {
            let ask: api::Shutdown = body(request, limits::SMALL_BODY).await?;
            hub.end(if ask.why.is_empty() {
                "asked for by its operator"
            } else {
                &ask.why
            });
            json(&api::Done {})
        }
        Route::Status => json(&hub.status()),
        Route::Events => events(hub, request.uri().query().unwrap_or_default()).await,
        Route::Audit => {
            let text = hub.audit.read(limits::OPERATOR_BODY)?;
            Ok(plain(StatusCode::OK, "application/x-ndjson", text.into()))
        }
        Route::NodeCommand => {
            let (name, what) = tail.split_once('/').unwrap_or((tail, ""));
            let name = node_name(name)?;
            let command = match what {
                "restart" => Command::RestartDask,
                "renew" => Command::Renew,
                _ => {
                    return Err(ApiError::new(
                        Code::NotFound,
                        format!("nodes know `restart` and `renew`, not `{what}`"),
                    ));
                }
            };
            hub.command(&name, command, Duration::from_secs(60)).await?;
            json(&api::Done {})
        }
        Route::NodeStream => {
            let name = node_name(tail.trim_end_matches("/stream"))?;
            node_stream(hub, peer, &name, request).await
        }
        Route::Tunnel => tunnel(hub, peer, tail, request).await,
        Route::BlobHead => hub
            .blobs
            .find(tail)
            .map(|_| plain(StatusCode::OK, "application/octet-stream", Bytes::new())),
        Route::BlobPut => {
            hub.blobs.put(tail, request.into_body()).await?;
            json(&api::Done {})
        }
        Route::BlobGet => blob(hub, tail).await,
        Route::Version | Route::Csr | Route::Install => Err(ApiError::new(Code::Internal, "answered before")),
    }
}

fn node_name(text: &str) -> Result<NodeName, ApiError> {
    text.parse()
        .map_err(|e: herdsman_wire::name::NameError| ApiError::new(Code::Malformed, e.to_string()))
}

/// Events after a number; waits a little for the first when there are none yet.
async fn events(hub: &Hub, query: &str) -> Answer {
    let value = |key: &str| {
        query
            .split('&')
            .filter_map(|p| p.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v)
    };
    let number = |key: &str| match value(key) {
        None => Ok(0),
        Some(v) => v
            .parse::<u64>()
            .map_err(|_| ApiError::new(Code::Malformed, format!("query `{key}` is no number"))),
    };
    let after = number("after")?;
    let wait = Duration::from_secs(number("wait")?.min(30));
    let mut newest = hub.events.newest();
    let _ = tokio::time::timeout(wait, newest.wait_for(|n| *n > after)).await;
    json(&hub.events.after(after, 500))
}

async fn blob(hub: &Hub, name: &str) -> Answer {
    let path = hub.blobs.find(name)?;
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(|e| crate::files::io_error("read", &path, &e))?;
    let chunks = stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; 64 * 1024];
        let n = file.read(&mut chunk).await?;
        chunk.truncate(n);
        Ok((n > 0).then(|| (Frame::data(Bytes::from(chunk)), file)))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}

async fn node_stream(hub: &Arc<Hub>, peer: &Peer, name: &NodeName, request: Request<Incoming>) -> Answer {
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
    let cut = peer.cut.clone();
    if *name == hub.own {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let gone = |_| ApiError::new(Code::Unreachable, format!("{name} does not serve streams"));
        hub.link.own_streams.send((wanted, theirs)).await.map_err(gone)?;
        return upgrade(request, "herdsman-stream", move |io| join(io, ours, cut));
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
    let Ok(Ok(node)) = tokio::time::timeout(CONNECT_BACK, connected).await else {
        return Err(ApiError::new(
            Code::Deadline,
            format!("{name} did not connect back for the stream"),
        ));
    };
    upgrade(request, "herdsman-stream", move |io| join(io, node, cut))
}

async fn tunnel(hub: &Hub, peer: &Peer, target: &str, request: Request<Incoming>) -> Answer {
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
    let cut = peer.cut.clone();
    upgrade(request, "herdsman-tunnel", move |io| join(io, tcp, cut))
}

async fn join<A, B>(mut a: A, mut b: B, cut: tokio_util::sync::CancellationToken)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    tokio::select! {
        _ = copy_bidirectional(&mut a, &mut b) => {}
        () = cut.cancelled() => {}
    }
}

/// Switches protocols and hands the connection to `then`.
fn upgrade<F>(
    mut request: Request<Incoming>,
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
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => then(TokioIo::new(io)).await,
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

async fn body<T: DeserializeOwned>(request: Request<Incoming>, limit: usize) -> Result<T, ApiError> {
    let read = Limited::new(request.into_body(), limit).collect();
    let bytes = match tokio::time::timeout(limits::HANDSHAKE, read).await {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            return Err(ApiError::new(
                Code::TooLarge,
                format!("the body has more than {limit} bytes"),
            ));
        }
        Ok(Err(e)) => return Err(ApiError::new(Code::Malformed, format!("the body broke off: {e}"))),
        Err(_) => {
            return Err(ApiError::new(
                Code::Deadline,
                format!("the body did not arrive within {} s", limits::HANDSHAKE.as_secs()),
            ));
        }
    };
    serde_json::from_slice(&bytes).map_err(|e| ApiError::new(Code::Malformed, e.to_string()))
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn plain(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn json_body<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    plain(
        status,
        "application/json",
        serde_json::to_vec(value).unwrap_or_default().into(),
    )
}

fn json<T: Serialize>(value: &T) -> Answer {
    Ok(json_body(StatusCode::OK, value))
}
