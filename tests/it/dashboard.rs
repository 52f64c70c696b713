//! Dask's dashboard in a real browser, through the hub.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran};
use serde_json::Value;

use super::basics::Staying;

/// Status of an answer to a request that no browser sends by itself.
fn ask(url: &str, method: &str, path: &str, headers: &str) -> Result<u16> {
    use std::io::{Read as _, Write as _};
    let rest = url.strip_prefix("http://").context("no http")?;
    let host = rest.split('/').next().context("no host")?;
    let mut stream = std::net::TcpStream::connect(host)?;
    stream.set_read_timeout(Some(herdsman_tests::home::LONG))?;
    let host = if headers.contains("Host:") {
        String::new()
    } else {
        format!("Host: {host}\r\n")
    };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(64).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).context("no status")?;
    status.parse().with_context(|| answer.clone())
}

fn strangers_are_refused(url: &str) -> Result<()> {
    let port = url.split(['/', ':']).nth(4).context("no port")?;
    let token = url.rsplit_once('=').context("no token")?.1;
    let cookie = format!("Cookie: herdsman-dash-{port}={token}\r\n");
    let socket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let evil = |header: &str| format!("{header}: http://evil.example\r\n{cookie}{socket}");
    for (method, path, headers, wanted) in [
        ("GET", "/status", cookie.clone(), 200),
        ("GET", "/status", String::new(), 403),
        (
            "GET",
            "/status",
            cookie.replace(token, "0123456789abcdef0123456789abcdef"),
            403,
        ),
        ("GET", "/status", format!("Host: evil.example\r\n{cookie}"), 403),
        ("GET", "/status/ws", evil("Origin"), 403),
        ("POST", "/status", format!("Content-Length: 0\r\n{cookie}"), 405),
        ("GET", "/proxy/8786/localhost/", cookie.clone(), 404),
    ] {
        let status = ask(url, method, path, &headers)?;
        ensure!(status == wanted, "{method} {path} {headers:?}: {status}");
    }
    Ok(())
}

#[test]
fn a_browser_draws_live_bars_of_tasks() -> Result<()> {
    let has_browser = Command::new("chromium").arg("--version").output().is_ok();
    ensure!(
        has_browser,
        "chromium is missing; install Debian's package of that name"
    );
    let home = Home::new()?;
    home.ok(&["up", "demo", "--workers", "2"])?;
    let (dash, said) = Staying::start(&home, &["dash", "demo", "--no-open"])?;
    let url = said["dashboard"].as_str().context("dashboard")?;
    let mut work = home.client(
        "demo",
        "
import time
from dask.distributed import Client
client = Client()
for _ in range(600):
    client.gather(client.map(time.sleep, [0.05] * 8, pure=False))",
    )?;
    let mut work = work.spawn()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/dashboard.py");
    let image = home.path().join("dashboard.png");
    let looked = Command::new(home.python()).arg(script).arg(url).arg(&image).output();
    let _ = work.kill();
    let _ = work.wait();
    let ran: Ran = looked?.into();
    ensure!(ran.code == 0, "{ran:?}");
    let seen: Value = serde_json::from_str(&ran.out)?;
    ensure!(seen["later"].as_u64() > seen["first"].as_u64(), "{seen}");
    // An empty page of this size is a few kilobytes.
    ensure!(seen["image"].as_u64() > Some(20_000), "{seen}");
    strangers_are_refused(url)?;
    dash.interrupt()?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}
