//! Nodes that are not trusted any more, and their copies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::frame;
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Caller, Hub, Member};
use herdsman_tests::home::LONG;
use herdsman_wire::api::{OperatorIssued, OperatorRequest};
use herdsman_wire::session::{Down, UPGRADE};
use herdsman_wire::{ApiError, Code, limits, pki};
use serde_json::json;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// How long a revocation may take.
const CUT_WITHIN: Duration = Duration::from_secs(10);

type Session = Box<dyn Io>;
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Io for T {}

async fn session(hub: &Hub, caller: &Caller) -> Result<Session> {
    let io = hub.client(caller)?.upgrade("/v1/beat", UPGRADE).await?;
    // hyper's stream has an interface of its own.
    Ok(Box::new(io))
}

/// The next CRL of a session: time, number and serials by issuer.
async fn next_crl(io: &mut Session) -> Result<Crl> {
    let read = async {
        loop {
            match frame::read::<Down>(io).await? {
                Some(Down::Crl { number, pem }) => return Crl::parse(number, &pem),
                Some(_) => {}
                None => anyhow::bail!("the session ended"),
            }
        }
    };
    tokio::time::timeout(LONG, read).await?
}

#[derive(Debug)]
struct Crl {
    number: u64,
    times: Vec<i64>,
    serials: Vec<String>,
}

impl Crl {
    fn parse(number: u64, pem: &str) -> Result<Self> {
        let mut crl = Self {
            number,
            times: Vec::new(),
            serials: Vec::new(),
        };
        for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block?;
            let (_, list) = CertificateRevocationList::from_der(&block.contents)?;
            crl.times.push(list.last_update().timestamp());
            let hex = |raw: &[u8]| raw.iter().map(|b| format!("{b:02x}")).collect::<String>();
            crl.serials
                .extend(list.iter_revoked_certificates().map(|r| hex(r.raw_serial())));
        }
        ensure!(crl.times.len() == 2, "one for each data authority: {crl:?}");
        Ok(crl)
    }

    fn lists(&self, member: &Member) -> Result<bool> {
        let chains = [&member.issued.agent_chain, &member.issued.dask_chain];
        let mut all = true;
        for chain in chains {
            all &= self.serials.contains(&pki::facts_of_pem(chain)?.serial);
        }
        Ok(all)
    }
}

async fn revoke(hub: &Hub, node: &str) -> Result<()> {
    let body = json!({"nodes": [node], "why": "a test"});
    let answer = hub.ask(&hub.owner(), "POST", "/v1/revoke", &body).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// Tries until there is an answer. The hub cuts connections of a node's address
/// that are open when it is revoked, and that may hit the next one as well.
async fn answered<T, F>(ask: impl Fn() -> F) -> Result<Result<T, ApiError>>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let started = Instant::now();
    loop {
        match ask().await {
            Err(e) if e.code == Code::Unreachable && started.elapsed() < LONG => {}
            other => return Ok(other),
        }
    }
}

async fn renewal_is_refused(hub: &Hub, member: &Member) -> Result<()> {
    let keys = NewKeys::generate()?;
    let e = answered(|| hub.renew(member, &keys)).await?.err().context("renewed")?;
    ensure!(e.code == Code::Revoked, "{e}");
    Ok(())
}

async fn until_cut(io: &mut Session) -> Result<()> {
    let started = Instant::now();
    let read = async { while let Ok(Some(_)) = frame::read::<Down>(io).await {} };
    tokio::time::timeout(CUT_WITHIN, read)
        .await
        .context("the session lives on")?;
    ensure!(started.elapsed() < CUT_WITHIN);
    Ok(())
}

#[tokio::test]
async fn a_revoked_node_is_cut_off() -> Result<()> {
    let hub = Hub::start().await?;
    let bad = hub.member("demo-w0", 2).await?;
    let good = hub.member("demo-w1", 3).await?;
    let mut bad_session = session(&hub, &bad.agent()).await?;
    let mut good_session = session(&hub, &good.agent()).await?;
    // A connection that passed its handshake before, and asks only now.
    let mut old = hub.connect(&bad.agent()).await?;
    let before = next_crl(&mut good_session).await?;
    ensure!(!before.lists(&bad)?, "{before:?}");
    revoke(&hub, "demo-w0").await?;
    until_cut(&mut bad_session).await?;
    let after = next_crl(&mut good_session).await?;
    ensure!(after.lists(&bad)? && !after.lists(&good)?, "{after:?}");
    ensure!(after.number > before.number);
    renewal_is_refused(&hub, &bad).await?;
    for (method, path) in [("GET", "/v1/beat"), ("GET", "/v1/stream/00"), ("GET", "/v1/blobs/00")] {
        // Connections are still being cut: one may be reset before its answer.
        let mut tries = 0;
        let answer = loop {
            match hub.ask(&bad.agent(), method, path, &0).await {
                Err(_) if tries < 20 => tries += 1,
                answer => break answer?,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let e = answer.error()?;
        ensure!(e.code == Code::Revoked, "{path}: {e}");
    }
    use tokio::io::AsyncWriteExt as _;
    let late = match old
        .write_all(&herdsman_tests::attack::request("GET", "/v1/version", b""))
        .await
    {
        Ok(()) => herdsman_tests::attack::answer(&mut old).await,
        Err(e) => Err(e),
    };
    ensure!(late.is_err(), "{late:?}");
    ensure!(hub.audited("revoke").await? == 1);
    // The others are served as before.
    hub.renew(&good, &NewKeys::generate()?).await?;
    Ok(())
}

#[tokio::test]
async fn every_generation_that_still_lives_is_revoked() -> Result<()> {
    let hub = Hub::start().await?;
    let watcher = hub.member("demo-w1", 3).await?;
    let mut all = vec![hub.member("demo-w0", 2).await?];
    for n in 0..4 {
        let next = hub.renew(&all[n], &NewKeys::generate()?).await?;
        all.push(next);
    }
    revoke(&hub, "demo-w0").await?;
    let mut io = session(&hub, &watcher.agent()).await?;
    let crl = next_crl(&mut io).await?;
    for member in &all {
        ensure!(
            crl.lists(member)?,
            "generation {} is not revoked",
            member.issued.generation
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_renewal_at_the_moment_of_the_revocation_is_revoked_as_well() -> Result<()> {
    let hub = Hub::start().await?;
    let watcher = hub.member("demo-watcher", 200).await?;
    for n in 0..10 {
        let name = format!("demo-w{n}");
        let member = hub.member(&name, 2 + n).await?;
        let keys = NewKeys::generate()?;
        let (revoked, renewed) = tokio::join!(revoke(&hub, &name), hub.renew(&member, &keys));
        revoked?;
        match renewed {
            Ok(next) => {
                let mut io = session(&hub, &watcher.agent()).await?;
                let crl = next_crl(&mut io).await?;
                ensure!(crl.lists(&next)? && crl.lists(&member)?, "{name} slipped through");
            }
            Err(e) => ensure!(matches!(e.code, Code::Revoked | Code::Unreachable), "{e}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_revocations_in_a_row_have_growing_times() -> Result<()> {
    let hub = Hub::start().await?;
    let watcher = hub.member("demo-watcher", 200).await?;
    for n in 0..3 {
        hub.member(&format!("demo-w{n}"), 2 + n).await?;
    }
    let mut io = session(&hub, &watcher.agent()).await?;
    let mut last = next_crl(&mut io).await?;
    for n in 0..3 {
        revoke(&hub, &format!("demo-w{n}")).await?;
        let next = next_crl(&mut io).await?;
        ensure!(
            next.number == last.number + 1 && next.times.iter().zip(&last.times).all(|(n, l)| n > l),
            "{last:?} then {next:?}"
        );
        last = next;
    }
    Ok(())
}

#[tokio::test]
async fn an_old_generation_means_a_clone_and_the_node_is_cut_off() -> Result<()> {
    let hub = Hub::start().await?;
    let first = hub.member("demo-w0", 2).await?;
    let keys = NewKeys::generate()?;
    let second = hub.renew(&first, &keys).await?;
    ensure!(second.issued.generation == 2);
    // The answer was lost: the same keys get it again.
    let again = hub.renew(&first, &keys).await?;
    ensure!(again.issued.agent_chain == second.issued.agent_chain);
    let mut live = session(&hub, &second.agent()).await?;
    let e = hub
        .renew(&first, &NewKeys::generate()?)
        .await
        .err()
        .context("two of one node")?;
    ensure!(e.code == Code::Clone && !e.hint.is_empty(), "{e}");
    until_cut(&mut live).await?;
    renewal_is_refused(&hub, &second).await?;
    ensure!(hub.audited("clone").await? == 1);
    Ok(())
}

#[tokio::test]
async fn two_holders_of_one_identity_that_renew_together_lose_it() -> Result<()> {
    let hub = Hub::start().await?;
    let node = hub.member("demo-w0", 2).await?;
    let (a, b) = (NewKeys::generate()?, NewKeys::generate()?);
    let (a, b) = tokio::join!(hub.renew(&node, &a), hub.renew(&node, &b));
    let (won, lost): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(Result::is_ok);
    ensure!(won.len() == 1, "both got the next generation");
    let e = lost.into_iter().find_map(Result::err).context("no error")?;
    ensure!(e.code == Code::Clone, "{e}");
    let won = won.into_iter().find_map(Result::ok).context("no winner")?;
    renewal_is_refused(&hub, &won).await?;
    Ok(())
}

#[tokio::test]
async fn a_clone_does_not_take_the_session_of_the_node() -> Result<()> {
    let hub = Hub::start().await?;
    let first = hub.member("demo-w0", 2).await?;
    let second = hub.renew(&first, &NewKeys::generate()?).await?;
    let third = hub.renew(&second, &NewKeys::generate()?).await?;
    let mut live = session(&hub, &third.agent()).await?;
    // Nothing that is in order shows a generation that is two behind.
    let e = hub
        .client(&first.agent())?
        .upgrade("/v1/beat", UPGRADE)
        .await
        .err()
        .context("let in")?;
    ensure!(e.code == Code::Clone, "{e}");
    until_cut(&mut live).await?;
    renewal_is_refused(&hub, &third).await
}

#[tokio::test]
async fn the_scheduler_is_not_revoked_from_its_own_cluster() -> Result<()> {
    let hub = Hub::start().await?;
    for path in ["/v1/revoke", "/v1/remove"] {
        let body = json!({"nodes": ["demo-scheduler"]});
        let e = hub.ask(&hub.owner(), "POST", path, &body).await?.error()?;
        ensure!(e.code == Code::Conflict, "{path}: {e}");
    }
    Ok(())
}

/// Somebody who left, or whose laptop was stolen: whatever the certificates opened
/// closes, also what was open already.
#[tokio::test]
async fn a_revoked_person_loses_tunnels_too() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let hub = Hub::start().await?;
    let watcher = hub.member("demo-w0", 2).await?;
    let mut watching = session(&hub, &watcher.agent()).await?;
    next_crl(&mut watching).await?;
    let keys = NewKeys::generate()?;
    let (csr_operator, csr_client) = keys.requests()?;
    let ask = OperatorRequest {
        user: Some("eve".into()),
        csr_operator,
        csr_client,
    };
    let issued: OperatorIssued = hub.ask(&hub.owner(), "POST", "/v1/operator", &ask).await?.json()?;
    let eve = Caller {
        from: hub.node_address(200),
        chain: issued.operator_chain.clone(),
        key: keys.agent.clone(),
    };
    // Stands in for Dask's scheduler: says everything back.
    let scheduler = tokio::net::TcpListener::bind((hub.address.ip(), limits::SCHEDULER_PORT)).await?;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = scheduler.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tcp.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let mut tunnels = Vec::new();
    for caller in [&eve, &hub.owner()] {
        let mut tunnel = hub
            .client(caller)?
            .upgrade("/v1/tunnel/scheduler", "herdsman-tunnel")
            .await?;
        tunnel.write_all(b"a").await?;
        tunnel.flush().await?;
        ensure!(tunnel.read_u8().await? == b'a');
        tunnels.push(tunnel);
    }
    let body = json!({"users": ["eve"], "why": "left"});
    let answer = hub.ask(&hub.owner(), "POST", "/v1/revoke", &body).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let end = tokio::time::timeout(CUT_WITHIN, tunnels[0].read_u8()).await;
    ensure!(end.context("the tunnel lives on")?.is_err());
    let e = hub.ask(&eve, "GET", "/v1/status", &0).await?.error()?;
    ensure!(e.code == Code::Revoked, "{e}");
    let crl = next_crl(&mut watching).await?;
    for chain in [&issued.operator_chain, &issued.client_chain] {
        ensure!(crl.serials.contains(&pki::facts_of_pem(chain)?.serial), "{crl:?}");
    }
    // The owner's own tunnel is not hers.
    tunnels[1].write_all(b"b").await?;
    tunnels[1].flush().await?;
    ensure!(tunnels[1].read_u8().await? == b'b');
    let again = hub
        .ask(&hub.owner(), "POST", "/v1/revoke", &json!({"users": ["nobody"]}))
        .await?;
    ensure!(again.error()?.code == Code::NotFound);
    Ok(())
}
