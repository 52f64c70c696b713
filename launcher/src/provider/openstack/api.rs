//! Calls to Nova, Neutron and Glance: JSON both ways, a token in a header, addresses
//! from Keystone's catalogue. Only what is used is named here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use herdsman_wire::Code;
use http::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::error;
use super::super::cloud::http::{Base, Call, Client, Dialect, Options, Reply, Verdict, by_status, json, json_body};
use super::answers::Token;
use super::auth::Session;
use super::failure;
use super::settings::Settings;

/// Nova's version that is asked for, 2.67 of 2018: with tags in the call that creates
/// (2.52), what flavors have (2.61), policies of server groups (2.64), kinds of volumes
/// (2.67). An older Nova is asked for what it has.
const NEWEST: u32 = 67;

/// First version with tags of servers in the call that creates.
pub(super) const WITH_TAGS: u32 = 52;
/// First version with kinds of volumes.
pub(super) const WITH_VOLUME_TYPE: u32 = 67;
/// First version in which a server group has one policy.
pub(super) const WITH_ONE_POLICY: u32 = 64;

/// A service of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Compute,
    Image,
    Network,
}

impl Service {
    /// As in the catalogue and in access rules.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Image => "image",
            Self::Network => "network",
        }
    }

    /// The address with its version, which catalogues have or leave out.
    fn versioned(self, url: &str) -> String {
        let bare = url.trim_end_matches('/');
        let last = |v: &str| bare.ends_with(&format!("/{v}"));
        match self {
            Self::Compute if bare.contains("/v2.1") => bare.to_owned(),
            // The old name of the same, without versions.
            Self::Compute if last("v2") => format!("{}.1", bare),
            Self::Compute if bare.contains("/v2/") => bare.replacen("/v2/", "/v2.1/", 1),
            Self::Compute => format!("{bare}/v2.1"),
            Self::Image if last("v2") => bare.to_owned(),
            Self::Image => format!("{bare}/v2"),
            Self::Network if last("v2.0") => bare.to_owned(),
            Self::Network => format!("{bare}/v2.0"),
        }
    }
}

/// Puts a token into each request.
#[derive(Debug)]
struct Signer(Arc<Session>);

impl Dialect for Signer {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        _: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move { self.0.get().await?.put_into(request) })
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        match reply.status {
            // What is in front of older services says it so.
            413 if reply.header("retry-after").is_some() => by_status(&Reply {
                status: 429,
                ..reply.clone()
            }),
            _ => by_status(reply),
        }
    }

    fn forget_credentials(&self) -> bool {
        self.0.forget()
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        let restricted = self.0.is_restricted().then(|| self.0.who());
        failure::explain(call, reply, restricted)
    }
}

/// All services that we talk to.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) session: Arc<Session>,
    client: Client<Signer>,
    /// Of Nova's 2.x.
    version: AtomicU32,
    region: Option<String>,
    interface: String,
    overrides: Vec<(Service, String)>,
}

impl Api {
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let mut options = Options::new("openstack");
        let cacert = settings
            .own
            .cacert
            .clone()
            .or_else(|| settings.value(&["cacert"], &["OS_CACERT"]).map(Into::into));
        if let Some(path) = cacert {
            let path = settings.common.base.join(path);
            let pem = std::fs::read_to_string(&path)
                .map_err(|e| error(Code::Usage, format!("cacert {}: {e}", path.display())))?;
            options.extra_roots = Some(pem);
        }
        let unverified = settings.value(&["verify"], &[]).is_some_and(|v| v == "false")
            || (matches!(settings.entry, Ok(None)) && settings.common.env.is_on("OS_INSECURE"));
        if unverified {
            return Err(error(
                Code::Usage,
                "the cloud's settings switch the check of its certificate off, and herdsman sends no credentials so",
            )
            .with_hint("cacert: /path/to/its/root.pem         in clouds.yaml, or OS_CACERT"));
        }
        let interface = settings.own.interface.clone();
        let interface = interface
            .or_else(|| settings.value(&["interface"], &["OS_INTERFACE", "OS_ENDPOINT_TYPE"]))
            .map_or_else(|| "public".to_owned(), |i| i.trim_end_matches("URL").to_owned());
        let services = [Service::Compute, Service::Image, Service::Network];
        let overrides = services.into_iter().filter_map(|s| {
            let key = format!("{}_endpoint_override", s.name());
            let url = settings.value(&[&key], &[&format!("OS_{}", key.to_ascii_uppercase())])?;
            Some((s, url))
        });
        let session = Arc::new(Session::new(settings, options.clone())?);
        Ok(Self {
            client: Client::new(Signer(session.clone()), options)?,
            session,
            version: AtomicU32::new(NEWEST),
            region: settings.region.clone(),
            interface,
            overrides: overrides.collect(),
        })
    }

    /// The vendor's clock minus ours, seconds.
    pub(super) fn skew(&self) -> i64 {
        let own = self.client.skew();
        if own == 0 { self.session.skew() } else { own }
    }

    /// Nova's version in use.
    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    /// Where a service is.
    ///
    /// # Errors
    /// `E-CREDENTIALS` as the session says; `E-USAGE` when the region is not clear;
    /// `E-NOT-FOUND` when there is none.
    pub(super) async fn base(&self, service: Service) -> Result<Base, ProviderError> {
        let grant = self.session.get().await?;
        let named = self
            .overrides
            .iter()
            .find(|(s, _)| *s == service)
            .map(|(_, url)| url.clone());
        let url = match named {
            Some(url) => url,
            None => self.listed(&grant.token, service)?,
        };
        Base::new(&service.versioned(&url)).map_err(|e| e.during(service.name()))
    }

    /// Its address in the catalogue.
    fn listed(&self, token: &Token, service: Service) -> Result<String, ProviderError> {
        let name = service.name();
        let of_service = token.catalog.iter().filter(|s| s.kind == name);
        let mut there: Vec<(&str, &str)> = of_service
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.interface == self.interface)
            .map(|e| (e.region(), e.url.as_str()))
            .collect();
        there.sort_unstable();
        there.dedup_by_key(|(region, _)| *region);
        let regions = || there.iter().map(|(region, _)| *region).collect::<Vec<_>>().join(", ");
        match &self.region {
            Some(region) => there
                .iter()
                .find(|(r, _)| r == region)
                .map(|(_, url)| (*url).to_owned())
                .ok_or_else(|| {
                    let text = format!(
                        "no {} {name} service in region {region}; the catalogue has it in: {}",
                        self.interface,
                        regions()
                    );
                    error(Code::Usage, text).with_hint("herdsman up … --region R              names another")
                }),
            None => match there.as_slice() {
                [(_, url)] => Ok((*url).to_owned()),
                [] => Err(error(
                    Code::NotFound,
                    format!("the catalogue has no {} {name} service", self.interface),
                )),
                _ => Err(error(
                    Code::Usage,
                    format!("the cloud has more than one region: {}", regions()),
                )
                .with_hint(format!(
                    "herdsman … --region {}                names one; OS_REGION_NAME and clouds.yaml do so too",
                    there[0].0
                ))),
            },
        }
    }

    /// A call that reads.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        service: Service,
        name: &str,
        path: &str,
    ) -> Result<T, ProviderError> {
        let url = self.base(service).await?.at(path);
        json(name, &self.send(service, Call::get(name, url)).await?)
    }

    /// All of a list, page by page. `key` is what the vendor calls it.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        service: Service,
        path: &str,
        key: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let name = format!("list {}", key.replace('_', " "));
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let page = match &marker {
                None => path.to_owned(),
                Some(m) => format!("{path}{}marker={m}", if path.contains('?') { '&' } else { '?' }),
            };
            let mut page: Value = self.get(service, &name, &page).await?;
            let items: Vec<T> = serde_json::from_value(page[key].take()).map_err(|e| {
                error(
                    Code::Provider,
                    format!("{name}: the answer is not what it should be: {e}"),
                )
            })?;
            let next = next_marker(&page, key).filter(|m| Some(m) != marker.as_ref() && !items.is_empty());
            all.extend(items);
            if next.is_none() {
                return Ok(all);
            }
            marker = next;
        }
    }

    /// A call that makes something, which is carried out once at most.
    ///
    /// # Errors
    /// As [`failure::explain`] says; [`failure::is_lost`] where nobody knows.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        service: Service,
        name: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, ProviderError> {
        let url = self.base(service).await?.at(path);
        let call =
            Call::with_body(name, Method::POST, url, json_body(body)?).header("content-type", "application/json");
        json(name, &self.send(service, call).await?)
    }

    /// A call that deletes; what is gone already is deleted.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn delete(&self, service: Service, name: &str, path: &str) -> Result<(), ProviderError> {
        let url = self.base(service).await?.at(path);
        match self.send(service, Call::delete(name, url)).await {
            Err(e) if e.code != Code::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Console output is a POST, but only reads.
    ///
    /// # Errors
    /// As [`failure::explain`] says.
    pub(super) async fn read_by_post<T: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, ProviderError> {
        let url = self.base(Service::Compute).await?.at(path);
        let call = Call::with_body(name, Method::POST, url, json_body(body)?)
            .harmless()
            .header("content-type", "application/json");
        json(name, &self.send(Service::Compute, call).await?)
    }

    async fn send(&self, service: Service, call: Call) -> Result<Reply, ProviderError> {
        if service != Service::Compute {
            return self.client.send(&call).await;
        }
        let at = |version: u32| {
            call.clone()
                .header("openstack-api-version", &format!("compute 2.{version}"))
                .header("x-openstack-nova-api-version", &format!("2.{version}"))
        };
        let version = self.version();
        match self.client.send(&at(version)).await {
            Err(e) => match failure::newest_version(&e).filter(|newest| *newest < version) {
                Some(newest) => {
                    tracing::debug!("Nova has no 2.{version}, but 2.{newest}");
                    self.version.store(newest, Ordering::Relaxed);
                    self.client.send(&at(newest)).await
                }
                None => Err(e),
            },
            done => done,
        }
    }
}

/// The mark at which the next page begins, where there is one. Nova and Neutron link to
/// that page beside the list, Glance in a field of its own.
fn next_marker(page: &Value, key: &str) -> Option<String> {
    let links = page[format!("{key}_links")].as_array().into_iter().flatten();
    let next = links.filter(|l| l["rel"] == "next").find_map(|l| l["href"].as_str());
    let query = next.or_else(|| page["next"].as_str())?.split_once('?')?.1;
    let marker = query.split('&').find_map(|pair| pair.strip_prefix("marker="))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.%".contains(&b);
    Some(marker.to_owned()).filter(|m| m.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    #[test]
    fn addresses_of_catalogues_get_their_version() {
        for (service, url, wanted) in [
            (Service::Compute, "https://c/v2.1/", "https://c/v2.1"),
            (Service::Compute, "https://c/v2.1/abc", "https://c/v2.1/abc"),
            (Service::Compute, "https://c/compute", "https://c/compute/v2.1"),
            (Service::Compute, "https://c/v2/abc", "https://c/v2.1/abc"),
            (Service::Network, "https://n:9696", "https://n:9696/v2.0"),
            (Service::Network, "https://n/v2.0", "https://n/v2.0"),
            (Service::Image, "https://i/image", "https://i/image/v2"),
            (Service::Image, "https://i/v2/", "https://i/v2"),
        ] {
            assert_eq!(service.versioned(url), wanted);
        }
    }

    fn api(region: Option<&str>) -> Api {
        let env = [("OS_AUTH_URL", "https://k.example"), ("OS_INTERFACE", "publicURL")];
        let settings = Settings::new(Common {
            region: region.map(str::to_owned),
            env: env.into_iter().collect(),
            ..Common::default()
        });
        Api::new(&settings.unwrap()).unwrap()
    }

    #[test]
    fn a_region_is_chosen_or_asked_for() {
        let token: Token = serde_json::from_value(serde_json::json!({"catalog": [
            {"type": "compute", "endpoints": [
                {"interface": "internal", "region": "a", "url": "https://inside"},
                {"interface": "public", "region": "a", "url": "https://a"},
                {"interface": "public", "region": "b", "region_id": "b", "url": "https://b"},
            ]},
            {"type": "image", "endpoints": [{"interface": "public", "region": "a", "url": "https://i"}]},
        ]}))
        .unwrap();
        assert_eq!(api(Some("b")).listed(&token, Service::Compute).unwrap(), "https://b");
        assert_eq!(api(None).listed(&token, Service::Image).unwrap(), "https://i");
        let e = api(None).listed(&token, Service::Compute).unwrap_err();
        assert!(e.code == Code::Usage && e.message.contains("a, b"), "{e}");
        let e = api(Some("c")).listed(&token, Service::Compute).unwrap_err();
        assert!(e.message.contains("region c"), "{e}");
        assert_eq!(
            api(None).listed(&token, Service::Network).unwrap_err().code,
            Code::NotFound
        );
    }

    #[test]
    fn pages_are_followed_by_their_marks() {
        let json = |text: &str| serde_json::from_str(text).unwrap();
        let nova = json(
            r#"{"servers": [], "servers_links": [{"rel": "next", "href": "https://c/v2.1/servers/detail?limit=1&marker=569f39f9-7c76"}]}"#,
        );
        assert_eq!(next_marker(&nova, "servers").as_deref(), Some("569f39f9-7c76"));
        assert_eq!(next_marker(&nova, "flavors"), None);
        let glance = json(r#"{"images": [], "next": "/v2/images?marker=abc&limit=2"}"#);
        assert_eq!(next_marker(&glance, "images").as_deref(), Some("abc"));
        let odd = json(r#"{"images": [], "next": "/v2/images?marker=a b"}"#);
        assert_eq!(next_marker(&odd, "images"), None);
    }
}
