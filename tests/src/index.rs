//! A package index on loopback, with a password where it is private.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;

/// How long a caller may take to ask.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running index; it serves the wheels of a folder until the program ends.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its address, without credentials.
    pub url: String,
    served: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Index {
    /// Serves `folder`. `authorization` is what callers must send, for example
    /// `Basic dTpw`.
    ///
    /// # Errors
    /// When there is no port.
    pub fn serve(folder: &Path, authorization: Option<&str>) -> Result<Self> {
        Self::serve_at(std::net::Ipv4Addr::LOCALHOST, folder, authorization)
    }

    /// As [`Index::serve`], at an address that others reach.
    ///
    /// # Errors
    /// As there.
    pub fn serve_at(address: std::net::Ipv4Addr, folder: &Path, authorization: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let index = Self {
            url: format!("http://{}/simple", listener.local_addr()?),
            served: Arc::default(),
            refused: Arc::default(),
        };
        let (me, folder) = (index.clone(), folder.to_owned());
        let wanted = authorization.map(|a| format!("authorization: {a}").to_ascii_lowercase());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (me, folder, wanted) = (me.clone(), folder.clone(), wanted.clone());
                std::thread::spawn(move || me.answer(stream, &folder, wanted.as_deref()));
            }
        });
        Ok(index)
    }

    /// Requests that were answered.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Requests that had no password, or a wrong one.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    fn answer(&self, mut stream: TcpStream, folder: &Path, wanted: Option<&str>) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        let heads: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        let allowed = wanted.is_none_or(|w| heads.iter().any(|h| h.to_ascii_lowercase() == w));
        let (status, kind, body) = if allowed {
            self.served.fetch_add(1, Ordering::SeqCst);
            content(folder, request.split(' ').nth(1)?)
        } else {
            self.refused.fetch_add(1, Ordering::SeqCst);
            ("401 Unauthorized", "text/plain", Vec::new())
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nwww-authenticate: Basic realm=\"tests\"\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        if !request.starts_with("HEAD") {
            stream.write_all(&body).ok()?;
        }
        Some(())
    }
}

fn content(folder: &Path, path: &str) -> (&'static str, &'static str, Vec<u8>) {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    let name_of = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    if let Some(file) = files.iter().find(|f| last.ends_with(".whl") && name_of(f) == last) {
        return (
            "200 OK",
            "application/octet-stream",
            std::fs::read(file).unwrap_or_default(),
        );
    }
    let mut links = String::new();
    for file in &files {
        let name = name_of(file);
        let is_it = name.ends_with(".whl") && name.split('-').next().is_some_and(|n| n.replace('_', "-") == last);
        if let (true, Ok(bytes)) = (is_it, std::fs::read(file)) {
            let hash = herdsman_wire::environment::id(&bytes);
            links += &format!("<a href=\"/files/{name}#sha256={hash}\">{name}</a>\n");
        }
    }
    if links.is_empty() {
        return ("404 Not Found", "text/plain", Vec::new());
    }
    let page = format!("<!DOCTYPE html><html><body>\n{links}</body></html>\n");
    ("200 OK", "text/html", page.into_bytes())
}
