//! A parser of values that may hold a secret, by intent or by mistake. clap's own
//! errors repeat the value, and so put it into scrollback and the logs of CI.

use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};

/// Parses by [`FromStr`]; its errors say what the type says, and no more.
pub(super) struct Unseen<T>(PhantomData<fn() -> T>);

impl<T> Unseen<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Unseen<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> TypedValueParser for Unseen<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let why = match value.to_str().map(T::from_str) {
            Some(Ok(parsed)) => return Ok(parsed),
            Some(Err(e)) => e.to_string(),
            None => "not UTF-8".to_owned(),
        };
        let flag = arg.map(ToString::to_string).unwrap_or_default();
        let text = format!("invalid value for '{flag}': {why}\n");
        Err(command.clone().error(ErrorKind::ValueValidation, text))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::command::cli::Cli;

    #[test]
    fn what_may_be_secret_is_never_repeated() {
        for args in [
            ["herdsman", "up", "--secret", "TOKEN=hunter2"],
            ["herdsman", "up", "--env-var", "hunter2"],
            ["herdsman", "up", "--env-var", "=hunter2"],
        ] {
            let text = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains(args[2]), "{text}");
        }
    }
}
