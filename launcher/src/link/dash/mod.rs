//! `herdsman dash`: Dask's dashboard on a local port.
//!
//! ```text
//! browser ── 127.0.0.1:PORT ── checks ── tunnel (mTLS, 8785) ── 127.0.0.1:8787 of the scheduler
//! ```
//!
//! The dashboard itself asks nobody who they are and takes websockets of any
//! origin, so all of that is checked here ([`check`]), and what the browser
//! holds for other programs of this host never reaches the cluster.

mod check;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::{ApiError, Code, limits};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::forward::{self, Io};
use check::Verdict;

pub use check::Token;

/// Where the dashboard is for itself.
const HOST_THERE: &str = "127.0.0.1:8787";
/// The same as browsers write it.
const ORIGIN_THERE: &str = "http://127.0.0.1:8787";
/// Where a browser goes once it is let in.
const FIRST_PAGE: &str = "/status";
/// The head of a request comes at once or not at all.
const HEAD: Duration = Duration::from_secs(30);
/// Pages of a busy scheduler take their time.
const ANSWER: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type Answer = Response<Body>;

/// One browser connection. Its requests come one after the other, so one
/// connection through one tunnel serves them all.
struct Session<O> {
    port: u16,
    token: Arc<Token>,
    open: Arc<O>,
    there: Mutex<Option<SendRequest<Empty<Bytes>>>>,
    /// What carries bytes for it; ends with it.
    tasks: std::sync::Mutex<JoinSet<()>>,
}

/// Serves the dashboard until it is dropped, which cuts all connections. `open`
/// opens a tunnel to the dashboard.
///
/// # Errors
/// When the listener has no address.
pub async fn serve<O, F, S>(listener: TcpListener, open: O, token: Token) -> io::Result<()>
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S, ApiError>> + Send + 'static,
    S: Io,
{
    let port = listener.local_addr()?.port();
    let (open, token) = (Arc::new(open), Arc::new(token));
    forward::accept(listener, move |stream| {
        let session = Arc::new(Session {
            port,
            token: Arc::clone(&token),
            open: Arc::clone(&open),
            there: Mutex::new(None),
            tasks: std::sync::Mutex::default(),
        });
        browser(stream, session)
    })
    .await;
    Ok(())
}

async fn browser<O, F, S>(stream: TcpStream, session: Arc<Session<O>>)
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S, ApiError>> + Send + 'static,
    S: Io,
{
    let service = service_fn(|request| {
        let session = Arc::clone(&session);
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(limits::SMALL_BODY * 4)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(e) = served {
        tracing::debug!("a browser's connection: {e}");
    }
    // What is left now is a websocket at most.
    drop(session.there.lock().await.take());
    let mut tasks = std::mem::take(&mut *session.tasks());
    while tasks.join_next().await.is_some() {}
}

impl<O, F, S> Session<O>
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S, ApiError>> + Send + 'static,
    S: Io,
{
    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let head = (request.method(), request.uri(), request.headers());
        match check::judge(head.0, head.1, head.2, self.port, &self.token) {
            Verdict::Refuse(status, why) => text(status, why),
            Verdict::Welcome => self.welcome(&request),
            Verdict::Forward => {
                let late = || Err(ApiError::new(Code::Deadline, "the dashboard does not answer in time"));
                let answer = tokio::time::timeout(ANSWER, self.forward(request)).await;
                answer.unwrap_or_else(|_| late()).unwrap_or_else(|e| failed(&e))
            }
        }
    }

    /// Gives the cookie and takes the secret out of the address.
    fn welcome(&self, request: &Request<Incoming>) -> Answer {
        let from = request.headers().get("sec-fetch-site");
        let mut answer = if from.is_none_or(|f| f == "none" || f == "same-origin") {
            let mut answer = text(StatusCode::SEE_OTHER, "the dashboard is at /status");
            answer
                .headers_mut()
                .insert(LOCATION, HeaderValue::from_static(FIRST_PAGE));
            answer
        } else {
            // Behind a link on another page (a notebook's) a redirect would not
            // carry a strict cookie; a page of our own that leads on does.
            let page = format!(
                "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={FIRST_PAGE}\">\
                 <a href=\"{FIRST_PAGE}\">The dashboard</a>\n"
            );
            reply(StatusCode::OK, "text/html; charset=utf-8", page)
        };
        if let Ok(cookie) = HeaderValue::from_str(&self.token.cookie(self.port)) {
            answer.headers_mut().insert(SET_COOKIE, cookie);
        }
        answer
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Answer, ApiError> {
        let upgraded = check::is_websocket(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let mut answer = self.send(&inner_request(&request, upgraded.is_some())?).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            check::strip_response(answer.headers_mut());
            stay_here(&mut answer);
            return Ok(answer.map(|body| body.boxed_unsync()));
        }
        let Some(upgraded) = upgraded.filter(|_| check::is_websocket(answer.headers())) else {
            let why = "the dashboard switched to a protocol that nobody asked for";
            return Err(ApiError::new(Code::Malformed, why));
        };
        let there = hyper::upgrade::on(&mut answer);
        self.tasks().spawn(async move {
            let joined = tokio::try_join!(upgraded, there);
            if let Ok((here, there)) = joined {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(here), &mut TokioIo::new(there)).await;
            }
        });
        check::strip_response(answer.headers_mut());
        let switched = answer.headers_mut();
        switched.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        switched.insert(UPGRADE, HeaderValue::from_static("websocket"));
        Ok(answer.map(|_| full(String::new())))
    }

    /// Sends over the connection that is there, or over a new one: the other
    /// side may have closed the old one just now, and looking twice does no harm.
    async fn send(&self, request: &Request<Empty<Bytes>>) -> Result<Response<Incoming>, ApiError> {
        let mut there = self.there.lock().await;
        if let Some(mut sender) = there.take()
            && sender.ready().await.is_ok()
            && let Ok(answer) = sender.send_request(request.clone()).await
        {
            *there = Some(sender);
            return Ok(answer);
        }
        let broken =
            |e: hyper::Error| ApiError::new(Code::Unreachable, format!("the dashboard's connection broke: {e}"));
        let tunnel = (self.open)().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel))
            .await
            .map_err(broken)?;
        self.tasks().spawn(async move {
            // Whoever waits for an answer is told as well.
            let _ = connection.with_upgrades().await;
        });
        let answer = sender.send_request(request.clone()).await.map_err(broken)?;
        *there = Some(sender);
        Ok(answer)
    }
}

/// The request as the dashboard gets it.
fn inner_request(request: &Request<Incoming>, websocket: bool) -> Result<Request<Empty<Bytes>>, ApiError> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let uri: Uri = path
        .parse()
        .map_err(|e| ApiError::new(Code::Malformed, format!("the address: {e}")))?;
    let mut inner = Request::new(Empty::new());
    *inner.method_mut() = request.method().clone();
    *inner.uri_mut() = uri;
    let mut headers = request.headers().clone();
    let with_origin = headers.contains_key(ORIGIN);
    check::strip_request(&mut headers);
    headers.insert(HOST, HeaderValue::from_static(HOST_THERE));
    if with_origin {
        headers.insert(ORIGIN, HeaderValue::from_static(ORIGIN_THERE));
    }
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    *inner.headers_mut() = headers;
    Ok(inner)
}

/// A redirect to the dashboard's own address is one to ours.
fn stay_here(answer: &mut Response<Incoming>) {
    let path = answer.headers().get(LOCATION).and_then(|to| {
        let path = to.to_str().ok()?.strip_prefix(ORIGIN_THERE)?;
        HeaderValue::from_str(if path.is_empty() { "/" } else { path }).ok()
    });
    if let Some(path) = path {
        answer.headers_mut().insert(LOCATION, path);
    }
}

fn failed(e: &ApiError) -> Answer {
    let status = StatusCode::from_u16(e.code.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut why = e.to_string();
    for hint in &e.hint {
        why.push_str("\nhint: ");
        why.push_str(hint);
    }
    text(status, &why)
}

fn text(status: StatusCode, why: &str) -> Answer {
    let mut answer = reply(status, "text/plain; charset=utf-8", format!("{why}\n"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

/// An answer of our own, which nobody keeps.
fn reply(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn full(body: String) -> Body {
    Full::new(Bytes::from(body))
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}
