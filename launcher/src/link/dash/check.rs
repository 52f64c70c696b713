//! What a browser may ask for; pure. A page of any site can make a browser send
//! requests to this port (and with DNS rebinding even read the answers), and any
//! user of this machine can connect to it. So a request must name this port as
//! its host, come from no other origin, and carry a secret that only who ran
//! the command knows.

use hyper::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use hyper::{Method, StatusCode, Uri};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

use herdsman_wire::{ApiError, Code, Secret};

/// What of the scheduler's dashboard would lead on to other machines and ports.
const CLOSED: &str = "proxy";

/// The secret of one `herdsman dash`: 32 hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Token(Secret);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// [`Code::Internal`] when the system has no random numbers.
    pub fn random() -> Result<Self, ApiError> {
        let mut bytes = [0; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| ApiError::new(Code::Internal, "the system gives no random numbers"))?;
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self(Secret::new(text)))
    }

    /// The link that lets a browser in. As good as the secret itself.
    #[must_use]
    pub fn link(&self, port: u16) -> String {
        format!("http://127.0.0.1:{port}/?token={}", self.0.reveal())
    }

    pub(super) fn cookie(&self, port: u16) -> String {
        format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/",
            cookie_name(port),
            self.0.reveal()
        )
    }

    /// Digests are compared, so that time tells nothing of the secret.
    fn is(&self, text: &str) -> bool {
        digest(&SHA256, text.as_bytes()).as_ref() == digest(&SHA256, self.0.reveal().as_bytes()).as_ref()
    }
}

/// Browsers do not tell ports apart for cookies, so the name does.
fn cookie_name(port: u16) -> String {
    format!("herdsman-dash-{port}")
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it on.
    Forward,
    /// The secret was in the address: give it as a cookie and go on without.
    Welcome,
    /// Answer with this.
    Refuse(StatusCode, &'static str),
}

/// Judges the head of a request to `port`.
pub(super) fn judge(method: &Method, uri: &Uri, headers: &HeaderMap, port: u16, token: &Token) -> Verdict {
    let refuse = |why| Verdict::Refuse(StatusCode::FORBIDDEN, why);
    if !host_is_ours(uri, headers, port) {
        return refuse("this address is not the dashboard's: open the link that `herdsman dash` printed");
    }
    if !origin_is_ours(headers, port) {
        return refuse("pages of other origins may not use the dashboard");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Verdict::Refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "the dashboard is for looking only: GET and HEAD",
        );
    }
    if has_body(headers) {
        return Verdict::Refuse(StatusCode::BAD_REQUEST, "requests with a body are not handed on");
    }
    if in_address(uri).is_some_and(|t| token.is(t)) {
        return Verdict::Welcome;
    }
    if !has_cookie(headers, port, token) {
        return refuse(
            "this browser was not let in: open the link that `herdsman dash` printed (it ends in ?token=...)",
        );
    }
    if is_closed(uri.path()) {
        return Verdict::Refuse(
            StatusCode::NOT_FOUND,
            "the scheduler's proxy to other machines is not handed on",
        );
    }
    Verdict::Forward
}

fn names(port: u16) -> Vec<String> {
    let mut names = Vec::new();
    for host in ["127.0.0.1", "localhost"] {
        names.push(format!("{host}:{port}"));
        // Browsers leave out what is usual.
        if port == 80 {
            names.push(host.to_owned());
        }
    }
    names
}

fn host_is_ours(uri: &Uri, headers: &HeaderMap, port: u16) -> bool {
    let is_ours = |host: &str| names(port).iter().any(|n| n.eq_ignore_ascii_case(host));
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    // Proxies are asked with a host in the first line; it must not differ.
    host.to_str().is_ok_and(is_ours) && uri.authority().is_none_or(|a| is_ours(a.as_str()))
}

fn origin_is_ours(headers: &HeaderMap, port: u16) -> bool {
    headers.get_all(ORIGIN).iter().all(|origin| {
        let host = origin.to_str().ok().and_then(|o| o.strip_prefix("http://"));
        host.is_some_and(|h| names(port).iter().any(|n| n.eq_ignore_ascii_case(h)))
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|l| l != "0")
}

/// `/?token=TOKEN` or `/TOKEN/`.
fn in_address(uri: &Uri) -> Option<&str> {
    let path = uri.path();
    if path == "/" {
        return uri.query()?.split('&').find_map(|p| p.strip_prefix("token="));
    }
    let inner = path.strip_prefix('/')?;
    Some(inner.strip_suffix('/').unwrap_or(inner))
}

fn has_cookie(headers: &HeaderMap, port: u16, token: &Token) -> bool {
    let name = cookie_name(port);
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .any(|(n, v)| n == name && token.is(v))
}

/// Wherever it stands in the path (dashboards may have a prefix) and however it
/// is written.
fn is_closed(path: &str) -> bool {
    decode(path)
        .split(['/', '\\'])
        .any(|part| part.trim().eq_ignore_ascii_case(CLOSED))
}

/// Undoes percent encoding, twice over as careless servers do.
fn decode(path: &str) -> String {
    let once = |text: &[u8]| {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((first, tail)) = rest.split_first() {
            let byte = tail
                .get(..2)
                .filter(|_| *first == b'%')
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match byte {
                Some(byte) => {
                    out.push(byte);
                    rest = &tail[2..];
                }
                None => {
                    out.push(*first);
                    rest = tail;
                }
            }
        }
        out
    };
    String::from_utf8_lossy(&once(&once(path.as_bytes()))).into_owned()
}

/// Headers that mean something between two neighbours only, and those that are
/// not the cluster's business: cookies of other programs on this host, passwords,
/// where the user came from.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    strip_hop(headers);
    for name in ["cookie", "authorization", "referer", "origin", "host", "content-length"] {
        headers.remove(name);
    }
}

/// The same for answers: the cluster sets no cookies on this host and opens
/// nothing to other origins.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip_hop(headers);
    for name in [
        "set-cookie",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "clear-site-data",
        "service-worker-allowed",
        "alt-svc",
        "strict-transport-security",
    ] {
        headers.remove(name);
    }
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
}

fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

/// Whether this asks for, or agrees to, a websocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name: &str, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(wanted))
    };
    has("connection", "upgrade") && has("upgrade", "websocket")
}
