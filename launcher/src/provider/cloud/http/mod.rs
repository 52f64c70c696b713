//! Calls to vendors' APIs: deadlines, repetition, a bounded window, and a log
//! that holds no secret. What a vendor alone does is its [`Dialect`].
//!
//! ```text
//! Call ─▶ window ─▶ pause, if the vendor asked for one
//!          ▲  │
//!          │  ▼ authorize, send, log
//!          │ judge ─▶ fine ─▶ Reply
//!          │  ├─▶ again, after Retry-After or a back-off with jitter
//!          └──┘  └▶ failed ─▶ explain ─▶ ProviderError
//! ```
//!
//! A call that may have been carried out is repeated only where that does no harm:
//! a repetition is the same bytes, its idempotency key included.

mod base;
mod body;
mod call;
mod retry;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::Request;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{ProviderError, error};

pub use base::{Base, escape, query};
pub use body::{json, json_body};
pub use call::{Call, Repeat, Reply};
pub use retry::{Policy, Verdict, by_status};

/// What a vendor's API has of its own.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// Adds what authorizes a request: a signature, a token. `now` is the vendor's
    /// time as far as it is known. Called for each try, so that a signature is
    /// always fresh.
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        now: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>>;

    /// What to do with an answer. Most vendors say it by the status.
    fn judge(&self, reply: &Reply) -> Verdict {
        by_status(reply)
    }

    /// The vendor no longer takes our credentials: forget those that are kept. Gives
    /// whether others can be had.
    fn forget_credentials(&self) -> bool {
        false
    }

    /// An answer that is no success as an error with our code.
    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError;
}

/// How a client is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// For logs and errors.
    pub cloud: &'static str,
    /// Most calls at the same time.
    pub window: usize,
    /// When and how often to try again.
    pub policy: Policy,
    /// Certificates to trust besides the system's, PEM.
    pub extra_roots: Option<String>,
}

impl Options {
    /// What suits most vendors.
    #[must_use]
    pub fn new(cloud: &'static str) -> Self {
        Self {
            cloud,
            window: 16,
            policy: Policy::default(),
            extra_roots: None,
        }
    }
}

/// A client of one vendor's API.
#[derive(Debug)]
pub struct Client<D> {
    inner: reqwest::Client,
    /// What the vendor has of its own.
    pub dialect: D,
    options: Options,
    window: Semaphore,
    /// The vendor's clock minus ours, seconds.
    skew: AtomicI64,
    /// Nothing is sent before this.
    quiet_until: Mutex<Option<Instant>>,
}

/// A client for questions that need no credentials and no patience.
///
/// # Errors
/// `E-INTERNAL` when the system's certificates cannot be read.
pub fn plain() -> Result<reqwest::Client, ProviderError> {
    tls::plain()
}

/// Less than this apart, clocks are taken as equal.
const SKEW_IGNORED: i64 = 30;

impl<D: Dialect> Client<D> {
    /// A client; no call is made yet.
    ///
    /// # Errors
    /// `E-INTERNAL` when the system's certificates cannot be read.
    pub fn new(dialect: D, options: Options) -> Result<Self, ProviderError> {
        Ok(Self {
            inner: tls::client(&options)?,
            dialect,
            window: Semaphore::new(options.window),
            options,
            skew: AtomicI64::new(0),
            quiet_until: Mutex::new(None),
        })
    }

    /// The vendor's clock minus ours, seconds; 0 before the first answer.
    pub fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// The vendor's time, as far as it is known.
    pub fn now(&self) -> SystemTime {
        let skew = self.skew();
        let apart = Duration::from_secs(skew.unsigned_abs());
        match skew {
            s if s.abs() < SKEW_IGNORED => SystemTime::now(),
            s if s > 0 => SystemTime::now() + apart,
            _ => SystemTime::now() - apart,
        }
    }

    /// Makes a call until it has an answer that counts.
    ///
    /// # Errors
    /// As the dialect explains the answer; `E-UNREACHABLE` or `E-DEADLINE` where
    /// there is none.
    pub async fn send(&self, call: &Call) -> Result<Reply, ProviderError> {
        let until = Instant::now() + self.options.policy.in_all;
        let mut tries = 0;
        let mut renewed = false;
        loop {
            let outcome = self.once(call).await;
            tries += 1;
            let (pause, error) = match outcome {
                Ok(reply) => match self.dialect.judge(&reply) {
                    Verdict::Fine => return Ok(reply),
                    Verdict::Failed => return Err(self.dialect.explain(call, &reply)),
                    // A clock is set right, and credentials renewed, once.
                    Verdict::Credentials if !renewed && self.dialect.forget_credentials() => {
                        renewed = true;
                        continue;
                    }
                    Verdict::Clock if !renewed && self.skew().abs() >= SKEW_IGNORED => {
                        renewed = true;
                        continue;
                    }
                    Verdict::Credentials | Verdict::Clock => return Err(self.dialect.explain(call, &reply)),
                    Verdict::Refused(pause) => {
                        self.quiet(pause);
                        (pause, self.dialect.explain(call, &reply))
                    }
                    Verdict::Broken(pause) if call.repeat == Repeat::Harmless => {
                        (pause, self.dialect.explain(call, &reply))
                    }
                    Verdict::Broken(_) => return Err(self.dialect.explain(call, &reply)),
                },
                Err(Unanswered { error, sent }) if sent && call.repeat == Repeat::Never => return Err(error),
                Err(Unanswered { error, .. }) if !error.retryable => return Err(error),
                Err(Unanswered { error, .. }) => (None, error),
            };
            let pause = self.options.policy.pause(tries, pause, retry::dice());
            if tries >= self.options.policy.tries || Instant::now() + pause >= until {
                return Err(ProviderError {
                    message: format!("{} (after {tries} tries)", error.message),
                    ..error
                });
            }
            tracing::debug!(
                cloud = self.options.cloud,
                call = call.name,
                ?pause,
                "again: {}",
                error.message
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// One try, within the window.
    async fn once(&self, call: &Call) -> Result<Reply, Unanswered> {
        let unsent = |error| Unanswered { error, sent: false };
        let _place = self
            .window
            .acquire()
            .await
            .map_err(|_| unsent(error(Code::Internal, "the window of calls is closed")))?;
        let quiet = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = quiet {
            tokio::time::sleep_until(until).await;
        }
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.url)
            .body(call.body.clone())
            .map_err(|e| unsent(error(Code::Usage, format!("{} is no address: {e}", call.url))))?;
        *request.headers_mut() = call.headers.clone();
        let path = request.uri().path().to_owned();
        self.dialect.authorize(&mut request, self.now()).await.map_err(unsent)?;
        let started = Instant::now();
        let failed = |e: &reqwest::Error| Unanswered {
            sent: !e.is_connect(),
            error: unanswered(call, e),
        };
        let request = reqwest::Request::try_from(request).map_err(|e| failed(&e))?;
        let answer = async {
            let answer = self.inner.execute(request).await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = answer.bytes().await?;
            Ok::<_, reqwest::Error>(Reply { status, headers, body })
        };
        let answer = tokio::time::timeout(self.options.policy.one_try, answer).await;
        let took = started.elapsed();
        let cloud = self.options.cloud;
        match answer {
            Ok(Ok(reply)) => {
                tracing::debug!(cloud, call = call.name, method = %call.method, path, status = reply.status, ?took);
                self.learn(&reply);
                Ok(reply)
            }
            Ok(Err(e)) => {
                tracing::debug!(cloud, call = call.name, method = %call.method, path, ?took, "no answer: {e}");
                Err(failed(&e))
            }
            Err(_) => {
                tracing::debug!(cloud, call = call.name, method = %call.method, path, ?took, "no answer in time");
                let text = format!("{}: no answer within {}s", call.name, took.as_secs());
                Err(Unanswered {
                    error: error(Code::Deadline, text),
                    sent: true,
                })
            }
        }
    }

    /// The vendor's clock, and whether it wants to be left alone.
    fn learn(&self, reply: &Reply) {
        if let Some(date) = reply.header("date").and_then(retry::http_date) {
            let seconds = |t: SystemTime| {
                let since = t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            };
            self.skew
                .store(seconds(date) - seconds(SystemTime::now()), Ordering::Relaxed);
        }
        if let Some(pause) = retry::spent(reply, SystemTime::now()) {
            self.quiet(Some(pause));
        }
    }

    /// Nothing is sent for a while: a limit holds for all calls.
    fn quiet(&self, pause: Option<Duration>) {
        let Some(pause) = pause else { return };
        let until = Instant::now() + pause.min(self.options.policy.longest_pause);
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = Some(quiet.map_or(until, |q| q.max(until)));
    }
}

/// No answer, and whether the request may have arrived all the same.
struct Unanswered {
    error: ProviderError,
    sent: bool,
}

fn unanswered(call: &Call, e: &reqwest::Error) -> ProviderError {
    let host = e.url().and_then(|u| u.host_str()).unwrap_or("its server").to_owned();
    let mut cause = String::new();
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        cause = format!(": {inner}");
        source = inner.source();
    }
    let error = error(
        Code::Unreachable,
        format!("{}: {host} cannot be reached{cause}", call.name),
    );
    if cause.contains("certificate") {
        return ProviderError {
            retryable: false,
            ..error
        }
        .with_hint("a proxy that opens TLS needs its certificate among the system's trusted ones");
    }
    error.with_hint("check the network, HTTPS_PROXY, and the region's name")
}
