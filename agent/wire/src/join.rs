//! The join configuration: what a machine needs to become a node, and nothing
//! more. User-data carries it (JSON, at most [`crate::limits::JOIN_CONFIG`]
//! bytes); the agent reads it from a file or a metadata service.
//!
//! Its only secret is the bootstrap certificate's key, which is worthless once
//! the node has enrolled or the certificate expired.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Code};
use crate::limits;
use crate::name::{ClusterId, ClusterName, NodeName, Role};
use crate::secret::Secret;
use crate::time::Timestamp;

/// Version of this document that this build reads and writes.
pub const VERSION: u32 = 1;

/// What a machine is told about the cluster that it shall join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinConfig {
    /// [`VERSION`].
    pub version: u32,
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// What its user calls it; for messages only.
    pub cluster_name: ClusterName,
    /// The node's name; absent where a batch shares one user-data and the hub
    /// gives names by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What the node becomes.
    pub role: Role,
    /// The hub's address; only a worker has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<SocketAddr>,
    /// Address that a scheduler's agent listens on; default `0.0.0.0:8785`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Source address of connections to the hub, where the machine has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// The cluster's roots.
    pub roots: Roots,
    /// The bootstrap certificate.
    pub bootstrap: Bootstrap,
    /// Where files go; the defaults are a machine's own folders, and not written:
    /// user-data is small.
    #[serde(default, skip_serializing_if = "Paths::are_default")]
    pub paths: Paths,
    /// After this time a node that has not enrolled gives up.
    pub deadline: Timestamp,
    /// What becomes of the machine when the node ends.
    #[serde(default, skip_serializing_if = "AtEnd::is_default")]
    pub at_end: AtEnd,
    /// Networks from which a scheduler's agent may be reached before it is
    /// installed: the owner's. What comes after that, the hub knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
}

/// What a node does when its work is over or nobody can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AtEnd {
    /// Whether the machine is powered off when the cluster ended, the node was
    /// removed or refused, or nobody was reached for too long. Absent: yes where the
    /// agent found its configuration as a machine of its own, no where it was given
    /// a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_off: Option<bool>,
    /// A worker that has not reached its hub for so many seconds ends. Absent: after
    /// [`limits::NO_CONTACT`] where the machine is powered off then, never otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_contact_seconds: Option<u64>,
}

impl AtEnd {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Self-signed roots in PEM. Public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// Trusted on 8785 by agents and launchers.
    pub control: String,
    /// Trusted by everybody for the scheduler's Dask certificate.
    pub scheduler: String,
    /// Trusted by scheduler and workers for workers and clients.
    pub node: String,
}

/// A bootstrap certificate and its key in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The certificate, signed by the control root, or by the hub's issuing
    /// certificate, which the hub needs not be shown.
    pub certificate: String,
    /// Its key, PKCS#8.
    pub key: Secret,
}

/// Folders of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Survives a reboot: identity, issuing keys, spent serials, audit, logs.
    pub state: PathBuf,
    /// Lost at a reboot, in memory: Dask's key, sockets, process files.
    pub run: PathBuf,
    /// Environments by hash.
    pub environments: PathBuf,
}

impl Paths {
    fn are_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/var/lib/herdsman".into(),
            run: "/run/herdsman".into(),
            environments: "/opt/herdsman/env".into(),
        }
    }
}

impl JoinConfig {
    /// Reads a join configuration.
    ///
    /// # Errors
    /// [`Code::TooLarge`], [`Code::Malformed`] naming the field, or
    /// [`Code::Protocol`] naming both versions. The text itself is never part of
    /// the error: it holds a key.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.len() > limits::JOIN_CONFIG {
            return Err(ApiError::new(
                Code::TooLarge,
                format!(
                    "the join configuration has {} bytes; the limit is {}",
                    bytes.len(),
                    limits::JOIN_CONFIG
                ),
            ));
        }
        let malformed = |what: String| {
            ApiError::new(Code::Malformed, format!("join configuration: {what}"))
                .with_hint("render it anew with `herdsman render cloud-init`, or run `herdsman up` again")
        };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        // The version first: a newer document has fields that this build would
        // report as unknown, which hides the real reason.
        let head: Head = serde_json::from_slice(bytes).map_err(|e| malformed(located(bytes, &e)))?;
        if head.version != VERSION {
            return Err(ApiError::new(
                Code::Protocol,
                format!(
                    "the join configuration has version {}, this agent reads version {VERSION}",
                    head.version
                ),
            )
            .with_hint("use an agent and a launcher of the same release"));
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|e| malformed(located(bytes, &e)))?;
        config.check().map_err(malformed)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        match (self.role, &self.hub, &self.node) {
            (Role::Worker, None, _) => return Err("field `hub`: a worker needs the hub's address".into()),
            (Role::Scheduler, Some(_), _) => return Err("field `hub`: a scheduler has none".into()),
            (Role::Scheduler, _, None) => return Err("field `node`: a scheduler needs its name".into()),
            _ => {}
        }
        for (name, path) in [
            ("paths.state", &self.paths.state),
            ("paths.run", &self.paths.run),
            ("paths.environments", &self.paths.environments),
        ] {
            if !path.is_absolute() {
                return Err(format!("field `{name}`: {} is no absolute path", path.display()));
            }
        }
        Ok(())
    }

    /// Where a scheduler's agent listens.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], limits::AGENT_PORT)))
    }
}

/// serde's words without the text that it stumbled over, which may be a key in the
/// wrong place.
fn unquoted(e: &serde_json::Error) -> String {
    let words = e.to_string();
    let mark = "string \"";
    match (words.find(mark), words.rfind('"')) {
        (Some(at), Some(end)) if end >= at + mark.len() => {
            format!("{}…{}", &words[..at + mark.len()], &words[end..])
        }
        _ => words,
    }
}

/// The error with the field that it is about: the last one that begins before
/// the place that the parser tells.
fn located(bytes: &[u8], e: &serde_json::Error) -> String {
    let words = unquoted(e);
    let line_start: usize = bytes
        .split_inclusive(|b| *b == b'\n')
        .take(e.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    let before = bytes.get(..line_start + e.column()).unwrap_or(bytes);
    let before = String::from_utf8_lossy(before);
    let mut quoted = before.split('"').collect::<Vec<_>>().into_iter().rev();
    let mut after = quoted.next();
    let field = quoted.find(|text| {
        let is_key = after.is_some_and(|a| a.trim_start().starts_with(':'));
        after = Some(text);
        is_key && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    });
    match field {
        Some(field) if !words.contains(&format!("`{field}`")) => format!("field `{field}`: {words}"),
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "version": 1, "cluster": "aaaaaaaaaa", "cluster_name": "demo", "node": "demo-w0",
            "role": "worker", "hub": "10.0.0.2:8785",
            "roots": {"control": "c", "scheduler": "s", "node": "n"},
            "bootstrap": {"certificate": "pem", "key": "KEY-MATERIAL"},
            "deadline": 1000
        })
    }

    fn parse(v: &serde_json::Value) -> Result<JoinConfig, ApiError> {
        JoinConfig::parse(v.to_string().as_bytes())
    }

    #[test]
    fn reads_a_worker() {
        let c = parse(&sample()).unwrap();
        assert_eq!(c.paths, Paths::default());
        assert!(!format!("{c:?}").contains("KEY-MATERIAL"));
        assert_eq!(JoinConfig::parse(&serde_json::to_vec(&c).unwrap()).unwrap(), c);
    }

    #[test]
    fn every_fault_names_its_field_and_no_key() {
        let mut cases: Vec<(&str, serde_json::Value)> = Vec::new();
        for (field, value) in [
            ("version", serde_json::json!("one")),
            ("cluster", serde_json::json!("x")),
            ("node", serde_json::json!("-bad-")),
            ("role", serde_json::json!("king")),
            ("hub", serde_json::json!("example.org:1")),
            ("deadline", serde_json::json!(-1)),
            ("paths", serde_json::json!({"state": "relative"})),
            ("paths", serde_json::json!("KEY-MATERIAL")),
            ("bootstrap", serde_json::json!("KEY-MATERIAL")),
            ("at_end.power_off", serde_json::json!({"power_off": "KEY-MATERIAL"})),
            ("surprise", serde_json::json!(1)),
        ] {
            let mut v = sample();
            v[field.split('.').next().unwrap()] = value;
            let field = field.rsplit('.').next().unwrap();
            cases.push((field, v));
        }
        let mut v = sample();
        v.as_object_mut().unwrap().remove("hub");
        cases.push(("hub", v));
        for (field, v) in cases {
            let e = parse(&v).unwrap_err();
            assert!(!e.message.contains("KEY-MATERIAL"), "{field}");
            assert!(e.message.contains(field), "{field}: {e}");
        }
    }

    #[test]
    fn size_and_version_come_first() {
        assert_eq!(
            JoinConfig::parse(&vec![b' '; limits::JOIN_CONFIG + 1])
                .unwrap_err()
                .code,
            Code::TooLarge
        );
        let e = JoinConfig::parse(br#"{"version": 9, "from": "the future"}"#).unwrap_err();
        assert_eq!(e.code, Code::Protocol);
        assert!(
            e.message.contains("version 9") && e.message.contains("version 1"),
            "{e}"
        );
        for cut in [0, 1, 20, 100] {
            let text = sample().to_string();
            assert_eq!(
                JoinConfig::parse(&text.as_bytes()[..cut]).unwrap_err().code,
                Code::Malformed
            );
        }
    }
}
