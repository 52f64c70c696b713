//! A file server on the test's network: it serves the agent as it is, or as an
//! attacker or a bad line would.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::place::Place;

/// How long a caller may take to ask, or to take a piece.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a file is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serve {
    /// As it is; ranges are answered.
    #[default]
    Whole,
    /// One byte in the middle is another one; the length is right.
    Tampered,
    /// The length is told right, and the connection ends in the middle.
    Truncated,
    /// As `Truncated` on each whole request, but a range brings the rest: a download
    /// ends only by resuming.
    Broken,
    /// At so many bytes a second.
    Slow(u32),
    /// 404.
    Absent,
    /// 503.
    Unavailable,
    /// The connection stays open and silent.
    Silent,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub from: SocketAddr,
    /// GET or HEAD.
    pub method: String,
    /// What for.
    pub path: String,
    /// The first byte that was asked for.
    pub start: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    files: HashMap<String, (Arc<Vec<u8>>, Serve)>,
    requests: Vec<Request>,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub struct Files {
    address: SocketAddr,
    place: Place,
    shelf: Arc<Mutex<Shelf>>,
    ends: Arc<AtomicBool>,
}

impl Files {
    /// Opens it at `address` (port 0: any) of a place.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open(place: &Place, address: SocketAddr) -> Result<Self> {
        let listener = place.inside(|| Ok(TcpListener::bind(address)?))?;
        let files = Self {
            address: listener.local_addr()?,
            place: place.clone(),
            shelf: Arc::default(),
            ends: Arc::default(),
        };
        let (shelf, ends) = (Arc::clone(&files.shelf), Arc::clone(&files.ends));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let (shelf, ends) = (Arc::clone(&shelf), Arc::clone(&ends));
                std::thread::spawn(move || answer(&stream, &shelf, &ends));
            }
        });
        Ok(files)
    }

    /// Puts a file at `/name`, in place of what was there.
    pub fn put(&self, name: &str, content: impl Into<Vec<u8>>, serve: Serve) {
        lock(&self.shelf)
            .files
            .insert(format!("/{name}"), (Arc::new(content.into()), serve));
    }

    /// Serves a file in another way from now on.
    pub fn serve(&self, name: &str, serve: Serve) {
        if let Some(file) = lock(&self.shelf).files.get_mut(&format!("/{name}")) {
            file.1 = serve;
        }
    }

    /// Where a file is fetched.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// All requests until now.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shelf).requests.clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which holds the network's namespace otherwise.
        let address = self.address;
        let _ = self
            .place
            .inside(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?));
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(stream: &TcpStream, shelf: &Mutex<Shelf>, ends: &AtomicBool) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let heads = lines.map_while(Result::ok).take_while(|l| !l.is_empty());
    let start = heads.filter_map(|l| range(&l)).last().unwrap_or(0);
    let found = {
        let mut shelf = lock(shelf);
        let found = shelf.files.get(&path).cloned();
        shelf.requests.push(Request {
            from: stream.peer_addr().ok()?,
            method: method.clone(),
            path,
            start,
        });
        found
    };
    let (content, serve) = found.unwrap_or_else(|| (Arc::default(), Serve::Absent));
    match serve {
        Serve::Absent => return plain(stream, "404 Not Found"),
        Serve::Unavailable => return plain(stream, "503 Service Unavailable"),
        Serve::Silent => {
            while !ends.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(100));
            }
            return None;
        }
        _ => {}
    }
    let total = content.len();
    let from = usize::try_from(start).ok()?;
    if from > 0 && from >= total {
        return plain(stream, "416 Range Not Satisfiable");
    }
    let mut body = content.get(from..)?.to_vec();
    if let (Serve::Tampered, Some(middle)) = (serve, (total / 2).checked_sub(from))
        && let Some(byte) = body.get_mut(middle)
    {
        *byte ^= 1;
    }
    let mut out = stream;
    let head = if from > 0 {
        format!(
            "206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}",
            total - 1
        )
    } else {
        "200 OK".into()
    };
    write!(
        out,
        "HTTP/1.1 {head}\r\ncontent-type: application/octet-stream\r\naccept-ranges: bytes\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let until = match serve {
        Serve::Truncated => body.len() / 2,
        Serve::Broken if from == 0 => body.len() / 2,
        _ => body.len(),
    };
    let body = body.get(..until)?;
    match serve {
        Serve::Slow(rate) => {
            // Ten pieces a second.
            for piece in body.chunks(usize::try_from(rate / 10).ok()?.max(1)) {
                if ends.load(Ordering::SeqCst) {
                    return None;
                }
                out.write_all(piece).ok()?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        _ => out.write_all(body).ok()?,
    }
    Some(())
}

/// The first byte of a `Range: bytes=N-` header.
fn range(line: &str) -> Option<u64> {
    let (name, value) = line.split_once(':')?;
    let ours = name.eq_ignore_ascii_case("range");
    let from = value.trim().strip_prefix("bytes=")?.strip_suffix('-')?;
    ours.then(|| from.parse().ok()).flatten()
}

fn plain(mut stream: &TcpStream, status: &str) -> Option<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .ok()
}
