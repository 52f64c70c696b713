//! What there is: machines with their addresses, from lists.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use herdsman_wire::{Code, Role, limits};
use tokio::time::Instant;

use super::super::cloud::http::Base;
use super::super::cloud::{error, http as calls, labels};
use super::super::{Hardware, Machine, ProviderError};
use super::answers::{Address, BootData, Failure, Nic, View, Vm};
use super::api::version;
use super::{Azure, failure, names};

/// Most questions at once, where machines are asked one by one.
const WINDOW: usize = 16;
/// Longest time for the text of a console.
const CONSOLE: std::time::Duration = std::time::Duration::from_secs(60);

/// Machines with what they reach the world by.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) vms: Vec<Vm>,
    nics: Vec<Nic>,
    addresses: Vec<Address>,
}

/// What a list is of.
#[derive(Clone, Debug)]
enum Scope {
    Subscription,
    Group(String),
}

impl Azure {
    pub(super) async fn look_at_group(&self, group: &str) -> Result<Look, ProviderError> {
        self.look(&Scope::Group(group.to_owned())).await
    }

    async fn look(&self, scope: &Scope) -> Result<Look, ProviderError> {
        let subscription = self.subscription()?;
        let (root, one) = match scope {
            Scope::Subscription => (format!("/subscriptions/{subscription}"), false),
            Scope::Group(name) => (names::group(subscription, name), true),
        };
        let action = |of_group: &'static str, of_all: &'static str| if one { of_group } else { of_all };
        let at = |kind: &str| format!("{root}/providers/{kind}");
        let (vms, nics, addresses) = (
            at("Microsoft.Compute/virtualMachines"),
            at("Microsoft.Network/networkInterfaces"),
            at("Microsoft.Network/publicIPAddresses"),
        );
        let looked = tokio::try_join!(
            self.api.list(
                action("VirtualMachines_List", "VirtualMachines_ListAll"),
                &vms,
                version::COMPUTE,
                &[]
            ),
            self.api.list(
                action("NetworkInterfaces_List", "NetworkInterfaces_ListAll"),
                &nics,
                version::NETWORK,
                &[]
            ),
            self.api.list(
                action("PublicIPAddresses_List", "PublicIPAddresses_ListAll"),
                &addresses,
                version::NETWORK,
                &[]
            ),
        );
        match looked {
            Ok((vms, nics, addresses)) => Ok(Look { vms, nics, addresses }),
            // A group that is gone has no machines.
            Err(e) if failure::is(&e, "ResourceGroupNotFound") => Ok(Look::default()),
            Err(e) => Err(e),
        }
    }

    /// Machines of one cluster or of all.
    pub(super) async fn machines(&self, cluster: Option<&str>) -> Result<Vec<Machine>, ProviderError> {
        let scope = self.settings.group.clone().map_or(Scope::Subscription, Scope::Group);
        let mut look = self.look(&scope).await?;
        look.vms.retain(|vm| {
            let tag = vm.tags.get(labels::CLUSTER);
            let is_going = vm.properties.provisioning_state.eq_ignore_ascii_case("Deleting");
            !is_going && tag.is_some_and(|t| cluster.is_none_or(|c| c == t))
        });
        if !look.vms.is_empty() {
            self.add_power(&mut look.vms).await?;
        }
        let mut all: Vec<Machine> = look.vms.iter().filter_map(|vm| self.machine(vm, &look)).collect();
        all.sort_by(|a, b| (&a.cluster.name, a.role, &a.node).cmp(&(&b.cluster.name, b.role, &b.node)));
        Ok(all)
    }

    /// Whether machines run, which a plain list does not say. One list of the whole
    /// subscription does; who may only see a group asks for each.
    async fn add_power(&self, vms: &mut [Vm]) -> Result<(), ProviderError> {
        let all = format!(
            "/subscriptions/{}/providers/Microsoft.Compute/virtualMachines",
            self.subscription()?
        );
        let listed: Result<Vec<Vm>, _> = if self.settings.group.is_none() {
            self.api
                .list(
                    "VirtualMachines_ListAll",
                    &all,
                    version::COMPUTE,
                    &[("statusOnly", "true")],
                )
                .await
        } else {
            Err(error(Code::Permission, "a group alone"))
        };
        match listed {
            Ok(known) => {
                for vm in vms {
                    let found = known.iter().find(|k| names::same(&k.id, &vm.id));
                    vm.properties.instance_view = found.and_then(|k| k.properties.instance_view.clone());
                }
                Ok(())
            }
            Err(e) if e.code == Code::Permission => {
                let asked = vms.iter_mut().map(|vm| async {
                    vm.properties.instance_view = self.view(&vm.id).await?;
                    Ok::<_, ProviderError>(())
                });
                let mut answers = futures_util::stream::iter(asked).buffer_unordered(WINDOW);
                while let Some(answer) = answers.next().await {
                    answer?;
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// How a machine is just now; none where it is gone.
    async fn view(&self, id: &str) -> Result<Option<View>, ProviderError> {
        let path = format!("{id}/instanceView");
        let view: Result<View, _> = self
            .api
            .get("VirtualMachines_InstanceView", &path, version::COMPUTE, &[])
            .await;
        match view {
            Ok(view) => Ok(Some(view)),
            Err(e) if e.code == Code::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why a machine could not be made.
    pub(super) async fn why(&self, vm: &Vm) -> ProviderError {
        let name = names::part(&vm.id, "virtualMachines").unwrap_or(&vm.id);
        match self.view(&vm.id).await {
            Ok(Some(view)) => match view.failure() {
                Some((code, message)) => {
                    let failure = Failure {
                        code: code.to_owned(),
                        message: message.to_owned(),
                        details: Vec::new(),
                    };
                    failure::coded(name, &failure, 0)
                }
                None => failure::of_operation(name, None),
            },
            Ok(None) => failure::of_operation(name, None),
            Err(e) => e,
        }
    }

    /// A machine of the vendor's as ours; what has no tags of ours is none.
    pub(super) fn machine(&self, vm: &Vm, look: &Look) -> Option<Machine> {
        let cluster = labels::cluster_of(&vm.tags)?;
        let role = labels::role_of(&vm.tags);
        let name = names::part(&vm.id, "virtualMachines")?;
        let nic = look
            .nics
            .iter()
            .find(|n| names::same(&n.properties.virtual_machine.id, &vm.id));
        let ip = nic
            .and_then(|n| n.properties.ip_configurations.first())
            .map(|c| &c.properties);
        let parsed = |text: Option<&String>| text.and_then(|t| t.parse::<IpAddr>().ok());
        let private = parsed(ip.and_then(|i| i.private.as_ref()));
        let public = ip.and_then(|i| {
            let found = look.addresses.iter().find(|a| names::same(&a.id, &i.public.id))?;
            parsed(found.properties.ip_address.as_ref())
        });
        let reached = if self.settings.is_public() { public } else { private };
        let at = |port: u16| reached.filter(|_| role == Role::Scheduler).map(|ip| (ip, port).into());
        let p = &vm.properties;
        let power = p.instance_view.as_ref().and_then(View::power);
        let is_down = matches!(power, Some("stopped" | "stopping" | "deallocated" | "deallocating"));
        Some(Machine {
            node: labels::node_of(&vm.tags, name)?,
            id: vm.id.clone(),
            cluster,
            role,
            address: private,
            agent: at(limits::AGENT_PORT),
            scheduler: at(limits::SCHEDULER_PORT),
            tags: vm.tags.clone(),
            running: !is_down && !p.provisioning_state.eq_ignore_ascii_case("Failed"),
            hardware: Hardware {
                kind: Some(p.hardware_profile.vm_size.clone()).filter(|k| !k.is_empty()),
                zone: vm.zones.first().cloned(),
                spot: p.priority.eq_ignore_ascii_case("Spot"),
            },
        })
    }

    /// The console's text, which the vendor keeps as a file behind an address that is
    /// good for some minutes.
    pub(super) async fn output(&self, machine: &Machine) -> Result<String, ProviderError> {
        let path = format!("{}/retrieveBootDiagnosticsData", machine.id);
        let minutes = [("sasUriExpirationTimeInMinutes", "5")];
        let data: BootData = self
            .api
            .post(
                "VirtualMachines_RetrieveBootDiagnosticsData",
                &path,
                version::COMPUTE,
                &minutes,
            )
            .await?;
        let url = data.serial_console_log_blob_uri.unwrap_or_default();
        if url.is_empty() {
            return Ok(String::new());
        }
        // The address is as good as a password: it is neither shown nor logged.
        Base::new(&url).map_err(|_| error(Code::Provider, "the console's address has no TLS"))?;
        let until = Instant::now() + CONSOLE;
        let read = async {
            let answer = calls::plain()?.get(&url).send().await;
            let answer = answer.map_err(|e| e.without_url().to_string());
            let answer = answer.map_err(|e| error(Code::Unreachable, format!("the console's text: {e}")))?;
            match answer.status().as_u16() {
                200 => {
                    let text = answer.bytes().await;
                    let text =
                        text.map_err(|e| error(Code::Unreachable, format!("the console's text: {}", e.without_url())))?;
                    Ok(String::from_utf8_lossy(&text).into_owned())
                }
                // Nothing was written yet.
                404 => Ok(String::new()),
                status => Err(error(Code::Provider, format!("the console's text: status {status}"))),
            }
        };
        tokio::time::timeout_at(until, read)
            .await
            .unwrap_or_else(|_| Err(error(Code::Deadline, "the console's text: no answer in time")))
    }
}
