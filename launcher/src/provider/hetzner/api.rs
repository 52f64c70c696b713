//! The API (<https://docs.hetzner.cloud/reference/cloud>): JSON with a token, pages,
//! actions for what takes time, and errors with a code of the vendor's.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{
    Base, Call, Client, Dialect, Options, Reply, Verdict, by_status, json, json_body, query,
};
use super::super::token::{Bearer, HETZNER};
use super::answers::{Action, Actions, Meta};
use super::failure;
use super::settings::Settings;

/// Where it is.
const ADDRESS: &str = "https://api.hetzner.cloud/v1";
/// Most entries of a page.
const PAGE: &str = "50";
/// Calls at the same time: the limit of 3600 an hour fills up by one a second.
const WINDOW: usize = 12;
/// Most pages of a list; more are no list of ours.
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
        failure::verdict(&failure::of(reply).code).unwrap_or_else(|| by_status(reply))
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
        let bearer = Bearer::new(
            HETZNER,
            &settings.common,
            own.context.as_deref(),
            own.token_file.as_deref(),
        );
        let options = Options {
            window: WINDOW,
            ..Options::new("hetzner")
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

    /// All entries of a list, whose field is called like the path. The pages after
    /// the first are fetched at the same time.
    pub(super) async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<T>, ProviderError> {
        let field = path.trim_start_matches('/');
        let (mut all, meta) = self.page(path, field, pairs, 1).await?;
        let last = meta.pagination.last_page.unwrap_or(1).min(PAGES);
        let rest = (2..=last).map(|n| self.page(path, field, pairs, n));
        for (more, _) in futures_util::future::try_join_all(rest).await? {
            all.extend(more);
        }
        // Where nobody says which page is the last one, one after the other.
        let mut next = meta
            .pagination
            .next_page
            .filter(|_| meta.pagination.last_page.is_none());
        while let Some(n) = next.filter(|n| *n <= PAGES) {
            let (more, meta) = self.page(path, field, pairs, n).await?;
            all.extend(more);
            next = meta.pagination.next_page;
        }
        Ok(all)
    }

    /// How many there are, where the vendor says.
    pub(super) async fn count(&self, path: &str) -> Result<Option<u64>, ProviderError> {
        let pairs = [("per_page", "1")];
        let name = format!("GET {path}");
        let reply = self
            .client
            .send(&Call::get(&name, self.base.at(&(path.to_owned() + &query(&pairs)))))
            .await?;
        let body: Listed = json(&name, &reply)?;
        Ok(body.meta.pagination.total_entries)
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        field: &str,
        pairs: &[(&str, &str)],
        page: u64,
    ) -> Result<(Vec<T>, Meta), ProviderError> {
        let number = page.to_string();
        let mut pairs = pairs.to_vec();
        pairs.push(("per_page", PAGE));
        if page > 1 {
            pairs.push(("page", &number));
        }
        let name = format!("GET {path}");
        let url = self.base.at(&(path.to_owned() + &query(&pairs)));
        let reply = self.client.send(&Call::get(&name, url)).await?;
        let mut body: Listed = json(&name, &reply)?;
        let listed = body.rest.remove(field).unwrap_or_default();
        let entries = serde_json::from_value(listed).map_err(|e| {
            let text = format!("{name}: the answer is not what it should be: {e}");
            error(herdsman_wire::Code::Provider, text)
        })?;
        Ok((entries, body.meta))
    }

    /// Makes something. Names are unique here, so that to ask twice is found out.
    pub(super) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ProviderError> {
        let name = format!("POST {path}");
        let call = Call::with_body(&name, Method::POST, self.base.at(path), json_body(body)?)
            .harmless()
            .header("content-type", "application/json");
        let reply = self.client.send(&call).await?;
        json(&name, &reply)
    }

    /// Deletes something; the action that does it, where it takes time.
    pub(super) async fn delete(&self, path: &str) -> Result<Option<Action>, ProviderError> {
        let name = format!("DELETE {path}");
        let reply = self.client.send(&Call::delete(&name, self.base.at(path))).await?;
        if reply.body.is_empty() {
            return Ok(None);
        }
        let begun: super::answers::Begun = json(&name, &reply)?;
        Ok(Some(begun.action))
    }

    /// How actions stand.
    pub(super) async fn actions(&self, ids: &[u64]) -> Result<Vec<Action>, ProviderError> {
        let mut all = Vec::new();
        for chunk in ids.chunks(40) {
            let texts: Vec<String> = chunk.iter().map(u64::to_string).collect();
            let pairs: Vec<(&str, &str)> = texts.iter().map(|t| ("id", t.as_str())).collect();
            let name = "GET /actions";
            let url = self.base.at(&format!("/actions{}", query(&pairs)));
            let reply = self.client.send(&Call::get(name, url)).await?;
            all.extend(json::<Actions>(name, &reply)?.actions);
        }
        Ok(all)
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
