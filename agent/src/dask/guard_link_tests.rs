use tokio::io::AsyncWriteExt;

use super::*;

const LONG: Duration = Duration::from_secs(20);

struct Guard {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Guard {
    async fn connect(path: &Path) -> Self {
        let (from, to) = UnixStream::connect(path).await.unwrap().into_split();
        Self {
            from: BufReader::new(from),
            to,
        }
    }

    async fn hello(path: &Path, kind: &str) -> Self {
        let mut guard = Self::connect(path).await;
        guard
            .send(&json!({"hello": {"v": 1, "kind": kind, "pid": 1, "address": "a", "name": kind}}))
            .await;
        guard
    }

    async fn send(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.to.write_all(bytes).await;
    }

    async fn receive(&mut self) -> Value {
        let mut text = String::new();
        self.from.read_line(&mut text).await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    async fn is_cut_off(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(LONG, self.from.read_to_end(&mut rest)).await.is_ok()
    }
}

async fn next(events: &mut mpsc::Receiver<GuardEvent>) -> GuardEvent {
    timeout(LONG, events.recv()).await.unwrap().unwrap()
}

fn bind() -> (tempfile::TempDir, PathBuf, GuardLink, mpsc::Receiver<GuardEvent>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guard.sock");
    std::fs::write(&path, "left by an agent that was killed").unwrap();
    let (link, events) = GuardLink::bind(&path, None).unwrap();
    (dir, path, link, events)
}

#[tokio::test]
async fn several_peers_tell_and_obey() {
    let (_dir, path, link, mut events) = bind();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let none = link
        .call(PeerKind::Scheduler, "pick", Value::Null, LONG)
        .await
        .unwrap_err();
    assert_eq!(none.code, Code::Dask);
    let mut nanny = Guard::hello(&path, "nanny").await;
    assert!(matches!(next(&mut events).await, GuardEvent::Connected { hello, .. } if hello.kind == PeerKind::Nanny));
    let mut worker = Guard::hello(&path, "worker").await;
    assert!(matches!(next(&mut events).await, GuardEvent::Connected { hello, .. } if hello.name == "worker"));
    worker.send(&json!({"report": {"executing": 3}})).await;
    let GuardEvent::Report {
        report: Report::Worker(r),
        ..
    } = next(&mut events).await
    else {
        panic!("no report")
    };
    assert_eq!(r.executing, 3);

    let asked = tokio::spawn({
        let link = link.clone();
        async move { link.call(PeerKind::Nanny, "close", json!({"timeout": 5}), LONG).await }
    });
    let call = nanny.receive().await;
    assert_eq!(
        (call["call"]["op"].as_str(), call["call"]["timeout"].as_u64()),
        (Some("close"), Some(5))
    );
    let id = call["call"]["id"].clone();
    // Another peer cannot answer for it.
    worker.send(&json!({"reply": {"id": id, "ok": "forged"}})).await;
    worker
        .send(&json!({"problem": {"code": "cert-expired", "message": "m"}}))
        .await;
    assert!(matches!(next(&mut events).await, GuardEvent::Problem { code, .. } if code == "cert-expired"));
    nanny.send(&json!({"reply": {"id": id, "ok": true}})).await;
    assert_eq!(asked.await.unwrap().unwrap(), Value::Bool(true));

    let all = tokio::spawn({
        let link = link.clone();
        async move { link.call_all("reload", Value::Null, LONG).await }
    });
    let (a, b) = (nanny.receive().await, worker.receive().await);
    nanny
        .send(&json!({"reply": {"id": a["call"]["id"], "ok": {"changed": true}}}))
        .await;
    worker
        .send(&json!({"reply": {"id": b["call"]["id"], "error": "cert not taken"}}))
        .await;
    let mut all = all.await.unwrap();
    all.sort_by_key(|(_, name, _)| name.clone());
    assert_eq!(all[0].2.clone().unwrap()["changed"], true);
    assert!(all[1].2.clone().unwrap_err().message.contains("cert not taken"));
}

#[tokio::test]
async fn a_peer_that_goes_or_is_silent_fails_its_calls() {
    let (_dir, path, link, mut events) = bind();
    let mut guard = Guard::hello(&path, "scheduler").await;
    next(&mut events).await;
    let soon = Duration::from_millis(50);
    let late = link
        .call(PeerKind::Scheduler, "pick", json!({"n": 1}), soon)
        .await
        .unwrap_err();
    assert_eq!(late.code, Code::Deadline);
    assert!(link.shared.state().calls.is_empty());
    let asked = tokio::spawn({
        let link = link.clone();
        async move {
            link.call(PeerKind::Scheduler, "retire", json!({"names": []}), LONG)
                .await
        }
    });
    guard.receive().await;
    guard.receive().await;
    drop(guard);
    assert_eq!(asked.await.unwrap().unwrap_err().code, Code::Dask);
    assert!(matches!(
        next(&mut events).await,
        GuardEvent::Gone {
            kind: PeerKind::Scheduler,
            ..
        }
    ));
    assert_eq!(link.connected(PeerKind::Scheduler), 0);
    let wrong = call_line(1, "x", json!([1])).unwrap_err();
    assert_eq!(wrong.code, Code::Internal);
    let huge = call_line(1, "x", json!({"names": "n".repeat(MAX_LINE)})).unwrap_err();
    assert_eq!(huge.code, Code::TooLarge);
}

#[tokio::test]
async fn hostile_lines_end_their_own_connection_only() {
    let (_dir, path, link, mut events) = bind();
    let mut good = Guard::hello(&path, "scheduler").await;
    next(&mut events).await;

    let mut huge = Guard::hello(&path, "worker").await;
    next(&mut events).await;
    huge.raw(&vec![b'x'; MAX_LINE + 10]).await;
    assert!(huge.is_cut_off().await);
    assert!(matches!(next(&mut events).await, GuardEvent::Gone { .. }));

    let mut garbled = Guard::hello(&path, "worker").await;
    next(&mut events).await;
    garbled.raw(&b"\xff\xfe\n{\"report\": 5}\n".repeat(NONSENSE)).await;
    assert!(garbled.is_cut_off().await);
    assert!(matches!(next(&mut events).await, GuardEvent::Problem { code, .. } if code == "guard-link"));
    assert!(matches!(next(&mut events).await, GuardEvent::Gone { .. }));

    let mut rude = Guard::connect(&path).await;
    rude.send(&json!({"worker_added": {"name": "x"}})).await;
    assert!(rude.is_cut_off().await);
    let mut newer = Guard::connect(&path).await;
    newer.send(&json!({"hello": {"v": 9, "kind": "worker"}})).await;
    assert!(newer.is_cut_off().await);
    assert!(matches!(next(&mut events).await, GuardEvent::Problem { message, .. } if message.contains("version 9")));

    // A worker does not speak for the scheduler.
    let mut liar = Guard::hello(&path, "worker").await;
    next(&mut events).await;
    liar.send(&json!({"worker_removed": {"name": "w", "address": "a"}}))
        .await;
    liar.send(&json!({"problem": {"code": "end", "message": ""}})).await;
    assert!(matches!(next(&mut events).await, GuardEvent::Problem { .. }));

    good.send(&json!({"worker_removed": {"name": "w", "address": "a"}}))
        .await;
    assert!(matches!(next(&mut events).await, GuardEvent::WorkerRemoved { name, .. } if name == "w"));
    assert_eq!(link.connected(PeerKind::Scheduler), 1);
    drop((link, events));
    assert!(good.is_cut_off().await);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_path_that_is_too_long_is_refused_by_name() {
    let e = GuardLink::bind(&PathBuf::from(format!("/tmp/{}", "x".repeat(120))), None).unwrap_err();
    assert_eq!(e.code, Code::Usage);
}
