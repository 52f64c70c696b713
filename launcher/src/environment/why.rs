//! Why a package is on the nodes, or is not.

use herdsman_wire::report::Versions;

use super::copy::{Action, EnvRequest};
use super::interpreter::Interpreter;
use super::scan::{Class, kept, required_by, scan};
use super::versions::normalize;

/// An answer to `herdsman pkg why PACKAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Normal name.
    pub name: String,
    /// Whether it is installed here at all.
    pub installed: bool,
    /// Its version; empty where it is not installed.
    pub version: String,
    /// Whether it goes to the machines, as far as that is known without asking
    /// an index.
    pub goes: bool,
    /// Who needs it, among what goes to the machines.
    pub needed_by: Vec<String>,
    /// Where it came from, who needs it, and what happens to it; for people.
    pub lines: Vec<String>,
}

/// Says why a package is on the nodes, or is not. Asks no index.
#[must_use]
pub fn why(python: &Interpreter, settings: &EnvRequest, package: &str) -> Why {
    let name = normalize(package);
    let found = scan(python);
    let stays = kept(&found, &settings.include, &settings.ignore);
    let Some(dist) = found.dists.get(&name) else {
        return Why {
            lines: vec![format!("{name} is not installed in {}", python.executable.display())],
            name,
            installed: false,
            version: String::new(),
            goes: false,
            needed_by: Vec::new(),
        };
    };
    let from = match &dist.class {
        Class::Index => "from a package index".to_owned(),
        Class::Vcs(what) => format!("from the repository {what}"),
        Class::Url(url) => format!("from {url}"),
        Class::Editable(path) => format!("imported in place from {}", path.display()),
        Class::Local(path) => format!("from {}", path.display()),
        Class::Conda => "by conda".to_owned(),
        Class::Tool => "as a tool".to_owned(),
        Class::Own => "with herdsman".to_owned(),
    };
    let mut lines = vec![format!("{name} {} is installed {from}", dist.version)];
    let by = required_by(&found, &stays, &name);
    lines.push(if by.is_empty() {
        "no package that goes to the machines needs it".to_owned()
    } else {
        format!("needed by {}", by.join(", "))
    });
    let goes = stays.contains(&name);
    lines.push(if goes {
        let how = match dist.class {
            Class::Editable(_) => "built here and sent as a wheel",
            Class::Vcs(_) | Class::Url(_) | Class::Local(_) => "packed as it is installed here and sent as a wheel",
            _ => "installed there from an index, with the same version where it has a Linux wheel",
        };
        format!("it goes to the machines: {how}")
    } else if settings.ignore.iter().any(|i| normalize(i) == name) {
        format!("{}: env.ignore names it", Action::LeftOut)
    } else {
        format!(
            "{}: workers have no use for it; env.include = [\"{name}\"] keeps it",
            Action::LeftOut
        )
    });
    Why {
        version: dist.version.clone(),
        installed: true,
        goes,
        needed_by: by.into_iter().map(str::to_owned).collect(),
        lines,
        name,
    }
}

/// Lines that say what differs between the laptop and a node where it must not;
/// `None` where both understand each other.
#[must_use]
pub fn mismatch(laptop: &Versions, node: &Versions) -> Option<Vec<String>> {
    Some(herdsman_wire::environment::differences(laptop, node)).filter(|lines| !lines.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::find_interpreter;
    use super::super::testing::{dist, env, folder, venv};
    use super::*;

    #[test]
    fn answers() {
        let dir = folder();
        let packages = venv(dir.path());
        dist(&packages, "dask", "2026.8.0", &[]);
        dist(&packages, "ruff", "1.0", &[]);
        let python = find_interpreter(dir.path(), &env(&[("VIRTUAL_ENV", dir.path())]), None).unwrap();
        let settings = EnvRequest::default();
        assert!(why(&python, &settings, "Dask").lines[2].starts_with("it goes to the machines"));
        assert!(why(&python, &settings, "ruff").lines[2].contains("env.include"));
        assert!(!why(&python, &settings, "nope").installed);
        let ignoring = EnvRequest {
            ignore: vec!["dask".into()],
            ..settings
        };
        assert!(why(&python, &ignoring, "dask").lines[2].contains("env.ignore"));
        let v = |d: &str| Versions {
            dask: d.into(),
            ..Versions::default()
        };
        assert_eq!(mismatch(&v("1"), &v("1")), None);
        assert_eq!(mismatch(&v("1"), &v("2")).unwrap().len(), 1);
    }
}
