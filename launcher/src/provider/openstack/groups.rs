//! Groups: who reaches whom, and which machines are kept apart.

use futures_util::future::try_join_all;
use herdsman_wire::{Code, limits};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cloud::http::query;
use super::super::cloud::{error, labels};
use super::super::{ClusterRef, ProviderError, Tags};
use super::answers::{Group, GroupRule, Named, OneGroup, OneServerGroup};
use super::api::{Service, WITH_ONE_POLICY};
use super::network::name_of;
use super::{OpenStack, describe, failure, patience};

/// Policies for which a server group is made.
const POLICIES: [&str; 4] = ["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"];

impl OpenStack {
    pub(super) async fn groups_named(&self, names: &[&str]) -> Result<Vec<Group>, ProviderError> {
        let pairs: Vec<_> = names.iter().map(|n| ("name", *n)).collect();
        let path = format!("/security-groups{}", query(&pairs));
        self.api.list(Service::Network, &path, "security_groups").await
    }

    /// A group; Neutron would make a second one of the same name, so that one that is
    /// there is taken as it is, also where the answer to making it was lost.
    pub(super) async fn group(&self, there: &[Group], name: &str, tags: &Tags) -> Result<Group, ProviderError> {
        if let Some(group) = there.iter().find(|g| g.name == name) {
            return Ok(group.clone());
        }
        let body = json!({"security_group": {"name": name, "description": describe::line(tags)}});
        let mut asked = 0;
        loop {
            let made: Result<OneGroup, _> = self
                .api
                .post(Service::Network, "create security group", "/security-groups", &body)
                .await;
            asked += 1;
            match made {
                Ok(made) => return Ok(made.security_group),
                Err(e) if failure::is_lost(&e) && asked < patience::ASKED => {
                    tracing::debug!("looked for, as the answer was lost: {}", e.message);
                }
                Err(e) => return Err(e),
            }
            let mut until = patience::lost();
            while !until.is_over() {
                until.pause().await;
                if let Some(group) = self.groups_named(&[name]).await?.into_iter().next() {
                    return Ok(group);
                }
            }
        }
    }

    /// Rules that a group lacks: from the group itself, or our two ports from networks.
    pub(super) async fn rules(
        &self,
        group: &Group,
        wanted: &[(&str, Option<IpNet>)],
        from_group: Option<&str>,
    ) -> Result<(), ProviderError> {
        let lacking = wanted.iter().filter(|(family, net)| {
            !group
                .security_group_rules
                .iter()
                .any(|r| is_there(r, family, *net, from_group))
        });
        let made = lacking.map(|(family, net)| self.rule(rule(&group.id, family, *net, from_group)));
        try_join_all(made).await.map(drop)
    }

    async fn rule(&self, rule: Value) -> Result<(), ProviderError> {
        let body = json!({"security_group_rule": rule});
        let mut until = patience::short();
        loop {
            let made: Result<Value, _> = self
                .api
                .post(
                    Service::Network,
                    "create security group rule",
                    "/security-group-rules",
                    &body,
                )
                .await;
            match made {
                Ok(_) => return Ok(()),
                // The same rule twice is refused, so that another try does no harm.
                Err(e) if failure::is(&e, "SecurityGroupRuleExists") => return Ok(()),
                // Made a moment ago, and not known everywhere yet.
                Err(e) if (failure::is_lost(&e) || e.code == Code::NotFound) && !until.is_over() => {
                    until.pause().await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Ids of the user's own groups.
    pub(super) async fn own_groups(&self) -> Result<Vec<String>, ProviderError> {
        let wanted = &self.settings.common.security_groups;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<Group> = self
            .api
            .list(Service::Network, "/security-groups", "security_groups")
            .await?;
        let id = |wanted: &String| {
            let found: Vec<_> = all.iter().filter(|g| g.id == *wanted || g.name == *wanted).collect();
            match found.as_slice() {
                [one] => Ok(one.id.clone()),
                [] => Err(error(Code::NotFound, format!("there is no security group {wanted}"))),
                many => Err(error(
                    Code::Usage,
                    format!("{} security groups are called {wanted}; name one by its id", many.len()),
                )),
            }
        };
        wanted.iter().map(id).collect()
    }

    /// The server group of the settings. With tags it is made where it is missing: only its
    /// name can say whose it is.
    pub(super) async fn server_group(
        &self,
        cluster: &ClusterRef,
        tags: Option<&Tags>,
    ) -> Result<Option<String>, ProviderError> {
        let Some(wanted) = &self.settings.own.server_group else {
            return Ok(None);
        };
        let there = self.server_groups().await?;
        if !POLICIES.contains(&wanted.as_str()) {
            let found = there.iter().find(|g| g.id == *wanted || g.name == *wanted);
            return found
                .map(|g| Some(g.id.clone()))
                .ok_or_else(|| error(Code::NotFound, format!("there is no server group {wanted}")));
        }
        let prefix = format!("{}-", name_of(cluster));
        if let Some(group) = there.iter().find(|g| g.name.starts_with(&prefix)) {
            return Ok(Some(group.id.clone()));
        }
        let Some(tags) = tags else { return Ok(None) };
        let created = tags.get(labels::CREATED).map_or("0", String::as_str);
        let name = format!("{prefix}{created}");
        let policy = if self.api.version() >= WITH_ONE_POLICY {
            json!({"name": name, "policy": wanted})
        } else {
            json!({"name": name, "policies": [wanted]})
        };
        let body = json!({"server_group": policy});
        let made: OneServerGroup = self
            .api
            .post(Service::Compute, "create server group", "/os-server-groups", &body)
            .await?;
        Ok(Some(made.server_group.id))
    }

    pub(super) async fn server_groups(&self) -> Result<Vec<Named>, ProviderError> {
        self.api
            .list(Service::Compute, "/os-server-groups", "server_groups")
            .await
    }
}
pub(super) const fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

fn rule(group: &str, family: &str, net: Option<IpNet>, from_group: Option<&str>) -> Value {
    let mut rule = json!({"security_group_id": group, "direction": "ingress", "ethertype": family});
    match (net, from_group) {
        (Some(net), _) => {
            rule["protocol"] = json!("tcp");
            rule["port_range_min"] = json!(limits::AGENT_PORT.min(limits::SCHEDULER_PORT).to_string());
            rule["port_range_max"] = json!(limits::AGENT_PORT.max(limits::SCHEDULER_PORT).to_string());
            rule["remote_ip_prefix"] = json!(net.to_string());
        }
        (None, from) => rule["remote_group_id"] = json!(from),
    }
    rule
}

fn is_there(r: &GroupRule, family: &str, net: Option<IpNet>, from_group: Option<&str>) -> bool {
    let prefix = |text: &String| text.parse::<IpNet>().ok();
    r.direction == "ingress"
        && r.ethertype.as_deref() == Some(family)
        && r.remote_group_id.as_deref() == from_group
        && r.remote_ip_prefix.as_ref().and_then(prefix) == net
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_are_there_are_known_again() {
        let net: IpNet = "203.0.113.7/32".parse().unwrap();
        let made: GroupRule = serde_json::from_value(rule("g", "IPv4", Some(net), None)).unwrap();
        assert!(is_there(&made, "IPv4", Some(net), None));
        assert!(!is_there(&made, "IPv4", Some("203.0.113.8/32".parse().unwrap()), None));
        let inner: GroupRule = serde_json::from_value(rule("g", "IPv6", None, Some("g"))).unwrap();
        assert!(is_there(&inner, "IPv6", None, Some("g")) && !is_there(&inner, "IPv4", None, Some("g")));
    }
}
