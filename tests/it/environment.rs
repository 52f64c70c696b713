//! The laptop's environment on the nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_tests::environment::{Laptop, make_wheel, wants, write};
use herdsman_tests::home::Ran;
use herdsman_tests::index::Index;

fn laptop() -> Result<Laptop> {
    Laptop::new(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// Each worker's Python and what it says about code of the laptop's.
const WHERE: &str = "
import helpers, mine
from dask.distributed import Client
c = Client()
def where():
    import sys, helpers, mine
    return sys.prefix, helpers.__file__, mine.__file__
print(c.submit(helpers.plus, 1).result(), c.submit(mine.answer).result())
for prefix, *files in c.run(where).values():
    print(prefix)
    assert all(f.startswith(prefix) for f in files), files
";

#[test]
fn loose_modules_and_packages_in_place_arrive_and_a_second_cluster_installs_nothing() -> Result<()> {
    let laptop = laptop()?;
    laptop.install_editable("42")?;
    write(&laptop.project.join("helpers.py"), "def plus(x):\n    return x + 1\n")?;
    let shown = laptop.json(&["pkg", "show"])?;
    let row = |name: &str| {
        let rows = shown["packages"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|r| r["name"] == name).unwrap_or_default()
    };
    ensure!(
        row("dask")["action"] == "exact" && row("tornado")["from"] == "index",
        "{shown}"
    );
    ensure!(
        row("mine")["action"] == "packed" && row("mine")["from"] == "editable",
        "{shown}"
    );
    ensure!(row("herdsman-project")["from"] == "project", "{shown}");

    // Network namespaces where we are root: the nodes cannot reach the index.
    let up = laptop.ok(&["up", "demo", "--workers", "2", "--env", "copy"])?;
    ensure!(
        up.err.contains("2 local: ") && up.err.contains("mine (editable)"),
        "{up:?}"
    );
    let id = shown["id"].as_str().context("id")?;
    let made = laptop.environments().join(id);
    let out = laptop.compute("demo", WHERE)?;
    let prefix = made.join("venv").display().to_string();
    ensure!(out == format!("2 42\n{prefix}\n{prefix}\n"), "{out}");
    ensure!(laptop.json(&["status", "demo"])?["status"]["environment"] == id);

    // A cluster that is up keeps its environment, and says what differs.
    let same = laptop.ok(&["up", "demo", "--workers", "2", "--env", "copy"])?;
    ensure!(!same.err.contains("changed"), "{same:?}");
    write(&laptop.project.join("helpers.py"), "def plus(x):\n    return x + 2\n")?;
    let other = laptop.ok(&["up", "demo", "--workers", "2", "--env", "copy"])?;
    ensure!(
        other.err.contains("the environment has changed") && other.err.contains("herdsman-project"),
        "{other:?}"
    );
    let old = laptop.venv("old")?;
    let lib = std::fs::read_dir(laptop.home.path().join("old/lib"))?
        .next()
        .context("lib")??;
    for name in ["dask", "distributed"] {
        let info = lib
            .path()
            .join(format!("site-packages/{name}-1.2.3.dist-info/METADATA"));
        write(&info, &format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n"))?;
    }
    let refused = laptop.run(&["up", "demo", "--workers", "2", "--python", &old.to_string_lossy()])?;
    ensure!(
        refused.code != 0 && refused.err.contains("error[E-MISMATCH]") && refused.err.contains("dask: 1.2.3 here, "),
        "{refused:?}"
    );
    laptop.ok(&["down", "demo"])?;

    // Back to the first environment: everything is there.
    write(&laptop.project.join("helpers.py"), "def plus(x):\n    return x + 1\n")?;
    let stamp = |file: &str| -> Result<_> { Ok(std::fs::metadata(made.join(file))?.modified()?) };
    let before = stamp("herdsman.json")?;
    let again = laptop.ok(&["up", "demo", "--workers", "2", "--env", "copy"])?;
    ensure!(!again.err.contains("fetching"), "{again:?}");
    let logs = laptop.ok(&["logs", "demo"])?.out;
    ensure!(!logs.contains("environment: installing"), "{logs}");
    ensure!(stamp("herdsman.json")? == before);
    ensure!(laptop.compute("demo", WHERE)?.starts_with("2 42\n"));
    laptop.ok(&["down", "demo"])?;
    laptop.assert_clean()
}

const PASSWORD: &str = "s3cr3t-0f-the-index";

/// Looks at all command lines for the password, as fast as it can.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Option<String>>,
}

impl Watch {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    if contains(&line, PASSWORD) {
                        return Some(String::from_utf8_lossy(&line).replace('\0', " "));
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            None
        });
        Self { stop, thread }
    }

    fn nothing_seen(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let seen = self.thread.join().unwrap_or_else(|_| Some("the watch failed".into()));
        ensure!(seen.is_none(), "on a command line: {seen:?}");
        Ok(())
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Files below a folder that hold the password.
fn files_with_password(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_with_password(&path, found),
            Ok(kind) if kind.is_file() && contains(&std::fs::read(&path).unwrap_or_default(), PASSWORD) => {
                found.push(path);
            }
            _ => {}
        }
    }
}

#[test]
fn passwords_of_a_private_index_reach_the_nodes_and_no_disk() -> Result<()> {
    let laptop = laptop()?;
    let folder = laptop.home.path().join("private");
    make_wheel(&folder, "ownpkg", "1.4", "VALUE = 'from the private index'")?;
    // user:password in base 64.
    let index = Index::serve(&folder, Some("Basic dXNlcjpzM2NyM3QtMGYtdGhlLWluZGV4"))?;
    let named = format!("priv={}", index.url);
    let access = [
        ("UV_INDEX", named.as_str()),
        ("UV_INDEX_PRIV_USERNAME", "user"),
        ("UV_INDEX_PRIV_PASSWORD", PASSWORD),
    ];
    laptop.install_from(&["ownpkg"], &access)?;
    let mut without = laptop.command(&["up", "demo", "--workers", "1", "--env", "copy"])?;
    let refused: Ran = without.env("UV_INDEX", &named).output()?.into();
    ensure!(
        refused.code != 0 && refused.err.contains("error[E-ENV]") && refused.err.contains("netrc"),
        "{refused:?}"
    );
    laptop.home.assert_clean()?;

    // As in a cloud: the nodes themselves ask the index.
    let watch = Watch::start();
    let mut up = laptop.command(&[
        "-v",
        "up",
        "demo",
        "--workers",
        "2",
        "--env",
        "copy",
        "--local-network",
        "loopback",
    ])?;
    up.envs(access).env("HERDSMAN_TEST_ONLINE", "1");
    let served = index.served();
    let up = wants(up)?;
    ensure!(index.served() > served);
    let out = laptop.compute(
        "demo",
        "from dask.distributed import Client\ndef get():\n    import ownpkg\n    return ownpkg.VALUE\nprint(Client().submit(get).result())",
    )?;
    ensure!(out.trim() == "from the private index", "{out}");
    laptop.ok(&["scale", "demo", "3"])?;
    // A second `up` brings the passwords again, for a hub that started anew.
    let mut again = laptop.command(&["up", "demo", "--workers", "3", "--env", "copy"])?;
    again.envs(access).env("HERDSMAN_TEST_ONLINE", "1");
    wants(again)?;
    let logs = laptop.ok(&["logs", "demo"])?;
    watch.nothing_seen()?;
    for said in [&up.out, &up.err, &logs.out, &logs.err] {
        ensure!(!said.contains(PASSWORD), "{said}");
    }
    let mut found = Vec::new();
    files_with_password(laptop.home.path(), &mut found);
    files_with_password(Path::new("/run/herdsman-local"), &mut found);
    files_with_password(Path::new("/dev/shm"), &mut found);
    ensure!(found.is_empty(), "the password is in {found:?}");
    laptop.ok(&["down", "demo"])?;

    // netrc does as well.
    let host = "machine 127.0.0.1 login user password ";
    write(&laptop.home.path().join(".netrc"), &format!("{host}{PASSWORD}\n"))?;
    let mut show = laptop.command(&["pkg", "show", "-o", "json"])?;
    show.env("UV_INDEX", &named);
    let shown = wants(show)?;
    ensure!(
        shown.out.contains("ownpkg") && !shown.out.contains(PASSWORD),
        "{shown:?}"
    );
    laptop.assert_clean()
}

#[test]
fn lock_files_are_written_read_and_refused() -> Result<()> {
    let laptop = laptop()?;
    let lock = laptop.project.join("nodes.lock");
    let at = lock.to_string_lossy().into_owned();
    let written = laptop.json(&["pkg", "lock", "--to", &at])?;
    let count = written["packages"].as_u64().context("packages")?;
    let text = std::fs::read_to_string(&lock)?;
    ensure!(
        text.matches("==").count() as u64 == count && text.contains("--hash=sha256:"),
        "{text}"
    );
    ensure!(laptop.ok(&["pkg", "lock"])?.out == text);
    let planned = laptop.run(&["up", "demo", "--plan", "--env", &format!("lock:{at}")])?;
    ensure!(
        planned.code == 10 && planned.out.contains(&format!("{count} packages")),
        "{planned:?}"
    );

    let why = laptop.json(&["pkg", "why", "Tornado"])?;
    ensure!(why["goes"] == true && why["needed_by"][0] == "distributed", "{why}");
    let nothing = laptop.run(&["pkg", "why", "no-such-package"])?;
    ensure!(
        nothing.code == 3 && nothing.err.contains("not installed"),
        "{nothing:?}"
    );

    let dask = text.lines().find(|l| l.starts_with("dask==")).context("dask")?;
    let cases = [
        ("old.lock", text.replace(dask, "dask==2020.1.0 \\"), "dask: 20"),
        ("bare.lock", "dask==1\n".to_owned(), "hash"),
        ("poetry.lock", "x".to_owned(), "not read"),
        (
            "lock.toml",
            "lock-version = \"1.0\"\nrequires-python = \"<3\"\n".to_owned(),
            "Python",
        ),
    ];
    for (name, content, word) in cases {
        let path = laptop.project.join(name);
        write(&path, &content)?;
        let ran = laptop.run(&["up", "demo", "--env", &format!("lock:{}", path.display())])?;
        ensure!(ran.code != 0 && ran.err.contains(word), "{name}: {ran:?}");
        laptop.home.assert_clean()?;
    }

    // The same as pylock.toml, on loopback addresses, for real.
    let mut pylock = "lock-version = \"1.0\"\ncreated-by = \"tests\"\n".to_owned();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some((name, version)) = line.trim_end_matches([' ', '\\']).split_once("==") {
            pylock += &format!("[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        } else if let Some((_, hash)) = line.trim_end_matches([' ', '\\']).split_once("sha256:") {
            pylock += &format!("[[packages.wheels]]\nurl = \"x\"\nhashes = {{ sha256 = \"{hash}\" }}\n");
        }
    }
    write(&laptop.project.join("pylock.toml"), &pylock)?;
    let env = "lock:pylock.toml";
    laptop.ok(&[
        "up",
        "demo",
        "--workers",
        "1",
        "--env",
        env,
        "--local-network",
        "loopback",
    ])?;
    let out = laptop.compute(
        "demo",
        "from dask.distributed import Client\nimport sys\nprint(Client().submit(lambda: sys.prefix).result())",
    )?;
    ensure!(Path::new(out.trim()).starts_with(laptop.environments()), "{out}");
    laptop.ok(&["down", "demo"])?;
    laptop.assert_clean()
}

/// Against the public index, where that is wanted: `HERDSMAN_TEST_INDEX=1`.
#[test]
fn the_public_index_serves_what_is_installed() -> Result<()> {
    if std::env::var_os("HERDSMAN_TEST_INDEX").is_none_or(|v| v != "1") {
        return Ok(());
    }
    let laptop = laptop()?;
    let mut up = laptop.command(&["up", "demo", "--workers", "1", "--env", "copy"])?;
    up.env_remove("UV_DEFAULT_INDEX");
    for name in ["SSL_CERT_FILE", "HTTPS_PROXY", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"] {
        if let Some(value) = std::env::var_os(name) {
            up.env(name, value);
        }
    }
    wants(up)?;
    let out = laptop.compute(
        "demo",
        "from dask.distributed import Client; print(Client().submit(abs, -7).result())",
    )?;
    ensure!(out.trim() == "7", "{out}");
    laptop.ok(&["down", "demo"])?;
    laptop.assert_clean()
}
