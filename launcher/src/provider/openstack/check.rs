//! What `check` and `--plan` say.

use std::collections::BTreeMap;

use herdsman_wire::{Code, Role};

use super::super::ProviderError;
use super::super::cloud::{Finding, Mood, Offer, Plan, PlannedMachine, error};
use super::answers::{Limits, OneKeypair, Quotas, Token, Zones};
use super::api::Service;
use super::catalogue::Kind;
use super::settings::Floating;
use super::{OpenStack, policy};

/// Seconds that clocks may be apart.
const SKEW: i64 = 60;
/// Roles that may only look.
const READERS: [&str; 2] = ["reader", "observer"];

impl OpenStack {
    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        let grant = match self.api.session.get().await {
            Ok(grant) => grant,
            Err(e) => return vec![Finding::failed("credentials", &e)],
        };
        let token = &grant.token;
        all.push(Finding::new(Mood::Good, "credentials", self.api.session.who()));
        all.push(self.identity(token));
        all.push(self.clock());
        for service in [Service::Compute, Service::Network, Service::Image] {
            if let Err(e) = self.api.base(service).await {
                all.push(Finding::failed("services", &e));
                return all;
            }
        }
        all.push(Finding::new(Mood::Good, "services", "compute, network and image"));
        all.push(self.permissions(token));
        let (network, image, types) = tokio::join!(self.network(), self.image(), self.types(Role::Worker));
        all.push(network);
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", format!("{} ({})", image.name, image.id)),
            Err(e) => Finding::failed("image", e),
        });
        let (zones, key, quota) = tokio::join!(self.zones(), self.key(), self.quota(token));
        all.extend(zones);
        all.extend(key);
        all.extend(quota);
        match types {
            Ok(types) => all.push(price(&types)),
            Err(e) => all.push(Finding::failed("types", &e)),
        }
        all
    }

    fn identity(&self, token: &Token) -> Finding {
        let name = |n: &Option<super::answers::Named>| n.as_ref().map_or("?", |n| n.name.as_str()).to_owned();
        let region = self.settings.region.as_deref().unwrap_or("the only one");
        let text = format!(
            "user {} in project {}, region {region}",
            name(&token.user),
            name(&token.project)
        );
        if token.project.is_none() {
            return Finding::new(Mood::Bad, "identity", "the token is for no project")
                .with_hint("export OS_PROJECT_NAME=…              names one; project_name in clouds.yaml does so too");
        }
        Finding::new(Mood::Good, "identity", text)
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

    /// What a token says of itself: nothing can be tried without making it.
    fn permissions(&self, token: &Token) -> Finding {
        let roles: Vec<&str> = token.roles.iter().map(|r| r.name.as_str()).collect();
        let needed = policy::needed(&self.settings);
        if let Some(allowed) = token.rules() {
            let lacking = policy::lacking(&needed, allowed);
            if !lacking.is_empty() {
                let names: Vec<String> = lacking
                    .iter()
                    .map(|r| format!("{} {} ({})", r.method, r.path, r.service))
                    .collect();
                let text = format!(
                    "{} of {} access rules are missing: {}",
                    names.len(),
                    needed.len(),
                    names.join(", ")
                );
                return Finding::new(Mood::Bad, "permissions", text)
                    .with_hint("herdsman render iam --provider openstack > rules.json")
                    .with_hint("openstack application credential create herdsman --access-rules rules.json");
            }
        }
        if !roles.is_empty() && roles.iter().all(|r| READERS.contains(r)) {
            return Finding::new(
                Mood::Bad,
                "permissions",
                format!("role {} may only look", roles.join(", ")),
            )
            .with_hint("openstack role add --user U --project P member    by an administrator");
        }
        let rules = token
            .rules()
            .map_or_else(String::new, |_| format!(", {} access rules", needed.len()));
        Finding::new(Mood::Good, "permissions", format!("roles {}{rules}", roles.join(", ")))
    }

    async fn network(&self) -> Finding {
        let (network, subnets, outside) = match self.place().await {
            Ok(place) => place,
            Err(e) => return Finding::failed("network", &e),
        };
        let allowed = match self.laptop.allowed(&self.settings.common).await {
            Ok(allowed) => allowed,
            Err(e) => return Finding::failed("network", &e),
        };
        let parts: Vec<&str> = subnets.iter().map(|s| s.name.as_str()).collect();
        let parts = if parts.is_empty() {
            String::new()
        } else {
            format!(" ({})", parts.join(", "))
        };
        let way = self.way(network.shared || network.external, outside.is_some());
        let text = format!("{}{parts}, {way}; {}", network.name, opened(&allowed));
        Finding::new(Mood::Good, "network", text)
    }

    fn way(&self, of_others: bool, outside: bool) -> &'static str {
        match (outside, self.settings.floating) {
            (true, Floating::All) => "a floating address for every machine",
            (true, _) => "a floating address for the scheduler",
            (false, _) if self.settings.common.private => "private addresses only",
            (false, _) if of_others => "addresses of that network",
            (false, _) => "no address outside: this computer has to be inside",
        }
    }

    async fn zones(&self) -> Option<Finding> {
        let wanted = &self.settings.common.zones;
        if wanted.is_empty() {
            return None;
        }
        let zones: Zones = match self
            .api
            .get(Service::Compute, "list availability zones", "/os-availability-zone")
            .await
        {
            Ok(zones) => zones,
            Err(e) => {
                return Some(Finding::new(
                    Mood::Fair,
                    "zones",
                    format!("cannot be seen: {}", e.message),
                ));
            }
        };
        let there: Vec<&str> = zones
            .zones
            .iter()
            .filter(|z| z.state.available)
            .map(|z| z.name.as_str())
            .collect();
        let missing: Vec<&str> = wanted
            .iter()
            .map(String::as_str)
            .filter(|z| !there.contains(z))
            .collect();
        Some(if missing.is_empty() {
            Finding::new(Mood::Good, "zones", wanted.join(", "))
        } else {
            let text = format!("{} cannot be had; there are {}", missing.join(", "), there.join(", "));
            Finding::new(Mood::Bad, "zones", text)
        })
    }

    async fn key(&self) -> Option<Finding> {
        let name = self.settings.common.ssh_key.as_ref()?;
        let path = format!("/os-keypairs/{}", super::super::cloud::http::escape(name));
        let found: Result<OneKeypair, _> = self.api.get(Service::Compute, "show keypair", &path).await;
        Some(match found {
            Ok(k) => Finding::new(Mood::Good, "ssh key", k.keypair.name),
            Err(e) if e.code == Code::NotFound => {
                Finding::new(Mood::Bad, "ssh key", format!("there is no keypair {name}"))
                    .with_hint("openstack keypair list                shows those there are")
            }
            Err(e) => Finding::new(Mood::Fair, "ssh key", format!("cannot be seen: {}", e.message)),
        })
    }

    async fn quota(&self, token: &Token) -> Vec<Finding> {
        let limits = self.api.get::<Limits>(Service::Compute, "show limits", "/limits");
        let project = token.project.as_ref().map_or("", |p| p.id.as_str());
        let path = format!("/quotas/{project}/details");
        let network = self.api.get::<Quotas>(Service::Network, "show quota", &path);
        let (limits, network) = tokio::join!(limits, network);
        let mut all = Vec::new();
        all.push(match limits {
            Ok(l) => of_limits(&l.limits.absolute),
            Err(e) => Finding::new(Mood::Fair, "quota", format!("cannot be seen: {}", e.message)),
        });
        all.push(match network {
            Ok(q) => of_quotas(&q, self.settings.floating != Floating::None),
            Err(e) => Finding::new(Mood::Fair, "network quota", format!("cannot be seen: {}", e.message)),
        });
        all
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let (place, image, allowed) =
            tokio::try_join!(self.place(), self.image(), self.laptop.allowed(&self.settings.common))?;
        let (network, _, outside) = place;
        let mut planned = Vec::new();
        for (role, count) in [(Role::Scheduler, 1), (Role::Worker, workers)] {
            let kinds: Vec<Kind> = self.kinds(role).await?;
            let mut types = self.types(role).await?;
            let others = types.split_off(1).into_iter().map(|o| o.name).collect();
            let disk = self.volume(role, &kinds[0], &image).unwrap_or(kinds[0].disk);
            planned.push(PlannedMachine {
                count,
                offer: types.remove(0),
                others,
                spot: false,
                disk: disk << 30,
            });
        }
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || error(Code::Internal, "a machine was not planned");
        let region = self.settings.region.as_deref().unwrap_or("its only region");
        let zones = self.settings.common.zones.join(", ");
        let zones = if zones.is_empty() {
            String::new()
        } else {
            format!(" ({zones})")
        };
        let way = self.way(network.shared || network.external, outside.is_some());
        Ok(Plan {
            place: format!("openstack {region}{zones}"),
            image: format!("{} ({})", image.name, image.id),
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network: vec![format!("{}, {way}", network.name), opened(&allowed)],
        })
    }
}

fn opened(allowed: &[ipnet::IpNet]) -> String {
    if allowed.is_empty() {
        return "nobody outside is let in".to_owned();
    }
    let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    format!("tcp/8785 and 8786 of the scheduler from {} only", nets.join(", "))
}

fn price(types: &[Offer]) -> Finding {
    match types.first() {
        Some(Offer {
            name, price: Some(p), ..
        }) => Finding::new(Mood::Good, "price", format!("{name} {p}")),
        _ => Finding::new(Mood::Fair, "price", "not known: OpenStack has no prices in its API")
            .with_hint("[openstack.prices] in herdsman.toml   FLAVOR = price by the hour"),
    }
}

/// What is left of processors, memory and machines; a limit of -1 is none.
fn of_limits(absolute: &BTreeMap<String, i64>) -> Finding {
    let get = |key: &str| absolute.get(key).copied().unwrap_or(-1);
    let mut mood = Mood::Good;
    let mut texts = Vec::new();
    for (most, used, what) in [
        ("maxTotalInstances", "totalInstancesUsed", "machines"),
        ("maxTotalCores", "totalCoresUsed", "processors"),
        ("maxTotalRAMSize", "totalRAMUsed", "MiB of memory"),
    ] {
        let (most, used) = (get(most), get(used).max(0));
        if most < 0 {
            texts.push(format!("{what} without limit"));
        } else {
            if most <= used {
                mood = Mood::Bad;
            }
            texts.push(format!("{} of {most} {what} left", (most - used).max(0)));
        }
    }
    let found = Finding::new(mood, "quota", texts.join(", "));
    if mood == Mood::Bad {
        return found.with_hint("openstack limits show --absolute      and ask the operator for more");
    }
    found
}

fn of_quotas(quotas: &Quotas, floating: bool) -> Finding {
    let mut mood = Mood::Good;
    let mut texts = Vec::new();
    // A cluster has two groups and at least three rules of its own.
    for (key, need, what) in [
        ("security_group", 2, "security groups"),
        ("security_group_rule", 3, "rules"),
        ("port", 2, "ports"),
        ("floatingip", i64::from(floating), "floating addresses"),
    ] {
        let Some(q) = quotas.quota.get(key).filter(|q| q.limit >= 0) else {
            continue;
        };
        let left = (q.limit - q.used).max(0);
        if left < need {
            mood = Mood::Bad;
        }
        texts.push(format!("{left} of {} {what} left", q.limit));
    }
    if texts.is_empty() {
        texts.push("without limits".into());
    }
    Finding::new(mood, "network quota", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nova_s_own_limits_are_understood() {
        let text = include_str!("../../../../tests/data/openstack/limits.json");
        let limits: Limits = serde_json::from_str(text).unwrap();
        let found = of_limits(&limits.limits.absolute);
        assert_eq!(found.mood, Mood::Good);
        assert!(found.text.contains("10 of 10 machines left"), "{}", found.text);
        let mut spent = limits.limits.absolute;
        spent.insert("totalCoresUsed".into(), 20);
        spent.insert("maxTotalRAMSize".into(), -1);
        let found = of_limits(&spent);
        assert_eq!(found.mood, Mood::Bad);
        assert!(found.text.contains("memory without limit"), "{}", found.text);
    }

    #[test]
    fn addresses_count_where_they_are_wanted() {
        let quotas: Quotas = serde_json::from_str(
            r#"{"quota": {"floatingip": {"limit": 1, "used": 1, "reserved": 0}, "port": {"limit": -1, "used": 9, "reserved": 0}}}"#,
        )
        .unwrap();
        assert_eq!(of_quotas(&quotas, true).mood, Mood::Bad);
        assert_eq!(of_quotas(&quotas, false).mood, Mood::Good);
    }
}
