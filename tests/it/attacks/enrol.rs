//! Attacks on the enrolment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman::link::SOON;
use herdsman::pki::Roots;
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Caller, Hub, Machine, alert};
use herdsman_wire::api::Enrol;
use herdsman_wire::report::ClusterStatus;
use herdsman_wire::{Code, NodeName, Role, Timestamp, limits, pki};
use rustls::AlertDescription;

#[tokio::test]
async fn spent_bootstrap_certificate_with_other_keys() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let first = hub.enrol(&machine, &keys).await?;
    let thief = NewKeys::generate()?;
    let (csr_agent, csr_dask) = thief.requests()?;
    let ask = Enrol {
        csr_agent,
        csr_dask,
        facts: Default::default(),
    };
    let answer = hub.ask(&machine.caller, "POST", "/v1/enrol", &ask).await?;
    ensure!(answer.status == 409, "{answer:?}");
    let e = answer.error()?;
    ensure!(e.code == Code::EnrolSpent && e.message.contains("demo-w0"), "{e}");
    let lines = hub.audit().await?;
    let line = lines.iter().find(|l| l["event"] == "double-use").context("no line")?;
    ensure!(line["detail"]["code"] == "E-ENROL-SPENT", "{line}");
    // The real node is not hurt: replaying must be no way to kill it.
    let again = hub.enrol(&machine, &keys).await?;
    ensure!(again.issued.agent_chain == first.issued.agent_chain);
    hub.renew(&first, &NewKeys::generate()?).await?;
    Ok(())
}

/// Misuse is told to the owner, by node and address, by the next hub as well.
#[tokio::test]
async fn misuse_is_counted_and_not_forgotten() -> Result<()> {
    let mut hub = Hub::start().await?;
    let mut machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    hub.enrol(&machine, &NewKeys::generate()?).await?;
    for n in [9, 9, 8] {
        machine.caller.from = hub.node_address(n);
        ensure!(hub.enrol(&machine, &NewKeys::generate()?).await.is_err());
    }
    let wanted = [(9, 2), (8, 1)].map(|(n, count)| (hub.node_address(n), count));
    for _ in 0..2 {
        let status: ClusterStatus = hub.link.get("/v1/status", SOON).await?;
        let all = &status.incidents;
        let told: Vec<_> = all.iter().map(|i| (i.from, i.count)).collect();
        ensure!(told == wanted, "{all:?}");
        ensure!(
            all.iter()
                .all(|i| i.kind == "double-use" && i.node.as_ref() == Some(&machine.name))
        );
        ensure!(all.iter().all(|i| i.first <= i.last && i.last <= status.now), "{all:?}");
        hub.restart().await?;
    }
    Ok(())
}

#[tokio::test]
async fn same_serial_and_same_keys_get_the_same_answer_again() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let a = hub.enrol(&machine, &keys).await?.issued;
    let b = hub.enrol(&machine, &keys).await?.issued;
    ensure!(a.agent_chain == b.agent_chain && a.dask_chain == b.dask_chain && a.generation == b.generation);
    ensure!(hub.audited("enrol").await? == 1 && hub.audited("enrol-again").await? == 1);
    Ok(())
}

#[tokio::test]
async fn one_bootstrap_certificate_used_many_times_at_the_same_moment() -> Result<()> {
    let hub = Hub::start().await?;
    for round in 0..5 {
        let machine = hub.machine(&format!("demo-w{round}"), 2 + round)?;
        hub.expect(&machine).await?;
        let all: Vec<NewKeys> = (0..8).map(|_| NewKeys::generate()).collect::<Result<_, _>>()?;
        let (a, b, c, d, e, f, g, h) = tokio::join!(
            hub.enrol(&machine, &all[0]),
            hub.enrol(&machine, &all[1]),
            hub.enrol(&machine, &all[2]),
            hub.enrol(&machine, &all[3]),
            hub.enrol(&machine, &all[4]),
            hub.enrol(&machine, &all[5]),
            hub.enrol(&machine, &all[6]),
            hub.enrol(&machine, &all[7]),
        );
        let results = [a, b, c, d, e, f, g, h];
        let won = results.iter().filter(|r| r.is_ok()).count();
        ensure!(won == 1, "{won} of 8 callers got certificates for one use");
        let codes: Vec<_> = results.into_iter().filter_map(Result::err).map(|e| e.code).collect();
        ensure!(codes.iter().all(|c| *c == Code::EnrolSpent), "{codes:?}");
    }
    Ok(())
}

#[tokio::test]
async fn expired_bootstrap_certificate() -> Result<()> {
    let hub = Hub::start().await?;
    let life = Duration::from_secs(60);
    let past = Timestamp::now().minus(Duration::from_secs(120));
    let machine = hub.machine_at("demo-w0", 2, past, life)?;
    hub.expect(&machine).await?;
    let result = hub.ask(&machine.caller, "POST", "/v1/enrol", &()).await;
    ensure!(
        alert(&result) == Some(AlertDescription::CertificateExpired),
        "{result:?}"
    );
    let e = hub
        .enrol(&machine, &NewKeys::generate()?)
        .await
        .err()
        .context("enrolled")?;
    ensure!(e.code == Code::Certificate && e.message.contains("expired"), "{e}");
    Ok(())
}

#[tokio::test]
async fn certificate_that_expires_while_the_connection_lives() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine_at("demo-w0", 2, Timestamp::now(), Duration::from_secs(3))?;
    hub.expect(&machine).await?;
    let mut tls = hub.connect(&machine.caller).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (csr_agent, csr_dask) = NewKeys::generate()?.requests()?;
    let ask = Enrol {
        csr_agent,
        csr_dask,
        facts: Default::default(),
    };
    use tokio::io::AsyncWriteExt;
    let body = serde_json::to_vec(&ask)?;
    let sent = tls
        .write_all(&herdsman_tests::attack::request("POST", "/v1/enrol", &body))
        .await;
    let answer = match sent {
        Ok(()) => herdsman_tests::attack::answer(&mut tls).await,
        Err(e) => Err(e),
    };
    ensure!(answer.is_err(), "served after its end: {answer:?}");
    ensure!(hub.audited("enrol").await? == 0);
    Ok(())
}

/// A bootstrap certificate of somebody else's roots.
fn foreign(hub: &Hub, cluster: &herdsman_wire::ClusterId) -> Result<Machine> {
    let now = Timestamp::now();
    let roots = Roots::generate(cluster, now, limits::CLUSTER_LIFE)?;
    let name: NodeName = "demo-w0".parse()?;
    let (bootstrap, serial) = roots.bootstrap(Role::Worker, &name, now, limits::BOOTSTRAP_LIFE)?;
    Ok(Machine {
        name,
        serial,
        caller: Caller {
            from: hub.node_address(2),
            chain: bootstrap.certificate,
            key: bootstrap.key,
        },
    })
}

#[tokio::test]
async fn certificate_of_a_foreign_cluster() -> Result<()> {
    let hub = Hub::start().await?;
    let other = herdsman::pki::new_cluster_id()?;
    // Also of one that gives itself the same identity.
    for cluster in [&other, &hub.cluster.id] {
        let machine = foreign(&hub, cluster)?;
        hub.expect(&machine).await?;
        let result = hub.ask(&machine.caller, "POST", "/v1/enrol", &()).await;
        ensure!(
            matches!(
                alert(&result),
                Some(AlertDescription::UnknownCA | AlertDescription::DecryptError)
            ),
            "{result:?}"
        );
        let e = hub
            .enrol(&machine, &NewKeys::generate()?)
            .await
            .err()
            .context("enrolled")?;
        ensure!(
            e.code == Code::Certificate && e.message.contains("another cluster"),
            "{e}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn wrong_source_address() -> Result<()> {
    let hub = Hub::start().await?;
    let mut machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let right = machine.caller.from;
    machine.caller.from = hub.node_address(9);
    let e = hub
        .enrol(&machine, &NewKeys::generate()?)
        .await
        .err()
        .context("enrolled")?;
    ensure!(e.code == Code::EnrolAddress && e.message.contains("demo-w0"), "{e}");
    ensure!(hub.audited("wrong-address").await? == 1);
    // It is not spent by that: the real machine gets in, and only from its place.
    machine.caller.from = right;
    let mut member = hub.enrol(&machine, &NewKeys::generate()?).await?;
    member.from = hub.node_address(9);
    let e = hub
        .renew(&member, &NewKeys::generate()?)
        .await
        .err()
        .context("renewed")?;
    ensure!(e.code == Code::EnrolAddress, "{e}");
    Ok(())
}

#[tokio::test]
async fn address_that_is_not_known_yet() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect_at(&machine, None).await?;
    let keys = NewKeys::generate()?;
    let (csr_agent, csr_dask) = keys.requests()?;
    let ask = Enrol {
        csr_agent,
        csr_dask,
        facts: Default::default(),
    };
    let early = hub.ask(&machine.caller, "POST", "/v1/enrol", &ask).await?;
    ensure!(early.status == 425, "{early:?}");
    let e = early.error()?;
    ensure!(e.code == Code::TooEarly && e.retryable, "{e}");
    hub.expect(&machine).await?;
    hub.enrol(&machine, &keys).await?;
    Ok(())
}

#[tokio::test]
async fn machine_that_nobody_expects() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    let e = hub
        .enrol(&machine, &NewKeys::generate()?)
        .await
        .err()
        .context("enrolled")?;
    ensure!(e.code == Code::EnrolUnexpected, "{e}");
    // The serial of one machine under the name of another.
    let mut other = hub.machine("demo-w1", 3)?;
    other.serial = machine.serial.clone();
    hub.expect_at(&other, Some(machine.caller.from)).await?;
    let e = hub
        .enrol(&machine, &NewKeys::generate()?)
        .await
        .err()
        .context("enrolled")?;
    ensure!(e.code == Code::EnrolUnexpected, "{e}");
    ensure!(hub.audited("wrong-name").await? == 1);
    Ok(())
}

#[tokio::test]
async fn bootstrap_certificate_that_a_newer_one_replaced() -> Result<()> {
    let hub = Hub::start().await?;
    let old = hub.machine("demo-w0", 2)?;
    let new = hub.machine("demo-w0", 2)?;
    hub.expect(&old).await?;
    hub.expect(&new).await?;
    hub.enrol(&new, &NewKeys::generate()?).await?;
    let e = hub
        .enrol(&old, &NewKeys::generate()?)
        .await
        .err()
        .context("two machines of one name")?;
    ensure!(e.code == Code::EnrolUnexpected, "{e}");
    Ok(())
}

/// What the hub invites shows one certificate: the hub knows the one above it, and
/// takes no other hub's for that.
#[tokio::test]
async fn invited_without_the_issuing_certificate() -> Result<()> {
    let mut hub = Hub::start().await?;
    let mut invited = invite(&hub, "demo-w0", 2).await?;
    ensure!(invited.caller.chain.matches("BEGIN CERTIFICATE").count() == 1);
    let theirs = Hub::start().await?;
    invited.caller.from = theirs.node_address(2);
    let e = theirs
        .enrol(&invited, &NewKeys::generate()?)
        .await
        .err()
        .context("enrolled")?;
    ensure!(e.code == Code::Certificate, "{e}");
    // Also after a restart the hub knows whom it has invited.
    hub.restart().await?;
    invited.caller.from = hub.node_address(2);
    hub.enrol(&invited, &NewKeys::generate()?).await?;
    let again = hub.enrol(&invited, &NewKeys::generate()?).await;
    ensure!(again.as_ref().is_err_and(|e| e.code == Code::EnrolSpent), "{again:?}");
    Ok(())
}

async fn invite(hub: &Hub, name: &str, n: u8) -> Result<Machine> {
    let ask = serde_json::json!({"nodes": [name], "ttl_seconds": 600});
    let answer = hub.ask(&hub.owner(), "POST", "/v1/invites", &ask).await?;
    let invited: herdsman_wire::api::Invited = answer.json()?;
    let invitation = invited.invites.into_iter().next().context("no invitation")?;
    let machine = Machine {
        name: invitation.node,
        serial: invitation.serial,
        caller: Caller {
            from: hub.node_address(n),
            chain: invitation.certificate,
            key: invitation.key,
        },
    };
    hub.expect(&machine).await?;
    Ok(machine)
}

#[tokio::test]
async fn a_node_cannot_be_called_scheduler() -> Result<()> {
    let hub = Hub::start().await?;
    let owner = hub.owner();
    ensure!(hub.machine("scheduler", 2).is_err());
    for (path, body) in [
        (
            "/v1/invites",
            serde_json::json!({"nodes": ["scheduler"], "ttl_seconds": 60}),
        ),
        (
            "/v1/expect",
            serde_json::json!({"nodes": [{"node": "scheduler", "serial": "41"}]}),
        ),
        (
            "/v1/invites",
            serde_json::json!({"nodes": ["Scheduler"], "ttl_seconds": 60}),
        ),
        (
            "/v1/invites",
            serde_json::json!({"nodes": ["scheduler."], "ttl_seconds": 60}),
        ),
        (
            "/v1/invites",
            serde_json::json!({"nodes": ["x.scheduler"], "ttl_seconds": 60}),
        ),
    ] {
        let e = hub.ask(&owner, "POST", path, &body).await?.error()?;
        ensure!(e.code == Code::Malformed, "{path} {body}: {e}");
    }
    // The hub's own name is taken, too.
    let body = serde_json::json!({"nodes": ["demo-scheduler"], "ttl_seconds": 60});
    let e = hub.ask(&owner, "POST", "/v1/invites", &body).await?.error()?;
    ensure!(e.code == Code::Conflict, "{e}");
    let impostor = hub.machine("demo-scheduler", 2)?;
    let told = hub.expect(&impostor).await;
    let enrolled = hub.enrol(&impostor, &NewKeys::generate()?).await;
    ensure!(told.is_err() && enrolled.is_err(), "{told:?} {enrolled:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_issued_names_the_node_and_nothing_else() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    for (chain, kind) in [
        (&member.issued.agent_chain, "agent/worker?generation=1"),
        (&member.issued.dask_chain, "dask/worker"),
    ] {
        let facts = pki::facts_of_pem(chain)?;
        ensure!(facts.label.as_deref() == Some("demo-w0"), "{facts:?}");
        ensure!(facts.identity.to_string().ends_with(kind), "{facts:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_hub_forgets_nothing() -> Result<()> {
    let mut hub = Hub::start_with(with_variable()).await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let first = hub.enrol(&machine, &keys).await?;
    let second = hub.renew(&first, &NewKeys::generate()?).await?;
    let gone = hub.member("demo-w1", 3).await?;
    let body = serde_json::json!({"nodes": ["demo-w1"]});
    ensure!(hub.ask(&hub.owner(), "POST", "/v1/revoke", &body).await?.status == 200);
    let other = serde_json::json!({"environment": {"mode": "image", "python": "/nonexistent/other"}});
    ensure!(hub.ask(&hub.owner(), "POST", "/v1/environment", &other).await?.status == 200);
    hub.restart().await?;
    let e = hub
        .enrol(&machine, &NewKeys::generate()?)
        .await
        .err()
        .context("used twice")?;
    ensure!(e.code == Code::EnrolSpent, "{e}");
    let e = hub.renew(&gone, &NewKeys::generate()?).await.err().context("renewed")?;
    ensure!(e.code == Code::Revoked, "{e}");
    let third = hub.renew(&second, &NewKeys::generate()?).await?;
    ensure!(third.issued.generation == 3);
    // What nodes are to run is as it was, secrets included.
    let spec = &third.issued.spec;
    ensure!(spec.dask.variables["TOKEN"].reveal() == "hunter2", "{spec:?}");
    ensure!(
        format!("{:?}", spec.environment).contains("/nonexistent/other"),
        "{spec:?}"
    );
    let e = hub
        .renew(&first, &NewKeys::generate()?)
        .await
        .err()
        .context("a clone")?;
    ensure!(e.code == Code::Clone, "{e}");
    Ok(())
}

fn with_variable() -> herdsman_wire::spec::ClusterSpec {
    let mut spec = herdsman_tests::attack::no_dask();
    let secret = herdsman_wire::Secret::new("hunter2");
    spec.dask.variables.insert("TOKEN".into(), secret);
    spec
}
