//! OpenStack with an emulator of its four services, whose requests and answers are held
//! against the services' own schemas.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, LAPTOP, killed_after};
use herdsman_tests::home::{Home, Ran};
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

/// A user that exists nowhere.
pub(super) const KEYS: [(&str, &str); 4] = [
    ("OS_USERNAME", "ann"),
    ("OS_PASSWORD", "not-a-secret"),
    ("OS_PROJECT_NAME", "geo"),
    ("OS_REGION_NAME", "RegionOne"),
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

struct Account {
    home: Home,
    emulator: Emulator,
}

impl Account {
    fn new() -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let made = Emulator::start("openstack", "openstack.py", &[])?;
        let Some(emulator) = made else { return Ok(None) };
        emulator.ask("build", &json!(0.2))?;
        Ok(Some(Self { home, emulator }))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.emulator.command(&self.home, args)?;
        command.envs(KEYS).env(
            "HERDSMAN_OPENSTACK_ENDPOINT",
            format!("{}/identity", self.emulator.url()),
        );
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

    /// `up` of machines that never boot and stay, with more arguments.
    fn up(&self, more: &[&str]) -> Result<Ran> {
        self.run(&[&UP[..], &["--keep-failed"], more].concat())
    }

    /// What there is in the project.
    fn there(&self, kind: &str) -> Result<Vec<Value>> {
        let all = self.emulator.ask("there", &json!(false))?;
        all[kind].as_array().cloned().with_context(|| kind.to_owned())
    }

    fn nothing_is_left(&self, when: &str) -> Result<()> {
        let all = self.emulator.ask("there", &json!(false))?;
        let none = json!({"servers": [], "groups": [], "ports": [], "floating": [], "server_groups": []});
        ensure!(all == none, "{when}: {all:#}");
        Ok(())
    }

    /// The bodies of all calls that make servers, by node.
    fn body(&self, node: &str) -> Result<Value> {
        let asked = self.emulator.asked()?;
        let of = asked
            .into_iter()
            .find(|a| a.action == "POST servers" && a.facts["node"] == node);
        Ok(of.with_context(|| format!("no call made {node}"))?.facts["body"].clone())
    }

    /// A look at a project by somebody who has nothing but its credentials.
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
fn a_cluster_is_made_all_as_the_model_says_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let ran = account.up(&["--workers", "5", "--tag", "team=geo"])?;
    ensure!(ran.err.contains("E-DEADLINE"), "{}", ran.err);
    let actions = account.emulator.actions()?;
    // One call a machine, five for the firewall, one for a token, one for an address; what is
    // looked at does not grow with the machines but for pages of lists.
    ensure!(count(&actions, "POST servers") == 6, "{actions:?}");
    ensure!(count(&actions, "POST auth/tokens") == 1, "{actions:?}");
    ensure!(count(&actions, "POST security-groups") == 2 && count(&actions, "POST security-group-rules") == 3);
    ensure!(count(&actions, "POST floatingips") == 1, "{actions:?}");
    let servers = account.there("servers")?;
    ensure!(servers.len() == 6, "{servers:#?}");
    for s in &servers {
        for key in [
            "herdsman-cluster",
            "herdsman-id",
            "herdsman-role",
            "herdsman-node",
            "herdsman-owner",
            "herdsman-created",
            "herdsman-expires",
            "herdsman-ca",
            "herdsman-version",
            "team",
        ] {
            ensure!(s["metadata"][key].is_string(), "no {key}: {s:#}");
        }
        ensure!(s["tags"] == json!(["herdsman", "herdsman:demo"]), "{s:#}");
    }
    // The scheduler alone is open, to this computer alone.
    let groups = account.there("groups")?;
    let (entry, inner): (Vec<_>, Vec<_>) = groups
        .iter()
        .partition(|g| g["name"].as_str().is_some_and(|n| n.ends_with("-in")));
    ensure!(entry.len() == 1 && inner.len() == 1, "{groups:#?}");
    let rules = entry[0]["rules"].as_array().context("no rules")?;
    ensure!(rules.len() == 1, "{rules:#?}");
    ensure!(rules[0]["remote_ip_prefix"] == format!("{LAPTOP}/32"), "{rules:#?}");
    ensure!(rules[0]["port_range_min"] == 8785 && rules[0]["port_range_max"] == 8786 && rules[0]["protocol"] == "tcp");
    for rule in inner[0]["rules"].as_array().context("no rules")? {
        ensure!(rule["remote_group_id"] == rule["security_group_id"], "{rule:#}");
    }
    let open = |s: &&Value| s["groups"].as_array().is_some_and(|g| g.contains(&entry[0]["name"]));
    let reachable: Vec<_> = servers.iter().filter(open).collect();
    ensure!(reachable.len() == 1 && reachable[0]["metadata"]["herdsman-role"] == "scheduler");
    let floating = account.there("floating")?;
    ensure!(floating.len() == 1, "{floating:#?}");
    // The next list has the address that the laptop uses.
    let listed = account.ok(&["ls", "-o", "json"])?;
    let record = account
        .ok(&["status", "demo", "-o", "json"])
        .map_or_else(|e| e.to_string(), |r| r.out);
    ensure!(listed.out.contains("demo"), "{} {record}", listed.out);

    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.nothing_is_left("after down")?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_launcher_that_dies_after_any_call_leaves_nothing_that_cannot_be_found() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    // With everything that can be left: addresses for all, ports and a server group.
    let more = [
        "--keep-failed",
        "--workers",
        "1",
        "--subnet",
        "private-subnet",
        "--set",
        "openstack.floating_ip=all",
        "--set",
        "openstack.server_group=soft-anti-affinity",
    ];
    let up = [&UP[..], &more].concat();
    let mut calls = 0;
    for nth in 1.. {
        // Its record is nobody's but its own.
        let record = tempfile::tempdir()?;
        let mut command = account.command(&up)?;
        command.env("HERDSMAN_STATE_DIR", record.path().join("s"));
        if !killed_after(&account.emulator, &mut command, nth)? {
            break;
        }
        calls = nth;
        let ran = account.down_from_an_empty_home()?;
        // After the first calls there was nothing yet.
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.nothing_is_left(&format!("after call {nth}: {}", ran.err))?;
    }
    ensure!(calls >= 25, "only {calls} calls were cut off");
    Ok(())
}

#[test]
fn a_down_that_dies_after_any_call_is_finished_by_the_next() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    for nth in 1.. {
        account.up(&["--workers", "1", "--subnet", "private-subnet"])?;
        let mut down = account.command(&["down", "demo", "-y"])?;
        let was_cut = killed_after(&account.emulator, &mut down, nth)?;
        let ran = account.down_from_an_empty_home()?;
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.nothing_is_left(&format!("after call {nth}: {}", ran.err))?;
        account.run(&["down", "demo", "-y"])?;
        if !was_cut {
            ensure!(nth > 12, "down took {nth} calls");
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn what_a_place_has_not_is_looked_for_in_the_next() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    // Nova takes the order and finds no host for it later.
    account
        .emulator
        .ask("full", &json!([["m1.large", null], ["m1.xlarge", "nova"]]))?;
    let places = [
        "--workers",
        "3",
        "--type",
        "m1.large",
        "--type",
        "m1.xlarge",
        "--zone",
        "nova",
        "--zone",
        "zone-b",
    ];
    account.up(&places)?;
    let servers = account.there("servers")?;
    let alive: Vec<_> = servers.iter().filter(|s| s["status"] != "ERROR").collect();
    let right = alive
        .iter()
        .filter(|s| s["flavor"] == "m1.xlarge" && s["zone"] == "zone-b");
    ensure!(right.count() == 3 && alive.len() == 4, "{servers:#?}");
    ensure!(servers.len() == alive.len(), "a machine in error is left: {servers:#?}");
    account.ok(&["down", "demo", "-y"])?;

    // Nowhere at all: what was made goes again.
    account.emulator.ask("full", &json!([["m1.large", null]]))?;
    let ran = account.run(&[&UP[..], &["--workers", "2", "--type", "m1.large", "--zone", "zone-b"]].concat())?;
    ensure!(
        ran.code == 5 && ran.err.contains("E-CAPACITY"),
        "{} {}",
        ran.code,
        ran.err
    );
    ensure!(
        ran.err.contains("m1.large in zone-b") && ran.err.contains("No valid host"),
        "{}",
        ran.err
    );
    account.nothing_is_left("after a failed up")?;

    // A part of the network without addresses.
    account.emulator.ask("full", &json!([]))?;
    account.emulator.ask("spent", &json!(["private-subnet"]))?;
    account.up(&[
        "--workers",
        "1",
        "--subnet",
        "private-subnet",
        "--subnet",
        "other-subnet",
    ])?;
    let servers = account.there("servers")?;
    let inside = |s: &&Value| s["address"].as_str().is_some_and(|a| a.starts_with("10.0.128."));
    ensure!(servers.iter().filter(inside).count() == 2, "{servers:#?}");
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let ends = |more: &[&str], code: &str, exit: i32, words: &str| -> Result<()> {
        let ran = account.run(&[&UP[..], &["--workers", "1"], more].concat())?;
        ensure!(
            ran.err.contains(code) && ran.code == exit && ran.err.contains(words) && ran.err.contains("try:"),
            "{code} {exit} {words}: {} {}",
            ran.code,
            ran.err
        );
        account.nothing_is_left(words)
    };
    let fails = |fault: Value, code: &str, exit: i32, words: &str| -> Result<()> {
        account.emulator.reset()?;
        account.emulator.faults(&[fault])?;
        ends(&[], code, exit, words)
    };
    let of = |action: &str, status: u64, code: &str, message: &str| json!({"action": action, "status": status, "code": code, "message": message, "times": 1000});
    fails(
        of(
            "POST servers",
            403,
            "",
            "Policy doesn't allow os_compute_api:servers:create to be performed.",
        ),
        "E-PERM",
        4,
        "render iam",
    )?;
    fails(
        of(
            "POST security-groups",
            403,
            "PolicyNotAuthorized",
            "rule:create_security_group is disallowed by policy",
        ),
        "E-PERM",
        4,
        "create security group",
    )?;
    fails(
        of(
            "POST security-groups",
            409,
            "OverQuota",
            "Quota exceeded for resources: ['security_group'].",
        ),
        "E-QUOTA",
        5,
        "limits show",
    )?;
    fails(
        of("GET servers/detail", 401, "", "m"),
        "E-CREDENTIALS",
        4,
        "token issue",
    )?;
    fails(
        of("POST auth/tokens", 401, "Unauthorized", "m"),
        "E-CREDENTIALS",
        4,
        "token issue",
    )?;
    account.emulator.reset()?;
    account.emulator.ask("limits", &json!({"cores": 3}))?;
    ends(&[], "E-QUOTA", 5, "already used")?;
    account
        .emulator
        .ask("limits", &json!({"cores": 800, "floatingip": 0}))?;
    ends(&[], "E-QUOTA", 5, "floatingip")?;
    account.emulator.ask("limits", &json!({"floatingip": 20}))?;
    ends(&["--ssh-key", "nobody"], "E-USAGE", 2, "keypair list")?;
    ends(&["--zone", "mars"], "E-USAGE", 2, "availability zone")?;
    ends(&["--type", "m1.lrge"], "E-USAGE", 2, "did you mean m1.large")?;
    ends(&["--region", "Mars"], "E-USAGE", 2, "RegionOne, RegionTwo")?;
    ends(&["--image", "Plan 9"], "E-NOT-FOUND", 3, "image list")?;
    ends(&["--network", "none"], "E-NOT-FOUND", 3, "network list")?;
    account.emulator.ask("unrouted", &Value::Null)?;
    ends(&[], "E-USAGE", 2, "router add subnet")?;
    Ok(())
}

#[test]
fn what_passes_is_waited_for_and_nothing_is_made_twice() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("lag", &json!(0.6))?;
    account.emulator.faults(&[
        json!({"action": "GET networks", "status": 429, "headers": {"retry-after": "1"}, "times": 2}),
        json!({"action": "GET images", "status": 502, "times": 1}),
        json!({"action": "GET flavors/detail", "drop": true, "times": 1}),
        // Carried out, and the answer lost on the way.
        json!({"action": "POST security-groups", "status": 500, "late": true, "times": 1}),
        json!({"action": "POST security-group-rules", "status": 503, "late": true, "times": 2}),
        json!({"action": "POST servers", "status": 504, "late": true, "times": 2}),
        json!({"action": "POST servers", "status": 500, "skip": 2, "times": 1}),
        json!({"action": "POST floatingips", "status": 500, "late": true, "times": 1}),
        json!({"action": "DELETE servers/*", "status": 409, "message": "Cannot 'delete' instance while it is in task_state spawning", "times": 1}),
    ])?;
    account.up(&["--workers", "2"])?;
    let nodes: Vec<_> = account
        .there("servers")?
        .iter()
        .map(|s| s["name"].to_string())
        .collect();
    ensure!(nodes.len() == 3, "{nodes:?}");
    ensure!(account.there("groups")?.len() == 2 && account.there("floating")?.len() == 1);
    // A token that ends in the middle of everything.
    account
        .emulator
        .faults(&[json!({"action": "GET servers/detail", "status": 401, "skip": 1, "times": 1})])?;
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&[
        "--workers",
        "1",
        "--private",
        "--type",
        "c2.large",
        "--scheduler-type",
        "3",
        "--disk",
        "60GiB",
        "--disk-type",
        "fast",
        "--ssh-key",
        "ann-key",
        "--zone",
        "zone-b",
        "--image",
        "os_distro=ubuntu,os_version=24.04",
        "--set",
        "openstack.config_drive=true",
        "--set",
        "openstack.server_group=anti-affinity",
        "--set",
        "openstack.metadata.a=b",
        "--set",
        "openstack.hints.query=x",
        "--set",
        "openstack.extra.description=dask",
    ])?;
    let body = account.body("demo-w0")?;
    let server = &body["server"];
    let disk = &server["block_device_mapping_v2"][0];
    for (what, found, wanted) in [
        ("flavor", &server["flavorRef"], json!("c2")),
        ("image", &server["imageRef"], Value::Null),
        ("size", &disk["volume_size"], json!(60)),
        ("kind", &disk["volume_type"], json!("fast")),
        ("its end", &disk["delete_on_termination"], json!(true)),
        ("key", &server["key_name"], json!("ann-key")),
        ("zone", &server["availability_zone"], json!("zone-b")),
        ("drive", &server["config_drive"], json!(true)),
        ("metadata", &server["metadata"]["a"], json!("b")),
        ("extra", &server["description"], json!("dask")),
        ("hint", &body["os:scheduler_hints"]["query"], json!("x")),
    ] {
        ensure!(*found == wanted, "{what}: {found}");
    }
    ensure!(body["os:scheduler_hints"]["group"].is_string(), "{body:#}");
    ensure!(account.body("demo-scheduler")?["server"]["flavorRef"] == "3");
    ensure!(
        account.there("floating")?.is_empty(),
        "a private cluster has an address outside"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")?;

    // Another region, which the record remembers when the shell has another.
    account.up(&[
        "--workers",
        "1",
        "--region",
        "RegionTwo",
        "--set",
        "openstack.create_floating_ip=true",
    ])?;
    ensure!(account.there("floating")?.len() == 2, "not all have an address outside");
    ensure!(account.there("servers")?.iter().all(|s| s["region"] == "RegionTwo"));
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")?;
    Ok(())
}

#[test]
fn an_old_nova_is_asked_for_what_it_has() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("newest", &json!(38))?;
    account.up(&["--workers", "1", "--set", "openstack.server_group=anti-affinity"])?;
    ensure!(account.there("servers")?.len() == 2);
    ensure!(account.body("demo-w0")?["server"]["tags"].is_null());
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.nothing_is_left("after down")
}

#[test]
fn a_network_of_others_needs_no_floating_address() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("provider", &json!("10.20.0.0/16"))?;
    account.up(&["--workers", "1"])?;
    ensure!(account.there("floating")?.is_empty() && account.there("servers")?.len() == 2);
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")
}

#[test]
fn strays_are_found_and_reaped() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&["--workers", "1", "--set", "openstack.server_group=affinity"])?;
    let none: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    ensure!(none["strays"] == json!([]), "{none}");
    let old = account.ok(&["reap", "--older-than", "1s"])?;
    for kind in ["machine", "security group", "floating address", "server group"] {
        ensure!(old.out.contains(kind), "{kind}: {}", old.out);
    }
    ensure!(account.there("servers")?.len() == 2, "a look deleted something");
    account.ok(&["reap", "-y", "--older-than", "1s"])?;
    account.nothing_is_left("after reap")
}

#[test]
fn a_machine_that_does_not_go_is_told_of() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&["--workers", "1"])?;
    account.emulator.faults(&[
        json!({"action": "DELETE servers/*", "status": 403, "message": "Policy doesn't allow it", "times": 1000}),
    ])?;
    let ran = account.run(&["down", "demo", "-y"])?;
    ensure!(ran.code != 0 && ran.err.contains("demo-w0"), "{} {}", ran.code, ran.err);
    account.emulator.reset()?;
    account.ok(&["down", "demo", "-y"])?;
    account.nothing_is_left("after down")
}

#[test]
fn a_project_is_looked_at_without_making_anything() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let args = ["check", "-o", "json", "--zone", "zone-b", "--ssh-key", "ann-key"];
    let ran = account.run(&args).and_then(|r| {
        // `check` may not have the flags of `up`.
        if r.code == 2 {
            account.run(&["check", "-o", "json"])
        } else {
            Ok(r)
        }
    })?;
    let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    let findings = report["providers"][0]["findings"].as_array().context("no findings")?;
    let mood = |what: &str| findings.iter().find(|f| f["what"] == what).map(|f| &f["mood"]);
    for what in [
        "credentials",
        "identity",
        "clock",
        "services",
        "permissions",
        "network",
        "image",
        "quota",
        "network quota",
    ] {
        ensure!(mood(what) == Some(&json!("good")), "{what}: {findings:#?}");
    }
    let mut reader = account.command(&["check"])?;
    reader.env("OS_USERNAME", "looker");
    let ran: Ran = reader.output()?.into();
    ensure!(ran.code == 3 && ran.out.contains("may only look"), "{}", ran.out);
    let sizes = account.ok(&["sizes", "--cpu", "4", "--memory", "8GiB", "-o", "json"])?;
    let sizes: Value = serde_json::from_str(&sizes.out)?;
    ensure!(sizes["sizes"][0]["cpus"] == 4, "{sizes:#}");
    let plan = [
        "up",
        "demo",
        "--workers",
        "2",
        "--plan",
        "-o",
        "json",
        "--set",
        "openstack.currency=EUR",
        "--set",
        "openstack.prices.\"m1.large\"=0.1",
        "--set",
        "openstack.prices.\"m1.medium\"=0.05",
    ];
    let ran = account.run(&plan)?;
    let plan: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    let total = &plan["price_per_hour"];
    ensure!(
        total["per_hour"].as_f64().is_some_and(|p| (p - 0.25).abs() < 1e-9) && total["currency"] == "EUR",
        "{plan:#}"
    );
    account.nothing_is_left("after a look")?;
    account.emulator.asked()?;
    // Nobody at all, and somebody who says no region.
    let mut command = account.command(&["check"])?;
    command.env_remove("OS_USERNAME");
    let ran: Ran = command.output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no credentials for OpenStack"),
        "{} {}",
        ran.code,
        ran.out
    );
    let mut command = account.command(&["check"])?;
    command.env_remove("OS_REGION_NAME");
    let ran: Ran = command.output()?.into();
    ensure!(ran.out.contains("RegionOne, RegionTwo"), "{}", ran.out);
    Ok(())
}

#[test]
fn credentials_come_from_the_vendor_s_files() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write(
        "clouds.yaml",
        &format!(
            "clouds:\n  one:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: {}/identity/v3\n      application_credential_id: whole\n    region_name: RegionTwo\n  two: {{}}\n",
            account.emulator.url()
        ),
    )?;
    write(
        "secure.yaml",
        "clouds:\n  one:\n    auth:\n      application_credential_secret: not-a-secret\n",
    )?;
    let mut command = account
        .emulator
        .command(&account.home, &[&UP[..], &["--keep-failed", "--workers", "1"]].concat())?;
    let with = |command: &mut Command| {
        command
            .env_remove("HERDSMAN_OPENSTACK_ENDPOINT")
            .env("OS_CLOUD", "one")
            .env("OS_CLIENT_CONFIG_FILE", folder.path().join("clouds.yaml"))
            .env("OS_CLIENT_SECURE_FILE", folder.path().join("secure.yaml"));
    };
    with(&mut command);
    let ran: Ran = command.output()?.into();
    let servers = account.there("servers")?;
    ensure!(
        servers.len() == 2 && servers.iter().all(|s| s["region"] == "RegionTwo"),
        "{}",
        ran.err
    );
    let mut down = account.emulator.command(&account.home, &["down", "demo", "-y"])?;
    with(&mut down);
    let ran: Ran = down.output()?.into();
    ensure!(ran.code == 0, "{}", ran.err);
    account.nothing_is_left("after down")?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn the_rules_that_are_rendered_suffice_and_none_is_too_many() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    // Everything that needs a rule of its own.
    let more = [
        "--set",
        "openstack.server_group=soft-anti-affinity",
        "--subnet",
        "private-subnet",
    ];
    let table = "provider = \"openstack\"\n[place]\nsubnets = [\"private-subnet\"]\n[openstack]\nserver_group = \"soft-anti-affinity\"\n";
    std::fs::write(account.home.path().join("herdsman.toml"), table)?;
    let mut render = account.command(&["render", "iam"])?;
    render.current_dir(account.home.path());
    let ran: Ran = render.output()?.into();
    let rules: Vec<Value> = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    let bound = |args: &[&str]| -> Result<Ran> {
        let mut command = account.command(args)?;
        command
            .env_remove("OS_USERNAME")
            .env_remove("OS_PASSWORD")
            .env("OS_APPLICATION_CREDENTIAL_ID", "bound")
            .env("OS_APPLICATION_CREDENTIAL_SECRET", "not-a-secret")
            .env("HERDSMAN_AGENT_URL", "https://agents.example/{arch}");
        Ok(command.output()?.into())
    };
    let up = [&UP[..], &["--workers", "1"], &more].concat();
    let without = |i: usize| -> Result<&str> {
        let less: Vec<&Value> = rules
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != i)
            .map(|(_, r)| r)
            .collect();
        account.emulator.ask("rules", &json!(less))?;
        Ok(rules[i]["path"].as_str().unwrap_or_default())
    };
    // What `check` alone asks for is only nice to have.
    let nice = ["limits", "os-availability-zone", "os-keypairs/*", "details"];
    let is_nice = |i: usize| {
        rules[i]["path"]
            .as_str()
            .is_some_and(|p| nice.iter().any(|n| p.ends_with(n)))
    };
    for i in (0..rules.len()).filter(|i| !is_nice(*i)) {
        let path = without(i)?;
        let check = bound(&["check"])?;
        ensure!(
            check.out.contains("1 of") && check.out.contains(path),
            "without {}: {}",
            rules[i],
            check.out
        );
        // One less, and nothing is made, or nothing goes.
        if rules[i]["method"] != "DELETE" && !path.ends_with("/action") {
            let ran = bound(&up)?;
            ensure!(
                // Some are needed only to take back what was made.
                (ran.code == 4 && ran.err.contains("E-PERM"))
                    || ran.err.contains("could not be deleted: list") && ran.err.contains("Token authorization failed"),
                "without {}: {}",
                rules[i],
                ran.err
            );
            // What it could not take back for want of the rule, somebody else takes.
            account.down_from_an_empty_home()?;
            account.nothing_is_left(path)?;
        }
    }
    // All of them suffice, also to read a console.
    let kept = [&up[..], &["--keep-failed"]].concat();
    account.emulator.ask("rules", &json!(rules))?;
    let check = bound(&["check"])?;
    ensure!(
        check.out.contains("access rules") && !check.out.contains("missing"),
        "{}",
        check.out
    );
    let ran = bound(&kept)?;
    ensure!(
        ran.err.contains("E-DEADLINE") && ran.err.contains("last lines of demo-scheduler's console"),
        "{}",
        ran.err
    );
    let action = rules
        .iter()
        .position(|r| r["path"].as_str().is_some_and(|p| p.ends_with("/action")));
    without(action.context("no rule for consoles")?)?;
    let ran = bound(&["logs", "demo", "--node", "demo-scheduler", "--boot"])?;
    ensure!(ran.code != 0, "a console was read: {}", ran.out);
    for i in (0..rules.len()).filter(|i| rules[*i]["method"] == "DELETE") {
        let path = without(i)?;
        let ran = bound(&["down", "demo", "-y"])?;
        ensure!(
            ran.code != 0 && ran.err.contains("Token authorization failed"),
            "without {}: {}",
            rules[i],
            ran.err
        );
        // What was deleted is made again for the next.
        account.emulator.ask("rules", &json!(rules))?;
        let ran = bound(&["down", "demo", "-y"])?;
        ensure!(ran.code == 0, "{}", ran.err);
        account.nothing_is_left(path)?;
        bound(&kept)?;
    }
    let ran = bound(&["down", "demo", "-y"])?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.nothing_is_left("after down")?;
    account.emulator.asked()?;
    Ok(())
}
