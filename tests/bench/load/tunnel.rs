//! Throughput through the hub against one bare TLS connection over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use herdsman_wire::{limits, tls};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::hub::{HUB, Hub};

/// Bytes of one measurement.
const BYTES: u64 = 1 << 30;
const CHUNK: usize = 256 * 1024;

/// Bytes a second in one direction.
pub(crate) struct Rates {
    pub(crate) up: f64,
    pub(crate) down: f64,
}

async fn send(mut to: impl AsyncWrite + Unpin) -> Result<()> {
    let chunk = vec![7; CHUNK];
    for _ in 0..BYTES / CHUNK as u64 {
        to.write_all(&chunk).await?;
    }
    to.flush().await?;
    Ok(())
}

async fn receive(mut from: impl AsyncRead + Unpin) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = BYTES;
    while left > 0 {
        let n = from.read(&mut chunk).await?;
        anyhow::ensure!(n > 0, "the stream ended early");
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}

/// The far end: first a byte that says what is wanted, then the bytes; a byte
/// says that all have come.
async fn far(mut io: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    if io.read_u8().await? == b'u' {
        receive(&mut io).await?;
        io.write_u8(b'.').await?;
    } else {
        send(&mut io).await?;
    }
    io.flush().await?;
    Ok(())
}

async fn near(mut io: impl AsyncRead + AsyncWrite + Unpin, up: bool) -> Result<f64> {
    io.write_u8(if up { b'u' } else { b'd' }).await?;
    io.flush().await?;
    let began = Instant::now();
    if up {
        send(&mut io).await?;
        io.read_u8().await?;
    } else {
        receive(&mut io).await?;
    }
    Ok(BYTES as f64 / began.elapsed().as_secs_f64())
}

/// On a thread of its own.
fn serve<F>(work: F) -> std::thread::JoinHandle<Result<()>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work)
    })
}

/// Through the hub: TLS to it, plain TCP from there on.
pub(crate) async fn through(hub: &Hub) -> Result<Rates> {
    let listener = std::net::TcpListener::bind(SocketAddr::new(HUB, limits::SCHEDULER_PORT))?;
    listener.set_nonblocking(true)?;
    let far_end = serve(async move {
        let listener = TcpListener::from_std(listener)?;
        for _ in 0..2 {
            let (tcp, _) = listener.accept().await?;
            far(tcp).await?;
        }
        Ok(())
    });
    let mut rates = Vec::new();
    for up in [true, false] {
        let io = hub.link.tunnel("scheduler").await?;
        rates.push(tokio::time::timeout(Duration::from_secs(120), near(io, up)).await??);
    }
    far_end.join().map_err(|_| anyhow::anyhow!("the far end"))??;
    Ok(Rates {
        up: rates[0],
        down: rates[1],
    })
}

/// The same bytes over one TLS connection without anything between.
pub(crate) async fn bare() -> Result<Rates> {
    let made = rcgen::generate_simple_self_signed(vec!["bare".to_owned()])?;
    let cert = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let server = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert)?;
    let client = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = std::net::TcpListener::bind((HUB, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let far_end = serve(async move {
        let listener = TcpListener::from_std(listener)?;
        let acceptor = TlsAcceptor::from(Arc::new(server));
        for _ in 0..2 {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            far(acceptor.accept(tcp).await?).await?;
        }
        Ok(())
    });
    let connector = TlsConnector::from(Arc::new(client));
    let mut rates = Vec::new();
    for up in [true, false] {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let io = connector
            .connect(ServerName::try_from("bare")?, tcp)
            .await
            .context("bare TLS")?;
        rates.push(near(io, up).await?);
    }
    far_end.join().map_err(|_| anyhow::anyhow!("the far end"))??;
    Ok(Rates {
        up: rates[0],
        down: rates[1],
    })
}
