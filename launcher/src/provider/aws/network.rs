//! Network and firewall: existing subnets, and two security groups of the cluster's
//! own. One joins its machines to each other, the other lets the owner's networks
//! reach the scheduler.

use herdsman_wire::{Code, limits};
use ipnet::IpNet;

use super::super::cloud::{Resource, error, labels};
use super::super::{ClusterRef, Deleted, ProviderError, Tags};
use super::answers::{Done, Group, Groups, MadeGroup, Subnet, Subnets, Volumes, Vpcs};
use super::api::Params;
use super::{Aws, failure, patience};

/// What machines of a cluster are put into.
#[derive(Clone, Debug)]
pub(super) struct Net {
    /// Subnets in the order in which they are tried.
    pub(super) subnets: Vec<Subnet>,
    /// Groups of all machines.
    pub(super) inner: Vec<String>,
    /// Group of the scheduler's besides those.
    pub(super) entry: Option<String>,
}

/// Marks the group that lets the owner in.
const ENTRY: &str = "-in";

fn name_of(cluster: &ClusterRef) -> String {
    format!("herdsman-{}-{}", cluster.name, cluster.id)
}

/// Tags in a call that makes something.
pub(super) fn tag_specification(params: &mut Params, n: usize, what: &str, tags: &Tags) {
    params.put(format!("TagSpecification.{n}.ResourceType"), what);
    for (i, (key, value)) in tags.iter().enumerate() {
        params.put(format!("TagSpecification.{n}.Tag.{}.Key", i + 1), key);
        params.put(format!("TagSpecification.{n}.Tag.{}.Value", i + 1), value);
    }
}

impl Aws {
    /// Makes the groups, and remembers where machines go.
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let subnets = self.subnets().await?;
        let vpc = subnets.first().map(|s| s.vpc_id.clone()).unwrap_or_default();
        let name = name_of(cluster);
        let inner = self.group(&name, &vpc, tags, |id, params| {
            params.put("IpPermissions.1.IpProtocol", "-1");
            params.put("IpPermissions.1.Groups.1.GroupId", id);
        });
        let entry = async {
            if allowed.is_empty() {
                return Ok(None);
            }
            let rules = |_: &str, params: &mut Params| rules_of_entry(params, &allowed);
            self.group(&format!("{name}{ENTRY}"), &vpc, tags, rules).await.map(Some)
        };
        let (inner, entry) = tokio::try_join!(inner, entry)?;
        let mut groups = vec![inner];
        groups.extend(self.own_groups(&vpc).await?);
        self.remember(
            cluster,
            Net {
                subnets,
                inner: groups,
                entry,
            },
        );
        Ok(())
    }

    /// The network of a cluster that is there.
    pub(super) async fn net(&self, cluster: &ClusterRef) -> Result<Net, ProviderError> {
        if let Some(net) = self.remembered(cluster) {
            return Ok(net);
        }
        let (subnets, groups) = tokio::try_join!(self.subnets(), self.groups(Some(cluster.name.as_str())))?;
        let vpc = subnets.first().map(|s| s.vpc_id.clone()).unwrap_or_default();
        let id = |wanted: &str| {
            let found = groups.iter().find(|g| g.group_name == wanted);
            found.map(|g| g.group_id.clone())
        };
        let name = name_of(cluster);
        let inner =
            id(&name).ok_or_else(|| error(Code::NotFound, format!("the cluster's security group {name} is gone")))?;
        let mut all = vec![inner];
        all.extend(self.own_groups(&vpc).await?);
        let net = Net {
            subnets,
            inner: all,
            entry: id(&format!("{name}{ENTRY}")),
        };
        self.remember(cluster, net.clone());
        Ok(net)
    }

    /// A group with its rules; one that is there already is taken as it is and gets
    /// the rules that it lacks.
    async fn group(
        &self,
        name: &str,
        vpc: &str,
        tags: &Tags,
        rules: impl Fn(&str, &mut Params),
    ) -> Result<String, ProviderError> {
        let mut params = Params::default();
        params.put("GroupName", name);
        params.put("GroupDescription", "Dask cluster made by herdsman");
        params.put("VpcId", vpc);
        let mut named = tags.clone();
        named.insert("Name".into(), name.to_owned());
        tag_specification(&mut params, 1, "security-group", &named);
        // Its name is as good as a client token.
        let made: Result<MadeGroup, _> = self.api.ec2("CreateSecurityGroup", &params).await;
        let id = match made {
            Ok(made) => made.group_id,
            Err(e) if failure::is(&e, "InvalidGroup.Duplicate") => {
                let mut params = Params::default();
                params.filter("group-name", [name]).filter("vpc-id", [vpc]);
                let found: Groups = self.api.ec2("DescribeSecurityGroups", &params).await?;
                let group = found.security_group_info.item.into_iter().next();
                group.ok_or(e)?.group_id
            }
            Err(e) => return Err(e),
        };
        let mut params = Params::default();
        params.put("GroupId", &id);
        rules(&id, &mut params);
        let until = patience::short();
        loop {
            let done: Result<Done, _> = self.api.ec2("AuthorizeSecurityGroupIngress", &params).await;
            match done {
                Ok(_) => return Ok(id),
                Err(e) if failure::is(&e, "InvalidPermission.Duplicate") => return Ok(id),
                // Made a moment ago, and not known everywhere yet.
                Err(e) if failure::is(&e, "InvalidGroup.NotFound") && !until.is_over() => until.pause().await,
                Err(e) => return Err(e),
            }
        }
    }

    /// Subnets that machines may go into, the best first.
    pub(super) async fn subnets(&self) -> Result<Vec<Subnet>, ProviderError> {
        let common = &self.settings.common;
        let zones = self.settings.zones();
        let mut params = Params::default();
        if !common.subnets.is_empty() {
            if common.subnets.iter().all(|s| s.starts_with("subnet-")) {
                params.list("SubnetId", &common.subnets);
            } else {
                params.filter("tag:Name", &common.subnets);
            }
        }
        match &common.network {
            Some(network) => {
                let id = self.vpc(network).await?;
                params.filter("vpc-id", [id]);
            }
            None if common.subnets.is_empty() => {
                params.filter("default-for-az", ["true"]);
            }
            None => {}
        }
        if !zones.is_empty() {
            params.filter("availability-zone", &zones);
        }
        let found: Subnets = self.api.ec2("DescribeSubnets", &params).await?;
        let mut subnets = found.subnet_set.item;
        let place = |list: &[String], name: &str| list.iter().position(|n| n == name).unwrap_or(usize::MAX);
        subnets.sort_by_key(|s| {
            (
                place(&common.subnets, &s.subnet_id),
                place(&zones, &s.availability_zone),
                // Where addresses are given by themselves there is a way out.
                s.map_public_ip_on_launch == common.private,
                s.availability_zone.clone(),
                s.subnet_id.clone(),
            )
        });
        if let Some(first) = subnets.first().map(|s| s.vpc_id.clone()) {
            // A group belongs to one network.
            subnets.retain(|s| s.vpc_id == first);
            return Ok(subnets);
        }
        let region = &self.settings.region;
        Err(if common.network.is_none() && common.subnets.is_empty() {
            error(Code::NotFound, format!("there is no default network in {region}"))
                .with_hint("herdsman up … --network vpc-…         names one, by id or name")
                .with_hint("aws ec2 create-default-vpc            makes the default one again")
        } else {
            error(Code::NotFound, format!("no subnet in {region} fits the settings"))
                .with_hint("aws ec2 describe-subnets --output table     shows those there are")
        })
    }

    async fn vpc(&self, network: &str) -> Result<String, ProviderError> {
        if network.starts_with("vpc-") {
            return Ok(network.to_owned());
        }
        let mut params = Params::default();
        params.filter("tag:Name", [network]);
        let found: Vpcs = self.api.ec2("DescribeVpcs", &params).await?;
        match found.vpc_set.item.as_slice() {
            [one] => Ok(one.vpc_id.clone()),
            [] => Err(error(
                Code::NotFound,
                format!("there is no network {network} in {}", self.settings.region),
            )),
            many => Err(error(
                Code::Usage,
                format!("{} networks are called {network}; name one by its id", many.len()),
            )),
        }
    }

    /// Ids of the user's own groups.
    async fn own_groups(&self, vpc: &str) -> Result<Vec<String>, ProviderError> {
        let wanted = &self.settings.common.security_groups;
        if wanted.iter().all(|g| g.starts_with("sg-")) {
            return Ok(wanted.clone());
        }
        let mut params = Params::default();
        params.filter("vpc-id", [vpc]);
        let found: Groups = self.api.ec2("DescribeSecurityGroups", &params).await?;
        let groups = found.security_group_info.item;
        let id = |name: &String| {
            let known = groups.iter().find(|g| g.group_id == *name || g.group_name == *name);
            known.map(|g| g.group_id.clone()).ok_or_else(|| {
                error(
                    Code::NotFound,
                    format!("there is no security group {name} in network {vpc}"),
                )
            })
        };
        wanted.iter().map(id).collect()
    }

    /// Our groups, of one cluster or of all.
    pub(super) async fn groups(&self, cluster: Option<&str>) -> Result<Vec<Group>, ProviderError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let mut params = by_tag(cluster);
            params.put("MaxResults", 1000);
            if let Some(token) = next {
                params.put("NextToken", token);
            }
            let page: Groups = self.api.ec2("DescribeSecurityGroups", &params).await?;
            all.extend(page.security_group_info.item);
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    /// Groups, and disks that outlived their machine.
    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let (groups, volumes) = tokio::try_join!(self.groups(cluster), self.free_volumes(cluster))?;
        let resource = |kind: &str, id: String, name: String, tags: Tags| {
            Some(Resource {
                cluster: labels::cluster_of(&tags)?,
                kind: kind.to_owned(),
                id,
                name,
                tags,
            })
        };
        let groups = groups
            .into_iter()
            .filter_map(|g| resource("security group", g.group_id, g.group_name, g.tag_set.map()));
        let volumes = volumes
            .into_iter()
            .filter_map(|(id, tags)| resource("disk", id.clone(), id, tags));
        Ok(groups.chain(volumes).collect())
    }

    async fn free_volumes(&self, cluster: Option<&str>) -> Result<Vec<(String, Tags)>, ProviderError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let mut params = by_tag(cluster);
            params.filter("status", ["available", "error"]);
            if let Some(token) = next {
                params.put("NextToken", token);
            }
            let page: Volumes = self.api.ec2("DescribeVolumes", &params).await?;
            all.extend(page.volume_set.item.into_iter().map(|v| (v.volume_id, v.tag_set.map())));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    /// Deletes groups and left disks, once their machines have gone.
    pub(super) async fn delete_network(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let until = patience::long();
        for r in self.resources(Some(cluster.name.as_str())).await? {
            if r.cluster.id != cluster.id {
                continue;
            }
            let (action, parameter) = if r.kind == "disk" {
                ("DeleteVolume", "VolumeId")
            } else {
                ("DeleteSecurityGroup", "GroupId")
            };
            let mut params = Params::default();
            params.put(parameter, &r.id);
            loop {
                let done: Result<Done, _> = self.api.ec2(action, &params).await;
                match done {
                    Ok(_) => report.deleted.push(format!("{} {}", r.kind, r.name)),
                    Err(e) if e.code == Code::NotFound => report.deleted.push(format!("{} {}", r.kind, r.name)),
                    Err(e)
                        if (failure::is(&e, "DependencyViolation") || failure::is(&e, "InvalidGroup.InUse"))
                            && !until.is_over() =>
                    {
                        until.pause().await;
                        continue;
                    }
                    Err(e) => report
                        .left
                        .push((format!("{} {} ({})", r.kind, r.name, r.id), e.message)),
                }
                break;
            }
        }
        self.forget(cluster);
        Ok(report)
    }
}

/// What has our tags, of one cluster or of all.
pub(super) fn by_tag(cluster: Option<&str>) -> Params {
    let mut params = Params::default();
    match cluster {
        Some(name) => params.filter(&format!("tag:{}", labels::CLUSTER), [name]),
        None => params.filter("tag-key", [labels::CLUSTER]),
    };
    params
}

/// The two ports, from these networks.
fn rules_of_entry(params: &mut Params, allowed: &[IpNet]) {
    params.put("IpPermissions.1.IpProtocol", "tcp");
    params.put(
        "IpPermissions.1.FromPort",
        limits::AGENT_PORT.min(limits::SCHEDULER_PORT),
    );
    params.put("IpPermissions.1.ToPort", limits::AGENT_PORT.max(limits::SCHEDULER_PORT));
    let (mut v4, mut v6) = (0, 0);
    for net in allowed {
        match net {
            IpNet::V4(net) => {
                v4 += 1;
                params.put(format!("IpPermissions.1.IpRanges.{v4}.CidrIp"), net);
            }
            IpNet::V6(net) => {
                v6 += 1;
                params.put(format!("IpPermissions.1.Ipv6Ranges.{v6}.CidrIpv6"), net);
            }
        }
    }
}
