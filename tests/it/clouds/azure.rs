//! Azure, whose emulator is ours and whose requests and answers are held against the
//! vendor's own typed models.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, LAPTOP, killed_after};
use herdsman_tests::home::{Home, Ran};
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

/// An account that exists nowhere.
pub(super) const KEYS: [(&str, &str); 4] = [
    ("AZURE_TENANT_ID", "66666666-7777-8888-9999-aaaaaaaaaaaa"),
    ("AZURE_CLIENT_ID", "herdsman-test"),
    ("AZURE_CLIENT_SECRET", "not-a-secret"),
    ("AZURE_SUBSCRIPTION_ID", "11111111-2222-3333-4444-555555555555"),
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

/// Settings of somebody who may use one resource group and a network in another.
const IN_A_GROUP: &str = "[place]\nnetwork = \"lab/net\"\n[azure]\nresource_group = \"mine\"\n";

pub(super) const KINDS: [&str; 9] = [
    "machines",
    "groups",
    "disks",
    "interfaces",
    "addresses",
    "firewalls",
    "asgs",
    "networks",
    "gateways",
];

struct Account {
    home: Home,
    emulator: Emulator,
}

impl Account {
    fn new() -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let Some(emulator) = Emulator::start("azure", "resource_manager.py", &[])? else {
            return Ok(None);
        };
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

    /// `up` of machines that never boot, and stay.
    fn up(&self, more: &[&str]) -> Result<Ran> {
        let ran = self.run(&[&UP[..], &["--keep-failed"], more].concat())?;
        ensure!(ran.err.contains("E-DEADLINE"), "{}", ran.err);
        Ok(ran)
    }

    /// The same, and what was made goes again.
    fn up_in_vain(&self, more: &[&str]) -> Result<Ran> {
        self.run(&[&UP[..], more].concat())
    }

    fn there(&self) -> Result<Value> {
        self.emulator.ask("there", &Value::Null)
    }

    fn machines(&self) -> Result<Vec<Value>> {
        self.there()?["machines"].as_array().cloned().context("no machines")
    }

    /// Wants an account without anything of ours. Resource groups and networks of the
    /// user's own stay.
    fn is_empty(&self) -> Result<()> {
        let there = self.there()?;
        for kind in KINDS {
            let list = there[kind].as_array().context(kind)?;
            let left: Vec<&Value> = list
                .iter()
                .filter(|t| !["mine", "lab", "net", "closed"].contains(&t["name"].as_str().unwrap_or_default()))
                .collect();
            ensure!(left.is_empty(), "{kind} are left: {left:#?}");
        }
        Ok(())
    }

    /// What is set where commands run from now on.
    fn set(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(self.home.path().join("herdsman.toml"), text)?)
    }

    /// A resource group, and a network and a firewall in another, that somebody made by
    /// hand.
    fn made_by_hand(&self) -> Result<()> {
        let subnets = json!({"first": "10.80.1.0/24", "second": "10.80.2.0/24"});
        self.emulator.ask(
            "network",
            &json!({"group": "lab", "name": "net", "subnets": subnets, "firewalls": ["closed"]}),
        )?;
        self.emulator
            .ask("network", &json!({"group": "mine", "name": "net", "subnets": subnets}))?;
        Ok(())
    }

    /// A look at an account by somebody who has nothing but its credentials.
    fn down_from_an_empty_home(&self) -> Result<Ran> {
        let empty = tempfile::tempdir()?;
        let mut command = self.command(&["down", "demo", "-y"])?;
        command
            .current_dir(empty.path())
            .env("HOME", empty.path())
            .env("HERDSMAN_STATE_DIR", empty.path().join("s"));
        Ok(command.output()?.into())
    }

    /// Bodies of the calls that made machines.
    fn requests(&self) -> Result<Vec<Value>> {
        let asked = self.emulator.asked()?;
        let made = asked
            .into_iter()
            .filter(|a| a.action == "VirtualMachines_CreateOrUpdate");
        Ok(made.map(|mut a| a.facts["body"].take()).collect())
    }

    fn check(&self) -> Result<Value> {
        let ran = self.run(&["check", "-o", "json"])?;
        let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
        Ok(report["providers"][0]["findings"].clone())
    }
}

fn mood(findings: &Value, what: &str) -> String {
    let found = findings.as_array().into_iter().flatten().find(|f| f["what"] == what);
    found.map_or_else(
        || "none".to_owned(),
        |f| f["mood"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn a_cluster_is_as_the_model_says_closed_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&["--workers", "3", "--tag", "team=geo"])?;
    let asked = account.emulator.asked()?;
    let made = asked
        .iter()
        .filter(|a| a.action == "VirtualMachines_CreateOrUpdate")
        .count();
    ensure!(made == 4, "{made} calls for machines");
    // Machines apart, a call or two for each part, and looks at all of them at once.
    let others = asked.len() - made;
    ensure!(others <= 60, "{others} calls: {:?}", account.emulator.actions()?);
    let there = account.there()?;
    for kind in ["machines", "interfaces"] {
        let list = there[kind].as_array().context(kind)?;
        ensure!(list.len() == 4, "{kind}: {list:#?}");
        for thing in list {
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
                ensure!(thing["tags"][key].is_string(), "no tag {key}: {}", thing["tags"]);
            }
        }
    }
    for kind in ["groups", "firewalls", "asgs", "networks", "gateways", "addresses"] {
        for thing in there[kind].as_array().context(kind)? {
            ensure!(
                thing["tags"]["herdsman-cluster"] == "demo",
                "{kind} without tags: {thing:#}"
            );
        }
    }
    // The scheduler alone has a public address, and is open, to this computer alone.
    for m in account.machines()? {
        let is_scheduler = m["tags"]["herdsman-role"] == "scheduler";
        ensure!(m["public"] == is_scheduler, "{m:#}");
        let groups = m["groups"].as_array().context("no groups")?;
        ensure!(groups.len() == 1 + usize::from(is_scheduler), "{groups:#?}");
    }
    let firewall = &there["firewalls"][0];
    let rules = firewall["properties"]["securityRules"].as_array().context("no rules")?;
    let from_outside: Vec<_> = rules
        .iter()
        .map(|r| &r["properties"])
        .filter(|p| p["access"] == "Allow" && !p["sourceAddressPrefixes"].is_null())
        .collect();
    ensure!(from_outside.len() == 1, "{rules:#?}");
    ensure!(
        from_outside[0]["sourceAddressPrefixes"] == json!([format!("{LAPTOP}/32")])
            && from_outside[0]["destinationPortRanges"] == json!(["8785", "8786"]),
        "{rules:#?}"
    );
    ensure!(rules.last().is_some_and(|r| r["properties"]["access"] == "Deny"));
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn in_a_group_of_the_users_all_of_ours_goes_and_the_rest_stays() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.made_by_hand()?;
    account.set(IN_A_GROUP)?;
    account.up(&["--workers", "2", "--subnet", "second"])?;
    let machines = account.machines()?;
    ensure!(
        machines
            .iter()
            .all(|m| m["private"].as_str().is_some_and(|a| a.starts_with("10.80.2."))),
        "{machines:#?}"
    );
    // By somebody with nothing but credentials, and the whole subscription to see.
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty()?;
    let there = account.there()?;
    ensure!(
        there["groups"].as_array().map(Vec::len) == Some(2) && there["networks"].as_array().map(Vec::len) == Some(2),
        "{there:#}"
    );
    // With a firewall of the user's, nothing is made but machines.
    account.up(&["--workers", "2", "--security-group", "lab/closed", "--private"])?;
    let there = account.there()?;
    ensure!(
        there["asgs"] == json!([]) && there["addresses"] == json!([]),
        "{there:#}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_launcher_that_dies_after_any_call_leaves_nothing_that_cannot_be_found() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let up = [&UP[..], &["--keep-failed", "--workers", "2"]].concat();
    let calls = every_call(&account, &up)?;
    ensure!(calls >= 20, "only {calls} calls were cut off");
    Ok(())
}

#[test]
fn the_same_in_a_group_of_the_users() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    account.made_by_hand()?;
    account.set(IN_A_GROUP)?;
    let up = [&UP[..], &["--keep-failed", "--workers", "1"]].concat();
    let calls = every_call(&account, &up)?;
    ensure!(calls >= 12, "only {calls} calls were cut off");
    Ok(())
}

/// kill -9 after each single call of a command, then `down` by somebody else.
fn every_call(account: &Account, up: &[&str]) -> Result<u64> {
    for nth in 1.. {
        let cut = killed_after(&account.emulator, &mut account.command(up)?, nth)?;
        let ran = account.down_from_an_empty_home()?;
        // After the first calls there was nothing yet.
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account
            .is_empty()
            .with_context(|| format!("after call {nth}\n{}", ran.err))?;
        account.emulator.asked()?;
        // The record of a cluster that never was is in nobody's way.
        account.run(&["down", "demo", "-y"])?;
        if !cut {
            return Ok(nth - 1);
        }
    }
    Ok(0)
}

#[test]
fn a_down_that_dies_after_any_call_is_finished_by_the_next() -> Result<()> {
    every_call_of_down("")
}

#[test]
fn a_down_in_a_group_of_the_users_that_dies_is_finished_by_the_next() -> Result<()> {
    every_call_of_down(IN_A_GROUP)
}

/// kill -9 after each single call of `down`, then `down` by somebody else.
fn every_call_of_down(settings: &str) -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    account.made_by_hand()?;
    account.set(settings)?;
    for nth in 1.. {
        account.up(&["--workers", "1"])?;
        let mut down = account.command(&["down", "demo", "-y"])?;
        let was_cut = killed_after(&account.emulator, &mut down, nth)?;
        let ran = account.down_from_an_empty_home()?;
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.is_empty().with_context(|| format!("after call {nth}"))?;
        account.run(&["down", "demo", "-y"])?;
        if !was_cut {
            ensure!(nth > 4, "down took {nth} calls");
            break;
        }
    }
    Ok(())
}

#[test]
fn a_scale_that_dies_after_any_call_leaves_nothing_that_down_does_not_find() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    // Workers are made by `up` of a cluster that is there, as nobody answers here.
    account.up(&["--workers", "0"])?;
    let more = [&UP[..], &["--keep-failed", "--workers", "1"]].concat();
    for nth in 1.. {
        let cut = killed_after(&account.emulator, &mut account.command(&more)?, nth)?;
        if !cut {
            break;
        }
    }
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty()
}

#[test]
fn what_a_place_has_not_is_looked_for_in_the_next() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let types = ["--type", "Standard_D2s_v5", "--type", "Standard_D2as_v5"];
    let places = |text: Value| account.emulator.ask("places", &text);
    // Said at once: no spot machine anywhere, and one type nowhere.
    places(json!({"sold_out": [{"spot": true}, {"size": "Standard_D2s_v5"}]}))?;
    account.up(&[
        &["--workers", "2", "--spot", "prefer", "--zone", "1", "--zone", "2"],
        &types[..],
    ]
    .concat())?;
    let machines = account.machines()?;
    let second = |m: &&Value| m["size"] == "Standard_D2as_v5" && m["spot"] == false && m["zones"] == json!(["1"]);
    ensure!(
        machines.len() == 3 && machines.iter().filter(second).count() == 2,
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;

    // Taken on, and not placed after all: what is half made goes, and the next is tried.
    let failed = json!([{"where": {"size": "Standard_D2s_v5", "zone": "1"}, "code": "ZonalAllocationFailed"}]);
    places(json!({"sold_out": [], "fails": failed}))?;
    account.up(&[&["--workers", "2", "--zone", "1", "--zone", "3"], &types[..]].concat())?;
    let machines = account.machines()?;
    let third = |m: &&Value| m["size"] == "Standard_D2s_v5" && m["zones"] == json!(["3"]);
    ensure!(
        machines.len() == 3 && machines.iter().filter(third).count() == 2,
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;

    // With spot machines only, none is the answer, and what was made goes again.
    places(json!({"fails": [{"where": {"spot": true}, "code": "AllocationFailed"}]}))?;
    let ran = account.up_in_vain(&["--workers", "1", "--type", "Standard_D2s_v5", "--spot", "only"])?;
    ensure!(
        ran.code == 5 && ran.err.contains("E-CAPACITY") && ran.err.contains("Standard_D2s_v5 spot in eastus"),
        "{} {}",
        ran.code,
        ran.err
    );
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_quota_is_told_and_what_was_made_goes() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("places", &json!({"limit": 6}))?;
    let ran = account.up_in_vain(&["--workers", "5"])?;
    ensure!(ran.code == 5 && ran.err.contains("E-QUOTA"), "{} {}", ran.code, ran.err);
    account.is_empty()?;
    account.emulator.ask("places", &json!({"limit": 100, "addresses": 1}))?;
    let ran = account.up_in_vain(&["--workers", "1"])?;
    ensure!(
        ran.code == 5 && ran.err.contains("PublicIPCountLimitReached"),
        "{} {}",
        ran.code,
        ran.err
    );
    account.is_empty()
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let of = |action: &str, status: u64, code: &str| json!({"action": action, "status": status, "code": code, "message": "m", "times": 1000});
    let vm = "VirtualMachines_CreateOrUpdate";
    for (fault, code, exit, words) in [
        (of(vm, 403, "AuthorizationFailed"), "E-PERM", 4, "render iam"),
        (of(vm, 403, "RequestDisallowedByPolicy"), "E-PERM", 4, "policy"),
        (
            of("VirtualNetworks_CreateOrUpdate", 403, "AuthorizationFailed"),
            "E-PERM",
            4,
            "VirtualNetworks",
        ),
        (of(vm, 409, "QuotaExceeded"), "E-QUOTA", 5, "list-usage"),
        (
            of(vm, 404, "PlatformImageNotFound"),
            "E-NOT-FOUND",
            3,
            "az vm image list",
        ),
        (
            of(vm, 400, "VMMarketplaceInvalidInput"),
            "E-USAGE",
            2,
            "marketplace_plan",
        ),
        (
            of(
                "NetworkSecurityGroups_CreateOrUpdate",
                409,
                "MissingSubscriptionRegistration",
            ),
            "E-PERM",
            4,
            "provider register",
        ),
        (
            of("VirtualMachines_ListAll", 401, "ExpiredAuthenticationToken"),
            "E-CREDENTIALS",
            4,
            "az login",
        ),
        (
            of("VirtualMachines_ListAll", 404, "SubscriptionNotFound"),
            "E-CREDENTIALS",
            4,
            "az account list",
        ),
    ] {
        account.emulator.reset()?;
        account.emulator.faults(&[fault])?;
        let ran = account.up_in_vain(&["--workers", "1"])?;
        ensure!(
            ran.err.contains(code) && ran.code == exit && ran.err.contains(words) && ran.err.contains("try:"),
            "{code} {exit} {words}: {} {}",
            ran.code,
            ran.err
        );
        account.emulator.faults(&[])?;
        account.run(&["down", "demo", "-y"])?;
        account.is_empty()?;
    }
    // A wrong secret, and nobody at all.
    let with = |key: &str, value: &str| -> Result<Ran> {
        let mut command = account.command(&["ls"])?;
        command.env(key, value);
        Ok(command.output()?.into())
    };
    let ran = with("AZURE_CLIENT_SECRET", "guessed")?;
    ensure!(
        ran.err.contains("AADSTS7000215") && !ran.err.contains("guessed"),
        "{}",
        ran.err
    );
    let ran = with("AZURE_SUBSCRIPTION_ID", "")?;
    ensure!(ran.err.contains("which subscription"), "{}", ran.err);
    Ok(())
}

#[test]
fn what_passes_is_waited_for_and_nothing_is_made_twice() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("page", &json!(2))?;
    account.emulator.ask(
        "timing",
        &json!({"listed": 1.0, "address": 1.5, "ready": 2.0, "part": 0.3}),
    )?;
    account.emulator.faults(&[
        json!({"action": "ResourceGroups_List", "status": 429, "code": "TooManyRequests", "headers": {"retry-after": "1"}, "times": 2}),
        json!({"action": "NetworkSecurityGroups_CreateOrUpdate", "status": 404, "code": "ResourceGroupNotFound", "times": 2}),
        json!({"action": "VirtualNetworks_CreateOrUpdate", "status": 500, "code": "InternalServerError", "late": true}),
        json!({"action": "VirtualMachines_CreateOrUpdate", "status": 500, "code": "InternalServerError", "late": true, "times": 2}),
        json!({"action": "VirtualMachines_CreateOrUpdate", "status": 409, "code": "AnotherOperationInProgress", "times": 1, "skip": 2}),
        json!({"action": "VirtualMachines_List", "drop": true, "times": 1}),
        json!({"action": "operation", "status": 503, "code": "ServiceUnavailable", "times": 2}),
    ])?;
    account.up(&["--workers", "2"])?;
    let mut names: Vec<String> = account
        .machines()?
        .iter()
        .filter_map(|m| Some(m["name"].as_str()?.to_owned()))
        .collect();
    names.sort_unstable();
    ensure!(names == ["demo-scheduler", "demo-w0", "demo-w1"], "{names:?}");
    // A token that is taken away in the middle is fetched anew.
    account.emulator.faults(&[])?;
    account.emulator.ask("expire", &Value::Null)?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn many_machines_are_asked_for_at_once_and_looked_at_together() -> Result<()> {
    const WORKERS: usize = 60;
    let Some(account) = Account::new()? else { return Ok(()) };
    account.emulator.ask("places", &json!({"limit": 1000}))?;
    account.emulator.ask("page", &json!(1000))?;
    account.up(&["--workers", &WORKERS.to_string(), "--max-workers", "100"])?;
    let actions = account.emulator.actions()?;
    let made = actions
        .iter()
        .filter(|a| *a == "VirtualMachines_CreateOrUpdate")
        .count();
    ensure!(made == WORKERS + 1, "{made} calls for machines");
    let others = actions.len() - made;
    ensure!(others <= 120, "{others} other calls: {actions:?}");
    ensure!(account.machines()?.len() == WORKERS + 1);
    let list: Value = serde_json::from_str(&account.ok(&["ls", "-o", "json"])?.out)?;
    let text = list.to_string();
    ensure!(text.contains("\"demo\"") && text.contains("60"), "{text}");
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.made_by_hand()?;
    let mut args = vec![
        "--workers",
        "1",
        "--private",
        "--type",
        "Standard_D4s_v5",
        "--scheduler-type",
        "Standard_B2s",
        "--disk",
        "64GiB",
        "--disk-type",
        "Premium_LRS",
        "--image",
        "Canonical:ubuntu-24_04-lts:server:24.04.202609010",
        "--role",
        "lab/worker",
        "--ssh-key",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ ann",
        "--spot",
        "only",
        "--zone",
        "2",
        "--region",
        "East US",
        "--security-group",
        "lab/closed",
    ];
    for set in [
        "azure.admin_user=ann",
        "azure.security_type=TrustedLaunch",
        "azure.secure_boot=true",
        "azure.vtpm=true",
        "azure.encryption_at_host=true",
        "azure.accelerated_networking=true",
        "azure.spot_max_price=0.05",
        "azure.boot_diagnostics=false",
        "azure.disk_encryption_set=/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/diskEncryptionSets/d",
        "azure.proximity_placement_group=/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/proximityPlacementGroups/p",
        "azure.marketplace_plan.name=n",
        "azure.marketplace_plan.publisher=p",
        "azure.marketplace_plan.product=q",
        "azure.extra_vm_options.properties.licenseType=SLES_BYOS",
    ] {
        args.extend(["--set", set]);
    }
    account.set(IN_A_GROUP)?;
    account.up(&args)?;
    let requests = account.requests()?;
    let of = |size: &str| {
        let found = requests
            .iter()
            .find(|r| r["properties"]["hardwareProfile"]["vmSize"] == size);
        found.with_context(|| format!("no {size}: {requests:#?}"))
    };
    let (worker, scheduler) = (of("Standard_D4s_v5")?, of("Standard_B2s")?);
    for (at, wanted) in [
        ("/zones", json!(["2"])),
        ("/location", json!("eastus")),
        ("/plan", json!({"name": "n", "publisher": "p", "product": "q"})),
        ("/properties/priority", json!("Spot")),
        ("/properties/evictionPolicy", json!("Delete")),
        ("/properties/billingProfile/maxPrice", json!(0.05)),
        ("/properties/licenseType", json!("SLES_BYOS")),
        ("/properties/diagnosticsProfile/bootDiagnostics/enabled", json!(false)),
        ("/properties/securityProfile/encryptionAtHost", json!(true)),
        ("/properties/securityProfile/securityType", json!("TrustedLaunch")),
        (
            "/properties/securityProfile/uefiSettings",
            json!({"secureBootEnabled": true, "vTpmEnabled": true}),
        ),
        ("/properties/storageProfile/osDisk/diskSizeGB", json!(64)),
        ("/properties/storageProfile/osDisk/deleteOption", json!("Delete")),
        (
            "/properties/storageProfile/osDisk/managedDisk/storageAccountType",
            json!("Premium_LRS"),
        ),
        (
            "/properties/storageProfile/imageReference/version",
            json!("24.04.202609010"),
        ),
        ("/properties/osProfile/adminUsername", json!("ann")),
        (
            "/properties/osProfile/linuxConfiguration/ssh/publicKeys/0/keyData",
            json!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ ann"),
        ),
        (
            "/properties/networkProfile/networkInterfaceConfigurations/0/properties/enableAcceleratedNetworking",
            json!(true),
        ),
        (
            "/properties/networkProfile/networkInterfaceConfigurations/0/properties/networkSecurityGroup/id",
            json!(
                "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/lab/providers/Microsoft.Network/networkSecurityGroups/closed"
            ),
        ),
        ("/identity/type", json!("UserAssigned")),
    ] {
        ensure!(worker.pointer(at) == Some(&wanted), "{at}: {:?}", worker.pointer(at));
    }
    ensure!(
        scheduler["properties"]["priority"].is_null(),
        "the scheduler can be taken away"
    );
    let text = worker.to_string();
    ensure!(
        !text.contains("publicIPAddressConfiguration") && !text.contains("adminPassword"),
        "{text}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

#[test]
fn strays_are_found_and_reaped() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
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
    for kind in ["machine", "resource group"] {
        ensure!(old.contains(kind), "no {kind} in\n{old}");
    }
    ensure!(account.machines()?.len() == 2, "a look deleted something");
    account.ok(&["reap", "-y", "--older-than", "1s"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn what_cannot_go_is_told_and_goes_later() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    account.up(&["--workers", "0"])?;
    let there = account.there()?;
    let group = there["groups"][0]["name"].clone();
    account.emulator.ask("lock", &json!([group]))?;
    let ran = account.run(&["down", "demo", "-y"])?;
    ensure!(
        ran.code != 0 && ran.err.contains("ScopeLocked") && ran.err.contains("resource group"),
        "{} {} {}",
        ran.code,
        ran.out,
        ran.err
    );
    account.emulator.ask("lock", &json!([]))?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

#[test]
fn an_account_is_looked_at_without_making_anything() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let findings = account.check()?;
    for what in [
        "credentials",
        "identity",
        "subscription",
        "clock",
        "services",
        "network",
        "image",
        "permissions",
        "quota",
        "price",
    ] {
        ensure!(mood(&findings, what) == "good", "{what}: {findings:#?}");
    }
    let text = findings.to_string();
    ensure!(
        text.contains("herdsman-test") && text.contains("0.20260901.2224"),
        "{text}"
    );
    let sizes: Value = serde_json::from_str(
        &account
            .ok(&["sizes", "--cpu", "4", "--memory", "16GiB", "-o", "json"])?
            .out,
    )?;
    let first = &sizes["sizes"][0];
    ensure!(
        first["name"] == "Standard_D4s_v5"
            && first["price"]["per_hour"] == 0.192
            && first["spot"]["per_hour"] == 0.0386,
        "{first}"
    );
    let plan: Value = serde_json::from_str(
        &account
            .run(&["up", "demo", "--workers", "2", "--plan", "-o", "json"])?
            .out,
    )?;
    // Two burstable workers and a smaller scheduler.
    ensure!(
        plan["price_per_hour"]["per_hour"]
            .as_f64()
            .is_some_and(|p| (p - (0.0416 + 2.0 * 0.0832)).abs() < 1e-9),
        "{plan:#}"
    );
    let gpu: Value = serde_json::from_str(&account.ok(&["sizes", "--gpu", "-o", "json"])?.out)?;
    ensure!(gpu["sizes"][0]["gpu"] == "NVIDIA T4", "{gpu}");
    account.is_empty()?;
    account.emulator.asked()?;
    // Nothing says who asks.
    account.set("[azure]\nlogin = \"environment\"\n")?;
    let mut command = account.command(&["check"])?;
    let ran: Ran = command.env_remove("AZURE_CLIENT_SECRET").output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no credentials for Azure"),
        "{} {} {}",
        ran.code,
        ran.out,
        ran.err
    );
    Ok(())
}

#[test]
fn what_the_vendor_once_answered_to_others_is_understood() -> Result<()> {
    let Some(account) = Account::new()? else { return Ok(()) };
    let tags = json!({
        "herdsman-cluster": "demo", "herdsman-id": "aaaaaaaaaa", "herdsman-role": "worker",
        "herdsman-node": "test-node-1", "herdsman-created": "1000000000", "herdsman-expires": "1000003600",
    });
    account.emulator.ask("recorded", &tags)?;
    let reaped: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    let strays = reaped["strays"].to_string();
    ensure!(
        strays.contains("test-node-1") && strays.contains("should have ended"),
        "{strays}"
    );
    Ok(())
}

/// Runs `up` and `down` as somebody with this role; gives what they said. What is left
/// is deleted by somebody else.
fn as_user(account: &Account, role: &Value, more: &[&str]) -> Result<(Ran, Ran)> {
    let given = json!({"actions": role["Actions"], "scopes": role["AssignableScopes"]});
    let key = account.emulator.ask("user", &given)?;
    let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
    let command = |args: &[&str]| -> Result<Ran> {
        let mut command = account.command(args)?;
        command
            .env("AZURE_CLIENT_ID", text("id"))
            .env("AZURE_CLIENT_SECRET", text("secret"));
        Ok(command.output()?.into())
    };
    let up = command(&[&UP[..], &["--keep-failed", "--workers", "1"], more].concat())?;
    let down = command(&["down", "demo", "-y"])?;
    account.run(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.ask("user", &Value::Null)?;
    Ok((up, down))
}

/// What is for `check`, `sizes`, the console and better words only.
const NICE: [&str; 7] = [
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Compute/locations/operations/read",
    "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read",
    "Microsoft.Compute/locations/usages/read",
    "Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action",
    "Microsoft.Resources/subscriptions/providers/read",
    "Microsoft.Resources/subscriptions/read",
];

/// A role is enough for `up` and `down`, and without any one of its actions they say
/// which is missing.
fn exactly(account: &Account, more: &[&str], others: &[&str]) -> Result<()> {
    let role: Value = serde_json::from_str(&account.ok(&["render", "iam"])?.out)?;
    let (up, down) = as_user(account, &role, more)?;
    ensure!(
        up.err.contains("E-DEADLINE") && down.code == 0,
        "{role:#}\n{}\n{}",
        up.err,
        down.err
    );
    let actions = role["Actions"].as_array().context("no actions")?;
    for action in actions.iter().filter_map(Value::as_str) {
        ensure!(!action.contains('*'), "{action}");
        if NICE.contains(&action) || others.contains(&action) {
            continue;
        }
        let mut less = role.clone();
        less["Actions"] = actions.iter().filter(|a| *a != action).cloned().collect();
        let (up, down) = as_user(account, &less, more)?;
        let said = format!("{}\n{}", up.err, down.err);
        ensure!(
            said.contains("AuthorizationFailed") && said.contains(action),
            "without {action}: {said}"
        );
    }
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn the_role_is_enough_and_none_of_it_is_too_much() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    // The group takes machines with it; where some stay, each is deleted by itself.
    let others = ["Microsoft.Compute/virtualMachines/delete"];
    exactly(&account, &[], &others)
}

#[test]
fn a_role_for_one_group_is_enough_and_none_of_it_is_too_much() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new()? else { return Ok(()) };
    account.made_by_hand()?;
    // What was to hang on machines that could not be made is left, and has to go.
    let sold_out = json!({"sold_out": [{"size": "Standard_D2s_v5", "leaves": true}]});
    account.emulator.ask("places", &sold_out)?;
    let types = ["--type", "Standard_D2s_v5", "--type", "Standard_D2as_v5"];
    let of_scheduler = [
        "--scheduler-type",
        "Standard_D2s_v5",
        "--scheduler-type",
        "Standard_B2s",
    ];
    account.set(IN_A_GROUP)?;
    let more = [types, of_scheduler].concat();
    // The catalogue is the subscription's, and not needed where types are named.
    exactly(&account, &more, &["Microsoft.Compute/skus/read"])
}
