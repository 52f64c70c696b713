//! EC2 with moto's server, unmodified, behind a gate that counts.

use std::ops::Deref;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, LAPTOP, killed_after};
use herdsman_tests::home::{Home, Ran};
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

/// An account that exists nowhere.
pub(super) const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
    ("AWS_REGION", "us-east-1"),
];

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
/// The emulator is slow with long lists of types.
const TYPES: [&str; 4] = ["--type", "t3.large", "--scheduler-type", "t3.medium"];
const KEEP: [&str; 1] = ["--keep-failed"];

struct Account {
    home: Home,
    emulator: Lent,
}

/// Emulators that no test uses at the moment. They take seconds to be ready. They end
/// with the process, whose end they see.
static IDLE: Mutex<Vec<Emulator>> = Mutex::new(Vec::new());

/// An emulator that goes back to the idle ones.
struct Lent(Option<Emulator>);

impl Lent {
    fn new() -> Result<Option<Self>> {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(emulator) = idle.map_or_else(|| Emulator::start("aws", "ec2.py", &[]), |e| Ok(Some(e)))? else {
            return Ok(None);
        };
        emulator.ask("clear", &Value::Null)?;
        emulator.reset()?;
        Ok(Some(Self(Some(emulator))))
    }
}

impl Deref for Lent {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        self.0.as_ref().expect("lent until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        IDLE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(self.0.take());
    }
}

impl Account {
    fn new() -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let Some(emulator) = Lent::new()? else { return Ok(None) };
        Ok(Some(Self { home, emulator }))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.emulator.command(&self.home, args)?;
        command.envs(KEYS);
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }

    fn ok(&self, args: &[&str]) -> Result<Ran> {
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

    /// `up` of machines that never boot, with more arguments.
    fn up(&self, more: &[&str]) -> Result<Ran> {
        let types = if more.contains(&"--type") { &[][..] } else { &TYPES };
        self.run(&[&UP[..], types, &KEEP, more].concat())
    }

    /// What there is in the account.
    fn there(&self) -> Result<(Vec<Value>, Vec<Value>)> {
        let all = self.emulator.ask("instances", &Value::Null)?;
        let list = |key: &str| all[key].as_array().cloned().context(key.to_owned());
        let gone = ["terminated", "shutting-down"];
        let alive = |i: &Value| !gone.contains(&i["state"].as_str().unwrap_or_default());
        Ok((list("instances")?.into_iter().filter(alive).collect(), list("groups")?))
    }

    /// A look at an account by somebody who has nothing but its credentials.
    fn down_from_an_empty_home(&self) -> Result<Ran> {
        let empty = tempfile::tempdir()?;
        let mut command = self.command(&["down", "demo", "-y"])?;
        command
            .env("HOME", empty.path())
            .env("HERDSMAN_STATE_DIR", empty.path().join("s"));
        Ok(command.output()?.into())
    }
}

fn count(actions: &[String], action: &str) -> usize {
    actions.iter().filter(|a| *a == action).count()
}

#[test]
fn a_cluster_takes_few_calls_all_as_the_model_says_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let ran = account.up(&["--workers", "100", "--tag", "team=geo"])?;
    ensure!(ran.err.contains("E-DEADLINE"), "{}", ran.err);
    let mut actions = account.emulator.actions()?;
    // Asked for when the machines did not come.
    actions.retain(|a| a != "GetConsoleOutput");
    ensure!(actions.len() <= 12, "{} calls: {actions:?}", actions.len());
    ensure!(count(&actions, "RunInstances") == 2, "{actions:?}");
    let (machines, groups) = account.there()?;
    ensure!(machines.len() == 101, "{} machines", machines.len());
    for m in &machines {
        let tags = &m["tags"];
        for key in [
            "herdsman-cluster",
            "herdsman-id",
            "herdsman-role",
            "herdsman-owner",
            "herdsman-created",
            "herdsman-expires",
            "herdsman-ca",
            "herdsman-version",
            "team",
            "Name",
        ] {
            ensure!(tags[key].is_string(), "no tag {key}: {tags}");
        }
    }
    // The scheduler alone is open, to this computer alone.
    let entry = groups
        .iter()
        .find(|g| g["name"].as_str().is_some_and(|n| n.ends_with("-in")))
        .context("no group lets the owner in")?;
    let rules = entry["rules"].as_array().context("no rules")?;
    ensure!(rules.len() == 1, "{rules:#?}");
    ensure!(
        rules[0]["IpRanges"] == json!([{"CidrIp": format!("{LAPTOP}/32")}]),
        "{rules:#?}"
    );
    ensure!((rules[0]["FromPort"].as_u64(), rules[0]["ToPort"].as_u64()) == (Some(8785), Some(8786)));
    let open = |m: &&Value| {
        let groups = m["groups"].as_array().into_iter().flatten();
        groups.filter_map(Value::as_str).any(|n| n.ends_with("-in"))
    };
    let reachable: Vec<_> = machines.iter().filter(open).collect();
    ensure!(reachable.len() == 1 && reachable[0]["tags"]["herdsman-role"] == "scheduler");
    // What they cost is asked for by type, whatever else there is in the price list.
    account.emulator.reset()?;
    let cost: Value = serde_json::from_str(&account.ok(&["cost", "demo", "-o", "json"])?.out)?;
    let price = cost["clusters"][0]["price"]["per_hour"].as_f64();
    ensure!(price.is_some_and(|p| (p - 8.3616).abs() < 1e-6), "{cost}");
    let asked = account.emulator.actions()?;
    ensure!(count(&asked, "GetProducts") == 2 && asked.len() <= 6, "{asked:?}");
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    let (machines, groups) = account.there()?;
    ensure!(machines.is_empty() && groups.is_empty(), "{machines:?} {groups:?}");
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_launcher_that_dies_after_any_call_leaves_nothing_that_cannot_be_found() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let up = [&UP[..], &TYPES, &KEEP, &["--workers", "2"]].concat();
    let mut calls = 0;
    for nth in 1.. {
        if !killed_after(&account.emulator, &mut account.command(&up)?, nth)? {
            break;
        }
        calls = nth;
        let ran = account.down_from_an_empty_home()?;
        // After the first calls there was nothing yet.
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        let (machines, groups) = account.there()?;
        ensure!(
            machines.is_empty() && groups.is_empty(),
            "after call {nth}: {machines:?} {groups:?}\n{}",
            ran.err
        );
        // The record of a cluster that never was is in nobody's way.
        account.run(&["down", "demo", "-y"])?;
    }
    ensure!(calls >= 8, "only {calls} calls were cut off");
    Ok(())
}

#[test]
fn a_down_that_dies_after_any_call_is_finished_by_the_next() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    for nth in 1.. {
        account.up(&["--workers", "1"])?;
        let mut down = account.command(&["down", "demo", "-y"])?;
        let was_cut = killed_after(&account.emulator, &mut down, nth)?;
        let ran = account.down_from_an_empty_home()?;
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        let (machines, groups) = account.there()?;
        ensure!(
            machines.is_empty() && groups.is_empty(),
            "after call {nth}: {machines:?} {groups:?}"
        );
        account.run(&["down", "demo", "-y"])?;
        if !was_cut {
            ensure!(nth > 4, "down took {nth} calls");
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn what_a_place_has_not_is_looked_for_in_the_next() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let none_left = |more: Value| {
        let mut fault = json!({
            "action": "RunInstances", "status": 500, "code": "InsufficientInstanceCapacity",
            "message": "We currently do not have sufficient capacity in the Availability Zone you requested",
        });
        if let (Some(f), Some(m)) = (fault.as_object_mut(), more.as_object()) {
            f.extend(m.clone());
        }
        fault
    };
    // No worker of the first type anywhere; spot machines nowhere.
    account.emulator.faults(&[
        none_left(json!({"where": {"market": "spot"}, "times": 1000})),
        none_left(json!({"where": {"InstanceType": "m5.large"}, "times": 1000})),
    ])?;
    account.up(&[
        "--workers",
        "2",
        "--type",
        "m5.large",
        "--type",
        "m6i.large",
        "--spot",
        "prefer",
        "--zone",
        "a",
        "--zone",
        "b",
    ])?;
    let (machines, _) = account.there()?;
    let types: Vec<_> = machines.iter().map(|m| &m["type"]).collect();
    ensure!(
        machines.len() == 3 && types.iter().filter(|t| **t == "m6i.large").count() == 2,
        "{types:?}"
    );
    account.ok(&["down", "demo", "-y"])?;

    // One in each place makes three of three.
    account.emulator.reset()?;
    account.emulator.ask("most", &json!(1))?;
    account.up(&[
        "--workers",
        "3",
        "--type",
        "m5.large",
        "--zone",
        "a",
        "--zone",
        "b",
        "--zone",
        "c",
    ])?;
    account.emulator.ask("most", &json!(1000))?;
    let asked = account.emulator.asked()?;
    let counts: Vec<_> = asked
        .iter()
        .filter(|a| a.facts["InstanceType"] == "m5.large")
        .map(|a| a.facts["MaxCount"].as_str().unwrap_or_default())
        .collect();
    ensure!(counts == ["3", "2", "1"], "{counts:?}");
    ensure!(account.there()?.0.len() == 4);
    account.ok(&["down", "demo", "-y"])?;

    // With spot machines only, none is the answer, and what was made goes again.
    account
        .emulator
        .faults(&[none_left(json!({"where": {"market": "spot"}, "times": 1000}))])?;
    let ran = account.run(&[&UP[..], &["--workers", "1", "--type", "m5.large", "--spot", "only"]].concat())?;
    ensure!(
        ran.code == 5 && ran.err.contains("E-CAPACITY"),
        "{} {}",
        ran.code,
        ran.err
    );
    ensure!(ran.err.contains("m5.large in us-east-1"), "{}", ran.err);
    let (machines, groups) = account.there()?;
    ensure!(machines.is_empty() && groups.is_empty(), "{machines:?} {groups:?}");
    Ok(())
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let fails = |fault: Value, code: &str, exit: i32, words: &str| -> Result<()> {
        account.emulator.reset()?;
        account.emulator.faults(&[fault])?;
        let ran = account.run(&[&UP[..], &TYPES, &["--workers", "1"]].concat())?;
        ensure!(
            ran.err.contains(code) && ran.code == exit && ran.err.contains(words) && ran.err.contains("try:"),
            "{code} {exit} {words}: {} {}",
            ran.code,
            ran.err
        );
        let (machines, groups) = account.there()?;
        ensure!(machines.is_empty() && groups.is_empty(), "{machines:?} {groups:?}");
        Ok(())
    };
    let of = |action: &str, status: u64, code: &str| json!({"action": action, "status": status, "code": code, "message": "m", "times": 1000});
    fails(
        of("RunInstances", 403, "UnauthorizedOperation"),
        "E-PERM",
        4,
        "render iam",
    )?;
    fails(
        of("CreateSecurityGroup", 403, "UnauthorizedOperation"),
        "E-PERM",
        4,
        "CreateSecurityGroup",
    )?;
    fails(
        of("RunInstances", 400, "VcpuLimitExceeded"),
        "E-QUOTA",
        5,
        "servicequotas",
    )?;
    fails(
        of("DescribeInstances", 401, "AuthFailure"),
        "E-CREDENTIALS",
        4,
        "get-caller-identity",
    )?;
    fails(
        of("DescribeInstances", 400, "ExpiredToken"),
        "E-CREDENTIALS",
        4,
        "sso login",
    )?;
    fails(of("DescribeInstances", 400, "RequestExpired"), "E-CLOCK", 3, "set-ntp")?;
    Ok(())
}

#[test]
fn what_passes_is_waited_for_and_nothing_is_made_twice() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.faults(&[
        json!({"action": "DescribeSubnets", "status": 503, "code": "RequestLimitExceeded", "times": 2}),
        json!({"action": "CreateSecurityGroup", "status": 500, "code": "InternalError", "late": true}),
        json!({"action": "DescribeImages", "status": 502, "times": 1}),
        // Carried out, and the answer lost on the way.
        json!({"action": "RunInstances", "status": 500, "code": "InternalError", "late": true, "times": 2}),
        json!({"action": "DescribeInstances", "drop": true, "times": 1}),
    ])?;
    account.up(&["--workers", "2"])?;
    let asked = account.emulator.asked()?;
    let runs: Vec<_> = asked.iter().filter(|a| a.action == "RunInstances").collect();
    let mut tokens: Vec<_> = runs.iter().map(|a| a.facts["form"]["ClientToken"].as_str()).collect();
    tokens.sort();
    let all = tokens.len();
    tokens.dedup();
    ensure!(all > tokens.len(), "no call was repeated: {tokens:?}");
    let (machines, groups) = account.there()?;
    ensure!(machines.len() == 3 && groups.len() == 2, "{machines:?} {groups:?}");
    account.ok(&["down", "demo", "-y"])?;
    Ok(())
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("profile", &json!("worker-profile"))?;
    let ran = account.up(&[
        "--workers",
        "1",
        "--private",
        "--type",
        "m5.large",
        "--scheduler-type",
        "t3.small",
        "--disk",
        "60GiB",
        "--disk-type",
        "gp3",
        "--role",
        "worker-profile",
        "--spot",
        "only",
        "--region",
        "eu-west-1",
        "--zone",
        "b",
        "--set",
        "aws.iops=3000",
        "--set",
        "aws.detailed_monitoring=true",
        "--set",
        "aws.encrypted=true",
        "--set",
        "aws.spot_max_price=0.25",
        "--set",
        "aws.cpu_credits=standard",
        "--set",
        "aws.instance_tags.a=b",
        "--set",
        "aws.volume_tags.c=d",
        "--set",
        "aws.extra.EbsOptimized=true",
    ])?;
    ensure!(ran.err.contains("E-DEADLINE"), "{}", ran.err);
    let asked = account.emulator.asked()?;
    let runs: Vec<_> = asked.iter().filter(|a| a.action == "RunInstances").collect();
    let form = |kind: &str| {
        let of = runs.iter().find(|a| a.facts["form"]["InstanceType"] == kind);
        of.map(|a| &a.facts["form"]).with_context(|| format!("no {kind}"))
    };
    let (worker, scheduler) = (form("m5.large")?, form("t3.small")?);
    for (key, wanted) in [
        ("InstanceInitiatedShutdownBehavior", "terminate"),
        ("MetadataOptions.HttpTokens", "required"),
        ("MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("NetworkInterface.1.AssociatePublicIpAddress", "false"),
        ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "60"),
        ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
        ("BlockDeviceMapping.1.Ebs.Iops", "3000"),
        ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
        ("IamInstanceProfile.Name", "worker-profile"),
        ("InstanceMarketOptions.MarketType", "spot"),
        ("InstanceMarketOptions.SpotOptions.MaxPrice", "0.25"),
        ("Monitoring.Enabled", "true"),
        ("CreditSpecification.CpuCredits", "standard"),
        ("EbsOptimized", "true"),
    ] {
        ensure!(worker[key] == wanted, "{key}: {}", worker[key]);
    }
    ensure!(
        scheduler["InstanceMarketOptions.MarketType"].is_null(),
        "the scheduler can be taken away"
    );
    ensure!(runs.iter().all(|a| a.facts["region"] == "eu-west-1"));
    let text = worker.to_string();
    ensure!(text.contains("\"c\"") && text.contains("\"a\""), "tags are missing");
    // The record knows the region; the shell has another.
    account.ok(&["down", "demo", "-y"])?;
    let last = account.emulator.asked()?;
    ensure!(
        last.iter()
            .all(|a| a.action != "TerminateInstances" || a.facts["region"] == "eu-west-1")
    );
    ensure!(count(&account.emulator.actions()?, "TerminateInstances") == 1);
    Ok(())
}

#[test]
fn recorded_answers_of_the_vendor_are_understood() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask(
        "recorded",
        &json!({
            "files": {
                "DescribeInstances": "describe_instances.xml",
                "DescribeImages": "describe_images.xml",
                "DescribeSubnets": "describe_subnets.xml",
                "DescribeSecurityGroups": "describe_security_groups.xml",
                "DescribeVolumes": "describe_volumes.xml",
            },
            "tags": {
                "herdsman-cluster": "demo", "herdsman-id": "aaaaaaaaaa", "herdsman-role": "worker",
                "herdsman-node": "demo-w0", "herdsman-created": "1000000000", "herdsman-expires": "1000003600",
            },
        }),
    )?;
    let reaped: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    let strays = reaped["strays"].to_string();
    // The one that had no tags; the other has those of its owner, and is nobody of ours.
    ensure!(
        strays.contains("i-4382922a") && !strays.contains("i-8474834a"),
        "{strays}"
    );
    ensure!(!strays.contains("sg-") && !strays.contains("vol-"), "{strays}");
    let ran = account.run(&["check", "-o", "json"])?;
    let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    let findings = report["providers"][0]["findings"].as_array().context("no findings")?;
    for what in ["network", "image"] {
        let found = findings.iter().find(|f| f["what"] == what).context(what)?;
        ensure!(!found.to_string().contains("not what it should be"), "{found:#}");
    }
    account.emulator.ask("clear", &Value::Null)?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn strays_are_found_and_reaped() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&["--workers", "1"])?;
    let none: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    ensure!(none["strays"] == json!([]), "{none}");
    let old = account
        .ok(&["reap", "--older-than", "0s"])
        .or_else(|_| account.ok(&["reap", "--older-than", "1s"]))?;
    ensure!(
        old.out.contains("machine") && old.out.contains("security group"),
        "{}",
        old.out
    );
    ensure!(account.there()?.0.len() == 2, "a look deleted something");
    account.ok(&["reap", "-y", "--older-than", "1s"])?;
    let (machines, groups) = account.there()?;
    ensure!(machines.is_empty() && groups.is_empty(), "{machines:?} {groups:?}");
    Ok(())
}

#[test]
fn an_account_is_looked_at_without_making_anything() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let ran = account.run(&["check", "-o", "json"])?;
    let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    let findings = report["providers"][0]["findings"].as_array().context("no findings")?;
    let mood = |what: &str| findings.iter().find(|f| f["what"] == what).map(|f| &f["mood"]);
    for what in [
        "credentials",
        "identity",
        "clock",
        "network",
        "image",
        "permissions",
        "quota",
        "price",
    ] {
        ensure!(mood(what) == Some(&json!("good")), "{what}: {findings:#?}");
    }
    account.emulator.faults(&[json!({
        "action": "RunInstances", "status": 403, "code": "UnauthorizedOperation", "times": 9,
    })])?;
    let ran = account.run(&["check"])?;
    ensure!(
        ran.code == 3 && ran.out.contains("missing: RunInstances"),
        "{}",
        ran.out
    );
    let sizes: Value = serde_json::from_str(
        &account
            .ok(&["sizes", "--cpu", "4", "--memory", "16GiB", "-o", "json"])?
            .out,
    )?;
    let first = &sizes["sizes"][0];
    ensure!(
        first["name"] == "t3.xlarge" && first["price"]["per_hour"] == 0.1664,
        "{first}"
    );
    // The list is good for a day.
    account.emulator.reset()?;
    let again: Value = serde_json::from_str(
        &account
            .ok(&["sizes", "--cpu", "4", "--memory", "16GiB", "-o", "json"])?
            .out,
    )?;
    ensure!(again == sizes, "{again}");
    ensure!(count(&account.emulator.actions()?, "GetProducts") == 0);
    let plan: Value = serde_json::from_str(
        &account
            .run(&["up", "demo", "--workers", "2", "--plan", "-o", "json"])?
            .out,
    )?;
    ensure!(
        plan["price_per_hour"]["per_hour"]
            .as_f64()
            .is_some_and(|p| (p - 0.208).abs() < 1e-9),
        "{plan:#}"
    );
    let (machines, groups) = account.there()?;
    ensure!(machines.is_empty() && groups.is_empty(), "{machines:?} {groups:?}");
    account.emulator.asked()?;
    // Nobody at all.
    let mut command = account.command(&["check"])?;
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let ran: Ran = command.output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no credentials for AWS"),
        "{} {}",
        ran.code,
        ran.out
    );
    Ok(())
}

/// Runs `up` and `down` as somebody with this policy; gives what they said. What is
/// left is deleted by somebody else.
fn as_user(account: &Account, policy: &Value) -> Result<(Ran, Ran)> {
    let key = account.emulator.ask("user", policy)?;
    let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
    let command = |args: &[&str]| -> Result<Ran> {
        let mut command = account.command(args)?;
        command
            .env("AWS_ACCESS_KEY_ID", text("id"))
            .env("AWS_SECRET_ACCESS_KEY", text("secret"));
        Ok(command.output()?.into())
    };
    let up = command(&[&UP[..], &TYPES, &KEEP, &["--workers", "1"]].concat())?;
    let down = command(&["down", "demo", "-y"])?;
    account.emulator.ask("user", &Value::Null)?;
    account.run(&["down", "demo", "-y"])?;
    Ok((up, down))
}

#[test]
fn the_policy_is_enough_and_none_of_it_is_too_much() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    let mut policy: Value = serde_json::from_str(&account.ok(&["render", "iam"])?.out)?;
    // moto knows no conditions on tags; it would say no to all of them.
    for statement in policy["Statement"].as_array_mut().context("no statements")? {
        statement.as_object_mut().map(|s| s.remove("Condition"));
    }
    // The signature is looked at as well, by the vendor's own code.
    let (up, down) = as_user(&account, &policy)?;
    ensure!(
        up.err.contains("E-DEADLINE") && down.code == 0,
        "{}\n{}",
        up.err,
        down.err
    );
    for action in [
        "DescribeImages",
        "DescribeInstanceTypes",
        "DescribeInstances",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "DescribeVolumes",
        "CreateSecurityGroup",
        "RunInstances",
        "AuthorizeSecurityGroupIngress",
        "DeleteSecurityGroup",
        "TerminateInstances",
    ] {
        let mut less = policy.clone();
        for statement in less["Statement"].as_array_mut().into_iter().flatten() {
            if let Some(actions) = statement["Action"].as_array_mut() {
                actions.retain(|a| *a != format!("ec2:{action}"));
            }
        }
        ensure!(less != policy, "{action} is not in the policy");
        let (up, down) = as_user(&account, &less)?;
        let said = format!("{}\n{}", up.err, down.err);
        ensure!(
            said.contains(&format!("perform: ec2:{action}")),
            "without {action}: {said}"
        );
    }
    Ok(())
}
