use proptest::prelude::*;

use super::*;

fn read(text: &str, kind: PeerKind) -> Option<Message> {
    parse(text.as_bytes(), Some(kind)).unwrap()
}

#[test]
fn what_the_guard_sends_is_understood() {
    let hello = r#"{"hello":{"v":1,"kind":"scheduler","pid":12,"address":"tls://10.0.0.5:8786","name":"scheduler",
        "dask":"2026.8.0","distributed":"2026.8.0","python":"3.11.2",
        "workers":[{"name":"w-1","address":"tls://10.0.0.7:8788","nthreads":2,"memory_limit":null}]}}"#;
    let Some(Message::Hello(h)) = read(hello, PeerKind::Scheduler) else {
        panic!("no hello")
    };
    assert_eq!(
        (h.kind, h.pid, h.versions.python.as_str()),
        (PeerKind::Scheduler, 12, "3.11.2")
    );
    assert_eq!((h.workers[0].nthreads, h.workers[0].memory_limit), (2, 0));
    let report = r#"{"report":{"tasks":{"waiting":1,"processing":2,"memory":3,"erred":4,"released":5,"queued":6,
        "no-worker":7},"workers":1,"clients":2,"idle_seconds":null,"workers_detail":[{"name":"w-1","processing":2,
        "memory_tasks":3,"memory_bytes":4.0,"managed_bytes":5,"spilled_bytes":0,"cpu":1.5,"occupancy":0.1}]}}"#;
    let Some(Message::Report(Report::Scheduler(r))) = read(report, PeerKind::Scheduler) else {
        panic!("no report")
    };
    assert_eq!((r.tasks.waiting, r.tasks.queued, r.tasks.no_worker), (1, 6, 7));
    assert_eq!((r.clients, r.idle_seconds, r.detail[0].memory_bytes), (2, None, 4));
    let worker = r#"{"report":{"executing":1,"ready":2,"memory_bytes":3,"data":4}}"#;
    assert_eq!(
        read(worker, PeerKind::Worker),
        Some(Message::Report(Report::Worker(WorkerReport {
            executing: 1,
            ready: 2,
            memory_bytes: 3,
            data: 4
        })))
    );
    assert_eq!(
        read(
            r#"{"worker_removed":{"name":"w-1","address":"a"}}"#,
            PeerKind::Scheduler
        ),
        Some(Message::WorkerRemoved {
            name: "w-1".into(),
            address: "a".into()
        })
    );
}

#[test]
fn replies_tell_null_from_nothing() {
    let result = |text: &str| match read(text, PeerKind::Nanny) {
        Some(Message::Reply(r)) => r.result,
        other => panic!("{other:?}"),
    };
    assert_eq!(result(r#"{"reply":{"id":3,"ok":null}}"#), Ok(Value::Null));
    assert_eq!(result(r#"{"reply":{"id":3,"ok":[1]}}"#), Ok(serde_json::json!([1])));
    assert_eq!(result(r#"{"reply":{"id":3,"error":"no"}}"#), Err("no".into()));
    assert!(parse(br#"{"reply":{"id":3}}"#, None).is_err());
}

#[test]
fn hostile_lines_are_told_without_their_content() {
    for line in [
        &b"hunter2"[..],
        b"",
        b"[]",
        b"\xff\xfe",
        b"{\"hello\":{\"v\":1,\"kind\":\"hunter2\"}}",
        b"{\"worker_added\":{\"name\":5}}",
        b"{\"report\":{\"clients\":\"hunter2\"}}",
        b"{\"reply\":{\"id\":-1,\"ok\":1}}",
        &[b'['; 5000],
    ] {
        let e = parse(line, Some(PeerKind::Scheduler)).unwrap_err();
        assert!(!e.to_string().contains("hunter2"), "{e}");
    }
    assert_eq!(
        parse(br#"{"hello":{"v":2,"kind":"worker"}}"#, None).unwrap_err(),
        Bad::Version(2)
    );
    // A newer guard's message, and a report of one who did not introduce itself.
    assert_eq!(parse(br#"{"news":1}"#, None).unwrap(), None);
    assert_eq!(parse(br#"{"report":{"executing":1}}"#, None).unwrap(), None);
    let long = format!(r#"{{"problem":{{"code":"a\nb","message":"{}"}}}}"#, "é".repeat(9000));
    let Some(Message::Problem { code, message }) = read(&long, PeerKind::Worker) else {
        panic!("no problem")
    };
    assert_eq!((code.as_str(), message.chars().count()), ("a b", MESSAGE));
}

#[test]
fn counts_saturate() {
    for (text, count) in [("-5", 0), ("1e300", u64::MAX), ("2.9", 2), ("null", 0)] {
        let line = format!(r#"{{"report":{{"ready":{text}}}}}"#);
        let Some(Message::Report(Report::Worker(r))) = read(&line, PeerKind::Worker) else {
            panic!("no report")
        };
        assert_eq!(r.ready, count);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        for kind in [None, Some(PeerKind::Scheduler), Some(PeerKind::Worker), Some(PeerKind::Nanny)] {
            let _ = parse(&line, kind);
        }
    }

    #[test]
    fn no_values_panic(
        key in "hello|worker_added|worker_removed|report|problem|reply",
        inner in "v|kind|id|ok|tasks|workers_detail|name|idle_seconds|nthreads",
        value in "null|-1|1e999|1e308|\"x\"|\\[\\]|\\{\\}|18446744073709551616|\\[\\[1\\]\\]",
    ) {
        let line = format!("{{\"{key}\":{{\"{inner}\":{value}}}}}");
        for kind in [None, Some(PeerKind::Scheduler), Some(PeerKind::Worker)] {
            let _ = parse(line.as_bytes(), kind);
        }
    }
}
