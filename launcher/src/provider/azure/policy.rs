//! The least that the account has to allow, as a custom role
//! (<https://learn.microsoft.com/azure/role-based-access-control/custom-roles>).

use serde_json::json;

use super::names;
use super::settings::{Outbound, Settings};

/// Looks at what there is, of machines and what hangs on them.
const LOOK: &[&str] = &[
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/locations/operations/read",
    "Microsoft.Compute/skus/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Network/locations/operations/read",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/publicIPAddresses/read",
];
/// Makes machines; what hangs on them is made in the same call, by the vendor in our
/// name.
const MAKE: &[&str] = &[
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
];
/// Deletes machines, and what did not go with them.
const DELETE: &[&str] = &[
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Network/applicationSecurityGroups/delete",
    "Microsoft.Network/natGateways/delete",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkSecurityGroups/delete",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Network/virtualNetworks/delete",
];
/// A firewall of the cluster's own.
const FIREWALL: &[&str] = &[
    "Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action",
    "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
    "Microsoft.Network/applicationSecurityGroups/write",
    "Microsoft.Network/networkSecurityGroups/write",
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
/// All works without these: `check`, and the console.
const NICE: &[&str] = &[
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read",
    "Microsoft.Compute/locations/usages/read",
    "Microsoft.Compute/virtualMachines/instanceView/read",
    "Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action",
    "Microsoft.Resources/subscriptions/providers/read",
    "Microsoft.Resources/subscriptions/read",
];

/// What these settings need, without what only `check` and the console do.
pub(super) fn actions(settings: &Settings) -> Vec<&'static str> {
    let common = &settings.common;
    let mut all: Vec<&str> = [LOOK, MAKE, DELETE].concat();
    if common.security_groups.is_empty() {
        all.extend(FIREWALL);
    }
    let has_network = common.network.is_some() || !common.subnets.is_empty();
    if has_network {
        all.push("Microsoft.Network/virtualNetworks/read");
    } else {
        all.push("Microsoft.Network/virtualNetworks/write");
    }
    let is_nat = !has_network && settings.outbound() == Outbound::Nat;
    if is_nat {
        all.extend(GATEWAY);
    }
    if is_nat || settings.is_public() || settings.outbound() == Outbound::Public {
        all.extend(ADDRESS);
    }
    match settings.group {
        Some(_) => {
            all.push("Microsoft.Resources/subscriptions/resourceGroups/resources/read");
            // A group's list of machines says nothing of their power.
            all.push("Microsoft.Compute/virtualMachines/instanceView/read");
        }
        None => all.extend([
            "Microsoft.Resources/subscriptions/resourceGroups/delete",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Resources/subscriptions/resourceGroups/write",
            "Microsoft.Resources/subscriptions/resources/read",
        ]),
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
