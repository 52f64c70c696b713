//! What a machine is told at its first boot, as pure functions of values.

use herdsman_wire::join::{AtEnd, Bootstrap, JoinConfig, Roots, VERSION};
use herdsman_wire::{ApiError, Code, NodeName, Role, Secret, Timestamp, limits};

use crate::provider::{ClusterRef, Placement};

pub mod download;
mod render;

pub use download::{Arch, Download, Mirror, Sha256};
pub use render::{JOIN_BEGIN, JOIN_END, Parts, USER_DATA_MAX, UserDataForm, image, user_data};

/// What user-data holds besides the node's own facts.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The agent to download, or why none is known: told only to those who make
    /// machines, for others need none.
    pub download: Result<Download, ApiError>,
    /// Lines of the user's own.
    pub extra: Vec<String>,
}

impl Boot {
    /// What a machine of a node is told.
    ///
    /// # Errors
    /// What [`join_configuration`] and [`user_data`] say.
    pub fn user_data(&self, node: Node<'_>, form: UserDataForm) -> Result<Secret, ApiError> {
        let join = join_configuration(node)?;
        if form == UserDataForm::Json {
            return Ok(join);
        }
        let parts = Parts {
            join: &join,
            download: self.download.as_ref().map_err(Clone::clone)?,
            extra: &self.extra,
            patience: limits::BOOTSTRAP_LIFE,
        };
        user_data(parts, form)
    }
}

/// A node to be told about.
#[derive(Debug)]
pub struct Node<'a> {
    /// The cluster.
    pub cluster: &'a ClusterRef,
    /// The node's name; absent where several are told the same, and the hub names
    /// them by address.
    pub name: Option<&'a NodeName>,
    /// Its role.
    pub role: Role,
    /// The hub's address as the node reaches it; a worker's only.
    pub hub: Option<std::net::SocketAddr>,
    /// Where it will be.
    pub placement: &'a Placement,
    /// The cluster's roots.
    pub roots: &'a Roots,
    /// Its bootstrap certificate.
    pub bootstrap: Bootstrap,
    /// When it gives up.
    pub deadline: Timestamp,
    /// From where a scheduler's agent may be reached before it is installed.
    pub allow: &'a [ipnet::IpNet],
}

/// The join configuration as a machine's file holds it. The only secret in it is
/// the bootstrap key.
///
/// # Errors
/// [`Code::TooLarge`] when it would not be taken by the agent.
pub fn join_configuration(node: Node<'_>) -> Result<Secret, ApiError> {
    let join = JoinConfig {
        version: VERSION,
        cluster: node.cluster.id.clone(),
        cluster_name: node.cluster.name.clone(),
        node: node.name.cloned(),
        role: node.role,
        hub: node.hub,
        listen: node.placement.listen,
        bind: node.placement.bind,
        roots: node.roots.clone(),
        bootstrap: node.bootstrap,
        paths: node.placement.paths.clone().unwrap_or_default(),
        deadline: node.deadline,
        at_end: AtEnd::default(),
        allow: node.allow.to_vec(),
    };
    let text =
        serde_json::to_string(&join).map_err(|e| ApiError::new(Code::Internal, format!("join configuration: {e}")))?;
    if text.len() > limits::JOIN_CONFIG {
        return Err(ApiError::new(Code::TooLarge, "the join configuration is too large"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests;
