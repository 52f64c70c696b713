//! Attacks on the handshake: impostors, old versions, resumption.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman::link::{Link, Reach};
use herdsman::pki::Roots;
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Caller, Hub, answer, request, tls_error};
use herdsman_wire::tls::{self, SwapIdentity};
use herdsman_wire::{Code, Role, Secret, Timestamp, limits, pki};
use rustls::client::Resumption;
use rustls::{CertificateError, ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A client that would resume if it could.
fn resuming(hub: &Hub, caller: &Caller) -> Result<Arc<ClientConfig>> {
    let mut config = tls::client_config(&hub.roots.pems.control, &caller.chain, &caller.key)?;
    config.resumption = Resumption::in_memory_sessions(64);
    config.enable_early_data = true;
    Ok(Arc::new(config))
}

async fn ask_version(hub: &Hub, caller: &Caller, config: &Arc<ClientConfig>) -> std::io::Result<HandshakeKind> {
    let mut tls = hub.tls(caller.from, config.clone()).await?;
    tls.write_all(&request("GET", "/v1/version", b"")).await?;
    let answer = answer(&mut tls).await?;
    if answer.status != 200 {
        return Err(std::io::Error::other(format!("{answer:?}")));
    }
    let kind = tls.get_ref().1.handshake_kind();
    kind.ok_or_else(|| std::io::Error::other("no handshake"))
}

#[tokio::test]
async fn no_session_is_ever_resumed() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let caller = member.agent();
    let config = resuming(&hub, &caller)?;
    for _ in 0..4 {
        let kind = ask_version(&hub, &caller, &config).await?;
        ensure!(kind == HandshakeKind::Full, "{kind:?}");
    }
    // After a revocation there is nothing to come back with.
    let body = serde_json::json!({"nodes": ["demo-w0"]});
    let done = hub.ask(&hub.owner(), "POST", "/v1/revoke", &body).await?;
    ensure!(done.status == 200, "{done:?}");
    let asked = async {
        let mut io = hub.tls(caller.from, config.clone()).await?;
        io.write_all(&request("GET", "/v1/blobs/00", b"")).await?;
        answer(&mut io).await
    };
    if let Ok(answer) = asked.await {
        ensure!(answer.error()?.code == Code::Revoked, "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_cannot_resume() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine_at("demo-w0", 2, Timestamp::now(), Duration::from_secs(4))?;
    let config = resuming(&hub, &machine.caller)?;
    ensure!(ask_version(&hub, &machine.caller, &config).await? == HandshakeKind::Full);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let late = ask_version(&hub, &machine.caller, &config).await;
    ensure!(late.is_err(), "served after its end: {late:?}");
    Ok(())
}

pub(super) fn write(hub: &Hub, name: &str, text: &str) -> Result<String> {
    let path = hub.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Runs `openssl s_client` to its end; gives all that it said.
fn s_client(hub: &Hub, caller: Option<&Caller>, more: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    let address = hub.address.to_string();
    let root = write(hub, "root.pem", &hub.roots.pems.control)?;
    command.args([
        "s_client",
        "-connect",
        &address,
        "-CAfile",
        &root,
        "-verify_return_error",
    ]);
    if let Some(caller) = caller {
        let chain = write(hub, "client.pem", &caller.chain)?;
        let key = write(hub, "client.key", caller.key.reveal())?;
        let bind = format!("{}:0", caller.from);
        command.args(["-cert", &chain, "-cert_chain", &chain, "-key", &key, "-bind", &bind]);
    }
    let mut child = command
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let _ = input.write_all(&request("GET", "/v1/version", b""));
    // It ends when the hub closes.
    let out = child.wait_with_output();
    drop(input);
    let out = out?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    ))
}

#[tokio::test]
async fn openssl_gets_no_ticket_and_no_old_version() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let agent = member.agent();
    let session = hub.dir().join("session").to_string_lossy().into_owned();
    let said = s_client(&hub, Some(&agent), &["-ign_eof", "-sess_out", &session])?;
    ensure!(said.contains("TLSv1.3") && said.contains("\"protocol\":1"), "{said}");
    ensure!(!said.contains("Post-Handshake New Session Ticket"), "{said}");
    let said = s_client(&hub, Some(&agent), &["-ign_eof", "-reconnect"])?;
    ensure!(!said.contains("Reused,"), "{said}");
    for version in ["-tls1_2", "-tls1_1", "-tls1"] {
        let said = s_client(&hub, Some(&agent), &[version, "-cipher", "ALL:@SECLEVEL=0", "-ign_eof"])?;
        ensure!(!said.contains("\"protocol\":1"), "{version}: {said}");
        let refusals = [
            "alert protocol version",
            "alert handshake failure",
            "no protocols available",
        ];
        ensure!(refusals.iter().any(|r| said.contains(r)), "{version}: {said}");
    }
    let said = s_client(&hub, None, &["-ign_eof"])?;
    ensure!(said.contains("certificate required"), "{said}");
    ensure!(!said.contains("\"protocol\":1"), "{said}");
    Ok(())
}

#[tokio::test]
async fn no_client_certificate() -> Result<()> {
    let hub = Hub::start().await?;
    let mut roots = RootCertStore::empty();
    for root in pki::pem_chain(&hub.roots.pems.control)? {
        roots.add(root)?;
    }
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut io = hub.tls(hub.node_address(2), Arc::new(config)).await?;
    let sent = io.write_all(&request("GET", "/v1/version", b"")).await;
    let answered = match sent {
        Ok(()) => answer(&mut io).await,
        Err(e) => Err(e),
    };
    ensure!(answered.is_err(), "{answered:?}");
    Ok(())
}

/// A server of ours that shows this chain, takes whom the control root signed,
/// and counts the bytes that reach it behind the handshake.
struct Impostor {
    address: SocketAddr,
    heard: Arc<AtomicUsize>,
}

async fn impostor(hub: &Hub, n: u8, chain: &str, key: &Secret) -> Result<Impostor> {
    let identity = SwapIdentity::new(tls::certified_key(chain, key)?);
    // It wants no client's certificate, so that nothing but the client stops.
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(identity);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((hub.node_address(n), 0)).await?;
    let address = listener.local_addr()?;
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = tls.read(&mut piece).await {
                        count.fetch_add(n, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    Ok(Impostor { address, heard })
}

/// What launcher and agent say of a server that shows this chain.
async fn trusts(hub: &Hub, what: &str, chain: &str, key: &Secret, word: &str) -> Result<()> {
    let fake = impostor(hub, 240, chain, key).await?;
    let launcher = Link::new(
        Reach::Direct(fake.address),
        &hub.cluster.id,
        &hub.roots.pems.control,
        &hub.operator.chain,
        &hub.operator.key,
    )?;
    let said = launcher
        .get::<serde_json::Value>("/v1/version", Duration::from_secs(20))
        .await;
    let e = said.err().with_context(|| format!("{what}: the launcher trusts it"))?;
    ensure!(e.code == Code::Certificate && e.message.contains(word), "{what}: {e}");
    let mut client = hub.client(&hub.machine("demo-w9", 9)?.caller)?;
    client.hub = fake.address;
    let (csr_agent, csr_dask) = NewKeys::generate()?.requests()?;
    let ask = serde_json::json!({"csr_agent": csr_agent, "csr_dask": csr_dask});
    let said = client
        .post::<_, serde_json::Value>("/v1/enrol", &ask, Duration::from_secs(20))
        .await;
    let e = said.err().with_context(|| format!("{what}: the agent trusts it"))?;
    ensure!(e.code == Code::Certificate && e.message.contains(word), "{what}: {e}");
    let heard = fake.heard.load(Ordering::SeqCst);
    ensure!(heard == 0, "{what}: {heard} bytes were told to it");
    Ok(())
}

#[tokio::test]
async fn impostors_of_the_hub_hear_nothing() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let now = Timestamp::now();
    let (boot, _) = {
        let roots = Roots::generate(&hub.cluster.id, now, limits::CLUSTER_LIFE)?;
        roots.bootstrap(Role::Scheduler, &"demo-scheduler".parse()?, now, limits::BOOTSTRAP_LIFE)?
    };
    trusts(
        &hub,
        "own root, right name",
        &boot.certificate,
        &boot.key,
        "somebody else",
    )
    .await?;
    let agent = &member.issued.agent_chain;
    trusts(&hub, "a worker's agent", agent, &member.keys.agent, "another node").await?;
    let dask = &member.issued.dask_chain;
    trusts(&hub, "a worker's Dask", dask, &member.keys.dask, "somebody else").await?;
    // Client's certificates have no name, and may not be a server.
    trusts(&hub, "an operator", &hub.operator.chain, &hub.operator.key, "").await?;
    let past = now.minus(Duration::from_secs(7200));
    let name = "demo-scheduler".parse()?;
    let (old, _) = hub
        .roots
        .bootstrap(Role::Scheduler, &name, past, Duration::from_secs(60))?;
    trusts(&hub, "an expired bootstrap", &old.certificate, &old.key, "expired").await?;
    let dask_of_hub = std::fs::read_to_string(hub.dir().join("run/tls/dask.pem"))?;
    let at = dask_of_hub.find("-----BEGIN PRIVATE").context("no key")?;
    let key = Secret::new(&dask_of_hub[at..]);
    trusts(&hub, "the scheduler's Dask", &dask_of_hub[..at], &key, "somebody else").await
}

/// The real agent as a worker, with somebody in between who decrypts with an
/// authority of their own.
#[tokio::test]
async fn the_real_worker_tells_nothing_to_a_man_in_the_middle() -> Result<()> {
    let hub = Hub::start().await?;
    let now = Timestamp::now();
    let evil = Roots::generate(&hub.cluster.id, now, limits::CLUSTER_LIFE)?;
    let (shown, _) = evil.bootstrap(Role::Scheduler, &"demo-scheduler".parse()?, now, limits::BOOTSTRAP_LIFE)?;
    let fake = impostor(&hub, 241, &shown.certificate, &shown.key).await?;
    let name = "demo-w0".parse()?;
    let (bootstrap, _) = hub.roots.bootstrap(Role::Worker, &name, now, limits::BOOTSTRAP_LIFE)?;
    let dir = hub.dir().join("w0");
    std::fs::create_dir(&dir)?;
    let own = SocketAddr::new(hub.node_address(2), 0);
    let at = (Some(fake.address), own);
    let join = herdsman_tests::attack::join(&hub.cluster, &hub.roots, &dir, &name, Role::Worker, at, bootstrap)?;
    let console = dir.join("console");
    let mut child = herdsman_tests::attack::agent(&join, &console)?;
    let mut said = String::new();
    let started = std::time::Instant::now();
    while started.elapsed() < herdsman_tests::home::LONG && !said.contains("somebody sits in between") {
        tokio::time::sleep(Duration::from_millis(50)).await;
        said = std::fs::read_to_string(&console)?;
    }
    child.kill()?;
    child.wait()?;
    ensure!(said.contains("somebody sits in between"), "{said}");
    ensure!(fake.heard.load(Ordering::SeqCst) == 0);
    Ok(())
}

#[tokio::test]
async fn rustls_refuses_a_clients_certificate_as_a_server() -> Result<()> {
    let hub = Hub::start().await?;
    let fake = impostor(&hub, 242, &hub.operator.chain, &hub.operator.key).await?;
    let mut client = hub.client(&hub.owner())?;
    client.hub = fake.address;
    client.name.clone_from(&hub.cluster.id.hub_dns());
    let tcp = tokio::net::TcpStream::connect(fake.address).await?;
    let name = rustls_pki_types::ServerName::try_from(client.name.clone())?;
    let result = tokio_rustls::TlsConnector::from(client.config).connect(name, tcp).await;
    let error = tls_error(&result).context("trusted")?;
    ensure!(
        matches!(
            error,
            rustls::Error::InvalidCertificate(
                CertificateError::InvalidPurpose
                    | CertificateError::InvalidPurposeContext { .. }
                    | CertificateError::NotValidForNameContext { .. }
            )
        ),
        "{error:?}"
    );
    Ok(())
}
