//! A call and its answer.

use bytes::Bytes;
use http::{HeaderMap, Method};

/// How often a call may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or has an idempotency key, or does the same when done twice.
    Harmless,
    /// Once: it is repeated only when the vendor says that it was not done, or it
    /// never left.
    Never,
}

/// A request, without what authorizes it.
#[derive(Clone, Debug)]
pub struct Call {
    /// What the vendor calls it, for logs and errors.
    pub name: String,
    /// Method.
    pub method: Method,
    /// The whole address, with its query.
    pub url: String,
    /// Headers besides those of authorization.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How often it may be carried out.
    pub repeat: Repeat,
}

impl Call {
    /// A call that reads.
    #[must_use]
    pub fn get(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repeat: Repeat::Harmless,
        }
    }

    /// A call that deletes, which twice does the same as once.
    #[must_use]
    pub fn delete(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(name, url)
        }
    }

    /// A call with a body.
    #[must_use]
    pub fn with_body(name: impl Into<String>, method: Method, url: impl Into<String>, body: Bytes) -> Self {
        Self {
            method,
            body,
            repeat: Repeat::Never,
            ..Self::get(name, url)
        }
    }

    /// Twice does the same as once.
    #[must_use]
    pub const fn harmless(mut self) -> Self {
        self.repeat = Repeat::Harmless;
        self
    }

    /// With a header; one that cannot be sent is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.headers.insert(name, value);
        }
        self
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text, for errors.
    #[must_use]
    pub fn text(&self) -> String {
        super::super::limited(&String::from_utf8_lossy(&self.body))
    }
}
