//! What machines of a cluster share: tags, and two firewalls that hold for whatever
//! carries them. The inner one joins the cluster's machines, the outer one lets the
//! owner's networks reach the scheduler. The VPC is an existing one, by default the
//! region's own.

use std::collections::BTreeMap;

use herdsman_wire::{ClusterId, Code, Role, limits};
use http::Method;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cloud::{Resource, error, labels};
use super::super::token::Patience;
use super::super::{ClusterRef, Deleted, ProviderError, Tags};
use super::answers::{Droplet, Firewall, OneTag, OneVpc, Tag, Vpc};
use super::{DigitalOcean, tags};

const FIREWALLS: &str = "/v2/firewalls";
const TAGS: &str = "/v2/tags";

/// What machines of a cluster are put into.
#[derive(Clone, Debug)]
pub(super) struct Net {
    /// The VPC; absent: the region's own.
    pub(super) vpc: Option<String>,
    /// Tags by which the user's own firewalls hold.
    pub(super) others: Vec<String>,
    /// Made by this process, so that it has no machines but those we know.
    pub(super) fresh: bool,
}

fn name_of(cluster: &ClusterRef, what: &str) -> String {
    format!("herdsman-{}-{}{what}", cluster.name, cluster.id)
}

impl DigitalOcean {
    pub(super) async fn make_network(&self, cluster: &ClusterRef, tags: &Tags) -> Result<(), ProviderError> {
        let allowed = self.laptop.allowed(&self.settings.common).await?;
        let (there, vpc) = tokio::try_join!(self.firewalls(), self.vpc())?;
        let others = self.own_firewalls(&there)?;
        // A firewall takes only tags that exist. The one with the facts is the first,
        // so that nothing of ours is ever without its age.
        let (all, scheduler) = (tags::all(cluster), tags::scheduler(cluster));
        if let Some(facts) = tags::facts(cluster, tags) {
            self.tag(&facts).await?;
        }
        tokio::try_join!(self.tag(&all), self.tag(&scheduler))?;
        let names = [name_of(cluster, ""), name_of(cluster, "-in")];
        let inner = body(&names[0], &all, inside(&all));
        let outer = body(&names[1], &scheduler, outside(&allowed));
        let fresh = !there.iter().any(|f| names.contains(&f.name));
        let outer = async {
            if allowed.is_empty() {
                return Ok(());
            }
            self.firewall(&there, &outer).await
        };
        tokio::try_join!(self.firewall(&there, &inner), outer)?;
        self.remember(cluster, Net { vpc, others, fresh });
        Ok(())
    }

    /// The network of a cluster that is there.
    pub(super) async fn net(&self, cluster: &ClusterRef) -> Result<Net, ProviderError> {
        if let Some(net) = self.remembered(cluster) {
            return Ok(net);
        }
        let (there, vpc) = tokio::try_join!(self.firewalls(), self.vpc())?;
        let name = name_of(cluster, "");
        if !there.iter().any(|f| f.name == name) {
            return Err(error(Code::NotFound, format!("the cluster's firewall {name} is gone")));
        }
        let net = Net {
            vpc,
            others: self.own_firewalls(&there)?,
            fresh: false,
        };
        self.remember(cluster, net.clone());
        Ok(net)
    }

    async fn firewalls(&self) -> Result<Vec<Firewall>, ProviderError> {
        self.api.all(FIREWALLS, "firewalls", &[]).await
    }

    async fn tag(&self, name: &str) -> Result<(), ProviderError> {
        let made = self.api.put(Method::POST, TAGS, &json!({"name": name})).await;
        match made {
            Ok(_) => Ok(()),
            // It may be there already.
            Err(e) if matches!(e.code, Code::Usage | Code::Conflict) => {
                let there = self.api.get::<OneTag>(&format!("{TAGS}/{name}")).await;
                there.map(|_| ()).map_err(|_| e)
            }
            Err(e) => Err(e),
        }
    }

    /// Makes a firewall, or gives one that is there these rules.
    async fn firewall(&self, there: &[Firewall], body: &Value) -> Result<(), ProviderError> {
        let name = body["name"].as_str().unwrap_or_default();
        let mut there = there.iter().find(|f| f.name == name).cloned();
        let mut patience = Patience::short();
        loop {
            let done = match &there {
                Some(f) => self.api.put(Method::PUT, &format!("{FIREWALLS}/{}", f.id), body).await,
                None => self.api.once(Method::POST, FIREWALLS, body).await,
            };
            let Err(e) = done else { return Ok(()) };
            let lost = matches!(
                e.code,
                Code::Unreachable | Code::Deadline | Code::Provider | Code::Conflict
            );
            // Its tag was made a moment ago, and is not known everywhere yet.
            let early =
                e.code == Code::NotFound || e.code == Code::Usage && e.message.to_ascii_lowercase().contains("tag");
            if !(lost || early) || !patience.goes_on().await {
                return Err(e);
            }
            there = self.firewalls().await?.into_iter().find(|f| f.name == name);
            if lost && there.is_none() && e.code == Code::Conflict {
                return Err(e);
            }
        }
    }

    /// The VPC that was named, by id or name.
    pub(super) async fn vpc(&self) -> Result<Option<String>, ProviderError> {
        let Some(wanted) = &self.settings.common.network else {
            return Ok(None);
        };
        if is_uuid(wanted) {
            return Ok(Some(wanted.clone()));
        }
        let region = &self.settings.region;
        let all: Vec<Vpc> = self.api.all("/v2/vpcs", "vpcs", &[]).await?;
        let here = |v: &&Vpc| v.name == *wanted && v.region.as_ref().is_none_or(|r| r == region);
        let found = all.iter().find(here).map(|v| v.id.clone());
        let missing = || error(Code::NotFound, format!("there is no VPC {wanted} in {region}"));
        found.map(Some).ok_or_else(missing)
    }

    /// What people call the VPC.
    pub(super) async fn vpc_text(&self) -> Result<String, ProviderError> {
        let text = |v: &Vpc| format!("VPC {} ({})", v.name, v.ip_range.as_deref().unwrap_or("?"));
        if let Some(id) = self.vpc().await? {
            let one: OneVpc = self.api.get(&format!("/v2/vpcs/{id}")).await?;
            return Ok(text(&one.vpc));
        }
        let all: Vec<Vpc> = self.api.all("/v2/vpcs", "vpcs", &[]).await?;
        let own = all
            .iter()
            .find(|v| v.default && v.region.as_ref() == Some(&self.settings.region));
        Ok(own.map_or_else(
            || "the region's own VPC, which is made with the first machine".to_owned(),
            text,
        ))
    }

    /// Tags by which the user's own firewalls get hold of machines.
    fn own_firewalls(&self, there: &[Firewall]) -> Result<Vec<String>, ProviderError> {
        let tag = |wanted: &String| {
            let found = there.iter().find(|f| f.id == *wanted || f.name == *wanted);
            let found = found.ok_or_else(|| error(Code::NotFound, format!("there is no firewall {wanted}")))?;
            found.tags.iter().flatten().next().cloned().ok_or_else(|| {
                error(
                    Code::Usage,
                    format!("firewall {wanted} holds for no tag, so machines cannot be put behind it"),
                )
                .with_hint(format!("doctl compute firewall add-tags {} --tag-names NAME", found.id))
            })
        };
        self.settings.common.security_groups.iter().map(tag).collect()
    }

    /// Firewalls and tags. What a firewall does not know of its cluster, the tags do.
    pub(super) async fn resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let tags = self.api.all::<Tag>(TAGS, "tags", &[]);
        let (firewalls, all) = tokio::try_join!(self.firewalls(), tags)?;
        let mut facts: BTreeMap<ClusterId, Tags> = BTreeMap::new();
        for tag in &all {
            if let Some((c, read)) = tags::read("", std::slice::from_ref(&tag.name)) {
                facts.entry(c.id).or_default().extend(read);
            }
        }
        for known in facts.values_mut() {
            known.remove(labels::NODE);
            known.remove(labels::ROLE);
        }
        let resource = |kind: &str, id: &str, name: &str, cluster: ClusterRef, created: Option<i64>| {
            let mut tags = facts.get(&cluster.id).cloned().unwrap_or_default();
            tags.insert(labels::CLUSTER.to_owned(), cluster.name.to_string());
            tags.insert(labels::ID.to_owned(), cluster.id.to_string());
            if let Some(created) = created {
                tags.entry(labels::CREATED.to_owned())
                    .or_insert_with(|| created.to_string());
            }
            Resource {
                kind: kind.to_owned(),
                id: id.to_owned(),
                name: name.to_owned(),
                cluster,
                tags,
            }
        };
        let of_firewalls = firewalls.iter().filter_map(|f| {
            let created = f.created_at.as_ref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let cluster = cluster_of(f)?;
            Some(resource(
                "firewall",
                &f.id,
                &f.name,
                cluster,
                created.map(jiff::Timestamp::as_second),
            ))
        });
        let of_tags = all.iter().filter_map(|t| {
            let cluster = tags::cluster_of(&t.name)?;
            Some(resource("tag", &t.name, &t.name, cluster, None))
        });
        let wanted = |r: &Resource| cluster.is_none_or(|name| r.cluster.name.as_str() == name);
        Ok(of_firewalls.chain(of_tags).filter(wanted).collect())
    }

    /// Deletes firewalls and tags. Machines that a list did not show before, as they
    /// were made a moment ago, are found by what carries the tag.
    pub(super) async fn delete_network(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let mut of_ours = self.resources(Some(cluster.name.as_str())).await?;
        of_ours.retain(|r| r.cluster.id == cluster.id);
        if of_ours.iter().any(|r| r.kind == "tag")
            && let Err(e) = self.late(cluster, &mut report).await
        {
            report.left.push((format!("machines of {}", cluster.name), e.message));
        }
        // Without its tags nobody would find what is left.
        if !report.left.is_empty() {
            return Ok(report);
        }
        // The tag with the facts is the last one, as the others have no age.
        let last = |r: &Resource| (r.kind == "tag", tags::is_facts(&r.name), r.name.clone());
        of_ours.sort_by_key(last);
        for r in of_ours {
            let path = match r.kind.as_str() {
                "tag" => format!("{TAGS}/{}", r.id),
                _ => format!("{FIREWALLS}/{}", r.id),
            };
            match self.api.delete(&path).await {
                Ok(()) => report.deleted.push(format!("{} {}", r.kind, r.name)),
                Err(e) if e.code == Code::NotFound => report.deleted.push(format!("{} {}", r.kind, r.name)),
                Err(e) => report.left.push((format!("{} {}", r.kind, r.name), e.message)),
            }
        }
        self.forget(cluster);
        Ok(report)
    }

    /// Waits until nothing carries the cluster's tag, and deletes what does.
    async fn late(&self, cluster: &ClusterRef, report: &mut Deleted) -> Result<(), ProviderError> {
        let all = tags::all(cluster);
        let mut patience = Patience::long();
        loop {
            let carried = match self.api.get::<OneTag>(&format!("{TAGS}/{all}")).await {
                Ok(one) => one.tag.resources.count,
                Err(e) if e.code == Code::NotFound => 0,
                Err(e) => return Err(e),
            };
            if carried == 0 {
                return Ok(());
            }
            let found: Vec<Droplet> = self.api.all("/v2/droplets", "droplets", &[("tag_name", &all)]).await?;
            for droplet in &found {
                self.remove(droplet.id).await?;
                if !report.deleted.contains(&droplet.name) {
                    report.deleted.push(droplet.name.clone());
                }
            }
            if !patience.goes_on().await {
                let text = format!("{carried} still carry tag {all}");
                return Err(error(Code::Deadline, text));
            }
        }
    }
}

/// The cluster that a firewall was made for, by its tags or its name.
fn cluster_of(firewall: &Firewall) -> Option<ClusterRef> {
    let tagged = firewall.tags.iter().flatten().find_map(|t| tags::cluster_of(t));
    tagged.or_else(|| {
        let rest = firewall.name.strip_prefix("herdsman-")?;
        let (name, id) = rest.strip_suffix("-in").unwrap_or(rest).rsplit_once('-')?;
        Some(ClusterRef {
            name: name.parse().ok()?,
            id: id.parse().ok()?,
        })
    })
}

/// A firewall as the API takes it. Without a rule for what goes out, nothing would.
fn body(name: &str, tag: &str, inbound: Vec<Value>) -> Value {
    let anywhere = json!({"addresses": ["0.0.0.0/0", "::/0"]});
    let outbound: Vec<Value> = ["tcp", "udp", "icmp"]
        .iter()
        .map(|p| json!({"protocol": p, "ports": "0", "destinations": anywhere}))
        .collect();
    json!({"name": name, "tags": [tag], "inbound_rules": inbound, "outbound_rules": outbound})
}

/// Everything, from what carries the tag.
fn inside(tag: &str) -> Vec<Value> {
    let from = json!({"tags": [tag]});
    ["tcp", "udp", "icmp"]
        .iter()
        .map(|p| json!({"protocol": p, "ports": "0", "sources": from}))
        .collect()
}

/// The two ports, from these networks.
fn outside(allowed: &[IpNet]) -> Vec<Value> {
    let (first, last) = (
        limits::AGENT_PORT.min(limits::SCHEDULER_PORT),
        limits::AGENT_PORT.max(limits::SCHEDULER_PORT),
    );
    vec![json!({
        "protocol": "tcp",
        "ports": format!("{first}-{last}"),
        "sources": {"addresses": allowed},
    })]
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Tags of a machine, with those of the user's own firewalls.
pub(super) fn of_machine(cluster: &ClusterRef, role: Role, tags: &Tags, net: &Net) -> Vec<String> {
    let mut all = tags::of(cluster, role, tags);
    all.extend(net.others.iter().cloned());
    all
}
