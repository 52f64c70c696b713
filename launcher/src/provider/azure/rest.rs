//! Deleting: machines, and what is left when they have gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use herdsman_wire::Code;

use super::super::cloud::{Resource, labels};
use super::super::{ClusterRef, Deleted, Machine, ProviderError};
use super::answers;
use super::api::{Pending, version};
use super::network::{ADDRESSES, FIREWALLS, GATEWAYS, GROUPS, INTERFACES, NETWORKS};
use super::{Azure, failure, names, patience};

/// Longest wait for a group to go, with everything in it.
const WHOLE: Duration = Duration::from_secs(900);
/// Longest wait for one thing to go.
const ONE: Duration = Duration::from_secs(180);
const DISKS: &str = "Microsoft.Compute/disks";

/// Kinds with what people call them and what the vendor calls their deletion, in the
/// order in which they can go: those after hold those before.
const ORDER: [(&str, &str, &str); 7] = [
    (INTERFACES, "network interface", "NetworkInterfaces_Delete"),
    (DISKS, "disk", "Disks_Delete"),
    (NETWORKS, "network", "VirtualNetworks_Delete"),
    (GATEWAYS, "NAT gateway", "NatGateways_Delete"),
    (ADDRESSES, "public address", "PublicIPAddresses_Delete"),
    (FIREWALLS, "network security group", "NetworkSecurityGroups_Delete"),
    (GROUPS, "application security group", "ApplicationSecurityGroups_Delete"),
];

const GROUP: &str = "Microsoft.Resources/resourceGroups";

fn kind_of(kind: &str) -> &str {
    if kind.eq_ignore_ascii_case(GROUP) {
        return "resource group";
    }
    let known = ORDER.iter().find(|(k, ..)| k.eq_ignore_ascii_case(kind));
    known.map_or(kind, |(_, name, _)| name)
}

fn version_of(kind: &str) -> &'static str {
    if kind.eq_ignore_ascii_case(DISKS) {
        version::DISKS
    } else {
        version::NETWORK
    }
}

/// Something that is to go.
struct Part {
    kind: String,
    id: String,
    /// Whether it was seen, and not only may be there.
    is_known: bool,
}

impl Azure {
    pub(super) async fn delete_machine(&self, id: &str) -> Result<Pending, ProviderError> {
        // Nothing on it is to be kept, so it needs no time to shut down.
        let force = [("forceDeletion", "true")];
        self.api
            .delete("VirtualMachines_Delete", id, version::COMPUTE, &force)
            .await
    }

    /// Deletes machines. The vendor has taken the order when it answers; disk, interface
    /// and address go with them.
    pub(super) async fn terminate(&self, machines: &[Machine]) -> Result<Deleted, ProviderError> {
        let work = machines
            .iter()
            .map(|m| async move { (m, self.delete_machine(&m.id).await) });
        let mut report = Deleted::default();
        for (m, done) in join_all(work).await {
            match done {
                Ok(_) => report.deleted.push(m.node.to_string()),
                Err(e) => report.left.push((format!("{} ({})", m.node, m.id), e.message)),
            }
        }
        self.is_held.store(!report.left.is_empty(), Ordering::Relaxed);
        Ok(report)
    }

    pub(super) async fn shared_resources(&self, cluster: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let found = self.resources(cluster).await?;
        Ok(found.into_iter().filter_map(resource).collect())
    }

    /// Deletes groups that were made here, and what was made in groups of the user's.
    pub(super) async fn delete_network(&self, cluster: &ClusterRef) -> Result<Deleted, ProviderError> {
        let mut report = Deleted::default();
        let mut found = self.resources(Some(cluster.name.as_str())).await?;
        found.retain(|r| labels::cluster_of(&r.tags).is_some_and(|c| c.id == cluster.id));
        let (groups, parts): (Vec<_>, Vec<_>) = found.into_iter().partition(|r| r.kind.eq_ignore_ascii_case(GROUP));
        for group in groups {
            let name = format!("resource group {}", group.name);
            match self.delete_group(&group.id).await {
                Ok(()) => report.deleted.push(name),
                Err(e) => report.left.push((name, e.message)),
            }
        }
        let mut places: Vec<String> = self.settings.group.iter().cloned().collect();
        for part in &parts {
            let group = names::part(&part.id, "resourceGroups").unwrap_or_default();
            if !places.iter().any(|p| names::same(p, group)) {
                places.push(group.to_owned());
            }
        }
        let known = |r: answers::Resource| Part {
            kind: r.kind,
            id: r.id,
            is_known: true,
        };
        let mut ids: Vec<Part> = parts.into_iter().map(known).collect();
        for place in &places {
            self.hanging(cluster, place, &mut ids).await?;
        }
        self.delete_parts(ids, &mut report).await;
        self.forget(cluster);
        Ok(report)
    }

    async fn delete_group(&self, id: &str) -> Result<(), ProviderError> {
        let force = [("forceDeletionTypes", "Microsoft.Compute/virtualMachines")];
        let going = self
            .api
            .delete("ResourceGroups_Delete", id, version::RESOURCES, &force)
            .await?;
        self.api.wait("ResourceGroups_Delete", going, WHOLE).await
    }

    /// What hung on machines of a cluster and did not go with them, by its names; and
    /// what machines shared, by the names that were given, as the list that is asked for
    /// all kinds is a copy that may lag behind.
    async fn hanging(&self, cluster: &ClusterRef, group: &str, ids: &mut Vec<Part>) -> Result<(), ProviderError> {
        let subscription = self.subscription()?;
        let root = names::group(subscription, group);
        let at = |kind: &str| format!("{root}/providers/{kind}");
        let (nics, addresses, disks) = (at(INTERFACES), at(ADDRESSES), at(DISKS));
        let looked: Result<(Vec<answers::Resource>, Vec<answers::Resource>, Vec<answers::Resource>), _> = tokio::try_join!(
            self.api.list("NetworkInterfaces_List", &nics, version::NETWORK, &[]),
            self.api
                .list("PublicIPAddresses_List", &addresses, version::NETWORK, &[]),
            self.api.list("Disks_ListByResourceGroup", &disks, version::DISKS, &[]),
        );
        let (nics, addresses, disks) = match looked {
            Ok(looked) => looked,
            Err(e) if failure::is(&e, "ResourceGroupNotFound") => return Ok(()),
            Err(e) => return Err(e),
        };
        let ours = |r: &answers::Resource| {
            labels::cluster_of(&r.tags).is_some_and(|c| c.id == cluster.id) || names::is_of(cluster, &r.name)
        };
        for (kind, list) in [(INTERFACES, nics), (ADDRESSES, addresses), (DISKS, disks)] {
            ids.extend(list.into_iter().filter(ours).map(|r| Part {
                kind: kind.to_owned(),
                id: r.id,
                is_known: true,
            }));
        }
        let name = names::shared(cluster);
        for (kind, end) in [
            (NETWORKS, ""),
            (GATEWAYS, names::NAT),
            (ADDRESSES, names::NAT),
            (FIREWALLS, ""),
            (GROUPS, ""),
            (GROUPS, names::ENTRY),
        ] {
            let id = names::resource(subscription, group, kind, &format!("{name}{end}"));
            ids.push(Part {
                kind: kind.to_owned(),
                id,
                is_known: false,
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        ids.retain(|p| seen.insert(p.id.to_ascii_lowercase()));
        Ok(())
    }

    async fn delete_parts(&self, ids: Vec<Part>, report: &mut Deleted) {
        let mut until = (!self.is_held.load(Ordering::Relaxed)).then(patience::long);
        for (kind, called, action) in ORDER {
            let of_kind = ids.iter().filter(|p| p.kind.eq_ignore_ascii_case(kind));
            let work = of_kind.map(|p| async {
                let name = format!("{called} {}", p.id.rsplit('/').next().unwrap_or(&p.id));
                let done = self.delete_part(action, kind, &p.id, until.as_ref()).await;
                (p.is_known, name, done)
            });
            let all = join_all(work).await;
            // What may not be deleted holds others for as long as anyone waits.
            if all
                .iter()
                .any(|(.., d)| matches!(d, Err(e) if e.code == Code::Permission))
            {
                until = None;
            }
            for (is_known, name, done) in all {
                match done {
                    Ok(true) => report.deleted.push(name),
                    Ok(false) => {}
                    // Who may not delete such has not made it either.
                    Err(e) if !is_known && e.code == Code::Permission => {}
                    Err(e) => report.left.push((name, e.message)),
                }
            }
        }
        for p in ids {
            if !ORDER.iter().any(|(k, ..)| k.eq_ignore_ascii_case(&p.kind)) {
                let name = format!("{} {}", p.kind, p.id);
                report.left.push((name, "herdsman does not make such".into()));
            }
        }
    }

    /// Deletes one thing; waits for what holds it, if there is sense in it. Gives
    /// whether it was there.
    async fn delete_part(
        &self,
        action: &str,
        kind: &str,
        id: &str,
        until: Option<&patience::Patience>,
    ) -> Result<bool, ProviderError> {
        loop {
            let gone = async {
                let going = self.api.delete(action, id, version_of(kind), &[]).await?;
                let was_there = going.is_under_way();
                self.api.wait(action, going, ONE).await?;
                Ok::<_, ProviderError>(was_there)
            };
            match gone.await {
                Err(e) if e.code == Code::NotFound => return Ok(false),
                Err(e) if failure::is_in_use(&e) => match until {
                    Some(until) if !until.is_over() => until.pause().await,
                    _ => return Err(e),
                },
                other => return other,
            }
        }
    }
}

/// A thing as others see it; without our tags it is none of ours.
fn resource(r: answers::Resource) -> Option<Resource> {
    Some(Resource {
        cluster: labels::cluster_of(&r.tags)?,
        kind: kind_of(&r.kind).to_owned(),
        id: r.id,
        name: r.name,
        tags: r.tags,
    })
}
