//! The least that the account has to allow, as a custom role of IAM
//! (<https://cloud.google.com/iam/docs/creating-custom-roles>), and the same list for
//! `check`.

use super::catalogue::wanted;
use super::settings::Settings;

/// For every cluster. What each call needs stands in its method's page of the
/// reference.
const ALWAYS: &[&str] = &[
    "compute.disks.create",
    "compute.disks.delete",
    "compute.disks.list",
    "compute.disks.setLabels",
    "compute.globalOperations.list",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getSerialPortOutput",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setTags",
    "compute.machineTypes.list",
    "compute.regions.get",
    "compute.subnetworks.use",
    "compute.zoneOperations.get",
];
/// For rules of the firewall, in the network's project.
const FIREWALL: &[&str] = &[
    "compute.firewalls.create",
    "compute.firewalls.delete",
    "compute.firewalls.get",
    "compute.firewalls.list",
    "compute.firewalls.update",
    "compute.globalOperations.get",
    "compute.globalOperations.list",
    "compute.networks.updatePolicy",
];

/// Permissions in two projects.
#[derive(Debug)]
pub(super) struct Needed {
    /// In the project of the machines.
    pub(super) machines: Vec<&'static str>,
    /// In the project of a network that is shared with it.
    pub(super) network: Vec<&'static str>,
}

pub(super) fn needed(settings: &Settings) -> Needed {
    let common = &settings.common;
    let mut machines = ALWAYS.to_vec();
    let mut network = Vec::new();
    if settings.has_firewall() {
        network.extend(FIREWALL);
    }
    if !common.private {
        machines.push("compute.subnetworks.useExternalIp");
    }
    if common.network.is_some() || !common.subnets.is_empty() {
        network.push("compute.subnetworks.list");
    }
    if common.scheduler.gpus.count > 0 || common.worker.gpus.count > 0 {
        machines.push("compute.acceleratorTypes.list");
    }
    if common.role.is_some() {
        machines.extend(["compute.instances.setServiceAccount", "iam.serviceAccounts.actAs"]);
    }
    let image = common.image.as_deref().map(wanted);
    // The project's own; the vendor's are for all, and others' are others' to allow.
    if let Some(image) = image.filter(|i| i.project.is_none() || i.project == settings.project.as_deref()) {
        let look = if image.is_family() {
            "compute.images.getFromFamily"
        } else {
            "compute.images.get"
        };
        machines.extend([look, "compute.images.useReadOnly"]);
    }
    if settings.own.network_project.is_none() {
        machines.append(&mut network);
    } else {
        // A shared network's parts are used by right of the network's project.
        machines.retain(|p| !p.starts_with("compute.subnetworks."));
        network.push("compute.subnetworks.use");
        if !common.private {
            network.push("compute.subnetworks.useExternalIp");
        }
    }
    for list in [&mut machines, &mut network] {
        list.sort_unstable();
        list.dedup();
    }
    Needed { machines, network }
}

/// Roles as `gcloud iam roles create` takes them.
pub(super) fn policy(settings: &Settings) -> String {
    let needed = needed(settings);
    let mut out = role(
        "herdsman",
        settings.project.as_deref().unwrap_or("PROJECT"),
        &needed.machines,
    );
    if let Some(project) = &settings.own.network_project {
        out += "---\n";
        out += &role("herdsmanNetwork", project, &needed.network);
    }
    out
}

fn role(id: &str, project: &str, permissions: &[&str]) -> String {
    let mut out = format!(
        "# gcloud iam roles create {id} --project {project} --file role.yaml\n\
         # gcloud projects add-iam-policy-binding {project} --role projects/{project}/roles/{id} --member user:YOU\n\
         title: {id}\ndescription: What herdsman needs for Dask clusters\nstage: GA\nincludedPermissions:\n"
    );
    for permission in permissions {
        out += &format!("- {permission}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::cloud::Common;
    use super::*;

    fn of(table: &str, change: impl FnOnce(&mut Common)) -> Needed {
        let mut common = Common {
            table: table.parse().unwrap(),
            env: [("HOME", "/nonexistent")].into_iter().collect(),
            ..Common::default()
        };
        change(&mut common);
        needed(&Settings::new(common).unwrap())
    }

    #[test]
    fn settings_need_more_or_less() {
        let has = |n: &Needed, p: &str| n.machines.contains(&p);
        let plain = of("", |_| {});
        assert!(has(&plain, "compute.firewalls.create") && has(&plain, "compute.subnetworks.useExternalIp"));
        assert!(plain.network.is_empty() && !has(&plain, "iam.serviceAccounts.actAs"));
        let private = of("firewall = false", |c| c.private = true);
        assert!(!has(&private, "compute.firewalls.create") && !has(&private, "compute.subnetworks.useExternalIp"));
        let shared = of("network_project = \"host\"", |c| c.role = Some("default".into()));
        assert!(has(&shared, "iam.serviceAccounts.actAs") && !has(&shared, "compute.firewalls.create"));
        assert!(
            shared.network.contains(&"compute.firewalls.create") && shared.network.contains(&"compute.subnetworks.use")
        );
    }
}
