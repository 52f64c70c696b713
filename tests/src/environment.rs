//! A laptop with an environment of its own: dask and what it needs from an index
//! of the tests' own, so that no test asks the public one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::home::{Home, Ran, python};
use crate::index::Index;

/// The index of this run of the program.
static OPEN: Mutex<Option<Index>> = Mutex::new(None);

/// A build backend without any requirement, for packages that are installed in
/// place.
const BACKEND: &str = r#"
import os, zipfile
def _wheel(folder, files):
    name = "mine-0.3-py3-none-any.whl"
    info = "mine-0.3.dist-info"
    files = dict(files)
    files[info + "/METADATA"] = "Metadata-Version: 2.1\nName: mine\nVersion: 0.3\n"
    files[info + "/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[info + "/RECORD"] = "".join(f + ",,\n" for f in files) + info + "/RECORD,,\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        for path, text in files.items():
            z.writestr(path, text)
    return name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder, {"mine/__init__.py": open("src/mine/__init__.py").read()})
def build_editable(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder, {"mine.pth": os.path.abspath("src") + "\n"})
"#;

/// A laptop.
#[derive(Debug)]
pub struct Laptop {
    /// Its home.
    pub home: Home,
    /// The project's folder, where commands run.
    pub project: PathBuf,
    /// The index that its variables name.
    pub index: Index,
    uv: PathBuf,
    cache: PathBuf,
}

/// uv: named, on the path, or beside the tests' Python.
///
/// # Errors
/// With what to install.
pub fn uv() -> Result<PathBuf> {
    let named = std::env::var_os("HERDSMAN_UV").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(python()?.parent().map(Path::to_owned));
    named
        .into_iter()
        .chain(folders.map(|d| d.join("uv")))
        .find(|p| p.is_file())
        .context("uv is missing: install it beside the tests' Python, or set HERDSMAN_UV")
}

/// Wheels by the script beside this file: see there.
fn wheels(ask: &Value) -> Result<()> {
    let mut child = Command::new(python()?)
        .args(["-c", include_str!("wheels.py")])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no stdin")?;
    input.write_all(ask.to_string().as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "the wheels could not be made");
    Ok(())
}

/// A wheel with one module of one line, in `folder`.
///
/// # Errors
/// When Python fails.
pub fn make_wheel(folder: &Path, name: &str, version: &str, line: &str) -> Result<()> {
    let files = json!({format!("{name}.py"): format!("{line}\n")});
    wheels(&json!({"out": folder, "make": [{"name": name, "version": version, "files": files}]}))
}

/// Writes a file and the folders that it needs.
///
/// # Errors
/// As the file system says.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    Ok(std::fs::write(path, text)?)
}

impl Laptop {
    /// A fresh one with dask and distributed. `scratch` outlives the run and
    /// keeps wheels and uv's cache.
    ///
    /// # Errors
    /// When uv, Python or dask are missing.
    pub fn new(scratch: &Path) -> Result<Self> {
        let home = Home::new()?;
        let index = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            match &*open {
                Some(index) => index.clone(),
                None => {
                    let folder = scratch.join("wheels");
                    wheels(&json!({"out": folder, "repack": ["dask", "distributed"]}))?;
                    open.insert(Index::serve(&folder, None)?).clone()
                }
            }
        };
        let laptop = Self {
            project: home.path().join("project"),
            uv: uv()?,
            cache: scratch.join("uv"),
            index,
            home,
        };
        std::fs::create_dir_all(&laptop.project)?;
        laptop.venv("venv")?;
        laptop.install(&["dask", "distributed"])?;
        Ok(laptop)
    }

    fn uv(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.uv);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", "/usr/bin:/bin")
            .env("UV_CACHE_DIR", &self.cache)
            .env("UV_NO_CONFIG", "1")
            .env("UV_DEFAULT_INDEX", &self.index.url)
            .current_dir(&self.project);
        command
    }

    /// Makes an empty environment in the home; gives its interpreter.
    ///
    /// # Errors
    /// As uv says.
    pub fn venv(&self, name: &str) -> Result<PathBuf> {
        let folder = self.home.path().join(name);
        let out = self
            .uv(&["venv", "-q", "--no-project", "--no-python-downloads", "--python"])
            .arg(self.home.python())
            .arg(&folder)
            .output()?;
        ensure!(
            out.status.success(),
            "uv venv: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(folder.join("bin/python"))
    }

    /// Installs into the laptop's environment.
    ///
    /// # Errors
    /// As uv says.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        self.install_from(packages, &[])
    }

    /// [`Laptop::install`] with further variables of uv's.
    ///
    /// # Errors
    /// As uv says.
    pub fn install_from(&self, packages: &[&str], variables: &[(&str, &str)]) -> Result<()> {
        let out = self
            .uv(&["pip", "install", "-q", "--python"])
            .arg(self.python())
            .args(packages)
            .envs(variables.iter().copied())
            .output()?;
        ensure!(out.status.success(), "uv pip: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// The laptop's interpreter.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.home.path().join("venv/bin/python")
    }

    /// A package `mine` that is installed in place: its `answer()` is `value`.
    ///
    /// # Errors
    /// As uv says.
    pub fn install_editable(&self, value: &str) -> Result<()> {
        let folder = self.home.path().join("mine");
        write(
            &folder.join("pyproject.toml"),
            "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"mine\"\nversion = \"0.3\"\n",
        )?;
        write(&folder.join("backend.py"), BACKEND)?;
        write(
            &folder.join("src/mine/__init__.py"),
            &format!("def answer():\n    return {value}\n"),
        )?;
        self.install(&["-e", &folder.to_string_lossy()])
    }

    /// A `herdsman` command in the project's folder, with this environment.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.home.command(args)?;
        command
            .env("HERDSMAN_PYTHON", self.python())
            .env("HERDSMAN_UV", &self.uv)
            .env("UV_CACHE_DIR", &self.cache)
            .env("UV_DEFAULT_INDEX", &self.index.url)
            .current_dir(&self.project);
        Ok(command)
    }

    /// Runs `herdsman` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    /// Runs `herdsman` and wants success.
    ///
    /// # Errors
    /// With all its output when it failed.
    pub fn ok(&self, args: &[&str]) -> Result<Ran> {
        wants(self.command(args)?)
    }

    /// As [`Laptop::ok`] with `-o json`.
    ///
    /// # Errors
    /// When it failed or printed no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let ran = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&ran.out).with_context(|| ran.out.clone())
    }

    /// Runs a Python program of the laptop's environment, in the project's
    /// folder, with the cluster's variables; gives what it printed.
    ///
    /// # Errors
    /// When it failed, with its output.
    pub fn compute(&self, cluster: &str, program: &str) -> Result<String> {
        let variables = self.json(&["env", cluster])?;
        let mut command = Command::new(self.python());
        command.args(["-c", program]).env_clear().current_dir(&self.project);
        command.env("HOME", self.home.path());
        for (name, value) in variables.as_object().context("`env` gives no object")? {
            command.env(name, value.as_str().unwrap_or_default());
        }
        Ok(wants(command)?.out)
    }

    /// Folder of environments that all nodes of this home share.
    #[must_use]
    pub fn environments(&self) -> PathBuf {
        self.home.path().join("s/local/environments")
    }

    /// Nothing is left but environments, which stay for the next cluster.
    ///
    /// # Errors
    /// With what is left.
    pub fn assert_clean(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.environments()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(
                !name.ends_with(".partial") && !name.starts_with("fetch-"),
                "{name} is left"
            );
        }
        match std::fs::remove_dir_all(self.environments()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.home.assert_clean()
    }
}

/// Runs a command and wants success.
///
/// # Errors
/// With all its output when it failed.
pub fn wants(mut command: Command) -> Result<Ran> {
    let ran: Ran = command.output()?.into();
    ensure!(
        ran.code == 0,
        "{command:?} ended with {}\n{}\n{}",
        ran.code,
        ran.out,
        ran.err
    );
    Ok(ran)
}
