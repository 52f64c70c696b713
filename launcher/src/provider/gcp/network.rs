//! Network and firewall: an existing network, and rules of the cluster's own. Rules
//! have no labels here, so a rule's description holds the tags. They find machines by
//! network tags, one of all machines and one of the scheduler.
//!
//! | Rule | For | Lets in |
//! |---|---|---|
//! | `-inner` | all | everything from the cluster's machines |
//! | `-in`, `-in6` | scheduler | 8785 and 8786 from the owner's networks |
//! | `-closed` | all | nothing else to herdsman's ports, whatever the network's own rules say |

use herdsman_wire::{Code, limits};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cloud::{error, labels};
use super::super::{ClusterRef, ProviderError, Tags};
use super::answers::{Firewall, Operation, Subnetwork, tail};
use super::operations::{Patience, failed, request_id};
use super::settings::is_name;
use super::{Gcp, failure};

/// Where machines of a cluster go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Net {
    /// Project of the network.
    pub(super) project: String,
    /// Address of the network.
    pub(super) network: String,
    /// Address of the part of it; absent where the vendor finds it by the region.
    pub(super) subnetwork: Option<String>,
}

/// Rules that were asked for and not looked at yet.
#[derive(Debug)]
pub(super) struct Pending {
    cluster: ClusterRef,
    wanted: Vec<Value>,
    operations: Vec<Option<Operation>>,
}

fn find<'f>(there: &'f [Firewall], body: &Value) -> Option<&'f Firewall> {
    there.iter().find(|f| body["name"] == f.name.as_str())
}

/// A rule that was made for a cluster.
#[derive(Debug)]
pub(super) struct OurRule {
    pub(super) project: String,
    pub(super) name: String,
    pub(super) tags: Tags,
}

/// What a description begins with that holds tags.
const MARK: &str = "herdsman ";
/// Before the network's own rules, which have 1000 where nobody says otherwise.
const ALLOW: u32 = 900;
const DENY: u32 = 910;

fn base(cluster: &ClusterRef) -> String {
    let name: String = cluster.name.as_str().chars().take(30).collect();
    format!("herdsman-{name}-{}", cluster.id)
}

/// Network tag of a cluster's machines.
pub(super) fn tag_of(cluster: &ClusterRef) -> String {
    base(cluster)
}

/// Network tag of the scheduler's machine.
pub(super) fn entry_tag(cluster: &ClusterRef) -> String {
    format!("{}-in", base(cluster))
}

impl Gcp {
    /// Makes the rules that are not there, and lets in who is not let in yet.
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        if !is_name(cluster.name.as_str()) {
            let text = format!("GCP's names begin with a letter, and {} does not", cluster.name);
            return Err(error(Code::Usage, text).with_hint("herdsman up another-name"));
        }
        let tags = self.settings.labels(tags)?;
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let net = self.net().await?;
        if !self.settings.has_firewall() {
            return Ok(());
        }
        let wanted = rules(cluster, &tags, net, &allowed);
        let asked = wanted.iter().map(|body| self.make_rule(cluster, net, body));
        let operations: Vec<Option<Operation>> = futures_util::future::try_join_all(asked).await?;
        let all_new = operations.iter().all(Option::is_some);
        *self.pending.lock().await = Some(Pending {
            cluster: cluster.clone(),
            wanted,
            operations,
        });
        // New ones take some seconds, in which machines can be made.
        if all_new {
            Ok(())
        } else {
            self.settle_rules(cluster).await
        }
    }

    /// One that is there already is taken as it is.
    async fn make_rule(
        &self,
        cluster: &ClusterRef,
        net: &Net,
        body: &Value,
    ) -> Result<Option<Operation>, ProviderError> {
        let id = request_id(&cluster.id)?;
        let made = self
            .api
            .post("firewalls.insert", &net.project, "global/firewalls", &id, body);
        match made.await {
            Ok(operation) => Ok(Some(operation)),
            Err(e) if e.code == Code::Conflict => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until all rules are there that were asked for, and let in all who are to be
    /// let in. One look shows all of them; operations are looked at where one does not
    /// come.
    pub(super) async fn settle_rules(&self, cluster: &ClusterRef) -> Result<(), ProviderError> {
        let Some(pending) = self.pending.lock().await.take_if(|p| p.cluster == *cluster) else {
            return Ok(());
        };
        let net = self.net().await?;
        let mut until = Patience::short();
        let there = loop {
            let there = self
                .rules_in(&net.project, &format!("name eq {}-.*", base(cluster)))
                .await?;
            if pending.wanted.iter().all(|body| find(&there, body).is_some()) {
                break there;
            }
            for operation in pending.operations.iter().flatten() {
                let path = format!("global/operations/{}", operation.name);
                let now: Operation = self.api.get_in("globalOperations.get", &net.project, &path).await?;
                if let Some(e) = failed("firewalls.insert", &now) {
                    return Err(e);
                }
            }
            if until.is_over() {
                return Err(error(Code::Deadline, "firewalls.insert: the rules do not appear"));
            }
            until.pause().await;
        };
        for body in &pending.wanted {
            let ranges = body["sourceRanges"].as_array().into_iter().flatten();
            let lets_in =
                |r: &Value| find(&there, body).is_some_and(|f| f.source_ranges.iter().any(|s| r == s.as_str()));
            if !ranges.into_iter().all(lets_in) {
                self.open_rule(cluster, net, body).await?;
            }
        }
        Ok(())
    }

    /// Lets in the networks of `body` besides those that are.
    async fn open_rule(&self, cluster: &ClusterRef, net: &Net, body: &Value) -> Result<(), ProviderError> {
        let name = body["name"].as_str().unwrap_or_default();
        let path = format!("global/firewalls/{name}");
        let before: Firewall = self.api.get_in("firewalls.get", &net.project, &path).await?;
        let mut ranges = before.source_ranges;
        ranges.extend(
            body["sourceRanges"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
        ranges.sort();
        ranges.dedup();
        let operation = self
            .api
            .patch(
                &net.project,
                &path,
                &request_id(&cluster.id)?,
                &json!({"sourceRanges": ranges}),
            )
            .await?;
        let place = super::operations::Place::Global(&net.project);
        let ended = self.ended("firewalls.patch", place, operation).await?;
        failed("firewalls.patch", &ended).map_or(Ok(()), Err)
    }

    /// Where machines go, looked up once.
    pub(super) async fn net(&self) -> Result<&Net, ProviderError> {
        self.net.get_or_try_init(|| self.find_net()).await
    }

    async fn find_net(&self) -> Result<Net, ProviderError> {
        let common = &self.settings.common;
        let project = self.network_project().await?.to_owned();
        let of = |name: &str| format!("projects/{project}/global/networks/{}", tail(name));
        if common.subnets.is_empty() && common.network.is_none() {
            return Ok(Net {
                network: of("default"),
                subnetwork: None,
                project,
            });
        }
        let region = &self.settings.region;
        let path = format!("regions/{region}/subnetworks");
        let all: Vec<Subnetwork> = self.api.list("subnetworks.list", &project, &path, "").await?;
        let wanted = common.network.as_deref().map(tail);
        let fits = |s: &&Subnetwork| {
            // Others are for the vendor's own load balancers.
            let ordinary = matches!(s.purpose.as_str(), "" | "PRIVATE" | "PRIVATE_RFC_1918");
            ordinary && wanted.is_none_or(|n| tail(&s.network) == n)
        };
        let place = |s: &Subnetwork| common.subnets.iter().position(|n| tail(n) == s.name);
        let best = all
            .iter()
            .filter(fits)
            .filter(|s| common.subnets.is_empty() || place(s).is_some())
            .min_by_key(|s| (place(s), s.name.clone()));
        match (best, wanted) {
            (Some(s), _) => Ok(Net {
                network: of(&s.network),
                subnetwork: Some(format!("projects/{project}/regions/{region}/subnetworks/{}", s.name)),
                project,
            }),
            (None, _) => Err(error(
                Code::NotFound,
                format!("no subnet of project {project} in {region} fits the settings"),
            )
            .with_hint(format!(
                "gcloud compute networks subnets list --project {project} --regions {region}"
            ))),
        }
    }

    /// Project of the network.
    pub(super) async fn network_project(&self) -> Result<&str, ProviderError> {
        match &self.settings.own.network_project {
            Some(named) => Ok(named),
            None => self.api.project().await,
        }
    }

    /// Rules of a project.
    pub(super) async fn rules_in(&self, project: &str, filter: &str) -> Result<Vec<Firewall>, ProviderError> {
        self.api
            .list("firewalls.list", project, "global/firewalls", filter)
            .await
    }

    /// Our rules, of one cluster or of all, with their tags and their projects: those
    /// of the settings' project, and of those that machines' networks were seen in.
    pub(super) async fn our_rules(&self, cluster: Option<&str>) -> Result<Vec<OurRule>, ProviderError> {
        let mut found = Vec::new();
        let own = self.network_project().await?.to_owned();
        let mut projects = vec![own.clone()];
        projects.extend(self.hosts().iter().filter(|p| **p != own).cloned());
        for project in projects {
            match self.rules_in(&project, "name eq herdsman-.*").await {
                Ok(rules) => found.extend(rules.into_iter().filter_map(|f| {
                    let tags = tags_in(&f.description)?;
                    let ours = labels::cluster_of(&tags)?;
                    let rule = OurRule {
                        project: project.clone(),
                        name: f.name,
                        tags,
                    };
                    cluster.is_none_or(|c| ours.name.as_str() == c).then_some(rule)
                })),
                // Whoever has others make the rules may not be allowed to see them.
                Err(e) if e.code == Code::Permission && !self.settings.has_firewall() => {}
                Err(e) if (e.code == Code::Permission || e.code == Code::NotFound) && project != own => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Rules of the network that are there already and let somebody in to our ports.
    pub(super) async fn foreign_rules(&self, net: &Net) -> Result<Vec<Firewall>, ProviderError> {
        let all = self.rules_in(&net.project, "").await?;
        let open = |f: &Firewall| {
            tail(&f.network) == tail(&net.network)
                && f.direction == "INGRESS"
                && f.source_ranges.iter().any(|r| r == "0.0.0.0/0")
                && !f.name.starts_with("herdsman-")
        };
        Ok(all.into_iter().filter(open).collect())
    }
}

/// Bodies of all rules of a cluster.
fn rules(cluster: &ClusterRef, tags: &Tags, net: &Net, allowed: &[IpNet]) -> Vec<Value> {
    let base = base(cluster);
    let tag = tag_of(cluster);
    let description = format!("{MARK}{}", json!(tags));
    let rule = |suffix: &str, priority: u32, more: Value| {
        let mut body = json!({
            "name": format!("{base}-{suffix}"),
            "description": description,
            "network": net.network,
            "direction": "INGRESS",
            "priority": priority,
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body
    };
    let (low, high) = (
        limits::AGENT_PORT.min(limits::SCHEDULER_PORT),
        limits::AGENT_PORT.max(limits::SCHEDULER_PORT),
    );
    let last = limits::NANNY_PORT + limits::MAX_WORKERS_PER_NODE - 1;
    let mut all = vec![
        rule(
            "inner",
            ALLOW,
            json!({"sourceTags": [tag], "targetTags": [tag], "allowed": [{"IPProtocol": "all"}]}),
        ),
        rule(
            "closed",
            DENY,
            json!({
                "sourceRanges": ["0.0.0.0/0"], "targetTags": [tag],
                "denied": [{"IPProtocol": "tcp", "ports": [format!("{low}-{last}")]}],
            }),
        ),
    ];
    // A rule is of one version of IP.
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) = allowed.iter().partition(|n| matches!(n, IpNet::V4(_)));
    for (suffix, nets) in [("in", v4), ("in6", v6)] {
        if nets.is_empty() {
            continue;
        }
        let ranges: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let ports = format!("{low}-{high}");
        all.push(rule(
            suffix,
            ALLOW,
            json!({
                "sourceRanges": ranges, "targetTags": [entry_tag(cluster)],
                "allowed": [{"IPProtocol": "tcp", "ports": [ports]}],
            }),
        ));
    }
    all
}

/// Tags in a description.
pub(super) fn tags_in(description: &str) -> Option<Tags> {
    serde_json::from_str(description.strip_prefix(MARK)?).ok()
}

/// Whether nothing is there to delete, or it is being deleted.
pub(super) fn is_gone(e: &ProviderError) -> bool {
    e.code == Code::NotFound
}

/// Whether it is in use for another moment.
pub(super) fn is_busy(e: &ProviderError) -> bool {
    failure::is(e, "resourceNotReady") || failure::is(e, "resourceInUseByAnotherResource")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_the_cluster_are_let_in() {
        let cluster = ClusterRef {
            name: "a-name-as-long-as-names-of-clusters-are".parse().unwrap(),
            id: "aaaaaaaaaa".parse().unwrap(),
        };
        let net = Net {
            project: "p".into(),
            network: "projects/p/global/networks/default".into(),
            subnetwork: None,
        };
        let tags = Tags::from([("herdsman-cluster".to_owned(), "x".to_owned())]);
        let allowed: Vec<IpNet> = vec!["203.0.113.7/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let all = rules(&cluster, &tags, &net, &allowed);
        assert_eq!(all.len(), 4);
        for body in &all {
            assert!(is_name(body["name"].as_str().unwrap()), "{body}");
            assert!(is_name(body["targetTags"][0].as_str().unwrap()), "{body}");
            assert_eq!(tags_in(body["description"].as_str().unwrap()).as_ref(), Some(&tags));
            let everyone = body["sourceRanges"] == json!(["0.0.0.0/0"]);
            assert_eq!(everyone, body["allowed"].is_null(), "{body}");
        }
        assert_eq!(all[2]["sourceRanges"], json!(["203.0.113.7/32"]));
        assert_eq!(all[2]["targetTags"], json!([entry_tag(&cluster)]));
        assert_eq!(
            all[2]["allowed"],
            json!([{"IPProtocol": "tcp", "ports": ["8785-8786"]}])
        );
        assert_eq!(all[3]["sourceRanges"], json!(["2001:db8::/64"]));
        assert_eq!(rules(&cluster, &tags, &net, &[]).len(), 2);
    }
}
