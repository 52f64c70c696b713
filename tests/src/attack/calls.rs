//! HTTP by hand, so that it may be as bad as a test wants.

use anyhow::{Context, Result, ensure};
use herdsman_wire::{ApiError, version};
use rustls::AlertDescription;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;

use crate::home::LONG;

/// What came back.
#[derive(Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(500).collect();
        write!(f, "{}: {body}", self.status)
    }
}

impl Answer {
    /// The error that it carries.
    ///
    /// # Errors
    /// When it carries none.
    pub fn error(&self) -> Result<ApiError> {
        ensure!(self.status >= 400, "no error: {self:?}");
        self.json()
    }

    /// Its JSON.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            let text = String::from_utf8_lossy(&self.body);
            format!("{}{text}", self.head)
        })
    }
}

/// A request as our own clients write it.
#[must_use]
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\n{}: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        version::HEADER,
        version::PROTOCOL,
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Reads an answer to its end.
///
/// # Errors
/// When the connection broke, or nothing came within [`LONG`].
pub async fn answer(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Answer> {
    let mut all = Vec::new();
    let read = async {
        loop {
            let head_end = all.windows(4).position(|w: &[u8]| w == b"\r\n\r\n").map(|i| i + 4);
            if let Some(end) = head_end {
                let head = String::from_utf8_lossy(&all[..end]).into_owned();
                let length = head.lines().find_map(|l| {
                    let (name, value) = l.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse().ok())?
                });
                let is_upgrade = head.starts_with("HTTP/1.1 101");
                if is_upgrade || all.len() >= end + length.unwrap_or(usize::MAX / 2) {
                    return Ok::<_, std::io::Error>((head, end));
                }
            }
            let mut piece = [0; 8192];
            let n = match io.read(&mut piece).await {
                // Closed without a goodbye after a whole head counts as its end.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => 0,
                n => n?,
            };
            if n == 0 {
                return match head_end {
                    Some(end) => Ok((String::from_utf8_lossy(&all[..end]).into_owned(), end)),
                    None => Err(std::io::ErrorKind::UnexpectedEof.into()),
                };
            }
            all.extend_from_slice(&piece[..n]);
        }
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (head, end) = tokio::time::timeout(LONG, read).await.map_err(late)??;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok(Answer {
        status,
        body: all.split_off(end),
        head,
    })
}

/// The alert with which the other end refused us, if that is what happened.
pub fn alert<T>(result: &std::io::Result<T>) -> Option<AlertDescription> {
    match tls_error(result)? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// What TLS itself says of a failure.
pub fn tls_error<T>(result: &std::io::Result<T>) -> Option<&rustls::Error> {
    let error = result.as_ref().err()?;
    error.get_ref()?.downcast_ref()
}
