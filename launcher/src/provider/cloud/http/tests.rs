//! The client over real connections, to a server with a script.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, mpsc};

use futures_util::future::LocalBoxFuture;
use http::Method;

use super::*;

/// Says nothing, and does not hang up either.
const SILENCE: &str = "silence";

/// Answers in order, then nothing; what it was asked comes out.
struct Script {
    url: String,
    asked: mpsc::Receiver<(String, String)>,
}

fn serve(answers: Vec<&'static str>) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            send.send((head, String::from_utf8(body).unwrap())).unwrap();
            if answer == SILENCE {
                silent.push(stream);
            } else if !answer.is_empty() {
                let text = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
                stream.write_all(text.as_bytes()).unwrap();
            }
        }
    });
    Script { url, asked }
}

#[derive(Debug, Default)]
struct Token {
    signed: AtomicUsize,
    renewable: AtomicBool,
}

impl Dialect for Arc<Token> {
    fn authorize<'a>(
        &'a self,
        request: &'a mut Request<Bytes>,
        _: SystemTime,
    ) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        let n = self.signed.fetch_add(1, Ordering::Relaxed);
        let value = format!("token-{n}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        Box::pin(async { Ok(()) })
    }

    fn forget_credentials(&self) -> bool {
        self.renewable.swap(false, Ordering::Relaxed)
    }

    fn explain(&self, call: &Call, reply: &Reply) -> ProviderError {
        error(Code::Provider, format!("{}: {}", call.name, reply.status))
    }
}

fn client(token: &Arc<Token>) -> Client<Arc<Token>> {
    let policy = Policy {
        tries: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(40),
        one_try: Duration::from_secs(5),
        in_all: Duration::from_secs(20),
    };
    Client::new(
        token.clone(),
        Options {
            policy,
            ..Options::new("test")
        },
    )
    .unwrap()
}

fn post(url: &str) -> Call {
    Call::with_body("Make", Method::POST, format!("{url}/x"), Bytes::from_static(b"key=1"))
}

#[tokio::test]
async fn a_harmless_call_is_repeated_with_the_same_bytes_and_a_fresh_signature() {
    let script = serve(vec!["503 x", "", "502 x", "200 x"]);
    let token = Arc::default();
    let reply = client(&token).send(&post(&script.url).harmless()).await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    let asked: Vec<_> = script.asked.try_iter().collect();
    assert_eq!(asked.len(), 4);
    for (n, (head, body)) in asked.iter().enumerate() {
        assert!(body == "key=1" && head.contains(&format!("token-{n}")), "{head}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    for answer in ["500 x", ""] {
        let script = serve(vec![answer, "200 x"]);
        let e = client(&Arc::default()).send(&post(&script.url)).await.unwrap_err();
        assert_eq!(script.asked.try_iter().count(), 1, "{}", e.message);
    }
    // A rate limit says that it was not done.
    let script = serve(vec!["429 x", "200 x"]);
    client(&Arc::default()).send(&post(&script.url)).await.unwrap();
    assert_eq!(script.asked.try_iter().count(), 2);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_so_long() {
    let quick = Policy {
        one_try: Duration::from_millis(300),
        ..client(&Arc::default()).options.policy
    };
    let ask = async |answers: Vec<&'static str>, harmless: bool| {
        let mut client = client(&Arc::default());
        client.options.policy = quick;
        let script = serve(answers);
        let call = post(&script.url);
        let call = if harmless { call.harmless() } else { call };
        (client.send(&call).await, script.asked.try_iter().count())
    };
    let (answer, asked) = ask(vec![SILENCE, "200 x"], true).await;
    assert_eq!((answer.unwrap().status, asked), (200, 2));
    // What may have been done is not asked for again.
    let (answer, asked) = ask(vec![SILENCE, "200 x"], false).await;
    assert_eq!((answer.unwrap_err().code, asked), (Code::Deadline, 1));
    let (answer, asked) = ask(vec![SILENCE; 9], true).await;
    let e = answer.unwrap_err();
    assert_eq!((e.code, asked), (Code::Deadline, 4), "{}", e.message);
}

#[tokio::test]
async fn credentials_are_renewed_once() {
    let token: Arc<Token> = Arc::default();
    token.renewable.store(true, Ordering::Relaxed);
    let script = serve(vec!["401 x", "200 x"]);
    client(&token).send(&Call::get("Look", &script.url)).await.unwrap();
    let script = serve(vec!["401 x", "200 x"]);
    let e = client(&token).send(&Call::get("Look", &script.url)).await.unwrap_err();
    assert_eq!(e.message, "Look: 401");
    assert_eq!(script.asked.try_iter().count(), 1);
}

#[tokio::test]
async fn a_limit_holds_for_all_calls_and_tries_have_an_end() {
    let script = serve(vec!["429 x\r\nretry-after: 1", "200 x"]);
    let client = client(&Arc::default());
    let started = Instant::now();
    client.send(&Call::get("Look", &script.url)).await.unwrap();
    assert!(
        started.elapsed() >= client.options.policy.longest_pause,
        "it came too early"
    );
    let script = serve(vec!["503 x"; 9]);
    let e = client.send(&Call::get("Look", &script.url)).await.unwrap_err();
    assert!(e.message.contains("after 4 tries"), "{}", e.message);
    assert_eq!(script.asked.try_iter().count(), 4);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let e = client
        .send(&Call::get("Look", format!("http://{nobody}")))
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::Unreachable);
}

#[tokio::test]
async fn the_vendors_clock_is_learnt() {
    let script = serve(vec!["200 x\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT", "200 x"]);
    let client = client(&Arc::default());
    assert_eq!(client.skew(), 0);
    client.send(&Call::get("Look", &script.url)).await.unwrap();
    let then = client.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((784_111_776..784_111_800).contains(&then), "{then}");
}
