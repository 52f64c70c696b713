//! `herdsman dash`: Dask's dashboard on this computer.

use std::net::{Ipv4Addr, SocketAddr};

use herdsman_wire::Code;
use tokio::net::TcpListener;

use super::cli::{DashArgs, Output};
use super::context::Session;
use super::signals::interruptible;
use crate::link::dash;
use crate::ui::{Error, Exit};

pub(super) async fn run(session: &Session, args: &DashArgs) -> Result<(), Error> {
    let (_, access) = session.open(args.name.as_ref()).await?;
    // Said now rather than in the browser.
    drop(access.link.tunnel("dashboard").await?);
    let listener = listen(args.port).await?;
    let token = dash::Token::generate()?;
    let address = listener
        .local_addr()
        .map_err(|e| Error::new(Code::Port, e.to_string()))?;
    let url = token.url(address);
    if session.printer.output() == Output::Json {
        session.printer.json(&serde_json::json!({"dashboard": url}))?;
    } else {
        session.printer.data(&format!("{url}\n"))?;
        session.printer.note("open until you press Ctrl-C");
    }
    if !args.no_open && session.printer.live() {
        open_browser(&url);
    }
    let link = access.link.clone();
    let open = move || {
        let link = link.clone();
        async move { link.tunnel("dashboard").await }
    };
    let work = async {
        dash::serve(listener, open, token).await?;
        Ok(())
    };
    match interruptible(work).await {
        Err(e) if e.exit == Exit::Interrupted => Ok(()),
        other => other,
    }
}

/// Listens on localhost only.
pub(super) async fn listen(port: u16) -> Result<TcpListener, Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|e| {
        Error::new(Code::Port, format!("cannot listen on {address}: {e}")).with_hint("--port 0     takes any free port")
    })
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
