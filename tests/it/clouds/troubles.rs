//! What goes wrong on every cloud alike, and what its user is told then. What goes wrong
//! on one alone stands in that cloud's own file.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, LAPTOP};
use herdsman_tests::home::{Home, Ran};
use serde_json::{Value, json};

use super::vendors::{AWS, AZURE, DIGITALOCEAN, GCP, HETZNER, OPENSTACK, Vendor};

/// A cloud, the call that lists what a user has, and the one that makes a scheduler.
type Calls = (&'static Vendor, &'static str, &'static str);

const CLOUDS: [Calls; 6] = [
    (&AWS, "DescribeInstances", "RunInstances"),
    (&AZURE, "VirtualMachines_ListAll", "VirtualMachines_CreateOrUpdate"),
    (&DIGITALOCEAN, "GET /v2/droplets", "POST /v2/droplets"),
    (&GCP, "instances.aggregatedList", "instances.insert"),
    (&HETZNER, "GET /servers", "POST /servers"),
    (&OPENSTACK, "GET servers/detail", "POST servers"),
];

/// Machines that never boot: what counts is what was asked for.
const UP: [&str; 9] = [
    "up",
    "demo",
    "-y",
    "-q",
    "--workers",
    "1",
    "--start-timeout",
    "1s",
    "--keep-failed",
];

struct Account {
    vendor: &'static Vendor,
    emulator: Emulator,
    home: Home,
}

impl Account {
    fn new(vendor: &'static Vendor) -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let Some(emulator) = vendor.start(|_| Ipv4Addr::new(10, 99, 1, 1), 0)? else {
            return Ok(None);
        };
        let text = format!(
            "provider = \"{}\"\n[env]\nmode = \"none\"\n[agent]\nurl = [\"https://agents.example/{{arch}}\"]\n{}",
            vendor.name, vendor.settings
        );
        std::fs::write(home.path().join("herdsman.toml"), text)?;
        Ok(Some(Self { vendor, emulator, home }))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.home.command(args)?;
        self.vendor.dress(&mut command, &self.emulator, &self.home)?;
        command
            .env("HERDSMAN_MY_ADDRESS", LAPTOP)
            // Nothing is sent to addresses that emulators make up.
            .env("HERDSMAN_PROXY_COMMAND", "false");
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<Ran> {
        Ok(self.command(args)?.output()?.into())
    }
}

/// The same on each of the clouds, at once: they wait more than they compute.
fn on_all(story: impl Fn(&Account, &Calls) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let told = CLOUDS.each_ref().map(|calls| {
            let story = &story;
            scope.spawn(move || -> Result<()> {
                let Some(account) = Account::new(calls.0)? else {
                    return Ok(());
                };
                story(&account, calls).context(calls.0.name)
            })
        });
        told.map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .into_iter()
            .collect()
    })
}

#[test]
fn a_vendor_that_is_out_of_order_is_named_as_such() -> Result<()> {
    on_all(|account, (_, list, _)| {
        // Asked to come back at once, as tests have no time.
        let of = |status: u64, code: &str| json!({"action": list, "status": status, "code": code, "headers": {"retry-after": "0"}, "times": 1000});
        // EC2 has a code for it, and another status.
        let too_many = match account.vendor.name {
            "aws" => of(503, "RequestLimitExceeded"),
            _ => of(429, "rate_limit_exceeded"),
        };
        for (fault, codes) in [
            (too_many, ["E-RATE"].as_slice()),
            (of(500, "InternalError"), &["E-PROVIDER"]),
            (of(503, "Unavailable"), &["E-PROVIDER", "E-RATE"]),
        ] {
            let status = fault["status"].clone();
            account.emulator.reset()?;
            account.emulator.faults(&[fault])?;
            let ran = account.run(&["ls"])?;
            ensure!(
                ran.code != 0 && codes.iter().any(|c| ran.err.contains(c)),
                "{status}: {} {} {}",
                ran.code,
                ran.out,
                ran.err
            );
            // It was tried more than once, and not for ever.
            let tries = account.emulator.actions()?.iter().filter(|a| a == list).count();
            ensure!((2..=20).contains(&tries), "{status}: {tries} tries");
        }
        Ok(())
    })
}

#[test]
fn credentials_that_have_expired_are_named_as_such() -> Result<()> {
    on_all(|account, (_, list, _)| {
        let code = match account.vendor.name {
            "aws" => "ExpiredToken",
            "azure" => "ExpiredAuthenticationToken",
            _ => "unauthorized",
        };
        account
            .emulator
            .faults(&[json!({"action": list, "status": 401, "code": code, "times": 1000})])?;
        let ran = account.run(&["ls"])?;
        ensure!(
            ran.code == 4 && ran.err.contains("E-CREDENTIALS") && ran.err.contains("try:"),
            "{} {} {}",
            ran.code,
            ran.out,
            ran.err
        );
        Ok(())
    })
}

#[test]
fn a_cluster_of_this_name_is_its_owners() -> Result<()> {
    on_all(|account, (_, _, create)| {
        let ran = account.run(&UP)?;
        ensure!(ran.err.contains("E-DEADLINE"), "{} {}", ran.code, ran.err);
        let before = account.vendor.machines(&account.emulator)?.len();
        ensure!(before == 2, "{before} machines");
        account.emulator.reset()?;
        // Somebody with the same account, who knows nothing of it.
        let empty = tempfile::tempdir()?;
        let mut other = account.command(&UP)?;
        other.env("HERDSMAN_STATE_DIR", empty.path().join("s"));
        let ran: Ran = other.output()?.into();
        ensure!(
            ran.code == 8 && ran.err.contains("E-CONFLICT") && ran.err.contains("try:"),
            "{} {}",
            ran.code,
            ran.err
        );
        let asked = account.emulator.actions()?;
        ensure!(!asked.iter().any(|a| a == create), "{asked:?}");
        ensure!(account.vendor.machines(&account.emulator)?.len() == before);
        let ran = account.run(&["down", "demo", "-y"])?;
        ensure!(ran.code == 0, "{}", ran.err);
        account.vendor.is_empty(&account.emulator)
    })
}

#[test]
fn a_machine_that_is_only_half_made_goes_with_the_rest() -> Result<()> {
    on_all(|account, (_, _, create)| {
        // Carried out, and nobody hears of it, for longer than it is tried.
        account.emulator.faults(&[json!({
            "action": create, "status": 500, "late": true, "headers": {"retry-after": "0"}, "times": 1000,
        })])?;
        let args: Vec<&str> = UP.iter().copied().filter(|a| *a != "--keep-failed").collect();
        let ran = account.run(&args)?;
        ensure!(ran.code != 0, "{} {}", ran.code, ran.err);
        account.emulator.faults(&[])?;
        account.vendor.is_empty(&account.emulator).context(ran.err)
    })
}

#[test]
fn a_clock_that_is_wrong_is_told_of_and_worked_with() -> Result<()> {
    on_all(|account, _| {
        let clock = || -> Result<Value> {
            let ran = account.run(&["check", "-o", "json"])?;
            let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
            let findings = report["providers"][0]["findings"].as_array().context("no findings")?;
            let found = findings.iter().find(|f| f["what"] == "clock");
            found
                .cloned()
                .with_context(|| format!("nothing of the clock: {findings:#?}"))
        };
        ensure!(clock()?["mood"] == "good", "{:#}", clock()?);
        account.emulator.ask("clock", &json!(1200.0))?;
        let found = clock()?;
        let text = found.to_string();
        ensure!(
            found["mood"] == "fair" && text.contains("set-ntp") && (text.contains("1200s") || text.contains("1199s")),
            "{found:#}"
        );
        Ok(())
    })
}
