//! As much of HTTP/1.1 as a metadata service needs, and some that it must not do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Trouble;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, names in small letters.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
    /// Who asks.
    pub peer: Option<std::net::IpAddr>,
}

impl Request {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        let mut pairs = query.split('&').filter_map(|p| p.split_once('='));
        pairs.find_map(|(n, v)| (n == name).then_some(v))
    }
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status, headers and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// To another place.
    Redirect(String),
    /// Nothing, until the other side gives up.
    Hang,
    /// The end of the connection.
    Close,
    /// These bytes.
    Raw(Vec<u8>),
    /// A body without end.
    Trickle,
}

impl From<Trouble> for Reply {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Status(status) => Self::Answer(status, Vec::new(), b"{\"no\": \"thing\"}".to_vec()),
            Trouble::Redirect(to) => Self::Redirect(to),
            Trouble::Moved => Self::Redirect("/moved".into()),
            Trouble::Hang => Self::Hang,
            Trouble::Close => Self::Close,
            Trouble::NoHttp => Self::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
            Trouble::Huge => Self::Answer(200, Vec::new(), vec![b'x'; 2 << 20]),
            Trouble::Trickle => Self::Trickle,
            Trouble::Short => Self::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n#!/bin/sh\n".to_vec()),
        }
    }
}

pub(super) fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        request.headers.insert(name, value);
    }
    let length = request.headers.get("content-length").and_then(|l| l.parse().ok());
    request.body = vec![0; usize::min(length.unwrap_or(0), 1 << 16)];
    lines.read_exact(&mut request.body)?;
    Ok(Some(request))
}

pub(super) fn write(mut stream: &TcpStream, reply: &Reply, stop: &AtomicBool) {
    let _ = match reply {
        Reply::Answer(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} Answer\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            stream
                .write_all(format!("{head}\r\n").as_bytes())
                .and_then(|()| stream.write_all(body))
        }
        Reply::Redirect(to) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())
        }
        Reply::Close => Ok(()),
        Reply::Raw(bytes) => stream.write_all(bytes),
        Reply::Hang => until_it_gives_up(stream, b"", stop),
        Reply::Trickle => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream
                .write_all(head)
                .and_then(|()| until_it_gives_up(stream, b"1\r\nx\r\n", stop))
        }
    };
}

/// Sends a piece now and then until the other side closes.
fn until_it_gives_up(mut stream: &TcpStream, piece: &[u8], stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(piece)?;
        match stream.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(e);
            }
            _ => {}
        }
    }
    Ok(())
}
