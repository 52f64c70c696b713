//! `herdsman sizes`: machine types with their prices.

use serde_json::json;

use super::cli::{Output, SizesArgs};
use super::context::Session;
use super::signals::interruptible;
use crate::provider::Provider;
use crate::provider::cloud::Offer;
use crate::ui::{Error, Table, bytes};

pub(super) async fn run(session: &Session, args: &SizesArgs) -> Result<(), Error> {
    let name = session.provider_of(args.provider)?;
    let ctx = session.provider(name, args.region.as_deref())?;
    let printer = &session.printer;
    let Provider::Cloud(cloud) = &ctx.provider else {
        printer.note(&format!(
            "provider {name} has no types of machines: `--memory` and, with qemu, `--cpu` say what they are"
        ));
        return if printer.output() == Output::Json {
            printer.json(&json!({"provider": name.as_str(), "sizes": []}))
        } else {
            Ok(())
        };
    };
    let mut offers: Vec<Offer> = interruptible(async { Ok(cloud.sizes().await?) }).await?;
    offers.retain(|o| {
        o.current
            && args.cpu.is_none_or(|n| o.cpus >= n)
            && args.memory.is_none_or(|m| o.memory >= m.bytes())
            && (!args.gpu || o.gpus > 0)
            && args.arch.as_ref().is_none_or(|a| *a == o.arch)
    });
    let price = |o: &Offer| o.price.as_ref().map_or(f64::INFINITY, |m| m.per_hour);
    offers.sort_by(|a, b| {
        price(a)
            .total_cmp(&price(b))
            .then_with(|| (a.cpus, a.memory, &a.name).cmp(&(b.cpus, b.memory, &b.name)))
    });
    match printer.output() {
        Output::Json => printer.json(&json!({"provider": name.as_str(), "sizes": offers})),
        Output::Name => printer.data(&offers.iter().map(|o| format!("{}\n", o.name)).collect::<String>()),
        Output::Table => {
            let more = offers.len().saturating_sub(args.limit);
            offers.truncate(args.limit);
            printer.data(&table(&offers))?;
            if more > 0 {
                printer.note(&format!("{more} more; --limit N shows them"));
            }
            Ok(())
        }
    }
}

fn table(offers: &[Offer]) -> String {
    let mut table = Table::new(&["TYPE", "CPUS", "MEMORY", "GPUS", "ARCH", "PRICE/H", "SPOT/H"]);
    for o in offers {
        let money = |m: &Option<crate::provider::cloud::Money>| {
            m.as_ref()
                .map_or_else(|| "?".to_owned(), |m| format!("{:.4} {}", m.per_hour, m.currency))
        };
        let gpus = match (o.gpus, &o.gpu) {
            (0, _) => String::new(),
            (n, Some(kind)) => format!("{n} × {kind}"),
            (n, None) => n.to_string(),
        };
        table.row([
            o.name.clone(),
            o.cpus.to_string(),
            bytes(o.memory),
            gpus,
            o.arch.clone(),
            money(&o.price),
            money(&o.spot),
        ]);
    }
    table.text()
}
