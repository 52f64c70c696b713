//! Who may do what: one table.

use herdsman_wire::{ApiError, Code, Identity, Kind, Role};
use hyper::Method;

/// Everything the API offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /v1/version`
    Version,
    /// `GET /v1/csr`
    Csr,
    /// `POST /v1/install`
    Install,
    /// `POST /v1/expect`
    Expect,
    /// `POST /v1/enrol`
    Enrol,
    /// `POST /v1/renew`
    Renew,
    /// `GET /v1/beat`, upgraded: a node's session
    Beat,
    /// `GET /v1/stream/<token>`, upgraded: a node serves a stream
    Serve,
    /// `POST /v1/operator`
    Operator,
    /// `POST /v1/invites`
    Invites,
    /// `POST /v1/retire`
    Retire,
    /// `POST /v1/remove`
    Remove,
    /// `POST /v1/revoke`
    Revoke,
    /// `POST /v1/limits`
    Limits,
    /// `POST /v1/environment`
    Environment,
    /// `POST /v1/shutdown`
    Shutdown,
    /// `GET /v1/status`
    Status,
    /// `GET /v1/events`
    Events,
    /// `GET /v1/audit`
    Audit,
    /// `POST /v1/nodes/<name>/<restart|renew|upgrade/SHA256>`
    NodeCommand,
    /// `GET /v1/nodes/<name>/stream`, upgraded: logs and commands of a node
    NodeStream,
    /// `GET /v1/tunnel/<scheduler|dashboard>`, upgraded
    Tunnel,
    /// `GET /v1/blobs/<sha256>`
    BlobGet,
    /// `HEAD /v1/blobs/<sha256>`
    BlobHead,
    /// `PUT /v1/blobs/<sha256>`
    BlobPut,
}

/// Kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A launcher.
    Operator,
    /// A worker's agent.
    Worker,
    /// The scheduler's agent itself.
    Scheduler,
    /// A machine that is no node yet.
    Boot,
    /// Anything else that our roots signed, for example a Dask certificate.
    Other,
}

impl Caller {
    /// The caller that a certificate stands for.
    #[must_use]
    pub const fn of(identity: &Identity) -> Self {
        match &identity.kind {
            Kind::Operator(_) => Self::Operator,
            Kind::Agent { role: Role::Worker, .. } => Self::Worker,
            Kind::Agent {
                role: Role::Scheduler, ..
            } => Self::Scheduler,
            Kind::Boot(Role::Worker) => Self::Boot,
            Kind::Boot(Role::Scheduler) | Kind::Dask(_) | Kind::Client(_) => Self::Other,
        }
    }
}

impl Route {
    /// All routes, for the table's test.
    pub const ALL: [Self; 25] = [
        Self::Version,
        Self::Csr,
        Self::Install,
        Self::Expect,
        Self::Enrol,
        Self::Renew,
        Self::Beat,
        Self::Serve,
        Self::Operator,
        Self::Invites,
        Self::Retire,
        Self::Remove,
        Self::Revoke,
        Self::Limits,
        Self::Environment,
        Self::Shutdown,
        Self::Status,
        Self::Events,
        Self::Audit,
        Self::NodeCommand,
        Self::NodeStream,
        Self::Tunnel,
        Self::BlobGet,
        Self::BlobHead,
        Self::BlobPut,
    ];

    /// The table.
    #[must_use]
    pub const fn permits(self, caller: Caller) -> bool {
        match self {
            Self::Version => !matches!(caller, Caller::Other),
            Self::Enrol => matches!(caller, Caller::Boot),
            Self::Renew => matches!(caller, Caller::Worker),
            Self::Beat | Self::Serve => matches!(caller, Caller::Worker),
            Self::BlobGet => matches!(caller, Caller::Worker | Caller::Operator),
            Self::Csr
            | Self::Install
            | Self::Expect
            | Self::Operator
            | Self::Invites
            | Self::Retire
            | Self::Remove
            | Self::Revoke
            | Self::Limits
            | Self::Environment
            | Self::Shutdown
            | Self::Status
            | Self::Events
            | Self::Audit
            | Self::NodeCommand
            | Self::NodeStream
            | Self::Tunnel
            | Self::BlobHead
            | Self::BlobPut => matches!(caller, Caller::Operator),
        }
    }

    /// Finds the route of a request; the text is the variable part of the path.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn find<'a>(method: &Method, path: &'a str) -> Result<(Self, &'a str), ApiError> {
        let missing = || {
            let shown: String = path.chars().take(120).collect();
            ApiError::new(Code::NotFound, format!("this agent has no `{method} {shown}`"))
        };
        let rest = path.strip_prefix("/v1/").ok_or_else(missing)?;
        let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let get = method == Method::GET;
        let post = method == Method::POST;
        let route = match (head, tail) {
            ("version", "") if get => Self::Version,
            ("csr", "") if get => Self::Csr,
            ("status", "") if get => Self::Status,
            ("events", "") if get => Self::Events,
            ("audit", "") if get => Self::Audit,
            ("beat", "") if get => Self::Beat,
            ("install", "") if post => Self::Install,
            ("expect", "") if post => Self::Expect,
            ("enrol", "") if post => Self::Enrol,
            ("renew", "") if post => Self::Renew,
            ("operator", "") if post => Self::Operator,
            ("invites", "") if post => Self::Invites,
            ("retire", "") if post => Self::Retire,
            ("remove", "") if post => Self::Remove,
            ("revoke", "") if post => Self::Revoke,
            ("limits", "") if post => Self::Limits,
            ("environment", "") if post => Self::Environment,
            ("shutdown", "") if post => Self::Shutdown,
            ("stream", t) if get && !t.is_empty() => Self::Serve,
            ("tunnel", t) if get && !t.is_empty() => Self::Tunnel,
            ("nodes", t) if get && t.ends_with("/stream") => Self::NodeStream,
            ("nodes", t) if post && !t.is_empty() => Self::NodeCommand,
            ("blobs", t) if get && !t.is_empty() => Self::BlobGet,
            ("blobs", t) if *method == Method::HEAD && !t.is_empty() => Self::BlobHead,
            ("blobs", t) if *method == Method::PUT && !t.is_empty() => Self::BlobPut,
            _ => return Err(missing()),
        };
        Ok((route, tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_caller_and_route() {
        // Written out by hand, apart from the table above, so that a change to
        // one without the other is seen.
        let nodes_may: &[(Caller, &[Route])] = &[
            (
                Caller::Worker,
                &[Route::Version, Route::Renew, Route::Beat, Route::Serve, Route::BlobGet],
            ),
            (Caller::Scheduler, &[Route::Version]),
            (Caller::Boot, &[Route::Version, Route::Enrol]),
            (Caller::Other, &[]),
        ];
        for route in Route::ALL {
            for (caller, allowed) in nodes_may {
                assert_eq!(route.permits(*caller), allowed.contains(&route), "{caller:?} {route:?}");
            }
            let not_for_operators = [Route::Enrol, Route::Renew, Route::Beat, Route::Serve];
            assert_eq!(
                route.permits(Caller::Operator),
                !not_for_operators.contains(&route),
                "operator {route:?}"
            );
        }
    }

    #[test]
    fn paths() {
        let find = |m: &Method, p: &'static str| Route::find(m, p).map(|(r, t)| (r, t.to_owned()));
        assert_eq!(find(&Method::POST, "/v1/enrol").unwrap().0, Route::Enrol);
        assert_eq!(
            find(&Method::GET, "/v1/nodes/demo-w0/stream").unwrap(),
            (Route::NodeStream, "demo-w0/stream".into())
        );
        assert_eq!(
            find(&Method::GET, "/v1/blobs/abc").unwrap(),
            (Route::BlobGet, "abc".into())
        );
        for (m, p) in [
            (Method::GET, "/"),
            (Method::GET, "/v1/enrol"),
            (Method::POST, "/v2/enrol"),
            (Method::GET, "/v1/tunnel/"),
            (Method::DELETE, "/v1/status"),
            (Method::GET, "/v1/status/x"),
        ] {
            assert_eq!(Route::find(&m, p).unwrap_err().code, Code::NotFound, "{m} {p}");
        }
    }
}
