//! The launcher's end of the agent's API: HTTP over mTLS on 8785, directly or
//! through a command that gives a byte stream (as OpenSSH's `ProxyCommand`).
//! Whatever carries it needs no trust: the hub is verified by the cluster's own
//! root and name.

pub mod dash;
mod dial;
pub mod forward;
pub mod frame;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use herdsman_wire::session::StreamRequest;
use herdsman_wire::{ApiError, ClusterId, Code, NodeName, Secret, limits, tls, version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;

pub use dial::Reach;

/// Answers that carry no work of Dask's come within this.
pub const SOON: Duration = Duration::from_secs(20);

const WHOM: &str = "the cluster's hub";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An upgraded stream.
pub type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// The way to one cluster's hub.
#[derive(Clone, Debug)]
pub struct Link {
    reach: Reach,
    name: String,
    config: Arc<ClientConfig>,
}

impl Link {
    /// A link with this certificate; connects at the first request.
    ///
    /// # Errors
    /// [`Code::Certificate`] when a part does not parse.
    pub fn new(
        reach: Reach,
        cluster: &ClusterId,
        control_root: &str,
        chain: &str,
        key: &Secret,
    ) -> Result<Self, ApiError> {
        let config = tls::client_config(control_root, chain, key)
            .map_err(|e| ApiError::new(Code::Certificate, format!("our own certificate: {e}")))?;
        Ok(Self {
            reach,
            name: cluster.hub_dns(),
            config: Arc::new(config),
        })
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let tls = self.reach.connect(&self.name, self.config.clone()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| self.http_error(&e))?;
        let driver = tokio::spawn(connection.with_upgrades());
        match sender.send_request(request).await {
            Ok(answer) => Ok(answer),
            Err(e) => {
                // In TLS 1.3 a refused certificate shows at the first read, so
                // the driver knows more than the sender.
                match tokio::time::timeout(Duration::from_secs(1), driver).await {
                    Ok(Ok(Err(cause))) => Err(self.http_error(&cause)),
                    _ => Err(self.http_error(&e)),
                }
            }
        }
    }

    fn http_error(&self, e: &hyper::Error) -> ApiError {
        let whom = format!("{WHOM} at {}", self.reach);
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
        while let Some(at) = source {
            if let Some(io) = at.downcast_ref::<std::io::Error>() {
                return tls::explain(io, &whom);
            }
            source = at.source();
        }
        ApiError::new(Code::Unreachable, format!("{whom}: {e}"))
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.name)
            .header(version::HEADER, version::PROTOCOL)
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        path: &str,
        request: Result<Request<Body>, hyper::http::Error>,
        within: Duration,
    ) -> Result<A, ApiError> {
        let request = request.map_err(|e| ApiError::new(Code::Internal, format!("request {path}: {e}")))?;
        let work = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            let theirs = answer
                .headers()
                .get(version::HEADER)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned);
            let bytes = collect(answer.into_body()).await?;
            if !status.is_success() {
                return Err(error_of(status, &bytes));
            }
            serde_json::from_slice(&bytes).map_err(|e| {
                let theirs = theirs.unwrap_or_else(|| "unknown".into());
                ApiError::new(
                    Code::Malformed,
                    format!(
                        "the hub's answer to {path} (protocol {theirs}, ours {}): {e}",
                        version::PROTOCOL
                    ),
                )
            })
        };
        tokio::time::timeout(within, work).await.unwrap_or_else(|_| {
            let e = ApiError::new(
                Code::Deadline,
                format!("{WHOM} did not answer {path} within {} s", within.as_secs()),
            );
            Err(ApiError { retryable: true, ..e })
        })
    }

    /// `GET`, JSON answer.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn get<A: DeserializeOwned>(&self, path: &str, within: Duration) -> Result<A, ApiError> {
        let request = self.request(Method::GET, path).body(empty());
        self.ask(path, request, within).await
    }

    /// `GET`, answer as text.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_text(&self, path: &str) -> Result<String, ApiError> {
        let request = self
            .request(Method::GET, path)
            .body(empty())
            .map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let answer = self.send(request).await?;
        let status = answer.status();
        let bytes = collect(answer.into_body()).await?;
        if status.is_success() {
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            Err(error_of(status, &bytes))
        }
    }

    /// `POST` of JSON, JSON answer.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
        within: Duration,
    ) -> Result<A, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json")
            .body(full(bytes.into()));
        self.ask(path, request, within).await
    }

    /// Brings a blob to the hub unless it is there.
    ///
    /// # Errors
    /// The hub's own error, or when the file cannot be read.
    pub async fn put_blob(&self, sha256: &str, file: &Path, within: Duration) -> Result<(), ApiError> {
        let path = format!("/v1/blobs/{sha256}");
        if self.has(&path).await? {
            return Ok(());
        }
        let unreadable = |e: std::io::Error| ApiError::new(Code::Disk, format!("cannot read {}: {e}", file.display()));
        let open = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let size = open.metadata().await.map_err(unreadable)?.len();
        let chunks = stream::try_unfold(open, |mut f| async move {
            let mut chunk = vec![0; 64 * 1024];
            let n = f.read(&mut chunk).await?;
            chunk.truncate(n);
            Ok((n > 0).then(|| (Frame::data(Bytes::from(chunk)), f)))
        });
        let request = self
            .request(Method::PUT, &path)
            .header(CONTENT_LENGTH, size)
            .body(StreamBody::new(chunks).boxed_unsync());
        let _: herdsman_wire::api::Done = self.ask(&path, request, within).await?;
        Ok(())
    }

    /// [`Self::put_blob`] for what is in memory.
    ///
    /// # Errors
    /// The hub's own error.
    pub async fn put_bytes(&self, sha256: &str, bytes: Bytes, within: Duration) -> Result<(), ApiError> {
        let path = format!("/v1/blobs/{sha256}");
        if self.has(&path).await? {
            return Ok(());
        }
        let request = self
            .request(Method::PUT, &path)
            .header(CONTENT_LENGTH, bytes.len())
            .body(full(bytes));
        let _: herdsman_wire::api::Done = self.ask(&path, request, within).await?;
        Ok(())
    }

    async fn has(&self, path: &str) -> Result<bool, ApiError> {
        let head = self
            .request(Method::HEAD, path)
            .body(empty())
            .map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let answer = tokio::time::timeout(SOON, self.send(head)).await.unwrap_or_else(|_| {
            let e = ApiError::new(Code::Deadline, format!("{WHOM} did not answer {path} in time"));
            Err(ApiError { retryable: true, ..e })
        })?;
        Ok(answer.status().is_success())
    }

    async fn upgrade(&self, path: &str, protocol: &str, json: Option<String>) -> Result<Stream, ApiError> {
        let mut builder = self
            .request(Method::GET, path)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, protocol);
        if let Some(json) = json {
            builder = builder.header("herdsman-request", json);
        }
        let request = builder
            .body(empty())
            .map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let work = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            if status != StatusCode::SWITCHING_PROTOCOLS {
                return Err(error_of(status, &collect(answer.into_body()).await?));
            }
            let io = hyper::upgrade::on(answer).await.map_err(|e| self.http_error(&e))?;
            Ok(TokioIo::new(io))
        };
        tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| {
            Err(ApiError::new(
                Code::Deadline,
                format!("{WHOM} did not answer {path} in time"),
            ))
        })
    }

    /// A tunnel to `scheduler` or `dashboard`.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn tunnel(&self, target: &str) -> Result<Stream, ApiError> {
        self.upgrade(&format!("/v1/tunnel/{target}"), "herdsman-tunnel", None)
            .await
    }

    /// A stream of a node: its logs, or a command.
    ///
    /// # Errors
    /// The hub's own error, or why it could not be asked.
    pub async fn node_stream(&self, node: &NodeName, what: &StreamRequest) -> Result<Stream, ApiError> {
        let json = serde_json::to_string(what).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        if json.len() > limits::SMALL_BODY / 2 || !json.is_ascii() {
            return Err(ApiError::new(
                Code::TooLarge,
                "the command is too long or not ASCII; put it into a script and run that",
            ));
        }
        self.upgrade(&format!("/v1/nodes/{node}/stream"), "herdsman-stream", Some(json))
            .await
    }
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

async fn collect(body: hyper::body::Incoming) -> Result<Bytes, ApiError> {
    Limited::new(body, limits::OPERATOR_BODY * 4)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| ApiError::new(Code::Unreachable, format!("the hub's answer broke off: {e}")))
}

fn error_of(status: StatusCode, body: &[u8]) -> ApiError {
    serde_json::from_slice(body)
        .unwrap_or_else(|_| ApiError::new(Code::Internal, format!("{WHOM} answered {status} without a reason")))
}
