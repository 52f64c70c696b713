//! Compute Engine, emulated: operations that take their time, lists that learn late,
//! pages. Requests and answers are held against the vendor's discovery documents, and
//! against what the vendor's own client would send.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::clouds::{Emulator, LAPTOP, killed_after};
use herdsman_tests::home::{Home, Ran};
use herdsman_tests::machines::thorough;
use serde_json::{Value, json};

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
const KEEP: [&str; 1] = ["--keep-failed"];

struct Account {
    home: Home,
    emulator: Emulator,
    key: PathBuf,
}

impl Account {
    fn new(args: &[&str]) -> Result<Option<Self>> {
        let home = Home::without_dask()?;
        let Some(emulator) = Emulator::start("gcp", "gcp.py", args)? else {
            return Ok(None);
        };
        let key = home.path().join("key.json");
        std::fs::write(&key, emulator.ask("key", &Value::Null)?.to_string())?;
        Ok(Some(Self { home, emulator, key }))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.emulator.command(&self.home, args)?;
        command.env("GOOGLE_APPLICATION_CREDENTIALS", &self.key);
        // Nobody answers here, and nobody else is asked.
        command.env("GCE_METADATA_HOST", "127.0.0.1:1");
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
        let ran = self.run(&[&UP[..], &KEEP, more].concat())?;
        ensure!(ran.err.contains("E-DEADLINE"), "{} {}", ran.code, ran.err);
        Ok(ran)
    }

    fn set(&self, what: Value) -> Result<()> {
        self.emulator.ask("set", &what).map(drop)
    }

    fn list(&self, key: &str) -> Result<Vec<Value>> {
        let all = self.emulator.ask("instances", &Value::Null)?;
        all[key].as_array().cloned().context(key.to_owned())
    }

    /// Nothing is there, and nothing comes any more.
    fn is_empty(&self, when: &str) -> Result<()> {
        let all = self.emulator.ask("instances", &Value::Null)?;
        for key in ["instances", "rules", "disks"] {
            ensure!(all[key] == json!([]), "{when}: {key} {:#}", all[key]);
        }
        ensure!(all["busy"] == 0, "{when}: something is still being done");
        Ok(())
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

    /// Bodies of the calls that made machines, the scheduler's first.
    fn bodies(&self) -> Result<Vec<Value>> {
        let asked = self.emulator.asked()?;
        let makes = ["instances.insert", "instances.bulkInsert"];
        let made = asked.into_iter().filter(|a| makes.contains(&a.action.as_str()));
        Ok(made.map(|a| a.facts["body"].clone()).collect())
    }
}

fn count(actions: &[String], action: &str) -> usize {
    actions.iter().filter(|a| *a == action).count()
}

#[test]
fn a_cluster_takes_few_calls_all_as_the_model_says_and_leaves_nothing() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    account.up(&["--workers", "100", "--tag", "team=geo"])?;
    let mut actions = account.emulator.actions()?;
    // Asked for when the machines did not come.
    actions.retain(|a| a != "instances.getSerialPortOutput");
    ensure!(actions.len() <= 12, "{} calls: {actions:?}", actions.len());
    ensure!(count(&actions, "instances.insert") == 1 && count(&actions, "instances.bulkInsert") == 1);
    let machines = account.list("instances")?;
    ensure!(machines.len() == 101, "{} machines", machines.len());
    for m in &machines {
        for labels in [&m["labels"], &m["disk"]["labels"]] {
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
            ] {
                ensure!(labels[key].is_string(), "no label {key}: {labels}");
            }
        }
    }
    let names: Vec<_> = machines.iter().filter_map(|m| m["name"].as_str()).collect();
    ensure!(
        names.contains(&"demo-scheduler") && names.contains(&"demo-w39"),
        "{names:?}"
    );
    let bodies = account.bodies()?;
    ensure!(bodies[1]["minCount"] == "1" && bodies[1]["count"] == "100");

    // The scheduler alone is open, to this computer alone, whatever the network has.
    let rules = account.list("rules")?;
    let rule = |suffix: &str| {
        let found = rules
            .iter()
            .find(|r| r["name"].as_str().is_some_and(|n| n.ends_with(suffix)));
        found.with_context(|| format!("no rule {suffix}"))
    };
    ensure!(rules.len() == 3, "{rules:#?}");
    let entry = rule("-in")?;
    ensure!(entry["sourceRanges"] == json!([format!("{LAPTOP}/32")]), "{entry:#}");
    ensure!(
        entry["allowed"] == json!([{"IPProtocol": "tcp", "ports": ["8785-8786"]}]),
        "{entry:#}"
    );
    let (inner, closed) = (rule("-inner")?, rule("-closed")?);
    ensure!(inner["sourceTags"] == inner["targetTags"] && inner["sourceRanges"].is_null());
    ensure!(closed["denied"][0]["ports"] == json!(["8785-8887"]), "{closed:#}");
    ensure!(closed["priority"].as_u64() > entry["priority"].as_u64() && closed["priority"].as_u64() < Some(1000));
    let has = |m: &Value, r: &Value| m["tags"].as_array().is_some_and(|t| t.contains(&r["targetTags"][0]));
    let open: Vec<_> = machines.iter().filter(|m| has(m, entry)).collect();
    ensure!(open.len() == 1 && open[0]["labels"]["herdsman-role"] == "scheduler");
    ensure!(machines.iter().all(|m| has(m, inner) && has(m, closed)));

    let ran = account.down_from_an_empty_home()?;
    ensure!(ran.code == 0, "{}", ran.err);
    account.is_empty("after down")?;
    account.emulator.asked()?;
    Ok(())
}

#[test]
fn a_launcher_that_dies_after_any_call_leaves_nothing_that_cannot_be_found() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    // Machines come late, and one after the other: some do not exist yet when the
    // launcher is dead and `down` looks for them.
    account.set(json!({"seconds": 0.3, "each": 0.4, "lag": 0.5}))?;
    let up = [&UP[..], &KEEP, &["--workers", "4"]].concat();
    let mut calls = 0;
    for nth in 1.. {
        if !killed_after(&account.emulator, &mut account.command(&up)?, nth)? {
            break;
        }
        calls = nth;
        let ran = account.down_from_an_empty_home()?;
        // After the first calls there was nothing yet.
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.is_empty(&format!("after call {nth}"))?;
        // The record of a cluster that never was is in nobody's way.
        account.run(&["down", "demo", "-y"])?;
    }
    ensure!(calls >= 9, "only {calls} calls were cut off");
    Ok(())
}

#[test]
fn a_down_that_dies_after_any_call_is_finished_by_the_next() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    for nth in 1.. {
        account.up(&["--workers", "1"])?;
        let mut down = account.command(&["down", "demo", "-y"])?;
        let was_cut = killed_after(&account.emulator, &mut down, nth)?;
        let ran = account.down_from_an_empty_home()?;
        ensure!([0, 3].contains(&ran.code), "after call {nth}: {}", ran.err);
        account.is_empty(&format!("after call {nth}"))?;
        account.run(&["down", "demo", "-y"])?;
        if !was_cut {
            ensure!(nth > 6, "down took {nth} calls");
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn pages_are_read_to_their_end() -> Result<()> {
    let Some(account) = Account::new(&["--page", "2"])? else {
        return Ok(());
    };
    account.up(&["--workers", "4"])?;
    ensure!(account.list("instances")?.len() == 5);
    let sizes: Value = serde_json::from_str(&account.ok(&["sizes", "-o", "json"])?.out)?;
    let names: Vec<_> = sizes["sizes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| &s["name"])
        .collect();
    ensure!(names.len() >= 8, "{names:?}");
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("after down")
}

#[test]
fn what_a_place_has_not_is_looked_for_in_the_next() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    // Spot machines nowhere; of the first type none, in the first zone two of the next.
    account.set(json!({"capacity": [
        {"market": "SPOT", "left": 0},
        {"type": "e2-standard-2", "left": 0},
        {"type": "n2-standard-2", "zone": "us-central1-b", "left": 2},
    ]}))?;
    account.up(&[
        "--workers",
        "5",
        "--type",
        "e2-standard-2",
        "--type",
        "n2-standard-2",
        "--spot",
        "prefer",
    ])?;
    let machines = account.list("instances")?;
    let workers: Vec<_> = machines.iter().filter(|m| m["type"] == "n2-standard-2").collect();
    let at = |zone: &str| workers.iter().filter(|m| m["zone"] == zone).count();
    ensure!(
        workers.len() == 5 && at("us-central1-b") == 2 && at("us-central1-a") == 3,
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("after down")?;

    // With spot machines only, none is the answer, and what was made goes again.
    account.set(json!({"capacity": [{"market": "SPOT", "left": 0}]}))?;
    let ran = account.run(
        &[
            &UP[..],
            &["--workers", "2", "--spot", "only", "--zone", "c", "--zone", "a"],
        ]
        .concat(),
    )?;
    ensure!(
        ran.code == 5 && ran.err.contains("E-CAPACITY") && ran.err.contains("us-central1-a"),
        "{} {}",
        ran.code,
        ran.err
    );
    account.is_empty("after a failure")?;

    // A bulk call that the vendor refuses at once is as good as one that fails later.
    account.set(json!({"capacity": []}))?;
    account.emulator.reset()?;
    account
        .emulator
        .faults(&[json!({"action": "instances.bulkInsert", "status": 503, "code": "insufficientCapacity"})])?;
    account.up(&["--workers", "2"])?;
    ensure!(account.list("instances")?.len() == 3);
    account.ok(&["down", "demo", "-y"])?;

    // Types that one zone lacks are found in another.
    account.set(json!({"absent": [["us-central1-b", "g2-standard-4"], ["us-central1-a", "g2-standard-4"]]}))?;
    account.up(&["--workers", "1", "--gpus", "1", "--gpu-type", "nvidia-l4"])?;
    let machines = account.list("instances")?;
    ensure!(
        machines
            .iter()
            .any(|m| m["type"] == "g2-standard-4" && m["zone"] == "us-central1-c"),
        "{machines:#?}"
    );
    account.ok(&["down", "demo", "-y"])?;
    account.emulator.asked()?;
    account.is_empty("at the end")
}

#[test]
fn errors_have_codes_and_something_to_try() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    let fails = |fault: Value, code: &str, exit: i32, words: &str| -> Result<()> {
        account.emulator.reset()?;
        account.emulator.faults(std::slice::from_ref(&fault))?;
        let ran = account.run(&[&UP[..], &["--workers", "2"]].concat())?;
        ensure!(
            ran.err.contains(code) && ran.code == exit && ran.err.contains(words) && ran.err.contains("try:"),
            "{fault}: {code} {exit} {words}: {} {}",
            ran.code,
            ran.err
        );
        account.is_empty(&fault.to_string())
    };
    let of = |action: &str, status: u64, code: &str, message: &str| json!({"action": action, "status": status, "code": code, "message": message, "times": 1000});
    let later = |action: &str, code: &str| json!({"action": action, "status": 200, "operation": true, "code": code, "times": 1000});
    let required = "Required 'compute.instances.create' permission for 'projects/my-project'";
    fails(
        of("instances.insert", 403, "forbidden", required),
        "E-PERM",
        4,
        "compute.instances.create is in it",
    )?;
    fails(of("firewalls.insert", 403, "forbidden", "m"), "E-PERM", 4, "render iam")?;
    fails(
        of(
            "instances.aggregatedList",
            403,
            "accessNotConfigured",
            "Compute Engine API has not been used",
        ),
        "E-PERM",
        4,
        "gcloud services enable compute.googleapis.com",
    )?;
    fails(
        of("instances.bulkInsert", 403, "quotaExceeded", "Quota 'CPUS' exceeded."),
        "E-QUOTA",
        5,
        "quotas",
    )?;
    fails(later("instances.insert", "QUOTA_EXCEEDED"), "E-QUOTA", 5, "quotas")?;
    fails(later("firewalls.insert", "QUOTA_EXCEEDED"), "E-QUOTA", 5, "quotas")?;
    fails(
        later("instances.insert", "ZONE_RESOURCE_POOL_EXHAUSTED"),
        "E-CAPACITY",
        5,
        "retry-until-up",
    )?;
    let rule = "Constraint constraints/compute.vmExternalIpAccess violated for project 1.";
    fails(
        of("instances.insert", 412, "conditionNotMet", rule),
        "E-PERM",
        4,
        "--private",
    )?;
    fails(
        of("instances.aggregatedList", 401, "authError", "m"),
        "E-CREDENTIALS",
        4,
        "application-default login",
    )?;

    // A clock that is wrong makes tokens that are not taken, and is called so.
    account.emulator.reset()?;
    account.set(json!({"skew": 7200.0}))?;
    let ran = account.run(&[&UP[..], &["--workers", "1"]].concat())?;
    ensure!(
        ran.code == 3 && ran.err.contains("E-CLOCK") && ran.err.contains("set-ntp"),
        "{}",
        ran.err
    );
    account.set(json!({"skew": 0.0}))?;

    // A machine of this name is somebody else's.
    account.up(&["--workers", "1"])?;
    let mut other = account.command(&[&UP[..], &["--workers", "1"]].concat())?;
    let empty = tempfile::tempdir()?;
    other.env("HERDSMAN_STATE_DIR", empty.path().join("s"));
    let ran: Ran = other.output()?.into();
    ensure!(ran.code == 8, "{} {}", ran.code, ran.err);
    account.ok(&["down", "demo", "-y"])?;

    // Nothing that makes no sense is asked for.
    for (args, words) in [
        (vec!["--type", "e2-standard-3"], "did you mean e2-standard-2?"),
        (vec!["--type", "e2-standard-2", "--gpus", "1"], "takes none"),
        (vec!["--image", "no-such-image"], "no image no-such-image"),
        (
            vec!["--zone", "europe-west4-a", "--region", "us-central1"],
            "is not in region",
        ),
        (vec!["--set", "gcp.colour=1"], "colour"),
        (vec!["--ssh-key", "mine"], "USER:ssh-ed25519"),
        (vec!["--subnet", "nowhere"], "no subnet"),
    ] {
        let ran = account.run(&[&UP[..], &["--workers", "1"], &args[..]].concat())?;
        ensure!(
            [2, 3].contains(&ran.code) && ran.err.contains(words),
            "{args:?}: {} {}",
            ran.code,
            ran.err
        );
        account.is_empty(&format!("{args:?}"))?;
    }
    Ok(())
}

#[test]
fn what_passes_is_waited_for_and_nothing_is_made_twice() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    account.set(json!({"longest_wait": 0.05, "seconds": 0.5}))?;
    account.emulator.faults(&[
        json!({"action": "firewalls.insert", "status": 403, "code": "rateLimitExceeded", "times": 2}),
        json!({"action": "firewalls.insert", "status": 503, "code": "backendError", "late": true}),
        json!({"action": "machineTypes.list", "status": 502, "times": 1}),
        // Carried out, and the answer lost on the way.
        json!({"action": "instances.insert", "status": 500, "code": "backendError", "late": true}),
        json!({"action": "instances.bulkInsert", "status": 503, "code": "backendError", "late": true, "times": 2}),
        json!({"action": "zoneOperations.wait", "drop": true, "times": 1}),
        json!({"action": "instances.aggregatedList", "status": 429, "code": "rateLimitExceeded", "headers": {"retry-after": "1"}}),
    ])?;
    account.up(&["--workers", "2"])?;
    let asked = account.emulator.asked()?;
    let bulk: Vec<_> = asked.iter().filter(|a| a.action == "instances.bulkInsert").collect();
    ensure!(bulk.len() == 3, "{} calls", bulk.len());
    ensure!(
        bulk.iter().all(|a| a.facts["query"] == bulk[0].facts["query"]),
        "another request id"
    );
    ensure!(account.list("instances")?.len() == 3 && account.list("rules")?.len() == 3);
    account.emulator.faults(&[
        json!({"action": "instances.delete", "status": 500, "code": "backendError", "late": true}),
        json!({"action": "firewalls.delete", "status": 400, "code": "resourceNotReady", "times": 1}),
        json!({"action": "instances.delete", "status": 403, "code": "rateLimitExceeded", "times": 1}),
    ])?;
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("after down")
}

#[test]
fn everything_that_a_user_may_want_is_in_the_call() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    account.up(&[
        "--workers",
        "1",
        "--private",
        "--type",
        "n2-standard-4",
        "--scheduler-type",
        "e2-medium",
        "--disk",
        "60GiB",
        "--disk-type",
        "pd-ssd",
        "--role",
        "worker@my-project.iam.gserviceaccount.com",
        "--spot",
        "only",
        "--zone",
        "europe-west4-c",
        "--image",
        "projects/my-project/global/images/family/baked",
        "--network",
        "other",
        "--security-group",
        "mine",
        "--ssh-key",
        "ann:ssh-ed25519 AAAA ann@example.org",
        "--lifetime",
        "2h",
        "--set",
        "gcp.labels.container_vm=dask",
        "--set",
        "gcp.scopes=[\"https://www.googleapis.com/auth/logging.write\"]",
        "--set",
        "gcp.min_cpu_platform=Intel Ice Lake",
        "--set",
        "gcp.secure_boot=true",
        "--set",
        "gcp.metadata.enable-oslogin=TRUE",
        "--set",
        "gcp.extra.canIpForward=true",
    ])?;
    let bodies = account.bodies()?;
    let of = |kind: &str| {
        let found = bodies
            .iter()
            .find(|b| b["machineType"].as_str().is_some_and(|t| t.ends_with(kind)));
        found.with_context(|| format!("no {kind}"))
    };
    let (worker, scheduler) = (of("n2-standard-4")?, of("e2-medium")?);
    let disk = &worker["disks"][0];
    let made = &disk["initializeParams"];
    let scheduling = &worker["scheduling"];
    let life = scheduling["maxRunDuration"]["seconds"]
        .as_str()
        .and_then(|s| s.parse::<u64>().ok());
    for (is, what) in [
        (disk["autoDelete"] == true && disk["boot"] == true, "a disk that goes"),
        (made["diskSizeGb"] == "60", "its size"),
        (made["diskType"] == "zones/europe-west4-c/diskTypes/pd-ssd", "its kind"),
        (
            made["sourceImage"] == "projects/my-project/global/images/baked-1",
            "the image",
        ),
        (scheduling["provisioningModel"] == "SPOT", "spot"),
        (
            scheduling["instanceTerminationAction"] == "DELETE",
            "what is taken away goes",
        ),
        (life.is_some_and(|l| (7000..=7800).contains(&l)), "an end"),
        (
            worker["networkInterfaces"][0]["accessConfigs"].is_null(),
            "no public address",
        ),
        (
            worker["networkInterfaces"][0]["subnetwork"]
                == "projects/my-project/regions/europe-west4/subnetworks/apart",
            "the subnet",
        ),
        (
            worker["serviceAccounts"][0]["email"] == "worker@my-project.iam.gserviceaccount.com",
            "the role",
        ),
        (
            worker["serviceAccounts"][0]["scopes"] == json!(["https://www.googleapis.com/auth/logging.write"]),
            "scopes",
        ),
        (worker["labels"]["container_vm"] == "dask", "labels"),
        (worker["minCpuPlatform"] == "Intel Ice Lake", "the platform"),
        (
            worker["shieldedInstanceConfig"]["enableSecureBoot"] == true,
            "secure boot",
        ),
        (worker["canIpForward"] == true, "further fields"),
        (worker["tags"]["items"][0] == "mine", "network tags"),
        (worker["metadata"].to_string().contains("ann:ssh-ed25519"), "the key"),
        (
            worker["metadata"].to_string().contains("enable-oslogin"),
            "further metadata",
        ),
        (
            scheduler["scheduling"]["provisioningModel"] == "STANDARD",
            "a scheduler that stays",
        ),
        (
            scheduler["scheduling"]["instanceTerminationAction"] == "DELETE",
            "the scheduler's end",
        ),
    ] {
        ensure!(is, "{what}: {worker:#} {scheduler:#}");
    }
    let rules = account.list("rules")?;
    let in_it = |r: &Value| {
        r["network"]
            .as_str()
            .is_some_and(|n| n.ends_with("projects/my-project/global/networks/other"))
    };
    ensure!(rules.iter().all(in_it), "{rules:#?}");
    // The record knows the region; lists are of all.
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("after down")?;

    // Graphics processors that are put in, a network of another project, no rules.
    account.emulator.reset()?;
    account.up(&[
        "--workers",
        "1",
        "--type",
        "n1-standard-4",
        "--gpus",
        "2",
        "--gpu-type",
        "nvidia-tesla-t4",
        "--set",
        "gcp.network_project=host-project",
        "--subnet",
        "shared-a",
        "--set",
        "gcp.firewall=false",
        "--set",
        "gcp.network_tier=STANDARD",
    ])?;
    let bodies = account.bodies()?;
    let worker = bodies
        .iter()
        .find(|b| b["guestAccelerators"].is_array())
        .context("no graphics")?;
    let kind = &worker["guestAccelerators"][0];
    ensure!(
        kind["acceleratorCount"] == 2
            && kind["acceleratorType"] == "zones/us-central1-b/acceleratorTypes/nvidia-tesla-t4",
        "{kind}"
    );
    ensure!(worker["scheduling"]["onHostMaintenance"] == "TERMINATE");
    let interface = &worker["networkInterfaces"][0];
    ensure!(
        interface["subnetwork"] == "projects/host-project/regions/us-central1/subnetworks/shared-a",
        "{interface}"
    );
    ensure!(interface["accessConfigs"][0]["networkTier"] == "STANDARD");
    ensure!(account.list("rules")?.is_empty());
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("without rules")?;

    // Rules of a shared network are in its project, and found there by nothing but
    // credentials.
    account.up(&[
        "--workers",
        "1",
        "--set",
        "gcp.network_project=host-project",
        "--network",
        "shared",
    ])?;
    let asked = account.emulator.asked()?;
    let made = asked.iter().filter(|a| a.action == "firewalls.insert");
    ensure!(made.clone().count() == 3 && made.clone().all(|a| a.facts["project"] == "host-project"));
    account.down_from_an_empty_home()?;
    account.is_empty("at the end")
}

#[test]
fn who_comes_from_elsewhere_is_let_in_as_well() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    // Two rules for two versions of IP, as the vendor has none for both.
    account.up(&["--workers", "1", "--allow", "2001:db8::/32", "--allow", "me"])?;
    let ranges = || -> Result<Vec<Value>> {
        let rules = account.list("rules")?;
        let open = rules
            .into_iter()
            .filter(|r| r["allowed"].is_array() && r["sourceRanges"].is_array());
        Ok(open.map(|r| r["sourceRanges"].clone()).collect())
    };
    ensure!(
        ranges()?.contains(&json!(["2001:db8::/32"])) && ranges()?.len() == 2,
        "{:?}",
        ranges()?
    );
    account.ok(&["down", "demo", "-y"])?;
    account.is_empty("at the end")
}

#[test]
fn strays_of_all_kinds_are_found_and_reaped() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    account.up(&["--workers", "1"])?;
    let none: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    ensure!(none["strays"] == json!([]), "{none}");
    let old = account.ok(&["reap", "--older-than", "1s"])?;
    ensure!(
        old.out.contains("machine") && old.out.contains("firewall rule"),
        "{}",
        old.out
    );
    ensure!(account.list("instances")?.len() == 2, "a look deleted something");
    // A disk that outlives its machine, against all that was asked for.
    account.set(json!({"kept_disks": ["demo-w0"]}))?;
    account.ok(&["reap", "-y", "--older-than", "1s"])?;
    let left = account.list("disks")?;
    if !left.is_empty() {
        account.ok(&["reap", "-y", "--older-than", "1s"])?;
    }
    account.is_empty("after reap")
}

#[test]
fn an_account_is_looked_at_without_making_anything() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    let findings = |ran: &Ran| -> Result<Vec<Value>> {
        let report: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
        report["providers"][0]["findings"]
            .as_array()
            .cloned()
            .context("no findings")
    };
    let found = findings(&account.run(&["check", "-o", "json"])?)?;
    for what in [
        "credentials",
        "project",
        "Compute API",
        "region",
        "clock",
        "permissions",
        "network",
        "image",
        "quota",
        "price",
    ] {
        let of = found
            .iter()
            .find(|f| f["what"] == what)
            .with_context(|| what.to_owned())?;
        ensure!(of["mood"] == "good", "{of:#}");
    }
    let text = serde_json::to_string(&found)?;
    ensure!(text.contains("tester@my-project.iam.gserviceaccount.com"), "{text}");
    ensure!(text.contains("ubuntu-2404-noble-amd64-v20261115"), "{text}");

    let sizes: Value = serde_json::from_str(
        &account
            .ok(&["sizes", "--cpu", "4", "--memory", "16GiB", "-o", "json"])?
            .out,
    )?;
    let first = &sizes["sizes"][0];
    let price = first["price"]["per_hour"].as_f64().unwrap_or_default();
    // 4 × 0.02181159 + 16 × 0.00292353
    ensure!(
        first["name"] == "e2-standard-4" && (price - 0.134_022_84).abs() < 1e-6,
        "{first}"
    );
    ensure!(first["spot"]["per_hour"].as_f64().is_some_and(|p| p < 0.05), "{first}");
    let ran = account.run(&["up", "demo", "--workers", "2", "--plan", "-o", "json"])?;
    let plan: Value = serde_json::from_str(&ran.out).with_context(|| ran.err.clone())?;
    ensure!(
        plan["price_per_hour"]["per_hour"]
            .as_f64()
            .is_some_and(|p| p > 0.1 && p < 0.3),
        "{plan:#}"
    );
    account.is_empty("after looks")?;
    account.emulator.asked()?;

    // Nobody at all.
    let mut command = account.command(&["check"])?;
    command.env_remove("GOOGLE_APPLICATION_CREDENTIALS");
    let ran: Ran = command.env("GOOGLE_CLOUD_PROJECT", "my-project").output()?.into();
    ensure!(
        ran.code != 0 && ran.out.contains("no credentials for GCP"),
        "{} {} {}",
        ran.code,
        ran.out,
        ran.err
    );
    // Somebody whose key is not the account's.
    account.emulator.reset()?;
    account.set(json!({"skew": -100_000.0}))?;
    let ran = account.run(&["check"])?;
    ensure!(ran.code != 0 && ran.out.contains("✗"), "{} {}", ran.out, ran.err);
    Ok(())
}

/// Permissions in the role that is printed.
fn permissions(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("- "));
    lines.map(|p| p.trim().to_owned()).collect()
}

#[test]
fn the_role_that_is_printed_suffices_and_one_permission_less_does_not() -> Result<()> {
    if !thorough() {
        return Ok(());
    }
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    let role = permissions(&account.ok(&["render", "iam"])?.out);
    ensure!(role.len() > 20, "{role:?}");
    // Everything that a cluster goes through, a zone without room and a disk that is left
    // included.
    let goes = |role: &[String]| -> Result<bool> {
        account.emulator.ask("clear", &Value::Null)?;
        account.emulator.reset()?;
        account.set(json!({"permissions": role, "seconds": 0.02, "lag": 0.0, "kept_disks": ["demo-w0"]}))?;
        account.set(json!({"capacity": [{"zone": "us-central1-b", "type": "e2-standard-2", "left": 0}]}))?;
        let made = account.run(&[&UP[..], &KEEP, &["--workers", "1"]].concat())?;
        let mut fine = made.err.contains("E-DEADLINE");
        fine &= account.run(&["logs", "demo", "demo-w0", "--boot"])?.code == 0;
        let down = account.run(&["down", "demo", "-y"])?;
        fine &= down.code == 0;
        let asked = account.emulator.asked()?;
        fine &= asked.iter().all(|a| a.status != Some(403));
        account.set(json!({"permissions": null}))?;
        account.run(&["down", "demo", "-y"])?;
        Ok(fine)
    };
    ensure!(
        goes(&role)?,
        "the role does not suffice: {:?}",
        account.emulator.asked()?
    );
    let mut needless = Vec::new();
    for one in &role {
        let less: Vec<String> = role.iter().filter(|p| *p != one).cloned().collect();
        if goes(&less)? {
            needless.push(one);
        }
    }
    // Asked for only where something goes another way than the usual one.
    let rare = [
        "compute.firewalls.get",
        "compute.firewalls.update",
        "compute.instances.get",
    ];
    needless.retain(|p| !rare.contains(&p.as_str()));
    ensure!(needless.is_empty(), "nobody asks for {needless:?}");
    Ok(())
}

#[test]
fn a_users_login_and_a_machines_account_are_taken() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    let host = account.emulator.url().replace("http://", "");
    let login = |refresh: &str| {
        json!({
            "type": "authorized_user", "client_id": "1.apps.googleusercontent.com", "client_secret": "s",
            "refresh_token": refresh, "quota_project_id": "my-project",
            "token_uri": format!("{}/token", account.emulator.url()),
        })
    };
    // In the place where the vendor's tool puts it.
    let folder = account.home.path().join("gcloud");
    std::fs::create_dir_all(&folder)?;
    let run = |args: &[&str], env: &[(&str, &str)]| -> Result<Ran> {
        let mut command = account.command(args)?;
        command
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            .env("CLOUDSDK_CONFIG", &folder)
            .envs(env.iter().copied());
        Ok(command.output()?.into())
    };
    let file = folder.join("application_default_credentials.json");
    std::fs::write(&file, login("refresh-me").to_string())?;
    let ran = run(&["check"], &[])?;
    ensure!(
        ran.out.contains("login of a user") && ran.out.contains("my-project"),
        "{} {}",
        ran.out,
        ran.err
    );
    ensure!(ran.out.contains("✓ permissions"), "{}", ran.out);
    std::fs::write(&file, login("revoked").to_string())?;
    let ran = run(&["check"], &[])?;
    ensure!(
        ran.out.contains("gives no token") && !ran.out.contains("revoked\""),
        "{} {}",
        ran.out,
        ran.err
    );
    std::fs::remove_file(&file)?;
    let ran = run(
        &["check"],
        &[("GCE_METADATA_HOST", &host), ("GOOGLE_CLOUD_PROJECT", "my-project")],
    )?;
    ensure!(
        ran.out.contains("service account of this machine") && ran.out.contains("✓ permissions"),
        "{} {}",
        ran.out,
        ran.err
    );
    Ok(())
}

#[test]
fn recorded_answers_of_the_vendor_are_understood() -> Result<()> {
    let Some(account) = Account::new(&[])? else {
        return Ok(());
    };
    account.emulator.ask(
        "recorded",
        &json!({
            "files": {
                "instances.aggregatedList": "aggregated_instances.json",
                "disks.aggregatedList": "aggregated_disks.json",
                "firewalls.list": "global_firewalls.json",
                "machineTypes.list": "zones_us-central1-a_machineTypes.json",
                "regions.get": "regions_us-central1.json",
                "projects.get": "project.json",
                "subnetworks.list": "regions_us-central1_subnetworks.json",
                "images.getFromFamily": "projects_coreos-cloud_global_images_family_coreos_stable.json",
            },
            "labels": {
                "herdsman-cluster": "demo", "herdsman-id": "aaaaaaaaaa", "herdsman-role": "worker",
                "herdsman-created": "1000000000", "herdsman-expires": "1000003600",
            },
        }),
    )?;
    let reaped: Value = serde_json::from_str(&account.ok(&["reap", "-o", "json"])?.out)?;
    let strays = reaped["strays"].to_string();
    for name in [
        "libcloud-demo-europe-np-node",
        "node-name",
        "libcloud-demo-multiple-nodes-001",
    ] {
        ensure!(strays.contains(name), "{name}: {strays}");
    }
    // Rules and disks there were, and none of them is ours.
    ensure!(!strays.contains("firewall") && !strays.contains("disk"), "{strays}");
    let sizes = account.ok(&["sizes", "-o", "json"])?.out;
    ensure!(
        sizes.contains("n1-standard-4") && sizes.contains("n1-highmem-8"),
        "{sizes}"
    );
    let ran = account.run(&["check"])?;
    for what in ["quota", "image", "network"] {
        let line = ran
            .out
            .lines()
            .find(|l| l.contains(what))
            .with_context(|| ran.out.clone())?;
        ensure!(!line.contains("not what it should be"), "{line}");
    }
    Ok(())
}
