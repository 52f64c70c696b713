//! Wheels made by hand and a package index that serves them, so that the tests
//! need uv and a Python but no network.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use herdsman_wire::environment::id;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The uv to test with; says so where there is none.
pub(super) fn uv() -> Option<PathBuf> {
    let named = std::env::var_os("HERDSMAN_UV").map(PathBuf::from);
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|p| p.join("uv"))
            .find(|p| p.is_file())
    };
    let found = named.or_else(on_path);
    if found.is_none() {
        eprintln!("skipped: no uv (set HERDSMAN_UV or put it on PATH)");
    }
    found
}

/// The version of the Python that uv finds first.
pub(super) fn python(uv: &std::path::Path) -> String {
    let out = std::process::Command::new(uv)
        .args([
            "python",
            "find",
            "--system",
            "--no-project",
            "--show-version",
            "--no-python-downloads",
        ])
        .arg("cpython")
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A wheel of one module; returns its file name and bytes.
pub(super) fn wheel(name: &str, version: &str, module: &str) -> (String, Vec<u8>) {
    let info = format!("{name}-{version}.dist-info");
    let files = [
        (format!("{name}/__init__.py"), module.to_owned()),
        (
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
        ),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
    ];
    let mut record: String = files.iter().map(|(path, _)| format!("{path},,\n")).collect();
    record.push_str(&format!("{info}/RECORD,,\n"));
    let mut all: Vec<(String, String)> = files.into();
    all.push((format!("{info}/RECORD"), record));
    (format!("{name}-{version}-py3-none-any.whl"), zip(&all))
}

fn zip(files: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut central = Vec::new();
    for (name, content) in files {
        let at = out.len() as u32;
        let mut head = Vec::new();
        for field in [20_u16, 0, 0, 0, 0x21] {
            head.extend(field.to_le_bytes());
        }
        for field in [crc(content.as_bytes()), content.len() as u32, content.len() as u32] {
            head.extend(field.to_le_bytes());
        }
        head.extend((name.len() as u16).to_le_bytes());
        head.extend(0_u16.to_le_bytes());
        out.extend(0x0403_4b50_u32.to_le_bytes());
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(content.as_bytes());
        central.extend(0x0201_4b50_u32.to_le_bytes());
        central.extend(20_u16.to_le_bytes());
        central.extend(&head);
        central.extend([0; 10]);
        central.extend(at.to_le_bytes());
        central.extend(name.as_bytes());
    }
    let at = out.len() as u32;
    let count = files.len() as u16;
    out.extend(&central);
    out.extend(0x0605_4b50_u32.to_le_bytes());
    out.extend([0; 4]);
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((central.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    out
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| {
            if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 }
        })
    })
}

/// A simple index on loopback, with a password if wanted.
pub(super) struct Index {
    pub(super) url: String,
    /// Files that were handed out.
    pub(super) served: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves wheels; `access` is `user:password`.
pub(super) async fn index(wheels: &[(String, Vec<u8>)], access: Option<&str>) -> Index {
    use base64::Engine;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://127.0.0.1:{}/simple", listener.local_addr().unwrap().port());
    let header = access.map(|a| {
        let code = base64::engine::general_purpose::STANDARD.encode(a);
        format!("authorization: basic {}", code.to_ascii_lowercase())
    });
    let wheels: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(wheels.iter().cloned().collect());
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let task = tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let (wheels, header, count) = (wheels.clone(), header.clone(), count.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    let mut buffer = [0; 1024];
                    match io.read(&mut buffer).await {
                        Ok(n) if n > 0 => request.extend(&buffer[..n]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let allowed = header.is_none_or(|h| request.to_ascii_lowercase().contains(&h));
                let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let (status, kind, body) = if !allowed {
                    ("401 Unauthorized", "text/plain", Vec::new())
                } else if let Some(wheel) = wheels.get(last) {
                    count.fetch_add(1, Ordering::SeqCst);
                    ("200 OK", "application/octet-stream", wheel.clone())
                } else {
                    let links: String = wheels
                        .iter()
                        .filter(|(file, _)| file.split('-').next() == Some(last))
                        .map(|(file, bytes)| format!("<a href=\"/files/{file}#sha256={}\">{file}</a>\n", id(bytes)))
                        .collect();
                    if links.is_empty() {
                        ("404 Not Found", "text/plain", Vec::new())
                    } else {
                        (
                            "200 OK",
                            "text/html",
                            format!("<!DOCTYPE html><html><body>{links}</body></html>").into(),
                        )
                    }
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nwww-authenticate: Basic realm=\"x\"\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = io.write_all(head.as_bytes()).await;
                let _ = io.write_all(&body).await;
            });
        }
    });
    Index { url, served, task }
}
