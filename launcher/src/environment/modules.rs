//! Code beside the notebook: modules of the project's folder that are no
//! installed package. They travel as one wheel that puts them before all other
//! packages, where the laptop's Python has them too.

use std::path::{Path, PathBuf};

use super::archive::{Files, pack, wheel_file};
use super::error::Error;
use super::ignore::Rules;
use super::interpreter::Variables;

/// Most bytes of loose modules: code is small, and what is larger is data that
/// slipped in.
pub const MAX_BYTES: u64 = 20 * 1024 * 1024;
/// Most files of loose modules.
pub const MAX_FILES: usize = 5000;
/// Most entries that are looked at before we give up.
const MAX_LOOKS: usize = 200_000;

/// The distribution's name on the nodes.
const NAME: &str = "herdsman_project";

/// What was collected.
#[derive(Debug, Default)]
pub(super) struct Modules {
    pub(super) files: Files,
    pub(super) bytes: u64,
    pub(super) notes: Vec<String>,
}

/// The project's folder: the nearest above `cwd`, and below the home folder,
/// with `herdsman.toml`, `pyproject.toml` or `.git`; else `cwd` itself. `None` in
/// the home folder and above it: these are no projects.
#[must_use]
pub fn project_of(cwd: &Path, env: &Variables) -> Option<PathBuf> {
    let home = env.get("HOME").map(PathBuf::from);
    let too_high = |p: &Path| p.parent().is_none() || home.as_ref().is_some_and(|h| h.starts_with(p));
    if too_high(cwd) {
        return None;
    }
    cwd.ancestors()
        .take_while(|p| !too_high(p))
        .find(|p| {
            ["herdsman.toml", "pyproject.toml", ".git"]
                .iter()
                .any(|f| p.join(f).exists())
        })
        .or(Some(cwd))
        .map(Path::to_owned)
}

/// Collects `*.py` everywhere in the project and all files of its packages
/// (folders with `__init__.py`), and whatever `include` names.
pub(super) fn collect(project: Option<&Path>, include: &[PathBuf]) -> Result<Modules, Error> {
    let mut found = Modules::default();
    let mut looks = 0;
    if let Some(project) = project {
        let mut rules = Rules::default();
        rules.read(project, "");
        let sub = Walk {
            root: project,
            all: false,
            explicit: false,
        };
        walk(&sub, project, "", &rules, &mut found, &mut looks)?;
    }
    for path in include {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            let mut rules = Rules::default();
            rules.read(path, "");
            let sub = Walk {
                root: path,
                all: true,
                explicit: true,
            };
            walk(&sub, path, &format!("{name}/"), &rules, &mut found, &mut looks)?;
        } else {
            if is_secret(&name) {
                return Err(secret(path));
            }
            add(&mut found, name, path)?;
        }
    }
    Ok(found)
}

struct Walk<'a> {
    root: &'a Path,
    /// Take every file, not code only.
    all: bool,
    /// The user named it: a secret in it is an error, not a note.
    explicit: bool,
}

fn walk(
    this: &Walk<'_>,
    folder: &Path,
    base: &str,
    rules: &Rules,
    found: &mut Modules,
    looks: &mut usize,
) -> Result<(), Error> {
    let mut entries: Vec<PathBuf> = match fs_err::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        // A folder of somebody else's is nothing that Python could import.
        Err(_) => return Ok(()),
    };
    entries.sort();
    *looks += entries.len();
    if *looks > MAX_LOOKS {
        return Err(too_large(format!(
            "{} holds more than {MAX_LOOKS} files",
            this.root.display()
        )));
    }
    for path in entries {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        // Links lead out of the project; what they name is not part of it.
        let Ok(kind) = fs_err::symlink_metadata(&path) else {
            continue;
        };
        let inside = format!("{base}{name}");
        if skipped(name) || kind.is_symlink() || rules.ignores(&inside, kind.is_dir()) {
            continue;
        }
        if kind.is_dir() {
            if path.join("pyvenv.cfg").is_file() || path.join("conda-meta").is_dir() {
                continue;
            }
            let mut below = rules.clone();
            below.read(&path, &format!("{inside}/"));
            let sub = Walk {
                all: this.all || path.join("__init__.py").is_file(),
                ..*this
            };
            walk(&sub, &path, &format!("{inside}/"), &below, found, looks)?;
        } else if kind.is_file() && (this.all || name.ends_with(".py")) {
            if is_secret(name) {
                if this.explicit {
                    return Err(secret(&path));
                }
                found.notes.push(format!("{inside} looks like a secret and stays here"));
                continue;
            }
            add(found, inside, &path)?;
        }
    }
    Ok(())
}

fn add(found: &mut Modules, inside: String, path: &Path) -> Result<(), Error> {
    let size = fs_err::metadata(path).map_err(Error::io(path))?.len();
    found.bytes += size;
    if found.bytes > MAX_BYTES || found.files.len() >= MAX_FILES {
        return Err(too_large(format!(
            "the project's code has more than {} MB or {MAX_FILES} files; {inside} did not fit any more",
            MAX_BYTES / 1024 / 1024
        )));
    }
    let content = fs_err::read(path).map_err(Error::io(path))?;
    found.files.insert(inside, content);
    Ok(())
}

fn too_large(what: String) -> Error {
    Error::refused(
        what,
        [
            "name data and other large folders in .herdsmanignore".to_owned(),
            "or run from the folder of the code itself".to_owned(),
            "or make the code a package and install it: pip install -e .".to_owned(),
        ],
    )
}

fn secret(path: &Path) -> Error {
    Error::refused(
        format!("{} looks like a secret and is not copied", path.display()),
        ["name secrets in `env.secrets`: they travel apart from code".to_owned()],
    )
}

/// Folders and files that hold no code of the project.
fn skipped(name: &str) -> bool {
    let folders = [
        "__pycache__",
        "node_modules",
        "build",
        "dist",
        "site-packages",
        "venv",
        "env",
    ];
    (name.starts_with('.') && !is_secret(name))
        || folders.contains(&name)
        || [".egg-info", ".dist-info", ".pyc", ".pyo"]
            .iter()
            .any(|s| name.ends_with(s))
}

/// Names that often hold secrets. `secrets.py` and the like are code: a module
/// that the program imports must travel.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name.ends_with(".py") {
        return false;
    }
    let stem = name.split('.').find(|p| !p.is_empty()).unwrap_or_default();
    name == ".env"
        || name.starts_with(".env.")
        || [".netrc", "_netrc", ".pypirc", ".pgpass", ".htpasswd"].contains(&name.as_str())
        || [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk"]
            .iter()
            .any(|s| name.ends_with(s))
        || [
            "id_rsa",
            "id_dsa",
            "id_ecdsa",
            "id_ed25519",
            "credentials",
            "credential",
            "secrets",
            "secret",
        ]
        .contains(&stem)
        || name.starts_with("service-account")
        || name.starts_with("service_account")
}

/// The wheel of collected modules; `None` where there are none.
pub(super) fn wheel(modules: &Modules) -> Option<(String, Vec<u8>)> {
    if modules.files.is_empty() {
        return None;
    }
    let info = format!("{NAME}-0.dist-info");
    let mut files: Files = modules
        .files
        .iter()
        .map(|(path, content)| (format!("_{NAME}/{path}"), content.clone()))
        .collect();
    // The folder goes to the front of the path when Python starts: on the laptop
    // too, the project's modules are found before installed packages.
    files.insert(format!("{NAME}.pth"), format!("import _{NAME}_path\n").into_bytes());
    files.insert(
        format!("_{NAME}_path.py"),
        format!("import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), \"_{NAME}\"))\n").into_bytes(),
    );
    files.insert(
        format!("{info}/METADATA"),
        b"Metadata-Version: 2.1\nName: herdsman-project\nVersion: 0\n".to_vec(),
    );
    files.insert(format!("{info}/WHEEL"), wheel_file(true, &["py3-none-any".to_owned()]));
    Some((format!("{NAME}-0-py3-none-any.whl"), pack(files, &info)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{env, folder, write};
    use super::*;

    #[test]
    fn code_travels_and_the_rest_stays() {
        let dir = folder();
        let at = |p: &str| dir.path().join(p);
        for file in [
            "main.py",
            "pkg/__init__.py",
            "pkg/table.json",
            "pkg/.env",
            "pkg/server.pem",
            "scripts/x.py",
            "scripts/data.csv",
            "ignored/y.py",
            ".git/hook.py",
            "venvish/pyvenv.cfg",
            "venvish/lib/z.py",
            "__pycache__/main.py",
            "pkg/big.bin",
            "secrets.py",
        ] {
            write(at(file), "x");
        }
        write(at(".gitignore"), "ignored/\n");
        write(at("pkg/.herdsmanignore"), "*.bin\n");
        std::os::unix::fs::symlink("/etc/passwd", at("link.py")).unwrap();
        let found = collect(Some(dir.path()), &[]).unwrap();
        assert_eq!(
            found.files.keys().map(String::as_str).collect::<Vec<_>>(),
            [
                "main.py",
                "pkg/__init__.py",
                "pkg/table.json",
                "scripts/x.py",
                "secrets.py"
            ]
        );
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        let first = wheel(&found).unwrap();
        assert_eq!(first, wheel(&collect(Some(dir.path()), &[]).unwrap()).unwrap());
        assert!(wheel(&Modules::default()).is_none());
    }

    #[test]
    fn included_secrets_and_too_much_are_refused() {
        let dir = folder();
        let key = write(dir.path().join("a.pem"), "x");
        assert!(collect(None, &[key]).unwrap_err().to_string().contains("secret"));
        let big = dir.path().join("big.py");
        std::fs::File::create(&big).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(
            collect(Some(dir.path()), &[])
                .unwrap_err()
                .to_string()
                .contains("20 MB")
        );
    }

    #[test]
    fn the_home_folder_is_no_project() {
        let dir = folder();
        let home = dir.path().join("home");
        let work = home.join("work/sub");
        std::fs::create_dir_all(&work).unwrap();
        let env = env(&[("HOME", &home)]);
        assert_eq!(project_of(&home, &env), None);
        assert_eq!(project_of(dir.path(), &env), None);
        assert_eq!(project_of(&work, &env), Some(work.clone()));
        write(home.join("work/pyproject.toml"), "");
        assert_eq!(project_of(&work, &env), Some(home.join("work")));
        // A repository of dotfiles makes no project of the home folder.
        std::fs::create_dir_all(home.join(".git")).unwrap();
        std::fs::create_dir_all(home.join("x")).unwrap();
        assert_eq!(project_of(&home.join("x"), &env), Some(home.join("x")));
    }
}
