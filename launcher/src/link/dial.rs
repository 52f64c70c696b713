//! Getting a byte stream to the hub.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use herdsman_wire::{ApiError, Code, limits, tls};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes read ahead of TLS.
const AHEAD: usize = 64 * 1024;

/// How long a first packet may be on its way before another is sent: more than any
/// way around the earth takes.
const PATIENCE: Duration = Duration::from_millis(800);

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By TCP.
    Direct(SocketAddr),
    /// Through a program's standard input and output.
    Proxy(Vec<String>),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(a) => write!(f, "{a}"),
            Self::Proxy(argv) => write!(f, "`{}`", argv.join(" ")),
        }
    }
}

/// What carries TLS.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A socket, read ahead of TLS, which asks for 4 KiB at a time.
    Tcp(BufReader<TcpStream>),
    /// A program; it ends when this is dropped.
    Program {
        /// The program.
        _child: Child,
        /// What it writes.
        from: ChildStdout,
        /// What it reads.
        to: ChildStdin,
    },
}

impl Reach {
    pub(super) async fn connect(&self, name: &str, config: Arc<ClientConfig>) -> Result<TlsStream<Carrier>, ApiError> {
        let whom = format!("the cluster's hub at {self}");
        let name = ServerName::try_from(name.to_owned())
            .map_err(|e| ApiError::new(Code::Internal, format!("name {name}: {e}")))?;
        let attempt = async {
            let carrier = self.dial().await?;
            TlsConnector::from(config).connect(name, carrier).await
        };
        match tokio::time::timeout(limits::HANDSHAKE, attempt).await {
            Ok(Ok(tls)) => Ok(tls),
            Ok(Err(e)) => Err(tls::explain(&e, &whom)),
            Err(_) => Err(ApiError::new(
                Code::Unreachable,
                format!("{whom} does not answer within {} s", limits::HANDSHAKE.as_secs()),
            )
            .with_hint("herdsman doctor NAME        says which part of the way is closed")),
        }
    }

    async fn dial(&self) -> std::io::Result<Carrier> {
        match self {
            Self::Direct(address) => {
                let tcp = knock(*address).await?;
                tcp.set_nodelay(true)?;
                Ok(Carrier::Tcp(BufReader::with_capacity(AHEAD, tcp)))
            }
            Self::Proxy(argv) => {
                let none = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "the proxy command is empty");
                let (program, args) = argv.split_first().ok_or_else(none)?;
                let mut child = Command::new(program)
                    .args(args)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::inherit())
                    .kill_on_drop(true)
                    .spawn()?;
                match (child.stdout.take(), child.stdin.take()) {
                    (Some(from), Some(to)) => Ok(Carrier::Program {
                        _child: child,
                        from,
                        to,
                    }),
                    _ => Err(none()),
                }
            }
        }
    }
}

/// A machine that boots, or does not know us yet, keeps us out without an answer. The
/// kernel would ask again after one second, three, seven; we ask anew at once.
async fn knock(address: SocketAddr) -> std::io::Result<TcpStream> {
    loop {
        if let Ok(done) = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            return done;
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Program { from, .. } => Pin::new(from).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Program { to, .. } => Pin::new(to).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Program { to, .. } => Pin::new(to).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Program { to, .. } => Pin::new(to).poll_shutdown(cx),
        }
    }
}
