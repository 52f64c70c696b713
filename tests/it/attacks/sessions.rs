//! What a member with a session may try against the hub and against other nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_agent::frame;
use herdsman_tests::attack::{Hub, Member};
use herdsman_tests::home::LONG;
use herdsman_wire::Code;
use herdsman_wire::session::{Command, Down, LogQuery, StreamRequest, UPGRADE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn frames_that_are_none_end_the_session_and_nothing_else() -> Result<()> {
    let mut hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let client = hub.client(&member.agent())?;
    let long = herdsman_wire::limits::FRAME + 1;
    let frames: [(&str, Vec<u8>); 6] = [
        ("endless", vec![0xff; 8]),
        ("one byte too long", u32::try_from(long)?.to_be_bytes().to_vec()),
        ("empty", vec![0; 4]),
        ("no JSON", [&[0, 0, 0, 3][..], b"???"].concat()),
        ("another message", [&[0, 0, 0, 7][..], b"{\"x\":1}"].concat()),
        ("deep", {
            let deep = "[".repeat(100_000);
            [&u32::try_from(deep.len())?.to_be_bytes()[..], deep.as_bytes()].concat()
        }),
    ];
    for (what, bytes) in frames {
        let mut io = client.upgrade("/v1/beat", UPGRADE).await?;
        io.write_all(&bytes).await?;
        io.flush().await?;
        let mut rest = Vec::new();
        tokio::time::timeout(LONG, io.read_to_end(&mut rest))
            .await
            .with_context(|| format!("{what}: the session lives on"))?
            .ok();
        let well = hub.ask(&hub.owner(), "GET", "/v1/status", &0).await?;
        ensure!(well.status == 200, "after {what}: {well:?}");
    }
    hub.pid()?;
    ensure!(!hub.console().contains("panicked"), "{}", hub.console());
    Ok(())
}

async fn token(hub: &Hub, member: &Member) -> Result<String> {
    let client = hub.client(&member.agent())?;
    let mut io = client.upgrade("/v1/beat", UPGRADE).await?;
    let read = async {
        loop {
            let message: Option<Down> = frame::read(&mut io).await?;
            if let Down::Command {
                command: Command::Stream { token, .. },
                ..
            } = message.context("the session ended")?
            {
                return Ok(token);
            }
        }
    };
    let logs = StreamRequest::Logs(LogQuery::default());
    let ask = async {
        // The session has to be there first.
        loop {
            match hub.link.node_stream(&member.issued.node, &logs).await {
                Err(e) if e.code == Code::Unreachable => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other.map(|_| ()),
            }
        }
    };
    tokio::select! {
        token = read => token,
        asked = ask => { asked?; anyhow::bail!("a stream without its node") }
        () = tokio::time::sleep(LONG) => anyhow::bail!("no token"),
    }
}

#[tokio::test]
async fn a_node_cannot_serve_the_stream_of_another() -> Result<()> {
    let hub = Hub::start().await?;
    let asked = hub.member("demo-w0", 2).await?;
    let other = hub.member("demo-w1", 3).await?;
    let token = token(&hub, &asked).await?;
    ensure!(token.len() == 32, "{token}");
    let claim = async |by: &Member| {
        let path = format!("/v1/stream/{token}");
        hub.client(&by.agent())?.upgrade(&path, "herdsman-stream").await
    };
    let e = claim(&other).await.err().context("it was served")?;
    ensure!(e.code == Code::NotFound, "{e}");
    let e = hub
        .ask(&other.agent(), "GET", "/v1/nodes/demo-w0/stream", &0)
        .await?
        .error()?;
    ensure!(e.code == Code::Forbidden, "{e}");
    Ok(())
}
