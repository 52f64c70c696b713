//! What is asked of every cloud whose emulator is ours: the same stories, told with
//! each vendor's words.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, killed_after};
use herdsman_tests::home::{Home, Ran};
use serde_json::{Value, json};

/// What differs between them.
pub(super) struct Vendor {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    /// Variable and value of a token that may do all.
    pub(super) token: (&'static str, &'static str),
    /// The call that makes machines.
    pub(super) create: &'static str,
    /// The call that lists them.
    pub(super) list: &'static str,
    /// Things in an account, by the emulator's names.
    pub(super) things: &'static [&'static str],
    /// Two types, the cheaper first, that are large enough for workers.
    pub(super) types: [&'static str; 2],
}

/// Machines that never boot: what counts is what was asked for. The agent's address
/// leads nowhere, and nobody goes there.
const UP: [&str; 8] = [
    "up",
    "demo",
    "-y",
    "-q",
    "--start-timeout",
    "1s",
    "--set",
    "agent.url=https://agents.example/{arch}",
];

/// An account with an emulator of its own.
pub(super) struct Account {
    pub(super) home: Home,
    pub(super) emulator: Emulator,
    vendor: &'static Vendor,
}

impl Account {
    pub(super) fn new(vendor: &'static Vendor) -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let Some(emulator) = Emulator::start(vendor.name, vendor.script, &[])? else {
            return Ok(None);
        };
        Ok(Some(Self { home, emulator, vendor }))
    }

    pub(super) fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.emulator.command(&self.home, args)?;
        command.env(self.vendor.token.0, self.vendor.token.1);
        Ok(command)
    }

    pub(super) fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    pub(super) fn ok(&self, args: &[&str]) -> Result<Ran> {
        let ran = self.run(args)?;
        ensure!(
            ran.code == 0,
            "{args:?} ended with {}\n{}\n{}",
            ran.code,
            ran.out,
            ran.err
        );
        Ok(ran)
    }

    /// `up` of machines that never boot, and stay.
    pub(super) fn up(&self, more: &[&str]) -> Result<Ran> {
        let ran = self.run(&[&UP[..], &["--keep-failed"], more].concat())?;
        ensure!(ran.err.contains("E-DEADLINE"), "{}", ran.err);
        Ok(ran)
    }

    /// The same, and what was made goes again.
    pub(super) fn up_in_vain(&self, more: &[&str]) -> Result<Ran> {
        self.run(&[&UP[..], more].concat())
    }

    /// What there is, by kind.
    pub(super) fn there(&self) -> Result<Value> {
        self.emulator.ask("there", &Value::Null)
    }

    pub(super) fn machines(&self) -> Result<Vec<Value>> {
        self.there()?["machines"].as_array().cloned().context("no machines")
    }

    /// Wants an account without anything of ours.
    pub(super) fn is_empty(&self) -> Result<()> {
        let there = self.there()?;
        for kind in self.vendor.things {
            ensure!(there[kind] == json!([]), "{kind} are left: {:#}", there[kind]);
        }
        Ok(())
    }

    /// A look at an account by somebody who has nothing but its credentials.
    pub(super) fn down_from_an_empty_home(&self) -> Result<Ran> {
        let empty = tempfile::tempdir()?;
        let mut command = self.command(&["down", "demo", "-y"])?;
        command
            .env("HOME", empty.path())
            .env("HERDSMAN_STATE_DIR", empty.path().join("s"));
        Ok(command.output()?.into())
    }

    /// How often a call was made.
    pub(super) fn count(&self, action: &str) -> Result<usize> {
        Ok(self.emulator.actions()?.iter().filter(|a| *a == action).count())
    }

    /// Bodies of the calls that made machines.
    pub(super) fn requests(&self) -> Result<Vec<Value>> {
        let asked = self.emulator.asked()?;
        let made = asked.into_iter().filter(|a| a.action == self.vendor.create);
        Ok(made.map(|mut a| a.facts["body"].take()).collect())
    }

    /// What a check found.
    pub(super) fn check(&self) -> Result<Value> {
        let ran = self.run(&["check", "-o", "json"])?;
        let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
        Ok(report["providers"][0]["findings"].clone())
    }
}

/// What is bad. That no release was built is no fault of the account's.
pub(super) fn bad(findings: &Value) -> Vec<&str> {
    let all = findings.as_array().into_iter().flatten();
    let bad = all.filter(|f| f["mood"] == "bad").filter_map(|f| f["what"].as_str());
    bad.filter(|what| *what != "agent").collect()
}

/// The finding about something.
pub(super) fn mood(findings: &Value, what: &str) -> String {
    let found = findings.as_array().into_iter().flatten().find(|f| f["what"] == what);
    found.map_or_else(
        || "none".to_owned(),
        |f| f["mood"].as_str().unwrap_or_default().to_owned(),
    )
}

/// kill -9 after every single call of `up`.
pub(super) fn an_up_that_dies(vendor: &'static Vendor) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    let up = [&UP[..], &["--keep-failed", "--workers", "2"]].concat();
    let mut calls = 0;
    for nth in 1.. {
        if !killed_after(&account.emulator, &mut account.command(&up)?, nth)? {
            break;
        }
        calls = nth;
        let ran = account.down_from_an_empty_home()?;
        // After the first calls there was nothing yet.
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account
            .is_empty()
            .with_context(|| format!("after call {nth}\n{}", ran.err))?;
        account.emulator.asked()?;
        // The record of a cluster that never was is in nobody's way.
        account.run(&["down", "demo", "-y"])?;
    }
    ensure!(calls >= 8, "only {calls} calls were cut off");
    Ok(())
}

/// The same of `down`: after every call in the complete suite, else after each third.
pub(super) fn a_down_that_dies(vendor: &'static Vendor) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    let complete = std::env::var_os("HERDSMAN_TEST_COMPLETE").is_some();
    for nth in (1..).step_by(if complete { 1 } else { 3 }) {
        account.up(&["--workers", "1"])?;
        let mut down = account.command(&["down", "demo", "-y"])?;
        let was_cut = killed_after(&account.emulator, &mut down, nth)?;
        let ran = account.down_from_an_empty_home()?;
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.is_empty().with_context(|| format!("after call {nth}"))?;
        account.run(&["down", "demo", "-y"])?;
        if !was_cut {
            ensure!(nth > 4, "down took {nth} calls");
            return Ok(());
        }
    }
    Ok(())
}

/// Types that are sold out, at once or by an action that fails later.
pub(super) fn the_next_type(vendor: &'static Vendor) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    let [first, second] = vendor.types;
    account.emulator.ask("places", &json!({"sold_out": [first]}))?;
    account.up(&["--workers", "2", "--type", first, "--type", second])?;
    let of_second = |m: &Value| m["size"] == second || m["kind"] == second;
    let machines = account.machines()?;
    ensure!(
        machines.len() == 3 && machines.iter().filter(|m| of_second(m)).count() >= 2,
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;

    // None of the only one: that is the answer, and nothing stays.
    let ran = account.up_in_vain(&["--workers", "1", "--type", first])?;
    ensure!(
        ran.code == 5 && ran.err.contains("E-CAPACITY") && ran.err.contains(first),
        "{} {}",
        ran.code,
        ran.err
    );
    account.is_empty()?;

    // Taken on, and not made after all: what is half made goes, and the next is tried.
    account.emulator.ask("places", &json!({"sold_out": [], "fail": 1}))?;
    account.up(&["--workers", "0"])?;
    let machines = account.machines()?;
    ensure!(machines.len() == 1, "{machines:#?}");
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

/// Errors by their codes, exits and hints.
pub(super) fn errors(vendor: &'static Vendor, cases: &[(Value, &str, i32, &str)]) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    for (fault, code, exit, words) in cases {
        account.emulator.reset()?;
        let mut fault = fault.clone();
        fault["times"] = 1000.into();
        account.emulator.faults(&[fault])?;
        let ran = account.up_in_vain(&["--workers", "1"])?;
        ensure!(
            ran.err.contains(code) && ran.code == *exit && ran.err.contains(words) && ran.err.contains("try:"),
            "{code} {exit} {words}: {} {}",
            ran.code,
            ran.err
        );
        account.is_empty()?;
    }
    Ok(())
}

/// What the account may have is used up; the next command with fewer works.
pub(super) fn a_limit(vendor: &'static Vendor) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    account.emulator.ask("places", &json!({"limit": 3}))?;
    let ran = account.up_in_vain(&["--workers", "5"])?;
    ensure!(ran.code == 5 && ran.err.contains("E-QUOTA"), "{} {}", ran.code, ran.err);
    account.is_empty()?;
    account.up(&["--workers", "2"])?;
    ensure!(account.machines()?.len() == 3);
    account.emulator.asked()?;
    Ok(())
}

/// Answers that are lost after the call was carried out, and servers that break.
pub(super) fn nothing_twice(vendor: &'static Vendor, others: &[Value]) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    let mut faults = vec![
        json!({"action": vendor.create, "status": 500, "late": true, "times": 2}),
        json!({"action": vendor.list, "drop": true, "times": 1}),
        json!({"action": vendor.list, "status": 503, "times": 1, "skip": 2}),
    ];
    faults.extend_from_slice(others);
    account.emulator.faults(&faults)?;
    account.up(&["--workers", "2"])?;
    let machines = account.machines()?;
    let mut names: Vec<&str> = machines.iter().filter_map(|m| m["name"].as_str()).collect();
    names.sort_unstable();
    ensure!(names == ["demo-scheduler", "demo-w0", "demo-w1"], "{names:?}");
    account.emulator.faults(&[])?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

/// More calls than the vendor takes in so short a time: a limit that its headers tell
/// is kept, or at least waited for.
pub(super) fn a_rate(vendor: &'static Vendor, limit: &Value) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    account.emulator.ask("burst", limit)?;
    account.up(&["--workers", "4"])?;
    ensure!(account.machines()?.len() == 5);
    let asked = account.emulator.asked()?;
    let most = limit["calls"].as_u64().context("calls")?;
    ensure!(
        asked.len() as u64 > most,
        "{} calls are no test of a limit of {most}",
        asked.len()
    );
    let refused = asked.iter().filter(|a| a.status == Some(429)).count();
    ensure!(
        refused < asked.len() / 3,
        "{refused} of {} calls against a limit that was told",
        asked.len()
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

/// Many machines: pages, few calls, and no name lost.
pub(super) fn many(vendor: &'static Vendor, most_calls: usize) -> Result<()> {
    const WORKERS: usize = 60;
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    account.emulator.ask("places", &json!({"limit": 300}))?;
    account.up(&["--workers", &WORKERS.to_string(), "--max-workers", "100"])?;
    let calls = account.emulator.actions()?.len();
    ensure!(calls <= most_calls, "{calls} calls: {:?}", account.emulator.actions()?);
    ensure!(account.machines()?.len() == WORKERS + 1);
    let list: Value = serde_json::from_str(&account.ok(&["ls", "-o", "json"])?.out)?;
    let text = list.to_string();
    ensure!(text.contains("\"demo\"") && text.contains("60"), "{text}");
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

/// Strays of all kinds, and machines that powered themselves off.
pub(super) fn strays(vendor: &'static Vendor, kinds: &[&str]) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    account.up(&["--workers", "1"])?;
    let strays = |args: &[&str]| -> Result<Value> {
        let text = account.ok(&[&["reap", "-o", "json"], args].concat())?.out;
        Ok(serde_json::from_str::<Value>(&text)?["strays"].clone())
    };
    ensure!(
        strays(&[])? == json!([]),
        "a whole cluster has strays: {}",
        strays(&[])?
    );
    account.emulator.ask("off", &json!("demo-w0"))?;
    let off = strays(&[])?.to_string();
    ensure!(off.contains("demo-w0") && off.contains("powered off"), "{off}");
    let old = account.ok(&["reap", "--older-than", "1s"])?.out;
    for kind in kinds {
        ensure!(old.contains(kind), "no {kind} in\n{old}");
    }
    ensure!(account.machines()?.len() == 2, "a look deleted something");
    account.ok(&["reap", "-y", "--older-than", "1s"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

/// Machines whose deletion is asked for while they are being made, and which lists do
/// not show yet.
pub(super) fn slow_to_appear(vendor: &'static Vendor) -> Result<()> {
    let Some(account) = Account::new(vendor)? else {
        return Ok(());
    };
    account.emulator.ask("timing", &json!({"listed": 3.0, "ready": 4.0}))?;
    let up = [&UP[..], &["--keep-failed", "--workers", "1"]].concat();
    // Killed when the scheduler's machine was taken on: as often as calls come before.
    account.run(&up)?;
    let actions = account.emulator.actions()?;
    let nth = 1 + actions.iter().position(|a| a == vendor.create).context("no machine")?;
    account.ok(&["down", "demo", "-y"])?;
    let was_cut = killed_after(&account.emulator, &mut account.command(&up)?, u64::try_from(nth)?)?;
    ensure!(
        was_cut && account.count(vendor.create)? == 1,
        "no machine was asked for"
    );
    let ran = account.down_from_an_empty_home()?;
    ensure!([0, 3].contains(&ran.code), "{}", ran.err);
    // What lists did not show then, they show now.
    let started = std::time::Instant::now();
    while account.is_empty().is_err() {
        ensure!(started.elapsed() < herdsman_tests::home::LONG, "{}", ran.err);
        std::thread::sleep(std::time::Duration::from_millis(500));
        account.down_from_an_empty_home()?;
    }
    account.run(&["down", "demo", "-y"])?;
    account.is_empty()
}
