//! Calls of the Compute API (<https://cloud.google.com/compute/docs/reference/rest/v1>)
//! and of the few other services that `check` and `sizes` ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{
    Base, Call, Client, Dialect, Options, Policy, Reply, Verdict, json, json_body, plain, query,
};
use super::answers::{Aggregated, Page};
use super::auth::Login;
use super::failure;
use super::settings::Settings;

/// Most entries of a page that the vendor gives.
const PAGE: &str = "500";
/// The vendor answers a wait after two minutes at the latest.
const WAIT: Duration = Duration::from_secs(150);
/// The metadata server answers at once, or there is none.
const MACHINE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
struct Speech(Arc<Login>);

impl Dialect for Speech {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        _now: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.0.authorize(request))
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        failure::verdict(reply)
    }

    fn forget_credentials(&self) -> bool {
        self.0.forget()
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        failure::explain(call, reply)
    }
}

/// All services that we talk to.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) login: Arc<Login>,
    endpoint: Option<Base>,
    client: Client<Speech>,
    /// For calls that are answered late by intention.
    waiting: Client<Speech>,
    /// As the settings have it.
    named: Option<String>,
    metadata: String,
    project: OnceCell<String>,
}

/// Services with addresses of their own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    /// Machines and all that belongs to them.
    Compute,
    /// Who may do what.
    ResourceManager,
    /// What things cost.
    Billing,
}

impl Service {
    const fn address(self) -> &'static str {
        match self {
            Self::Compute => "https://compute.googleapis.com",
            Self::ResourceManager => "https://cloudresourcemanager.googleapis.com",
            Self::Billing => "https://cloudbilling.googleapis.com",
        }
    }
}

impl Api {
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let login = Arc::new(Login::new(settings));
        let waiting = Options {
            policy: Policy {
                one_try: WAIT,
                in_all: WAIT * 2,
                ..Policy::default()
            },
            window: 64,
            ..Options::new("gcp")
        };
        let host = settings.common.env.get("GCE_METADATA_HOST");
        Ok(Self {
            client: Client::new(Speech(login.clone()), Options::new("gcp"))?,
            waiting: Client::new(Speech(login.clone()), waiting)?,
            endpoint: settings.endpoint.as_deref().map(Base::new).transpose()?,
            named: settings.project.clone(),
            metadata: host.unwrap_or("metadata.google.internal").to_owned(),
            project: OnceCell::new(),
            login,
        })
    }

    /// The vendor's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        self.client.skew()
    }

    /// The project: of the settings, of the credentials, of the machine.
    ///
    /// # Errors
    /// `E-USAGE` when nothing names one.
    pub(super) async fn project(&self) -> Result<&str, ProviderError> {
        let project = self.project.get_or_try_init(|| self.find_project()).await?;
        Ok(project)
    }

    async fn find_project(&self) -> Result<String, ProviderError> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        if let Some(project) = self.login.identity()?.project {
            return Ok(project);
        }
        self.machines_project().await.ok_or_else(|| {
            error(Code::Usage, "no project: neither settings nor credentials name one")
                .with_hint("gcloud config set project my-project              for all tools")
                .with_hint("herdsman up … --set gcp.project=my-project        for this command")
        })
    }

    /// Asks the metadata server of the machine that this runs on.
    async fn machines_project(&self) -> Option<String> {
        let address = format!("http://{}/computeMetadata/v1/project/project-id", self.metadata);
        let request = plain().ok()?.get(address).header("metadata-flavor", "Google");
        let answer = request.timeout(MACHINE).send().await.ok()?;
        let text = answer.error_for_status().ok()?.text().await.ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty() && t.len() < 128)
    }

    fn at(&self, service: Service, path: &str) -> String {
        match &self.endpoint {
            Some(base) => base.at(path),
            None => format!("{}{path}", service.address()),
        }
    }

    /// Address below a project: `zones/z/instances`.
    fn compute(&self, project: &str, path: &str, pairs: &[(&str, &str)]) -> String {
        let path = format!("/compute/v1/projects/{project}/{path}{}", query(pairs));
        self.at(Service::Compute, path.trim_end_matches('/'))
    }

    /// A call that reads, in our project.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn get<T: DeserializeOwned>(&self, name: &str, path: &str) -> Result<T, ProviderError> {
        let project = self.project().await?;
        self.get_in(name, project, path).await
    }

    /// The same in another project.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn get_in<T: DeserializeOwned>(
        &self,
        name: &str,
        project: &str,
        path: &str,
    ) -> Result<T, ProviderError> {
        let call = Call::get(name, self.compute(project, path, &[]));
        json(name, &self.client.send(&call).await?)
    }

    /// All pages of a list.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        name: &str,
        project: &str,
        path: &str,
        filter: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let call = Call::get(name, self.compute(project, path, &pairs(filter, &next)));
            let page: Page<T> = json(name, &self.client.send(&call).await?)?;
            all.extend(page.items);
            match page.next_page_token.filter(|t| !t.is_empty()) {
                Some(token) => next = token,
                None => return Ok(all),
            }
        }
    }

    /// All pages of a list over all zones; `key` is the name of the lists in it.
    ///
    /// # Errors
    /// As [`failure::explain`] says; `E-UNREACHABLE` where a zone did not answer, as
    /// what is there must not look as if it were gone.
    pub(super) async fn everywhere<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        key: &str,
        filter: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let project = self.project().await?;
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let call = Call::get(name, self.compute(project, path, &pairs(filter, &next)));
            let page: Aggregated = json(name, &self.client.send(&call).await?)?;
            if let Some(place) = page.unreachables.first() {
                return Err(error(Code::Unreachable, format!("{name}: {place} does not answer")));
            }
            for mut place in page.items.into_values() {
                let Some(list) = place.remove(key) else { continue };
                let list: Vec<T> = serde_json::from_value(list).map_err(|e| {
                    error(
                        Code::Provider,
                        format!("{name}: the answer is not what it should be: {e}"),
                    )
                })?;
                all.extend(list);
            }
            match page.next_page_token.filter(|t| !t.is_empty()) {
                Some(token) => next = token,
                None => return Ok(all),
            }
        }
    }

    /// A call that makes something; its request id makes it harmless to repeat.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        name: &str,
        project: &str,
        path: &str,
        request_id: &str,
        body: &Value,
    ) -> Result<T, ProviderError> {
        let url = self.compute(project, path, &[("requestId", request_id)]);
        let call = self.with_body(name, Method::POST, url, body)?;
        json(name, &self.client.send(&call).await?)
    }

    /// A call that changes a part of something.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        project: &str,
        path: &str,
        request_id: &str,
        body: &Value,
    ) -> Result<T, ProviderError> {
        let url = self.compute(project, path, &[("requestId", request_id)]);
        let call = self.with_body("firewalls.patch", Method::PATCH, url, body)?;
        json("firewalls.patch", &self.client.send(&call).await?)
    }

    /// A call that deletes something.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        name: &str,
        project: &str,
        path: &str,
        request_id: &str,
    ) -> Result<T, ProviderError> {
        let call = Call::delete(name, self.compute(project, path, &[("requestId", request_id)]));
        json(name, &self.client.send(&call).await?)
    }

    /// A call that waits for an operation, up to two minutes.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn wait<T: DeserializeOwned>(
        &self,
        name: &str,
        project: &str,
        path: &str,
    ) -> Result<T, ProviderError> {
        let url = self.compute(project, path, &[]);
        let call = Call::with_body(name, Method::POST, url, Bytes::new()).harmless();
        json(name, &self.waiting.send(&call).await?)
    }

    /// A call of another service.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn other<T: DeserializeOwned>(
        &self,
        service: Service,
        name: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ProviderError> {
        let url = self.at(service, path);
        let call = match body {
            Some(body) => self.with_body(name, Method::POST, url, body)?,
            None => Call::get(name, url),
        };
        json(name, &self.client.send(&call).await?)
    }

    fn with_body(&self, name: &str, method: Method, url: String, body: &Value) -> Result<Call, ProviderError> {
        let call = Call::with_body(name, method, url, json_body(body)?);
        Ok(call.harmless().header("content-type", "application/json"))
    }
}

fn pairs<'a>(filter: &'a str, next: &'a str) -> Vec<(&'a str, &'a str)> {
    let all = [("filter", filter), ("maxResults", PAGE), ("pageToken", next)];
    all.into_iter().filter(|(_, v)| !v.is_empty()).collect()
}
