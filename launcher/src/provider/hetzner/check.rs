//! What `check`, `--plan` and `render iam` say.

use herdsman_wire::{Code, Role};

use super::super::ProviderError;
use super::super::cloud::{Finding, Mood, Plan, PlannedMachine, error};
use super::Hetzner;

/// Clocks further apart than this will be a trouble soon.
const SKEW: i64 = 60;

impl Hetzner {
    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        match self.api.bearer().token() {
            Ok(token) => {
                let text = format!("token …{} of {}", token.end(), token.from);
                all.push(Finding::new(Mood::Good, "credentials", text));
            }
            Err(e) => {
                all.push(Finding::failed("credentials", &e));
                return all;
            }
        }
        // A token is a project's, and no call tells the project's name.
        let servers = self.api.count("/servers").await;
        match &servers {
            Ok(count) => {
                let text = count.map_or_else(|| "a project".to_owned(), |n| format!("a project with {n} servers"));
                all.push(Finding::new(Mood::Good, "identity", text));
            }
            Err(e) => {
                all.push(Finding::failed("identity", e));
                return all;
            }
        }
        let (zone, image, types, network) = tokio::join!(
            self.zone(),
            self.image(),
            self.types(Role::Worker),
            self.network_finding()
        );
        all.push(match &zone {
            Ok(zone) => Finding::new(
                Mood::Good,
                "region",
                format!("{} ({zone})", self.settings.locations.join(", ")),
            ),
            Err(e) => Finding::failed("region", e),
        });
        all.push(self.permissions().await);
        all.push(network);
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", format!("{} ({})", image.name, image.id)),
            Err(e) => Finding::failed("image", e),
        });
        all.push(Finding::new(
            Mood::Fair,
            "quota",
            "the API does not tell the project's limits; https://console.hetzner.com does",
        ));
        all.push(self.clock());
        match types {
            Ok(types) => all.push(match types.first().and_then(|t| Some((t, t.price.as_ref()?))) {
                Some((t, price)) => Finding::new(Mood::Good, "price", format!("{} {price}, without tax", t.name)),
                None => Finding::new(Mood::Fair, "price", "not known"),
            }),
            Err(e) => all.push(Finding::failed("types", &e)),
        }
        all
    }

    /// Whether the token may write: nothing has the id 0, so a token that may is told
    /// that there is no such thing, and one that may not that it may not.
    async fn permissions(&self) -> Finding {
        match self.api.delete("/placement_groups/0").await {
            Ok(_) => Finding::new(Mood::Good, "permissions", "read and write"),
            Err(e) if e.code == Code::NotFound || e.code == Code::Usage => {
                Finding::new(Mood::Good, "permissions", "read and write")
            }
            Err(e) if e.code == Code::Permission => Finding::new(Mood::Bad, "permissions", "the token may only read")
                .with_hint("herdsman render iam --provider hetzner    what it has to be allowed"),
            Err(e) => Finding::new(Mood::Fair, "permissions", format!("cannot be seen: {}", e.message)),
        }
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

    async fn network_finding(&self) -> Finding {
        match self.network_lines().await {
            Ok(lines) => Finding::new(Mood::Good, "network", lines.join("; ")),
            Err(e) => Finding::failed("network", &e),
        }
    }

    async fn network_lines(&self) -> Result<Vec<String>, ProviderError> {
        let common = &self.settings.common;
        let allowed = self.laptop.allowed(common).await?;
        let mut lines = vec![match &common.network {
            Some(name) => {
                let net = self.existing(name).await?;
                format!(
                    "private network {} ({}); others in it are kept out by the machines' own firewall only",
                    net.name, net.ip_range
                )
            }
            None => format!("a private network of its own, {}", self.settings.own.ip_range),
        }];
        let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        lines.push(match (common.private, nets.is_empty()) {
            (true, _) => "no public addresses".to_owned(),
            (_, true) => "nobody outside is let in".to_owned(),
            _ => format!("tcp/8785 and 8786 of the scheduler from {} only", nets.join(", ")),
        });
        Ok(lines)
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let zone = self.zone().await?;
        let (image, mut network) = tokio::try_join!(self.image(), self.network_lines())?;
        let mut planned = Vec::new();
        for (role, count) in [(Role::Scheduler, 1), (Role::Worker, workers)] {
            let mut types = self.types(role).await?;
            let others = types.split_off(1).into_iter().map(|o| o.name).collect();
            let offer = types.remove(0);
            planned.push(PlannedMachine {
                count,
                others,
                spot: false,
                disk: self.disk(&offer.name).await?,
                offer,
            });
        }
        if !self.settings.common.private
            && let Some(text) = self.address_price().await?
        {
            network.push(text);
        }
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || error(Code::Internal, "a machine was not planned");
        Ok(Plan {
            place: format!("hetzner {} ({zone})", self.settings.locations.join(", ")),
            image: format!("{} ({})", image.name, image.id),
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network,
        })
    }

    /// Public addresses cost something by themselves.
    async fn address_price(&self) -> Result<Option<String>, ProviderError> {
        let pricing = self.pricing().await?;
        let of_v4 = pricing.primary_ips.iter().find(|p| p.kind == "ipv4");
        let here = of_v4.and_then(|p| p.prices.iter().find(|p| self.settings.locations.contains(&p.location)));
        Ok(here.and_then(|p| p.price_hourly.net.parse::<f64>().ok()).map(|price| {
            let who = if self.settings.own.worker_ipv4 {
                "each machine"
            } else {
                "the scheduler"
            };
            format!(
                "a public IPv4 address for {who}, {price:.4} {}/h each, not in the total",
                pricing.currency
            )
        }))
    }
}

/// What the token has to be allowed. The vendor knows two kinds of them, each for
/// one project.
pub(super) fn policy() -> String {
    "# Hetzner Cloud has no permissions by call: a token belongs to one project, and reads,\n\
     # or reads and writes. herdsman needs the second kind. A project of its own keeps\n\
     # everything else out of its reach.\n\
     # https://console.hetzner.com: the project, Security, API tokens, Generate API token\n\
     Read & Write\n"
        .to_owned()
}
