//! Ports outside the node's namespace that lead into it. Bytes only: what flows
//! is TLS between its two ends, or plain where the user asked for that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::KeeperError;
use super::config::Forward;

/// Connections at once over all forwards of a node; more wait in the kernel's
/// backlog until one ends.
pub(super) const CONNECTIONS: usize = 1024;
/// Buffer of one direction: a slow reader stops its writer after this much.
const BUFFER: usize = 32 * 1024;
/// A connection inside the machine comes about at once or not at all.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is out of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound port and where it leads.
#[derive(Debug)]
pub(super) struct Bound {
    listener: std::net::TcpListener,
    to: SocketAddr,
}

/// Binds all forwards in the present namespace, where they stay. Answers them
/// with their real ports as well.
pub(super) fn bind(forwards: &[Forward]) -> Result<(Vec<Bound>, Vec<Forward>), KeeperError> {
    let mut bound = Vec::new();
    let mut real = Vec::new();
    for forward in forwards {
        let (listener, listen) = std::net::TcpListener::bind(forward.listen)
            .and_then(|l| {
                l.set_nonblocking(true)?;
                let listen = l.local_addr()?;
                Ok((l, listen))
            })
            .map_err(|source| KeeperError::Listen {
                name: forward.name.clone(),
                listen: forward.listen,
                source,
            })?;
        bound.push(Bound {
            listener,
            to: forward.to,
        });
        real.push(Forward {
            listen,
            ..forward.clone()
        });
    }
    Ok((bound, real))
}

/// Serves all forwards in tasks of their own, for as long as the runtime lives.
pub(super) fn serve(bound: Vec<Bound>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    for Bound { listener, to } in bound {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(accept(listener, to, Arc::clone(&places)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, to: SocketAddr, places: Arc<Semaphore>) {
    // A place first, so that what cannot be served stays in the backlog.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((outer, _)) => {
                tokio::spawn(async move {
                    join(outer, to).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn join(mut outer: TcpStream, to: SocketAddr) {
    let Ok(Ok(mut inner)) = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await else {
        // A reset, not an orderly end: nothing listens there (yet).
        let _ = outer.set_zero_linger();
        return;
    };
    let _ = outer.set_nodelay(true);
    let _ = inner.set_nodelay(true);
    // Hands an end of stream on and goes on with the other direction.
    if tokio::io::copy_bidirectional_with_sizes(&mut outer, &mut inner, BUFFER, BUFFER)
        .await
        .is_err()
    {
        let _ = outer.set_zero_linger();
        let _ = inner.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn forwarded(to: SocketAddr) -> SocketAddr {
        let (bound, real) = bind(&[Forward {
            name: "x".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            to,
        }])
        .unwrap();
        serve(bound).unwrap();
        real[0].listen
    }

    #[tokio::test]
    async fn a_half_closed_connection_still_answers() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = forwarded(target.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut s, _) = target.accept().await.unwrap();
            let mut all = Vec::new();
            s.read_to_end(&mut all).await.unwrap();
            s.write_all(&all).await.unwrap();
        });
        let (mut read, mut write) = TcpStream::connect(at).await.unwrap().into_split();
        let sent = vec![7u8; 3 * 1024 * 1024];
        let copy = sent.clone();
        tokio::spawn(async move {
            write.write_all(&copy).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn nothing_behind_is_a_reset() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let at = forwarded(closed);
        let mut s = TcpStream::connect(at).await.unwrap();
        let e = s.read_u8().await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_taken_port_names_its_forward() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let e = bind(&[Forward {
            name: "agent".into(),
            listen: taken.local_addr().unwrap(),
            to: "127.0.0.1:1".parse().unwrap(),
        }])
        .unwrap_err();
        assert!(e.to_string().contains("forward agent"), "{e}");
    }
}
