//! Entry of `herdsman-agent`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use herdsman_agent::dask::exec_child;
use herdsman_agent::logs::LogStore;
use herdsman_agent::{driver, keeper, service};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const USAGE: &str = "\
herdsman-agent: runs inside each machine of a herdsman cluster

usage: herdsman-agent run --config FILE    be the node of a join configuration
       herdsman-agent install [--root DIR] [--no-start]
                                           make this machine, or an image at DIR, run it as a service
       herdsman-agent keep --dir DIR       keep an agent running where there is no systemd
       herdsman-agent version
";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().and_then(|v| v.into_string().ok());
    match verb.as_deref() {
        Some("run") => run(args),
        Some(service::upgrade::SETTLE) => service::upgrade::settle(),
        Some("install") => service::main(args),
        Some("keep") => keeper::main(args),
        Some(exec_child::SUBCOMMAND) => exec_child::run(),
        Some("version" | "--version" | "-V") => say(&format!(
            "herdsman-agent {} (protocol {})\n",
            env!("CARGO_PKG_VERSION"),
            herdsman_wire::version::PROTOCOL
        )),
        Some("help" | "--help" | "-h") => say(USAGE),
        _ => usage(),
    }
}

fn say(text: &str) -> ExitCode {
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let _ = std::io::stderr().write_all(USAGE.as_bytes());
    ExitCode::from(2)
}

fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => PathBuf::from(path),
        (None, ..) => PathBuf::from("/var/lib/herdsman/join.json"),
        _ => return usage(),
    };
    // One thread: an agent waits nearly all of its life, and there is one on
    // every machine.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(driver::run(&config, log)),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: no runtime: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Events go to standard error, which is the machine's console or journal, and
/// into the node's logs.
fn log(store: Option<&LogStore>) {
    let console = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(console)
        .with(store.map(LogStore::layer))
        .init();
}
