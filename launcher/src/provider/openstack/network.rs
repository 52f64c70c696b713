//! Network and firewall: an existing network, and two security groups of the cluster's
//! own. One joins its machines to each other, the other lets the owner's networks
//! reach the scheduler. Egress is open, as Neutron makes every group.

use herdsman_wire::Code;

use super::super::cloud::error;
use super::super::{ClusterRef, ProviderError, Tags};
use super::OpenStack;
use super::answers::{Network, Subnet};
use super::api::Service;
use super::groups::family;
use super::settings::Floating;

/// What machines of a cluster are put into.
#[derive(Clone, Debug)]
pub(super) struct Net {
    pub(super) network: Network,
    /// Parts of it, tried in order; empty: Neutron chooses.
    pub(super) subnets: Vec<Subnet>,
    /// Groups of all machines.
    pub(super) inner: Vec<String>,
    /// Group of the scheduler's besides those.
    pub(super) entry: Option<String>,
    /// Network that floating addresses come from, where machines get any.
    pub(super) outside: Option<String>,
    /// Server group.
    pub(super) server_group: Option<String>,
}

/// Marks the group that lets the owner in.
const ENTRY: &str = "-in";

pub(super) fn name_of(cluster: &ClusterRef) -> String {
    format!("herdsman-{}-{}", cluster.name, cluster.id)
}

impl OpenStack {
    /// Makes the groups, and remembers where machines go.
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let name = name_of(cluster);
        let entry = format!("{name}{ENTRY}");
        let place = self.place();
        let groups = async {
            let there = self.groups_named(&[&name, &entry]).await?;
            let inner = async {
                let group = self.group(&there, &name, tags).await?;
                let rules = [("IPv4", None), ("IPv6", None)];
                self.rules(&group, &rules, Some(&group.id)).await?;
                Ok(group.id)
            };
            let outer = async {
                if allowed.is_empty() {
                    return Ok(None);
                }
                let group = self.group(&there, &entry, tags).await?;
                let rules: Vec<_> = allowed.iter().map(|net| (family(net), Some(*net))).collect();
                self.rules(&group, &rules, None).await?;
                Ok(Some(group.id))
            };
            tokio::try_join!(inner, outer)
        };
        let (place, (inner, entry), own, server_group) =
            tokio::try_join!(place, groups, self.own_groups(), self.server_group(cluster, Some(tags)))?;
        let (network, subnets, outside) = place;
        let mut all = vec![inner];
        all.extend(own);
        self.remember(
            cluster,
            Net {
                network,
                subnets,
                inner: all,
                entry,
                outside,
                server_group,
            },
        );
        Ok(())
    }

    /// The network of a cluster that is there.
    pub(super) async fn net(&self, cluster: &ClusterRef) -> Result<Net, ProviderError> {
        if let Some(net) = self.remembered(cluster) {
            return Ok(net);
        }
        let name = name_of(cluster);
        let entry = format!("{name}{ENTRY}");
        let names = [name.as_str(), entry.as_str()];
        let (place, groups, own, server_group) = tokio::try_join!(
            self.place(),
            self.groups_named(&names),
            self.own_groups(),
            self.server_group(cluster, None)
        )?;
        let id = |wanted: &str| groups.iter().find(|g| g.name == wanted).map(|g| g.id.clone());
        let inner =
            id(&name).ok_or_else(|| error(Code::NotFound, format!("the cluster's security group {name} is gone")))?;
        let (network, subnets, outside) = place;
        let mut all = vec![inner];
        all.extend(own);
        let net = Net {
            network,
            subnets,
            inner: all,
            entry: id(&entry),
            outside,
            server_group,
        };
        self.remember(cluster, net.clone());
        Ok(net)
    }

    /// Network and its parts, and the network that floating addresses come from.
    pub(super) async fn place(&self) -> Result<(Network, Vec<Subnet>, Option<String>), ProviderError> {
        let common = &self.settings.common;
        let networks = self.api.list::<Network>(Service::Network, "/networks", "networks");
        let subnets = async {
            if common.subnets.is_empty() {
                return Ok(Vec::new());
            }
            self.api.list::<Subnet>(Service::Network, "/subnets", "subnets").await
        };
        let (networks, there) = tokio::try_join!(networks, subnets)?;
        let mut chosen = Vec::new();
        for wanted in &common.subnets {
            let found = there.iter().find(|s| s.id == *wanted || s.name == *wanted);
            let missing = || error(Code::NotFound, format!("there is no subnet {wanted}"));
            chosen.push(found.cloned().ok_or_else(missing)?);
        }
        // A subnet says its network.
        let wanted = common
            .network
            .as_deref()
            .or_else(|| chosen.first().map(|s| s.network_id.as_str()));
        let network = choose(&networks, wanted)?.clone();
        chosen.retain(|s| s.network_id == network.id);
        let own = &self.settings.own.external_network;
        let outside = outside(&networks, &network, self.settings.floating, own.as_deref())?;
        Ok((network, chosen, outside))
    }
}

/// The network that machines are on.
fn choose<'n>(networks: &'n [Network], wanted: Option<&str>) -> Result<&'n Network, ProviderError> {
    let names = |of: &[&Network]| of.iter().map(|n| n.name.clone()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        if let Some(found) = networks.iter().find(|n| n.id == wanted) {
            return Ok(found);
        }
        let found: Vec<_> = networks.iter().filter(|n| n.name == wanted).collect();
        return match found.as_slice() {
            [one] => Ok(one),
            [] => Err(error(Code::NotFound, format!("there is no network {wanted}"))
                .with_hint("openstack network list                shows those there are")),
            many => Err(error(
                Code::Usage,
                format!("{} networks are called {wanted}; name one by its id", many.len()),
            )),
        };
    }
    let inner: Vec<_> = networks
        .iter()
        .filter(|n| !n.external && !n.subnets.is_empty())
        .collect();
    let own: Vec<_> = inner.iter().copied().filter(|n| !n.shared).collect();
    // Some clouds put machines right onto the network outside.
    let outer: Vec<_> = networks.iter().filter(|n| n.external && n.shared).collect();
    match (own.as_slice(), inner.as_slice(), outer.as_slice()) {
        ([one], ..) | ([], [one], _) | ([], [], [one]) => Ok(one),
        ([], [], []) => Err(error(Code::NotFound, "the project has no network for machines")
            .with_hint("openstack network create dask && openstack subnet create dask --network dask --subnet-range 10.0.0.0/24")
            .with_hint("openstack router create dask --external-gateway EXT && openstack router add subnet dask dask")),
        ([], [], many) | ([], many, _) | (many, ..) => Err(error(
            Code::Usage,
            format!("the project has more than one network: {}", names(many)),
        )
        .with_hint(format!("herdsman up … --network {}              names one, by id or name", many[0].name))),
    }
}

/// The network that floating addresses come from, where machines are to have any.
fn outside(
    networks: &[Network],
    inner: &Network,
    floating: Floating,
    wanted: Option<&str>,
) -> Result<Option<String>, ProviderError> {
    let automatic = match floating {
        Floating::None => return Ok(None),
        // A network that others made is reached in their way, one outside from anywhere.
        Floating::Auto if wanted.is_none() && (inner.shared || inner.external) => return Ok(None),
        Floating::Auto => true,
        Floating::All | Floating::Scheduler => false,
    };
    if let Some(wanted) = wanted {
        let found = networks.iter().find(|n| n.id == wanted || n.name == wanted);
        let missing = || error(Code::NotFound, format!("there is no network {wanted} outside"));
        return found.map(|n| Some(n.id.clone())).ok_or_else(missing);
    }
    let all: Vec<_> = networks.iter().filter(|n| n.external).collect();
    let standard = all.iter().find(|n| n.is_default == Some(true));
    match (all.as_slice(), standard) {
        (_, Some(one)) | ([one], _) => Ok(Some(one.id.clone())),
        ([], _) if automatic => Ok(None),
        ([], _) => Err(error(
            Code::NotFound,
            "there is no network outside that has floating addresses",
        )),
        (many, _) => {
            let names: Vec<_> = many.iter().map(|n| n.name.as_str()).collect();
            Err(error(
                Code::Usage,
                format!("there is more than one network outside: {}", names.join(", ")),
            )
            .with_hint(format!("herdsman up … --set openstack.external_network={}", names[0]))
            .with_hint(
                "herdsman up … --set openstack.floating_ip=none    where this computer reaches machines without",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str, name: &str, shared: bool, external: bool) -> Network {
        Network {
            id: id.into(),
            name: name.into(),
            subnets: vec!["s".into()],
            shared,
            external,
            is_default: None,
        }
    }

    #[test]
    fn the_network_is_clear_or_asked_for() {
        let own = network("1", "own", false, false);
        let other = network("2", "other", false, false);
        let shared = network("3", "provider", true, false);
        let ext = network("4", "ext", false, true);
        let attachable = network("5", "ext-net", true, true);
        let name = |all: &[&Network], wanted: Option<&str>| {
            let all: Vec<_> = all.iter().copied().cloned().collect();
            choose(&all, wanted).map(|n| n.name.clone()).map_err(|e| e.code)
        };
        assert_eq!(name(&[&own, &shared, &ext], None).unwrap(), "own");
        assert_eq!(name(&[&shared, &ext], None).unwrap(), "provider");
        assert_eq!(name(&[&attachable], None).unwrap(), "ext-net");
        assert_eq!(name(&[&own, &other], None), Err(Code::Usage));
        assert_eq!(name(&[&ext], None), Err(Code::NotFound));
        assert_eq!(name(&[&own, &other], Some("other")).unwrap(), "other");
        assert_eq!(name(&[&own, &other], Some("1")).unwrap(), "own");
        assert_eq!(name(&[&own, &own], Some("own")), Err(Code::Usage));
        assert_eq!(name(&[&own], Some("none")), Err(Code::NotFound));
    }

    #[test]
    fn floating_addresses_come_from_where_it_is_clear() {
        let own = network("1", "own", false, false);
        let shared = network("3", "provider", true, false);
        let ext = network("4", "ext", false, true);
        let mut best = network("5", "best", false, true);
        best.is_default = Some(true);
        let of = |all: &[&Network], inner: &Network, floating, wanted: Option<&str>| {
            let all: Vec<_> = all.iter().copied().cloned().collect();
            outside(&all, inner, floating, wanted).map_err(|e| e.code)
        };
        let four = Ok(Some("4".to_owned()));
        assert_eq!(of(&[&own, &ext], &own, Floating::Auto, None), four);
        assert_eq!(of(&[&own, &ext], &own, Floating::None, None), Ok(None));
        assert_eq!(of(&[&shared, &ext], &shared, Floating::Auto, None), Ok(None));
        assert_eq!(of(&[&shared, &ext], &shared, Floating::Scheduler, None), four);
        assert_eq!(of(&[&own], &own, Floating::Auto, None), Ok(None));
        assert_eq!(of(&[&own], &own, Floating::All, None), Err(Code::NotFound));
        assert_eq!(of(&[&ext, &best], &own, Floating::Auto, None), Ok(Some("5".into())));
        let second = network("6", "second", false, true);
        assert_eq!(of(&[&ext, &second], &own, Floating::Auto, None), Err(Code::Usage));
        assert_eq!(of(&[&ext, &second], &own, Floating::Auto, Some("ext")), four);
    }
}
