//! A cluster whose time is over ends, and says so before.

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, wait_for};

use super::computes;

fn end(home: &Home) -> Result<u64> {
    let status = home.json(&["status", "demo"])?;
    status["status"]["ending"]["lifetime_ends"]
        .as_u64()
        .context(status.to_string())
}

fn state(home: &Home, name: &str) -> Result<String> {
    let all = home.json(&["ls"])?;
    let list = all["clusters"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|c| c["name"] == name).context(all.to_string())?;
    Ok(found["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_lifetime_ends_a_cluster_and_can_be_moved() -> Result<()> {
    let home = Home::new()?;
    // Ends while nobody looks; its end counts from its start.
    home.ok(&["up", "short", "--workers", "1", "--lifetime", "8s", "--wait", "none"])?;
    let up = home.json(&["up", "demo", "--workers", "1", "--lifetime", "10m"])?;
    ensure!(up["stops_at"].is_string(), "{up}");
    let first = end(&home)?;
    let text = home.ok(&["status", "demo"])?.out;
    ensure!(
        text.contains("ends at ") && text.contains("at the latest, in ") && text.contains("herdsman extend demo"),
        "{text}"
    );
    let moved = home.json(&["extend", "demo", "1h"])?["lifetime_ends"].clone();
    let later = end(&home)?;
    ensure!(moved == later && later > first + 2_000_000, "{first} {moved} {later}");
    let off = home.json(&["extend", "demo", "off", "--idle", "off"])?;
    ensure!(off["lifetime_ends"].is_null() && off["idle_seconds"].is_null(), "{off}");
    let text = home.ok(&["status", "demo"])?.out;
    ensure!(
        text.contains("no end of life is set") && text.contains("never ends for being idle"),
        "{text}"
    );
    computes(&home, "demo")?;

    home.ok(&["extend", "demo", "2s"])?;
    wait_for("all processes are gone", || {
        Ok(home.processes().is_empty().then_some(()))
    })?;
    for name in ["demo", "short"] {
        ensure!(state(&home, name)? == "ended", "{name} is {}", state(&home, name)?);
        // Out of reach, with a way out.
        let ran = home.run(&["status", name])?;
        ensure!(ran.code == 3 && ran.err.contains("try: "), "{ran:?}");
        home.ok(&["down", name])?;
    }
    home.assert_clean()
}
