//! `herdsman env`: what a shell needs so that `Client()` finds the cluster.

use std::fmt::Write as _;

use herdsman_wire::Code;
use serde_json::json;

use super::cli::{EnvArgs, Output, Shell};
use super::context::Session;
use crate::ui::Error;

pub(super) async fn run(session: &Session, args: &EnvArgs) -> Result<(), Error> {
    let (ctx, access) = session.open(args.name.as_ref()).await?;
    let record = &access.record;
    let address = super::up::scheduler_url(record)
        .ok_or_else(|| Error::new(Code::NotFound, "the scheduler's address was never learnt"))?;
    let mut variables = vec![("DASK_SCHEDULER_ADDRESS".to_owned(), address)];
    if !record.insecure {
        let files = ctx.store.client_files(&record.cluster.name)?;
        let text = |p: &std::path::Path| p.to_string_lossy().into_owned();
        // Read by dask.config from the environment of any Dask process.
        variables.extend([
            ("DASK_DISTRIBUTED__COMM__TLS__CA_FILE".to_owned(), text(&files.ca)),
            (
                "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT".to_owned(),
                text(&files.certificate),
            ),
            ("DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY".to_owned(), text(&files.key)),
            ("DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION".to_owned(), "1.3".to_owned()),
            (
                "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION".to_owned(),
                "True".to_owned(),
            ),
        ]);
    }
    let printer = &session.printer;
    if printer.output() == Output::Json {
        let map: serde_json::Map<_, _> = variables.into_iter().map(|(k, v)| (k, json!(v))).collect();
        return printer.json(&map);
    }
    let mut out = String::new();
    for (name, value) in &variables {
        let _ = match args.shell {
            Shell::Sh => writeln!(out, "export {name}={}", sh(value)),
            Shell::Fish => writeln!(out, "set -gx {name} {}", sh(value)),
            Shell::Powershell => writeln!(out, "$env:{name} = '{}'", value.replace('\'', "''")),
        };
    }
    printer.data(&out)
}

/// One word of a POSIX shell, whatever is in it.
fn sh(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words() {
        assert_eq!(sh("tls://127.0.0.1:8786"), "tls://127.0.0.1:8786");
        assert_eq!(sh("/home/a b"), "'/home/a b'");
        assert_eq!(sh("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(sh(""), "''");
    }
}
