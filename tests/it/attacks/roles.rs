//! Every kind of certificate at every route.

use anyhow::{Context, Result, ensure};
use herdsman_tests::attack::{Caller, Hub, alert};
use herdsman_wire::{Code, Secret, Timestamp, limits};
use rustls::AlertDescription;
use serde_json::Value;

const BLOB: &str = "/v1/blobs/0000000000000000000000000000000000000000000000000000000000000000";

/// Every route, and who may use it: operator, worker, scheduler, boot. Written by
/// hand, apart from the product's own table.
const TABLE: [(&str, &str, [bool; 4]); 26] = [
    ("GET", "/v1/version", [true, true, true, true]),
    ("POST", "/v1/enrol", [false, false, false, true]),
    ("POST", "/v1/renew", [false, true, false, false]),
    ("GET", "/v1/beat", [false, true, false, false]),
    ("GET", "/v1/stream/00", [false, true, false, false]),
    ("GET", BLOB, [true, true, false, false]),
    ("HEAD", BLOB, [true, false, false, false]),
    ("PUT", BLOB, [true, false, false, false]),
    ("GET", "/v1/csr", [true, false, false, false]),
    ("POST", "/v1/install", [true, false, false, false]),
    ("POST", "/v1/expect", [true, false, false, false]),
    ("POST", "/v1/operator", [true, false, false, false]),
    ("POST", "/v1/invites", [true, false, false, false]),
    ("POST", "/v1/retire", [true, false, false, false]),
    ("POST", "/v1/remove", [true, false, false, false]),
    ("POST", "/v1/revoke", [true, false, false, false]),
    ("POST", "/v1/allow", [true, false, false, false]),
    ("POST", "/v1/limits", [true, false, false, false]),
    ("POST", "/v1/environment", [true, false, false, false]),
    ("POST", "/v1/shutdown", [true, false, false, false]),
    ("GET", "/v1/status", [true, false, false, false]),
    ("GET", "/v1/events", [true, false, false, false]),
    ("GET", "/v1/audit", [true, false, false, false]),
    ("POST", "/v1/nodes/demo-w0/renew", [true, false, false, false]),
    ("GET", "/v1/nodes/demo-w0/stream", [true, false, false, false]),
    ("GET", "/v1/tunnel/scheduler", [true, false, false, false]),
];

/// The hub's own certificate, from its files: what root on that machine has.
fn scheduler(hub: &Hub) -> Result<Caller> {
    let text = std::fs::read(hub.dir().join("state/identity.json"))?;
    let identity: Value = serde_json::from_slice(&text)?;
    Ok(Caller {
        from: hub.address.ip(),
        chain: identity["issued"]["agent_chain"].as_str().context("no chain")?.into(),
        key: Secret::new(identity["agent_key"].as_str().context("no key")?),
    })
}

#[tokio::test]
async fn every_role_at_every_route() -> Result<()> {
    ensure!(TABLE.len() == herdsman_agent::hub::authority::Route::ALL.len());
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let machine = hub.machine("demo-w1", 3)?;
    hub.expect(&machine).await?;
    let callers = [hub.owner(), member.agent(), scheduler(&hub)?, machine.caller.clone()];
    let mut refused = 0;
    for (method, path, may) in TABLE {
        for (caller, may) in callers.iter().zip(may) {
            // No message is a number, so nothing happens where it is let in.
            let answer = hub
                .ask(caller, method, path, &0)
                .await
                .with_context(|| format!("{method} {path}"))?;
            let shown = format!("{method} {path} from {}: {answer:?}", caller.from);
            ensure!((answer.status != 403) == may, "{shown}");
            if !may {
                refused += 1;
                ensure!(method == "HEAD" || answer.error()?.code == Code::Forbidden, "{shown}");
            }
        }
    }
    let lines = hub.audit().await?;
    let noted = lines.iter().filter(|l| l["detail"]["code"] == "E-FORBIDDEN").count();
    ensure!(noted == refused, "{noted} of {refused} refusals are in the audit log");
    Ok(())
}

#[tokio::test]
async fn before_the_installation_only_the_owner_is_listened_to() -> Result<()> {
    let hub = Hub::fresh().await?;
    let machine = hub.machine("demo-w0", 2)?;
    for (method, path, may) in TABLE {
        let answer = hub.ask(&machine.caller, method, path, &0).await?;
        ensure!((answer.status != 403) == may[3], "{method} {path}: {answer:?}");
        let answer = hub.ask(&hub.owner(), method, path, &0).await?;
        let wanted = match path {
            "/v1/version" | "/v1/csr" => 200,
            "/v1/install" => 400,
            _ if may[0] => 425,
            _ => 403,
        };
        ensure!(answer.status == wanted, "{method} {path}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn certificates_of_other_channels_are_refused_in_the_handshake() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let now = Timestamp::now();
    let client = hub.roots.client("tester", now, limits::OPERATOR_LIFE)?;
    let dask_of_hub = std::fs::read_to_string(hub.dir().join("run/tls/dask.pem"))?;
    let at = dask_of_hub.find("-----BEGIN PRIVATE").context("no key")?;
    let (boot, _) = hub.roots.bootstrap(
        herdsman_wire::Role::Scheduler,
        &"demo-scheduler".parse()?,
        now,
        limits::BOOTSTRAP_LIFE,
    )?;
    let owner = hub.owner();
    let unknown = [AlertDescription::UnknownCA, AlertDescription::DecryptError];
    // A server's certificate only: it may not call.
    let usage = [
        AlertDescription::UnsupportedCertificate,
        AlertDescription::BadCertificate,
    ];
    for (what, caller, alerts) in [
        ("a worker's Dask certificate", member.dask(), &unknown),
        (
            "the root's Dask client",
            Caller {
                chain: client.chain,
                key: client.key,
                ..owner.clone()
            },
            &unknown,
        ),
        (
            "the scheduler's Dask certificate",
            Caller {
                chain: dask_of_hub[..at].into(),
                key: Secret::new(&dask_of_hub[at..]),
                ..owner.clone()
            },
            &unknown,
        ),
        (
            "the scheduler's bootstrap certificate",
            Caller {
                chain: boot.certificate,
                key: boot.key,
                ..owner
            },
            &usage,
        ),
    ] {
        let result = hub.ask(&caller, "GET", "/v1/version", &0).await;
        let alert = alert(&result).with_context(|| format!("{what}: {result:?}"))?;
        ensure!(alerts.contains(&alert), "{what}: {alert:?}");
    }
    Ok(())
}

#[tokio::test]
async fn installing_twice() -> Result<()> {
    let hub = Hub::fresh().await?;
    let spec = herdsman_tests::attack::no_dask();
    let install = hub.installation(spec.clone()).await?;
    // With certificates for other keys: refused, and the right ones still work.
    let mut wrong = install.clone();
    wrong.issue_node.clone_from(&install.issue_control);
    let e = hub.ask(&hub.owner(), "POST", "/v1/install", &wrong).await?.error()?;
    ensure!(e.code == Code::Malformed && e.message.contains("issue_node"), "{e}");
    let first = hub.ask(&hub.owner(), "POST", "/v1/install", &install).await?;
    ensure!(first.status == 200, "{first:?}");
    for path in ["/v1/install", "/v1/csr"] {
        let method = if path == "/v1/csr" { "GET" } else { "POST" };
        let again = hub.ask(&hub.owner(), method, path, &install).await?;
        ensure!(again.status == 409, "{again:?}");
        ensure!(again.error()?.code == Code::Conflict, "{again:?}");
    }
    let member = hub.member("demo-w0", 2).await?;
    ensure!(member.issued.generation == 1);
    Ok(())
}

#[tokio::test]
async fn blobs_with_a_wrong_hash() -> Result<()> {
    let hub = Hub::start().await?;
    let owner = hub.owner();
    let e = hub.ask(&owner, "PUT", BLOB, &"hello").await?.error()?;
    ensure!(e.code == Code::Malformed && e.message.contains("hash"), "{e}");
    let answer = hub.ask(&owner, "GET", BLOB, &0).await?;
    ensure!(answer.status == 404, "{answer:?}");
    for path in [
        "/v1/blobs/..%2f..%2fetc%2fpasswd",
        "/v1/blobs/../hub/issue-node.pem",
        "/v1/blobs/ABC",
    ] {
        for method in ["GET", "PUT", "HEAD"] {
            let answer = hub.ask(&owner, method, path, &0).await?;
            ensure!(matches!(answer.status, 400 | 404), "{method} {path}: {answer:?}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(hub.dir().join("state/hub/blobs"))?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
