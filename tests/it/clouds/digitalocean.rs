//! DigitalOcean, with an emulator that is held against the vendor's own document.

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::LAPTOP;
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

use super::plain::{self, Account, Vendor, bad, mood};

pub(super) static VENDOR: Vendor = Vendor {
    name: "digitalocean",
    script: "digitalocean.py",
    token: ("DIGITALOCEAN_TOKEN", "dop_v1_test"),
    create: "POST /v2/droplets",
    list: "GET /v2/droplets",
    things: &["machines", "firewalls", "tags"],
    types: ["s-2vcpu-4gb", "s-2vcpu-4gb-intel"],
};

#[test]
fn a_cluster_takes_few_calls_all_as_the_model_says_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.up(&["--workers", "12"])?;
    let actions = account.emulator.actions()?;
    ensure!(actions.len() <= 26, "{} calls: {actions:?}", actions.len());
    // The scheduler, ten workers, two workers.
    let sizes: Vec<usize> = account
        .requests()?
        .iter()
        .map(|r| r["names"].as_array().map_or(0, Vec::len))
        .collect();
    ensure!(
        sizes.len() == 3 && sizes[0] == 1 && sizes.contains(&10) && sizes.contains(&2),
        "{sizes:?}"
    );
    let there = account.there()?;
    let machines = there["machines"].as_array().context("machines")?;
    ensure!(machines.len() == 13, "{machines:#?}");
    for m in machines {
        let scheduler = m["name"] == "demo-scheduler";
        ensure!(m["walls"] == if scheduler { 2 } else { 1 }, "{m:#}");
        let inbound = m["inbound"].as_array().context("inbound")?;
        let outside: Vec<&Value> = inbound
            .iter()
            .filter(|r| !r["sources"]["addresses"].is_null())
            .collect();
        // The scheduler alone is open, to this computer alone.
        if scheduler {
            ensure!(outside.len() == 1 && outside[0]["ports"] == "8785-8786", "{outside:#?}");
            ensure!(
                outside[0]["sources"]["addresses"] == json!([format!("{LAPTOP}/32")]),
                "{outside:#?}"
            );
        } else {
            ensure!(outside.is_empty(), "{outside:#?}");
        }
        ensure!(m["user_data"].as_str().is_some_and(|d| d.len() < 64 * 1024));
        ensure!(m["image"] == "debian-13-x64" && m["region"] == "nyc3", "{m:#}");
        // Nothing about one machine alone makes a tag of the account.
        ensure!(m["tags"].as_array().is_some_and(|t| t.len() <= 3), "{}", m["tags"]);
    }
    ensure!(
        there["tags"].as_array().is_some_and(|t| t.len() == 3),
        "{}",
        there["tags"]
    );
    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty()?;
    ensure!(account.count("DELETE /v2/droplets")? == 1, "not deleted at once");
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
    plain::the_next_type(&VENDOR)
}

#[test]
fn a_call_that_makes_fewer_is_followed_by_another() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.emulator.ask("places", &json!({"fewer": 1}))?;
    account.up(&["--workers", "3"])?;
    ensure!(account.machines()?.len() == 4 && account.requests()?.len() == 3);
    Ok(())
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let of = |action: &str, status: u64, id: &str, message: &str| json!({"action": action, "status": status, "code": id, "message": message});
    plain::errors(
        &VENDOR,
        &[
            (
                of(
                    "POST /v2/droplets",
                    403,
                    "forbidden",
                    "You are missing the required permission droplet:create",
                ),
                "E-PERM",
                4,
                "render iam",
            ),
            (
                of("POST /v2/firewalls", 403, "forbidden", "m"),
                "E-PERM",
                4,
                "POST /v2/firewalls",
            ),
            (
                of(
                    "POST /v2/droplets",
                    422,
                    "unprocessable_entity",
                    "creating this/these droplet(s) will exceed your droplet limit",
                ),
                "E-QUOTA",
                5,
                "droplet_limit_increase",
            ),
            (
                of("GET /v2/firewalls", 401, "unauthorized", "Unable to authenticate you"),
                "E-CREDENTIALS",
                4,
                "check digitalocean",
            ),
        ],
    )
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
            json!({"action": "POST /v2/firewalls", "status": 500, "late": true}),
            json!({"action": "POST /v2/tags", "status": 502}),
            json!({"action": "GET /v2/sizes", "drop": true}),
        ],
    )
}

#[test]
fn a_limit_of_calls_is_kept_and_waited_for() -> Result<()> {
    plain::a_rate(&VENDOR, &json!({"calls": 12, "seconds": 3}))
}

#[test]
fn sixty_workers_take_seven_calls_to_make() -> Result<()> {
    plain::many(&VENDOR, 40)
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    account.up(&[
        "--workers",
        "1",
        "--private",
        "--region",
        "fra1",
        "--network",
        "other-fra1",
        "--image",
        "ubuntu-24.04",
        "--type",
        "s-8vcpu-16gb",
        "--scheduler-type",
        "s-2vcpu-2gb",
        "--tag",
        "team=geo",
        "--set",
        "digitalocean.ssh_keys=[\"mine\", 512189]",
        "--set",
        "digitalocean.monitoring=true",
        "--set",
        "digitalocean.ipv6=true",
        "--set",
        "digitalocean.droplet_agent=false",
        "--set",
        "digitalocean.extra.backups=true",
    ])?;
    let requests = account.requests()?;
    let [scheduler, worker] = requests.as_slice() else {
        anyhow::bail!("{requests:#?}")
    };
    for (key, wanted) in [
        ("region", json!("fra1")),
        ("size", json!("s-8vcpu-16gb")),
        ("image", json!("ubuntu-24-04-x64")),
        ("ssh_keys", json!([512_189, 512_189])),
        ("monitoring", json!(true)),
        // There is no public address of any kind.
        ("ipv6", json!(false)),
        ("public_networking", json!(false)),
        ("with_droplet_agent", json!(false)),
        ("backups", json!(true)),
    ] {
        ensure!(worker[key] == wanted, "{key}: {}", worker[key]);
    }
    ensure!(
        scheduler["size"] == "s-2vcpu-2gb" && worker["vpc_uuid"].is_string(),
        "{scheduler:#} {worker:#}"
    );
    ensure!(worker["tags"].to_string().contains("team:geo"), "{}", worker["tags"]);
    // The record knows the region; the shell has another. The user's own tag stays.
    account.ok(&["down", "demo", "-y"])?;
    ensure!(
        account.there()?["tags"] == json!(["team:geo"]),
        "{}",
        account.there()?["tags"]
    );

    // Graphics processors are in a list of their own.
    account.up(&["--workers", "1", "--gpus", "1"])?;
    let sizes: Vec<Value> = account.machines()?.iter().map(|m| m["size"].clone()).collect();
    ensure!(sizes.contains(&json!("gpu-h100x1-80gb")), "{sizes:?}");
    account.ok(&["down", "demo", "-y"])?;
    ensure!(account.machines()?.is_empty());
    Ok(())
}

#[test]
fn strays_are_found_and_reaped() -> Result<()> {
    plain::strays(&VENDOR, &["machine", "firewall", "tag"])
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
        "quota",
        "clock",
        "price",
    ] {
        ensure!(mood(&findings, what) == "good", "{what}: {findings:#}");
    }
    ensure!(bad(&findings).is_empty(), "{findings:#}");
    let sizes = account
        .ok(&["sizes", "--cpu", "4", "--memory", "8GiB", "-o", "json"])?
        .out;
    let sizes: Value = serde_json::from_str(&sizes)?;
    ensure!(sizes["sizes"][0]["name"] == "s-4vcpu-8gb", "{sizes:#}");
    let plan = account
        .run(&["up", "demo", "--workers", "2", "--plan", "-o", "json"])?
        .out;
    let plan: Value = serde_json::from_str(&plan)?;
    let price = plan["price_per_hour"]["per_hour"].as_f64();
    ensure!(price.is_some_and(|p| (p - 3.0 * 0.03571).abs() < 1e-6), "{plan:#}");
    account.is_empty()?;
    account.emulator.asked()?;
    let mut command = account.command(&["check"])?;
    let ran: herdsman_tests::home::Ran = command.env_remove("DIGITALOCEAN_TOKEN").output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no token") && ran.out.contains("doctl"),
        "{} {}",
        ran.code,
        ran.out
    );
    Ok(())
}

#[test]
fn exactly_the_scopes_that_are_told_suffice() -> Result<()> {
    let Some(account) = Account::new(&VENDOR)? else {
        return Ok(());
    };
    let told = account.ok(&["render", "iam"])?.out;
    let scopes: Vec<&str> = told
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    ensure!(scopes.len() > 10, "{told}");
    let allow = |scopes: &[&str]| account.emulator.ask("tokens", &json!({VENDOR.token.1: scopes}));
    allow(&scopes)?;
    let findings = account.check()?;
    ensure!(bad(&findings).is_empty(), "{findings:#}");
    account.up(&["--workers", "2"])?;
    account.ok(&["ls"])?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty()?;
    for missing in &scopes {
        let fewer: Vec<&str> = scopes.iter().copied().filter(|s| s != missing).collect();
        allow(&fewer)?;
        let findings = account.check()?;
        ensure!(
            !bad(&findings).is_empty(),
            "without {missing} all is well: {findings:#}"
        );
        ensure!(
            findings.to_string().contains(missing),
            "{missing} is not named: {findings:#}"
        );
    }
    account.is_empty()
}
