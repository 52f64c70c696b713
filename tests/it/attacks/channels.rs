//! What other programs make of our certificates: OpenSSL, and Python's TLS as Dask
//! uses it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Caller, Hub};
use herdsman_wire::{Secret, pki, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tls::write;

/// Other programs' eyes: OpenSSL as server and client.
fn verified(hub: &Hub, root: &str, chain: &str, more: &[&str]) -> Result<(bool, String)> {
    let root = write(hub, "v-root.pem", root)?;
    let all = pki::pem_chain(chain)?.len();
    let chain = write(hub, "v-chain.pem", chain)?;
    ensure!(all >= 1);
    let out = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile", &root, "-untrusted", &chain])
        .args(more)
        .arg(&chain)
        .output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok((out.status.success(), text))
}

#[tokio::test]
async fn openssl_judges_chains_as_we_do() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let roots = &hub.roots.pems;
    let (agent, dask) = (&member.issued.agent_chain, &member.issued.dask_chain);
    let (a, b) = (NewKeys::generate()?, NewKeys::generate()?);
    let body = serde_json::json!({"csr_operator": a.requests()?.0, "csr_client": b.requests()?.0});
    let issued = hub.ask(&hub.owner(), "POST", "/v1/operator", &body).await?;
    let issued: herdsman_wire::api::OperatorIssued = issued.json()?;
    let (server, client) = (["-purpose", "sslserver"], ["-purpose", "sslclient"]);
    let hub_name = hub.cluster.id.hub_dns();
    let as_hub = ["-purpose", "sslserver", "-verify_hostname", &hub_name];
    let cases: [(&str, &str, &str, &[&str], bool); 12] = [
        ("agent as a client", &roots.control, agent, &client, true),
        ("agent as a server", &roots.control, agent, &server, true),
        ("agent as the hub", &roots.control, agent, &as_hub, false),
        ("agent for the nodes' data", &roots.node, agent, &client, false),
        (
            "agent for the scheduler's data",
            &roots.scheduler,
            agent,
            &server,
            false,
        ),
        ("worker to workers", &roots.node, dask, &server, true),
        ("worker as the scheduler", &roots.scheduler, dask, &server, false),
        ("Dask's at the control port", &roots.control, dask, &client, false),
        ("client as a client", &roots.node, &issued.client_chain, &client, true),
        ("client as a server", &roots.node, &issued.client_chain, &server, false),
        (
            "operator as a client",
            &roots.control,
            &issued.operator_chain,
            &client,
            true,
        ),
        (
            "operator as a server",
            &roots.control,
            &issued.operator_chain,
            &server,
            false,
        ),
    ];
    for (what, root, chain, more, wanted) in cases {
        let (ok, said) = verified(&hub, root, chain, more)?;
        ensure!(ok == wanted, "{what}: {said}");
    }
    Ok(())
}

/// What Dask does with a pair of certificates: Python's `ssl`, set up as
/// distributed does it, one server and one client. Prints what each side says.
const AS_DASK: &str = "
import socket, ssl, sys, threading
ca_s, cert_s, ca_c, cert_c = sys.argv[1:5]
def context(purpose, ca, cert):
    c = ssl.create_default_context(purpose, cafile=ca)
    c.verify_mode = ssl.CERT_REQUIRED
    c.check_hostname = False
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    c.load_cert_chain(cert)
    return c
listener = socket.create_server((sys.argv[5], 0))
listener.settimeout(30)
said = []
def serve():
    try:
        s, _ = listener.accept()
        s.settimeout(30)
        t = context(ssl.Purpose.CLIENT_AUTH, ca_s, cert_s).wrap_socket(s, server_side=True)
        t.sendall(t.recv(2))
        said.append('server ok')
    except (ssl.SSLError, OSError) as e:
        said.append(f'server {e}')
thread = threading.Thread(target=serve)
thread.start()
try:
    s = socket.create_connection(listener.getsockname(), 30)
    t = context(ssl.Purpose.SERVER_AUTH, ca_c, cert_c).wrap_socket(s)
    t.sendall(b'hi')
    if t.recv(2) != b'hi':
        raise OSError('closed')
    said.append('client ok')
except (ssl.SSLError, OSError) as e:
    said.append(f'client {e}')
s.close()
thread.join()
print('; '.join(sorted(said)))
";

#[tokio::test]
async fn pythons_tls_as_dask_uses_it_tells_the_channels_apart() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let other = hub.member("demo-w1", 3).await?;
    let (a, b) = (NewKeys::generate()?, NewKeys::generate()?);
    let body = serde_json::json!({"csr_operator": a.requests()?.0, "csr_client": b.requests()?.0});
    let issued = hub.ask(&hub.owner(), "POST", "/v1/operator", &body).await?;
    let issued: herdsman_wire::api::OperatorIssued = issued.json()?;
    let roots = &hub.roots.pems;
    let pair = |name: &str, chain: &str, key: &Secret| write(&hub, name, &format!("{chain}{}", key.reveal()));
    let data = write(&hub, "data.pem", &format!("{}{}", roots.scheduler, roots.node))?;
    let only_scheduler = write(&hub, "sched.pem", &roots.scheduler)?;
    let control = write(&hub, "ctl.pem", &roots.control)?;
    let worker = pair("worker.pem", &member.issued.dask_chain, &member.keys.dask)?;
    let second = pair("second.pem", &other.issued.dask_chain, &other.keys.dask)?;
    let agent = pair("agent.pem", &member.issued.agent_chain, &member.keys.agent)?;
    let client = pair("user.pem", &issued.client_chain, &b.agent)?;
    let scheduler = hub.dir().join("run/tls/dask.pem").to_string_lossy().into_owned();
    let address = hub.node_address(2).to_string();
    // server: what it trusts and shows; client: likewise; whether it works
    for (what, ca_s, cert_s, ca_c, cert_c, wanted) in [
        ("client to scheduler", &data, &scheduler, &only_scheduler, &client, true),
        ("worker to worker", &data, &worker, &data, &second, true),
        ("worker to scheduler", &data, &scheduler, &data, &worker, true),
        ("an agent at the scheduler", &data, &scheduler, &control, &agent, false),
        ("an agent that trusts all", &data, &scheduler, &data, &agent, false),
        ("an agent as the scheduler", &data, &agent, &data, &client, false),
        (
            "worker as the scheduler",
            &data,
            &worker,
            &only_scheduler,
            &client,
            false,
        ),
        ("client as a server", &data, &client, &data, &worker, false),
        (
            "client as the scheduler",
            &data,
            &client,
            &only_scheduler,
            &client,
            false,
        ),
    ] {
        let out = Command::new("python3")
            .args(["-c", AS_DASK, ca_s, cert_s, ca_c, cert_c, &address])
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
        let ok = said.trim() == "client ok; server ok";
        ensure!(ok == wanted, "{what}: {said}");
        ensure!(
            wanted || said.to_lowercase().contains("ssl") || said.contains("certificate"),
            "{what}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn openssls_server_with_the_data_roots_refuses_agents() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let roots = &hub.roots.pems;
    let data = write(&hub, "data.pem", &format!("{}{}", roots.scheduler, roots.node))?;
    let shown = hub.dir().join("run/tls/dask.pem").to_string_lossy().into_owned();
    let port = std::net::TcpListener::bind((hub.node_address(2), 0))?.local_addr()?;
    let address = port.to_string();
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", &address, "-CAfile", &data, "-Verify", "4"])
        .args([
            "-verify_return_error",
            "-cert",
            &shown,
            "-cert_chain",
            &shown,
            "-key",
            &shown,
            "-www",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let name = rustls_pki_types::ServerName::try_from(hub.cluster.id.hub_dns())?;
    let ask = async |caller: &Caller| {
        let config = tls::client_config(&roots.scheduler, &caller.chain, &caller.key).map_err(std::io::Error::other)?;
        let tcp = tokio::net::TcpStream::connect(port).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut io = connector.connect(name.clone(), tcp).await?;
        io.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut byte = [0];
        io.read_exact(&mut byte).await
    };
    let started = std::time::Instant::now();
    let worker = loop {
        match ask(&member.dask()).await {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                ensure!(
                    started.elapsed() < herdsman_tests::home::LONG,
                    "openssl does not listen"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => break other,
        }
    };
    let agent = ask(&member.agent()).await;
    let operator = ask(&hub.owner()).await;
    server.kill()?;
    server.wait()?;
    ensure!(worker.is_ok(), "a worker is refused: {worker:?}");
    for (what, result) in [("agent", agent), ("operator", operator)] {
        let alert = herdsman_tests::attack::alert(&result).with_context(|| format!("{what}: {result:?}"))?;
        ensure!(alert == rustls::AlertDescription::UnknownCA, "{what}: {alert:?}");
    }
    Ok(())
}
