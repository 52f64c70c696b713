//! Talking to nf_tables in the kernel: batches that are applied as a whole or
//! not at all, dumps, and the news that somebody changed something.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{Attributes, Message, Received, array, flag, messages};

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel answers within the call; this only guards against a bug.
const ANSWER_WITHIN: i64 = 10;
/// Room for a batch: ten thousand members take half a megabyte.
const ROOM: usize = 8 * 1024 * 1024;
/// A dump that changes met is begun again so often.
const DUMPS: u32 = 10;
/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// Largest datagram of the kernel's.
const DATAGRAM: usize = 64 * 1024;

/// Why the kernel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or nothing comes over it.
    #[error("no way to the kernel's packet filter")]
    Socket(#[source] io::Error),
    /// A batch was refused; nothing of it is in force.
    #[error("the kernel refused {what}")]
    Refused {
        /// What of the batch.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the right to do it is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        let (Self::Socket(e) | Self::Refused { source: e, .. }) = self;
        e.kind() == io::ErrorKind::PermissionDenied
    }

    /// Whether there is no such table.
    pub(super) fn is_missing(&self) -> bool {
        let (Self::Socket(e) | Self::Refused { source: e, .. }) = self;
        e.kind() == io::ErrorKind::NotFound
    }
}

/// A way to nf_tables of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    number: u32,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let fd = open(SockFlag::SOCK_CLOEXEC, 0).map_err(Error::Socket)?;
        let within = TimeVal::seconds(ANSWER_WITHIN);
        setsockopt(&fd, sockopt::ReceiveTimeout, &within).map_err(|e| Error::Socket(e.into()))?;
        // Without the right to more room the usual has to do.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &ROOM);
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &ROOM);
        Ok(Self { fd, number: 0 })
    }

    /// Does all of it or nothing.
    pub(super) fn batch(&mut self, list: Vec<Message>) -> Result<(), Error> {
        if list.is_empty() {
            return Ok(());
        }
        let first = self.number + 1;
        let mut bytes = Message::begin().finish(first, 0);
        let mut names = vec!["the batch".to_owned()];
        let last = first + u32::try_from(list.len()).unwrap_or(u32::MAX - first);
        for (number, message) in (first + 1..).zip(list) {
            names.push(message.what.clone());
            // One answer at the end is enough; errors come unasked.
            let ask = if number == last { flag::ACK } else { 0 };
            bytes.extend(message.finish(number, ask));
        }
        bytes.extend(Message::end().finish(last + 1, 0));
        self.number = last + 1;
        self.send(&bytes)?;
        let mut failed = None;
        loop {
            let answer = match self.receive() {
                Ok(answer) => answer,
                // After an error the kernel owes no further answer.
                Err(_) if failed.is_some() => break,
                Err(e) => return Err(e),
            };
            let mut is_last = false;
            for m in messages(&answer)
                .iter()
                .filter(|m| (first..=last + 1).contains(&m.number))
            {
                if m.kind != ERROR {
                    continue;
                }
                let errno = errno(m);
                is_last |= m.number >= last || errno != 0;
                if errno != 0 && failed.is_none() {
                    let what = names.get((m.number - first) as usize).cloned().unwrap_or_default();
                    let source = io::Error::from_raw_os_error(errno);
                    failed = Some(Error::Refused { what, source });
                }
            }
            if is_last {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Everything that a question is answered with.
    pub(super) fn dump<T>(
        &mut self,
        question: &Message,
        take: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMPS {
            if let Some(found) = self.dump_once(question.clone(), &take)? {
                return Ok(found);
            }
        }
        Err(Error::Refused {
            what: question.what.clone(),
            source: Errno::EINTR.into(),
        })
    }

    fn dump_once<T>(
        &mut self,
        question: Message,
        take: &impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.number += 1;
        let (number, what) = (self.number, question.what.clone());
        self.send(&question.finish(number, flag::DUMP))?;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            let answer = self.receive()?;
            for m in messages(&answer).iter().filter(|m| m.number == number) {
                whole &= m.flags & flag::INTERRUPTED == 0;
                let errno = match m.kind {
                    DONE | ERROR => errno(m),
                    _ => {
                        found.extend(take(m.attributes()));
                        continue;
                    }
                };
                return match errno {
                    0 => Ok(whole.then_some(found)),
                    nix::libc::EINTR => Ok(None),
                    errno => Err(Error::Refused {
                        what,
                        source: io::Error::from_raw_os_error(errno),
                    }),
                };
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        // What an earlier question left unread must not be taken for an answer.
        let mut old = [0; 16];
        while recv(self.fd.as_raw_fd(), &mut old, MsgFlags::MSG_DONTWAIT).is_ok() {}
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .map(|_| ())
            .map_err(|e| Error::Socket(e.into()))
    }

    fn receive(&self) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; DATAGRAM];
        let n = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(|e| Error::Socket(e.into()))?;
        buffer.truncate(n);
        Ok(buffer)
    }
}

fn errno(m: &Received<'_>) -> i32 {
    array(m.body, 0).map_or(0, |n| -i32::from_ne_bytes(n))
}

fn open(flags: SockFlag, groups: u32) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// Hears of every change of any table in this network namespace.
#[derive(Debug)]
pub(super) struct Ear(OwnedFd);

impl Ear {
    pub(super) fn open() -> Result<Self, Error> {
        open(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, GROUP)
            .map(Self)
            .map_err(Error::Socket)
    }

    /// Reads all news away; says whether there were any.
    pub(super) fn drain(&self) -> bool {
        let mut buffer = vec![0; DATAGRAM];
        let mut any = false;
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // Lost news are news.
                Ok(1..) | Err(Errno::ENOBUFS) => any = true,
                _ => return any,
            }
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
