//! Provider `manual`: the user's own programs, or the user, make the machines.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, LONG, Ran, wait_for};
use herdsman_tests::manual::{Machines, toml_list};
use serde_json::Value;

const ADD: &str = "from dask.distributed import Client; print(Client().submit(sum, [1, 2], pure=False).result())";

/// A home whose project has all programs.
fn with_programs() -> Result<(Home, Machines)> {
    let home = Home::new()?;
    let machines = Machines::new(&home)?;
    machines.whole_project(&home)?;
    Ok((home, machines))
}

fn computes(home: &Home) -> Result<()> {
    let sum = home.compute("demo", ADD)?;
    ensure!(sum.trim() == "3", "{sum}");
    Ok(())
}

/// No process, no machine, no record and no secret is left.
fn clean(home: &Home, machines: &Machines) -> Result<()> {
    home.assert_clean()?;
    let left: Vec<_> = std::fs::read_dir(machines.folder())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().is_dir())
        .collect();
    ensure!(left.is_empty(), "machines are left: {left:?}");
    ensure!(files_of(home).is_empty(), "{:?}", files_of(home));
    Ok(())
}

/// All files of the provider.
fn files_of(home: &Home) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![home.path().join("s/manual")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

/// The status as JSON, or null where there is none now.
fn ready(home: &Home) -> Vec<String> {
    let status = home.json(&["status", "demo"]).unwrap_or_default();
    let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
    let ready = nodes.iter().filter(|n| n["state"] == "ready");
    ready.filter_map(|n| n["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn programs_make_and_delete_the_machines_of_a_whole_life() -> Result<()> {
    let (home, machines) = with_programs()?;
    let up = home.json(&["up", "demo", "--workers", "2", "--tag", "team=geo"])?;
    ensure!(up["workers"]["ready"] == 2 && up["provider"] == "manual", "{up}");
    computes(&home)?;
    // Each was asked for once, with tags and a path, never with the secret.
    let asked = machines.requests("create");
    ensure!(asked.len() == 3, "{asked:?}");
    for request in &asked {
        ensure!(request["tags"]["team"] == "geo" && request["tags"]["herdsman-cluster"] == "demo");
        ensure!(request["cluster"]["name"] == "demo" && !request.to_string().contains("PRIVATE KEY"));
        // The machine has enrolled: the secret is gone from this computer.
        let path = request["user_data"].as_str().context("user_data")?;
        ensure!(!std::path::Path::new(path).exists(), "{path} is still there");
    }
    for file in files_of(&home) {
        ensure!(
            !std::fs::read_to_string(&file)?.contains("PRIVATE KEY"),
            "{}",
            file.display()
        );
    }
    let boot = home.ok(&["logs", "demo", "--boot"])?.out;
    ensure!(
        boot.contains("demo-w1 boot: ") && boot.contains("the agent starts"),
        "{boot}"
    );

    let scaled = home.json(&["scale", "demo", "3"])?;
    ensure!(scaled["ready"] == 3 && scaled["added"][0] == "demo-w2", "{scaled}");
    computes(&home)?;
    let scaled = home.json(&["scale", "demo", "1"])?;
    ensure!(scaled["ready"] == 1, "{scaled}");
    let deleted = machines.requests("delete");
    let ids: Vec<_> = deleted.iter().map(|r| r["id"].as_str().unwrap_or_default()).collect();
    ensure!(
        ids.len() == 2 && ids.iter().all(|id| id.starts_with("m-demo-w")),
        "{ids:?}"
    );
    ensure!(ready(&home).len() == 2, "{:?}", ready(&home));
    computes(&home)?;

    // In another folder nothing names the provider: the cluster's record does.
    std::fs::remove_file(home.path().join("herdsman.toml"))?;
    let row = home.json(&["ls"])?["clusters"][0].clone();
    ensure!(row["provider"] == "manual" && row["state"] == "up", "{row}");
    let refused = home.run(&["down", "demo", "--no-input"])?;
    ensure!(
        refused.code == 9,
        "deleting what is not of this computer is asked for: {refused:?}"
    );
    home.ok(&["down", "demo", "-y"])?;
    clean(&home, &machines)
}

#[test]
fn a_person_makes_the_machines_from_files() -> Result<()> {
    let home = Home::new()?;
    let machines = Machines::new(&home)?;
    machines.project(&home, &[])?;
    let out = home.path().join("out");
    let mut up = home
        .command(&["up", "demo", "--workers", "1", "--user-data-dir", "out", "-o", "json"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let file = |node: &str| out.join(format!("{node}.user-data"));
    let there = |node: &str| wait_for("user-data", || Ok(file(node).exists().then(|| file(node))));
    let scheduler = there("demo-scheduler")?;
    ensure!(std::fs::metadata(&scheduler)?.permissions().mode() & 0o777 == 0o600);
    // Workers have to be told an address that nobody has said yet.
    std::thread::sleep(Duration::from_millis(500));
    ensure!(
        !file("demo-w0").exists(),
        "a worker was told of a hub without an address"
    );
    let made = machines.make(&home, "demo-scheduler", &scheduler)?;
    let address = made["address"].as_str().context("address")?;
    std::fs::write(out.join("demo-scheduler.user-data.address"), format!("{address}\n"))?;
    machines.make(&home, "demo-w0", &there("demo-w0")?)?;
    let done: Ran = up_ended(&mut up)?;
    ensure!(done.code == 0, "{done:?}");
    ensure!(
        done.err.contains("make a machine for demo-w0 with the user-data in "),
        "{done:?}"
    );
    ensure!(done.err.contains("demo-scheduler.user-data.address"), "{done:?}");
    ensure!(std::fs::read_dir(&out)?.count() == 0, "user-data is left");
    computes(&home)?;

    // Nobody can see a console here, and it says so.
    let boot = home.run(&["logs", "demo", "--boot"])?;
    ensure!(
        boot.code == 3 && boot.err.contains("cannot see the console"),
        "{boot:?}"
    );

    // One more by hand, now that the address is known.
    let mut scale = home
        .command(&["scale", "demo", "2"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let told = || Ok(user_data_of(&home, "demo-w1"));
    let told = wait_for("user-data of demo-w1", told)?;
    machines.make(&home, "demo-w1", &told)?;
    let done = up_ended(&mut scale)?;
    ensure!(done.code == 0, "{done:?}");
    computes(&home)?;

    // The nodes end; the machines are the user's to delete, and it says so.
    let down = home.run(&["down", "demo", "-y"])?;
    ensure!(down.code == 7 && down.err.contains("E-LEFTOVER"), "{down:?}");
    ensure!(down.err.contains(&format!("demo-scheduler ({address})")), "{down:?}");
    ensure!(
        down.err.contains("only you can delete it") && down.err.contains("--forget"),
        "{down:?}"
    );
    ensure!(!down.err.contains("is gone"), "{down:?}");
    wait_for("agents and Dask have ended", || {
        Ok(home.processes().is_empty().then_some(()))
    })?;
    let row = home.json(&["ls"])?["clusters"][0].clone();
    ensure!(row["state"] == "incomplete" || row["state"] == "ended", "{row}");
    // Not beside what is left of it.
    let again = home.run(&["up", "demo", "--workers", "1"])?;
    ensure!(again.code == 8 && again.err.contains("are left"), "{again:?}");
    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        machines.delete(&home, node)?;
    }
    let forget = home.ok(&["down", "demo", "-y", "--forget"])?;
    ensure!(forget.err.contains("forgotten without a look"), "{forget:?}");
    clean(&home, &machines)
}

fn user_data_of(home: &Home, node: &str) -> Option<std::path::PathBuf> {
    let wanted = format!("{node}/user-data");
    files_of(home).into_iter().find(|f| f.ends_with(&wanted))
}

/// Waits for a command; it is ended at the deadline.
fn up_ended(child: &mut std::process::Child) -> Result<Ran> {
    use std::io::Read as _;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > LONG {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().context("stdout")?.read_to_string(&mut out)?;
    child.stderr.take().context("stderr")?.read_to_string(&mut err)?;
    Ok(Ran {
        code: status.code().unwrap_or(-1),
        out,
        err,
    })
}

#[test]
fn an_address_that_is_known_before_makes_all_files_at_once() -> Result<()> {
    let home = Home::new()?;
    let machines = Machines::new(&home)?;
    machines.project(&home, &[("scheduler_address", "\"127.9.9.9\"".into())])?;
    let ran = home.run(&[
        "up",
        "demo",
        "--workers",
        "2",
        "--start-timeout",
        "3s",
        "--user-data-dir",
        "out",
    ])?;
    ensure!(ran.code != 0, "{ran:?}");
    for node in ["demo-scheduler", "demo-w0", "demo-w1"] {
        ensure!(ran.err.contains(&format!("make a machine for {node} with")), "{ran:?}");
    }
    ensure!(
        ran.err.contains("could not be deleted") || ran.err.contains("deleted all but 3"),
        "{ran:?}"
    );
    ensure!(
        std::fs::read_dir(home.path().join("out"))?.count() == 0,
        "user-data is left"
    );
    home.ok(&["down", "demo", "-y", "--forget"])?;
    clean(&home, &machines)
}

#[test]
fn a_killed_up_is_finished_or_undone_by_the_next_command() -> Result<()> {
    let (home, machines) = with_programs()?;
    // While the scheduler is made, and when a worker begins to be one.
    for (verb, wanted) in [("up", 1), ("down", 1), ("up", 2), ("down", 2)] {
        let before = machines.requests("create").len();
        let mut child = home
            .command(&["up", "demo", "--workers", "1"])?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let asked = || Ok((machines.requests("create").len() >= before + wanted).then_some(()));
        let seen = wait_for("machines are asked for", asked);
        child.kill()?;
        child.wait()?;
        seen?;
        match verb {
            "up" => {
                let up = home.json(&["up", "demo", "--workers", "1"]);
                let up = up.with_context(|| format!("after {wanted} machines"))?;
                ensure!(up["workers"]["ready"] == 1, "{up}");
                computes(&home)?;
                home.ok(&["down", "demo", "-y"])?;
            }
            _ => {
                home.ok(&["down", "demo", "-y"])?;
            }
        }
        clean(&home, &machines).with_context(|| format!("{verb} after {wanted} machines"))?;
    }
    Ok(())
}

#[test]
fn programs_that_fail_hang_or_talk_nonsense_are_told_with_their_words() -> Result<()> {
    let home = Home::new()?;
    let machines = Machines::new(&home)?;
    let rest = || ["delete", "list"].map(|v| (v, machines.program()));
    let sh = |script: &str| toml_list(&["sh", "-c", script].map(str::to_owned));
    for (create, code, said) in [
        (
            sh("echo quota of 0 machines >&2; exit 4"),
            "E-PROVIDER",
            "quota of 0 machines",
        ),
        (sh("echo welcome"), "E-PROVIDER", "answered \"welcome\""),
        (sh("echo '{}'"), "E-PROVIDER", "missing field `id`"),
        (sh("echo '{\"id\": \"x\"}'"), "E-PROVIDER", "answered no address"),
        (sh("sleep 600"), "E-DEADLINE", "did not end within 2 s"),
        (
            toml_list(&["/no/such/program".into()]),
            "E-NOT-FOUND",
            "cannot be started",
        ),
    ] {
        let mut programs = vec![("create", create), ("timeout", "\"2s\"".to_owned())];
        // The real program is slower than the deadline of the one that hangs.
        if code == "E-DEADLINE" {
            programs.push(("delete", sh("cat >/dev/null")));
            programs.push(("list", sh("echo '{\"machines\": []}'")));
        } else {
            programs[1].1 = "\"60s\"".to_owned();
            programs.extend(rest());
        }
        machines.project(&home, &programs)?;
        let started = Instant::now();
        let ran = home.run(&["up", "demo", "--workers", "1"])?;
        ensure!(
            ran.code != 0 && ran.err.contains(&format!("error[{code}]")) && ran.err.contains(said),
            "{said}: {ran:?}"
        );
        ensure!(ran.err.contains("what was created has been deleted"), "{ran:?}");
        ensure!(started.elapsed() < LONG);
        clean(&home, &machines).with_context(|| said.to_owned())?;
        ensure!(home.json(&["ls"])?["clusters"] == Value::Array(Vec::new()));
    }
    Ok(())
}

#[test]
fn what_cannot_be_deleted_stays_on_the_list_until_it_can() -> Result<()> {
    let (home, machines) = with_programs()?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let good = std::fs::read_to_string(home.path().join("herdsman.toml"))?;
    let sh = toml_list(&["sh", "-c", "echo no such account >&2; exit 1"].map(str::to_owned));
    let mut programs = ["create", "list"].map(|v| (v, machines.program())).to_vec();
    programs.push(("delete", sh));
    machines.project(&home, &programs)?;
    let down = home.run(&["down", "demo", "-y"])?;
    ensure!(down.code == 7 && down.err.contains("no such account"), "{down:?}");
    ensure!(home.json(&["ls"])?["clusters"][0]["name"] == "demo");
    std::fs::write(home.path().join("herdsman.toml"), good)?;
    home.ok(&["down", "demo", "-y"])?;
    clean(&home, &machines)
}
