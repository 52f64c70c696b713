//! Without root: nodes on loopback addresses.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use anyhow::{Result, ensure};
use herdsman_tests::home::{Home, Ran, program};
use serde_json::Value;

/// Nobody's own number on Debian; any number without rights would do.
const NOBODY: u32 = 65534;

#[test]
fn an_ordinary_user_has_clusters_side_by_side() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // Then the whole suite runs without root.
        return Ok(());
    }
    let home = Home::new()?;
    chown(home.path(), Some(NOBODY), Some(NOBODY))?;
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
    // The programs may lie where nobody else can look.
    for name in ["herdsman", "herdsman-agent"] {
        std::fs::copy(program(name)?, home.path().join(name))?;
    }
    let as_user = |args: &[&str]| -> Result<Ran> {
        let template = home.command(args)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            // The test's Python may lie where nobody else can look.
            .args([
                "--inh-caps",
                "+dac_read_search",
                "--ambient-caps",
                "+dac_read_search",
                "--",
            ])
            .arg(home.path().join("herdsman"))
            .args(args)
            .env_clear()
            .current_dir(home.path());
        for (name, value) in template.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("HERDSMAN_AGENT", home.path().join("herdsman-agent"));
        Ok(command.output()?.into())
    };
    for name in ["one", "two"] {
        let up = as_user(&["up", name, "--workers", "1", "-o", "json"])?;
        ensure!(up.code == 0, "{up:?}");
        let up: Value = serde_json::from_str(&up.out)?;
        ensure!(up["workers"]["ready"] == 1, "{up}");
    }
    for name in ["one", "two"] {
        let program = "from dask.distributed import Client; print(Client().submit(sum, [3, 4]).result())";
        let ran = as_user(&["env", name, "-o", "json"])?;
        let Value::Object(variables) = serde_json::from_str(&ran.out)? else {
            anyhow::bail!("{ran:?}");
        };
        let mut client = Command::new(home.python());
        client
            .args(["-c", program])
            .env("HOME", home.path())
            .current_dir(home.path());
        for (key, value) in variables {
            client.env(key, value.as_str().unwrap_or_default());
        }
        let ran: Ran = client.output()?.into();
        ensure!(ran.out.trim() == "7", "{name}: {ran:?}");
    }
    for name in ["one", "two"] {
        let down = as_user(&["down", name])?;
        ensure!(down.code == 0, "{down:?}");
    }
    home.assert_clean()
}
