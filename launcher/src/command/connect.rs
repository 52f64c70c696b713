//! `herdsman connect`: a local port that leads to Dask's scheduler.

use herdsman_wire::Code;

use super::cli::{ConnectArgs, Output};
use super::context::Session;
use super::signals::interruptible;
use crate::link::forward;
use crate::ui::Error;

pub(super) async fn run(session: &Session, args: &ConnectArgs) -> Result<(), Error> {
    let (_, access) = session.open(args.name.as_ref()).await?;
    let listener = forward::listen(args.port).await?;
    let address = listener
        .local_addr()
        .map_err(|e| Error::new(Code::Port, e.to_string()))?;
    let protocol = if access.record.insecure { "tcp" } else { "tls" };
    let url = format!("{protocol}://{address}");
    if session.printer.output() == Output::Json {
        session.printer.json(&serde_json::json!({"scheduler": url}))?;
    } else {
        session.printer.data(&format!("{url}\n"))?;
        session.printer.note("leads to the scheduler until you press Ctrl-C");
    }
    let link = access.link.clone();
    let open = move || {
        let link = link.clone();
        async move { link.tunnel("scheduler").await }
    };
    let work = async {
        forward::serve(listener, open).await;
        Ok(())
    };
    match interruptible(work).await {
        Err(e) if e.exit.is_interrupted() => Ok(()),
        other => other,
    }
}
