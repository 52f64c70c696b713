//! Azure Resource Manager (<https://learn.microsoft.com/rest/api/azure/>): resources
//! by path, JSON, and operations that go on after their answer
//! (<https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations>).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::{HeaderValue, Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{Base, Call, Client, Dialect, Options, Reply, Verdict, json, json_body, query};
use super::answers::{Operation, Page};
use super::auth::Keys;
use super::failure;
use super::settings::Settings;

/// Versions of the services' interfaces, which are those of the models that tests hold
/// requests against.
pub(super) mod version {
    pub(in super::super) const COMPUTE: &str = "2026-04-01";
    pub(in super::super) const DISKS: &str = "2026-03-02";
    pub(in super::super) const SKUS: &str = "2021-07-01";
    pub(in super::super) const NETWORK: &str = "2026-03-01";
    pub(in super::super) const RESOURCES: &str = "2025-04-01";
    pub(in super::super) const GALLERIES: &str = "2026-03-03";
    pub(in super::super) const PERMISSIONS: &str = "2022-04-01";
    /// Of the list of subscriptions.
    pub(in super::super) const SUBSCRIPTIONS: &str = "2022-12-01";
}

/// Pause between two looks at an operation, where the vendor names none.
const LOOK: Duration = Duration::from_secs(2);
/// Longest pause, also where the vendor wants a longer one.
const LONGEST: Duration = Duration::from_secs(15);
/// Most pages of a list; a thousand entries each.
const PAGES: usize = 500;

/// What the vendor's API has of its own.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) keys: Keys,
    host: String,
}

impl Dialect for Arm {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        _now: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            // An answer names where to look next; a token goes to one place only.
            let place = place_of(request.uri());
            if place != self.host {
                return Err(error(
                    Code::Provider,
                    format!(
                        "an answer of {} sends to {place}, which is given no credentials",
                        self.host
                    ),
                ));
            }
            let token = self.keys.get().await?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
                .map_err(|_| error(Code::Credentials, "the token cannot be sent in a header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
            Ok(())
        })
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        failure::verdict(reply)
    }

    fn forget_credentials(&self) -> bool {
        self.keys.forget()
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        failure::explain(call, reply)
    }
}

/// An operation that goes on after its answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Where it says how it stands; absent when it has ended.
    url: Option<String>,
    /// Whether that place answers with a status instead of a body.
    bare: bool,
    pause: Duration,
}

impl Pending {
    /// Of what was done before.
    pub(super) const fn none() -> Self {
        Self {
            url: None,
            bare: false,
            pause: LOOK,
        }
    }

    /// Whether it goes on.
    pub(super) const fn is_under_way(&self) -> bool {
        self.url.is_some()
    }
}

/// The API.
#[derive(Debug)]
pub(super) struct Api {
    client: Client<Arm>,
    base: Base,
}

impl Api {
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let base = Base::new(settings.endpoint.as_deref().unwrap_or(settings.cloud.management))?;
        let arm = Arm {
            keys: Keys::new(settings),
            host: base.as_str().parse().map(|uri| place_of(&uri)).unwrap_or_default(),
        };
        Ok(Self {
            client: Client::new(arm, Options::new("azure"))?,
            base,
        })
    }

    /// The vendor's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        self.client.skew()
    }

    pub(super) const fn keys(&self) -> &Keys {
        &self.client.dialect.keys
    }

    fn at(&self, path: &str, version: &str, pairs: &[(&str, &str)]) -> String {
        let all: Vec<(&str, &str)> = [("api-version", version)].iter().chain(pairs).copied().collect();
        self.base.at(&format!("{path}{}", query(&all)))
    }

    /// Reads one thing.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        version: &str,
        pairs: &[(&str, &str)],
    ) -> Result<T, ProviderError> {
        let reply = self
            .client
            .send(&Call::get(name, self.at(path, version, pairs)))
            .await?;
        json(name, &reply)
    }

    /// Reads a list to its end.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        version: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<T>, ProviderError> {
        let mut all = Vec::new();
        let mut url = self.at(path, version, pairs);
        for _ in 0..PAGES {
            let reply = self.client.send(&Call::get(name, url)).await?;
            let page: Page<T> = json(name, &reply)?;
            all.extend(page.value);
            match page.next_link.filter(|l| !l.is_empty()) {
                Some(next) => url = next,
                None => return Ok(all),
            }
        }
        Err(error(Code::Provider, format!("{name}: the list has no end")))
    }

    /// Makes something, or makes it as it is described: to do so twice does no harm.
    /// Gives the operation that goes on.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn put(
        &self,
        name: &str,
        path: &str,
        version: &str,
        body: &Value,
    ) -> Result<Pending, ProviderError> {
        let call = Call::with_body(name, Method::PUT, self.at(path, version, &[]), json_body(body)?)
            .harmless()
            .header("content-type", "application/json");
        Ok(pending(&self.client.send(&call).await?))
    }

    /// Asks for something that changes nothing.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        version: &str,
        pairs: &[(&str, &str)],
    ) -> Result<T, ProviderError> {
        let call = Call::with_body(name, Method::POST, self.at(path, version, pairs), Bytes::new()).harmless();
        let reply = self.client.send(&call).await?;
        json(name, &reply)
    }

    /// Deletes something; what is gone is deleted.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn delete(
        &self,
        name: &str,
        path: &str,
        version: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Pending, ProviderError> {
        let sent = self
            .client
            .send(&Call::delete(name, self.at(path, version, pairs)))
            .await;
        match sent {
            Ok(reply) => Ok(pending(&reply)),
            Err(e) if e.code == Code::NotFound => Ok(Pending::none()),
            Err(e) => Err(e),
        }
    }

    /// Waits for the end of an operation.
    ///
    /// # Errors
    /// What the operation failed of; `E-DEADLINE`.
    pub(super) async fn wait(&self, name: &str, pending: Pending, within: Duration) -> Result<(), ProviderError> {
        let until = Instant::now() + within;
        let mut pause = pending.pause;
        let Some(url) = pending.url else { return Ok(()) };
        loop {
            if Instant::now() >= until {
                let text = format!("{name}: not done within {}s", within.as_secs());
                return Err(error(Code::Deadline, text));
            }
            tokio::time::sleep(pause).await;
            let reply = match self
                .client
                .send(&Call::get(format!("{name} operation"), url.clone()))
                .await
            {
                Ok(reply) => reply,
                // What was deleted takes its operations with it.
                Err(e) if e.code == Code::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            pause = wish(&reply).unwrap_or(LOOK);
            if pending.bare {
                if reply.status != 202 {
                    return Ok(());
                }
                continue;
            }
            let now: Operation = json(name, &reply)?;
            match now.status.as_str() {
                "Succeeded" => return Ok(()),
                "Failed" | "Canceled" => return Err(failure::of_operation(name, now.error)),
                _ => {}
            }
        }
    }

    /// What an operation failed of, if it has.
    ///
    /// # Errors
    /// When nobody says how it stands.
    pub(super) async fn failure(&self, name: &str, pending: &Pending) -> Result<Option<ProviderError>, ProviderError> {
        let Some(url) = pending.url.as_ref().filter(|_| !pending.bare) else {
            return Ok(None);
        };
        let reply = match self.client.send(&Call::get(format!("{name} operation"), url)).await {
            Ok(reply) => reply,
            Err(e) if e.code == Code::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let now: Operation = json(name, &reply)?;
        let has_failed = matches!(now.status.as_str(), "Failed" | "Canceled");
        Ok(has_failed.then(|| failure::of_operation(name, now.error)))
    }
}

/// Scheme, name and port; some answers name the port that goes without saying.
fn place_of(uri: &http::Uri) -> String {
    let place = format!(
        "{}://{}",
        uri.scheme_str().unwrap_or_default(),
        uri.authority().map_or("", http::uri::Authority::as_str)
    );
    let place = place.to_ascii_lowercase();
    match place.strip_suffix(":443") {
        Some(short) if short.starts_with("https://") => short.to_owned(),
        _ => place,
    }
}

fn pending(reply: &Reply) -> Pending {
    let header = |name: &str| reply.header(name).map(str::to_owned);
    let pause = wish(reply).unwrap_or(LOOK);
    match (header("azure-asyncoperation"), header("location")) {
        (Some(url), _) => Pending {
            url: Some(url),
            bare: false,
            pause,
        },
        (None, Some(url)) if reply.status == 202 => Pending {
            url: Some(url),
            bare: true,
            pause,
        },
        _ => Pending::none(),
    }
}

/// `Retry-After`, which this vendor writes in seconds.
fn wish(reply: &Reply) -> Option<Duration> {
    let seconds: u64 = reply.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)]) -> Reply {
        Reply {
            status,
            headers: headers
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn an_operation_says_where_it_is_looked_at() {
        let p = pending(&reply(
            201,
            &[("azure-asyncoperation", "https://x/op"), ("retry-after", "1")],
        ));
        assert_eq!(p.url.as_deref(), Some("https://x/op"));
        assert!(!p.bare);
        assert_eq!(p.pause, Duration::from_secs(1));
        let p = pending(&reply(202, &[("location", "https://x/l"), ("retry-after", "600")]));
        assert!(p.bare);
        assert_eq!(p.pause, LONGEST);
        assert_eq!(pending(&reply(200, &[("location", "https://x/l")])).url, None);
        assert_eq!(pending(&reply(204, &[])).url, None);
    }

    #[test]
    fn the_usual_port_goes_without_saying() {
        let place = |text: &str| place_of(&text.parse().unwrap());
        assert_eq!(
            place("https://Management.azure.com:443/x?y"),
            place("https://management.azure.com/z")
        );
        assert_ne!(
            place("http://management.azure.com:443/"),
            place("http://management.azure.com/")
        );
        assert_ne!(
            place("https://u@management.azure.com/"),
            place("https://management.azure.com/")
        );
    }

    #[tokio::test]
    async fn a_token_goes_to_one_place_only() {
        let settings = Settings::new(super::super::super::cloud::Common {
            env: [("HOME", "/nonexistent")].into_iter().collect(),
            ..super::super::super::cloud::Common::default()
        });
        let api = Api::new(&settings.unwrap()).unwrap();
        let elsewhere = Pending {
            url: Some("https://management.azure.com.evil.example/x".into()),
            bare: false,
            pause: Duration::ZERO,
        };
        let e = api.wait("x", elsewhere, Duration::from_secs(5)).await.unwrap_err();
        assert!(e.message.contains("given no credentials"), "{}", e.message);
    }
}
