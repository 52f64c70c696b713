//! Requests that are too large, no HTTP, or of another version.

use anyhow::{Result, ensure};
use herdsman_tests::attack::{Caller, Hub, request};
use herdsman_wire::{Code, limits};

#[tokio::test]
async fn bodies_over_their_limit() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let machine = hub.machine("demo-w1", 3)?;
    let small = limits::SMALL_BODY;
    let cases: [(&Caller, &str, usize); 6] = [
        (&machine.caller, "/v1/enrol", small),
        (&member.agent(), "/v1/renew", small),
        (&hub.owner(), "/v1/operator", small),
        (&hub.owner(), "/v1/shutdown", small),
        (&hub.owner(), "/v1/expect", limits::OPERATOR_BODY),
        (&hub.owner(), "/v1/revoke", limits::OPERATOR_BODY),
    ];
    for (caller, path, limit) in cases {
        let over = vec![b' '; limit + 1];
        let answer = hub.send(caller, &request("POST", path, &over)).await?;
        ensure!(answer.status == 413, "{path}: {answer:?}");
        let e = answer.error()?;
        ensure!(
            e.code == Code::TooLarge && e.message.contains(&limit.to_string()),
            "{e}"
        );
        // Just the limit is taken, and is no JSON.
        let full = vec![b' '; limit];
        let e = hub.send(caller, &request("POST", path, &full)).await?.error()?;
        ensure!(e.code == Code::Malformed, "{path}: {e}");
    }
    // In pieces, which announce no length.
    let mut chunked = b"POST /v1/renew HTTP/1.1\r\nhost: x\r\nherdsman-protocol: 1\r\n\
        connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..20 {
        chunked.extend(format!("3e8\r\n{}\r\n", " ".repeat(1000)).bytes());
    }
    chunked.extend(b"0\r\n\r\n");
    let answer = hub.send(&member.agent(), &chunked).await?;
    ensure!(answer.status == 413, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn requests_that_are_no_http() -> Result<()> {
    let mut hub = Hub::start().await?;
    let caller = hub.member("demo-w0", 2).await?.agent();
    let head = |more: &str| format!("GET /v1/version HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let post = "POST /v1/renew HTTP/1.1\r\nhost: x\r\nherdsman-protocol: 1\r\nconnection: close\r\n";
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("zeros", vec![0; 4096]),
        ("all bytes", (0..=255).cycle().take(8192).collect()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("no version", b"GET /v1/version\r\n\r\n".to_vec()),
        ("version 9", b"GET /v1/version HTTP/9.9\r\n\r\n".to_vec()),
        (
            "a long head",
            head(&format!("x: {}\r\n", "y".repeat(200_000))).into_bytes(),
        ),
        ("many headers", head(&many).into_bytes()),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)).into_bytes(),
        ),
        ("no path", b"GET  HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("a header with zero bytes", head("x: \0\r\n").into_bytes()),
        ("a header without a name", head(": y\r\n").into_bytes()),
        (
            "two lengths",
            format!("{post}content-length: 1\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes(),
        ),
        (
            "a negative length",
            format!("{post}content-length: -1\r\n\r\n").into_bytes(),
        ),
        (
            "a length without end",
            format!("{post}content-length: 99999999999999999999999\r\n\r\n").into_bytes(),
        ),
        (
            "pieces of no size",
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n\r\n").into_bytes(),
        ),
        (
            "a piece larger than all memory",
            format!("{post}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n").into_bytes(),
        ),
        (
            "an unknown coding",
            format!("{post}transfer-encoding: cow\r\n\r\n").into_bytes(),
        ),
    ];
    for (what, bytes) in cases {
        match hub.send(&caller, &bytes).await {
            Ok(answer) => ensure!((400..500).contains(&answer.status), "{what}: {answer:?}"),
            Err(e) => ensure!(e.kind() != std::io::ErrorKind::TimedOut, "{what}: {e}"),
        }
        let well = hub.ask(&caller, "GET", "/v1/version", &0).await?;
        ensure!(well.status == 200, "after {what}: {well:?}");
    }
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/", 404),
        ("GET", "/v2/version", 404),
        ("DELETE", "/v1/version", 404),
        ("OPTIONS", "*", 404),
        ("GET", "http://other/v1/version", 200),
        ("GET", "/v1/../v1/version", 404),
        ("GET", "//v1/version", 404),
        ("GET", "/v1/version?x=y", 200),
    ] {
        let answer = hub.ask(&caller, method, path, &0).await?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
    }
    hub.pid()?;
    ensure!(!hub.console().contains("panicked"), "{}", hub.console());
    Ok(())
}

#[tokio::test]
async fn messages_with_wrong_fields_are_told_which() -> Result<()> {
    let hub = Hub::start().await?;
    let owner = hub.owner();
    for (path, body, word) in [
        ("/v1/invites", r#"{"nodes": ["demo-w1"]}"#, "ttl_seconds"),
        ("/v1/invites", r#"{"nodes": ["demo-w1"], "ttl_seconds": -1}"#, "u64"),
        (
            "/v1/invites",
            r#"{"nodes": ["demo-w1"], "ttl_seconds": 9, "x": 1}"#,
            "`x`",
        ),
        (
            "/v1/invites",
            r#"{"nodes": ["Not A Name"], "ttl_seconds": 9}"#,
            "Not A Name",
        ),
        ("/v1/revoke", r#"{"nodes": "demo-w1"}"#, "sequence"),
        (
            "/v1/expect",
            r#"{"nodes": [{"node": "a", "serial": "1", "address": "x"}]}"#,
            "IP address",
        ),
        ("/v1/limits", r#"{"idle_seconds": "soon"}"#, "soon"),
        ("/v1/shutdown", "not json", "line 1"),
    ] {
        let e = hub
            .send(&owner, &request("POST", path, body.as_bytes()))
            .await?
            .error()?;
        ensure!(e.code == Code::Malformed && e.message.contains(word), "{path}: {e}");
    }
    for ttl in [0, 1801, u64::MAX] {
        let body = serde_json::json!({"nodes": ["demo-w1"], "ttl_seconds": ttl});
        let e = hub.ask(&owner, "POST", "/v1/invites", &body).await?.error()?;
        ensure!(e.code == Code::Usage && e.message.contains("ttl_seconds"), "{ttl}: {e}");
    }
    Ok(())
}

#[tokio::test]
async fn another_version_of_the_protocol() -> Result<()> {
    let hub = Hub::start().await?;
    let member = hub.member("demo-w0", 2).await?;
    let machine = hub.machine("demo-w1", 3)?;
    for caller in [&hub.owner(), &member.agent(), &machine.caller] {
        for (header, words) in [
            ("", ["no protocol version", "version 1"]),
            ("herdsman-protocol: 0\r\n", ["version 0", "version 1"]),
            ("herdsman-protocol: 2\r\n", ["version 2", "version 1"]),
            ("herdsman-protocol: 4294967296\r\n", ["no number", "version 1"]),
            ("herdsman-protocol: one\r\n", ["no number", "version 1"]),
            ("herdsman-protocol: \r\n", ["no number", "version 1"]),
        ] {
            for path in ["GET /v1/status", "POST /v1/enrol", "GET /v1/beat"] {
                let text = format!("{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
                let answer = hub.send(caller, text.as_bytes()).await?;
                ensure!(answer.status == 426, "{header}: {answer:?}");
                ensure!(
                    answer.head.to_lowercase().contains("herdsman-protocol: 1"),
                    "{}",
                    answer.head
                );
                let e = answer.error()?;
                ensure!(e.code == Code::Protocol, "{e}");
                ensure!(words.iter().all(|w| e.message.contains(w)), "{header}: {e}");
            }
        }
        // Which version it is may be asked without knowing it.
        let text = "GET /v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = hub.send(caller, text.as_bytes()).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    Ok(())
}
