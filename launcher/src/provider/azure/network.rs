//! Network and firewall: an existing subnet, or a network of the cluster's own; two
//! application security groups, which name the cluster's machines and the one that the
//! owner reaches; and one network security group with rules between them.

use std::time::Duration;

use herdsman_wire::{Code, limits};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cloud::error;
use super::super::{ClusterRef, ProviderError, Tags};
use super::answers::{Network, Resource};
use super::api::version;
use super::settings::Outbound;
use super::{Azure, failure, names, patience};

/// Longest wait for one part of a network.
const PART: Duration = Duration::from_secs(180);

pub(super) const GROUPS: &str = "Microsoft.Network/applicationSecurityGroups";
pub(super) const FIREWALLS: &str = "Microsoft.Network/networkSecurityGroups";
pub(super) const NETWORKS: &str = "Microsoft.Network/virtualNetworks";
pub(super) const GATEWAYS: &str = "Microsoft.Network/natGateways";
pub(super) const ADDRESSES: &str = "Microsoft.Network/publicIPAddresses";
pub(super) const INTERFACES: &str = "Microsoft.Network/networkInterfaces";

/// What machines of a cluster are put into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Net {
    /// Name of the resource group.
    pub(super) group: String,
    /// Id of the subnet.
    pub(super) subnet: String,
    /// Id of the firewall.
    pub(super) firewall: String,
    /// Ids of the groups that all machines are in.
    pub(super) inner: Vec<String>,
    /// Id of the group that the scheduler is in besides.
    pub(super) entry: Option<String>,
}

impl Azure {
    /// Name of a cluster's resource group.
    pub(super) fn group_of(&self, cluster: &ClusterRef) -> String {
        let named = self.settings.group.clone();
        named.unwrap_or_else(|| names::shared(cluster))
    }

    /// Makes everything, and remembers where machines go.
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let found = self.existing_subnet().await?;
        let subscription = self.subscription()?.to_owned();
        let group = self.group_of(cluster);
        if self.settings.group.is_none() {
            let body = json!({"location": self.settings.region, "tags": tags});
            let path = names::group(&subscription, &group);
            self.api
                .put("ResourceGroups_CreateOrUpdate", &path, version::RESOURCES, &body)
                .await?;
        }
        let place = Place {
            azure: self,
            subscription: &subscription,
            group: &group,
            name: names::shared(cluster),
            tags,
        };
        let subnet = async {
            match found {
                Some(subnet) => Ok(subnet),
                None => place.network().await,
            }
        };
        let (subnet, firewall) = tokio::try_join!(subnet, self.firewall(&place, &allowed))?;
        self.remember(
            cluster,
            Net {
                group: group.clone(),
                subnet,
                ..firewall
            },
        );
        Ok(())
    }

    async fn firewall(&self, place: &Place<'_>, allowed: &[IpNet]) -> Result<Net, ProviderError> {
        let mut net = self.named(place.subscription, place.group, &place.name, !allowed.is_empty());
        if !self.settings.common.security_groups.is_empty() {
            return Ok(net);
        }
        let inner = place.put("ApplicationSecurityGroups_CreateOrUpdate", GROUPS, "", json!({}));
        let entry = async {
            match &net.entry {
                Some(_) => place
                    .put(
                        "ApplicationSecurityGroups_CreateOrUpdate",
                        GROUPS,
                        names::ENTRY,
                        json!({}),
                    )
                    .await
                    .map(Some),
                None => Ok(None),
            }
        };
        let (inner, entry) = tokio::try_join!(inner, entry)?;
        let rules = json!({"properties": {"securityRules": rules(&inner, entry.as_deref(), allowed)}});
        net.firewall = place
            .put("NetworkSecurityGroups_CreateOrUpdate", FIREWALLS, "", rules)
            .await?;
        Ok(net)
    }

    /// What a cluster has, by the names that it has been given.
    fn named(&self, subscription: &str, group: &str, name: &str, is_open: bool) -> Net {
        let id = |kind: &str, end: &str| names::resource(subscription, group, kind, &format!("{name}{end}"));
        let own = self.settings.common.security_groups.first();
        Net {
            group: group.to_owned(),
            subnet: format!("{}/subnets/machines", id(NETWORKS, "")),
            firewall: own.map_or_else(|| id(FIREWALLS, ""), |o| self.id(subscription, group, FIREWALLS, o)),
            inner: if own.is_some() {
                Vec::new()
            } else {
                vec![id(GROUPS, "")]
            },
            entry: (own.is_none() && is_open).then(|| id(GROUPS, names::ENTRY)),
        }
    }

    /// An id as it is; a name as an id in the resource group, or in `GROUP/NAME`.
    pub(super) fn id(&self, subscription: &str, group: &str, kind: &str, text: &str) -> String {
        if names::is_id(text) {
            return text.to_owned();
        }
        match text.split_once('/') {
            Some((group, name)) => names::resource(subscription, group, kind, name),
            None => names::resource(subscription, group, kind, text),
        }
    }

    /// Where machines of a cluster that is there go.
    pub(super) async fn net(&self, cluster: &ClusterRef) -> Result<Net, ProviderError> {
        if let Some(net) = self.remembered(cluster) {
            return Ok(net);
        }
        let subscription = self.subscription()?.to_owned();
        let group = self.group_of(cluster);
        let name = names::shared(cluster);
        // The owner's group is needed for a scheduler only, which is made by `up`.
        let mut net = self.named(&subscription, &group, &name, false);
        if let Some(subnet) = self.existing_subnet().await? {
            net.subnet = subnet;
        }
        self.remember(cluster, net.clone());
        Ok(net)
    }

    /// The subnet of the settings, if they name any.
    pub(super) async fn existing_subnet(&self) -> Result<Option<String>, ProviderError> {
        let common = &self.settings.common;
        let wanted = common.subnets.first();
        let network = match (&common.network, wanted) {
            (Some(network), _) => network.clone(),
            (None, Some(subnet)) if names::is_id(subnet) => match subnet.find("/subnets/") {
                Some(end) => subnet[..end].to_owned(),
                None => return Err(error(Code::Usage, format!("{subnet} is no id of a subnet"))),
            },
            (None, Some(_)) => {
                return Err(error(Code::Usage, "a subnet's name says nothing without its network")
                    .with_hint("herdsman up … --network GROUP/NAME --subnet NAME"));
            }
            (None, None) => return Ok(None),
        };
        let group = match (&self.settings.group, network.contains('/')) {
            (Some(group), _) => group.clone(),
            (None, true) => String::new(),
            (None, false) => {
                return Err(error(
                    Code::Usage,
                    format!("network {network}: its resource group is not known"),
                )
                .with_hint("herdsman up … --network GROUP/NAME")
                .with_hint("herdsman up … --set azure.resource_group=GROUP"));
            }
        };
        let id = self.id(self.subscription()?, &group, NETWORKS, &network);
        let found: Network = self
            .api
            .get("VirtualNetworks_Get", &id, version::NETWORK, &[])
            .await
            .map_err(|e| match e.code {
                Code::NotFound => e.with_hint("az network vnet list --output table     shows those there are"),
                _ => e,
            })?;
        if !found.location.eq_ignore_ascii_case(&self.settings.region) {
            return Err(error(
                Code::Usage,
                format!(
                    "network {} is in {}, and machines are to be in {}",
                    found.name, found.location, self.settings.region
                ),
            )
            .with_hint(format!("herdsman up … --region {}", found.location)));
        }
        let subnets = &found.properties.subnets;
        let fits = |s: &&super::answers::Subnet| match wanted {
            Some(w) => s.name == *w || names::same(&s.id, w),
            // Names of this kind are the vendor's, for its own gateways.
            None => !s.name.starts_with("Gateway") && !s.name.starts_with("Azure"),
        };
        match subnets.iter().find(fits) {
            Some(subnet) => Ok(Some(subnet.id.clone())),
            None => {
                let all: Vec<&str> = subnets.iter().map(|s| s.name.as_str()).collect();
                let text = format!(
                    "network {} has no subnet that fits; it has {}",
                    found.id,
                    all.join(", ")
                );
                Err(error(Code::NotFound, text))
            }
        }
    }

    /// Everything with our tags that is no machine: groups that were made here, and what
    /// is shared in groups of the user's.
    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let subscription = self.subscription()?;
        let mut all = match &self.settings.group {
            Some(group) => {
                let path = format!("{}/resources", names::group(subscription, group));
                let listed = self
                    .api
                    .list("Resources_ListByResourceGroup", &path, version::RESOURCES, &[])
                    .await;
                match listed {
                    // Nobody has a cluster in a group that is not there.
                    Err(e) if e.code == Code::NotFound => Vec::new(),
                    other => other?,
                }
            }
            None => {
                let groups = format!("/subscriptions/{subscription}/resourcegroups");
                let others = format!("/subscriptions/{subscription}/resources");
                let filter = format!("substringof('{}', name)", names::PREFIX);
                let filter = [("$filter", filter.as_str())];
                let groups = self.api.list("ResourceGroups_List", &groups, version::RESOURCES, &[]);
                let others = self.api.list("Resources_List", &others, version::RESOURCES, &filter);
                let (mut groups, others): (Vec<Resource>, Vec<Resource>) = tokio::try_join!(groups, others)?;
                groups.retain(ours(cluster));
                for g in &mut groups {
                    "Microsoft.Resources/resourceGroups".clone_into(&mut g.kind);
                }
                let whole: Vec<String> = groups.iter().map(|g| g.name.clone()).collect();
                let is_inside = |r: &Resource| {
                    names::part(&r.id, "resourceGroups").is_some_and(|g| whole.iter().any(|w| names::same(w, g)))
                };
                groups.extend(others.into_iter().filter(|r| !is_inside(r)));
                groups
            }
        };
        all.retain(ours(cluster));
        // Machines are machines; what hangs on them goes with them.
        all.retain(|r| !r.kind.eq_ignore_ascii_case("Microsoft.Compute/virtualMachines"));
        Ok(all)
    }
}

/// Whether something carries our tag, of one cluster or of any.
fn ours(cluster: Option<&str>) -> impl Fn(&Resource) -> bool {
    use super::super::cloud::labels;
    move |r| match (r.tags.get(labels::CLUSTER), cluster) {
        (Some(tag), Some(name)) => tag == name,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Where the parts of a network are made.
struct Place<'a> {
    azure: &'a Azure,
    subscription: &'a str,
    group: &'a str,
    name: String,
    tags: &'a Tags,
}

impl Place<'_> {
    /// Makes one thing, and waits for it. Gives its id.
    async fn put(&self, action: &str, kind: &str, end: &str, mut body: Value) -> Result<String, ProviderError> {
        let azure = self.azure;
        let id = names::resource(self.subscription, self.group, kind, &format!("{}{end}", self.name));
        body["location"] = azure.settings.region.as_str().into();
        body["tags"] = json!(self.tags);
        let until = patience::short();
        let pending = loop {
            match azure.api.put(action, &id, version::NETWORK, &body).await {
                // Its group was made a moment ago, and is not known everywhere yet.
                Err(e)
                    if azure.settings.group.is_none()
                        && failure::is(&e, "ResourceGroupNotFound")
                        && !until.is_over() =>
                {
                    until.pause().await;
                }
                other => break other?,
            }
        };
        azure.api.wait(action, pending, PART).await?;
        Ok(id)
    }

    /// A network with one subnet, and a way out. Gives the subnet's id.
    async fn network(&self) -> Result<String, ProviderError> {
        let azure = self.azure;
        let gateway = match azure.settings.outbound() {
            Outbound::Nat => Some(self.gateway().await?),
            Outbound::Public | Outbound::None => None,
        };
        let space = azure.settings.space();
        let mut subnet = json!({"addressPrefix": space, "defaultOutboundAccess": false});
        if let Some(id) = gateway {
            subnet["natGateway"] = json!({"id": id});
        }
        let body = json!({"properties": {
            "addressSpace": {"addressPrefixes": [space]},
            "subnets": [{"name": "machines", "properties": subnet}],
        }});
        let id = self.put("VirtualNetworks_CreateOrUpdate", NETWORKS, "", body).await?;
        Ok(format!("{id}/subnets/machines"))
    }

    async fn gateway(&self) -> Result<String, ProviderError> {
        let address = json!({
            "sku": {"name": "Standard"},
            "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
        });
        let address = self
            .put("PublicIPAddresses_CreateOrUpdate", ADDRESSES, names::NAT, address)
            .await?;
        let gateway = json!({
            "sku": {"name": "Standard"},
            "properties": {"publicIpAddresses": [{"id": address}]},
        });
        self.put("NatGateways_CreateOrUpdate", GATEWAYS, names::NAT, gateway)
            .await
    }
}

/// The cluster's machines reach each other; the owner's networks reach the scheduler's
/// two ports; nobody else reaches anything.
fn rules(inner: &str, entry: Option<&str>, allowed: &[IpNet]) -> Vec<Value> {
    let mut all = vec![json!({"name": "cluster", "properties": {
        "priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "*",
        "sourceApplicationSecurityGroups": [{"id": inner}], "sourcePortRange": "*",
        "destinationApplicationSecurityGroups": [{"id": inner}], "destinationPortRange": "*",
    }})];
    let ports = [limits::AGENT_PORT, limits::SCHEDULER_PORT];
    let ports = ports.map(|p| p.to_string());
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) = allowed.iter().partition(|n| matches!(n, IpNet::V4(_)));
    for (i, (name, nets)) in [("owner", v4), ("owner6", v6)].into_iter().enumerate() {
        let Some(entry) = entry.filter(|_| !nets.is_empty()) else {
            continue;
        };
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        all.push(json!({"name": name, "properties": {
            "priority": 110 + i, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
            "sourceAddressPrefixes": nets, "sourcePortRange": "*",
            "destinationApplicationSecurityGroups": [{"id": entry}], "destinationPortRanges": ports,
        }}));
    }
    // The vendor's own last rules would let in all of the network, and its balancers.
    all.push(json!({"name": "rest", "properties": {
        "priority": 4096, "direction": "Inbound", "access": "Deny", "protocol": "*",
        "sourceAddressPrefix": "*", "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": "*",
    }}));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_are_open_to_the_owner_and_nothing_else() {
        let allowed = ["203.0.113.7/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let all = rules("inner", Some("entry"), &allowed);
        let names: Vec<_> = all.iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["cluster", "owner", "owner6", "rest"]);
        let owner = &all[1]["properties"];
        assert_eq!(owner["sourceAddressPrefixes"], json!(["203.0.113.7/32"]));
        assert_eq!(owner["destinationPortRanges"], json!(["8785", "8786"]));
        assert_eq!(owner["destinationApplicationSecurityGroups"], json!([{"id": "entry"}]));
        assert_eq!(all[2]["properties"]["sourceAddressPrefixes"], json!(["2001:db8::/64"]));
        assert_eq!(all[3]["properties"]["access"], "Deny");
        let closed = rules("inner", None, &[]);
        assert_eq!(closed.len(), 2);
    }
}
