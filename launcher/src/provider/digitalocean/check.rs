//! What `check`, `--plan` and `render iam` say.

use herdsman_wire::{Code, Role};
use http::Method;
use serde_json::json;

use super::super::ProviderError;
use super::super::cloud::{Finding, Mood, Plan, PlannedMachine, error};
use super::DigitalOcean;
use super::answers::{Account, OneAccount};
use super::settings::Settings;

/// Clocks further apart than this will be a trouble soon.
const SKEW: i64 = 60;
/// A name that nothing has.
const NOBODY: &str = "herdsman-check-nothing";

/// Scopes of a token, with what each is for.
const SCOPES: &[(&str, &str)] = &[
    ("account:read", "check: the account's limit"),
    ("actions:read", "why a droplet was not made"),
    ("droplet:create", "machines"),
    ("droplet:delete", ""),
    ("droplet:read", ""),
    ("firewall:create", "closed to all but you"),
    ("firewall:delete", ""),
    ("firewall:read", ""),
    ("firewall:update", "an interrupted `up`"),
    ("image:read", "the newest image of a family"),
    ("regions:read", "with sizes"),
    ("sizes:read", "sizes and prices"),
    ("tag:create", "what is found and deleted again is found by its tags"),
    ("tag:delete", ""),
    ("tag:read", ""),
    ("vpc:read", "the network"),
];

impl DigitalOcean {
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
        let account = self.api.get::<OneAccount>("/v2/account").await.map(|a| a.account);
        all.push(match &account {
            Ok(account) => identity(account),
            Err(e) => Finding::failed("identity", e),
        });
        if account
            .as_ref()
            .is_err_and(|e| e.code == Code::Credentials || e.code == Code::Unreachable)
        {
            return all;
        }
        let (image, types, network, permissions, quota) = tokio::join!(
            self.image(),
            self.types(Role::Worker),
            self.network_lines(),
            self.permissions(),
            self.quota(account.as_ref().ok())
        );
        all.push(Finding::new(Mood::Good, "region", &self.settings.region));
        all.push(permissions);
        all.push(match network {
            Ok(lines) => Finding::new(Mood::Good, "network", lines.join("; ")),
            Err(e) => Finding::failed("network", &e),
        });
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", &image.name),
            Err(e) => Finding::failed("image", e),
        });
        all.push(quota);
        all.push(self.clock());
        all.push(match types {
            Ok(types) => match types.first().and_then(|t| Some((t, t.price.as_ref()?))) {
                Some((t, price)) => Finding::new(Mood::Good, "price", format!("{} {price}", t.name)),
                None => Finding::new(Mood::Fair, "price", "not known"),
            },
            Err(e) => Finding::failed("types", &e),
        });
        all
    }

    /// Each scope by a call that does nothing: lists, and requests about what is not
    /// there, which a token without the scope is not even told.
    async fn permissions(&self) -> Finding {
        let nothing = json!({
            "names": [NOBODY], "region": self.settings.region, "size": NOBODY, "image": NOBODY, "tags": [NOBODY],
        });
        let rule = json!({"protocol": "tcp", "ports": "1", "sources": {"tags": [NOBODY]}});
        let wall = json!({"name": NOBODY, "inbound_rules": [rule], "tags": [NOBODY]});
        let no_wall = "/v2/firewalls/00000000-0000-4000-8000-000000000000";
        let (droplet, make, change) = ("/v2/droplets/1", Method::POST, Method::PUT);
        let no_tag = format!("/v2/tags/{NOBODY}");
        let (droplets, firewalls) = ("/v2/droplets", "/v2/firewalls");
        let gone = |answer: Result<(), ProviderError>| answer.err();
        let asked = tokio::join!(
            async {
                (
                    "droplet:create and tag:create",
                    self.api.once(make.clone(), droplets, &nothing).await.err(),
                )
            },
            async { ("droplet:delete", gone(self.api.delete(droplet).await)) },
            async { ("droplet:read", self.api.count(droplets, "droplets", &[]).await.err()) },
            async {
                (
                    "firewall:create",
                    self.api.once(make.clone(), firewalls, &wall).await.err(),
                )
            },
            async { ("firewall:delete", gone(self.api.delete(no_wall).await)) },
            async { ("firewall:read", self.api.count(firewalls, "firewalls", &[]).await.err()) },
            async { ("firewall:update", self.api.once(change, no_wall, &wall).await.err()) },
            async { ("tag:delete", gone(self.api.delete(&no_tag).await)) },
            async { ("tag:read", self.api.count("/v2/tags", "tags", &[]).await.err()) },
            async {
                (
                    "actions:read",
                    self.api.get::<serde_json::Value>("/v2/actions/1").await.err(),
                )
            },
        );
        let asked = [
            asked.0, asked.1, asked.2, asked.3, asked.4, asked.5, asked.6, asked.7, asked.8, asked.9,
        ];
        let (mut denied, mut odd) = (Vec::new(), Vec::new());
        for (scope, e) in &asked {
            match e {
                Some(e) if e.code == Code::Permission => denied.push(*scope),
                Some(e)
                    if matches!(
                        e.code,
                        Code::Usage | Code::NotFound | Code::Quota | Code::Capacity | Code::Conflict
                    ) => {}
                Some(e) => odd.push(e.message.clone()),
                None => {}
            }
        }
        let number = asked.len();
        if !denied.is_empty() {
            let text = format!("{} of {number} tried are missing: {}", denied.len(), denied.join(", "));
            return Finding::new(Mood::Bad, "permissions", text)
                .with_hint("herdsman render iam --provider digitalocean    the scopes that are needed");
        }
        if !odd.is_empty() {
            let text = format!("not all could be tried: {}", odd.join("; "));
            return Finding::new(Mood::Fair, "permissions", text);
        }
        Finding::new(Mood::Good, "permissions", format!("{number} of {number} tried"))
    }

    async fn quota(&self, account: Option<&Account>) -> Finding {
        let Some(account) = account else {
            return Finding::new(Mood::Fair, "quota", "cannot be seen");
        };
        let pairs = [("type", "gpus")];
        let counted = async {
            tokio::try_join!(
                self.api.count("/v2/droplets", "droplets", &[]),
                self.api.count("/v2/droplets", "droplets", &pairs)
            )
        };
        match counted.await {
            Ok((plain, graphics)) => {
                let free = account.droplet_limit.saturating_sub(plain + graphics);
                let text = format!("{free} droplets free of {}", account.droplet_limit);
                if free < 2 {
                    Finding::new(Mood::Bad, "quota", text)
                        .with_hint("https://cloud.digitalocean.com/account/team/droplet_limit_increase    ask for more")
                } else {
                    Finding::new(Mood::Good, "quota", text)
                }
            }
            Err(e) => Finding::new(Mood::Fair, "quota", format!("cannot be seen: {}", e.message)),
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

    async fn network_lines(&self) -> Result<Vec<String>, ProviderError> {
        let common = &self.settings.common;
        let (allowed, vpc) = tokio::try_join!(self.laptop.allowed(common), self.vpc_text())?;
        let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let open = match nets.as_slice() {
            [] => "nobody outside is let in".to_owned(),
            nets => format!("tcp/8785 and 8786 of the scheduler from {} only", nets.join(", ")),
        };
        let addresses = if common.private {
            "private addresses only"
        } else {
            "public addresses, all other ports closed"
        };
        Ok(vec![format!("{vpc}, {addresses}"), open])
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let (image, network) = tokio::try_join!(self.image(), self.network_lines())?;
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
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || error(Code::Internal, "a machine was not planned");
        Ok(Plan {
            place: format!("digitalocean {}", self.settings.region),
            image: image.name,
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network,
        })
    }
}

fn identity(account: &Account) -> Finding {
    let team = account
        .team
        .as_ref()
        .map(|t| format!(" (team {})", t.name))
        .unwrap_or_default();
    let text = format!("{}{team}", account.email);
    match account.status.as_str() {
        "locked" => Finding::new(
            Mood::Bad,
            "identity",
            format!("{text}: locked: {}", account.status_message),
        ),
        "warning" => Finding::new(Mood::Fair, "identity", format!("{text}: {}", account.status_message)),
        _ => Finding::new(Mood::Good, "identity", text),
    }
}

/// The scopes that a token has to have, a line each, as the vendor's page names them.
pub(super) fn policy(settings: &Settings) -> String {
    let mut text = "# Scopes of a token: https://cloud.digitalocean.com/account/api/tokens, Custom Scopes\n".to_owned();
    for (scope, why) in SCOPES {
        text += &if why.is_empty() {
            format!("{scope}\n")
        } else {
            format!("{scope:<18}# {why}\n")
        };
    }
    if !settings.ssh_keys().is_empty() {
        text += "ssh_key:read      # your keys\n";
    }
    text
}
