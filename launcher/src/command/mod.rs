//! The verbs: arguments in, one call, output. What they do is in [`crate::cluster`].

pub mod cli;

mod allow;
mod attend;
mod check;
mod completion;
mod config;
mod connect;
mod context;
mod cost;
mod dash;
mod doctor;
mod down;
mod env;
mod exec;
mod extend;
mod incidents;
mod logs;
mod ls;
mod migrate;
mod own;
mod packages;
mod pkg;
mod plan;
mod reap;
mod remove;
mod render;
mod scale;
mod signals;
mod sizes;
mod status;
mod up;
mod upgrade;
mod version;

use std::ffi::OsString;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use herdsman_wire::Code;

use crate::config::Given;
use crate::ui::{Error, Exit, Printer};
use cli::{Cli, Verb};
use context::Session;

/// Runs a command line; gives the exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, &args),
    };
    let env = crate::config::Env::of_process();
    let printer = Printer::new(&cli.global, &env);
    match given(cli.global.settings.as_deref()) {
        Ok(given) => cli.global.given = given,
        Err(e) => {
            printer.error(&e);
            return ExitCode::from(e.exit as u8);
        }
    }
    log(cli.global.verbose, &env);
    let timeout = cli.global.timeout.map(crate::config::Period::get);
    let session = Session::new(cli.global, env, printer.clone());
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(within(timeout, run(session, cli.verb)));
            // What still waits (a name lookup, a read of stdin) must not hold
            // the command up.
            runtime.shutdown_background();
            result
        }
        Err(e) => Err(Error::new(herdsman_wire::Code::Internal, format!("no runtime: {e}"))),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            printer.error(&e);
            ExitCode::from(e.exit as u8)
        }
    }
}

/// Settings of the program that runs this one: one line where it is the standard
/// input, which may stay open, else a file.
fn given(from: Option<&Path>) -> Result<Option<Given>, Error> {
    let Some(path) = from else { return Ok(None) };
    let broken = |e: std::io::Error| Error::new(Code::Disk, format!("--settings: {e}"));
    let mut text = Vec::new();
    if path == Path::new("-") {
        let most = crate::config::parse::FILE_MAX as u64 + 1;
        std::io::stdin()
            .lock()
            .take(most)
            .read_until(b'\n', &mut text)
            .map_err(broken)?;
    } else {
        text = fs_err::read(path).map_err(broken)?;
    }
    Ok(Some(Given::parse(&text)?))
}

/// Help and version are asked for; anything else is wrong usage.
fn usage(e: &clap::Error, args: &[OsString]) -> ExitCode {
    if !e.use_stderr() {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let _ = anstream::stderr().write_all(cli::masked(e, args).as_bytes());
    ExitCode::from(Exit::Usage as u8)
}

async fn run(session: Session, verb: Verb) -> Result<u8, Error> {
    let done = |r: Result<(), Error>| r.map(|()| 0);
    match verb {
        Verb::Up(args) => up::run(&session, &args).await,
        Verb::Down(args) => down::run(&session, &args).await,
        Verb::Ls(args) => done(ls::run(&session, &args).await),
        Verb::Status(args) => done(status::run(&session, &args).await),
        Verb::Scale(args) => scale::run(&session, &args).await,
        Verb::Extend(args) => done(extend::run(&session, &args).await),
        Verb::Logs(args) => done(logs::run(&session, &args).await),
        Verb::Dash(args) => done(dash::run(&session, &args).await),
        Verb::Attend(args) => done(attend::run(&session, &args).await),
        Verb::Connect(args) => done(connect::run(&session, &args).await),
        Verb::Env(args) => done(env::run(&session, &args).await),
        Verb::Exec(args) => exec::run(&session, &args).await,
        Verb::Remove(args) => done(remove::run(&session, &args).await),
        Verb::Allow(args) => done(allow::allow(&session, &args).await),
        Verb::Deny(args) => done(allow::deny(&session, &args).await),
        Verb::Doctor(args) => doctor::run(&session, &args).await,
        Verb::Check(args) => check::run(&session, &args).await,
        Verb::Sizes(args) => done(sizes::run(&session, &args).await),
        Verb::Cost(args) => done(cost::run(&session, &args).await),
        Verb::Reap(args) => reap::run(&session, &args).await,
        Verb::Pkg(verb) => done(pkg::run(&session, &verb).await),
        Verb::Upgrade(args) => done(upgrade::run(&session, &args).await),
        Verb::Render(what) => done(render::run(&session, &what).await),
        Verb::Config(verb) => config::run(&session, &verb),
        Verb::Completion(args) => done(completion::run(&session, &args)),
        Verb::Version => done(version::run(&session).await),
    }
}

/// Gives up after the user's own deadline. What is half done by then is found
/// and finished by the next command.
async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let Some(timeout) = timeout else { return work.await };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let message = format!("not done within {} (--timeout)", crate::ui::seconds(timeout));
        Err(Error::new(herdsman_wire::Code::Deadline, message).with_hint("the same command again goes on from there"))
    })
}

/// The program's own log, for those who ask for it.
fn log(verbose: u8, env: &crate::config::Env) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match verbose {
        0 => match env.get(crate::config::vars::LOG).map(str::parse) {
            Some(Ok(level)) => level,
            _ => return,
        },
        1 => LevelFilter::WARN,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
