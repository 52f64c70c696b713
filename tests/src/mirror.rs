//! A web server on loopback that serves one file, well or badly.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// How the file is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it is, also from its middle.
    Whole,
    /// Not at all: 404.
    Absent,
    /// With another byte in it.
    Tampered,
    /// The connection breaks in the middle, the first time only.
    BrokenOnce,
    /// As if its first half were all of it.
    Half,
    /// The connection breaks after a few bytes, every time, wherever it began.
    Drops,
}

/// The server; ends when dropped.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Mirror {
    /// Serves `content` at any path.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn serve(content: &[u8], manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mirror = Self {
            address: listener.local_addr()?,
            seen: Arc::default(),
            over: Arc::default(),
        };
        let (seen, over, content) = (mirror.seen.clone(), mirror.over.clone(), content.to_vec());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                // A client that goes away is what some tests are about.
                let _ = answer(&stream, &content, manner, &seen);
            }
        });
        Ok(mirror)
    }

    /// Where the file is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/herdsman-agent-{{arch}}", self.address)
    }

    /// For each request its path and, if it had one, its `Range`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(stream: &TcpStream, content: &[u8], manner: Manner, seen: &Mutex<Vec<String>>) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut from = 0;
    let mut path = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            line.split(' ').nth(1).unwrap_or_default().clone_into(&mut path);
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let first = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(if from > 0 { format!("{path} from {from}") } else { path });
        seen.len() == 1
    };
    let mut out = stream;
    if manner == Manner::Absent {
        return Ok(out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone")?);
    }
    let mut all = content.to_vec();
    match manner {
        Manner::Tampered => all[content.len() / 2] ^= 1,
        Manner::Half => all.truncate(content.len() / 2),
        _ => {}
    }
    let total = all.len();
    if from >= total {
        return Ok(
            out.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?
        );
    }
    let rest = &all[from..];
    let status = if from > 0 {
        format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}",
            total - 1
        )
    } else {
        "200 OK".to_owned()
    };
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    )?;
    let sent = match manner {
        Manner::BrokenOnce if first => rest.len() / 2,
        Manner::Drops => rest.len() / 3 + 1,
        _ => rest.len(),
    };
    Ok(out.write_all(&rest[..sent])?)
}
