//! An ordinary user, without any right on the machine.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran, program};
use serde_json::Value;

use super::{ADD, is_empty};

/// `nobody`.
const UID: u32 = 65534;

/// Becomes the stranger. An interpreter below a closed folder (`$closed`, such as
/// root's home) is put into an open one of the same name, for this command only.
const BECOME: &str = r#"set -e
prefix=$1 closed=$2 spare=$3
shift 3
if [ -n "$closed" ]; then
  mount --bind "$prefix" "$spare"
  mount -t tmpfs -o mode=755 herdsman-test "$closed"
  mkdir -p "$prefix"
  mount --bind "$spare" "$prefix"
fi
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@""#;

/// A home that is theirs. Programs are copied into it: they may lie below a
/// closed folder as well.
struct Stranger {
    home: Home,
    /// Where the interpreter's own files are.
    prefix: PathBuf,
}

impl Stranger {
    fn new() -> Result<Self> {
        let home = Home::new()?;
        for name in ["herdsman", "herdsman-agent"] {
            std::fs::copy(program(name)?, home.path().join(name))?;
        }
        std::fs::create_dir(home.path().join("spare"))?;
        chown(home.path(), Some(UID), Some(UID))?;
        let ask = "import sys; print(sys.base_prefix)";
        let out = Command::new(home.python()).args(["-c", ask]).output()?;
        let prefix = String::from_utf8(out.stdout)?.trim().into();
        Ok(Self { home, prefix })
    }

    /// The first folder on the way to the interpreter that is closed to others.
    fn closed(&self) -> Option<&Path> {
        let is_closed = |p: &&Path| p.metadata().is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
        self.prefix.ancestors().filter(is_closed).last()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BECOME, "sh"]).arg(&self.prefix);
        command.arg(self.closed().unwrap_or_else(|| Path::new("")));
        command.arg(self.home.path().join("spare")).arg(program);
        command.env_clear().current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<Ran> {
        let like = self.home.command(args)?;
        let mut command = self.command(&self.home.path().join("herdsman"));
        command.args(args);
        command.envs(like.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.env("HERDSMAN_AGENT", self.home.path().join("herdsman-agent"));
        Ok(command.output()?.into())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let ran = self.run(&[args, &["-o", "json"]].concat())?;
        ensure!(ran.code == 0, "{args:?}: {ran:?}");
        serde_json::from_str(&ran.out).with_context(|| ran.out.clone())
    }

    fn compute(&self, name: &str) -> Result<String> {
        let Value::Object(variables) = self.json(&["env", name])? else {
            anyhow::bail!("`env -o json` is no object");
        };
        let mut command = self.command(self.home.python());
        command.args(["-c", ADD]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in variables {
            command.env(name, value.as_str().unwrap_or_default());
        }
        let ran: Ran = command.output()?.into();
        ensure!(ran.code == 0, "{ran:?}");
        Ok(ran.out.trim().to_owned())
    }
}

/// Files of the state folder that others can read although they hold a key.
fn open_secrets(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            open_secrets(&path, found)?;
        } else if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
            let bytes = std::fs::read(&path)?;
            if bytes.windows(11).any(|w| w == b"PRIVATE KEY") {
                found.push(path);
            }
        }
    }
    Ok(())
}

#[test]
fn an_ordinary_user_has_two_clusters_side_by_side() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // Then all other tests are those of an ordinary user.
        return Ok(());
    }
    let stranger = Stranger::new()?;
    let one = stranger.json(&["up", "one", "--workers", "1"])?;
    let two = stranger.json(&["up", "two", "--workers", "1"])?;
    for up in [&one, &two] {
        ensure!(up["workers"]["ready"] == 1, "{up}");
        ensure!(
            up["scheduler"].as_str().is_some_and(|s| s.starts_with("tls://127.")),
            "{up}"
        );
    }
    ensure!(one["scheduler"] != two["scheduler"], "{one}");
    for name in ["one", "two"] {
        ensure!(stranger.compute(name)? == "3");
        let status = stranger.json(&["status", name])?;
        let address = &status["status"]["nodes"][1]["address"];
        ensure!(address.as_str().is_some_and(|a| a.starts_with("127.")), "{status}");
    }
    let id = stranger.run(&["exec", "one", "one-w0", "--", "id", "-u"])?;
    ensure!(id.out.trim() == "65534", "{id:?}");
    let mut open = Vec::new();
    open_secrets(&stranger.home.path().join("s"), &mut open)?;
    ensure!(open.is_empty(), "{open:?}");
    // With two of them, a command that names none names both.
    for args in [&["status"] as &[&str], &["scale", "3"], &["down"]] {
        let ran = stranger.run(args)?;
        ensure!(
            ran.code == 2 && ran.err.contains("name one: one, two"),
            "{args:?}: {ran:?}"
        );
    }
    let down = stranger.json(&["down", "one"])?;
    ensure!(down["clusters"][0]["name"] == "one", "{down}");
    // The other one never noticed.
    ensure!(stranger.compute("two")? == "3");
    let down = stranger.json(&["down"])?;
    ensure!(down["clusters"][0]["name"] == "two", "{down}");
    ensure!(is_empty(Path::new("/dev/shm/herdsman-65534")));
    stranger.home.assert_clean()
}
