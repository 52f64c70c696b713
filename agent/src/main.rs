//! Entry of `herdsman-agent`.

use std::process::ExitCode;

use herdsman_agent::dask::exec_child;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(arg) if arg == exec_child::SUBCOMMAND => exec_child::run(),
        _ => ExitCode::SUCCESS,
    }
}
