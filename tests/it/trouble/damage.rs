//! Damaged files, full disks, closed pipes.

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran, wait_for};
use herdsman_tests::trouble::{SmallDisk, agents, assert_no_namespace, fails, find, folders, strike};

fn journal(home: &Home, node: &str) -> Result<std::path::PathBuf> {
    let found: Vec<_> = folders(home, node)
        .into_iter()
        .flat_map(|d| find(&d, "journal.jsonl"))
        .collect();
    found.into_iter().next().context("the hub has no journal")
}

#[test]
fn a_journal_that_a_crash_cut_is_read_up_to_there() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "tcut", "--workers", "1"])?;
    let path = journal(&home, "tcut-scheduler")?;
    let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
    file.write_all(b"{\"entry\":\"crl\",\"num")?;
    let before = agents(&home, "tcut-scheduler");
    for pid in &before {
        ensure!(strike(*pid), "the agent was gone");
    }
    wait_for("the hub is back with all of its nodes", || {
        let now = agents(&home, "tcut-scheduler");
        let Ok(status) = home.json(&["status", "tcut"]) else {
            return Ok(None);
        };
        let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let well = nodes.len() == 2 && nodes.iter().all(|n| n["state"] == "ready");
        Ok((well && !now.is_empty() && now != before).then_some(()))
    })?;
    let out = home.compute(
        "tcut",
        "from dask.distributed import Client; print(Client().submit(abs, -2).result())",
    )?;
    ensure!(out.trim() == "2", "{out}");
    home.ok(&["scale", "tcut", "2"])?;
    home.ok(&["down", "tcut"])?;
    home.assert_clean()
}

#[test]
fn a_journal_of_garbage_is_told_and_the_cluster_can_be_deleted() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "tgarb", "--workers", "1"])?;
    let path = journal(&home, "tgarb-scheduler")?;
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("no journal at all\n{text}"))?;
    for pid in agents(&home, "tgarb-scheduler") {
        ensure!(strike(pid), "the agent was gone");
    }
    let console = wait_for("the console tells the damage", || {
        let ran = home.run(&["logs", "tgarb", "tgarb-scheduler", "--boot"])?;
        Ok(ran.out.contains("line 1").then_some(ran.out))
    })?;
    ensure!(
        console.contains("E-MALFORMED") && console.contains("herdsman down"),
        "{console}"
    );
    let ran = home.run(&["status", "tgarb"])?;
    ensure!(!ran.err.contains("panicked") && !(ran.out + &ran.err).is_empty());
    home.ok(&["down", "tgarb"])?;
    home.assert_clean()?;
    assert_no_namespace("tgarb")
}

#[test]
fn a_damaged_record_is_told_and_does_not_keep_machines_alive() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "trec", "--workers", "1"])?;
    let folder = home.path().join("s/clusters/trec");
    let records: Vec<_> = std::fs::read_dir(&folder)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    ensure!(!records.is_empty(), "no record in {}", folder.display());
    for path in records {
        std::fs::write(&path, "{\"cluster\": ")?;
    }
    for verb in ["status", "logs", "env", "up"] {
        let ran = home.run(&[verb, "trec"])?;
        ensure!(ran.code != 0 && ran.err.contains("error[E-"), "{verb}: {ran:?}");
        ensure!(
            ran.err.contains("trec") && ran.err.contains("herdsman down trec"),
            "{verb}: {ran:?}"
        );
        ensure!(!ran.err.contains("panicked"), "{verb}: {ran:?}");
    }
    home.ok(&["down", "trec"])?;
    home.assert_clean()?;
    assert_no_namespace("trec")
}

#[test]
fn a_state_folder_that_cannot_be_written_is_told() -> Result<()> {
    let home = Home::new()?;
    std::fs::write(home.path().join("file"), "")?;
    let mut command = home.command(&["up", "tfold", "--workers", "1"])?;
    command.env("HERDSMAN_STATE_DIR", home.path().join("file/below"));
    fails(command, 1, "E-DISK", &["file/below", "HERDSMAN_STATE_DIR"])?;
    let disk = SmallDisk::mount(&home, "ro,size=1m")?;
    let command = home.command(&["up", "tfold", "--workers", "1"])?;
    fails(command, 1, "E-DISK", &["Read-only", "HERDSMAN_STATE_DIR"])?;
    drop(disk);
    home.assert_clean()?;
    assert_no_namespace("tfold")
}

#[test]
fn a_full_disk_is_told_wherever_it_hits() -> Result<()> {
    let home = Home::new()?;
    // From "not even the record" to "the hub's own files do not fit any more".
    for pages in [2, 8, 16, 24, 32, 40, 48, 64] {
        let disk = SmallDisk::mount(&home, &format!("size={}k", pages * 4))?;
        let command = home.command(&["up", "tfull", "--workers", "1", "--start-timeout", "40s"])?;
        let ran: Ran = { command }.output()?.into();
        if ran.code == 0 {
            // It just fitted.
            home.ok(&["down", "tfull"])?;
        } else {
            ensure!(
                ran.code == 1 && ran.err.contains("error[E-DISK]") && ran.err.to_lowercase().contains("no space left"),
                "{pages} pages: {ran:?}"
            );
            ensure!(ran.err.contains("try: "), "{pages} pages: {ran:?}");
        }
        let _ = home.run(&["down", "tfull", "-q"])?;
        home.assert_clean().with_context(|| format!("{pages} pages: {ran:?}"))?;
        drop(disk);
        assert_no_namespace("tfull")?;
    }
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_error() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "tpipe", "--workers", "1"])?;
    for args in [
        &["logs", "tpipe"][..],
        &["logs", "tpipe", "--boot"],
        &["status", "tpipe", "-o", "json"],
    ] {
        let mut child = home
            .command(args)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut first = String::new();
        std::io::BufReader::with_capacity(16, out).read_line(&mut first)?;
        ensure!(!first.is_empty(), "{args:?} printed nothing");
        let ran: Ran = child.wait_with_output()?.into();
        ensure!(ran.code == 0 && ran.err.is_empty(), "{args:?}: {ran:?}");
    }
    // As a shell does it.
    let herdsman = home.command(&["logs", "tpipe"])?;
    let mut shell = Command::new("bash");
    shell
        .args(["-c", "set -o pipefail; \"$0\" logs tpipe | head -1"])
        .arg(herdsman.get_program())
        .env_clear()
        .current_dir(home.path());
    for (name, value) in herdsman.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let ran: Ran = shell.output()?.into();
    ensure!(
        ran.code == 0 && ran.out.lines().count() == 1 && ran.err.is_empty(),
        "{ran:?}"
    );
    home.ok(&["down", "tpipe"])?;
    home.assert_clean()
}
