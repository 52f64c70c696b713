//! A client for metadata services: plain HTTP to an address on this machine's own
//! link, without proxies and without names.
//!
//! Each request has a deadline and each answer a largest size. Redirects are
//! followed on the same service only: whoever can answer with one must not be able
//! to send a machine's agent elsewhere. What may pass by itself (no route yet, a
//! service that is starting or busy) is tried again with growing pauses until a
//! box of time is used up; see [`Metadata::patiently`].

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::{ApiError, Code};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::extract;
use crate::identity::enrol::dice;

/// Redirects that are followed; no vendor documents any.
const REDIRECTS: usize = 3;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One request with its answer.
    pub request: Duration,
    /// All tries of one question together.
    pub overall: Duration,
    /// First pause between tries; each next one is twice as long.
    pub pause: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Default for Pace {
    /// The service is on the machine's own host: it answers within milliseconds,
    /// or the network is not up yet.
    fn default() -> Self {
        Self {
            request: Duration::from_secs(3),
            overall: Duration::from_secs(20),
            pause: Duration::from_millis(200),
            longest: Duration::from_secs(4),
        }
    }
}

/// Why a question has no answer. Never holds a part of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It accepted and did not answer.
    #[error("does not answer within {0:?}")]
    Slow(Duration),
    /// The answer is too large.
    #[error("answers with more than {0} bytes")]
    TooLarge(usize),
    /// It sends us elsewhere.
    #[error("redirects to another place, which is not followed")]
    Redirect,
    /// It answers with a status that it should not.
    #[error("answers {0} to {1}")]
    Status(u16, String),
    /// It is switched off for this machine.
    #[error("is switched off for this machine ({0})")]
    Off(&'static str),
    /// The answer has no sense.
    #[error("answers with something else than {0}")]
    Garbage(&'static str),
}

impl Fault {
    /// Whether the same question may be answered in a moment.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Slow(_) => true,
            // 410: Azure's service is being replaced; 429: asked too often.
            Self::Status(status, _) => matches!(status, 408 | 410 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    /// As an error of the agent; `service` is what people call it.
    #[must_use]
    pub fn told(self, service: &str) -> ApiError {
        let retryable = self.may_pass();
        let code = match self {
            Self::Unreachable(_) | Self::Slow(_) => Code::Unreachable,
            Self::TooLarge(_) => Code::TooLarge,
            Self::Garbage(_) => Code::Malformed,
            _ => Code::Provider,
        };
        let error = ApiError::new(code, format!("the metadata service of {service} {self}"));
        ApiError { retryable, ..error }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body of a success, `None` for 404.
    ///
    /// # Errors
    /// [`Fault::Status`] for everything else.
    pub fn content(self, path: &str) -> Result<Option<Bytes>, Fault> {
        match self.status {
            s if s.is_success() => Ok(Some(self.body)),
            StatusCode::NOT_FOUND => Ok(None),
            s => Err(Fault::Status(s.as_u16(), path.to_owned())),
        }
    }
}

/// A metadata service.
#[derive(Clone, Debug)]
pub struct Metadata {
    addresses: Vec<SocketAddr>,
    pace: Pace,
}

impl Metadata {
    /// A service at these addresses, the usual one first.
    #[must_use]
    pub const fn new(addresses: Vec<SocketAddr>, pace: Pace) -> Self {
        Self { addresses, pace }
    }

    /// Where all clouds have it: 169.254.169.254, port 80.
    #[must_use]
    pub fn link_local() -> Self {
        let address = Ipv4Addr::new(169, 254, 169, 254);
        Self::new(vec![SocketAddr::from((address, 80))], Pace::default())
    }

    /// With another address, for machines that have no IPv4.
    #[must_use]
    pub fn or_at(mut self, address: Ipv6Addr) -> Self {
        // Tests give their own addresses, which stay the only ones.
        if self.addresses.iter().all(|a| a.ip().is_ipv4() && a.port() == 80) {
            self.addresses.push(SocketAddr::from((address, 80)));
        }
        self
    }

    /// The deadline of one request is another one, for answers that wait for news.
    #[must_use]
    pub const fn within(mut self, request: Duration) -> Self {
        self.pace.request = request;
        self
    }

    /// A GET, tried again while that can help.
    ///
    /// # Errors
    /// The last [`Fault`].
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, Fault> {
        self.patiently(|| self.once(Method::GET, path, headers, Bytes::new()))
            .await
    }

    /// Does something again while its fault may pass and there is time.
    ///
    /// # Errors
    /// The last [`Fault`].
    pub async fn patiently<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        let until = Instant::now() + self.pace.overall;
        let mut pause = self.pace.pause;
        loop {
            let fault = match ask().await {
                Err(e) if e.may_pass() => e,
                done => return done,
            };
            let wait = pause.mul_f64(0.5 + dice());
            if Instant::now() + wait >= until {
                return Err(fault);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(self.pace.longest);
        }
    }

    /// One request at the first address that can be reached. A body is JSON.
    ///
    /// # Errors
    /// [`Fault`]; a status that may pass is one, all others are answers.
    pub async fn once(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Fault> {
        let mut fault = Fault::Unreachable("it has no address".into());
        for address in &self.addresses {
            let within = self.pace.request;
            let asked = follow(*address, &method, path, headers, &body);
            match timeout(within, asked).await.unwrap_or(Err(Fault::Slow(within))) {
                Err(e @ Fault::Unreachable(_)) => fault = e,
                Ok(answer) => {
                    let status = Fault::Status(answer.status.as_u16(), path.to_owned());
                    return if status.may_pass() { Err(status) } else { Ok(answer) };
                }
                Err(e) => return Err(e),
            }
        }
        Err(fault)
    }
}

async fn follow(
    to: SocketAddr,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Bytes,
) -> Result<Answer, Fault> {
    let mut path = path.to_owned();
    for _ in 0..=REDIRECTS {
        let answer = ask(to, method, &path, headers, body).await?;
        if !answer.status.is_redirection() {
            return Ok(answer);
        }
        let target = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok());
        path = match target.and_then(|t| own_path(t, to)) {
            Some(own) if *method == Method::GET => own,
            _ => break,
        };
    }
    Err(Fault::Redirect)
}

/// The path of a redirect that stays on this service.
fn own_path(target: &str, to: SocketAddr) -> Option<String> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => {
            let (host, path) = rest.split_at(rest.find('/')?);
            let same = host == to.to_string() || (to.port() == 80 && host == to.ip().to_string());
            path_if(path, same)?
        }
        None => target,
    };
    // `//host/` would be another host.
    let own = path.starts_with('/') && !path.starts_with("//");
    own.then(|| path.to_owned())
}

fn path_if(path: &str, same: bool) -> Option<&str> {
    same.then_some(path)
}

async fn ask(
    to: SocketAddr,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Bytes,
) -> Result<Answer, Fault> {
    let broken = |e: &dyn std::fmt::Display| Fault::Unreachable(e.to_string());
    let tcp = TcpStream::connect(to).await.map_err(|e| broken(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|e| broken(&e))?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host(to))
        .header(CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(body.clone()))
        .map_err(|e| Fault::Unreachable(format!("request: {e}")))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| http_fault(&e))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, extract::LARGEST).collect().await.map_err(|e| {
            if e.is::<http_body_util::LengthLimitError>() {
                Fault::TooLarge(extract::LARGEST)
            } else {
                broken(&e)
            }
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    // The connection lives as long as the exchange and not longer.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            // The answer may have been complete already.
            Ok(()) => exchange.await,
            Err(e) => match exchange.await {
                Err(Fault::Unreachable(_)) => Err(http_fault(&e)),
                done => done,
            },
        },
    }
}

/// What does not even parse as HTTP does not get better by asking again.
fn http_fault(e: &hyper::Error) -> Fault {
    if e.is_parse() {
        return Fault::Garbage("HTTP");
    }
    Fault::Unreachable(e.to_string())
}

fn host(to: SocketAddr) -> String {
    match (to.port(), to) {
        (80, SocketAddr::V6(v6)) => format!("[{}]", v6.ip()),
        (80, SocketAddr::V4(v4)) => v4.ip().to_string(),
        _ => to.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_service() {
        let to: SocketAddr = "169.254.169.254:80".parse().unwrap();
        for (target, path) in [
            ("/latest/user-data/", Some("/latest/user-data/")),
            ("http://169.254.169.254/x?y=1", Some("/x?y=1")),
            ("http://169.254.169.254:80/x", Some("/x")),
            ("http://169.254.169.254:8080/x", None),
            ("http://169.254.169.254.evil.example/x", None),
            ("http://169.254.169.254@evil.example/x", None),
            ("http://10.0.0.1/x", None),
            ("https://169.254.169.254/x", None),
            ("//evil.example/x", None),
            ("http://169.254.169.254", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(own_path(target, to).as_deref(), path, "{target}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_again_within_a_box_of_time() {
        let metadata = Metadata::new(Vec::new(), Pace::default());
        let started = Instant::now();
        let mut tries = 0;
        let fault = Fault::Status(503, "/x".into());
        let result: Result<(), _> = metadata
            .patiently(|| {
                tries += 1;
                std::future::ready(Err(fault.clone()))
            })
            .await;
        assert_eq!(result, Err(fault));
        assert!((5..40).contains(&tries), "{tries}");
        let took = started.elapsed();
        assert!(
            took > Pace::default().overall / 2 && took < Pace::default().overall,
            "{took:?}"
        );
        for final_ in [
            Fault::Redirect,
            Fault::Off("x"),
            Fault::Status(401, "/x".into()),
            Fault::Garbage("x"),
        ] {
            let mut tries = 0;
            let result: Result<(), _> = metadata
                .patiently(|| {
                    tries += 1;
                    std::future::ready(Err(final_.clone()))
                })
                .await;
            assert_eq!((result, tries), (Err(final_), 1));
        }
    }
}
