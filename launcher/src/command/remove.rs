//! `herdsman remove`: a node is not trusted any more.

use std::time::Duration;

use herdsman_wire::api::{Done, Nodes, Revoke};

use serde_json::json;

use super::cli::{Output, RemoveArgs};
use super::context::Session;
use crate::ui::Error;

/// Revocation is through within ten seconds; the rest is deletion.
const WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(session: &Session, args: &RemoveArgs) -> Result<(), Error> {
    let (ctx, access) = session.open(Some(&args.name)).await?;
    let _lock = ctx.store.lock(&args.name, "remove")?;
    let revoke = Revoke {
        nodes: args.nodes.clone(),
        users: args.user.clone(),
        why: args.why.clone(),
    };
    let _: Done = access.link.post("/v1/revoke", &revoke, WITHIN).await?;
    session.printer.note("revoked and cut off");
    let machines = ctx.provider.list(Some(&args.name)).await?;
    let gone: Vec<_> = machines.into_iter().filter(|m| args.nodes.contains(&m.node)).collect();
    let deleted = ctx.provider.delete(&gone).await?;
    if let Some((what, why)) = deleted.left.first() {
        return Err(Error::new(
            herdsman_wire::Code::Leftover,
            format!("{what} is cut off, but could not be deleted: {why}"),
        )
        .with_hint(format!("herdsman down {}      deletes the whole cluster", args.name)));
    }
    if !args.nodes.is_empty() {
        let forget = Nodes {
            nodes: args.nodes.clone(),
            why: args.why.clone(),
        };
        let _: Done = access.link.post("/v1/remove", &forget, WITHIN).await?;
    }
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer
            .json(&json!({"name": args.name, "removed": args.nodes, "users": args.user, "deleted": gone.len()}));
    }
    if !args.nodes.is_empty() {
        printer.note(&format!("{} nodes deleted", gone.len()));
    }
    Ok(())
}
