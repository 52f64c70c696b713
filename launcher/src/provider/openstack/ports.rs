//! Addresses: those that lead in from outside, and ports in a certain part of a network,
//! which Nova does not choose by itself.

use std::net::IpAddr;

use herdsman_wire::Code;
use serde_json::json;

use super::super::cloud::error;
use super::super::cloud::http::query;
use super::super::{Machine, MachineSpec, ProviderError};
use super::answers::{FloatingIp, OneFloatingIp, OnePort, Port};
use super::api::Service;
use super::network::Net;
use super::{OpenStack, describe, failure, patience};

/// Key of a machine's own port.
pub(super) const PORT: &str = "herdsman-port";

impl OpenStack {
    /// A port for a machine, in the first part of the network that has an address left.
    pub(super) async fn make_port(
        &self,
        net: &Net,
        spec: &MachineSpec,
        groups: &[String],
    ) -> Result<String, ProviderError> {
        let mut last = error(Code::Capacity, "there is no subnet for machines");
        for subnet in &net.subnets {
            let body = json!({"port": {
                "name": spec.node, "description": describe::line(&spec.tags), "network_id": net.network.id,
                "fixed_ips": [{"subnet_id": subnet.id}], "security_groups": groups,
            }});
            match self.port(&body, spec).await {
                Err(e) if e.code == Code::Capacity => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    async fn port(&self, body: &serde_json::Value, spec: &MachineSpec) -> Result<String, ProviderError> {
        let mut asked = 0;
        loop {
            let made: Result<OnePort, _> = self.api.post(Service::Network, "create port", "/ports", body).await;
            asked += 1;
            match made {
                Ok(made) => return Ok(made.port.id),
                Err(e) if failure::is_lost(&e) && asked < patience::ASKED => {}
                Err(e) => return Err(e),
            }
            // Perhaps it was made, and the answer lost.
            let path = format!("/ports{}", query(&[("name", spec.node.as_str())]));
            let line = describe::line(&spec.tags);
            let mut until = patience::lost();
            while !until.is_over() {
                until.pause().await;
                let there: Vec<Port> = self.api.list(Service::Network, &path, "ports").await?;
                if let Some(port) = there.into_iter().find(|p| p.description.as_ref() == Some(&line)) {
                    return Ok(port.id);
                }
            }
        }
    }

    pub(super) async fn delete_port(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/ports/{id}");
        self.api.delete(Service::Network, "delete port", &path).await
    }

    /// Gives a machine an address outside; one that it has already is the answer.
    pub(super) async fn float(&self, machine: &Machine) -> Result<IpAddr, ProviderError> {
        let net = self.net(&machine.cluster).await?;
        let outside = net.outside.ok_or_else(|| {
            error(
                Code::NotFound,
                format!("{} has no address that this computer can reach", machine.node),
            )
            .with_hint("herdsman up … --private        if this computer is inside of the network")
        })?;
        let path = format!("/ports{}", query(&[("device_id", machine.id.as_str())]));
        let ports: Vec<Port> = self.api.list(Service::Network, &path, "ports").await?;
        let missing = || error(Code::Provider, format!("{} has no port", machine.node));
        let port = ports.into_iter().next().ok_or_else(missing)?.id;
        let body = json!({"floatingip": {
            "floating_network_id": outside, "port_id": port, "description": describe::line(&machine.tags),
        }});
        let mut until = patience::lost();
        let found = loop {
            let made: Result<OneFloatingIp, _> = self
                .api
                .post(Service::Network, "create floating address", "/floatingips", &body)
                .await;
            let e = match made {
                Ok(made) => break made.floatingip,
                Err(e) => e,
            };
            if e.code != Code::Conflict && !failure::is_lost(&e) {
                return Err(e);
            }
            // It has one: a call before this was carried out.
            let path = format!("/floatingips{}", query(&[("port_id", port.as_str())]));
            let there: Vec<FloatingIp> = self.api.list(Service::Network, &path, "floatingips").await?;
            if let Some(found) = there.into_iter().next() {
                break found;
            }
            if until.is_over() {
                return Err(e);
            }
            until.pause().await;
        };
        found.floating_ip_address.parse().map_err(|_| {
            let text = format!("{:?} is no address", found.floating_ip_address);
            error(Code::Provider, text)
        })
    }

    /// Our floating addresses.
    pub(super) async fn floating(&self) -> Result<Vec<FloatingIp>, ProviderError> {
        let mut all: Vec<FloatingIp> = self.api.list(Service::Network, "/floatingips", "floatingips").await?;
        all.retain(|f| f.description.as_deref().and_then(describe::tags).is_some());
        Ok(all)
    }
}
