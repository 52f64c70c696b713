//! Entry of `herdsman-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "keep" => herdsman_agent::keeper::main(args),
        _ => ExitCode::FAILURE,
    }
}
