//! Local ports whose connections go through a tunnel, byte by byte. Whoever may
//! connect to this machine's loopback interface may connect to such a port; what
//! is behind it must ask for certificates, as Dask's scheduler does.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use herdsman_wire::{ApiError, Code};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Link, Stream};

/// Bytes taken at once in each direction.
const COPY: usize = 128 * 1024;
/// Connections at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 256;
/// Pause after a failed accept, which is out of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A byte stream at the far end of a tunnel.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Listens on this machine only; port 0 takes any that is free.
///
/// # Errors
/// [`Code::Port`] when the port is taken or not allowed.
pub async fn listen(port: u16) -> Result<TcpListener, ApiError> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(at).await.map_err(|e| {
        ApiError::new(Code::Port, format!("cannot listen on {at}: {e}"))
            .with_hint("--port 0 takes any port that is free")
    })
}

/// Opens tunnels of a link: `scheduler` for [`serve`], `dashboard` for
/// [`super::dash::serve`].
pub fn through(
    link: Arc<Link>,
    target: &'static str,
) -> impl Fn() -> BoxFuture<'static, Result<Stream, ApiError>> + Send + Sync + 'static {
    move || {
        let link = Arc::clone(&link);
        Box::pin(async move { link.tunnel(target).await })
    }
}

/// Forwards every connection of `listener` through a tunnel of its own, until it
/// is dropped, which cuts them all. A connection whose tunnel cannot be opened
/// is reset, and the reason goes to the log.
pub async fn serve<O, F, S>(listener: TcpListener, open: O)
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S, ApiError>> + Send + 'static,
    S: Io,
{
    let open = Arc::new(open);
    accept(listener, move |outer| {
        let open = Arc::clone(&open);
        async move { join(outer, open()).await }
    })
    .await;
}

/// Runs `each` for every connection, in a task of its own, never more than
/// [`CONNECTIONS`] at once.
pub(super) async fn accept<F>(listener: TcpListener, each: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // They end with it when this future is dropped.
    let mut tasks = JoinSet::new();
    // A place first, so that what cannot be served stays in the backlog.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let work = each(stream);
                tasks.spawn(async move {
                    work.await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn join<S: Io>(mut outer: TcpStream, tunnel: impl Future<Output = Result<S, ApiError>>) {
    let mut inner = match tunnel.await {
        Ok(inner) => inner,
        Err(e) => {
            tracing::warn!(code = %e.code, "a forwarded connection was closed: {}", e.message);
            // A reset, not an orderly end: nothing answered.
            let _ = outer.set_zero_linger();
            return;
        }
    };
    // Hands an end of stream on and goes on with the other direction.
    if tokio::io::copy_bidirectional_with_sizes(&mut outer, &mut inner, COPY, COPY)
        .await
        .is_err()
    {
        let _ = outer.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_go_both_ways_and_ends_are_handed_on() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = target.local_addr().unwrap();
        let listener = listen(0).await.unwrap();
        let at = listener.local_addr().unwrap();
        assert!(at.ip().is_loopback());
        let open = move || async move {
            TcpStream::connect(to)
                .await
                .map_err(|e| ApiError::new(Code::Unreachable, e.to_string()))
        };
        let serving = tokio::spawn(serve(listener, open));
        let server = tokio::spawn(async move {
            let (mut s, _) = target.accept().await.unwrap();
            let mut all = Vec::new();
            s.read_to_end(&mut all).await.unwrap();
            s.write_all(&all).await.unwrap();
            drop(s);
            // One that stays, for the cut below.
            target.accept().await.unwrap()
        });
        let (mut read, mut write) = TcpStream::connect(at).await.unwrap().into_split();
        let sent = vec![7u8; 1024 * 1024];
        let copy = sent.clone();
        tokio::spawn(async move {
            write.write_all(&copy).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);

        let mut cut = TcpStream::connect(at).await.unwrap();
        let _held = server.await.unwrap();
        serving.abort();
        assert!(matches!(cut.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(TcpStream::connect(at).await.is_err());
    }

    #[tokio::test]
    async fn no_tunnel_is_a_reset() {
        let listener = listen(0).await.unwrap();
        let at = listener.local_addr().unwrap();
        let open = || async { Err::<TcpStream, _>(ApiError::new(Code::Unreachable, "no")) };
        let serving = tokio::spawn(serve(listener, open));
        for _ in 0..2 {
            let mut s = TcpStream::connect(at).await.unwrap();
            let e = s.read_u8().await.unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
        }
        serving.abort();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = listen(0).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let e = listen(port).await.unwrap_err();
        assert!(e.code == Code::Port && e.message.contains(&port.to_string()), "{e}");
    }
}
