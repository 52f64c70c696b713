//! The agent as a client of its hub: one TLS connection a request or session.
//!
//! Addresses are numbers, never names: a static program must not look names up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::{ApiError, Code, limits, tls, version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach the hub and who we are.
#[derive(Clone, Debug)]
pub struct HubClient {
    /// The hub's address.
    pub hub: SocketAddr,
    /// Our source address, where it matters.
    pub bind: Option<IpAddr>,
    /// Name under which the hub's certificate is verified.
    pub name: String,
    /// Trust and our certificate.
    pub config: Arc<ClientConfig>,
}

type Body = Full<Bytes>;

/// How long the first packet may be on its way before another is sent.
const FIRST_DIAL: Duration = Duration::from_millis(100);
const LAST_DIAL: Duration = Duration::from_millis(800);

const WHOM: &str = "the hub";

impl HubClient {
    async fn tls(&self) -> Result<TlsStream<TcpStream>, ApiError> {
        let deadline = tokio::time::sleep(limits::HANDSHAKE);
        let attempt = async {
            let tcp = self.dial().await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(self.name.clone())
                .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
            TlsConnector::from(self.config.clone()).connect(name, tcp).await
        };
        tokio::select! {
            done = attempt => done.map_err(|e| tls::explain(&e, &format!("{WHOM} at {}", self.hub))),
            () = deadline => Err(ApiError::new(
                Code::Unreachable,
                format!("{WHOM} at {} does not answer within {} s", self.hub, limits::HANDSHAKE.as_secs()),
            )),
        }
    }

    /// A hub that does not know us yet keeps us out without an answer, and learns
    /// of us soon. The kernel asks again after one second, three, seven; we ask
    /// anew at once, and then a little less often.
    async fn dial(&self) -> std::io::Result<TcpStream> {
        let mut patience = FIRST_DIAL;
        loop {
            let socket = match self.hub {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            if let Some(from) = self.bind {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            if let Ok(done) = tokio::time::timeout(patience, socket.connect(self.hub)).await {
                return done;
            }
            patience = (patience * 2).min(LAST_DIAL);
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<hyper::Response<hyper::body::Incoming>, ApiError> {
        let io = TokioIo::new(self.tls().await?);
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| self.http_error(&e))?;
        let driver = tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(e) => {
                // The driver knows more of a broken handshake than the sender.
                let cause = tokio::time::timeout(Duration::from_secs(1), driver).await;
                match cause {
                    Ok(Ok(Err(cause))) => Err(self.http_error(&cause)),
                    _ => Err(self.http_error(&e)),
                }
            }
        }
    }

    fn http_error(&self, e: &hyper::Error) -> ApiError {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
        while let Some(at) = source {
            if let Some(io) = at.downcast_ref::<std::io::Error>() {
                return tls::explain(io, &format!("{WHOM} at {}", self.hub));
            }
            source = at.source();
        }
        ApiError::new(Code::Unreachable, format!("{WHOM} at {}: {e}", self.hub))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: Option<&str>,
    ) -> Result<Request<Body>, ApiError> {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.name)
            .header(version::HEADER, version::PROTOCOL);
        if !body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        if let Some(protocol) = upgrade {
            builder = builder.header(CONNECTION, "upgrade").header(UPGRADE, protocol);
        }
        builder
            .body(Full::new(body))
            .map_err(|e| ApiError::new(Code::Internal, format!("request: {e}")))
    }

    /// A request with a JSON body and a JSON answer.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
        within: Duration,
    ) -> Result<A, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ApiError::new(Code::Internal, format!("request: {e}")))?;
        let request = self.request(Method::POST, path, bytes.into(), None)?;
        let work = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            let bytes = collect(answer.into_body(), limits::OPERATOR_BODY).await?;
            if !status.is_success() {
                return Err(error_of(status, &bytes));
            }
            serde_json::from_slice(&bytes)
                .map_err(|e| ApiError::new(Code::Malformed, format!("answer of {WHOM} to {path}: {e}")))
        };
        tokio::time::timeout(within, work)
            .await
            .unwrap_or_else(|_| Err(late(path, within)))
    }

    /// Opens an upgraded stream.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn upgrade(&self, path: &str, protocol: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, ApiError> {
        let request = self.request(Method::GET, path, Bytes::new(), Some(protocol))?;
        let work = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            if status != StatusCode::SWITCHING_PROTOCOLS {
                let bytes = collect(answer.into_body(), limits::SMALL_BODY).await?;
                return Err(error_of(status, &bytes));
            }
            let io = hyper::upgrade::on(answer).await.map_err(|e| self.http_error(&e))?;
            Ok(TokioIo::new(io))
        };
        tokio::time::timeout(limits::HANDSHAKE * 2, work)
            .await
            .unwrap_or_else(|_| Err(late(path, limits::HANDSHAKE * 2)))
    }

    /// Fetches a blob into a file; the caller checks its hash.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked or the file not written.
    pub async fn download(&self, path: &str, to: &std::path::Path, limit: u64) -> Result<u64, ApiError> {
        use tokio::io::AsyncWriteExt;
        let request = self.request(Method::GET, path, Bytes::new(), None)?;
        let answer = self.send(request).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            return Err(error_of(status, &collect(body, limits::SMALL_BODY).await?));
        }
        let write_error = |e: std::io::Error| crate::files::io_error("write", to, &e);
        let mut file = tokio::fs::File::create(to).await.map_err(write_error)?;
        let mut total = 0_u64;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.http_error(&e))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len() as u64;
            if total > limit {
                return Err(ApiError::new(
                    Code::TooLarge,
                    format!("{path} has more than {limit} bytes"),
                ));
            }
            file.write_all(&data).await.map_err(write_error)?;
        }
        file.flush().await.map_err(write_error)?;
        Ok(total)
    }
}

fn late(path: &str, within: Duration) -> ApiError {
    ApiError {
        retryable: true,
        ..ApiError::new(
            Code::Deadline,
            format!("{WHOM} did not answer {path} within {} s", within.as_secs()),
        )
    }
}

async fn collect(body: hyper::body::Incoming, limit: usize) -> Result<Bytes, ApiError> {
    Limited::new(body, limit)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| ApiError::new(Code::Unreachable, format!("answer of {WHOM}: {e}")))
}

fn error_of(status: StatusCode, body: &[u8]) -> ApiError {
    serde_json::from_slice(body)
        .unwrap_or_else(|_| ApiError::new(Code::Internal, format!("{WHOM} answered {status} without a reason")))
}
