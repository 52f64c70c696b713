//! A package index on loopback that serves wheels made by the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use herdsman_wire::environment::id;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::archive::{Files, pack};

/// The uv to test with; says so where there is none.
pub(crate) fn uv() -> Option<PathBuf> {
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

/// An empty virtual environment that runs; returns its `site-packages`.
pub(crate) fn real_venv(uv: &Path, folder: &Path) -> PathBuf {
    let out = std::process::Command::new(uv)
        .args([
            "venv",
            "-q",
            "--no-project",
            "--no-config",
            "--no-python-downloads",
            "--python",
            "cpython",
        ])
        .arg(folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lib = std::fs::read_dir(folder.join("lib")).unwrap().next().unwrap().unwrap();
    lib.path().join("site-packages")
}

/// A wheel of one module with a tag; returns its file name and bytes.
pub(crate) fn wheel(name: &str, version: &str, tag: &str) -> (String, Vec<u8>) {
    let info = format!("{name}-{version}.dist-info");
    let files: Files = [
        (format!("{name}/__init__.py"), format!("__version__ = '{version}'\n")),
        (
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
        ),
        (
            format!("{info}/WHEEL"),
            format!("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"),
        ),
    ]
    .into_iter()
    .map(|(p, c)| (p, c.into_bytes()))
    .collect();
    (format!("{name}-{version}-{tag}.whl"), pack(files, &info))
}

/// A simple index, with a password if wanted.
pub(crate) struct Index {
    pub(crate) url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves wheels; `access` is `user:password`.
pub(crate) async fn index(wheels: &[(String, Vec<u8>)], access: Option<&str>) -> Index {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://127.0.0.1:{}/simple", listener.local_addr().unwrap().port());
    let header = access.map(|a| {
        let code = base64::engine::general_purpose::STANDARD.encode(a);
        format!("authorization: basic {code}").to_ascii_lowercase()
    });
    let wheels: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(wheels.iter().cloned().collect());
    let task = tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let (wheels, header) = (wheels.clone(), header.clone());
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
                let (status, kind, body) = if allowed {
                    answer(&wheels, path)
                } else {
                    ("401 Unauthorized", "text/plain", Vec::new())
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
    Index { url, task }
}

fn answer(wheels: &BTreeMap<String, Vec<u8>>, path: &str) -> (&'static str, &'static str, Vec<u8>) {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if let Some(wheel) = wheels.get(last) {
        return ("200 OK", "application/octet-stream", wheel.clone());
    }
    let links: String = wheels
        .iter()
        .filter(|(file, _)| file.split('-').next().is_some_and(|n| n.replace('_', "-") == last))
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
}
