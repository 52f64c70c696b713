//! The script of user-data, run by the shells that clouds' images have, with the
//! folders of a machine that are its own, against servers that behave and that
//! do not. The agent is a stand-in here: what matters is whether it is run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use herdsman::bootstrap::{Arch, Download, Parts, UserDataForm, user_data};
use herdsman_tests::mirror::{Manner, Mirror};
use herdsman_wire::Secret;

/// Stands for the agent: writes down how it was called.
const AGENT: &str = "#!/bin/sh\necho \"ran $*\" >>/var/lib/herdsman/ran\n# more than one packet holds\n";
const JOIN: &str = r#"{"version":1,"text":"with $HOME, `id` and 'quotes'"}"#;
/// What the script needs besides a shell and a way to download.
const TOOLS: [&str; 13] = [
    "cat",
    "chmod",
    "id",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sleep",
    "timeout",
    "uname",
    "wc",
];

fn agent() -> Vec<u8> {
    let mut text = AGENT.as_bytes().to_vec();
    for n in 0..20_000 {
        text.extend_from_slice(format!("# {n}\n").as_bytes());
    }
    text
}

fn sha256(bytes: &[u8]) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("f");
    fs::write(&file, bytes)?;
    let out = Command::new("sha256sum").arg(&file).output()?;
    Ok(String::from_utf8(out.stdout)?
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// A machine: its folders, and which programs it has.
struct Machine {
    dir: tempfile::TempDir,
    shell: &'static str,
}

/// How the script ended.
struct Ended {
    ok: bool,
    console: String,
}

impl Machine {
    /// `programs` are the ones beside [`TOOLS`]; with `busybox` in the shell all
    /// tools are busybox's.
    fn new(shell: &'static str, programs: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        for folder in ["bin", "lib", "local"] {
            fs::create_dir(dir.path().join(folder))?;
        }
        fs::write(dir.path().join("console"), "")?;
        for name in TOOLS.iter().chain(programs) {
            let link = dir.path().join("bin").join(name);
            if shell == "busybox" && *name != "curl" && *name != "python3" {
                symlink("/bin/busybox", link)?;
            } else if *name == "sh" {
                symlink("/bin/dash", link)?;
            } else {
                symlink(find(name)?, link)?;
            }
        }
        Ok(Self { dir, shell })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, script: &Secret) -> Result<Ended> {
        let file = self.path("script");
        fs::write(&file, script.reveal())?;
        // In mounts of its own the machine's folders are the script's.
        let mounts = format!(
            "mount --bind {0}/lib /var/lib && mount --bind {0}/local /usr/local/bin && mount --bind {0}/console /dev/console && \
             PATH={0}/bin exec {0}/bin/sh {0}/script",
            self.dir.path().display()
        );
        let out = Command::new("timeout")
            .args([
                "120",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "/bin/sh",
                "-c",
                &mounts,
            ])
            .output()?;
        ensure!(out.status.code() != Some(124), "the script did not end: {}", self.shell);
        let console = fs::read_to_string(self.path("console"))?;
        let told = String::from_utf8_lossy(&out.stderr);
        for line in console.lines() {
            ensure!(line.starts_with("herdsman: "), "on the console: {line}");
            ensure!(told.contains(line), "not in the journal: {line}");
        }
        Ok(Ended {
            ok: out.status.success(),
            console: format!("{console}{told}"),
        })
    }

    /// Calls of the agent.
    fn calls(&self) -> usize {
        let text = fs::read_to_string(self.path("lib/herdsman/ran")).unwrap_or_default();
        text.lines().filter(|l| *l == "ran install").count()
    }

    fn has_joined(&self) -> Result<()> {
        let join = self.path("lib/herdsman/join.json");
        ensure!(
            fs::read_to_string(&join)?.trim_end() == JOIN,
            "join.json is not what was sent"
        );
        ensure!(fs::metadata(&join)?.permissions().mode() & 0o7777 == 0o600);
        ensure!(fs::metadata(self.path("lib/herdsman"))?.permissions().mode() & 0o7777 == 0o700);
        Ok(())
    }

    fn agent_mode(&self) -> Option<u32> {
        let agent = fs::metadata(self.path("local/herdsman-agent")).ok()?;
        Some(agent.permissions().mode() & 0o7777)
    }
}

fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A version manager's stand-in is a script that needs more than itself.
    let system = ["/usr/bin", "/bin"].map(PathBuf::from).into_iter();
    system
        .chain(std::env::split_paths(&path))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
        .with_context(|| format!("{name} is not installed"))
}

struct Script<'a> {
    mirrors: Vec<&'a Mirror>,
    extra: Vec<String>,
    patience: u64,
    arch: Arch,
}

impl<'a> Script<'a> {
    fn of(mirrors: &[&'a Mirror]) -> Self {
        Self {
            mirrors: mirrors.to_vec(),
            extra: Vec::new(),
            patience: 90,
            arch: if std::env::consts::ARCH == "aarch64" {
                Arch::Aarch64
            } else {
                Arch::X86_64
            },
        }
    }

    fn render(&self) -> Result<Secret> {
        let urls = self.mirrors.iter().map(|m| m.url().parse().map_err(anyhow::Error::msg));
        let hash = sha256(&agent())?.parse().map_err(anyhow::Error::msg)?;
        let download = Download {
            mirrors: urls.collect::<Result<_>>()?,
            sha256: BTreeMap::from([(self.arch, hash)]),
        };
        let parts = Parts {
            join: &Secret::new(JOIN),
            download: &download,
            extra: &self.extra,
            patience: Duration::from_secs(self.patience),
        };
        Ok(user_data(parts, UserDataForm::Script)?)
    }
}

/// Every shell with every way to download that may go with it.
const MACHINES: [(&str, &[&str]); 6] = [
    ("dash", &["curl"]),
    ("dash", &["wget"]),
    ("dash", &["python3"]),
    ("busybox", &["wget"]),
    ("busybox", &["curl"]),
    ("busybox", &["python3"]),
];

/// Mounts need root, and busybox may not be there.
fn can_run() -> bool {
    let able = nix::unistd::geteuid().is_root() && Path::new("/bin/busybox").exists();
    if !able {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: this needs root and busybox");
    }
    able
}

#[test]
fn a_machine_gets_its_agent_whatever_it_has() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (shell, programs) in MACHINES {
        let mirror = Mirror::serve(&agent(), Manner::Whole)?;
        let machine = Machine::new(shell, programs)?;
        let script = Script::of(&[&mirror]).render()?;
        let ended = machine.run(&script)?;
        ensure!(ended.ok, "{shell} {programs:?}: {}", ended.console);
        machine.has_joined()?;
        ensure!(machine.agent_mode() == Some(0o755));
        let arch = std::env::consts::ARCH;
        ensure!(mirror.requests() == [format!("/herdsman-agent-{arch}")]);
        // Once more: nothing is downloaded, and it is as before.
        let again = machine.run(&script)?;
        ensure!(again.ok && again.console.contains("already here"), "{}", again.console);
        ensure!(mirror.requests().len() == 1 && machine.calls() == 2);
        machine.has_joined()?;
    }
    Ok(())
}

#[test]
fn what_is_not_the_agent_never_runs() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (shell, programs) in MACHINES {
        for (manner, cause) in [
            (Manner::Tampered, "SHA-256 is "),
            (Manner::Half, "SHA-256 is "),
            (Manner::Absent, "404"),
        ] {
            let mirror = Mirror::serve(&agent(), manner)?;
            let machine = Machine::new(shell, programs)?;
            let mut script = Script::of(&[&mirror]);
            script.patience = 1;
            let ended = machine.run(&script.render()?)?;
            ensure!(!ended.ok, "{shell} {programs:?} {manner:?}");
            ensure!(machine.agent_mode().is_none() && machine.calls() == 0);
            ensure!(
                ended.console.contains("herdsman: gave up: no agent within 1 s") && ended.console.contains(cause),
                "{shell} {programs:?} {manner:?}: {}",
                ended.console
            );
        }
    }
    Ok(())
}

#[test]
fn a_download_that_broke_off_goes_on_from_there() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (shell, programs) in MACHINES {
        for manner in [Manner::BrokenOnce, Manner::Drops] {
            let mirror = Mirror::serve(&agent(), manner)?;
            let second = Mirror::serve(&agent(), Manner::Whole)?;
            let machine = Machine::new(shell, programs)?;
            let ended = machine.run(&Script::of(&[&mirror, &second]).render()?)?;
            ensure!(
                ended.ok && machine.calls() == 1,
                "{shell} {programs:?} {manner:?}: {}",
                ended.console
            );
            let asked = [mirror.requests(), second.requests()].concat();
            // python3 does not say that it was cut off: it begins anew.
            let goes_on = asked.iter().any(|r| r.contains(" from "));
            ensure!(
                goes_on || programs == ["python3"],
                "{shell} {programs:?} {manner:?}: {asked:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_second_mirror_helps_out() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for bad in [Manner::Absent, Manner::Tampered, Manner::Half] {
        let first = Mirror::serve(&agent(), bad)?;
        let second = Mirror::serve(&agent(), Manner::Whole)?;
        let machine = Machine::new("dash", &["curl"])?;
        let ended = machine.run(&Script::of(&[&first, &second]).render()?)?;
        ensure!(ended.ok && machine.calls() == 1, "{bad:?}: {}", ended.console);
        ensure!(first.requests().len() == 1 && second.requests().len() == 1);
        ensure!(ended.console.contains("herdsman: no agent from http://127.0.0.1:"));
    }
    Ok(())
}

#[test]
fn a_machine_that_cannot_says_why() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mirror = Mirror::serve(&agent(), Manner::Whole)?;
    let bare = Machine::new("dash", &[])?;
    let ended = bare.run(&Script::of(&[&mirror]).render()?)?;
    ensure!(
        !ended.ok && ended.console.contains("curl, wget or python3 is needed"),
        "{}",
        ended.console
    );

    let other = Machine::new("dash", &["curl"])?;
    let mut script = Script::of(&[&mirror]);
    script.arch = if script.arch == Arch::X86_64 {
        Arch::Aarch64
    } else {
        Arch::X86_64
    };
    let ended = other.run(&script.render()?)?;
    ensure!(
        !ended.ok && ended.console.contains("there is no agent for"),
        "{}",
        ended.console
    );
    ensure!(mirror.requests().is_empty());
    Ok(())
}

#[test]
fn lines_of_the_users_own_run_first_and_break_nothing() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mirror = Mirror::serve(&agent(), Manner::Whole)?;
    let machine = Machine::new("busybox", &["wget"])?;
    let mut script = Script::of(&[&mirror]);
    script.extra = [
        "echo \"ran $((1 + 1))\" >>/var/lib/herdsman/ran",
        "cat",
        "if then 'open",
    ]
    .map(str::to_owned)
    .into();
    let ended = machine.run(&script.render()?)?;
    ensure!(
        ended.ok && ended.console.contains("herdsman: extra_bootstrap: exit "),
        "{}",
        ended.console
    );
    let ran = fs::read_to_string(machine.path("lib/herdsman/ran"))?;
    ensure!(ran == "ran 2\nran install\n", "{ran}");
    ensure!(!machine.path("lib/herdsman/.extra").exists(), "it may hold secrets");
    Ok(())
}
