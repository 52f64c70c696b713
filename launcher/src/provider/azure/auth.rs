//! Tokens for the API, from the sources that the vendor's own libraries know
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>,
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>):
//! an application's secret or certificate, a federated token, the identity of a machine,
//! and the vendor's tool.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use herdsman_wire::{Code, Secret};
use serde::Deserialize;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::http::{self as calls, Base, escape, query};
use super::super::cloud::{error, limited};
use super::settings::{Login, Settings};
use super::{assertion, azcli};

/// Tokens that end within this are fetched anew.
const MARGIN: Duration = Duration::from_secs(300);
/// Longest wait for an answer with a token.
const ANSWER: Duration = Duration::from_secs(30);
/// A metadata service is near, or not there.
const NEAR: Duration = Duration::from_secs(3);
/// Where the metadata service of the vendor's machines is.
const METADATA: &str = "http://169.254.169.254";
/// RFC 7523.
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token with its end.
#[derive(Clone)]
pub(super) struct Token {
    text: Secret,
    end: SystemTime,
}

impl Token {
    pub(super) fn new(text: String, end: SystemTime) -> Self {
        Self {
            text: Secret::new(text),
            end,
        }
    }

    pub(super) fn reveal(&self) -> &str {
        self.text.reveal()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("end", &self.end).finish_non_exhaustive()
    }
}

/// An application of a tenant.
#[derive(Clone, Debug)]
pub(super) struct Application {
    tenant: String,
    pub(super) client: String,
}

/// Where tokens come from.
#[derive(Debug)]
enum Source {
    Secret(Application, Secret),
    Certificate(Application, PathBuf),
    Federated(Application, PathBuf),
    /// The service of an app or a function of the vendor's.
    Service {
        endpoint: String,
        header: Secret,
    },
    Cli,
    Machine,
    /// None, and why.
    Nowhere(String),
}

impl Source {
    const fn what(&self) -> &'static str {
        match self {
            Self::Secret(..) => "secret of an application",
            Self::Certificate(..) => "certificate of an application",
            Self::Federated(..) => "federated identity",
            Self::Service { .. } => "identity of an app service",
            Self::Cli => "login of az",
            Self::Machine => "identity of this machine",
            Self::Nowhere(_) => "none",
        }
    }
}

/// Who somebody is, as a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Kind of credentials, for people.
    pub(super) what: String,
    /// Name of a user, or id of an application.
    pub(super) who: String,
    /// Tenant.
    pub(super) tenant: String,
}

/// Credentials, looked for when they are needed first.
pub(super) struct Keys {
    source: Source,
    authority: String,
    /// What tokens are for, without a path.
    resource: String,
    subscription: Option<String>,
    /// Identity of a machine that has several.
    client: Option<String>,
    env: crate::config::Env,
    found: Mutex<Option<Token>>,
    /// One search at a time.
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("source", &self.source.what())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds; text where a metadata service answers.
    #[serde(default)]
    expires_in: Value,
    /// Second of the epoch, where an app service answers.
    #[serde(default)]
    expires_on: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    error_description: String,
}

impl Keys {
    pub(super) fn new(settings: &Settings) -> Self {
        let env = &settings.common.env;
        Self {
            source: source(settings),
            authority: settings.authority.trim_end_matches('/').to_owned(),
            resource: settings.cloud.management.to_owned(),
            subscription: settings.subscription.clone(),
            client: settings
                .own
                .client_id
                .clone()
                .or_else(|| env.get("AZURE_CLIENT_ID").map(str::to_owned)),
            env: env.clone(),
            found: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn kept(&self) -> Option<Token> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone().filter(|t| t.end > SystemTime::now() + MARGIN)
    }

    /// The one in use is refused: the next call looks for another. Gives whether there
    /// was one.
    pub(super) fn forget(&self) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.take().is_some()
    }

    /// A token that is good for some minutes.
    ///
    /// # Errors
    /// `E-CREDENTIALS` with where was looked.
    pub(super) async fn get(&self) -> Result<Token, ProviderError> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let _turn = self.turn.lock().await;
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let token = self.search().await?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    /// Who the token says that we are.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) async fn identity(&self) -> Result<Identity, ProviderError> {
        let token = self.get().await?;
        let claims = claims(token.reveal());
        let text = |keys: &[&str]| {
            let found = keys.iter().find_map(|k| claims[k].as_str());
            found.unwrap_or_default().to_owned()
        };
        Ok(Identity {
            what: self.source.what().to_owned(),
            who: text(&["upn", "unique_name", "appid", "oid"]),
            tenant: text(&["tid"]),
        })
    }

    async fn search(&self) -> Result<Token, ProviderError> {
        let scope = format!("{}/.default", self.resource);
        let of_application = |app: &Application| {
            vec![
                ("grant_type", "client_credentials".to_owned()),
                ("client_id", app.client.clone()),
                ("scope", scope.clone()),
            ]
        };
        match &self.source {
            Source::Secret(app, secret) => {
                let mut form = of_application(app);
                form.push(("client_secret", secret.reveal().to_owned()));
                self.exchange(app, form).await
            }
            Source::Certificate(app, path) => {
                let pem = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e.to_string()))?;
                let url = self.exchange_url(app)?;
                let signed =
                    assertion::sign(&pem, &app.client, &url, SystemTime::now()).map_err(|why| unreadable(path, why))?;
                let mut form = of_application(app);
                form.push(("client_assertion_type", ASSERTION.to_owned()));
                form.push(("client_assertion", signed));
                self.exchange(app, form).await
            }
            Source::Federated(app, path) => {
                let token = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e.to_string()))?;
                let mut form = of_application(app);
                form.push(("client_assertion_type", ASSERTION.to_owned()));
                form.push(("client_assertion", token.trim().to_owned()));
                self.exchange(app, form).await
            }
            Source::Service { endpoint, header } => {
                let url = self.managed_url(endpoint, "2019-08-01");
                self.managed(&url, ("x-identity-header", header.reveal()), ANSWER).await
            }
            Source::Machine => {
                let base = self.env.get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA);
                let url = self.managed_url(
                    &format!("{}/metadata/identity/oauth2/token", base.trim_end_matches('/')),
                    "2018-02-01",
                );
                self.managed(&url, ("metadata", "true"), NEAR).await
            }
            Source::Cli => azcli::token(&format!("{}/", self.resource), self.subscription.as_deref(), &self.env).await,
            Source::Nowhere(why) => Err(none_found(why)),
        }
    }

    fn exchange_url(&self, app: &Application) -> Result<String, ProviderError> {
        let base = Base::new(&self.authority)?;
        Ok(base.at(&format!("/{}/oauth2/v2.0/token", escape(&app.tenant))))
    }

    async fn exchange(&self, app: &Application, form: Vec<(&str, String)>) -> Result<Token, ProviderError> {
        let request = calls::plain()?
            .post(self.exchange_url(app)?)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(query(&form).trim_start_matches('?').to_owned());
        self.answered(request, ANSWER).await
    }

    fn managed_url(&self, endpoint: &str, version: &str) -> String {
        let mut pairs = vec![("api-version", version), ("resource", self.resource.as_str())];
        pairs.extend(self.client.as_deref().map(|id| ("client_id", id)));
        format!("{endpoint}{}", query(&pairs))
    }

    async fn managed(&self, url: &str, header: (&str, &str), within: Duration) -> Result<Token, ProviderError> {
        let request = near()?.get(url).header(header.0, header.1);
        self.answered(request, within).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder, within: Duration) -> Result<Token, ProviderError> {
        let asked = async {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        };
        let missing = |why: &str| match self.source {
            Source::Machine => {
                none_found("no variable names any, az is not logged in, and this is no machine of Azure's")
            }
            _ => error(Code::Unreachable, format!("Azure gives no token: {why}"))
                .with_hint("check the network, HTTPS_PROXY and AZURE_AUTHORITY_HOST"),
        };
        let (status, body) = match tokio::time::timeout(within, asked).await {
            Ok(Ok(answer)) => answer,
            // Where it was sent is enough; its address may hold an id.
            Ok(Err(e)) => return Err(missing(&e.without_url().to_string())),
            Err(_) => return Err(missing("no answer in time")),
        };
        if status != 200 {
            let said: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            return Err(self.refused(status, &said));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| error(Code::Credentials, "Azure's answer for a token is none"))?;
        let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.trim().parse().ok());
        let end = match (number(&answer.expires_in), number(&answer.expires_on)) {
            (Some(s), _) => SystemTime::now() + Duration::from_secs(s),
            (None, Some(s)) => SystemTime::UNIX_EPOCH + Duration::from_secs(s),
            (None, None) => SystemTime::now() + MARGIN * 2,
        };
        Ok(Token::new(answer.access_token, end))
    }

    fn refused(&self, status: u16, said: &Refusal) -> ProviderError {
        let words = if said.error_description.is_empty() {
            format!("status {status} {}", said.error)
        } else {
            said.error_description.clone()
        };
        let text = format!(
            "Azure gives no token for the {}: {}",
            self.source.what(),
            limited(&words)
        );
        // The code of a clock that is wrong, of the vendor's list of codes.
        if words.contains("AADSTS700024") {
            return error(Code::Clock, text).with_hint("timedatectl set-ntp true");
        }
        let e = error(Code::Credentials, text);
        match self.source {
            Source::Secret(..) => e.with_hint("az ad app credential reset --id …     makes a new secret"),
            Source::Machine => {
                e.with_hint("az vm identity assign …               gives this machine an identity; `client_id` in [azure] names one of several")
            }
            _ => e.with_hint("herdsman check azure                  says which credentials were found"),
        }
    }
}

/// A client for what is on this machine or beside it, and is never behind a proxy.
fn near() -> Result<reqwest::Client, ProviderError> {
    let failed = |e: &dyn fmt::Display| error(Code::Internal, format!("no HTTP client: {e}"));
    let config = rustls::ClientConfig::builder_with_provider(herdsman_wire::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|e| failed(&e))
}

/// The source that counts: the nearest one that is whole.
fn source(settings: &Settings) -> Source {
    let (env, own) = (&settings.common.env, &settings.own);
    let get = |name: &str| env.get(name).map(str::to_owned);
    let tenant = own.tenant.clone().or_else(|| get("AZURE_TENANT_ID"));
    let client = own.client_id.clone().or_else(|| get("AZURE_CLIENT_ID"));
    let app = || {
        Some(Application {
            tenant: tenant.clone()?,
            client: client.clone()?,
        })
    };
    let from_variables = || {
        if let (Some(app), Some(secret)) = (app(), get("AZURE_CLIENT_SECRET")) {
            return Some(Source::Secret(app, Secret::new(secret)));
        }
        if let (Some(app), Some(path)) = (app(), get("AZURE_CLIENT_CERTIFICATE_PATH")) {
            return Some(Source::Certificate(app, settings.path(&path)));
        }
        if let (Some(app), Some(path)) = (app(), get("AZURE_FEDERATED_TOKEN_FILE")) {
            return Some(Source::Federated(app, settings.path(&path)));
        }
        if let (Some(endpoint), Some(header)) = (get("IDENTITY_ENDPOINT"), get("IDENTITY_HEADER")) {
            return Some(Source::Service {
                endpoint,
                header: Secret::new(header),
            });
        }
        None
    };
    match own.login {
        Login::Cli => Source::Cli,
        Login::Machine => Source::Machine,
        Login::Environment => from_variables().unwrap_or_else(|| {
            Source::Nowhere(
                "login = \"environment\", and AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET are not all set"
                    .into(),
            )
        }),
        Login::Auto => from_variables().unwrap_or_else(|| {
            if azcli::is_there(env) {
                Source::Cli
            } else {
                Source::Machine
            }
        }),
    }
}

fn unreadable(path: &std::path::Path, why: &str) -> ProviderError {
    error(
        Code::Credentials,
        format!("credentials {}: {}", path.display(), limited(why)),
    )
    .with_hint("AZURE_CLIENT_CERTIFICATE_PATH names a PEM with the certificate and its RSA key")
}

fn none_found(why: &str) -> ProviderError {
    error(Code::Credentials, format!("no credentials for Azure: {}", limited(why)))
        .with_hint("az login                              sets them up")
        .with_hint("export AZURE_TENANT_ID=… AZURE_CLIENT_ID=… AZURE_CLIENT_SECRET=…")
}

/// What a token says of whom it was given to. The vendor checks it; here it is only
/// shown.
fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap_or_default();
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(body.trim_end_matches('='))
        .unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    fn what(table: &str, env: &[(&str, &str)]) -> &'static str {
        let settings = Settings::new(Common {
            table: table.parse().unwrap(),
            env: [("HOME", "/nonexistent")].iter().chain(env).copied().collect(),
            ..Common::default()
        });
        source(&settings.unwrap()).what()
    }

    #[test]
    fn the_nearest_source_that_is_whole_counts() {
        let app = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        let with = |more: &[(&'static str, &'static str)]| what("", &[&app[..], more].concat());
        assert_eq!(what("", &[]), "identity of this machine");
        assert_eq!(with(&[]), "identity of this machine");
        assert_eq!(with(&[("AZURE_CLIENT_SECRET", "s")]), "secret of an application");
        assert_eq!(
            with(&[("AZURE_CLIENT_CERTIFICATE_PATH", "/c.pem")]),
            "certificate of an application"
        );
        assert_eq!(with(&[("AZURE_FEDERATED_TOKEN_FILE", "/t")]), "federated identity");
        assert_eq!(
            what("", &[("IDENTITY_ENDPOINT", "http://x"), ("IDENTITY_HEADER", "h")]),
            "identity of an app service"
        );
        assert_eq!(what("login = \"cli\"", &[("AZURE_CLIENT_SECRET", "s")]), "login of az");
        assert_eq!(what("login = \"environment\"", &app), "none");
        assert_eq!(
            what("tenant = \"t\"\nclient_id = \"c\"", &[("AZURE_CLIENT_SECRET", "s")]),
            "secret of an application"
        );
    }

    #[test]
    fn a_token_tells_whose_it_is_and_is_shown_to_nobody() {
        let body = BASE64_URL_SAFE_NO_PAD.encode("{\"appid\": \"a-b\", \"tid\": \"t\"}");
        let said = claims(&format!("x.{body}.y"));
        assert_eq!(said["appid"], "a-b");
        assert_eq!(claims("garbage"), Value::Null);
        let token = Token::new("very-secret".into(), SystemTime::now());
        assert!(!format!("{token:?}").contains("very-secret"));
    }
}
