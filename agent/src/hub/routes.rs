//! Requests to answers. Authorisation comes first, from one table; bodies are
//! read with a limit and a deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use herdsman_wire::session::Command;
use herdsman_wire::{ApiError, Code, Kind, NodeName, Timestamp, api, limits, session, version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::authority::{Caller, Route};
use super::core::Hub;
use super::reply::{Answer, Body, body, json, json_body, plain};
use super::server::{Peer, Stage};
use super::upgrade::{node_stream, tunnel, upgrade};

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
            upgrade(request, &peer.clone(), session::UPGRADE, move |io| {
                super::session::run(hub, node, peer, io)
            })
        }
        Route::Serve => {
            let node = node.ok_or_else(no_node)?;
            let waiting = hub.streams.claim(tail, &node)?;
            let theirs = peer.clone();
            upgrade(request, peer, "herdsman-stream", move |io| async move {
                let _ = waiting.send((io, theirs));
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
            let ask: api::Revoke = body(request, limits::OPERATOR_BODY).await?;
            if !ask.nodes.is_empty() {
                hub.revoke(&ask.nodes, &ask.why).await?;
            }
            for user in &ask.users {
                hub.revoke_person(&who, user, &ask.why).await?;
            }
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
                _ if what.starts_with("upgrade/") => Command::Upgrade {
                    sha256: what.trim_start_matches("upgrade/").to_owned(),
                },
                _ => {
                    return Err(ApiError::new(
                        Code::NotFound,
                        format!("nodes know `restart`, `renew` and `upgrade/SHA256`, not `{what}`"),
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
