//! `herdsman cost`: what clusters cost, from what there is and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use herdsman_wire::{ClusterName, Code, Timestamp};
use serde_json::json;

use super::cli::{CostArgs, Output};
use super::context::{Session, machines_of};
use super::signals::interruptible;
use crate::cluster::Context;
use crate::provider::Machine;
use crate::provider::cloud::{Money, Offer, labels};
use crate::ui::{Error, Table, age};

/// What a cluster costs.
struct Row {
    name: ClusterName,
    provider: String,
    machines: usize,
    age: Duration,
    /// Absent where a machine's price is not known.
    price: Option<Money>,
}

pub(super) async fn run(session: &Session, args: &CostArgs) -> Result<(), Error> {
    let contexts = session.contexts()?;
    let rows = interruptible(rows(&contexts, args.name.as_ref())).await?;
    if let (Some(name), true) = (&args.name, rows.is_empty()) {
        return Err(Error::new(Code::NotFound, format!("there are no machines of `{name}`")));
    }
    let printer = &session.printer;
    if printer.output() == Output::Json {
        let all: Vec<_> = rows
            .iter()
            .map(|r| {
                json!({
                    "name": r.name, "provider": r.provider, "machines": r.machines,
                    "age_seconds": r.age.as_secs(), "price": r.price,
                    "so_far": r.price.as_ref().map(|p| p.over(r.age)),
                })
            })
            .collect();
        return printer.json(&json!({"clusters": all}));
    }
    let mut table = Table::new(&["NAME", "PROVIDER", "MACHINES", "AGE", "PRICE", "SO FAR", "A DAY"]);
    for r in &rows {
        let amount = |time: Duration| {
            let known = r.price.as_ref();
            known.map_or_else(|| "?".into(), |p| format!("{:.2} {}", p.over(time), p.currency))
        };
        table.row([
            r.name.to_string(),
            r.provider.clone(),
            r.machines.to_string(),
            age(r.age),
            r.price.as_ref().map_or_else(|| "?".into(), ToString::to_string),
            amount(r.age),
            amount(Duration::from_secs(86_400)),
        ]);
    }
    printer.data(&table.text())?;
    if rows.iter().any(|r| r.price.is_some()) {
        printer.note("estimates: list prices of the machines there are now, without disks, traffic and discounts");
    }
    Ok(())
}

async fn rows(contexts: &[Context], wanted: Option<&ClusterName>) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (i, ctx) in contexts.iter().enumerate() {
        let mut clusters: BTreeMap<ClusterName, Vec<Machine>> = BTreeMap::new();
        for machine in machines_of(ctx, i == 0).await? {
            if wanted.is_none_or(|w| *w == machine.cluster.name) {
                clusters.entry(machine.cluster.name.clone()).or_default().push(machine);
            }
        }
        if clusters.is_empty() {
            continue;
        }
        let offers = match ctx.provider.cloud() {
            Some(cloud) => {
                let (types, spot) = kinds(clusters.values().flatten());
                cloud.priced(&types, spot).await?
            }
            None => Vec::new(),
        };
        for (name, machines) in clusters {
            let free = ctx.provider.cloud().is_none();
            rows.push(Row {
                provider: ctx.provider.name().to_owned(),
                machines: machines.len(),
                age: oldest(&machines),
                price: if free {
                    Some(Money::usd(0.0))
                } else {
                    price(&machines, &offers)
                },
                name,
            });
        }
    }
    Ok(rows)
}

/// Types of machines, each once, and whether some of them can be taken away.
fn kinds<'m>(machines: impl Iterator<Item = &'m Machine>) -> (Vec<String>, bool) {
    let (mut types, mut spot) = (BTreeSet::new(), false);
    for m in machines {
        types.extend(m.hardware.kind.clone());
        spot |= m.hardware.spot;
    }
    (types.into_iter().collect(), spot)
}

fn oldest(machines: &[Machine]) -> Duration {
    let created = machines
        .iter()
        .filter_map(|m| m.tags.get(labels::CREATED)?.parse::<i64>().ok())
        .min();
    let now = Timestamp::now().seconds();
    Duration::from_secs(created.and_then(|c| u64::try_from(now - c).ok()).unwrap_or_default())
}

/// All machines together; absent as soon as one price is.
fn price(machines: &[Machine], offers: &[Offer]) -> Option<Money> {
    let mut sum: Option<Money> = None;
    for m in machines {
        let kind = m.hardware.kind.as_ref()?;
        let offer = offers.iter().find(|o| o.name == *kind)?;
        let spot = offer.spot.as_ref().filter(|_| m.hardware.spot);
        let one = spot.or(offer.price.as_ref())?;
        sum = Some(match sum {
            None => one.clone(),
            Some(s) => s.plus(one)?,
        });
    }
    sum
}
