//! Who a certificate's holder is: a URI in the subject alternative names,
//! `herdsman://<cluster>/<kind>/<detail>[?generation=N]`.
//!
//! The URI is the only thing that authorisation looks at; the DNS name beside it
//! is for the verification of servers.

use std::fmt;
use std::str::FromStr;

use crate::name::{ClusterId, Role};

/// Longest user name in an operator's or client's certificate.
const MAX_USER: usize = 64;

/// What a certificate allows its holder to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// May enrol once (or N times for a batch) as a node of this role.
    Boot(Role),
    /// A node's agent, on 8785 only. The generation grows with each renewal.
    Agent {
        /// The node's role.
        role: Role,
        /// 1 at enrolment, +1 at each renewal.
        generation: u64,
    },
    /// A node's Dask process, on Dask's ports only.
    Dask(Role),
    /// A user's Dask client.
    Client(String),
    /// A user's launcher.
    Operator(String),
}

/// A certificate's holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// What it may be.
    pub kind: Kind,
}

/// A URI that is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate names no herdsman identity: {0}")]
pub struct IdentityError(String);

/// Whether a text may stand for a user in a certificate: 1 to 64 characters of
/// `a-z A-Z 0-9 . _ @ + -`.
#[must_use]
pub fn is_user_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_USER
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'+' | b'-'))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "herdsman://{}/", self.cluster)?;
        match &self.kind {
            Kind::Boot(role) => write!(f, "boot/{role}"),
            Kind::Agent { role, generation } => write!(f, "agent/{role}?generation={generation}"),
            Kind::Dask(role) => write!(f, "dask/{role}"),
            Kind::Client(user) => write!(f, "dask/client/{user}"),
            Kind::Operator(user) => write!(f, "operator/{user}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError(uri.chars().take(120).collect());
        let rest = uri.strip_prefix("herdsman://").ok_or_else(bad)?;
        let (cluster, path) = rest.split_once('/').ok_or_else(bad)?;
        let cluster: ClusterId = cluster.parse().map_err(|_| bad())?;
        let (path, query) = match path.split_once('?') {
            Some((p, q)) => (p, Some(q)),
            None => (path, None),
        };
        let role = |text: &str| match text {
            "scheduler" => Ok(Role::Scheduler),
            "worker" => Ok(Role::Worker),
            _ => Err(bad()),
        };
        let user = |text: &str| {
            if is_user_name(text) {
                Ok(text.to_owned())
            } else {
                Err(bad())
            }
        };
        let parts: Vec<&str> = path.split('/').collect();
        let kind = match (parts.as_slice(), query) {
            (["boot", r], None) => Kind::Boot(role(r)?),
            (["agent", r], Some(q)) => {
                let number = q.strip_prefix("generation=").ok_or_else(bad)?;
                Kind::Agent {
                    role: role(r)?,
                    generation: number.parse().map_err(|_| bad())?,
                }
            }
            (["dask", "client", u], None) => Kind::Client(user(u)?),
            (["dask", r], None) => Kind::Dask(role(r)?),
            (["operator", u], None) => Kind::Operator(user(u)?),
            _ => return Err(bad()),
        };
        Ok(Self { cluster, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        let role = prop_oneof![Just(Role::Scheduler), Just(Role::Worker)];
        prop_oneof![
            role.clone().prop_map(Kind::Boot),
            (role.clone(), any::<u64>()).prop_map(|(role, generation)| Kind::Agent { role, generation }),
            role.prop_map(Kind::Dask),
            "[a-zA-Z0-9._@+-]{1,64}".prop_map(Kind::Client),
            "[a-zA-Z0-9._@+-]{1,64}".prop_map(Kind::Operator),
        ]
    }

    proptest! {
        #[test]
        fn uri_and_back(kind in kinds()) {
            let id = Identity { cluster: ClusterId::from_random([7; 10]), kind };
            prop_assert_eq!(id.to_string().parse::<Identity>().unwrap(), id);
        }

        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ = text.parse::<Identity>();
        }
    }

    #[test]
    fn refuses_what_is_almost_right() {
        for bad in [
            "herdsman://aaaaaaaaaa/agent/worker",
            "herdsman://aaaaaaaaaa/agent/worker?generation=-1",
            "herdsman://aaaaaaaaaa/operator/",
            "herdsman://aaaaaaaaaa/operator/a/b",
            "herdsman://aaaaaaaaaa/dask/client",
            "herdsman://AAAAAAAAAA/boot/worker",
            "herdsman://aaaaaaaaaa/boot/worker?x=1",
            "https://aaaaaaaaaa/boot/worker",
            "",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
