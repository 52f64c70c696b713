//! What a machine is told at its first boot, as pure functions of values.

use herdsman_wire::join::{Bootstrap, JoinConfig, Roots, VERSION};
use herdsman_wire::{ApiError, Code, NodeName, Role, Secret, Timestamp, limits};

use crate::provider::{ClusterRef, Placement};

/// A node to be told about.
#[derive(Debug)]
pub struct Node<'a> {
    /// The cluster.
    pub cluster: &'a ClusterRef,
    /// The node's name.
    pub name: &'a NodeName,
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
        node: Some(node.name.clone()),
        role: node.role,
        hub: node.hub,
        listen: node.placement.listen,
        bind: node.placement.bind,
        roots: node.roots.clone(),
        bootstrap: node.bootstrap,
        paths: node.placement.paths.clone().unwrap_or_default(),
        deadline: node.deadline,
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
mod tests {
    use herdsman_wire::ClusterId;

    use super::*;

    #[test]
    fn the_agent_reads_what_is_written_and_the_only_key_is_the_bootstrap_key() {
        let cluster = ClusterRef {
            name: "demo".parse().unwrap(),
            id: "aaaaaaaaaa".parse::<ClusterId>().unwrap(),
        };
        let now = Timestamp::now();
        let life = limits::BOOTSTRAP_LIFE;
        let roots = crate::pki::Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE).unwrap();
        let name: NodeName = "demo-w0".parse().unwrap();
        let (bootstrap, _) = roots.bootstrap(Role::Worker, &name, now, life).unwrap();
        let text = join_configuration(Node {
            cluster: &cluster,
            name: &name,
            role: Role::Worker,
            hub: Some("10.0.0.2:8785".parse().unwrap()),
            placement: &Placement::default(),
            roots: &roots.pems,
            bootstrap,
            deadline: now.plus(life),
            allow: &[],
        })
        .unwrap();
        let join = JoinConfig::parse(text.reveal().as_bytes()).unwrap();
        assert_eq!((join.node, join.role), (Some(name), Role::Worker));
        assert_eq!(
            text.reveal().matches("PRIVATE KEY").count(),
            2,
            "begin and end of one key"
        );
        assert!(text.reveal().len() < 6 * 1024, "{} bytes", text.reveal().len());
    }
}
