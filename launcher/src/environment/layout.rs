//! What files beside an interpreter tell about it, without starting it.

use std::path::{Path, PathBuf};

use super::interpreter::{Kind, Variables};

/// What an installation's files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) prefix: PathBuf,
    pub(super) version: String,
    pub(super) implementation: String,
    pub(super) free_threaded: bool,
    pub(super) kind: Kind,
    pub(super) packages: Vec<PathBuf>,
}

/// Major and minor of a version's text.
pub(super) fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The interpreter of an environment's folder.
pub(super) fn executable_in(folder: &Path) -> Option<PathBuf> {
    ["bin/python", "bin/python3", "Scripts/python.exe", "python.exe"]
        .iter()
        .map(|p| folder.join(p))
        .find(|p| p.is_file())
}

/// Reads the layout, or `None` where only the interpreter itself knows.
pub(super) fn read(executable: &Path, env: &Variables) -> Option<Layout> {
    match venv_of(executable) {
        Some((prefix, cfg)) => read_venv(prefix, &cfg, env),
        None => read_base(executable, env),
    }
}

/// The virtual environment of an executable. As Python does it: by the path as
/// it was given, one folder up or beside it, without following a link first.
fn venv_of(executable: &Path) -> Option<(PathBuf, String)> {
    let bin = executable.parent()?;
    [bin.parent()?, bin]
        .iter()
        .find_map(|p| Some((p.to_path_buf(), fs_err::read_to_string(p.join("pyvenv.cfg")).ok()?)))
}

fn read_venv(prefix: PathBuf, cfg: &str, env: &Variables) -> Option<Layout> {
    let value = |wanted: &str| {
        cfg.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            key.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    if value("include-system-site-packages").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return None;
    }
    // `version_info` by uv (3.12.4) and virtualenv (3.12.4.final.0), `version` by venv.
    let told = value("version_info").or_else(|| value("version"))?;
    let version: String = told.split('.').take(3).collect::<Vec<_>>().join(".");
    let (libraries, free_threaded) = libraries(&prefix, minor(&version)?)?;
    let implementation = value("implementation").map_or_else(|| "cpython".to_owned(), |v| v.to_ascii_lowercase());
    let mut packages = python_path(env);
    packages.extend(libraries);
    Some(Layout {
        prefix,
        version,
        implementation,
        free_threaded,
        kind: Kind::Virtual,
        packages,
    })
}

fn read_base(executable: &Path, env: &Variables) -> Option<Layout> {
    let real = fs_err::canonicalize(executable).ok()?;
    if is_script(&real) {
        return None;
    }
    let prefix = real.parent()?.parent()?.to_owned();
    // Debian keeps packages in folders of its own, which only its Python knows.
    if prefix.join("lib/python3/dist-packages").is_dir() {
        return None;
    }
    let (major, minor_number) = minor(real.file_name()?.to_str()?.strip_prefix("python")?)?;
    let (libraries, free_threaded) = libraries(&prefix, (major, minor_number))?;
    if !libraries.first()?.parent()?.join("os.py").is_file() {
        return None;
    }
    let conda = prefix.join("conda-meta");
    let (kind, version) = if conda.is_dir() {
        (Kind::Conda, conda_version(&conda)?)
    } else {
        (Kind::Base, header_version(&prefix, (major, minor_number))?)
    };
    let mut packages = python_path(env);
    packages.extend(user_packages(env, (major, minor_number)));
    packages.extend(libraries);
    Some(Layout {
        prefix,
        version,
        implementation: "cpython".to_owned(),
        free_threaded,
        kind,
        packages,
    })
}

/// The `site-packages` of a prefix, and whether they are those of a build
/// without the lock. `None` unless exactly the expected version is there.
fn libraries(prefix: &Path, (major, minor): (u32, u32)) -> Option<(Vec<PathBuf>, bool)> {
    let windows = prefix.join("Lib/site-packages");
    if cfg!(windows) && windows.is_dir() {
        return Some((vec![windows], false));
    }
    let plain = format!("python{major}.{minor}");
    let threaded = format!("{plain}t");
    let folder = |lib: &str, name: &str| Some(prefix.join(lib).join(name).join("site-packages")).filter(|p| p.is_dir());
    let (name, free_threaded) = match (folder("lib", &plain), folder("lib", &threaded)) {
        (Some(_), None) => (plain, false),
        (None, Some(_)) => (threaded, true),
        _ => return None,
    };
    let mut found = vec![folder("lib", &name)?];
    // Fedora keeps compiled packages in lib64; elsewhere it is a link to lib.
    if let Some(other) = folder("lib64", &name)
        && other.canonicalize().ok() != found[0].canonicalize().ok()
    {
        found.push(other);
    }
    Some((found, free_threaded))
}

fn conda_version(meta: &Path) -> Option<String> {
    fs_err::read_dir(meta).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (version, _build) = name.strip_prefix("python-")?.strip_suffix(".json")?.rsplit_once('-')?;
        minor(version).map(|_| version.to_owned())
    })
}

fn header_version(prefix: &Path, (major, minor): (u32, u32)) -> Option<String> {
    let header = prefix.join(format!("include/python{major}.{minor}/patchlevel.h"));
    let text = fs_err::read_to_string(header).ok()?;
    let line = text.lines().find(|l| l.contains("define PY_VERSION "))?;
    let version = line.split('"').nth(1)?.trim_end_matches('+');
    (self::minor(version)? == (major, minor)).then(|| version.to_owned())
}

fn python_path(env: &Variables) -> Vec<PathBuf> {
    env.get("PYTHONPATH").map_or_else(Vec::new, |value| {
        std::env::split_paths(value)
            .filter(|p| p.is_absolute() && p.is_dir())
            .collect()
    })
}

fn user_packages(env: &Variables, (major, minor): (u32, u32)) -> Option<PathBuf> {
    if env.get("PYTHONNOUSERSITE").is_some_and(|v| !v.is_empty()) {
        return None;
    }
    let base = match (env.get("PYTHONUSERBASE"), env.get("HOME")) {
        (Some(base), _) => PathBuf::from(base),
        (None, Some(home)) => Path::new(home).join(".local"),
        _ => return None,
    };
    Some(base.join(format!("lib/python{major}.{minor}/site-packages"))).filter(|p| p.is_dir())
}

/// Whether a file starts with `#!`.
pub(super) fn is_script(file: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 2];
    fs_err::File::open(file).is_ok_and(|mut f| f.read_exact(&mut head).is_ok()) && &head == b"#!"
}
