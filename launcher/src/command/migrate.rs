//! `herdsman config migrate`: the user's Python reads dask's configuration, whose
//! files, variables and rules are dask's own, and knows the old package's keywords.

use std::process::{Command, Stdio};

use herdsman_wire::Code;

use super::cli::{MigrateArgs, Output, UpArgs};
use super::context::Session;
use super::packages;
use crate::ui::Error;

/// Exit code for a Python without the package. None of ours.
const ABSENT: i32 = 120;
/// Nothing but the package's absence may look like it.
const PROGRAM: &str = "\
import importlib.util, sys
if importlib.util.find_spec('herdsman') is None:
    sys.exit(120)
from herdsman._migrate import main
sys.exit(main(sys.argv[1:]))";

/// Gives the exit code.
pub(super) fn run(session: &Session, args: &MigrateArgs) -> Result<u8, Error> {
    let settings = session.load(&UpArgs::default())?.settings;
    let python = packages::interpreter(session, &settings)?.executable;
    let failed = |why: &dyn std::fmt::Display| Error::new(Code::Internal, format!("{}: {why}", python.display()));
    let mut command = Command::new(&python);
    command.args(["-c", PROGRAM]).stdin(Stdio::null());
    if let Some(provider) = &args.provider {
        command.args(["--provider", provider.as_str()]);
    }
    if let Some(file) = &args.to {
        command.arg("--to").arg(file);
    }
    for (flag, is_given) in [
        ("--print", args.print),
        ("--force", args.force),
        ("--json", session.printer.output() == Output::Json),
    ] {
        if is_given {
            command.arg(flag);
        }
    }
    let status = command.status().map_err(|e| failed(&e))?;
    match status.code() {
        Some(ABSENT) => Err(Error::new(
            Code::NotFound,
            format!(
                "{} has no package herdsman, which knows dask-cloudprovider",
                python.display()
            ),
        )
        .with_hint(format!("{} -m pip install herdsman", python.display()))),
        Some(code) => u8::try_from(code).map_err(|e| failed(&e)),
        None => Err(failed(&status)),
    }
}
