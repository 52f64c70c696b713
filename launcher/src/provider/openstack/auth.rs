//! Keystone's tokens, version 3 (<https://docs.openstack.org/api-ref/identity/v3/>): by
//! password, application credential or another token; and the catalogue that comes
//! with them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::{Code, Secret};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{Base, Call, Client, Dialect, Options, Reply, json as parsed, json_body};
use super::answers::{Token, TokenAnswer};
use super::failure;
use super::settings::Settings;

/// Tokens that end within this are fetched anew.
const MARGIN: Duration = Duration::from_secs(120);
/// Life of a token that does not say its own.
const LIFE: Duration = Duration::from_secs(3600);

/// What is sent to Keystone; without secrets where it is shown.
struct Identity {
    /// The body of the request.
    body: Value,
    /// Who, for people.
    who: String,
    /// Whether Keystone gives another token for the same, later.
    renewable: bool,
}

/// A token that is in use.
pub(super) struct Grant {
    value: Secret,
    until: Instant,
    pub(super) token: Token,
}

/// Credentials, and the token that is in use.
pub(super) struct Session {
    identity: Result<(Base, Identity), ProviderError>,
    client: Client<Open>,
    kept: Mutex<Option<Arc<Grant>>>,
    /// Whether the credential may make only some calls; as the last token said.
    restricted: AtomicBool,
    /// One call for a token at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = self.identity.as_ref().map(|(base, i)| (base.as_str(), &i.who)).ok();
        f.debug_struct("Session").field("who", &who).finish_non_exhaustive()
    }
}

/// Calls without a token.
#[derive(Debug)]
struct Open;

impl Dialect for Open {
    fn authorize<'a>(
        &'a self,
        _: &'a mut Request<Bytes>,
        _: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        failure::explain(call, reply, None)
    }
}

impl Session {
    pub(super) fn new(settings: &Settings, options: Options) -> Result<Self, ProviderError> {
        Ok(Self {
            identity: identity(settings),
            client: Client::new(Open, options)?,
            kept: Mutex::default(),
            restricted: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Who the credentials are for, as far as they say it themselves.
    pub(super) fn who(&self) -> &str {
        self.identity.as_ref().map_or("nobody", |(_, i)| &i.who)
    }

    /// Keystone's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        self.client.skew()
    }

    fn kept(&self) -> Option<Arc<Grant>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone().filter(|g| g.until > Instant::now())
    }

    /// The token that is in use is refused. Gives whether there may be another.
    pub(super) fn forget(&self) -> bool {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.identity.as_ref().is_ok_and(|(_, i)| i.renewable)
    }

    /// Whether the credential may make only some calls.
    pub(super) fn is_restricted(&self) -> bool {
        self.restricted.load(Ordering::Relaxed)
    }

    /// A token that is good for some minutes.
    ///
    /// # Errors
    /// `E-CREDENTIALS` with where was looked, or as Keystone says.
    pub(super) async fn get(&self) -> Result<Arc<Grant>, ProviderError> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let _turn = self.turn.lock().await;
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let (base, identity) = self.identity.as_ref().map_err(Clone::clone)?;
        let body = json_body(&identity.body)?;
        // Two tokens for one question do no harm.
        let call = Call::with_body("get a token", Method::POST, base.at("/auth/tokens"), body)
            .harmless()
            .header("content-type", "application/json");
        let reply = self.client.send(&call).await?;
        let value = reply.header("x-subject-token").map(Secret::new);
        let value = value.ok_or_else(|| error(Code::Provider, "Keystone's answer has no token in it"))?;
        let TokenAnswer { token } = parsed(&call.name, &reply)?;
        self.restricted.store(token.rules().is_some(), Ordering::Relaxed);
        let grant = Arc::new(Grant {
            // By the vendor's clock alone, as ours may be wrong.
            until: Instant::now() + token.life().unwrap_or(LIFE).saturating_sub(MARGIN),
            value,
            token,
        });
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant.clone());
        Ok(grant)
    }
}

impl Grant {
    pub(super) fn put_into(&self, request: &mut Request<Bytes>) -> Result<(), ProviderError> {
        let mut value: http::HeaderValue = self
            .value
            .reveal()
            .parse()
            .map_err(|_| error(Code::Provider, "Keystone's token cannot be sent"))?;
        value.set_sensitive(true);
        request.headers_mut().insert("x-auth-token", value);
        Ok(())
    }
}

/// Keystone's address with its version.
fn versioned(url: &str) -> String {
    let bare = url.trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v2.0")
        .or_else(|| bare.strip_suffix("/v3"))
        .unwrap_or(bare);
    format!("{bare}/v3")
}

fn identity(settings: &Settings) -> Result<(Base, Identity), ProviderError> {
    if let Err(e) = &settings.entry {
        return Err(e.clone());
    }
    let get = |key: &str, variables: &[&str]| settings.value(&["auth", key], variables);
    let url = settings
        .common
        .endpoint("openstack")
        .or_else(|| get("auth_url", &["OS_AUTH_URL"]))
        .or_else(|| settings.own.auth_url.clone())
        .ok_or_else(none_found)?;
    let base = Base::new(&versioned(&url)).map_err(|e| e.during("auth_url"))?;
    let kind = settings.value(&["auth_type"], &["OS_AUTH_TYPE"]);
    let id = get("application_credential_id", &["OS_APPLICATION_CREDENTIAL_ID"])
        .or_else(|| settings.own.application_credential_id.clone());
    let secret = get("application_credential_secret", &["OS_APPLICATION_CREDENTIAL_SECRET"]);
    let token = get("token", &["OS_TOKEN"]);
    let kind = match kind.as_deref() {
        Some("v3applicationcredential" | "application_credential") => "application_credential",
        Some("v3token" | "token") => "token",
        Some("v3password" | "password") => "password",
        Some(other) => {
            let text = format!("auth_type {other} is not known here; password, token and application credentials are");
            return Err(error(Code::Credentials, text)
                .with_hint("openstack application credential create herdsman    makes one that is"));
        }
        None if secret.is_some() => "application_credential",
        None if token.is_some() => "token",
        None => "password",
    };
    let missing = |what: &str| {
        error(
            Code::Credentials,
            format!("no credentials for OpenStack: {what} is missing"),
        )
        .with_hint("export OS_CLOUD=…                     names a cloud of clouds.yaml")
        .with_hint("source openrc.sh                      sets OS_* variables")
    };
    match kind {
        "application_credential" => {
            let secret = secret.ok_or_else(|| missing("application_credential_secret"))?;
            let mut credential = json!({"secret": secret});
            let who = if let Some(id) = id {
                credential["id"] = json!(id);
                format!("application credential {id}")
            } else {
                let name = get("application_credential_name", &["OS_APPLICATION_CREDENTIAL_NAME"])
                    .ok_or_else(|| missing("application_credential_id"))?;
                let (user, of) = user(&get)?;
                credential["user"] = user;
                credential["name"] = json!(name);
                format!("application credential {name} of {of}")
            };
            let body = json!({"auth": {"identity": {
                "methods": ["application_credential"], "application_credential": credential,
            }}});
            Ok((
                base,
                Identity {
                    body,
                    who,
                    renewable: true,
                },
            ))
        }
        "token" => {
            let token = token.ok_or_else(|| missing("token"))?;
            let mut auth = json!({"identity": {"methods": ["token"], "token": {"id": token}}});
            auth["scope"] = scope(&get).ok_or_else(|| missing("project_name or project_id"))?;
            let identity = Identity {
                body: json!({"auth": auth}),
                who: "a token".into(),
                renewable: false,
            };
            Ok((base, identity))
        }
        _ => {
            let (mut user, who) = user(&get)?;
            user["password"] = json!(get("password", &["OS_PASSWORD"]).ok_or_else(|| missing("password"))?);
            let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
            auth["scope"] = scope(&get).ok_or_else(|| missing("project_name or project_id"))?;
            let identity = Identity {
                body: json!({"auth": auth}),
                who,
                renewable: true,
            };
            Ok((base, identity))
        }
    }
}

/// A domain by its id or name; the one that every Keystone begins with where nothing is said.
fn domain(get: &impl Fn(&str, &[&str]) -> Option<String>, kinds: &[&str]) -> Value {
    for kind in kinds {
        let upper = kind.to_ascii_uppercase();
        if let Some(id) = get(&format!("{kind}_id"), &[&format!("OS_{upper}_ID")]) {
            return json!({"id": id});
        }
        if let Some(name) = get(&format!("{kind}_name"), &[&format!("OS_{upper}_NAME")]) {
            return json!({"name": name});
        }
    }
    json!({"id": get("default_domain", &["OS_DEFAULT_DOMAIN"]).unwrap_or_else(|| "default".into())})
}

fn user(get: &impl Fn(&str, &[&str]) -> Option<String>) -> Result<(Value, String), ProviderError> {
    if let Some(id) = get("user_id", &["OS_USER_ID"]) {
        return Ok((json!({"id": id}), format!("user {id}")));
    }
    let name = get("username", &["OS_USERNAME"]).ok_or_else(none_found)?;
    let domain = domain(get, &["user_domain", "domain"]);
    Ok((json!({"name": name, "domain": domain}), format!("user {name}")))
}

fn scope(get: &impl Fn(&str, &[&str]) -> Option<String>) -> Option<Value> {
    if let Some(id) = get("project_id", &["OS_PROJECT_ID", "OS_TENANT_ID"]) {
        return Some(json!({"project": {"id": id}}));
    }
    let name = get("project_name", &["OS_PROJECT_NAME", "OS_TENANT_NAME"])?;
    let domain = domain(get, &["project_domain", "domain", "user_domain"]);
    Some(json!({"project": {"name": name, "domain": domain}}))
}

fn none_found() -> ProviderError {
    error(
        Code::Credentials,
        "no credentials for OpenStack: neither a clouds.yaml nor OS_AUTH_URL with OS_USERNAME or OS_APPLICATION_CREDENTIAL_ID",
    )
    .with_hint("export OS_CLOUD=…                     names a cloud of clouds.yaml; `cloud` in [openstack] does so too")
    .with_hint("source openrc.sh                      sets OS_* variables; the dashboard gives this file")
    .with_hint("openstack application credential create herdsman    makes a credential of its own")
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    fn asked(table: &str, env: &[(&str, &str)]) -> Result<(String, Value), ProviderError> {
        let settings = Settings::new(Common {
            table: table.parse().unwrap(),
            env: env.iter().copied().collect(),
            ..Common::default()
        })
        .unwrap();
        identity(&settings).map(|(base, i)| (base.as_str().to_owned(), i.body["auth"].clone()))
    }

    const URL: (&str, &str) = ("OS_AUTH_URL", "https://k.example:5000");

    #[test]
    fn a_password_with_names_gets_its_domains() {
        let (url, auth) = asked(
            "",
            &[
                URL,
                ("OS_USERNAME", "ann"),
                ("OS_PASSWORD", "p"),
                ("OS_PROJECT_NAME", "geo"),
                ("OS_USER_DOMAIN_NAME", "corp"),
            ],
        )
        .unwrap();
        assert_eq!(url, "https://k.example:5000/v3");
        let user = json!({"name": "ann", "domain": {"name": "corp"}, "password": "p"});
        assert_eq!(
            auth["identity"],
            json!({"methods": ["password"], "password": {"user": user}})
        );
        assert_eq!(auth["scope"]["project"]["domain"], json!({"name": "corp"}));
    }

    #[test]
    fn an_application_credential_has_its_own_scope() {
        let env = [URL, ("OS_APPLICATION_CREDENTIAL_SECRET", "s")];
        let (_, auth) = asked("application_credential_id = \"abc\"", &env).unwrap();
        assert_eq!(
            auth["identity"]["application_credential"],
            json!({"id": "abc", "secret": "s"})
        );
        assert_eq!(auth.get("scope"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let e = asked("", &[URL, ("OS_USERNAME", "ann"), ("OS_PROJECT_ID", "p")]).unwrap_err();
        assert!(e.code == Code::Credentials && e.message.contains("password"), "{e}");
        let e = asked("", &[("HOME", "/nonexistent")]).unwrap_err();
        assert!(e.message.contains("clouds.yaml"), "{e}");
        let e = asked("", &[URL, ("OS_AUTH_TYPE", "v3oidcpassword")]).unwrap_err();
        assert!(e.message.contains("v3oidcpassword"), "{e}");
        let e = asked("auth_url = \"http://k.example\"", &[("HOME", "/nonexistent")]).unwrap_err();
        assert_eq!(e.code, Code::Usage);
    }

    #[test]
    fn addresses_have_one_version() {
        for url in [
            "https://k/identity",
            "https://k/identity/v3/",
            "https://k/identity/v2.0",
        ] {
            assert_eq!(versioned(url), "https://k/identity/v3");
        }
    }
}
