//! The least that the account has to allow, as a custom role
//! (<https://learn.microsoft.com/azure/role-based-access-control/custom-roles>).

use serde_json::json;

use super::names;
use super::settings::{Outbound, Settings};

/// Looks at what there is, of machines and what hangs on them.
const LOOK: &[&str] = &[
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Network/locations/operations/read",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/publicIPAddresses/read",
];
/// Makes and deletes machines; what hangs on them is made in the same call, by the
/// vendor in our name, and goes with them.
const MACHINES: &[&str] = &[
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
];
/// Makes, finds and deletes a group for each cluster, with all that is in it.
const OWN_GROUP: &[&str] = &[
    "Microsoft.Compute/skus/read",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resources/read",
];
/// Finds what is left in a group of the user's, and deletes it thing by thing. A list of
/// a group's machines says nothing of their power, so that each is asked.
const USERS_GROUP: &[&str] = &[
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/virtualMachines/instanceView/read",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Resources/subscriptions/resourceGroups/resources/read",
];
/// A firewall of the cluster's own, and its deletion.
const FIREWALL: &[&str] = &[
    "Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action",
    "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
    "Microsoft.Network/applicationSecurityGroups/write",
    "Microsoft.Network/networkSecurityGroups/write",
];
const FIREWALL_GONE: &[&str] = &[
    "Microsoft.Network/applicationSecurityGroups/delete",
    "Microsoft.Network/networkSecurityGroups/delete",
];
/// Public addresses.
const ADDRESS: &[&str] = &[
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/publicIPAddresses/write",
];
/// A way out that machines share.
const GATEWAY: &[&str] = &[
    "Microsoft.Network/natGateways/join/action",
    "Microsoft.Network/natGateways/write",
];
/// All works without these: `check`, `sizes`, the console, and the vendor's first word on
/// why a machine was not made.
const NICE: &[&str] = &[
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Compute/locations/operations/read",
    "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read",
    "Microsoft.Compute/locations/usages/read",
    "Microsoft.Compute/skus/read",
    "Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action",
    "Microsoft.Resources/subscriptions/providers/read",
    "Microsoft.Resources/subscriptions/read",
];

/// What these settings need, without what only `check` and the console do.
pub(super) fn actions(settings: &Settings) -> Vec<&'static str> {
    let common = &settings.common;
    let mut all: Vec<&str> = [LOOK, MACHINES].concat();
    let is_ours = settings.group.is_none();
    all.extend(if is_ours { OWN_GROUP } else { USERS_GROUP });
    if common.security_groups.is_empty() {
        all.extend(FIREWALL);
        if !is_ours {
            all.extend(FIREWALL_GONE);
        }
    }
    let has_network = common.network.is_some() || !common.subnets.is_empty();
    let is_nat = !has_network && settings.outbound() == Outbound::Nat;
    if has_network {
        all.push("Microsoft.Network/virtualNetworks/read");
    } else {
        all.push("Microsoft.Network/virtualNetworks/write");
        if !is_ours {
            all.push("Microsoft.Network/virtualNetworks/delete");
        }
    }
    if is_nat {
        all.extend(GATEWAY);
        if !is_ours {
            all.push("Microsoft.Network/natGateways/delete");
        }
    }
    if is_nat || settings.is_public() || settings.outbound() == Outbound::Public {
        all.extend(ADDRESS);
    }
    if common.image.as_deref().is_some_and(names::is_id) {
        all.push("Microsoft.Compute/galleries/images/read");
        all.push("Microsoft.Compute/galleries/images/versions/read");
        all.push("Microsoft.Compute/images/read");
    }
    if common.ssh_key.is_some() {
        all.push("Microsoft.Compute/sshPublicKeys/read");
    }
    if common.role.as_deref().is_some_and(|r| r != "system") {
        all.push("Microsoft.ManagedIdentity/userAssignedIdentities/assign/action");
    }
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn policy(settings: &Settings) -> String {
    let mut all = actions(settings);
    all.extend(NICE);
    all.sort_unstable();
    all.dedup();
    let subscription = settings.subscription.as_deref().unwrap_or("SUBSCRIPTION");
    let mut places = vec![match &settings.group {
        Some(group) => names::group(subscription, group),
        None => format!("/subscriptions/{subscription}"),
    }];
    // A network may be in another group, and is joined there.
    let named = settings.common.network.as_deref().unwrap_or_default();
    let other = names::part(named, "resourceGroups")
        .or_else(|| named.split_once('/').map(|(group, _)| group))
        .filter(|g| !g.is_empty());
    if let (Some(other), Some(own)) = (other, &settings.group)
        && !names::same(other, own)
    {
        places.push(names::group(subscription, other));
    }
    let role = json!({
        "Name": "herdsman",
        "IsCustom": true,
        "Description": "What herdsman needs to make and delete Dask clusters",
        "Actions": all,
        "NotActions": [],
        "DataActions": [],
        "NotDataActions": [],
        "AssignableScopes": places,
    });
    serde_json::to_string_pretty(&role).unwrap_or_default() + "\n"
}
