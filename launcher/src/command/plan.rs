//! What a cloud's plan looks like to people.

use std::time::Duration;

use crate::provider::cloud::{Facts, Plan, PlannedMachine};
use crate::ui::{bytes, seconds};

/// Machines, image and network.
pub(super) fn machines(plan: &Plan, exists: bool, have: usize) -> String {
    let mut out = format!("  place      {}\n", plan.place);
    out += &format!("  scheduler  {}\n", line(&plan.scheduler, exists.then_some(1)));
    out += &format!("  workers    {}\n", line(&plan.workers, Some(have).filter(|n| *n > 0)));
    out += &format!("  image      {}\n", plan.image);
    for (i, what) in plan.network.iter().enumerate() {
        out += &format!("  {:<10} {what}\n", if i == 0 { "network" } else { "" });
    }
    out
}

fn line(m: &PlannedMachine, have: Option<usize>) -> String {
    let o = &m.offer;
    let mut out = format!("{} × {}  {} cpu {}", m.count, o.name, o.cpus, bytes(o.memory));
    if o.gpus > 0 {
        let kind = o.gpu.as_deref().unwrap_or("graphics processor");
        out += &format!(" {} × {kind}", o.gpus);
    }
    out += &format!(" disk {}", bytes(m.disk));
    if m.spot {
        out += " spot";
    }
    if let Some(price) = m.price() {
        out += &format!("  {}", price.times(m.count));
    }
    if !m.others.is_empty() {
        out += &format!("  (or {})", m.others.join(", "));
    }
    if let Some(have) = have {
        out += &format!("  ({have} there)");
    }
    out
}

/// What it comes to, and what is left of it at its end.
pub(super) fn end(plan: &Plan, facts: Facts, lifetime: Option<Duration>) -> String {
    let mut out = format!("             {}\n", facts.self_end.sentence());
    let price = plan.price();
    let total = match (&price, lifetime) {
        (Some(p), Some(life)) => format!("{p}, at most {:.2} {} in {}", p.over(life), p.currency, seconds(life)),
        (Some(p), None) => format!("{p}, without an end"),
        (None, _) => "no price is known".to_owned(),
    };
    out += &format!("  total      {total}\n");
    out
}
