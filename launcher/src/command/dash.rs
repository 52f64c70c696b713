//! `herdsman dash`: Dask's dashboard on this computer.

use herdsman_wire::Code;

use super::cli::{DashArgs, Output};
use super::context::Session;
use super::signals::interruptible;
use crate::link::{dash, forward};
use crate::ui::Error;

pub(super) async fn run(session: &Session, args: &DashArgs) -> Result<(), Error> {
    let (_, access) = session.open(args.name.as_ref()).await?;
    // Said now rather than in the browser.
    drop(access.link.tunnel("dashboard").await?);
    let listener = forward::listen(args.port).await?;
    let token = dash::Token::random()?;
    let address = listener
        .local_addr()
        .map_err(|e| Error::new(Code::Port, e.to_string()))?;
    let url = token.link(address.port());
    if session.printer.output() == Output::Json {
        session.printer.json(&serde_json::json!({"dashboard": url}))?;
    } else {
        session.printer.data(&format!("{url}\n"))?;
        session.printer.note("open until you press Ctrl-C");
    }
    if args.open || (!args.no_open && session.printer.live()) {
        open_browser(&url);
    }
    let link = access.link.clone();
    let open = move || {
        let link = link.clone();
        async move { link.tunnel("dashboard").await }
    };
    let work = async {
        dash::serve(listener, open, token)
            .await
            .map_err(|e| Error::new(Code::Port, format!("the local port: {e}")))
    };
    match interruptible(work).await {
        Err(e) if e.exit.is_interrupted() => Ok(()),
        other => other,
    }
}

/// Best effort: the address was printed anyway.
fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let null = std::process::Stdio::null;
    let _ = std::process::Command::new(program)
        .arg(url)
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn();
}
