//! `SOCK_DESTROY`: the kernel ends a TCP connection as if it had been reset, as
//! `ss -K` does. Messages are those of sock_diag(7) and
//! `include/uapi/linux/inet_diag.h`, built by hand: there are two of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

const DIAG_BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const TCP: u8 = 6;
/// All states but LISTEN (10) and TIME-WAIT (6): bits by state number.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 6);
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const ID: usize = 48;

/// One TCP connection of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// Our end.
    pub(super) local: SocketAddr,
    /// Theirs.
    pub(super) remote: SocketAddr,
    family: u8,
    id: [u8; ID],
}

/// Ends all connections that `which` picks; gives their number.
pub(super) fn all(which: impl Fn(&Connection) -> bool) -> io::Result<usize> {
    let fd = open()?;
    let mut cut = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let family = u8::try_from(family as i32).unwrap_or_default();
        send(&fd, &request(DIAG_BY_FAMILY, REQUEST | DUMP, family, &[0; ID]))?;
        for connection in dump(&fd)?.iter().filter(|c| which(c)) {
            send(&fd, &request(DESTROY, REQUEST | ACK, connection.family, &connection.id))?;
            match acknowledged(&fd)? {
                0 => cut += 1,
                // It ended by itself in the meantime.
                nix::libc::ENOENT => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
    Ok(cut)
}

fn open() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // The kernel answers within the call; this only guards against a bug.
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(2))?;
    Ok(fd)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut m = Vec::with_capacity(HEADER + 8 + ID);
    m.extend(u32::try_from(HEADER + 8 + ID).unwrap_or_default().to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend([0; 8]);
    m.extend([family, TCP, 0, 0]);
    m.extend(STATES.to_ne_bytes());
    m.extend(id);
    m
}

fn send(fd: &OwnedFd, message: &[u8]) -> io::Result<()> {
    sendto(fd.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Splits what was read into messages: kind and body.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(len), Some(kind)) = (number::<4>(bytes, 0), number::<2>(bytes, 4)) {
        let len = u32::from_ne_bytes(len) as usize;
        if len < HEADER || len > bytes.len() {
            break;
        }
        found.push((u16::from_ne_bytes(kind), &bytes[HEADER..len]));
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn dump(fd: &OwnedFd) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..n]) {
            match kind {
                DONE => return Ok(found),
                ERROR => return Err(io::Error::from_raw_os_error(errno_of(body))),
                DIAG_BY_FAMILY => found.extend(connection(body)),
                _ => {}
            }
        }
    }
}

fn acknowledged(fd: &OwnedFd) -> io::Result<i32> {
    let mut buffer = [0; 1024];
    let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match messages(&buffer[..n]).first() {
        Some((ERROR, body)) => Ok(errno_of(body)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is unknown",
        )),
    }
}

fn errno_of(body: &[u8]) -> i32 {
    number::<4>(body, 0).map_or(nix::libc::EIO, |n| -i32::from_ne_bytes(n))
}

/// Parses `struct inet_diag_msg`: family, state, timer, retrans, then the id.
fn connection(body: &[u8]) -> Option<Connection> {
    let family = *body.first()?;
    let id: [u8; ID] = number(body, 4)?;
    let port = |at| number::<2>(&id, at).map(u16::from_be_bytes);
    let ip = |at: usize| -> Option<IpAddr> {
        if i32::from(family) == AddressFamily::Inet as i32 {
            Some(Ipv4Addr::from(number::<4>(&id, at)?).into())
        } else {
            Some(IpAddr::from(Ipv6Addr::from(number::<16>(&id, at)?)).to_canonical())
        }
    };
    Some(Connection {
        local: SocketAddr::new(ip(4)?, port(0)?),
        remote: SocketAddr::new(ip(20)?, port(2)?),
        family,
        id,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_the_picked_connection_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut picked = TcpStream::connect(to).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let other = TcpStream::connect(to).unwrap();
        let _kept = listener.accept().unwrap();
        let own = picked.local_addr().unwrap();
        match all(|c| c.local == own && c.remote == to) {
            Ok(n) => assert_eq!(n, 1),
            // Without the right to do so the kernel says so.
            Err(e) => {
                assert!(!nix::unistd::geteuid().is_root(), "{e}");
                return;
            }
        }
        assert!(picked.read(&mut [0; 1]).is_err());
        assert!(matches!(accepted.read(&mut [0; 1]), Ok(0) | Err(_)));
        other.set_nonblocking(true).unwrap();
        let mut other = other;
        assert_eq!(other.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    proptest! {
        #[test]
        fn garbage_is_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, body) in messages(&bytes) {
                let _ = connection(body);
                let _ = errno_of(body);
            }
        }
    }
}
