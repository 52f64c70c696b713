//! The `uv` program: found, run with a deadline, its output kept.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::environment::index_host;

use super::error::Error;
use super::index::Indexes;
use super::interpreter::{Interpreter, Variables, on_path};

/// Names the program to use, before all other places.
pub const HERDSMAN_UV: &str = "HERDSMAN_UV";

/// Lines of uv's output in an error.
const LINES: usize = 15;

/// uv with the laptop's variables.
#[derive(Debug)]
pub(super) struct Uv<'a> {
    pub(super) program: PathBuf,
    env: &'a Variables,
}

/// How uv ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Exit status; none where a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Finds uv: `$HERDSMAN_UV`, `$PATH`, beside the interpreter.
///
/// # Errors
/// What to install.
pub fn find_uv(python: &Interpreter, env: &Variables) -> Result<PathBuf, Error> {
    if let Some(named) = env.get(HERDSMAN_UV).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        if path.is_file() {
            return Ok(path);
        }
        return Err(Error::refused(
            format!("${HERDSMAN_UV} names {}, which is no file", path.display()),
            ["unset it, or let it name the uv program".to_owned()],
        ));
    }
    let name = if cfg!(windows) { "uv.exe" } else { "uv" };
    on_path(env, "uv")
        .or_else(|| Some(python.executable.parent()?.join(name)).filter(|p| p.is_file()))
        .ok_or_else(|| {
            Error::refused(
                "uv was not found, and it locks the environment for the machines",
                [
                    format!("install it: {} -m pip install uv", python.executable.display()),
                    format!("or name it: {HERDSMAN_UV}=/path/of/uv"),
                    "or use what the machines have: --env image".to_owned(),
                ],
            )
        })
}

impl<'a> Uv<'a> {
    pub(super) fn new(python: &Interpreter, env: &'a Variables) -> Result<Self, Error> {
        Ok(Self {
            program: find_uv(python, env)?,
            env,
        })
    }

    /// Runs uv in `folder`. Where to find packages is given by `indexes` alone:
    /// nodes see no configuration of the laptop's, so neither must the lock.
    pub(super) async fn run(
        &self,
        what: &str,
        args: &[&std::ffi::OsStr],
        indexes: &Indexes,
        folder: &Path,
        longest: Duration,
    ) -> Result<Ended, Error> {
        let mut command = tokio::process::Command::new(&self.program);
        let hidden = |name: &str| {
            let index = name.starts_with("UV_INDEX")
                || [
                    "UV_DEFAULT_INDEX",
                    "UV_EXTRA_INDEX_URL",
                    "UV_FIND_LINKS",
                    "UV_CONFIG_FILE",
                    "UV_CONSTRAINT",
                    "UV_OVERRIDE",
                ]
                .contains(&name);
            index || name == "VIRTUAL_ENV" || name == "CONDA_PREFIX" || name == "PYTHONPATH" || name == "PYTHONHOME"
        };
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().filter(|(n, _)| !hidden(n)))
            .envs([("UV_NO_CONFIG", "1"), ("UV_NO_PROGRESS", "1"), ("NO_COLOR", "1")])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let last = indexes.list.len().wrapping_sub(1);
        for (i, index) in indexes.list.iter().enumerate() {
            let option = if i == last { "--default-index" } else { "--index" };
            command.arg(option).arg(format!("h{i}={}", index.url));
            let host = index_host(&index.url);
            // By the environment: argv is for all to see.
            if let Some(access) = indexes.credentials.iter().find(|c| Some(&c.host) == host.as_ref()) {
                command
                    .env(format!("UV_INDEX_H{i}_USERNAME"), &access.user)
                    .env(format!("UV_INDEX_H{i}_PASSWORD"), access.password.reveal());
            }
        }
        let output = tokio::time::timeout(longest, command.output())
            .await
            .map_err(|_| Error::Deadline {
                what: what.to_owned(),
                seconds: longest.as_secs(),
            })?
            .map_err(Error::io(&self.program))?;
        let masked = |bytes: &[u8]| {
            let mut text = String::from_utf8_lossy(bytes).into_owned();
            for c in &indexes.credentials {
                if !c.password.is_empty() {
                    text = text.replace(c.password.reveal(), "…");
                }
            }
            text
        };
        Ok(Ended {
            code: output.status.code(),
            stdout: masked(&output.stdout),
            stderr: masked(&output.stderr),
        })
    }
}

/// An error with uv's last lines.
pub(super) fn failed(what: &str, said: &str, hints: impl IntoIterator<Item = String>) -> Error {
    let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    Error::refused(format!("{what} failed:\n{}", last.join("\n")), hints)
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::find_interpreter;
    use super::super::testing::{env, folder, program, venv};
    use super::*;

    #[test]
    fn places_in_their_order_and_what_to_install() {
        let dir = folder();
        venv(dir.path());
        let python = find_interpreter(dir.path(), &env(&[("VIRTUAL_ENV", dir.path())]), None).unwrap();
        let error = find_uv(&python, &Variables::new()).unwrap_err();
        let error = herdsman_wire::ApiError::from(error);
        assert!(error.hint[0].contains("pip install uv"), "{error:?}");
        let beside = program(dir.path().join("bin/uv"), "");
        assert_eq!(find_uv(&python, &Variables::new()).unwrap(), beside);
        let there = dir.path().join("other");
        let on_path = program(there.join("uv"), "");
        assert_eq!(find_uv(&python, &env(&[("PATH", &there)])).unwrap(), on_path);
        let named = env(&[("PATH", &there), (HERDSMAN_UV, &beside)]);
        assert_eq!(find_uv(&python, &named).unwrap(), beside);
        assert!(find_uv(&python, &env(&[(HERDSMAN_UV, &dir.path().join("no"))])).is_err());
    }
}
