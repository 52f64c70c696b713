//! Messages of the agent's API on port 8785: HTTP/1.1 over TLS 1.3 with client
//! certificates, bodies in JSON. Certificates and requests travel in PEM.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{ClusterId, NodeName, Role};
use crate::report::Versions;
use crate::secret::Secret;
use crate::spec::ClusterSpec;
use crate::time::Timestamp;

/// `GET /v1/version`: who answers here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// Protocol version.
    pub protocol: u32,
    /// Agent's release.
    pub agent: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// Whether the roots' owner has installed this hub.
    pub installed: bool,
    /// The agent's clock.
    pub now: Timestamp,
}

/// `GET /v1/csr`: the hub's requests before it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsrReply {
    /// Issuing certificate for agents, operators and later bootstraps.
    pub issue_control: String,
    /// Issuing certificate for the scheduler's Dask certificate.
    pub issue_scheduler: String,
    /// Issuing certificate for workers' and clients' Dask certificates.
    pub issue_node: String,
    /// What the machine says of itself.
    pub facts: Facts,
}

/// What a machine says of itself. For people and logs; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Agent's release.
    pub agent: String,
    /// Host name.
    pub hostname: String,
    /// Kernel's boot id.
    pub boot_id: String,
    /// The machine's clock.
    pub now: Timestamp,
}

/// `POST /v1/install`: makes a fresh agent the cluster's hub. The hub signs its
/// own agent certificate with the issuing key that never left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// Issuing certificates, in the order control, scheduler, node.
    pub issue_control: String,
    /// See above.
    pub issue_scheduler: String,
    /// See above.
    pub issue_node: String,
    /// Nodes that are on their way.
    pub expected: Vec<Expected>,
    /// How the nodes run.
    pub spec: ClusterSpec,
    /// When the cluster was created.
    pub created: Timestamp,
    /// CRL-free list of the operator's own certificates, so that they can be
    /// revoked: serials in lower-case hex and their end.
    #[serde(default)]
    pub operator: Option<OperatorSerials>,
}

/// Certificates that the launcher gave itself before there was a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorSerials {
    /// The user.
    pub user: String,
    /// Serials of operator and client certificate.
    pub serials: [String; 2],
    /// When they end.
    pub not_after: Timestamp,
}

/// A node that the hub may enrol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Its name.
    pub node: NodeName,
    /// Serial of its bootstrap certificate, lower-case hex.
    pub serial: String,
    /// Its address; absent: not known yet, the node is told to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The address cannot be known (NAT): any source is taken, with a note in
    /// the audit log.
    #[serde(default)]
    pub any_address: bool,
    /// Name in the bootstrap certificate, where several nodes share it: each use is
    /// then bound to the address of one of them, which has to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<NodeName>,
}

/// `POST /v1/expect`: adds or completes expected nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The nodes; an entry with a known serial replaces the address only.
    pub nodes: Vec<Expected>,
}

/// `POST /v1/enrol` by a node with a bootstrap certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Request for the agent's certificate, PEM.
    pub csr_agent: String,
    /// Request for Dask's certificate, PEM.
    pub csr_dask: String,
    /// What the machine says of itself.
    #[serde(default)]
    pub facts: Facts,
}

/// Answer to enrolment and renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The node's name.
    pub node: NodeName,
    /// Its role.
    pub role: Role,
    /// Agent's certificate and its issuing certificate, PEM.
    pub agent_chain: String,
    /// Dask's certificate and its issuing certificate, PEM.
    pub dask_chain: String,
    /// Generation of the agent's certificate.
    pub generation: u64,
    /// When both end.
    pub not_after: Timestamp,
    /// Renew this long from now, seconds.
    pub renew_after_seconds: u64,
    /// CRL bundle in force and its number.
    pub crl: String,
    /// See above.
    pub crl_number: u64,
    /// Dask's scheduler as `host:port`, without the protocol.
    pub scheduler: SocketAddr,
    /// How the node runs.
    pub spec: ClusterSpec,
}

/// `POST /v1/renew` by a node's agent: new keys for both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// Request for the agent's certificate, PEM.
    pub csr_agent: String,
    /// Request for Dask's certificate, PEM.
    pub csr_dask: String,
}

/// `POST /v1/invites` by an operator: bootstrap certificates for new nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Names of the nodes.
    pub nodes: Vec<NodeName>,
    /// Life of the certificates, seconds; at most 30 minutes.
    pub ttl_seconds: u64,
    /// Whether any source address will do.
    #[serde(default)]
    pub any_address: bool,
    /// Makes one certificate of so many uses in place of one for each name: the only
    /// name is then the batch's, and nodes are announced once they have addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// Answer to [`Invite`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// One for each name, in the same order.
    pub invites: Vec<Invitation>,
}

/// A bootstrap certificate for one new node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The node's name.
    pub node: NodeName,
    /// Its serial, lower-case hex.
    pub serial: String,
    /// The certificate alone, PEM: the hub knows who issued it.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret,
    /// When it ends.
    pub not_after: Timestamp,
}

/// `POST /v1/retire` by an operator: empty workers, so that their nodes can be
/// deleted. The answer comes when data has moved or the time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retire {
    /// Nodes to empty; or, when absent, [`Retire::count`] that Dask would close
    /// first.
    #[serde(default)]
    pub nodes: Vec<NodeName>,
    /// How many to choose.
    #[serde(default)]
    pub count: usize,
    /// Nodes whose workers have something to do stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// Longest wait for tasks that are running, seconds; those that run on are run
    /// again elsewhere.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub running_seconds: u64,
    /// Longest wait, seconds.
    pub timeout_seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Answer to [`Retire`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Nodes that hold nothing any more and may be deleted.
    pub retired: Vec<NodeName>,
    /// Nodes that could not be emptied, with the reason.
    pub kept: Vec<(NodeName, String)>,
}

/// `POST /v1/remove`: nodes that are gone or were retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Which.
    pub nodes: Vec<NodeName>,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// `POST /v1/revoke`: nodes and people that are not trusted any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Nodes.
    #[serde(default)]
    pub nodes: Vec<NodeName>,
    /// People, by the name in their certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// `POST /v1/operator`: new operator and client certificates for the caller, or
/// for somebody else whom the caller lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// For whom; absent: for the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Request for the operator's certificate, PEM.
    pub csr_operator: String,
    /// Request for the Dask client's certificate, PEM.
    pub csr_client: String,
}

/// Answer to [`OperatorRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorIssued {
    /// Operator's chain, PEM.
    pub operator_chain: String,
    /// Client's chain, PEM.
    pub client_chain: String,
    /// When both end.
    pub not_after: Timestamp,
}

/// `POST /v1/limits`: changes when the cluster ends by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsChange {
    /// New idle limit, seconds; 0 switches it off; absent leaves it.
    pub idle_seconds: Option<u64>,
    /// New limit without clients; likewise.
    pub no_client_seconds: Option<u64>,
    /// New end of life counted from now, seconds; 0 switches it off.
    pub lifetime_from_now_seconds: Option<u64>,
}

/// `POST /v1/allow` by an operator: changes from where people are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Networks to let in.
    pub add: Vec<IpNet>,
    /// The caller's own address, as the hub sees it, is one of them.
    pub me: bool,
    /// Networks to let in no longer.
    pub remove: Vec<IpNet>,
    /// Even if that shuts the caller out.
    pub force: bool,
}

/// Answer to [`Allow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// All networks from which people are let in now.
    pub allowed: Vec<IpNet>,
    /// The caller's address as the hub sees it.
    pub you: IpAddr,
    /// Whether the scheduler's machine has a packet filter that keeps others out.
    pub enforced: bool,
}

/// `POST /v1/nodes/<name>/<restart|renew>` answers with this, as do requests
/// without any other answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// `POST /v1/shutdown`: ends the cluster; answers at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// For the log.
    pub why: String,
    /// Empty nothing first.
    pub now: bool,
}

/// `POST /v1/versions`: what the laptop has, to be compared with the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareVersions {
    /// Versions on the laptop.
    pub laptop: Versions,
}

/// `POST /v1/environment`: nodes that enrol or restart Dask from now on use this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeEnvironment {
    /// The environment.
    pub environment: crate::spec::EnvironmentSpec,
}
