//! What `check` and `--plan` say.

use herdsman_wire::{Code, Role};
use serde_json::json;

use super::super::cloud::{Finding, Mood, Offer, Plan, PlannedMachine, Spot};
use super::super::{ProviderError, Tags};
use super::answers::{Caller, Done, Subnet};
use super::api::{Json, Params};
use super::catalogue::{Chosen, disk};
use super::launch::Launch;
use super::network::{Net, tag_specification};
use super::{Aws, failure};

/// Clocks further apart than this will be a trouble soon.
const SKEW: i64 = 60;
/// Quota of the processors of ordinary machines, and of those that are taken away
/// (<https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html>).
const QUOTAS: [(&str, &str); 2] = [("L-1216C47A", "ordinary"), ("L-34B43A08", "spot")];

impl Aws {
    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        match self.api.keys().get().await {
            Ok(keys) => {
                let id = keys.access_key_id();
                let end = id.get(id.len().saturating_sub(4)..).unwrap_or_default();
                let kind = if keys.session_token().is_some() {
                    "temporary"
                } else {
                    "lasting"
                };
                all.push(Finding::new(Mood::Good, "credentials", format!("{kind}, key …{end}")));
            }
            Err(e) => {
                all.push(Finding::failed("credentials", &e));
                return all;
            }
        }
        match self.api.sts::<Caller>("GetCallerIdentity").await {
            Ok(who) => {
                let text = format!("{} (account {})", who.result.arn, who.result.account);
                all.push(Finding::new(Mood::Good, "identity", text));
            }
            Err(e) => {
                all.push(Finding::failed("identity", &e));
                if e.code == Code::Credentials || e.code == Code::Unreachable {
                    return all;
                }
            }
        }
        all.push(Finding::new(Mood::Good, "region", &self.settings.region));
        let (subnets, image, types) = tokio::join!(self.subnets(), self.image(), self.types(Role::Worker));
        all.push(self.clock());
        all.push(self.network(&subnets).await);
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", format!("{} ({})", image.name, image.id)),
            Err(e) => Finding::failed("image", e),
        });
        if let (Ok(subnets), Ok(image), Ok(types)) = (&subnets, &image, &types) {
            all.push(self.permissions(subnets, image, types).await);
        }
        all.push(self.quota().await);
        match types {
            Ok(types) => all.push(self.price(types).await),
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

    async fn network(&self, subnets: &Result<Vec<Subnet>, ProviderError>) -> Finding {
        let subnets = match subnets {
            Ok(subnets) => subnets,
            Err(e) => return Finding::failed("network", e),
        };
        let allowed = match self.laptop.allowed(&self.settings.common).await {
            Ok(allowed) => allowed,
            Err(e) => return Finding::failed("network", &e),
        };
        let vpc = subnets.first().map_or("", |s| s.vpc_id.as_str());
        let zones: Vec<&str> = subnets.iter().map(|s| s.availability_zone.as_str()).collect();
        Finding::new(
            Mood::Good,
            "network",
            format!("{vpc} in {}; {}", zones.join(", "), opened(&allowed)),
        )
    }

    /// Each call is asked for with `DryRun`, which does nothing but say whether it
    /// would have been allowed.
    async fn permissions(&self, subnets: &[Subnet], image: &Chosen, types: &[Offer]) -> Finding {
        let mut asked: Vec<(&str, Params)> = Vec::new();
        let subnet = subnets.first().cloned().unwrap_or_default();
        let mut group = Params::default();
        group.put("GroupName", "herdsman-check");
        group.put("GroupDescription", "a permission is looked at");
        group.put("VpcId", &subnet.vpc_id);
        tag_specification(
            &mut group,
            1,
            "security-group",
            &Tags::from([("herdsman-cluster".into(), "check".into())]),
        );
        asked.push(("CreateSecurityGroup", group));
        for action in ["DescribeInstances", "DescribeSecurityGroups", "DescribeVolumes"] {
            asked.push((action, Params::default()));
        }
        if let (Some(kind), Some(spec)) = (types.first(), sample()) {
            let net = Net {
                subnets: Vec::new(),
                inner: self
                    .settings
                    .common
                    .security_groups
                    .iter()
                    .filter(|g| g.starts_with("sg-"))
                    .cloned()
                    .collect(),
                entry: None,
            };
            let launch = Launch {
                cluster: &spec.0,
                spec: &spec.1,
                count: 1,
                batch: false,
                image,
                kind: &kind.name,
                subnet: &subnet,
                net: &net,
                spot: self.settings.common.spot == Spot::Only,
                token: "herdsman-check",
            };
            asked.push(("RunInstances", launch.params(&self.settings)));
        }
        let tries = asked.into_iter().map(|(action, mut params)| async move {
            params.put("DryRun", true);
            let answer: Result<Done, _> = self.api.ec2(action, &params).await;
            (action, answer.err())
        });
        let answers = futures_util::future::join_all(tries).await;
        let number = answers.len();
        let (mut denied, mut odd) = (Vec::new(), Vec::new());
        for (action, e) in answers {
            match e {
                Some(e) if failure::is(&e, "DryRunOperation") => {}
                Some(e) if e.code == Code::Permission => denied.push(action),
                Some(e) => odd.push(e.message),
                None => {}
            }
        }
        if !denied.is_empty() {
            let text = format!("{} of {number} tried are missing: {}", denied.len(), denied.join(", "));
            return Finding::new(Mood::Bad, "permissions", text)
                .with_hint("herdsman render iam --provider aws    the policy that is needed");
        }
        if !odd.is_empty() {
            return Finding::new(
                Mood::Fair,
                "permissions",
                format!("not all could be tried: {}", odd.join("; ")),
            );
        }
        Finding::new(Mood::Good, "permissions", format!("{number} of {number} tried"))
    }

    async fn quota(&self) -> Finding {
        let mut texts = Vec::new();
        for (code, what) in QUOTAS {
            let body = json!({"ServiceCode": "ec2", "QuotaCode": code});
            match self.api.json(Json::Quotas, "GetServiceQuota", &body).await {
                Ok(answer) => {
                    let value = answer["Quota"]["Value"].as_f64().unwrap_or_default();
                    texts.push(format!("{value:.0} processors of {what} machines"));
                }
                Err(e) => {
                    let text = format!("cannot be seen: {}", e.message);
                    return Finding::new(Mood::Fair, "quota", text);
                }
            }
        }
        Finding::new(Mood::Good, "quota", texts.join(", "))
    }

    async fn price(&self, types: Vec<Offer>) -> Finding {
        let first: Vec<Offer> = types.into_iter().take(1).collect();
        let priced = self.with_prices(first, true).await;
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
            _ => Finding::new(Mood::Fair, "price", "not known; `pricing:GetProducts` is needed for it"),
        }
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let (subnets, image) = tokio::try_join!(self.subnets(), self.image())?;
        let common = &self.settings.common;
        let spot = common.spot != Spot::Never;
        let mut planned = Vec::new();
        for (role, count, spot) in [(Role::Scheduler, 1, false), (Role::Worker, workers, spot)] {
            let mut types = self.types(role).await?;
            let others = types.split_off(1).into_iter().map(|o| o.name).collect();
            let mut priced = self.with_prices(types, spot).await;
            planned.push(PlannedMachine {
                count,
                offer: priced.remove(0),
                others,
                spot,
                disk: disk(common.wish(role), &image) << 30,
            });
        }
        let allowed = self.laptop.allowed(common).await?;
        let subnet = subnets.first().cloned().unwrap_or_default();
        let addresses = if common.private {
            "private addresses only"
        } else {
            "public addresses, all other ports closed"
        };
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || super::super::cloud::error(Code::Internal, "a machine was not planned");
        Ok(Plan {
            place: format!("aws {} ({})", self.settings.region, subnet.availability_zone),
            image: format!("{} ({})", image.name, image.id),
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network: vec![format!("{} {addresses}", subnet.vpc_id), opened(&allowed)],
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

/// A machine that is never made.
fn sample() -> Option<(super::super::ClusterRef, super::super::MachineSpec)> {
    let cluster = super::super::ClusterRef {
        name: "check".parse().ok()?,
        id: "aaaaaaaaaa".parse().ok()?,
    };
    let spec = super::super::MachineSpec {
        node: "check-w0".parse().ok()?,
        role: Role::Worker,
        user_data: herdsman_wire::Secret::new("#!/bin/sh\n"),
        tags: Tags::from([("herdsman-cluster".to_owned(), "check".to_owned())]),
    };
    Some((cluster, spec))
}
