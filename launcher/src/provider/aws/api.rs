//! The query API (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/>): a form
//! in, XML out. Names of parameters and elements are those of the model
//! `ec2/2016-11-15`; only what is used is named here.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::{Method, Request};
use serde::de::DeserializeOwned;

use super::super::ProviderError;
use super::super::cloud::http::{Base, Call, Client, Dialect, Options, Reply, Verdict, by_status, escape};
use super::super::cloud::{error, limited};
use super::auth::{Keys, Signer};
use super::failure;
use super::settings::Settings;

/// Version of EC2's API.
const EC2: &str = "2016-11-15";
/// Version of STS's API.
const STS: &str = "2011-06-15";

impl Dialect for Signer {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        now: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.sign(request, now))
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        if reply.status < 300 {
            return Verdict::Fine;
        }
        failure::verdict(&failure::code_of(reply).0).unwrap_or_else(|| by_status(reply))
    }

    fn forget_credentials(&self) -> bool {
        self.keys.forget()
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        failure::explain(&call.name, &self.region, reply)
    }
}

/// Parameters of a call. Order does not matter to the vendor; ours makes logs of
/// tests readable.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn put(&mut self, name: impl Into<String>, value: impl ToString) -> &mut Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// `Name.1`, `Name.2` …
    pub(super) fn list<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        for (i, value) in values.into_iter().enumerate() {
            self.put(format!("{name}.{}", i + 1), value);
        }
        self
    }

    /// `Filter.N.Name` with its values.
    pub(super) fn filter<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        let n = 1 + self
            .0
            .iter()
            .filter(|(k, _)| k.starts_with("Filter.") && k.ends_with(".Name"))
            .count();
        self.put(format!("Filter.{n}.Name"), name);
        self.list(&format!("Filter.{n}.Value"), values)
    }

    fn form(&self, action: &str, version: &str) -> String {
        let mut form = format!("Action={action}&Version={version}");
        for (k, v) in &self.0 {
            // A form has + for a space, as the vendor's own clients send it.
            form += &format!("&{}={}", escape(k), escape(v).replace("%20", "+"));
        }
        form
    }
}

/// All services that we talk to.
#[derive(Debug)]
pub(super) struct Api {
    keys: Arc<Keys>,
    region: String,
    endpoint: Option<Base>,
    ec2: Client<Signer>,
    url: String,
}

impl Api {
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let keys = Keys::new(settings.own.profile.clone(), &settings.region);
        let endpoint = settings.endpoint.as_deref().map(Base::new).transpose()?;
        let region = settings.region.clone();
        let ec2 = client(&keys, "ec2", &region)?;
        Ok(Self {
            url: address(endpoint.as_ref(), "ec2", &region),
            keys,
            region,
            endpoint,
            ec2,
        })
    }

    /// The vendor's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        self.ec2.skew()
    }

    pub(super) const fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// A call that reads, or whose client token makes it harmless to repeat.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn ec2<T: DeserializeOwned>(&self, action: &str, params: &Params) -> Result<T, ProviderError> {
        let reply = self.ec2.send(&self.call(action, params).harmless()).await?;
        xml(action, &reply)
    }

    fn call(&self, action: &str, params: &Params) -> Call {
        form(action, &self.url, params.form(action, EC2))
    }

    /// A call of the security token service.
    ///
    /// # Errors
    /// As [`Self::ec2`].
    pub(super) async fn sts<T: DeserializeOwned>(&self, action: &str) -> Result<T, ProviderError> {
        let url = address(self.endpoint.as_ref(), "sts", &self.region);
        let call = form(action, &url, Params::default().form(action, STS)).harmless();
        let reply = client(&self.keys, "sts", &self.region)?.send(&call).await?;
        xml(action, &reply)
    }

    /// A call of a service that speaks JSON.
    ///
    /// # Errors
    /// As [`Self::ec2`].
    pub(super) async fn json(
        &self,
        service: Json,
        action: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, ProviderError> {
        // Prices are told in few regions, and in this one for all.
        let (name, host, prefix, region) = match service {
            Json::Quotas => (
                "servicequotas",
                "servicequotas",
                "ServiceQuotasV20190624",
                self.region.as_str(),
            ),
            Json::Prices => ("pricing", "api.pricing", "AWSPriceListService", "us-east-1"),
            Json::Parameters => ("ssm", "ssm", "AmazonSSM", self.region.as_str()),
        };
        let url = address(self.endpoint.as_ref(), host, region);
        let call = Call::with_body(action, Method::POST, url, body.to_string().into())
            .harmless()
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", &format!("{prefix}.{action}"));
        let reply = client(&self.keys, name, region)?.send(&call).await?;
        super::super::cloud::http::json(action, &reply)
    }
}

/// Services that speak JSON.
#[derive(Clone, Copy, Debug)]
pub(super) enum Json {
    /// What the account may have.
    Quotas,
    /// What things cost.
    Prices,
    /// Public parameters, such as the newest image of a family.
    Parameters,
}

fn client(keys: &Arc<Keys>, service: &'static str, region: &str) -> Result<Client<Signer>, ProviderError> {
    let signer = Signer {
        keys: keys.clone(),
        service,
        region: region.to_owned(),
    };
    Client::new(signer, Options::new("aws"))
}

fn address(endpoint: Option<&Base>, host: &str, region: &str) -> String {
    match endpoint {
        Some(base) => base.at("/"),
        None => {
            let domain = if region.starts_with("cn-") {
                "amazonaws.com.cn"
            } else {
                "amazonaws.com"
            };
            format!("https://{host}.{region}.{domain}/")
        }
    }
}

fn form(action: &str, url: &str, body: String) -> Call {
    Call::with_body(action, Method::POST, url, body.into())
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
}

/// An answer in XML as a type.
fn xml<T: DeserializeOwned>(action: &str, reply: &Reply) -> Result<T, ProviderError> {
    let text = std::str::from_utf8(&reply.body)
        .map_err(|_| error(Code::Provider, format!("{action}: the answer is no text")))?;
    quick_xml::de::from_str(text).map_err(|e| {
        error(
            Code::Provider,
            format!(
                "{action}: the answer is not what it should be: {}",
                limited(&e.to_string())
            ),
        )
    })
}
