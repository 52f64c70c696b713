use std::sync::atomic::{AtomicU32, Ordering};

use hyper::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A dashboard: tells what it was asked, and echoes on `/ws`.
async fn dashboard(mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let mut answer = match request.uri().path() {
        "/ws" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            });
            let mut answer = Response::new(full(String::new()));
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = answer.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert("sec-websocket-accept", HeaderValue::from_static("yes"));
            return Ok(answer);
        }
        "/moved" => {
            let mut answer = Response::new(full(String::new()));
            *answer.status_mut() = StatusCode::FOUND;
            let to = HeaderValue::from_static("http://127.0.0.1:8787/status");
            answer.headers_mut().insert(LOCATION, to);
            answer
        }
        "/large" => Response::new(full("x".repeat(3_000_000))),
        _ => Response::new(full(format!("{} {:?}", request.uri(), request.headers()))),
    };
    let headers = answer.headers_mut();
    headers.insert(SET_COOKIE, HeaderValue::from_static("evil=1"));
    headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    Ok(answer)
}

struct Stand {
    port: u16,
    token: String,
    tunnels: Arc<AtomicU32>,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

impl Stand {
    async fn new() -> Self {
        let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = there.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = there.accept().await.unwrap();
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(dashboard))
                        .with_upgrades(),
                );
            }
        });
        let tunnels = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&tunnels);
        let open = move || {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                TcpStream::connect(to)
                    .await
                    .map_err(|e| ApiError::new(Code::Unreachable, e.to_string()))
            }
        };
        let listener = forward::listen(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = Token::random().unwrap();
        let link = token.link(port);
        let text = link.split_once("/?token=").unwrap().1.to_owned();
        let serving = tokio::spawn(serve(listener, open, token));
        Self {
            port,
            token: text,
            tunnels,
            serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Sends these lines, with those that let it in where nothing else is said.
    async fn ask(&self, first: &str, headers: &[String]) -> String {
        let mut stream = self.connect().await;
        let lines = headers.join("\r\n");
        let request = format!("{first} HTTP/1.1\r\n{lines}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}", self.port)
    }

    fn cookie(&self) -> String {
        format!("Cookie: theirs=2; herdsman-dash-{}={}", self.port, self.token)
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_link_lets_a_browser_in() {
    let s = Stand::new().await;
    for first in [
        format!("GET /?token={} ", s.token),
        format!("GET /{}/ ", s.token),
        format!("GET /{}", s.token),
    ] {
        let answer = s.ask(first.trim(), &[s.host()]).await.to_lowercase();
        assert_eq!(status(&answer), 303, "{answer}");
        assert!(answer.contains("location: /status\r\n"));
        let cookie = format!(
            "set-cookie: herdsman-dash-{}={}; httponly; samesite=strict; path=/\r\n",
            s.port, s.token
        );
        assert!(answer.contains(&cookie), "{answer}");
    }
    // From a page of another site a redirect would lose the cookie.
    let first = format!("GET /?token={}", s.token);
    let answer = s.ask(&first, &[s.host(), "Sec-Fetch-Site: cross-site".into()]).await;
    assert!(status(&answer) == 200 && answer.contains("url=/status"), "{answer}");
    // None of this was the cluster's affair.
    assert_eq!(s.tunnels.load(Ordering::Relaxed), 0);

    let answer = s.ask("GET /status?a=b", &[s.host(), s.cookie()]).await;
    assert_eq!(status(&answer), 200);
    assert!(
        answer.contains("/status?a=b {\"host\": \"127.0.0.1:8787\"}"),
        "{answer}"
    );
    let localhost = format!("host: LOCALHOST:{}", s.port);
    assert_eq!(status(&s.ask("HEAD /status", &[localhost, s.cookie()]).await), 200);
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let s = Stand::new().await;
    let (host, cookie, port) = (s.host(), s.cookie(), s.port);
    let no_cookie = format!("Cookie: herdsman-dash-{port}={}", "0".repeat(32));
    let other_port = format!("Cookie: herdsman-dash-1={}", s.token);
    let first = format!("GET /?token={}0", s.token);
    for (expected, first, headers) in [
        (403, "GET /status", vec![host.clone()]),
        (403, "GET /status", vec![host.clone(), no_cookie]),
        (403, "GET /status", vec![host.clone(), other_port]),
        (403, first.as_str(), vec![host.clone()]),
        (
            403,
            "GET /status",
            vec![format!("Host: evil.example:{port}"), cookie.clone()],
        ),
        (403, "GET /status", vec!["Host: 127.0.0.1".into(), cookie.clone()]),
        (403, "GET /status", vec![host.clone(), host.clone(), cookie.clone()]),
        (403, "GET /status", vec![cookie.clone()]),
        (
            403,
            "GET http://evil.example/status",
            vec![host.clone(), cookie.clone()],
        ),
        (
            403,
            "GET /status",
            vec![host.clone(), cookie.clone(), "Origin: http://evil.example".into()],
        ),
        (
            403,
            "GET /status",
            vec![host.clone(), cookie.clone(), "Origin: null".into()],
        ),
        (
            403,
            "GET /status",
            vec![
                host.clone(),
                cookie.clone(),
                format!("Origin: https://127.0.0.1:{port}"),
            ],
        ),
        (405, "POST /status", vec![host.clone(), cookie.clone()]),
        (
            405,
            "CONNECT 127.0.0.1:22",
            vec![format!("Host: 127.0.0.1:{port}"), cookie.clone()],
        ),
        (405, "OPTIONS *", vec![host.clone(), cookie.clone()]),
        (
            400,
            "GET /status",
            vec![host.clone(), cookie.clone(), "Content-Length: 1".into()],
        ),
        (
            404,
            "GET /proxy/8790/10.0.0.2/status",
            vec![host.clone(), cookie.clone()],
        ),
        (404, "GET /x/../PROXY/1/h/", vec![host.clone(), cookie.clone()]),
        (404, "GET /%70roxy/1/h/", vec![host.clone(), cookie.clone()]),
        (404, "GET //proxy%2f1/h/", vec![host, cookie]),
    ] {
        let answer = s.ask(first, &headers).await;
        let got = status(&answer);
        // CONNECT names another authority, so either refusal is right.
        assert!(
            got == expected || first.starts_with("CONNECT") && got == 403,
            "{first} {headers:?}: {answer}"
        );
        assert!(answer.contains("text/plain") && !answer.contains(&s.token), "{answer}");
    }
    assert_eq!(s.tunnels.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_the_browsers_stays_here() {
    let s = Stand::new().await;
    let ours = format!("Origin: http://127.0.0.1:{}", s.port);
    let headers = [
        s.host(),
        s.cookie(),
        ours,
        "Authorization: Basic c2VjcmV0".into(),
        "Referer: http://127.0.0.1/secret".into(),
        "Proxy-Authorization: secret".into(),
        "Keep-Alive: 1".into(),
        "Accept: text/html".into(),
    ];
    let answer = s.ask("GET /status", &headers).await;
    let seen = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        seen,
        "/status {\"accept\": \"text/html\", \"host\": \"127.0.0.1:8787\", \"origin\": \"http://127.0.0.1:8787\"}"
    );
    let head = answer.to_lowercase();
    assert!(!head.contains("set-cookie") && !head.contains("allow-origin"), "{head}");
    let moved = s.ask("GET /moved", &[s.host(), s.cookie()]).await.to_lowercase();
    assert!(moved.contains("location: /status\r\n"), "{moved}");
    let large = s.ask("GET /large", &[s.host(), s.cookie()]).await;
    assert!(large.len() > 3_000_000);
}

#[tokio::test]
async fn a_websocket_goes_through_and_is_cut_at_the_end() {
    let s = Stand::new().await;
    let mut stream = s.connect().await;
    let request = format!(
        "GET /ws HTTP/1.1\r\n{}\r\n{}\r\nOrigin: http://localhost:{}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        s.host(),
        s.cookie(),
        s.port
    );
    // The first bytes come with the head, as eager clients send them.
    stream.write_all(format!("{request}first").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(
        status(&head) == 101 && head.contains("sec-websocket-accept: yes"),
        "{head}"
    );
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"first");
    stream.write_all(b"later").await.unwrap();
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"later");

    s.serving.abort();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut echo)).await;
    assert!(matches!(ended.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_connection_keeps_its_tunnel() {
    let s = Stand::new().await;
    let mut stream = s.connect().await;
    for _ in 0..5 {
        let request = format!("GET /status HTTP/1.1\r\n{}\r\n{}\r\n\r\n", s.host(), s.cookie());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"8787\"}") {
            seen.push(stream.read_u8().await.unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(s.tunnels.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn no_tunnel_is_told_with_its_hint() {
    let listener = forward::listen(0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let token = Token::random().unwrap();
    let cookie = token.cookie(port);
    let open =
        || async { Err::<TcpStream, _>(ApiError::new(Code::Unreachable, "the hub is asleep").with_hint("wake it")) };
    let serving = tokio::spawn(serve(listener, open, token));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 502);
    assert!(
        answer.ends_with("E-UNREACHABLE: the hub is asleep\nhint: wake it\n"),
        "{answer}"
    );
    serving.abort();
}

#[test]
fn headers_named_by_connection_go_as_well() {
    let mut headers = HeaderMap::new();
    headers.insert("connection", HeaderValue::from_static("close, X-Hop"));
    headers.insert("x-hop", HeaderValue::from_static("1"));
    headers.insert("x-end", HeaderValue::from_static("1"));
    check::strip_request(&mut headers);
    assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["x-end"]);
}

#[test]
fn the_usual_port_may_be_left_out() {
    let token = Token::random().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert("origin", HeaderValue::from_static("http://localhost"));
    let cookie = token.cookie(80);
    headers.insert(
        "cookie",
        HeaderValue::from_str(cookie.split(';').next().unwrap()).unwrap(),
    );
    let judge = |port| {
        check::judge(
            &hyper::Method::GET,
            &Uri::from_static("/status"),
            &headers,
            port,
            &token,
        )
    };
    assert_eq!(judge(80), Verdict::Forward);
    assert!(matches!(judge(8080), Verdict::Refuse(StatusCode::FORBIDDEN, _)));
}

/// Compiles only while the real tunnels fit.
#[test]
fn a_links_tunnels_fit() {
    fn fits(listener: TcpListener, link: Arc<super::super::Link>, token: Token) -> impl Future + Send {
        serve(listener, forward::through(link, "dashboard"), token)
    }
    let _ = fits;
}
