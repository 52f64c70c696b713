//! What is installed in the laptop's Python: read from files, nothing started.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::interpreter::Interpreter;
use super::metadata::{self, Origin};
use super::versions::normalize;

/// Where a distribution came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// A package index.
    Index,
    /// A repository; the text names it and the commit.
    Vcs(String),
    /// A folder whose files are imported in place.
    Editable(PathBuf),
    /// A folder or file of the laptop, copied when it was installed.
    Local(PathBuf),
    /// A file of the web.
    Url(String),
    /// conda.
    Conda,
    /// A tool that workers have no use for.
    Tool,
    /// herdsman's own Python side.
    Own,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "index",
            Self::Vcs(_) => "repository",
            Self::Editable(_) => "editable",
            Self::Local(_) => "local",
            Self::Url(_) => "url",
            Self::Conda => "conda",
            Self::Tool => "tool",
            Self::Own => "herdsman",
        })
    }
}

/// One installed distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dist {
    /// Normal name.
    pub name: String,
    /// Version as its metadata spell it.
    pub version: String,
    /// Where it came from.
    pub class: Class,
    /// Normal names of what it requires on Linux.
    pub requires: Vec<String>,
    /// Its `dist-info` folder.
    pub info: PathBuf,
}

/// Tools that no task needs. A tool stays when something that stays requires it,
/// or when the user names it.
const TOOLS: &[&str] = &[
    "black",
    "build",
    "cibuildwheel",
    "coverage",
    "debugpy",
    "flake8",
    "hatch",
    "ipykernel",
    "isort",
    "jupyter",
    "jupyter-client",
    "jupyter-console",
    "jupyter-core",
    "jupyter-events",
    "jupyter-lsp",
    "jupyter-server",
    "jupyter-server-terminals",
    "jupyterlab",
    "jupyterlab-pygments",
    "jupyterlab-server",
    "maturin",
    "mypy",
    "nbclient",
    "nbconvert",
    "nbformat",
    "nodeenv",
    "notebook",
    "notebook-shim",
    "nox",
    "pdm",
    "pip",
    "pip-tools",
    "pipenv",
    "pipx",
    "poetry",
    "pre-commit",
    "pylint",
    "pyright",
    "pytest-cov",
    "pytest-xdist",
    "ruff",
    "setuptools",
    "sphinx",
    "tox",
    "twine",
    "uv",
    "virtualenv",
    "wheel",
];
/// Our own distributions.
const OWN: &[&str] = &["herdsman"];

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// By normal name.
    pub dists: BTreeMap<String, Dist>,
    /// What people should know: unreadable metadata, paths that are not carried.
    pub notes: Vec<String>,
}

/// Reads the metadata of all distributions, the first of each name on the path.
#[must_use]
pub fn scan(python: &Interpreter) -> Scan {
    let mut found = Scan::default();
    for folder in &python.packages {
        let Ok(entries) = fs_err::read_dir(folder) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in &paths {
            let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if file.ends_with(".dist-info") {
                match read(path) {
                    Some(dist) => drop(found.dists.entry(dist.name.clone()).or_insert(dist)),
                    // pip renames what it fails to remove to `~name`.
                    None if file.starts_with('~') => {}
                    None => found
                        .notes
                        .push(format!("{file} holds no readable METADATA and was passed over")),
                }
            } else if file.ends_with(".egg-info") || file.ends_with(".egg-link") {
                found.notes.push(format!(
                    "{file}: an old kind of installation, passed over; install it anew with pip or uv"
                ));
            } else if file.ends_with(".pth") {
                found.notes.extend(outside(path, folder));
            }
        }
    }
    found
}

fn read(info: &Path) -> Option<Dist> {
    let text = |name: &str| fs_err::read_to_string(info.join(name)).ok();
    let meta = metadata::metadata(&text("METADATA")?)?;
    let name = normalize(&meta.name);
    let origin = text("direct_url.json").and_then(|t| metadata::origin(&t));
    let conda = text("INSTALLER").is_some_and(|t| t.trim() == "conda");
    let class = match origin {
        _ if OWN.contains(&name.as_str()) => Class::Own,
        Some(Origin::Editable(path)) => Class::Editable(path),
        _ if TOOLS.contains(&name.as_str()) => Class::Tool,
        // conda's builders leave the address of their own build folder.
        _ if conda => Class::Conda,
        Some(Origin::Local(path)) => Class::Local(path),
        Some(Origin::Vcs(what)) => Class::Vcs(what),
        Some(Origin::Url(url)) => Class::Url(url),
        None => Class::Index,
    };
    Some(Dist {
        name,
        version: meta.version,
        class,
        requires: meta.requires,
        info: info.to_owned(),
    })
}

/// A `.pth` file's folders outside of the environment; editable installations
/// have metadata of their own and are not meant.
fn outside(pth: &Path, packages: &Path) -> Vec<String> {
    let name = pth.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if name.starts_with("__editable__") || name.starts_with("_editable") || name.starts_with("_virtualenv") {
        return Vec::new();
    }
    let Ok(text) = fs_err::read_to_string(pth) else {
        return Vec::new();
    };
    let own: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("import"))
        .map(|l| packages.join(l))
        .filter(|p| p.is_dir() && !p.starts_with(packages))
        .map(|p| p.display().to_string())
        .collect();
    // uv and hatch name the file after the package.
    let stem = normalize(name.trim_end_matches(".pth").trim_start_matches('_'));
    let known = fs_err::read_dir(packages).is_ok_and(|mut d| {
        d.any(|e| {
            e.is_ok_and(|e| {
                e.file_name()
                    .to_str()
                    .and_then(super::versions::parse_metadata_name)
                    .is_some_and(|(n, _)| n == stem)
            })
        })
    });
    if known {
        return Vec::new();
    }
    own.into_iter()
        .map(|p| format!("{p} is on Python's path by {name} and is not copied: only the project's folder is"))
        .collect()
}

/// Names that stay: everything but tools and our own, then tools that these
/// require, and what the user names in `keep`; never what is in `ignore`.
#[must_use]
pub fn kept(scan: &Scan, keep: &[String], ignore: &[String]) -> std::collections::BTreeSet<String> {
    let ignored: Vec<String> = ignore.iter().map(|n| normalize(n)).collect();
    let wanted: Vec<String> = keep.iter().map(|n| normalize(n)).collect();
    let mut stays: std::collections::BTreeSet<String> = scan
        .dists
        .values()
        .filter(|d| !matches!(d.class, Class::Tool | Class::Own) || wanted.contains(&d.name))
        .map(|d| d.name.clone())
        .filter(|n| !ignored.contains(n))
        .collect();
    let mut open: Vec<String> = stays.iter().cloned().collect();
    while let Some(name) = open.pop() {
        let requires = scan.dists.get(&name).map_or(&[][..], |d| &d.requires);
        for required in requires {
            let tool = scan.dists.get(required).is_some_and(|d| d.class == Class::Tool);
            if tool && !ignored.contains(required) && stays.insert(required.clone()) {
                open.push(required.clone());
            }
        }
    }
    stays
}

/// Who among `stays` requires a package.
#[must_use]
pub fn required_by<'a>(scan: &'a Scan, stays: &std::collections::BTreeSet<String>, name: &str) -> Vec<&'a str> {
    scan.dists
        .values()
        .filter(|d| stays.contains(&d.name) && d.requires.iter().any(|r| r == name))
        .map(|d| d.name.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::find_interpreter;
    use super::super::testing::{dist, env, folder, venv, write};
    use super::*;

    #[test]
    fn classes_tools_and_notes() {
        let dir = folder();
        let packages = venv(dir.path());
        let direct = |t: &str| t.to_owned();
        dist(&packages, "dask", "2026.8.0", &[]);
        dist(&packages, "pip", "24.0", &[]);
        dist(&packages, "setuptools", "70.0", &[]);
        dist(&packages, "herdsman", "0.1.0", &[]);
        dist(&packages, "gdal", "3.8", &[("INSTALLER", "conda\n")]);
        let editable = direct(r#"{"url":"file:///src/mine","dir_info":{"editable":true}}"#);
        dist(&packages, "mine", "0.1", &[("direct_url.json", &editable)]);
        write(
            packages.join("old_thing-1.0.dist-info/METADATA"),
            "Name: old-thing\nVersion: 1.0\nRequires-Dist: setuptools\n",
        );
        write(packages.join("broken-1.dist-info/METADATA"), "nothing");
        write(
            packages.join("extra.pth"),
            &format!("import os\n{}\n", dir.path().display()),
        );
        let python = find_interpreter(dir.path(), &env(&[("VIRTUAL_ENV", dir.path())]), None).unwrap();
        let found = scan(&python);
        let class = |n: &str| found.dists[n].class.to_string();
        assert_eq!(class("dask"), "index");
        assert_eq!(class("gdal"), "conda");
        assert_eq!(found.dists["mine"].class, Class::Editable("/src/mine".into()));
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        let stays = kept(&found, &[], &["GDAL".into()]);
        assert_eq!(
            stays.iter().map(String::as_str).collect::<Vec<_>>(),
            ["dask", "mine", "old-thing", "setuptools"]
        );
        assert_eq!(required_by(&found, &stays, "setuptools"), ["old-thing"]);
        assert!(kept(&found, &["pip".into()], &[]).contains("pip"));
    }
}
