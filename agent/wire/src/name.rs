//! Names of clusters and nodes. All are fit for DNS labels, so that they can
//! stand in certificates, cloud resources and host names unchanged.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Suffix of every DNS name in a cluster's certificates. `.internal` is
/// reserved for private use, so no public name can ever match.
pub const DOMAIN: &str = "herdsman.internal";

/// The DNS label under which the scheduler's certificates are issued.
pub const SCHEDULER_LABEL: &str = "scheduler";

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}`: {why}")]
pub struct NameError {
    what: &'static str,
    text: String,
    why: String,
}

fn label(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    let fail = |why: String| {
        Err(NameError {
            what,
            text: text.chars().take(80).collect(),
            why,
        })
    };
    if text.is_empty() {
        return fail("is empty".into());
    }
    if text.len() > max {
        return fail(format!("is longer than {max} characters"));
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return fail(format!("holds {c:?}; only a-z, 0-9 and - are allowed"));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return fail("starts or ends with -".into());
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
    };
}

text_type! {
    /// What the user calls the cluster: 1 to 40 characters, starting with a letter.
    ClusterName
}
text_type! {
    /// A cluster's random identity: ten characters of base32. Two clusters of the
    /// same name never share one, so certificates of the one are foreign to the other.
    ClusterId
}
text_type! {
    /// A node's name: the VM's name, the Dask worker's name and the key in the
    /// plan. At most 63 characters.
    NodeName
}

impl FromStr for ClusterName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        label("cluster name", s, 40)?;
        if !s.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(NameError {
                what: "cluster name",
                text: s.into(),
                why: "does not start with a letter".into(),
            });
        }
        Ok(Self(s.into()))
    }
}

impl FromStr for ClusterId {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let ok = s.len() == 10 && s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if ok {
            Ok(Self(s.into()))
        } else {
            Err(NameError {
                what: "cluster id",
                text: s.chars().take(80).collect(),
                why: "is not ten characters of base32 (a-z, 2-7)".into(),
            })
        }
    }
}

impl ClusterId {
    /// Makes an identity of 50 random bits given as bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 10]) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        Self(
            bytes
                .iter()
                .map(|b| char::from(ALPHABET[usize::from(b & 31)]))
                .collect(),
        )
    }

    /// `<label>.<cluster>.herdsman.internal`
    #[must_use]
    pub fn dns(&self, label: &str) -> String {
        format!("{label}.{self}.{DOMAIN}")
    }

    /// Name under which the hub's certificate is verified.
    #[must_use]
    pub fn hub_dns(&self) -> String {
        self.dns(SCHEDULER_LABEL)
    }
}

impl FromStr for NodeName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        label("node name", s, 63)?;
        if s == SCHEDULER_LABEL {
            return Err(NameError {
                what: "node name",
                text: s.into(),
                why: "is the scheduler's own label in certificates".into(),
            });
        }
        Ok(Self(s.into()))
    }
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs Dask's scheduler and the hub.
    Scheduler,
    /// Runs Dask workers.
    Worker,
}

impl Role {
    /// `scheduler` or `worker`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["demo", "a", "x-1", &"a".repeat(40)] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "Demo",
            "1x",
            "-a",
            "a-",
            "a_b",
            "a.b",
            &"a".repeat(41),
            "ä",
            "a/../b",
        ] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        assert!("scheduler".parse::<NodeName>().is_err());
        assert!("demo-scheduler".parse::<NodeName>().is_ok());
        assert!("abcdefghi2".parse::<ClusterId>().is_ok());
        assert!("abcdefghi1".parse::<ClusterId>().is_err());
        assert_eq!(ClusterId::from_random([0; 10]).as_str(), "aaaaaaaaaa");
    }

    #[test]
    fn a_bad_name_in_json_is_named() {
        let e = serde_json::from_str::<NodeName>("\"No Good\"").unwrap_err();
        assert!(e.to_string().contains("node name `No Good`"), "{e}");
    }
}
