//! The API (<https://docs.digitalocean.com/reference/api/>): JSON with a token, and
//! pages of at most 200.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{
    Base, Call, Client, Dialect, Options, Reply, Verdict, by_status, json, json_body, query,
};
use super::super::token::{Bearer, DIGITALOCEAN};
use super::answers::Meta;
use super::failure;
use super::settings::Settings;

/// Where it is.
const ADDRESS: &str = "https://api.digitalocean.com";
/// Most entries of a page.
const PAGE: u64 = 200;
/// Calls at the same time; 250 a minute are allowed.
const WINDOW: usize = 8;
/// Most pages of a list.
const PAGES: u64 = 200;

/// What the vendor has of its own.
#[derive(Debug)]
pub(super) struct Speech {
    pub(super) bearer: Bearer,
}

impl Dialect for Speech {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        _: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(std::future::ready(self.bearer.authorize(request)))
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        if reply.status < 300 {
            return Verdict::Fine;
        }
        failure::verdict(reply.status, &failure::of(reply).1).unwrap_or_else(|| by_status(reply))
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        failure::explain(&call.name, reply)
    }
}

/// The vendor's API.
#[derive(Debug)]
pub(super) struct Api {
    client: Client<Speech>,
    base: Base,
}

impl Api {
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let own = &settings.own;
        let (context, file) = (own.context.as_deref(), own.token_file.as_deref());
        let bearer = Bearer::new(DIGITALOCEAN, &settings.common, context, file);
        let options = Options {
            window: WINDOW,
            ..Options::new("digitalocean")
        };
        Ok(Self {
            client: Client::new(Speech { bearer }, options)?,
            base: Base::new(settings.endpoint.as_deref().unwrap_or(ADDRESS))?,
        })
    }

    pub(super) const fn bearer(&self) -> &Bearer {
        &self.client.dialect.bearer
    }

    /// The vendor's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        self.client.skew()
    }

    /// One thing, or what is no list.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ProviderError> {
        let name = format!("GET {path}");
        let reply = self.client.send(&Call::get(&name, self.base.at(path))).await?;
        json(&name, &reply)
    }

    /// All entries of a list, from the answer's field of that name. The pages after
    /// the first are fetched at the same time.
    pub(super) async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        field: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<T>, ProviderError> {
        let (mut all, total) = self.page(path, field, pairs, 1, PAGE).await?;
        let last = total.div_ceil(PAGE).min(PAGES);
        let rest = (2..=last).map(|n| self.page(path, field, pairs, n, PAGE));
        for (more, _) in futures_util::future::try_join_all(rest).await? {
            all.extend(more);
        }
        Ok(all)
    }

    /// How many there are.
    pub(super) async fn count(&self, path: &str, field: &str, pairs: &[(&str, &str)]) -> Result<u64, ProviderError> {
        Ok(self.page::<Value>(path, field, pairs, 1, 1).await?.1)
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        field: &str,
        pairs: &[(&str, &str)],
        page: u64,
        size: u64,
    ) -> Result<(Vec<T>, u64), ProviderError> {
        let (number, size) = (page.to_string(), size.to_string());
        let mut pairs = pairs.to_vec();
        pairs.push(("per_page", &size));
        if page > 1 {
            pairs.push(("page", &number));
        }
        let name = format!("GET {path}");
        let url = self.base.at(&(path.to_owned() + &query(&pairs)));
        let reply = self.client.send(&Call::get(&name, url)).await?;
        let mut body: Listed = json(&name, &reply)?;
        // No entries are an empty list, or nothing at all.
        let entries = body.rest.remove(field).filter(|v| !v.is_null());
        let entries = serde_json::from_value(entries.unwrap_or_else(|| Value::Array(Vec::new())));
        let entries = entries.map_err(|e| {
            error(
                Code::Provider,
                format!("{name}: the answer is not what it should be: {e}"),
            )
        })?;
        Ok((entries, body.meta.total))
    }

    /// A call with a body that is carried out once.
    pub(super) async fn once<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Reply, ProviderError> {
        let call = self.call(method, path, body)?;
        self.client.send(&call).await
    }

    /// A call with a body that does the same when done twice.
    pub(super) async fn put<B: Serialize>(&self, method: Method, path: &str, body: &B) -> Result<Reply, ProviderError> {
        let call = self.call(method, path, body)?.harmless();
        self.client.send(&call).await
    }

    fn call<B: Serialize>(&self, method: Method, path: &str, body: &B) -> Result<Call, ProviderError> {
        let name = format!("{method} {path}");
        Ok(Call::with_body(&name, method, self.base.at(path), json_body(body)?)
            .header("content-type", "application/json"))
    }

    /// Deletes something.
    pub(super) async fn delete(&self, path: &str) -> Result<(), ProviderError> {
        let call = Call::delete(format!("DELETE {path}"), self.base.at(path));
        self.client.send(&call).await.map(|_| ())
    }
}

/// A page of anything.
#[derive(serde::Deserialize)]
struct Listed {
    #[serde(default)]
    meta: Meta,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}
