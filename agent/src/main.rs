//! Entry of `herdsman-agent`.

use std::process::ExitCode;

use herdsman_agent::dask::exec_child;
use herdsman_agent::keeper;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "keep" => keeper::main(args),
        Some(verb) if verb == exec_child::SUBCOMMAND => exec_child::run(),
        _ => ExitCode::FAILURE,
    }
}
