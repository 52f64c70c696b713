//! Entry of `herdsman`.

use std::process::ExitCode;

fn main() -> ExitCode {
    herdsman::command::main(std::env::args_os())
}
