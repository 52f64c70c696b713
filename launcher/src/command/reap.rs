//! `herdsman reap`: what no cluster owns any more.

use std::collections::BTreeMap;

use herdsman_wire::{Code, Timestamp};
use serde_json::json;

use super::cli::{Output, ReapArgs};
use super::context::Session;
use super::signals::interruptible;
use crate::provider::cloud::{Cloud, Stray, strays};
use crate::provider::{ClusterRef, Deleted, Machine, Provider};
use crate::ui::{Error, Exit, Table};

pub(super) async fn run(session: &Session, args: &ReapArgs) -> Result<u8, Error> {
    let name = session.provider_of(args.provider)?;
    let ctx = session.provider(name, args.region.as_deref())?;
    let printer = &session.printer;
    let Provider::Cloud(cloud) = &ctx.provider else {
        printer.note(&format!(
            "machines of provider {name} are looked after by `herdsman ls` and `herdsman down`"
        ));
        if printer.output() == Output::Json {
            printer.json(&json!({"provider": name.as_str(), "strays": [], "deleted": [], "left": []}))?;
        }
        return Ok(0);
    };
    let found = interruptible(find(&**cloud, args)).await?;
    let table = printer.output() == Output::Table;
    if table {
        printer.text(&show(&found))?;
    }
    if found.is_empty() {
        printer.note("no strays");
    }
    // Without -y it only shows, terminal or not: timers run it unseen.
    let deleted = if session.global.yes && !found.is_empty() {
        interruptible(delete(&**cloud, &found)).await?
    } else {
        Deleted::default()
    };
    if !table {
        let all: Vec<_> = found.iter().map(entry).collect();
        printer.json(&json!({
            "provider": name.as_str(), "strays": all, "deleted": deleted.deleted, "left": deleted.left,
        }))?;
    } else if !found.is_empty() && !session.global.yes {
        printer.note("nothing was deleted; add -y to delete these");
    } else if !found.is_empty() {
        printer.note(&format!("deleted {} resources", deleted.deleted.len()));
    }
    if deleted.left.is_empty() {
        return Ok(0);
    }
    let mut text = format!("{} resources could not be deleted", deleted.left.len());
    for (what, why) in &deleted.left {
        text += &format!("\n{what}: {why}");
    }
    Err(Error::new(Code::Leftover, text)
        .with_exit(Exit::Partly)
        .with_hint(format!("herdsman reap {name} -y      tries again")))
}

async fn find(cloud: &dyn Cloud, args: &ReapArgs) -> Result<Vec<Stray>, Error> {
    let (machines, resources) = (cloud.list(None).await?, cloud.shared(None).await?);
    let older = args.older_than.map(crate::config::Period::get);
    Ok(strays(&machines, &resources, Timestamp::now(), older))
}

/// Machines first; then all that their clusters shared, but only of clusters that
/// have no machine left: another one's network is in use.
async fn delete(cloud: &dyn Cloud, found: &[Stray]) -> Result<Deleted, Error> {
    let machines: Vec<Machine> = found
        .iter()
        .filter_map(|s| match s {
            Stray::Machine(m, _) => Some((**m).clone()),
            Stray::Resource(..) => None,
        })
        .collect();
    let mut report = Deleted::default();
    if !machines.is_empty() {
        report = cloud.delete(&machines).await?;
    }
    let clusters: BTreeMap<&str, &ClusterRef> = found.iter().map(|s| (s.cluster().id.as_str(), s.cluster())).collect();
    let left = cloud.list(None).await?;
    for cluster in clusters.into_values() {
        if left.iter().all(|m| m.cluster.id != cluster.id) {
            let rest = cloud.delete_rest(cluster).await?;
            report.deleted.extend(rest.deleted);
            report.left.extend(rest.left);
        }
    }
    Ok(report)
}

fn entry(stray: &Stray) -> serde_json::Value {
    let cluster = &stray.cluster().name;
    match stray {
        Stray::Machine(m, why) => {
            json!({"kind": "machine", "id": m.id, "name": m.node, "cluster": cluster, "why": why})
        }
        Stray::Resource(r, why) => json!({"kind": r.kind, "id": r.id, "name": r.name, "cluster": cluster, "why": why}),
    }
}

fn show(found: &[Stray]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["KIND", "ID", "NAME", "CLUSTER", "WHY"]);
    for stray in found {
        let e = entry(stray);
        let text = |key: &str| e[key].as_str().unwrap_or_default().to_owned();
        table.row(["kind", "id", "name", "cluster", "why"].map(text));
    }
    table.text()
}
