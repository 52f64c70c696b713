//! What a machine is, as parameters of `RunInstances`: a pure function.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herdsman_wire::Role;

use super::super::cloud::labels;
use super::super::{ClusterRef, MachineSpec, Tags};
use super::answers::Subnet;
use super::api::Params;
use super::catalogue::{Chosen, disk};
use super::network::{Net, tag_specification};
use super::settings::Settings;

/// One call: so many machines of one kind in one place.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) cluster: &'a ClusterRef,
    /// What all of them are told and tagged.
    pub(super) spec: &'a MachineSpec,
    pub(super) count: usize,
    /// Whether they share what they are told, and so have no name of their own.
    pub(super) batch: bool,
    pub(super) image: &'a Chosen,
    pub(super) kind: &'a str,
    pub(super) subnet: &'a Subnet,
    pub(super) net: &'a Net,
    pub(super) spot: bool,
    /// Makes a repetition harmless.
    pub(super) token: &'a str,
}

impl Launch<'_> {
    pub(super) fn params(&self, settings: &Settings) -> Params {
        let (common, own) = (&settings.common, &settings.own);
        let mut p = Params::default();
        p.put("ImageId", &self.image.id);
        p.put("InstanceType", self.kind);
        p.put("MinCount", 1);
        p.put("MaxCount", self.count);
        p.put("ClientToken", self.token);
        p.put("UserData", BASE64_STANDARD.encode(self.spec.user_data.reveal()));
        // Who powers it off, deletes it.
        p.put("InstanceInitiatedShutdownBehavior", "terminate");
        // Version 1 of the metadata service gives secrets to whoever can make a
        // program on the machine fetch an address; a hop limit of 1 keeps containers
        // out.
        p.put("MetadataOptions.HttpTokens", "required");
        p.put("MetadataOptions.HttpPutResponseHopLimit", 1);
        p.put("MetadataOptions.HttpEndpoint", "enabled");
        p.put("NetworkInterface.1.DeviceIndex", 0);
        p.put("NetworkInterface.1.SubnetId", &self.subnet.subnet_id);
        p.put("NetworkInterface.1.AssociatePublicIpAddress", !common.private);
        p.put("NetworkInterface.1.DeleteOnTermination", true);
        let entry = self.net.entry.iter().filter(|_| self.spec.role == Role::Scheduler);
        p.list("NetworkInterface.1.SecurityGroupId", self.net.inner.iter().chain(entry));
        self.disk(settings, &mut p);
        let tags = self.tags(settings);
        tag_specification(&mut p, 1, "instance", &tags);
        tag_specification(&mut p, 2, "volume", &settings.volume_tags(&self.shared_tags()));
        tag_specification(&mut p, 3, "network-interface", &self.shared_tags());
        if self.spot {
            tag_specification(&mut p, 4, "spot-instances-request", &self.shared_tags());
            p.put("InstanceMarketOptions.MarketType", "spot");
            p.put("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time");
            p.put(
                "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
                "terminate",
            );
            if let Some(most) = own.spot_max_price {
                p.put("InstanceMarketOptions.SpotOptions.MaxPrice", most);
            }
        }
        if let Some(key) = &common.ssh_key {
            p.put("KeyName", key);
        }
        if let Some(role) = &common.role {
            let field = if role.starts_with("arn:") { "Arn" } else { "Name" };
            p.put(format!("IamInstanceProfile.{field}"), role);
        }
        if own.detailed_monitoring {
            p.put("Monitoring.Enabled", true);
        }
        if let Some(credits) = &own.cpu_credits {
            p.put("CreditSpecification.CpuCredits", credits);
        }
        if let Some(tenancy) = &own.tenancy {
            p.put("Placement.Tenancy", tenancy);
        }
        if let Some(group) = &own.placement_group {
            p.put("Placement.GroupName", group);
        }
        for (name, value) in &own.extra {
            match value {
                toml::Value::Array(all) => p.list(name, all.iter().map(text)),
                other => p.put(name, text(other)),
            };
        }
        p
    }

    fn disk(&self, settings: &Settings, p: &mut Params) {
        let (common, own) = (&settings.common, &settings.own);
        let ebs = "BlockDeviceMapping.1.Ebs";
        p.put("BlockDeviceMapping.1.DeviceName", &self.image.device);
        p.put(
            format!("{ebs}.VolumeSize"),
            disk(common.wish(self.spec.role), self.image),
        );
        p.put(
            format!("{ebs}.VolumeType"),
            common.disk_type.as_deref().unwrap_or("gp3"),
        );
        p.put(format!("{ebs}.DeleteOnTermination"), true);
        // Absent, it is as the account has it; false would undo that.
        if let Some(encrypted) = own.encrypted.or_else(|| own.kms_key.as_ref().map(|_| true)) {
            p.put(format!("{ebs}.Encrypted"), encrypted);
        }
        if let Some(key) = &own.kms_key {
            p.put(format!("{ebs}.KmsKeyId"), key);
        }
        if let Some(iops) = own.iops {
            p.put(format!("{ebs}.Iops"), iops);
        }
        if let Some(throughput) = own.throughput {
            p.put(format!("{ebs}.Throughput"), throughput);
        }
    }

    fn tags(&self, settings: &Settings) -> Tags {
        let mut tags = self.shared_tags();
        tags.extend(settings.own.instance_tags.clone());
        tags
    }

    /// A node's name is not among the tags of a batch.
    fn shared_tags(&self) -> Tags {
        let mut tags = self.spec.tags.clone();
        let name = if self.batch {
            tags.remove(labels::NODE);
            format!("{}-{}", self.cluster.name, self.spec.role)
        } else {
            self.spec.node.to_string()
        };
        tags.insert("Name".into(), name);
        tags
    }
}

/// A value as the query takes it.
fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
