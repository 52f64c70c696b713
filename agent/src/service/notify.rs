//! What the agent tells systemd: datagrams of `NAME=value` lines to the socket
//! in `NOTIFY_SOCKET` (`sd_notify(3)`). Without the variable nothing is told.

use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::Instant;

use super::unit::WATCHDOG;

/// How often the watchdog is fed.
const FEED_EVERY: Duration = Duration::from_secs(WATCHDOG / 6);
/// While the agent leaves, systemd is asked for this much time again and again.
const MORE: Duration = Duration::from_secs(60);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    status: String,
    fed: Option<Instant>,
}

impl Notifier {
    /// The socket that the environment names.
    #[must_use]
    pub fn of_process() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET").as_deref().map(OsStrExt::as_bytes))
    }

    /// A path, or `@` and an abstract name.
    #[must_use]
    pub fn to(socket: Option<&[u8]>) -> Self {
        let address = match socket {
            Some([b'@', name @ ..]) => SocketAddr::from_abstract_name(name).ok(),
            Some(path) if path.starts_with(b"/") => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)).ok(),
            _ => None,
        };
        let open = || {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold the node up.
            socket.set_nonblocking(true).map(|()| socket)
        };
        Self {
            to: address.and_then(|a| Some((open().ok()?, a))),
            ..Self::default()
        }
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.to {
            // Nothing can be done about a manager that is away; it comes back.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    /// The service has started. With `alive`, it promises to feed the watchdog
    /// from now on; one that only waits for its configuration has no loop for it.
    pub fn ready(&mut self, status: &str, alive: bool) {
        let mut text = format!("READY=1\nSTATUS={}\n", line(status));
        if alive {
            let _ = writeln!(text, "WATCHDOG_USEC={}", Duration::from_secs(WATCHDOG).as_micros());
            self.fed = Some(Instant::now());
        }
        status.clone_into(&mut self.status);
        self.tell(&text);
    }

    /// Says what the node is at, if that is news.
    pub fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            self.tell(&format!("STATUS={}\n", line(status)));
        }
    }

    /// Feeds the watchdog when it is time; while leaving, asks for more time.
    pub fn alive(&mut self, leaving: bool) {
        if self.fed.is_none_or(|at| at.elapsed() < FEED_EVERY) {
            return;
        }
        self.fed = Some(Instant::now());
        let mut text = String::from("WATCHDOG=1\n");
        if leaving {
            let _ = writeln!(text, "EXTEND_TIMEOUT_USEC={}", MORE.as_micros());
        }
        self.tell(&text);
    }

    /// The service is about to end.
    pub fn stopping(&mut self) {
        self.tell(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=leaving\n",
            MORE.as_micros()
        ));
    }
}

/// One line; a status is shown to people.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn tells_of_start_state_and_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut n = Notifier::to(Some(path.as_os_str().as_bytes()));
        n.ready("enrol\nREADY=0", true);
        assert_eq!(
            said(&manager),
            "READY=1\nSTATUS=enrol READY=0\nWATCHDOG_USEC=60000000\n"
        );
        n.status("dask");
        n.status("dask");
        n.alive(false);
        assert_eq!(said(&manager), "STATUS=dask\n");
        tokio::time::advance(Duration::from_secs(11)).await;
        n.alive(false);
        n.alive(false);
        assert_eq!(said(&manager), "WATCHDOG=1\n");
        n.stopping();
        assert!(said(&manager).starts_with("STOPPING=1\n"));
        tokio::time::advance(Duration::from_secs(11)).await;
        n.alive(true);
        assert!(said(&manager).contains("EXTEND_TIMEOUT_USEC=60000000"));
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 8]).is_err(), "nothing is told twice");
    }

    #[test]
    fn abstract_sockets_are_reached_and_none_is_none() {
        let name = format!("herdsman-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut n = Notifier::to(Some(format!("@{name}").as_bytes()));
        n.ready("waiting", false);
        assert_eq!(said(&manager), "READY=1\nSTATUS=waiting\n");
        n.alive(false);
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 8]).is_err(), "no watchdog was promised");
        for none in [None, Some(&b"relative"[..]), Some(b"")] {
            Notifier::to(none).ready("x", true);
        }
    }
}
