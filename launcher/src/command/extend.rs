//! `herdsman extend`.

use herdsman_wire::api::LimitsChange;
use herdsman_wire::report::Ending;

use super::cli::{ExtendArgs, Output, limit_seconds};
use super::context::Session;
use crate::link::SOON;
use crate::ui::{Error, iso};

pub(super) async fn run(session: &Session, args: &ExtendArgs) -> Result<(), Error> {
    let (_, access) = session.open(Some(&args.name)).await?;
    let change = LimitsChange {
        idle_seconds: args.idle.map(limit_seconds),
        no_client_seconds: None,
        lifetime_from_now_seconds: args.lifetime.map(limit_seconds),
    };
    let ending: Ending = access.link.post("/v1/limits", &change, SOON).await?;
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer.json(&ending);
    }
    match ending.lifetime_ends {
        Some(end) => printer.note(&format!("{} ends at {} at the latest", args.name, iso(end))),
        None => printer.note(&format!("{} has no end of life", args.name)),
    }
    Ok(())
}
