//! Attackers who only cost: silent, slow and many connections. All the while a
//! real node gets in.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Hub, Member, answer};
use herdsman_tests::home::LONG;
use herdsman_wire::{Code, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A real enrolment is through within this, whatever else goes on.
const SECONDS: Duration = Duration::from_secs(10);
/// What the hub may take longer than its own limits on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

async fn enrols(hub: &Hub, name: &str, n: u8) -> Result<Member> {
    let started = Instant::now();
    let member = hub.member(name, n).await?;
    let took = started.elapsed();
    ensure!(took < SECONDS, "{name} took {took:?}");
    Ok(member)
}

/// How many files the hub has open.
fn files(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

async fn is_closed(mut io: impl tokio::io::AsyncRead + Unpin, within: Duration) -> Result<()> {
    let mut all = Vec::new();
    let read = io.read_to_end(&mut all);
    match tokio::time::timeout(within, read).await {
        // A reset is an end as well.
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("still open after {within:?}"),
    }
}

/// The first bytes of a real greeting.
fn half_a_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 1, 0x40, 1, 0, 1, 0x3c, 3, 3];
    hello.extend([7; 60]);
    hello
}

#[tokio::test]
async fn thousands_of_silent_connections_and_half_greetings() -> Result<()> {
    let mut hub = Hub::start().await?;
    let pid = hub.pid()?;
    let before = files(pid)?;
    let mut silent: Vec<TcpStream> = Vec::new();
    for n in 0..2000_u32 {
        let from = hub.node_address(100 + u8::try_from(n % 50)?);
        silent.push(hub.tcp(from).await?);
        if n == 1000 {
            enrols(&hub, "demo-w0", 2).await?;
        }
    }
    for n in 0..300_u32 {
        let from = hub.node_address(100 + u8::try_from(n % 150)?);
        let mut tcp = hub.tcp(from).await?;
        tcp.write_all(&half_a_hello()).await?;
        silent.push(tcp);
    }
    enrols(&hub, "demo-w1", 3).await?;
    let open = files(pid)?;
    let most = before + limits::HANDSHAKES_IN_FLIGHT * 4 + 20;
    ensure!(open <= most, "{open} files are open, {before} before");
    // One source with all its connections does not lock out itself either.
    for _ in 0..100 {
        silent.push(hub.tcp(hub.node_address(4)).await?);
    }
    enrols(&hub, "demo-w2", 4).await?;
    // Nobody stays for longer than a handshake may take.
    let last = silent.pop().context("none")?;
    is_closed(last, limits::HANDSHAKE + SLACK).await?;
    drop(silent);
    let started = Instant::now();
    while files(pid)? > before + 10 {
        ensure!(started.elapsed() < LONG, "{} files stay open", files(pid)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Sends `text` byte by byte until the other end does not want more.
async fn drip<W: AsyncWriteExt + Unpin>(mut to: W, text: Vec<u8>) {
    for byte in text.into_iter().cycle() {
        if to.write_all(&[byte]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn slow_heads_slow_bodies_and_silence_behind_the_handshake() -> Result<()> {
    let hub = Hub::start().await?;
    let slow = hub.member("demo-slow", 9).await?;
    let within = limits::HANDSHAKE + SLACK;
    let drips = tokio::task::LocalSet::new();
    // A head that never ends.
    let (head_in, head_out) = tokio::io::split(hub.connect(&slow.agent()).await?);
    drips.spawn_local(drip(head_out, b"GET /v1/version HTTP/1.1\r\nx: ".to_vec()));
    // A body that comes in a day.
    let (mut body_in, mut body_out) = tokio::io::split(hub.connect(&slow.agent()).await?);
    body_out
        .write_all(b"POST /v1/renew HTTP/1.1\r\nhost: x\r\nherdsman-protocol: 1\r\ncontent-length: 16000\r\n\r\n")
        .await?;
    drips.spawn_local(drip(body_out, b" ".to_vec()));
    // Nothing at all; and nothing more after a first request.
    let silent = hub.connect(&slow.agent()).await?;
    let mut once = hub.connect(&slow.agent()).await?;
    once.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    drips
        .run_until(async {
            let (head, body, silence, kept, node) = tokio::join!(
                is_closed(head_in, within),
                async {
                    let answer = tokio::time::timeout(within, answer(&mut body_in)).await??;
                    ensure!(answer.error()?.code == Code::Deadline, "{answer:?}");
                    is_closed(body_in, within).await
                },
                is_closed(silent, within),
                is_closed(once, within),
                enrols(&hub, "demo-w0", 2),
            );
            head.context("slow head")?;
            body.context("slow body")?;
            silence.context("silence")?;
            kept.context("an idle connection")?;
            node.context("a real node")?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_node_that_asks_for_sessions_without_end() -> Result<()> {
    let mut hub = Hub::start().await?;
    let pid = hub.pid()?;
    let member = hub.member("demo-w0", 2).await?;
    let client = hub.client(&member.agent())?;
    let before = files(pid)?;
    // Each takes the place of the one before.
    for _ in 0..50 {
        let io = client.upgrade("/v1/beat", herdsman_wire::session::UPGRADE).await?;
        std::mem::forget(io);
    }
    let started = Instant::now();
    while files(pid)? > before + 10 {
        ensure!(started.elapsed() < LONG, "{} files stay open", files(pid)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    hub.renew(&member, &NewKeys::generate()?).await?;
    Ok(())
}
