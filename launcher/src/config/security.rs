//! Which of the user's own certificate files go to whom.

use std::collections::BTreeMap;
use std::path::PathBuf;

use herdsman_wire::Code;

use super::error::ConfigError;
use super::origin::Sourced;
use super::settings::OwnCertificates;

/// Paths by the last part of their key, such as `tls_cert`.
type Paths = BTreeMap<&'static str, Sourced<PathBuf>>;

/// Checks the files against each other and that they are there: a trust anchor,
/// and a pair for each role. What is in them is looked at when they are read.
pub(super) fn check(insecure: &Sourced<bool>, tls: &Paths) -> Result<Option<OwnCertificates>, ConfigError> {
    let Some((name, first)) = tls.iter().next() else {
        return Ok(None);
    };
    if insecure.value {
        // Both at once means that one was forgotten; guessing could mean no
        // encryption where some was wanted.
        return Err(
            ConfigError::new("plain TCP and certificates of your own exclude each other")
                .key(format!("security.{name}"))
                .at(first.origin.clone())
                .hint(format!("security.insecure was set by: {}", insecure.origin)),
        );
    }
    let ca = path(tls, "tls_ca_file").ok_or_else(|| {
        ConfigError::new("your own certificates need those that Dask shall trust: security.tls_ca_file")
            .key(format!("security.{name}"))
            .at(first.origin.clone())
            .hint("add --tls-ca-file FILE")
    })?;
    let own = OwnCertificates {
        ca,
        scheduler: pair(tls, "scheduler", first)?,
        worker: pair(tls, "worker", first)?,
        client: pair(tls, "client", first)?,
    };
    there(tls)?;
    Ok(Some(own))
}

/// The chain and key of a role: its own, or those for all roles; never one of
/// each. Dask allows the key inside the certificate's file.
fn pair(tls: &Paths, role: &str, any: &Sourced<PathBuf>) -> Result<(PathBuf, PathBuf), ConfigError> {
    for prefix in [format!("tls_{role}_"), "tls_".to_owned()] {
        let (cert, key) = (format!("{prefix}cert"), format!("{prefix}key"));
        match (path(tls, &cert), path(tls, &key)) {
            (Some(chain), Some(key)) => return Ok((chain, key)),
            (Some(chain), None) => return Ok((chain.clone(), chain)),
            (None, Some(_)) => {
                let origin = tls.get(key.as_str()).map_or(&any.origin, |s| &s.origin);
                return Err(
                    ConfigError::new(format!("a key needs its certificate: security.{cert} is missing"))
                        .key(format!("security.{key}"))
                        .at(origin.clone()),
                );
            }
            (None, None) => {}
        }
    }
    Err(ConfigError::new(format!("the {role} has no certificate"))
        .key(format!("security.tls_{role}_cert"))
        .at(any.origin.clone())
        .hint(format!(
            "add --tls-{role}-cert and --tls-{role}-key, or --tls-cert and --tls-key for all roles"
        )))
}

fn path(tls: &Paths, name: &str) -> Option<PathBuf> {
    tls.get(name).map(|s| s.base.join(&s.value))
}

/// All files are there: minutes later, with machines made, is too late to say.
fn there(tls: &Paths) -> Result<(), ConfigError> {
    for (name, path) in tls {
        let full = path.base.join(&path.value);
        if !full.is_file() {
            return Err(ConfigError::new(format!("there is no file {}", full.display()))
                .code(Code::NotFound)
                .key(format!("security.{name}"))
                .hint("name a file in PEM; a path counts from the folder of what names it")
                .at(path.origin.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn of<T>(value: T, base: &std::path::Path) -> Sourced<T> {
        Sourced {
            value,
            origin: Origin::Flag { flag: "--tls" },
            base: base.to_owned(),
        }
    }

    fn checked(names: &[&'static str], insecure: bool) -> Result<Option<OwnCertificates>, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let mut tls = Paths::new();
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
            tls.insert(name, of(PathBuf::from(*name), dir.path()));
        }
        check(&of(insecure, dir.path()), &tls)
    }

    #[test]
    fn roles_take_their_own_pair_or_the_common_one() {
        assert_eq!(checked(&[], false).unwrap(), None);
        assert_eq!(checked(&[], true).unwrap(), None);
        let names = [
            "tls_ca_file",
            "tls_cert",
            "tls_key",
            "tls_worker_cert",
            "tls_worker_key",
            "tls_client_cert",
        ];
        let own = checked(&names, false).unwrap().unwrap();
        assert!(own.worker.1.ends_with("tls_worker_key"));
        assert!(own.scheduler.0.ends_with("tls_cert") && own.scheduler.1.ends_with("tls_key"));
        assert!(own.client.1.ends_with("tls_client_cert"), "key and chain in one file");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (names, insecure, words) in [
            (&["tls_cert", "tls_key"][..], false, "tls_ca_file"),
            (&["tls_ca_file"], false, "the scheduler has no certificate"),
            (&["tls_ca_file", "tls_key"], false, "security.tls_cert is missing"),
            (
                &["tls_ca_file", "tls_cert", "tls_key", "tls_client_key"],
                false,
                "security.tls_client_cert is missing",
            ),
            (&["tls_ca_file"], true, "exclude each other"),
        ] {
            let e = checked(names, insecure).unwrap_err().to_string();
            assert!(e.contains(words), "{names:?}: {e}");
        }
    }

    #[test]
    fn files_must_be_there() {
        let mut tls = Paths::new();
        for name in ["tls_ca_file", "tls_cert"] {
            tls.insert(
                name,
                of(PathBuf::from("none.pem"), std::path::Path::new("/nonexistent")),
            );
        }
        let e = check(&of(false, std::path::Path::new("")), &tls).unwrap_err();
        assert_eq!(e.code, Code::NotFound);
        assert!(e.to_string().contains("/nonexistent/none.pem"), "{e}");
    }
}
