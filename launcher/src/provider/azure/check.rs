//! What `check` and `--plan` say.

use herdsman_wire::{Code, Role};
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::{Finding, Mood, Offer, Plan, PlannedMachine, Spot, error};
use super::answers::{Permission, Usage};
use super::api::version;
use super::catalogue::disk;
use super::settings::Outbound;
use super::{Azure, names, policy};

/// Clocks further apart than this will be a trouble soon.
const SKEW: i64 = 60;
/// Quotas of processors: of all machines, and of all that can be taken away.
const ALL: &str = "cores";
const SPOT: &str = "lowPriorityCores";
/// Services that have to be switched on in a subscription.
const SERVICES: [&str; 2] = ["Microsoft.Compute", "Microsoft.Network"];

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subscription {
    display_name: String,
    state: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Service {
    registration_state: String,
}

impl Azure {
    pub(super) async fn look_around(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        match self.api.keys().identity().await {
            Ok(who) => {
                all.push(Finding::new(Mood::Good, "credentials", who.what));
                let tenant = if who.tenant.is_empty() { "unknown" } else { &who.tenant };
                all.push(Finding::new(
                    Mood::Good,
                    "identity",
                    format!("{} of tenant {tenant}", who.who),
                ));
            }
            Err(e) => {
                all.push(Finding::failed("credentials", &e));
                return all;
            }
        }
        let subscription = match self.subscription() {
            Ok(id) => id.to_owned(),
            Err(e) => {
                all.push(Finding::failed("subscription", &e));
                return all;
            }
        };
        let path = format!("/subscriptions/{subscription}");
        let found: Result<Subscription, _> = self
            .api
            .get("Subscriptions_Get", &path, version::SUBSCRIPTIONS, &[])
            .await;
        match found {
            Ok(s) if s.state == "Enabled" => {
                let text = format!("{} ({subscription})", s.display_name);
                all.push(Finding::new(Mood::Good, "subscription", text));
            }
            Ok(s) => all.push(Finding::new(
                Mood::Bad,
                "subscription",
                format!("{subscription} is {}", s.state),
            )),
            // Who may only see a group sees no more of the subscription.
            Err(e) if e.code == Code::Permission && self.settings.group.is_some() => {
                all.push(Finding::new(Mood::Good, "subscription", subscription.clone()));
            }
            Err(e) => {
                all.push(Finding::failed("subscription", &e));
                if e.code == Code::Credentials || e.code == Code::Unreachable {
                    return all;
                }
            }
        }
        all.push(Finding::new(Mood::Good, "region", &self.settings.region));
        let (services, network, image, types, permissions) = tokio::join!(
            self.services(&subscription),
            self.network_finding(),
            self.found_image(),
            self.types(Role::Worker),
            self.permissions(&subscription),
        );
        all.push(self.clock());
        all.push(services);
        all.push(network);
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", image.to_string()),
            Err(e) => Finding::failed("image", e),
        });
        all.push(permissions);
        match types {
            Ok(types) => {
                all.push(self.quota(&subscription, &types).await);
                all.push(self.price(types).await);
            }
            Err(e) => all.push(Finding::failed("types", &e)),
        }
        all
    }

    fn clock(&self) -> Finding {
        let skew = self.api.skew();
        if skew.abs() < SKEW {
            Finding::new(Mood::Good, "clock", format!("{skew}s off"))
        } else {
            Finding::new(Mood::Fair, "clock", format!("{skew}s off; certificates allow 300s"))
                .with_hint("timedatectl set-ntp true")
        }
    }

    async fn services(&self, subscription: &str) -> Finding {
        let mut off = Vec::new();
        for service in SERVICES {
            let path = format!("/subscriptions/{subscription}/providers/{service}");
            let found: Result<Service, _> = self.api.get("Providers_Get", &path, version::RESOURCES, &[]).await;
            match found {
                Ok(s) if s.registration_state == "Registered" => {}
                Ok(_) => off.push(service),
                Err(e) => return Finding::new(Mood::Fair, "services", format!("cannot be seen: {}", e.message)),
            }
        }
        if off.is_empty() {
            return Finding::new(Mood::Good, "services", SERVICES.join(", "));
        }
        let finding = Finding::new(Mood::Bad, "services", format!("not registered: {}", off.join(", ")));
        off.iter().fold(finding, |f, s| {
            f.with_hint(format!("az provider register --namespace {s}"))
        })
    }

    async fn network_finding(&self) -> Finding {
        let looked = async {
            let allowed = self.laptop.allowed(&self.settings.common).await?;
            let subnet = self.existing_subnet().await?;
            Ok::<_, ProviderError>((allowed, subnet))
        };
        match looked.await {
            Ok((allowed, subnet)) => {
                let text = format!("{}; {}", self.network_text(subnet.as_deref()), self.opened(&allowed));
                Finding::new(Mood::Good, "network", text)
            }
            Err(e) => Finding::failed("network", &e),
        }
    }

    fn network_text(&self, subnet: Option<&str>) -> String {
        match subnet {
            Some(id) => {
                let of = |key: &str| names::part(id, key).unwrap_or_default();
                format!("subnet {} of {}", of("subnets"), of("virtualNetworks"))
            }
            None => {
                let out = match self.settings.outbound() {
                    Outbound::Nat => ", out by a NAT gateway (billed by the hour)",
                    Outbound::Public => ", a public address each",
                    Outbound::None => ", no way out",
                };
                format!("own network {}{out}", self.settings.space())
            }
        }
    }

    fn opened(&self, allowed: &[ipnet::IpNet]) -> String {
        if let Some(own) = self.settings.common.security_groups.first() {
            return format!("as your network security group {own} says; it has to let you in to 8785 and 8786");
        }
        if allowed.is_empty() {
            return "nobody outside is let in".to_owned();
        }
        let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        format!("tcp/8785 and 8786 of the scheduler from {} only", nets.join(", "))
    }

    /// What the vendor says that we may do, where machines will be.
    async fn permissions(&self, subscription: &str) -> Finding {
        let place = match &self.settings.group {
            Some(group) => names::group(subscription, group),
            None => format!("/subscriptions/{subscription}"),
        };
        let path = format!("{place}/providers/Microsoft.Authorization/permissions");
        let (action, what) = match &self.settings.group {
            Some(group) => ("Permissions_ListForResourceGroup", format!("resource group {group}")),
            None => ("Permissions_ListForSubscription", "the subscription".to_owned()),
        };
        let found: Vec<Permission> = match self.api.list(action, &path, version::PERMISSIONS, &[]).await {
            Ok(found) => found,
            Err(e) if e.code == Code::NotFound => {
                return Finding::failed("permissions", &e).with_hint(format!(
                    "az group create --name {} --location {}",
                    self.settings.group.as_deref().unwrap_or_default(),
                    self.settings.region
                ));
            }
            Err(e) => return Finding::new(Mood::Fair, "permissions", format!("cannot be seen: {}", e.message)),
        };
        let needed = policy::actions(&self.settings);
        let missing: Vec<&str> = needed.iter().copied().filter(|a| !is_allowed(&found, a)).collect();
        if missing.is_empty() {
            let n = needed.len();
            return Finding::new(Mood::Good, "permissions", format!("{n} of {n} needed in {what}"));
        }
        let text = format!(
            "{} of {} needed in {what} are missing: {}",
            missing.len(),
            needed.len(),
            missing.join(", ")
        );
        Finding::new(Mood::Bad, "permissions", text)
            .with_hint("herdsman render iam --provider azure    the role that is needed")
    }

    async fn quota(&self, subscription: &str, types: &[Offer]) -> Finding {
        let path = format!(
            "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{}/usages",
            self.settings.region
        );
        let used: Vec<Usage> = match self.api.list("Usage_List", &path, version::COMPUTE, &[]).await {
            Ok(used) => used,
            Err(e) => return Finding::new(Mood::Fair, "quota", format!("cannot be seen: {}", e.message)),
        };
        let family = match self.catalogue().await {
            Ok(all) => types.first().and_then(|t| all.family(&t.name)).map(str::to_owned),
            Err(_) => None,
        };
        let mut wanted = vec![ALL];
        if self.settings.common.spot == Spot::Never {
            wanted.extend(family.as_deref());
        } else {
            wanted.push(SPOT);
        }
        let mut texts = Vec::new();
        let mut mood = Mood::Good;
        for name in wanted {
            let Some(u) = used.iter().find(|u| u.name.value.eq_ignore_ascii_case(name)) else {
                continue;
            };
            if u.current_value >= u.limit {
                mood = Mood::Bad;
            }
            texts.push(format!(
                "{}: {} of {} used",
                u.name.localized_value, u.current_value, u.limit
            ));
        }
        let finding = Finding::new(mood, "quota", texts.join(", "));
        if mood == Mood::Bad {
            return finding.with_hint(
                "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas     asks for more",
            );
        }
        finding
    }

    async fn price(&self, types: Vec<Offer>) -> Finding {
        let first: Vec<Offer> = types.into_iter().take(1).collect();
        let priced = self.with_prices(first).await;
        match priced.first() {
            Some(Offer {
                name,
                price: Some(p),
                spot,
                ..
            }) => {
                let spot = spot.as_ref().map_or_else(String::new, |s| format!(", spot {s}"));
                Finding::new(Mood::Good, "price", format!("{name} {p}{spot}"))
            }
            _ => Finding::new(Mood::Fair, "price", "not known"),
        }
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let (image, subnet) = tokio::try_join!(self.found_image(), self.existing_subnet())?;
        let common = &self.settings.common;
        let mut planned = Vec::new();
        for (role, count) in [(Role::Scheduler, 1), (Role::Worker, workers)] {
            let mut types = self.types(role).await?;
            let others = types.split_off(1).into_iter().map(|o| o.name).collect();
            let mut priced = self.with_prices(types).await;
            planned.push(PlannedMachine {
                count,
                offer: priced.remove(0),
                others,
                spot: self.is_spot(role) != Spot::Never,
                disk: disk(common.wish(role)) << 30,
            });
        }
        let allowed = self.laptop.allowed(common).await?;
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || error(Code::Internal, "a machine was not planned");
        let group = self.settings.group.as_ref();
        let zones = self.settings.zones();
        let zones = if zones.is_empty() {
            String::new()
        } else {
            format!(" (zone {})", zones.join(", "))
        };
        Ok(Plan {
            place: format!("azure {}{zones}", self.settings.region),
            image: image.to_string(),
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network: vec![
                group.map_or_else(
                    || "a resource group of the cluster's own, deleted with it".to_owned(),
                    |g| format!("resource group {g}"),
                ),
                self.network_text(subnet.as_deref()),
                self.opened(&allowed),
            ],
        })
    }
}

/// Whether one of the roles allows an action, and does not take it back.
fn is_allowed(roles: &[Permission], action: &str) -> bool {
    roles
        .iter()
        .any(|r| r.actions.iter().any(|a| covers(a, action)) && !r.not_actions.iter().any(|a| covers(a, action)))
}

/// A pattern of actions, where `*` is any text, slashes included.
fn covers(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = action.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_roles() {
        for (pattern, action, is) in [
            ("*", "Microsoft.Compute/virtualMachines/write", true),
            ("*/read", "Microsoft.Compute/virtualMachines/read", true),
            ("*/read", "Microsoft.Compute/virtualMachines/write", false),
            (
                "microsoft.compute/virtualmachines/*",
                "Microsoft.Compute/virtualMachines/write",
                true,
            ),
            (
                "Microsoft.Network/*/join/action",
                "Microsoft.Network/virtualNetworks/subnets/join/action",
                true,
            ),
            ("Microsoft.Network/*/join/action", "Microsoft.Network/join/actio", false),
            ("Microsoft.Compute/disks/read", "Microsoft.Compute/disks/read", true),
            ("Microsoft.Compute/disks/rea", "Microsoft.Compute/disks/read", false),
        ] {
            assert_eq!(covers(pattern, action), is, "{pattern} {action}");
        }
        let role = |actions: &[&str], not: &[&str]| Permission {
            actions: actions.iter().map(|a| (*a).to_owned()).collect(),
            not_actions: not.iter().map(|a| (*a).to_owned()).collect(),
        };
        let contributor = role(&["*"], &["Microsoft.Authorization/*/Write"]);
        assert!(is_allowed(
            std::slice::from_ref(&contributor),
            "Microsoft.Compute/virtualMachines/write"
        ));
        assert!(!is_allowed(
            std::slice::from_ref(&contributor),
            "Microsoft.Authorization/roleAssignments/write"
        ));
        let both = [
            contributor,
            role(&["Microsoft.Authorization/roleAssignments/write"], &[]),
        ];
        assert!(is_allowed(&both, "Microsoft.Authorization/roleAssignments/write"));
    }
}
