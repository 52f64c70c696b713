//! `herdsman up`.

use herdsman_wire::spec::{ClusterSpec, DaskSecurity, DaskSpec, EndSpec, FirewallSpec, f64Eq};
use herdsman_wire::{Code, Role};
use serde_json::json;

use super::cli::{Output, UpArgs};
use super::context::Session;
use super::own;
use super::packages::{self, Chosen};
use super::signals::interruptible;
use crate::cluster::{self, Context, Outcome, Wanted};
use crate::config::{Allow, OwnCertificates, ProviderName, Settings, Wait};
use crate::ui::{Error, Exit, Progress, iso, seconds};

/// Part of `--timeout` that is kept for deleting what did not start.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(20);

/// Wait before a provider that had no machines left is asked again.
const UNTIL_UP: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) async fn run(session: &Session, args: &UpArgs) -> Result<u8, Error> {
    let loaded = session.load(args)?;
    let settings = &loaded.settings;
    // First what is told at once: the environment may take minutes.
    let dask = dask(session, settings)?;
    if args.plan {
        return plan(session, &loaded.entries, settings).await;
    }
    let ctx = session.context(settings)?;
    let printer = &session.printer;
    if settings.workers.is_adaptive() {
        printer.note(&format!(
            "starting with {} workers; `cluster.adapt()` from Python follows the work up to {}",
            settings.workers.min(),
            settings.workers.max()
        ));
    }
    if settings.insecure {
        printer.warn("Dask's own traffic will be plain TCP: whoever reaches port 8786 can run code on all nodes");
    }
    let started = std::time::Instant::now();
    let chosen = interruptible(packages::choose(session, settings, &ctx)).await?;
    let wanted = wanted(session, args, settings, dask, chosen)?;
    let existed = matches!(ctx.store.load(&wanted.name), Ok(Some(r)) if r.stage == crate::state::Stage::Up);
    let progress = Progress::new(printer);
    let see = |step: &cluster::Step| progress.see(step);
    let work = async {
        loop {
            match cluster::up(&ctx, &wanted, &see).await {
                Err(e) if args.retry_until_up && matches!(e.code, Code::Capacity | Code::Quota) => {
                    see(&cluster::Step::Note(format!(
                        "{}; tried again in {}",
                        e.message,
                        seconds(UNTIL_UP)
                    )));
                    tokio::time::sleep(UNTIL_UP).await;
                }
                other => return Ok(other?),
            }
        }
    };
    let result = interruptible(work).await;
    progress.finish();
    match result {
        Ok(outcome) => {
            show(session, &ctx, settings, &outcome, started.elapsed())?;
            Ok(0)
        }
        Err(e) if e.exit.is_interrupted() => Err(clean_up(&ctx, &wanted, existed, e).await),
        Err(e) => {
            // It may be up with fewer workers, and then has clients.
            if let (Some(own), Ok(Some(record))) = (&settings.own, ctx.store.load(&wanted.name))
                && record.own
                && e.exit == Exit::Partly
            {
                remember_own(&ctx, &record, own)?;
            }
            Err(e)
        }
    }
}

/// Ctrl-C: what was made is deleted, or found by the next command.
async fn clean_up(ctx: &Context, wanted: &Wanted, existed: bool, mut e: Error) -> Error {
    let name = &wanted.name;
    if wanted.keep_failed || existed {
        e.message += "\nwhat there is was kept";
        return e
            .with_hint(format!("herdsman up {name}        finishes it"))
            .with_hint(format!("herdsman down {name}      deletes it"));
    }
    match cluster::down(ctx, name, &|_| {}).await {
        Ok(report) if report.left.is_empty() => e.message += "\nwhat had been created was deleted",
        Ok(report) => {
            e.message += &format!("\n{} resources could not be deleted", report.left.len());
            return e.with_hint(format!("herdsman down {name}      tries again"));
        }
        Err(cause) if cause.code == Code::NotFound => e.message += "\nnothing had been created",
        Err(cause) => {
            e.message += &format!("\nwhat had been created could not be deleted: {}", cause.message);
            return e.with_hint(format!("herdsman down {name}      tries again"));
        }
    }
    e
}

fn wanted(
    session: &Session,
    args: &UpArgs,
    settings: &Settings,
    dask: DaskSpec,
    chosen: Chosen,
) -> Result<Wanted, Error> {
    let workers = settings.workers.min();
    Ok(Wanted {
        name: settings.name.clone(),
        workers,
        if_exists: args.if_exists.into(),
        wait_for: match settings.wait {
            Wait::None => None,
            other => Some(other.workers(workers)),
        },
        spec: ClusterSpec {
            dask,
            limits: EndSpec {
                idle_seconds: settings.idle.map(|d| d.as_secs()),
                no_client_seconds: settings.no_client.map(|d| d.as_secs()),
                lifetime_seconds: settings.lifetime.map(|d| d.as_secs()),
            },
            environment: chosen.spec,
            lives: lives(session)?,
            firewall: firewall(settings),
        },
        blobs: chosen.blobs,
        // What is made is cleaned up before the command's own deadline cuts in.
        start_timeout: session.global.timeout.map_or(settings.start_timeout, |t| {
            settings
                .start_timeout
                .min(t.get().saturating_sub(CLEAN_UP).max(t.get() / 2))
        }),
        keep_failed: settings.keep_failed,
        tags: settings.tags.clone().into_iter().collect(),
    })
}

/// Who is let in. Roles of machines are no setting yet: metadata stays closed.
fn firewall(settings: &Settings) -> FirewallSpec {
    let networks = settings.allow.iter().filter_map(|a| match a {
        Allow::Net(net) => Some(*net),
        Allow::Me | Allow::None => None,
    });
    FirewallSpec {
        allow: networks.collect(),
        allow_installer: settings.allow.contains(&Allow::Me),
        join: settings.join.clone(),
        ..FirewallSpec::default()
    }
}

/// Lives of certificates are no setting: only tests shorten them.
fn lives(session: &Session) -> Result<herdsman_wire::spec::Lives, Error> {
    session.env.get("HERDSMAN_TEST_LIVES").map_or_else(
        || Ok(herdsman_wire::spec::Lives::default()),
        |text| serde_json::from_str(text).map_err(|e| Error::new(Code::Usage, format!("HERDSMAN_TEST_LIVES: {e}"))),
    )
}

fn dask(session: &Session, settings: &Settings) -> Result<DaskSpec, Error> {
    let memory = settings
        .memory
        // A machine of its own has less than that for Dask, and Dask sees how much.
        .filter(|_| settings.provider != ProviderName::Qemu)
        .map(|bytes| (bytes / u64::from(settings.workers_per_node)).to_string());
    Ok(DaskSpec {
        security: security(session, settings)?,
        workers_per_node: settings.workers_per_node,
        threads: settings.threads.or_else(|| local_share(settings)),
        memory_limit: memory,
        resources: settings.resources.iter().map(|(k, v)| (k.clone(), f64Eq(*v))).collect(),
        worker_class: settings.worker_class.clone(),
        scheduler_args: settings.scheduler_options.clone(),
        worker_args: settings.worker_options.clone(),
        variables: settings.variables.clone(),
        ..DaskSpec::default()
    })
}

/// Nodes of this machine share its processors, as those of a cloud do not.
fn local_share(settings: &Settings) -> Option<u16> {
    if settings.provider != ProviderName::Local {
        return None;
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let processes = settings.workers.min().max(1) * u32::from(settings.workers_per_node);
    let share = cpus / usize::try_from(processes).unwrap_or(usize::MAX);
    Some(u16::try_from(share.max(1)).unwrap_or(u16::MAX))
}

fn security(session: &Session, settings: &Settings) -> Result<DaskSecurity, Error> {
    match &settings.own {
        _ if settings.insecure => Ok(DaskSecurity::None),
        None => Ok(DaskSecurity::Cluster),
        Some(files) => own::security(files, settings.lifetime, &|text| session.printer.warn(text)),
    }
}

async fn plan(session: &Session, entries: &crate::config::Entries, settings: &Settings) -> Result<u8, Error> {
    let ctx = session.context(settings)?;
    let machines = ctx.provider.list(Some(&settings.name)).await?;
    let have = machines.iter().filter(|m| m.role == Role::Worker).count();
    let exists = !machines.is_empty();
    let same = exists && have == settings.workers.min() as usize;
    let printer = &session.printer;
    let offer = match ctx.provider.cloud() {
        Some(cloud) => Some(interruptible(async { Ok(cloud.plan(settings.workers.min()).await?) }).await?),
        None => None,
    };
    let copy = if packages::is_copied(settings) {
        let python = packages::interpreter(session, settings)?;
        let request = packages::request(session, settings)?;
        Some(interruptible(packages::prepare(session, &request, &python)).await?)
    } else {
        None
    };
    if printer.output() == Output::Json {
        printer.json(&json!({
            "name": settings.name,
            "exists": exists,
            "environment": copy.as_ref().map(|c| json!({"id": c.id, "summary": c.summary(), "notes": c.notes})),
            "workers": {"have": have, "want": settings.workers.min()},
            "changes": !same,
            "machines": offer,
            "price_per_hour": offer.as_ref().and_then(crate::provider::cloud::Plan::price),
            "settings": entries.document(),
        }))?;
    } else {
        let mut text = format!("{} on {}\n", settings.name, settings.provider);
        match &offer {
            None => {
                text += &format!("  scheduler  {}\n", if exists { "exists" } else { "1 to make" });
                text += &format!("  workers    {have} of {}\n", settings.workers);
            }
            Some(plan) => text += &super::plan::machines(plan, exists, have),
        }
        let python = copy.as_ref().map(crate::environment::Copy::summary);
        text += &format!("  packages   {}\n", python.unwrap_or_else(|| settings.env.to_string()));
        text += &format!("  stops      {}\n", stops(settings));
        if let (Some(plan), Some(cloud)) = (&offer, ctx.provider.cloud()) {
            text += &super::plan::end(plan, cloud.facts(), settings.lifetime);
        }
        printer.text(&text)?;
    }
    Ok(if same { Exit::Done } else { Exit::Changes } as u8)
}

fn stops(settings: &Settings) -> String {
    let mut when = Vec::new();
    if let Some(idle) = settings.idle {
        when.push(format!("{} after the last task", seconds(idle)));
    }
    if let Some(d) = settings.no_client {
        when.push(format!("{} after the last client", seconds(d)));
    }
    if let Some(d) = settings.lifetime {
        when.push(format!("{} after the start at the latest", seconds(d)));
    }
    if when.is_empty() {
        "never by itself".to_owned()
    } else {
        when.join(", ")
    }
}

fn show(
    session: &Session,
    ctx: &Context,
    settings: &Settings,
    outcome: &Outcome,
    took: std::time::Duration,
) -> Result<(), Error> {
    let printer = &session.printer;
    let record = &outcome.record;
    let name = &record.cluster.name;
    let ready = outcome.status.as_ref().map(cluster::ready_workers);
    if let Some(own) = &settings.own {
        remember_own(ctx, record, own)?;
    }
    match printer.output() {
        Output::Name => printer.data(&format!("{name}\n")),
        Output::Json => {
            let mut document = json!({
                "name": name,
                "id": record.cluster.id,
                "provider": record.provider,
                "state": "up",
                "existed": outcome.existed,
                "scheduler": scheduler_url(record),
                "dashboard": "tunnel",
                "workers": {"want": settings.workers.min(), "most": settings.workers.max(), "ready": ready},
                "ca_fingerprint": format!("sha256:{}", record.fingerprint),
                "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
            });
            if let Some(end) = outcome.status.as_ref().and_then(|s| s.ending.lifetime_ends) {
                document["stops_at"] = json!(iso(end));
            }
            printer.json(&document)
        }
        Output::Table => {
            let what = match ready {
                Some(n) => format!("{n} workers ready"),
                None => "on its way".to_owned(),
            };
            printer.note(&format!("{name} is up: {what}, {}", seconds(took)));
            printer.note(&format!("  stops    {}", stops(settings)));
            printer.note(&format!(
                "  python   eval \"$(herdsman env {name})\"; then Client() in Python"
            ));
            printer.note(&format!("  watch    herdsman dash {name}"));
            printer.note(&format!("  stop     herdsman down {name}"));
            Ok(())
        }
    }
}

pub(super) fn scheduler_url(record: &crate::state::Record) -> Option<String> {
    let protocol = if record.insecure { "tcp" } else { "tls" };
    record.scheduler.map(|a| format!("{protocol}://{a}"))
}

/// Clients of a cluster with the user's certificates use the user's own.
fn remember_own(ctx: &Context, record: &crate::state::Record, own: &OwnCertificates) -> Result<(), Error> {
    let files = crate::state::ClientFiles {
        ca: own.ca.clone(),
        certificate: own.client.0.clone(),
        key: own.client.1.clone(),
    };
    Ok(ctx.store.save_own(&record.cluster.name, &files)?)
}
