//! Where an API is: the vendor's own address, or another that was named.

use herdsman_wire::Code;

use super::super::{ProviderError, error};

/// The beginning of an API's addresses, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(String);

impl Base {
    /// Checks an address: TLS, or this computer. Anything else would send
    /// credentials for all to see.
    ///
    /// # Errors
    /// `E-USAGE`.
    pub fn new(text: &str) -> Result<Self, ProviderError> {
        let bad = |why: &str| Err(error(Code::Usage, format!("endpoint {text:?} {why}")));
        let Ok(uri) = text.parse::<http::Uri>() else {
            return bad("is no address");
        };
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let here = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            _ if host.is_empty() => bad("names no host"),
            Some("https") => Ok(Self(text.trim_end_matches('/').to_owned())),
            Some("http") if here => Ok(Self(text.trim_end_matches('/').to_owned())),
            Some("http") => bad("has no TLS, which only this computer's own addresses may lack"),
            _ => bad("does not begin with https://"),
        }
    }

    /// The address of a path, which begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A query, encoded, with its question mark; empty without pairs.
#[must_use]
pub fn query<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("{}={}", escape(k.as_ref()), escape(v.as_ref())))
        .collect();
    format!("?{}", pairs.join("&"))
}

/// RFC 3986: all but unreserved characters.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_over_tls_or_stay_here() {
        for good in [
            "https://ec2.eu-central-1.amazonaws.com",
            "http://127.0.0.1:5000/",
            "http://[::1]:5000",
            "http://localhost:1",
        ] {
            assert_eq!(Base::new(good).unwrap().as_str(), good.trim_end_matches('/'));
        }
        for bad in [
            "http://example.org",
            "http://127.0.0.1.example.org",
            "ftp://127.0.0.1",
            "127.0.0.1:5000",
            "",
            "https://",
        ] {
            assert!(Base::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(query::<&str, &str>(&[]), "");
        assert_eq!(query(&[("a b", "c&d"), ("e", "ü~")]), "?a%20b=c%26d&e=%C3%BC~");
    }
}
