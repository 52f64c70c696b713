//! A cluster's copied environment: sent to the hub, and compared when there is
//! one already.

use std::collections::BTreeMap;

use herdsman_wire::api::{ChangeEnvironment, Done};
use herdsman_wire::environment::{Manifest, differences, normalize, parse_lock};
use herdsman_wire::report::{ClusterStatus, Versions};
use herdsman_wire::spec::EnvironmentSpec;
use herdsman_wire::{ApiError, Code, Role};
use tokio::time::Instant;

use super::access::Access;
use super::{Observe, Step, Wanted};
use crate::environment::Content;
use crate::link::{Link, SOON};

/// Packages that are named in a message; the rest is counted.
const NAMED: usize = 8;

/// Brings the blobs to the hub that are not there yet.
pub(super) async fn send(link: &Link, wanted: &Wanted, until: Instant) -> Result<(), ApiError> {
    for blob in &wanted.blobs {
        let within = until.saturating_duration_since(Instant::now());
        match &blob.content {
            Content::Path(file) => link.put_blob(&blob.sha256, file, within).await?,
            Content::Bytes(bytes) => link.put_bytes(&blob.sha256, bytes.clone().into(), within).await?,
        }
    }
    Ok(())
}

/// What an existing cluster runs and what is wanted now. A running cluster keeps
/// its environment: computations hold objects made with it. The same one is
/// completed, where an interrupted `up` left it half sent.
pub(super) async fn converge(
    access: &Access,
    wanted: &Wanted,
    status: &ClusterStatus,
    until: Instant,
    see: Observe<'_>,
) -> Result<(), ApiError> {
    let manifest = manifest(wanted);
    let name = &wanted.name;
    if let Some(lines) = mismatch(&versions(wanted, manifest.as_ref()), status) {
        return Err(ApiError::new(
            Code::Mismatch,
            format!(
                "`{name}` is up, and its Python differs from this one:\n{}",
                lines.join("\n")
            ),
        )
        .with_hint(format!("herdsman down {name}          then up again, for a new one"))
        .with_hint("or name the environment that it was made with: --python PATH"));
    }
    let environment = &wanted.spec.environment;
    let note = |text: String| see(&Step::Note(text));
    match (status.environment.as_deref(), environment.id()) {
        (Some(old), Some(new)) if old == new => {
            send(&access.link, wanted, until).await?;
            let change = ChangeEnvironment {
                environment: environment.clone(),
            };
            let _: Done = access.link.post("/v1/environment", &change, SOON).await?;
        }
        (Some(old), Some(_)) => {
            let before: Option<Manifest> = access.link.get(&format!("/v1/blobs/{old}"), SOON).await.ok();
            let lines = match (&before, &manifest) {
                (Some(before), Some(now)) => changes(before, now),
                _ => Vec::new(),
            };
            note(format!(
                "the environment has changed since `{name}` was made, and its nodes keep the old one{}",
                lines.iter().fold(String::new(), |s, l| s + "\n  " + l)
            ));
            note(format!("  herdsman down {name}     then up again, brings the new one"));
        }
        (Some(_), None) => note(format!("`{name}` keeps the copied environment that it was made with")),
        (None, Some(_)) => note(format!(
            "`{name}` keeps the environment that its machines have; a copy would come with a new cluster"
        )),
        (None, None) => {}
    }
    Ok(())
}

fn manifest(wanted: &Wanted) -> Option<Manifest> {
    let id = wanted.spec.environment.id()?;
    let blob = wanted.blobs.iter().find(|b| b.sha256 == id)?;
    match &blob.content {
        Content::Bytes(bytes) => Manifest::parse(bytes).ok(),
        Content::Path(_) => None,
    }
}

fn versions(wanted: &Wanted, manifest: Option<&Manifest>) -> Versions {
    let of = |name: &str| manifest.and_then(|m| m.versions.get(name)).cloned().unwrap_or_default();
    match &wanted.spec.environment {
        EnvironmentSpec::Image { versions, .. } => versions.clone(),
        EnvironmentSpec::Locked { .. } => Versions {
            python: of("python"),
            dask: of("dask"),
            distributed: of("distributed"),
        },
    }
}

fn mismatch(here: &Versions, status: &ClusterStatus) -> Option<Vec<String>> {
    let scheduler = status.nodes.iter().find(|n| n.role == Role::Scheduler)?;
    let there = scheduler.report.dask.versions.as_ref()?;
    Some(differences(here, there)).filter(|lines| !lines.is_empty())
}

/// Lines that say what differs between two environments.
fn changes(before: &Manifest, now: &Manifest) -> Vec<String> {
    let (old, new) = (contents(before), contents(now));
    let mut lines = Vec::new();
    if before.python != now.python {
        lines.push(format!("python {} → {}", before.python, now.python));
    }
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        lines.push(match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some((a, _)), Some((b, _))) if a == b => format!("{name} {a}: other files"),
            (Some((a, _)), Some((b, _))) => format!("{name} {a} → {b}"),
            (Some((a, _)), None) => format!("{name} {a} is gone"),
            (None, Some((b, _))) => format!("{name} {b} is new"),
            (None, None) => continue,
        });
    }
    if lines.len() > NAMED {
        let more = lines.len() - NAMED;
        lines.truncate(NAMED);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Version and hashes of each package.
fn contents(of: &Manifest) -> BTreeMap<String, (String, Vec<String>)> {
    let pins = parse_lock(&of.lock).unwrap_or_default();
    let mut all: BTreeMap<String, (String, Vec<String>)> =
        pins.into_iter().map(|p| (p.name, (p.version, p.hashes))).collect();
    for wheel in &of.wheels {
        let mut parts = wheel.file.split('-');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        all.insert(normalize(name), (version.to_owned(), vec![wheel.sha256.clone()]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use herdsman_wire::environment::{PLATFORM, VERSION, Wheel, id};

    fn of(python: &str, pins: &[(&str, &str)], wheels: &[(&str, &str)]) -> Manifest {
        Manifest {
            version: VERSION,
            python: python.into(),
            platform: PLATFORM.into(),
            lock: pins
                .iter()
                .map(|(n, v)| format!("{n}=={v} \\\n    --hash=sha256:{}\n", id(n.as_bytes())))
                .collect(),
            wheels: wheels
                .iter()
                .map(|(file, content)| Wheel {
                    file: (*file).into(),
                    sha256: id(content.as_bytes()),
                    size: 1,
                })
                .collect(),
            indexes: Vec::new(),
            versions: BTreeMap::new(),
            setup: Vec::new(),
        }
    }

    #[test]
    fn what_changed_is_named() {
        let a = of(
            "3.11.2",
            &[("a", "1"), ("b", "1"), ("c", "1")],
            &[("my_lib-0-py3-none-any.whl", "x")],
        );
        assert!(changes(&a, &a).is_empty());
        let b = of(
            "3.11.3",
            &[("a", "2"), ("c", "1"), ("d", "1")],
            &[("my_lib-0-py3-none-any.whl", "y")],
        );
        assert_eq!(
            changes(&a, &b),
            [
                "python 3.11.2 → 3.11.3",
                "a 1 → 2",
                "b 1 is gone",
                "d 1 is new",
                "my-lib 0: other files"
            ]
        );
        let many: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
        let pins: Vec<(&str, &str)> = many.iter().map(|n| (n.as_str(), "1")).collect();
        let lines = changes(&of("3.11.2", &[], &[]), &of("3.11.2", &pins, &[]));
        assert_eq!(lines.last().unwrap(), "and 12 more");
    }
}
