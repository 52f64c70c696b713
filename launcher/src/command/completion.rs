//! `herdsman completion`.

use clap::CommandFactory as _;

use super::cli::{Cli, CompletionArgs};
use super::context::Session;
use crate::ui::Error;

pub(super) fn run(session: &Session, args: &CompletionArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "herdsman", &mut script);
    session.printer.data(&String::from_utf8_lossy(&script))
}
