//! Credentials by the vendor's own crates: environment, files and SSO, a program,
//! web identity, containers and machines with a role; and signatures (Version 4).
//! Their calls go over the HTTP client of ours: one TLS, one set of roots.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use herdsman_wire::Code;
use http::Request;

use super::super::ProviderError;
use super::super::cloud::{error, http as calls, limited};

/// Credentials that end within this are fetched anew.
const MARGIN: Duration = Duration::from_secs(120);
/// Longest search for credentials.
const SEARCH: Duration = Duration::from_secs(30);

/// Where credentials come from, and those that are in use.
pub(super) struct Keys {
    profile: Option<String>,
    region: String,
    found: Mutex<Option<Credentials>>,
    /// One search at a time.
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(profile: Option<String>, region: &str) -> Arc<Self> {
        Arc::new(Self {
            profile,
            region: region.to_owned(),
            found: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
        })
    }

    fn kept(&self) -> Option<Credentials> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .clone()
            .filter(|c| c.expiry().is_none_or(|end| end > SystemTime::now() + MARGIN))
    }

    /// Those that are in use are refused: the next call looks for others. Gives
    /// whether there may be others.
    pub(super) fn forget(&self) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let temporary = found.as_ref().is_some_and(|c| c.session_token().is_some());
        *found = None;
        temporary
    }

    /// Credentials that are good for some minutes.
    ///
    /// # Errors
    /// `E-CREDENTIALS` with where was looked.
    pub(super) async fn get(&self) -> Result<Credentials, ProviderError> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let _turn = self.turn.lock().await;
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let found = tokio::time::timeout(SEARCH, self.search())
            .await
            .unwrap_or_else(|_| Err(none_found("the search took too long")))?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    async fn search(&self) -> Result<Credentials, ProviderError> {
        let client = Sdk(calls::plain()?);
        let region = aws_config::Region::new(self.region.clone());
        let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .http_client(client)
            .region(region);
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let config = loader.load().await;
        let provider = config
            .credentials_provider()
            .ok_or_else(|| none_found("no source of them is set up"))?;
        provider.provide_credentials().await.map_err(|e| {
            let mut cause = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(inner) = source {
                cause = inner.to_string();
                source = inner.source();
            }
            none_found(&cause)
        })
    }
}

fn none_found(why: &str) -> ProviderError {
    error(Code::Credentials, format!("no credentials for AWS: {}", limited(why)))
        .with_hint("aws configure, or aws sso login       sets them up")
        .with_hint("export AWS_PROFILE=…                  names a profile of ~/.aws; `profile` in [aws] does so too")
        .with_hint("export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…")
}

/// Signs for one of the vendor's services in one region.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub(super) keys: Arc<Keys>,
    pub(super) service: &'static str,
    pub(super) region: String,
}

impl Signer {
    /// Adds a signature to a request.
    ///
    /// # Errors
    /// `E-CREDENTIALS`.
    pub(super) async fn sign(&self, request: &mut Request<Bytes>, now: SystemTime) -> Result<(), ProviderError> {
        let failed = |e: &dyn fmt::Display| error(Code::Internal, format!("a request cannot be signed: {e}"));
        let identity = self.keys.get().await?.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|e| failed(&e))?
            .into();
        let uri = request.uri().to_string();
        let headers: Vec<(&str, &str)> = request
            .headers()
            .iter()
            .filter_map(|(k, v)| Some((k.as_str(), v.to_str().ok()?)))
            .collect();
        let body = SignableBody::Bytes(request.body());
        let signable = SignableRequest::new(request.method().as_str(), &uri, headers.into_iter(), body);
        let signed = sign(signable.map_err(|e| failed(&e))?, &params).map_err(|e| failed(&e))?;
        let (instructions, _) = signed.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}

/// Our HTTP client as the vendor's crates take one.
#[derive(Clone, Debug)]
struct Sdk(reqwest::Client);

impl HttpClient for Sdk {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Sdk {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|e| ConnectorError::user(Box::new(e)))?
                .map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            let request = reqwest::Request::try_from(request).map_err(|e| ConnectorError::user(Box::new(e)))?;
            let failed = |e: reqwest::Error| {
                if e.is_timeout() {
                    ConnectorError::timeout(Box::new(e))
                } else {
                    ConnectorError::io(Box::new(e))
                }
            };
            let answer = client.execute(request).await.map_err(failed)?;
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            let body = answer.bytes().await.map_err(failed)?;
            let response = response.map(|()| SdkBody::from(body));
            HttpResponse::try_from(response).map_err(|e| ConnectorError::other(Box::new(e), None))
        })
    }
}
