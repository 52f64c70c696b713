//! Credentials by the vendor's own crate: a service account's key, a user's refresh
//! token, federated and impersonated identities, and the metadata server of a machine.
//! Which of them is found in the order of AIP-4110, with a file of the settings, and
//! `GOOGLE_CREDENTIALS` as other tools have it, before them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::{
    CacheableResource, Credentials, external_account, impersonated, mds, service_account, user_account,
};
use herdsman_wire::{Code, tls};
use http::Request;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::{error, limited};
use super::gcloud;
use super::settings::Settings;

/// What a token is asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Longest search for a token.
const SEARCH: Duration = Duration::from_secs(30);

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A variable that holds them.
    Variable(&'static str),
    /// A file.
    File(PathBuf),
    /// The machine that this runs on.
    Machine,
}

/// What is known of credentials without asking anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Kind and place, for people.
    pub(super) what: String,
    /// Whose they are.
    pub(super) email: Option<String>,
    /// Project that they belong to.
    pub(super) project: Option<String>,
}

/// Credentials, looked for when they are needed first.
pub(super) struct Login {
    source: Source,
    text: Option<String>,
    quota_project: Option<String>,
    found: Mutex<Option<Credentials>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Login {
    pub(super) fn new(settings: &Settings) -> Self {
        let env = &settings.common.env;
        let given = env.get("GOOGLE_CREDENTIALS");
        let named = settings.own.credentials.clone();
        let well_known = gcloud::folder(env).map(|f| f.join("application_default_credentials.json"));
        let file = |p: PathBuf| Source::File(settings.common.base.join(p));
        let source = match (named, given, env.get("GOOGLE_APPLICATION_CREDENTIALS")) {
            (Some(named), ..) => file(named),
            (None, Some(given), _) if given.trim_start().starts_with('{') => Source::Variable("GOOGLE_CREDENTIALS"),
            (None, Some(given), _) => Source::File(given.into()),
            (None, None, Some(path)) => Source::File(path.into()),
            (None, None, None) => match well_known.filter(|p| p.exists()) {
                Some(path) => Source::File(path),
                None => Source::Machine,
            },
        };
        let quota = settings.own.quota_project.clone();
        Self {
            text: given
                .filter(|_| matches!(source, Source::Variable(_)))
                .map(str::to_owned),
            source,
            quota_project: quota.or_else(|| env.get("GOOGLE_CLOUD_QUOTA_PROJECT").map(str::to_owned)),
            found: Mutex::new(None),
        }
    }

    fn document(&self) -> Result<Option<Value>, ProviderError> {
        let (text, what) = match &self.source {
            Source::Machine => return Ok(None),
            Source::Variable(name) => (self.text.clone().unwrap_or_default(), (*name).to_owned()),
            Source::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| bad(path, &e.to_string()))?;
                (text, path.display().to_string())
            }
        };
        // The parser's own words would show a piece of the text.
        let parsed = serde_json::from_str(&text).map_err(|_| bad(Path::new(&what), "it is no JSON"))?;
        Ok(Some(parsed))
    }

    /// What can be said of them.
    ///
    /// # Errors
    /// `E-CREDENTIALS` when their file cannot be read.
    pub(super) fn identity(&self) -> Result<Identity, ProviderError> {
        let Some(document) = self.document()? else {
            return Ok(Identity {
                what: "the service account of this machine".into(),
                ..Identity::default()
            });
        };
        let text = |key: &str| document[key].as_str().map(str::to_owned);
        let kind = match document["type"].as_str() {
            Some("service_account") => "key of a service account",
            Some("authorized_user") => "login of a user",
            Some("external_account") => "federated identity",
            Some("impersonated_service_account") => "impersonated service account",
            _ => "unknown kind",
        };
        let place = match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Variable(name) => (*name).to_owned(),
            Source::Machine => String::new(),
        };
        let impersonated = text("service_account_impersonation_url");
        let target = impersonated
            .as_deref()
            .and_then(|u| u.rsplit('/').next()?.split(':').next());
        Ok(Identity {
            what: format!("{kind}, {place}"),
            email: text("client_email").or_else(|| target.map(str::to_owned)),
            project: text("project_id").or_else(|| text("quota_project_id")),
        })
    }

    /// Those that are in use are refused: the next call looks for others. Gives
    /// whether there may be others.
    pub(super) fn forget(&self) -> bool {
        self.kept().take().is_some()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Credentials>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credentials(&self) -> Result<Credentials, ProviderError> {
        if let Some(kept) = self.kept().clone() {
            return Ok(kept);
        }
        let made = self.build()?;
        *self.kept() = Some(made.clone());
        Ok(made)
    }

    fn build(&self) -> Result<Credentials, ProviderError> {
        // The vendor's crate takes whatever provider the process has; there is one.
        let _ = rustls::crypto::CryptoProvider::clone(&tls::provider()).install_default();
        let document = self.document()?;
        let kind = document
            .as_ref()
            .map(|d| d["type"].as_str().unwrap_or_default().to_owned());
        let quota = self.quota_project.as_deref();
        let made: Result<Credentials, BuildError> = match (kind.as_deref(), document) {
            (Some("service_account"), Some(d)) => {
                let scopes = service_account::AccessSpecifier::from_scopes([SCOPE]);
                let b = service_account::Builder::new(d).with_access_specifier(scopes);
                quota.into_iter().fold(b, |b, q| b.with_quota_project_id(q)).build()
            }
            (Some("authorized_user"), Some(d)) => {
                let b = user_account::Builder::new(d);
                quota.into_iter().fold(b, |b, q| b.with_quota_project_id(q)).build()
            }
            (Some("external_account"), Some(d)) => {
                let b = external_account::Builder::new(d).with_scopes([SCOPE]);
                quota.into_iter().fold(b, |b, q| b.with_quota_project_id(q)).build()
            }
            (Some("impersonated_service_account"), Some(d)) => {
                let b = impersonated::Builder::new(d).with_scopes([SCOPE]);
                quota.into_iter().fold(b, |b, q| b.with_quota_project_id(q)).build()
            }
            (None, _) => {
                let b = mds::Builder::default().with_scopes([SCOPE]);
                quota.into_iter().fold(b, |b, q| b.with_quota_project_id(q)).build()
            }
            (Some(other), _) => return Err(none_found(&format!("{other:?} is no kind of credentials"))),
        };
        made.map_err(|e| none_found(&causes(&e)))
    }

    /// Adds the headers that authorize a request.
    ///
    /// # Errors
    /// `E-CREDENTIALS` with where was looked.
    pub(super) async fn authorize(&self, request: &mut Request<Bytes>) -> Result<(), ProviderError> {
        let credentials = self.credentials()?;
        let asked = tokio::time::timeout(SEARCH, credentials.headers(http::Extensions::new()));
        let headers = match asked.await {
            Ok(Ok(CacheableResource::New { data, .. })) => data,
            Ok(Ok(CacheableResource::NotModified)) => return Err(none_found("the vendor's crate gave no token")),
            Ok(Err(e)) => {
                self.forget();
                let text = causes(&e);
                return Err(if matches!(self.source, Source::Machine) {
                    none_found("no variable or file names any, and this is no machine of the vendor's")
                } else {
                    refused(&text)
                });
            }
            Err(_) => {
                self.forget();
                return Err(none_found("the search took too long"));
            }
        };
        request.headers_mut().extend(headers);
        Ok(())
    }
}

/// An error with what is behind it, once each.
fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    limited(&text)
}

fn bad(path: &Path, why: &str) -> ProviderError {
    error(Code::Credentials, format!("credentials {}: {why}", path.display()))
        .with_hint("gcloud auth application-default login             makes new ones")
}

fn refused(why: &str) -> ProviderError {
    error(
        Code::Credentials,
        format!("GCP gives no token for the credentials: {why}"),
    )
    .with_hint("gcloud auth application-default login             makes new ones")
    .with_hint("herdsman check gcp                                says which were found")
}

fn none_found(why: &str) -> ProviderError {
    error(Code::Credentials, format!("no credentials for GCP: {}", limited(why)))
        .with_hint("gcloud auth application-default login             sets them up")
        .with_hint("export GOOGLE_APPLICATION_CREDENTIALS=key.json    names a file; `credentials` in [gcp] does so too")
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    fn login(table: &str, env: &[(&str, &str)]) -> Login {
        let settings = Settings::new(Common {
            table: table.parse().unwrap(),
            base: "/base".into(),
            env: [("HOME", "/nonexistent")].iter().chain(env).copied().collect(),
            ..Common::default()
        });
        Login::new(&settings.unwrap())
    }

    #[test]
    fn the_nearest_source_counts() {
        let file = |p: &str| Source::File(p.into());
        assert_eq!(login("", &[]).source, Source::Machine);
        let adc = ("GOOGLE_APPLICATION_CREDENTIALS", "/a.json");
        assert_eq!(login("", &[adc]).source, file("/a.json"));
        assert_eq!(
            login("", &[adc, ("GOOGLE_CREDENTIALS", "/b.json")]).source,
            file("/b.json")
        );
        let text = (
            "GOOGLE_CREDENTIALS",
            "{\"type\": \"authorized_user\", \"quota_project_id\": \"p\"}",
        );
        let l = login("", &[adc, text]);
        assert_eq!(l.source, Source::Variable("GOOGLE_CREDENTIALS"));
        assert_eq!(l.identity().unwrap().project.as_deref(), Some("p"));
        assert_eq!(login("credentials = \"c.json\"", &[adc]).source, file("/base/c.json"));
    }

    #[test]
    fn bad_files_are_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        std::fs::write(&path, "{\"private_key\": \"-----SECRET\", oops").unwrap();
        let adc = ("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap());
        let e = login("", &[adc]).identity().unwrap_err();
        assert_eq!(e.code, Code::Credentials);
        assert!(
            e.message.contains("x.json") && !e.message.contains("SECRET"),
            "{}",
            e.message
        );
        std::fs::write(&path, "{\"type\": \"gdch_service_account\"}").unwrap();
        let e = login("", &[adc]).credentials().unwrap_err();
        assert!(e.message.contains("no kind of credentials"), "{}", e.message);
    }
}
