//! Values that may be secrets by mistake never stand in an error about a command
//! line, which ends in terminals' histories and logs of CI.
//!
//! Two nets: flags that take a value next to a secret ([`Unseen`]) say only what
//! their type says, and every error is searched for words that look like secrets
//! before it is shown ([`masked`]).

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};

use crate::config::secrets;

/// What stands in a secret's place.
const MASK: &str = "***";

/// This much of a secret's beginning is enough to find it where it was cut
/// short; whole words below are found as they are.
const BEGINNING: usize = 8;

/// Parses by [`FromStr`]; its errors never hold the value, unlike clap's own.
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
            Some(Ok(value)) => return Ok(value),
            Some(Err(e)) => e.to_string(),
            None => "it is no UTF-8 text".into(),
        };
        let flag = arg.map(ToString::to_string).unwrap_or_default();
        Err(command
            .clone()
            .error(ErrorKind::ValueValidation, format!("{flag}: {why}")))
    }
}

/// The text of an error about a command line without what looks like a secret.
/// Help texts and the like hold nothing that was typed.
pub(crate) fn masked(e: &clap::Error, args: &[OsString]) -> String {
    let mut text = e.render().ansi().to_string();
    for secret in secrets_of(args) {
        text = mask(&text, &secret);
    }
    text
}

/// Values on the command line that look like secrets by themselves, or by the
/// name in front of them.
fn secrets_of(args: &[OsString]) -> Vec<String> {
    let words: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
    let mut found = Vec::new();
    let mut before = "";
    for word in words {
        let mut name = before.trim_start_matches('-');
        let mut rest = word;
        // `VALUE`, `NAME=VALUE` and `--flag=NAME=VALUE`.
        loop {
            if secrets::look(name, rest).is_some() {
                found.push(rest.to_owned());
            }
            let Some((left, right)) = rest.split_once('=') else {
                break;
            };
            (name, rest) = (left.trim_start_matches('-'), right);
        }
        // A flag may name what follows it; anything else does not.
        before = if word.starts_with('-') { word } else { "" };
    }
    found
}

/// A text without a secret, whole or cut short.
fn mask(text: &str, secret: &str) -> String {
    let beginning: String = secret.chars().take(BEGINNING).collect();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&beginning) {
        let (before, found) = rest.split_at(at);
        let same: usize = found
            .chars()
            .zip(secret.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        out.push_str(before);
        out.push_str(MASK);
        rest = found.get(same..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::Parser as _;

    fn error(words: &[&str]) -> String {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        let e = Cli::try_parse_from(&args).unwrap_err();
        masked(&e, &args)
    }

    #[test]
    fn no_secret_is_shown_wherever_it_was_typed() {
        let token = "dop_v1_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let pem = "-----BEGIN PRIVATE KEY-----\n0123456789abcdef\n-----END PRIVATE KEY-----";
        for words in [
            &["herdsman", "up", "--env-var", "DB_PASSWORD=0123456789abcdef"][..],
            &["herdsman", "up", "--env-var=DB_PASSWORD=0123456789abcdef"],
            &["herdsman", "up", "--env-var", "0123456789abcdef"],
            &["herdsman", "up", "--secret", "DB_PASSWORD=0123456789abcdef"],
            &["herdsman", "up", "--secret", "0123456789abcdef!"],
            &["herdsman", "up", "--tag", "api-token=0123456789abcdef"],
            &["herdsman", "up", "--tag", token],
            &["herdsman", "up", token],
            &["herdsman", "up", pem],
            &["herdsman", "up", "demo", token],
            &["herdsman", "up", "demo", "DB_PASSWORD=0123456789abcdef"],
            &["herdsman", "up", "demo", "--password", "0123456789abcdef"],
            &["herdsman", "up", "--token=0123456789abcdef"],
            &["herdsman", "up", "--idle", token],
            &["herdsman", "up", "--idle", pem],
            &[
                "herdsman",
                "up",
                "--allow",
                "https://ann:0123456789abcdef@index.example",
            ],
            &["herdsman", "up", "--local-network", token],
            &["herdsman", "down", "--all", token],
            &["herdsman", token],
        ] {
            let text = error(words);
            assert!(!text.contains("0123456789"), "{words:?}: {text}");
            assert!(text.contains("error"), "{text}");
        }
    }

    #[test]
    fn ordinary_words_are_still_named() {
        assert!(error(&["herdsman", "up", "--idle", "20"]).contains("\"20\""));
        assert!(error(&["herdsman", "up", "demo", "extra"]).contains("extra"));
        assert!(error(&["herdsman", "up", "--env-var", "X"]).contains("write it as NAME=value"));
        assert!(error(&["herdsman", "up", "--secret", "A=b"]).contains("only the name"));
    }

    #[test]
    fn a_secret_that_was_cut_short_is_found() {
        assert_eq!(mask("a secretword b secretwo…", "secretword"), "a *** b ***…");
        assert_eq!(mask("pw", "pw"), "***");
        assert_eq!(mask("nothing", "secretword"), "nothing");
    }
}
