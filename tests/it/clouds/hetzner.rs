//! Hetzner Cloud, with an emulator that is held against the vendor's own document.

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::LAPTOP;
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

use super::plain::{self, Account, Vendor, bad, mood};

pub(super) static VENDOR: Vendor = Vendor {
    name: "hetzner",
    script: "hetzner.py",
    token: ("HCLOUD_TOKEN", "hz-test"),
    create: "POST /servers",
    list: "GET /servers",
    things: &["machines", "firewalls", "networks", "groups"],
    types: ["cx23", "cpx22"],
};

#[test]
fn a_cluster_takes_few_calls_all_as_the_model_says_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.up(&["--workers", "3", "--tag", "team=geo"])?;
    let actions = account.emulator.actions()?;
    ensure!(actions.len() <= 22, "{} calls: {actions:?}", actions.len());
    ensure!(account.count("POST /servers")? == 4);
    let there = account.there()?;
    let machines = there["machines"].as_array().context("machines")?;
    ensure!(machines.len() == 4, "{machines:#?}");
    let network = &there["networks"][0]["id"];
    for m in machines {
        let labels = &m["labels"];
        for key in [
            "cluster", "id", "role", "node", "owner", "created", "expires", "ca", "version",
        ] {
            ensure!(
                labels[format!("herdsman-{key}")].is_string(),
                "no label {key}: {labels}"
            );
        }
        ensure!(
            labels["team"] == "geo" && m["network"] == *network && m["kind"] == "cx23",
            "{m:#}"
        );
        // Each is behind a firewall; the scheduler's alone has a door, for this
        // computer alone.
        ensure!(m["firewalls"].as_array().is_some_and(|f| f.len() == 1), "{m:#}");
        let inbound = m["inbound"].as_array().context("inbound")?;
        if labels["herdsman-role"] == "scheduler" {
            ensure!(inbound.len() == 1 && inbound[0]["port"] == "8785-8786", "{inbound:#?}");
            ensure!(
                inbound[0]["source_ips"] == json!([format!("{LAPTOP}/32")]),
                "{inbound:#?}"
            );
        } else {
            ensure!(inbound.is_empty(), "{inbound:#?}");
        }
        ensure!(m["user_data"].as_str().is_some_and(|d| d.len() < 32 * 1024));
        ensure!(m["image"] == "debian-13" && m["location"] == "fsn1", "{m:#}");
    }
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_launcher_that_dies_after_any_call_leaves_nothing_that_cannot_be_found() -> Result<()> {
    plain::an_up_that_dies(&VENDOR)
}

#[test]
fn a_down_that_dies_after_any_call_is_finished_by_the_next() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    plain::a_down_that_dies(&VENDOR)
}

#[test]
fn what_lists_show_late_is_found_all_the_same() -> Result<()> {
    plain::slow_to_appear(&VENDOR)
}

#[test]
fn what_is_sold_out_is_looked_for_among_the_next() -> Result<()> {
    plain::the_next_type(&VENDOR)?;
    // Or in the next location.
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account
        .emulator
        .ask("places", &json!({"sold_out": [["cx23", "fsn1"]]}))?;
    account.up(&[
        "--workers",
        "3",
        "--type",
        "cx23",
        "--scheduler-type",
        "cx23",
        "--zone",
        "fsn1",
        "--zone",
        "hel1",
    ])?;
    ensure!(account.machines()?.iter().all(|m| m["location"] == "hel1"));
    // Not each of them asks where nothing is left.
    let asked = account.requests()?;
    let in_vain = asked.iter().filter(|r| r["location"] == "fsn1").count();
    ensure!(in_vain <= 5, "{in_vain}");
    Ok(())
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let of = |action: &str, status: u64, code: &str| json!({"action": action, "status": status, "code": code, "message": "m"});
    plain::errors(
        &VENDOR,
        &[
            (of("POST /servers", 403, "forbidden"), "E-PERM", 4, "render iam"),
            (
                of("POST /firewalls", 403, "token_readonly"),
                "E-PERM",
                4,
                "POST /firewalls",
            ),
            (
                of("POST /servers", 403, "resource_limit_exceeded"),
                "E-QUOTA",
                5,
                "console.hetzner.com",
            ),
            (
                of("POST /servers", 412, "resource_unavailable"),
                "E-CAPACITY",
                5,
                "retry-until-up",
            ),
            (
                of("GET /servers", 401, "unauthorized"),
                "E-CREDENTIALS",
                4,
                "HCLOUD_TOKEN",
            ),
        ],
    )?;
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    let fails = |args: &[&str], words: &str| -> Result<()> {
        let ran = account.up_in_vain(args)?;
        ensure!(
            ran.code == 2 && ran.err.contains(words),
            "{args:?}: {} {}",
            ran.code,
            ran.err
        );
        account.is_empty()
    };
    // What is not made any more names what is in its place; the peer's default is gone
    // altogether.
    fails(&["--workers", "1", "--type", "cx22"], "--type cx23")?;
    fails(&["--workers", "1", "--type", "cx11"], "there is no machine type cx11")?;
    fails(
        &["--workers", "1", "--zone", "fsn1", "--zone", "ash"],
        "one network zone",
    )?;
    fails(&["--workers", "1", "--private"], "--network")?;
    // Another server of that name is not ours to take.
    Ok(())
}

#[test]
fn a_limit_of_the_account_is_told_and_nothing_stays() -> Result<()> {
    plain::a_limit(&VENDOR)
}

#[test]
fn what_passes_is_waited_for_and_nothing_is_made_twice() -> Result<()> {
    plain::nothing_twice(
        &VENDOR,
        &[
            json!({"action": "POST /firewalls", "status": 500, "late": true}),
            json!({"action": "POST /networks", "status": 503, "code": "unavailable", "late": true}),
            json!({"action": "GET /server_types", "drop": true}),
            json!({"action": "POST /servers", "status": 409, "code": "conflict", "skip": 3}),
        ],
    )
}

#[test]
fn a_limit_of_calls_is_kept_and_waited_for() -> Result<()> {
    plain::a_rate(&VENDOR, &json!({"calls": 8, "a_second": 3.0}))
}

#[test]
fn sixty_workers_take_a_call_each_and_few_lists() -> Result<()> {
    plain::many(&VENDOR, 61 + 30)
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.up(&[
        "--workers",
        "11",
        "--max-workers",
        "20",
        "--region",
        "nbg1",
        "--network",
        "office",
        "--image",
        "herdsman-baked",
        "--cpu",
        "4",
        "--memory",
        "8GiB",
        "--disk",
        "100GB",
        "--scheduler-type",
        "cpx22",
        "--set",
        "hetzner.ssh_keys=[\"mine\", 2323]",
        "--set",
        "hetzner.placement_group=spread",
        "--set",
        "hetzner.worker_ipv4=false",
        "--set",
        "hetzner.extra.automount=false",
    ])?;
    let requests = account.requests()?;
    let named = |name: &str| requests.iter().find(|r| r["name"] == name).context("not asked for");
    let (scheduler, worker) = (named("demo-scheduler")?, named("demo-w3")?);
    for (key, wanted) in [
        ("location", json!("nbg1")),
        // Four processors with such a disk: one with a smaller disk is cheaper.
        ("server_type", json!("ccx23")),
        ("image", json!("300000001")),
        ("ssh_keys", json!(["mine", "mine"])),
        ("public_net", json!({"enable_ipv4": false, "enable_ipv6": true})),
        ("automount", json!(false)),
        ("start_after_create", json!(true)),
    ] {
        ensure!(worker[key] == wanted, "{key}: {}", worker[key]);
    }
    ensure!(
        scheduler["server_type"] == "cpx22" && scheduler["public_net"]["enable_ipv4"] == true,
        "{scheduler:#}"
    );
    // Ten to a group.
    let there = account.there()?;
    let groups: Vec<usize> = there["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .map(|g| g["servers"].as_array().map_or(0, Vec::len))
        .collect();
    ensure!(
        groups.iter().sum::<usize>() == 12 && groups.iter().all(|g| *g <= 10),
        "{groups:?}"
    );
    // The network was there before, and stays.
    ensure!(there["networks"] == json!([]), "{}", there["networks"]);
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;

    // Without any public address there is nothing for a firewall to look at.
    account.up(&["--workers", "1", "--private", "--network", "office"])?;
    let machines = account.machines()?;
    ensure!(
        machines
            .iter()
            .all(|m| m["ipv4"].is_null() && m["ipv6"].is_null() && m["firewalls"] == json!([])),
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_server_that_somebody_protects_is_named_and_left() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.up(&["--workers", "1"])?;
    account.emulator.ask("places", &json!({"protected": ["demo-w0"]}))?;
    let ran = account.run(&["down", "demo", "-y"])?;
    ensure!(
        ran.code != 0
            && (ran.err.clone() + &ran.out).contains("demo-w0")
            && (ran.err.clone() + &ran.out).contains("protected"),
        "{} {}",
        ran.code,
        ran.err
    );
    account.emulator.ask("places", &json!({"protected": []}))?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()
}

#[test]
fn strays_are_found_and_reaped() -> Result<()> {
    plain::strays(&VENDOR, &["machine", "firewall", "network"])
}

#[test]
fn an_account_is_looked_at_without_making_anything() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    let findings = account.check()?;
    for what in [
        "credentials",
        "identity",
        "permissions",
        "network",
        "image",
        "clock",
        "price",
    ] {
        ensure!(mood(&findings, what) == "good", "{what}: {findings:#}");
    }
    // The vendor does not tell it.
    ensure!(
        bad(&findings).is_empty() && mood(&findings, "quota") == "fair",
        "{findings:#}"
    );
    let sizes = account
        .ok(&["sizes", "--cpu", "2", "--memory", "4GiB", "-o", "json"])?
        .out;
    let sizes: Value = serde_json::from_str(&sizes)?;
    let all = sizes["sizes"].as_array().context("sizes")?;
    let first = all
        .iter()
        .find(|s| s["arch"] == "x86_64")
        .context("none for our agent")?;
    ensure!(
        first["name"] == "cx23" && first["price"]["currency"] == "EUR",
        "{sizes:#}"
    );
    ensure!(
        !sizes.to_string().contains("\"cx22\""),
        "a type that is not made any more: {sizes:#}"
    );
    let plan = account
        .run(&["up", "demo", "--workers", "2", "--plan", "-o", "json"])?
        .out;
    let plan: Value = serde_json::from_str(&plan)?;
    let price = plan["price_per_hour"]["per_hour"].as_f64();
    ensure!(price.is_some_and(|p| (p - 3.0 * 0.0056).abs() < 1e-6), "{plan:#}");
    account.is_empty()?;

    // A token that may only read.
    account.emulator.ask("tokens", &json!({VENDOR.token.1: "read"}))?;
    let findings = account.check()?;
    ensure!(bad(&findings) == ["permissions"], "{findings:#}");
    let ran = account.up_in_vain(&["--workers", "1"])?;
    ensure!(
        ran.code == 4 && ran.err.contains("E-PERM") && ran.err.contains("read-only"),
        "{} {}",
        ran.code,
        ran.err
    );
    ensure!(account.ok(&["render", "iam"])?.out.contains("Read & Write"));
    account.is_empty()?;
    account.emulator.asked()?;
    let mut command = account.command(&["check"])?;
    let ran: herdsman_tests::home::Ran = command.env_remove("HCLOUD_TOKEN").output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no token") && ran.out.contains("hcloud"),
        "{} {}",
        ran.code,
        ran.out
    );
    Ok(())
}
