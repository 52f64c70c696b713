//! Dask's dashboard in a real browser, through the hub.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran};
use serde_json::Value;

use super::basics::Staying;

#[test]
fn a_browser_draws_live_bars_of_tasks() -> Result<()> {
    let has_browser = Command::new("chromium").arg("--version").output().is_ok();
    ensure!(
        has_browser,
        "chromium is missing; install Debian's package of that name"
    );
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    let (dash, said) = Staying::start(&home, &["dash", "demo", "--no-open"])?;
    let url = said["dashboard"].as_str().context("dashboard")?;
    let mut work = home.client(
        "demo",
        "
import time
from dask.distributed import Client
client = Client()
for _ in range(600):
    client.gather(client.map(time.sleep, [0.05] * 8, pure=False))",
    )?;
    let mut work = work.spawn()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/dashboard.py");
    let image = home.path().join("dashboard.png");
    let looked = Command::new(home.python()).arg(script).arg(url).arg(&image).output();
    let _ = work.kill();
    let _ = work.wait();
    let ran: Ran = looked?.into();
    ensure!(ran.code == 0, "{ran:?}");
    let seen: Value = serde_json::from_str(&ran.out)?;
    ensure!(seen["later"].as_u64() > seen["first"].as_u64(), "{seen}");
    // An empty page of this size is a few kilobytes.
    ensure!(seen["image"].as_u64() > Some(20_000), "{seen}");
    dash.interrupt()?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
