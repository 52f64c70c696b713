//! What `check` and `--plan` say.

use std::collections::BTreeSet;

use herdsman_wire::{Code, Role};
use serde_json::json;

use super::super::ProviderError;
use super::super::cloud::{Finding, Mood, Offer, Plan, PlannedMachine, Spot, error};
use super::Gcp;
use super::answers::{Permissions, Project, Quota};
use super::api::Service;
use super::catalogue::disk_size;
use super::policy::needed;

/// Clocks further apart than this will be a trouble soon.
const SKEW: i64 = 60;
/// What machines take of a region's quota.
const QUOTAS: [(&str, &str); 4] = [
    ("CPUS", "processors"),
    ("PREEMPTIBLE_CPUS", "spot processors"),
    ("IN_USE_ADDRESSES", "public addresses"),
    ("SSD_TOTAL_GB", "GB of disk"),
];

impl Gcp {
    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        match self.api.login.identity() {
            Ok(who) => {
                let whose = who.email.map_or_else(String::new, |e| format!(", {e}"));
                all.push(Finding::new(Mood::Good, "credentials", format!("{}{whose}", who.what)));
            }
            Err(e) => {
                all.push(Finding::failed("credentials", &e));
                return all;
            }
        }
        let project = match self.api.project().await {
            Ok(project) => project,
            Err(e) => {
                all.push(Finding::failed("project", &e));
                return all;
            }
        };
        // The first call: whether the credentials are taken, and the API is on.
        let region = match self.region().await {
            Ok(region) => {
                all.push(Finding::new(Mood::Good, "project", project));
                all.push(Finding::new(Mood::Good, "Compute API", "on"));
                Some(region)
            }
            Err(e) if e.code == Code::Permission || e.code == Code::NotFound => {
                all.push(Finding::failed("project", &e));
                None
            }
            Err(e) => {
                // Nobody is who they say: what was found is not good.
                if e.code == Code::Credentials {
                    all.clear();
                }
                let what = if e.code == Code::Credentials {
                    "credentials"
                } else {
                    "project"
                };
                all.push(Finding::failed(what, &e));
                return all;
            }
        };
        let zones = self.settings.first_zones().join(", ");
        all.push(Finding::new(
            Mood::Good,
            "region",
            format!("{} ({zones} first)", self.settings.region),
        ));
        all.push(self.clock());
        let (permissions, image, types) =
            tokio::join!(self.permissions(project), self.image(), self.types(Role::Worker));
        all.push(permissions);
        all.extend(self.network().await);
        all.push(match &image {
            Ok(image) => Finding::new(Mood::Good, "image", &image.name),
            Err(e) => Finding::failed("image", e),
        });
        if let Some(region) = region {
            all.push(self.quota(&region.quotas).await);
        }
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

    /// All permissions of the role that `render iam` shows are asked for in one call.
    async fn permissions(&self, project: &str) -> Finding {
        let needed = needed(&self.settings);
        let mut missing = Vec::new();
        let total = needed.machines.len() + needed.network.len();
        let network = self.settings.own.network_project.as_deref().unwrap_or(project);
        for (project, wanted) in [(project, needed.machines), (network, needed.network)] {
            if wanted.is_empty() {
                continue;
            }
            let path = format!("/v1/projects/{project}:testIamPermissions");
            let body = json!({"permissions": wanted});
            let asked = self.api.other(
                Service::ResourceManager,
                "projects.testIamPermissions",
                &path,
                Some(&body),
            );
            let has: Permissions = match asked.await {
                Ok(has) => has,
                Err(e) => {
                    let f = Finding::new(Mood::Fair, "permissions", format!("cannot be seen: {}", e.message));
                    return f.with_hint(format!(
                        "gcloud services enable cloudresourcemanager.googleapis.com --project {project}    for check alone"
                    ));
                }
            };
            let has: BTreeSet<&str> = has.permissions.iter().map(String::as_str).collect();
            missing.extend(wanted.into_iter().filter(|p| !has.contains(p)));
        }
        if missing.is_empty() {
            return Finding::new(Mood::Good, "permissions", format!("{total} of {total}"));
        }
        let text = format!("{} of {total} are missing: {}", missing.len(), missing.join(", "));
        Finding::new(Mood::Bad, "permissions", text)
            .with_hint("herdsman render iam --provider gcp    the role that is needed")
    }

    async fn network(&self) -> Vec<Finding> {
        let net = match self.net().await {
            Ok(net) => net,
            Err(e) => return vec![Finding::failed("network", &e)],
        };
        let allowed = match self.laptop.allowed(&self.settings.common).await {
            Ok(allowed) => allowed,
            Err(e) => return vec![Finding::failed("network", &e)],
        };
        let place = net.subnetwork.as_deref().unwrap_or(&net.network);
        let text = if self.settings.has_firewall() {
            format!("{place}; {}", opened(&allowed))
        } else {
            format!("{place}; rules of the firewall are made by others")
        };
        let mut all = vec![Finding::new(Mood::Good, "network", text)];
        // Rules of our own come before these; whoever has none is told.
        if !self.settings.has_firewall()
            && let Ok(rules) = self.foreign_rules(net).await
            && !rules.is_empty()
        {
            let names: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
            let text = format!("rules that let everybody in: {}", names.join(", "));
            all.push(Finding::new(Mood::Fair, "firewall", text));
        }
        all
    }

    async fn quota(&self, region: &[Quota]) -> Finding {
        let project: Result<Project, _> = self.api.get("projects.get", "").await;
        let whole = project.map(|p| p.quotas).unwrap_or_default();
        let free = |q: &Quota| format!("{:.0} free of {:.0}", q.limit - q.usage, q.limit);
        let mut texts: Vec<String> = Vec::new();
        let mut mood = Mood::Good;
        for (metric, what) in QUOTAS {
            if let Some(q) = region.iter().find(|q| q.metric == metric) {
                texts.push(format!("{what} {}", free(q)));
                if metric == "CPUS" && q.limit - q.usage < 2.0 {
                    mood = Mood::Bad;
                }
            }
        }
        let kinds = ["CPUS_ALL_REGIONS", "GPUS_ALL_REGIONS"];
        for q in whole.iter().filter(|q| kinds.contains(&q.metric.as_str())) {
            texts.push(format!("{} {}", q.metric, free(q)));
            if q.metric == "CPUS_ALL_REGIONS" && q.limit - q.usage < 2.0 {
                mood = Mood::Bad;
            }
        }
        if texts.is_empty() {
            return Finding::new(Mood::Fair, "quota", "cannot be seen");
        }
        let finding = Finding::new(mood, "quota", texts.join(", "));
        match mood {
            Mood::Good => finding,
            _ => finding.with_hint("https://console.cloud.google.com/iam-admin/quotas      ask for more"),
        }
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
            _ => Finding::new(Mood::Fair, "price", "not known; the Cloud Billing API tells prices")
                .with_hint("gcloud services enable cloudbilling.googleapis.com      for prices alone"),
        }
    }

    pub(super) async fn outline(&self, workers: u32) -> Result<Plan, ProviderError> {
        let (net, image) = tokio::try_join!(self.net(), self.image())?;
        let common = &self.settings.common;
        let spot = common.spot != Spot::Never;
        let mut planned = Vec::new();
        let mut zone = String::new();
        for (role, count, spot) in [(Role::Scheduler, 1, false), (Role::Worker, workers, spot)] {
            let mut types = self.types(role).await?;
            let others = types.split_off(1).into_iter().map(|o| o.name).collect();
            let mut priced = self.with_prices(types).await;
            let offer = priced.remove(0);
            if zone.is_empty() {
                zone = offer.zones.first().cloned().unwrap_or_default();
            }
            planned.push(PlannedMachine {
                count,
                offer,
                others,
                spot,
                disk: disk_size(common.wish(role), image) << 30,
            });
        }
        let allowed = self.laptop.allowed(common).await?;
        let addresses = if common.private {
            "private addresses only; a way out needs Cloud NAT"
        } else {
            "public addresses, all of herdsman's ports closed but these"
        };
        let mut network = vec![format!(
            "{} {addresses}",
            net.subnetwork.as_deref().unwrap_or(&net.network)
        )];
        if self.settings.has_firewall() {
            network.push(opened(&allowed));
        } else {
            let tags = common.security_groups.join(", ");
            network.push(format!("rules of the firewall are made by others, for the tags {tags}"));
        }
        if common.lifetime.is_some() {
            network.push("what still runs ten minutes after its end is deleted by GCP".to_owned());
        }
        let (workers, scheduler) = (planned.pop(), planned.pop());
        let missing = || error(Code::Internal, "a machine was not planned");
        Ok(Plan {
            place: format!(
                "gcp {} ({zone}), project {}",
                self.settings.region,
                self.api.project().await?
            ),
            image: image.name.clone(),
            scheduler: scheduler.ok_or_else(missing)?,
            workers: workers.ok_or_else(missing)?,
            network,
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
