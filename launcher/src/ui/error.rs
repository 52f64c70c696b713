//! Errors as people and programs see them.

use std::fmt::Write as _;

use herdsman_wire::{ApiError, Code};
use serde_json::json;

use super::clean::clean;
use super::exit::{Exit, exit_of};
use crate::config::ConfigError;
use crate::provider::ProviderError;

/// An error that ends a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Stable code.
    pub code: Code,
    /// What failed and why; further lines are details, indented.
    pub message: String,
    /// What can be tried: lines to paste, with a remark behind.
    pub hint: Vec<String>,
    /// Whether the same command may go through later.
    pub retryable: bool,
    /// How the command ends.
    pub exit: Exit,
}

impl Error {
    /// An error with nothing to try yet.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        ApiError::new(code, message).into()
    }

    /// Adds a line of what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.push(hint.into());
        self
    }

    /// With something to try, whoever forgot to say what.
    #[must_use]
    pub fn or_hint(mut self) -> Self {
        if self.hint.is_empty() {
            self.hint = general(self.code).iter().map(|&h| h.to_owned()).collect();
        }
        self
    }

    /// Ends the command with this code instead of the one that follows from ours.
    #[must_use]
    pub const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// For people. `paint` colours the head. Much of an error comes from
    /// elsewhere, so a terminal gets it cleaned; [`Error::json`] is as it is.
    #[must_use]
    pub fn text(&self, paint: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        let mut lines = self.message.lines().map(clean);
        let head = paint(&format!("error[{}]:", self.code));
        let _ = writeln!(out, "{head} {}", lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
        for (i, hint) in self.hint.iter().enumerate() {
            let label = if i == 0 { "try:" } else { "    " };
            let _ = writeln!(out, "  {label} {}", clean(hint));
        }
        out
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut lines = self.message.lines();
        let message = lines.next().unwrap_or_default();
        let cause: Vec<&str> = lines.map(str::trim).collect();
        json!({"error": {
            "code": self.code,
            "message": message,
            "cause": cause,
            "retryable": self.retryable,
            "try": self.hint,
            "exit": self.exit as u8,
        }})
    }
}

/// What helps with a kind of error, where nothing is known of its cause.
const fn general(code: Code) -> &'static [&'static str] {
    match code {
        Code::Usage | Code::Malformed | Code::TooLarge => &["add --help to the command     shows what it takes"],
        Code::Unreachable | Code::Deadline | Code::Busy => &[
            "herdsman doctor NAME     says which part of the way is closed",
            "herdsman ls              shows whether it has ended",
        ],
        Code::NotFound => &["herdsman ls              shows the clusters there are"],
        Code::Boot | Code::Dask | Code::Leftover => &["herdsman logs NAME       shows what the nodes say"],
        _ => &[
            "herdsman doctor          looks at this computer; with a NAME, at that cluster",
            "add -vv to the command   shows what it does",
        ],
    }
}

impl From<ApiError> for Error {
    fn from(e: ApiError) -> Self {
        Self {
            exit: exit_of(e.code),
            code: e.code,
            message: e.message,
            hint: e.hint,
            retryable: e.retryable,
        }
    }
}

impl From<ProviderError> for Error {
    fn from(e: ProviderError) -> Self {
        ApiError::from(e).into()
    }
}

impl From<ConfigError> for Error {
    fn from(e: ConfigError) -> Self {
        Self {
            exit: exit_of(e.code),
            code: e.code,
            message: e.to_string(),
            hint: e.hint.clone(),
            retryable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_everything() {
        let e = Error::new(
            Code::Deadline,
            "1 of 4 workers is late\n  w2: phase `dask`\n    last line",
        )
        .with_hint("herdsman logs demo w2     more lines")
        .with_hint("herdsman doctor demo");
        assert_eq!(
            e.text(str::to_owned),
            "error[E-DEADLINE]: 1 of 4 workers is late\n    w2: phase `dask`\n      last line\n  \
             try: herdsman logs demo w2     more lines\n       herdsman doctor demo\n"
        );
        let odd = Error::new(Code::Dask, "a\u{1b}[2Jb").with_hint("c\u{7}");
        assert!(!odd.text(str::to_owned).contains(['\u{1b}', '\u{7}']));
        assert_eq!(odd.json()["error"]["message"], "a\u{1b}[2Jb");
        let json = e.json();
        assert_eq!(json["error"]["code"], "E-DEADLINE");
        assert_eq!(json["error"]["exit"], 6);
        assert_eq!(json["error"]["cause"][1], "last line");
        assert_eq!(json["error"]["try"][1], "herdsman doctor demo");
    }
}
