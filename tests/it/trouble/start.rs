//! Starts that cannot succeed: each is told by its cause, soon, and leaves nothing.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::Home;
use herdsman_tests::trouble::{
    DELETED, assert_no_namespace, bare, fails, lying_environment, script, strange_agent, takes_port,
};

fn up(home: &Home, name: &str, more: &[&str]) -> Result<Command> {
    home.command(&[&["up", name, "--workers", "1"], more].concat())
}

fn clean(home: &Home, name: &str) -> Result<()> {
    home.assert_clean()?;
    assert_no_namespace(name)
}

#[test]
fn the_laptops_python_has_no_dask() -> Result<()> {
    let home = Home::new()?;
    let bare = home.path().join("empty");
    let made = Command::new(home.python())
        .args(["-m", "venv", "--without-pip"])
        .arg(&bare)
        .status()?;
    ensure!(made.success(), "{made}");
    let mut command = up(&home, "tnodask", &[])?;
    command.env("HERDSMAN_PYTHON", &bare);
    let ran = fails(
        command,
        3,
        "E-ENV",
        &["dask and distributed are not installed", "install"],
    )?;
    // Before anything was made, so there is nothing to delete.
    ensure!(!ran.err.contains(DELETED), "{ran:?}");
    clean(&home, "tnodask")
}

#[test]
fn the_nodes_python_has_no_dask() -> Result<()> {
    let home = Home::new()?;
    let python = lying_environment(&home, &bare(&home), "2026.8.0")?;
    let mut command = up(&home, "tbare", &[])?;
    command.env("HERDSMAN_PYTHON", python);
    fails(command, 3, "E-ENV", &["no module `distributed`", DELETED])?;
    clean(&home, "tbare")
}

#[test]
fn the_nodes_have_another_distributed() -> Result<()> {
    let home = Home::new()?;
    let python = lying_environment(&home, &home.python().display().to_string(), "2025.1.0")?;
    let mut command = up(&home, "tdiffers", &[])?;
    command.env("HERDSMAN_PYTHON", python);
    let ran = fails(command, 3, "E-MISMATCH", &["distributed", "2025.1.0", DELETED])?;
    let lines = ran.err.lines();
    let diff = lines.filter(|l| l.contains("2025.1.0") && l.contains("distributed"));
    ensure!(diff.count() > 0, "{ran:?}");
    clean(&home, "tdiffers")
}

#[test]
fn a_preload_that_raises_is_told_with_its_exception() -> Result<()> {
    let home = Home::new()?;
    std::fs::write(home.path().join("boom.py"), "raise RuntimeError('boom at start')\n")?;
    let boom = home.path().join("boom.py");
    let option = format!("--preload={}", boom.display());
    for role in ["--scheduler-option", "--worker-option"] {
        let command = up(&home, "tboom", &[&format!("{role}={option}")])?;
        let words = ["RuntimeError: boom at start", "ended with exit code 1", DELETED];
        fails(command, 7, "E-DASK", &words)?;
        clean(&home, "tboom")?;
    }
    Ok(())
}

#[test]
fn one_crash_at_the_start_is_forgiven() -> Result<()> {
    let home = Home::new()?;
    let once = home.path().join("once.py");
    // Dask copies the file for workers, so it does not know its own place.
    std::fs::write(
        &once,
        format!(
            "import os, sys\nmark = '{}.' + ('s' if 'dask_scheduler' in sys.argv[0] else 'w')\n\
             if not os.path.exists(mark):\n    open(mark, 'w')\n    raise RuntimeError('only once')\n",
            once.display()
        ),
    )?;
    let option = format!("--preload={}", once.display());
    let mut command = up(&home, "tonce", &[])?;
    command.args([
        format!("--scheduler-option={option}"),
        format!("--worker-option={option}"),
    ]);
    let out = command.output()?;
    ensure!(out.status.success(), "{out:?}");
    for mark in ["once.py.s", "once.py.w"] {
        ensure!(home.path().join(mark).exists(), "{mark} is missing: it never crashed");
    }
    let sum = home.compute(
        "tonce",
        "from dask.distributed import Client; print(Client().submit(sum, [1, 2]).result())",
    )?;
    ensure!(sum.trim() == "3", "{sum}");
    home.ok(&["down", "tonce"])?;
    clean(&home, "tonce")
}

#[test]
fn one_broken_worker_does_not_take_the_cluster_with_it() -> Result<()> {
    let home = Home::new()?;
    let here = home.path().join("here.py");
    std::fs::write(
        &here,
        "import sys\nif 'tpart-w1' in sys.argv: raise RuntimeError('only here')\n",
    )?;
    let option = format!("--worker-option=--preload={}", here.display());
    let command = home.command(&["up", "tpart", "--workers", "2", &option])?;
    fails(
        command,
        7,
        "E-BOOT",
        &[
            "1 of 2 workers did not start; the cluster is up with the other 1",
            "[E-DASK]",
            "RuntimeError: only here",
            "tpart-w1 deleted, not replaced",
            "herdsman scale tpart 2",
        ],
    )?;
    let out = home.compute(
        "tpart",
        "from dask.distributed import Client; c = Client(); print(c.submit(abs, -4).result(), len(c.scheduler_info()['workers']))",
    )?;
    ensure!(out.trim() == "4 1", "{out}");
    let status = home.json(&["status", "tpart"])?;
    let nodes = status["status"]["nodes"].as_array().context("nodes")?;
    ensure!(nodes.iter().all(|n| n["state"] == "ready"), "{status}");
    // Repaired, it comes to its size.
    std::fs::write(&here, "")?;
    let scaled = home.json(&["scale", "tpart", "2"])?;
    ensure!(scaled["ready"] == 2, "{scaled}");
    home.ok(&["down", "tpart"])?;
    clean(&home, "tpart")
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    for (port, name) in [(8786, "tport6"), (8785, "tport5")] {
        let home = Home::new()?;
        let agent = strange_agent(&home, &takes_port(port))?;
        let mut command = up(&home, name, &[])?;
        command.env("HERDSMAN_AGENT", agent);
        fails(command, 8, "E-PORT", &[&port.to_string(), "ss -ltnp", DELETED])?;
        clean(&home, name)?;
    }
    Ok(())
}

#[test]
fn a_clock_that_is_wrong_by_a_day_is_told_with_both_times() -> Result<()> {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    ensure!(
        std::path::Path::new(library).exists(),
        "libfaketime is missing; install Debian's package `faketime`"
    );
    for (offset, which, word) in [
        ("+1d", "scheduler", "fast"),
        ("-1d", "scheduler", "slow"),
        ("+1d", "w0", "fast"),
    ] {
        let home = Home::new()?;
        let agent = strange_agent(
            &home,
            &format!(
                "case \"$*\" in *-{which}/*) exec env LD_PRELOAD={library} FAKETIME={offset} \"$AGENT\" \"$@\";; esac"
            ),
        )?;
        let mut command = up(&home, "tclock", &[])?;
        command.env("HERDSMAN_AGENT", agent);
        let ran = fails(command, 3, "E-CLOCK", &["this machine's clock shows", word, DELETED])?;
        if which == "scheduler" {
            ensure!(ran.err.contains("this computer's clock shows"), "{ran:?}");
        }
        clean(&home, "tclock").with_context(|| format!("{offset} {which}"))?;
    }
    Ok(())
}

#[test]
fn an_agent_that_is_none_is_told_at_once() -> Result<()> {
    let home = Home::new()?;
    let sleep = script(&home.path().join("sleep.sh"), "#!/bin/sh\nexec sleep 600\n")?;
    let sleep = sleep.display().to_string();
    // (program, exit, code, words)
    for (agent, exit, code, words) in [
        ("/bin/false", 1, "E-PROVIDER", ["keeper", "ended at once"]),
        (sleep.as_str(), 1, "E-PROVIDER", ["keeper", "did not listen within"]),
        ("/etc/passwd", 3, "E-NOT-FOUND", ["/etc/passwd", "not executable"]),
    ] {
        let mut command = up(&home, "tnone", &["--start-timeout", "10s"])?;
        command.env("HERDSMAN_AGENT", agent);
        fails(command, exit, code, &words)?;
        clean(&home, "tnone").with_context(|| agent.to_owned())?;
    }
    Ok(())
}

#[test]
fn the_deadline_names_phase_and_last_lines() -> Result<()> {
    let home = Home::new()?;
    // The keeper works, its agent never does anything.
    for (run, words) in [
        (
            "echo nothing happens here; exec sleep 600",
            ["did not answer in time", "nothing happens here"],
        ),
        ("echo it ends; exit 1", ["it ends", "ended: exit code 1"]),
    ] {
        let agent = strange_agent(&home, run)?;
        let mut command = up(&home, "tlate", &["--start-timeout", "6s"])?;
        command.env("HERDSMAN_AGENT", agent);
        let ran = fails(command, 6, "E-DEADLINE", &words)?;
        ensure!(ran.err.contains(DELETED) && ran.err.contains("console"), "{ran:?}");
        clean(&home, "tlate")?;
    }
    // The agents work, a Dask does not come.
    std::fs::write(home.path().join("slow.py"), "import time; time.sleep(600)\n")?;
    let option = format!("--worker-option=--preload={}", home.path().join("slow.py").display());
    let command = up(&home, "tlate", &["--start-timeout", "15s", &option])?;
    let ran = fails(
        command,
        6,
        "E-DEADLINE",
        &["0 of 1 workers were ready", "tlate-w0: phase `dask`", DELETED],
    )?;
    ensure!(ran.err.contains("module slow"), "{ran:?}");
    clean(&home, "tlate")
}
