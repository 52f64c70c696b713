//! Lines that the guard sends, as typed values. The guard runs in a process that
//! executes users' code, so a line may hold anything; nothing here panics, and
//! texts are cut to a length that logs and reports can bear.

use herdsman_wire::report::{Tasks, Versions, WorkerStatus};
use serde::Deserialize;
use serde_json::Value;

/// Version of the link's protocol.
pub const PROTOCOL: u64 = 1;

/// Longest line in either direction, bytes, with its end.
pub const MAX_LINE: usize = 1 << 20;

/// Longest name or address that is kept, characters.
const NAME: usize = 256;
/// Longest message that is kept, characters.
const MESSAGE: usize = 2000;
/// Most workers taken from one message.
const WORKERS: usize = 10_000;

/// What kind of Dask process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// The scheduler.
    Scheduler,
    /// A worker process.
    Worker,
    /// The nanny of a worker process.
    Nanny,
}

impl PeerKind {
    /// Lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Nanny => "nanny",
        }
    }
}

/// How a process introduces itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// What it is.
    pub kind: PeerKind,
    /// Its process id, as it says.
    pub pid: u32,
    /// Dask's address of it.
    pub address: String,
    /// Dask's name of it.
    pub name: String,
    /// What it runs.
    pub versions: Versions,
    /// Workers that a scheduler knows already.
    pub workers: Vec<WorkerStatus>,
}

/// A scheduler's counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulerReport {
    /// Tasks by state.
    pub tasks: Tasks,
    /// How many workers are registered.
    pub workers: u64,
    /// Connected clients.
    pub clients: u64,
    /// For how long there was nothing to do; absent while there is.
    pub idle_seconds: Option<f64>,
    /// Load of the workers. Threads and limits are 0 here: they come with
    /// [`Message::WorkerAdded`].
    pub detail: Vec<WorkerStatus>,
}

/// A worker process's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// Tasks that run.
    #[serde(deserialize_with = "number")]
    pub executing: u64,
    /// Tasks that could run.
    #[serde(deserialize_with = "number")]
    pub ready: u64,
    /// Bytes of its process.
    #[serde(deserialize_with = "number")]
    pub memory_bytes: u64,
    /// Results it holds.
    #[serde(deserialize_with = "number")]
    pub data: u64,
}

/// A report of either.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Of the scheduler.
    Scheduler(SchedulerReport),
    /// Of a worker.
    Worker(WorkerReport),
}

/// Answer to a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The call's number.
    pub id: u64,
    /// Its result, or why there is none.
    pub result: Result<Value, String>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// First of a connection.
    Hello(Hello),
    /// A worker registered at the scheduler.
    WorkerAdded(WorkerStatus),
    /// A worker went from the scheduler.
    WorkerRemoved {
        /// Its name.
        name: String,
        /// Its address.
        address: String,
    },
    /// Counts.
    Report(Report),
    /// Something is wrong with the process's certificates, CRLs or guard.
    Problem {
        /// A stable word, for example `cert-expired`.
        code: String,
        /// A sentence.
        message: String,
    },
    /// Answer to a call.
    Reply(Reply),
}

/// Why a line says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// No JSON, or of wrong types. The reason never holds the line's content.
    #[error("malformed line: {0}")]
    Malformed(String),
    /// Another version of the link.
    #[error("the guard speaks version {0} of the link, the agent version {PROTOCOL}")]
    Version(u64),
}

#[derive(Deserialize)]
struct Line {
    hello: Option<RawHello>,
    worker_added: Option<RawWorker>,
    worker_removed: Option<RawRemoved>,
    report: Option<Value>,
    problem: Option<RawProblem>,
    reply: Option<RawReply>,
}

#[derive(Deserialize)]
struct RawHello {
    v: u64,
    kind: PeerKind,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    python: String,
    #[serde(default)]
    dask: String,
    #[serde(default)]
    distributed: String,
    #[serde(default)]
    workers: Vec<RawWorker>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawWorker {
    name: String,
    address: String,
    #[serde(deserialize_with = "number")]
    nthreads: u64,
    #[serde(deserialize_with = "number")]
    memory_limit: u64,
    #[serde(deserialize_with = "number")]
    processing: u64,
    #[serde(deserialize_with = "number")]
    memory_tasks: u64,
    #[serde(deserialize_with = "number")]
    memory_bytes: u64,
}

#[derive(Deserialize)]
struct RawRemoved {
    name: String,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
struct RawProblem {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct RawReply {
    id: u64,
    // A result may be null, which is not the same as none.
    #[serde(default, deserialize_with = "there")]
    ok: Option<Value>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSchedulerReport {
    tasks: RawTasks,
    #[serde(deserialize_with = "number")]
    workers: u64,
    #[serde(deserialize_with = "number")]
    clients: u64,
    idle_seconds: Option<f64>,
    workers_detail: Vec<RawWorker>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTasks {
    #[serde(deserialize_with = "number")]
    waiting: u64,
    #[serde(deserialize_with = "number")]
    queued: u64,
    #[serde(deserialize_with = "number")]
    processing: u64,
    #[serde(deserialize_with = "number")]
    memory: u64,
    #[serde(deserialize_with = "number")]
    erred: u64,
    #[serde(rename = "no-worker", deserialize_with = "number")]
    no_worker: u64,
}

fn there<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(d).map(Some)
}

/// A count that Python may give as an integer, a float or nothing.
fn number<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    Ok(match Value::deserialize(d)? {
        Value::Null => 0,
        Value::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(n), _) => n,
            // Saturates at both ends.
            (None, Some(f)) => f as u64,
            (None, None) => 0,
        },
        _ => return Err(serde::de::Error::custom("a count is no number")),
    })
}

fn cut(text: String, most: usize) -> String {
    if text.len() <= most && !text.contains(char::is_control) {
        return text;
    }
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(most).map(visible).collect()
}

fn worker(raw: RawWorker) -> WorkerStatus {
    WorkerStatus {
        name: cut(raw.name, NAME),
        address: cut(raw.address, NAME),
        nthreads: u32::try_from(raw.nthreads).unwrap_or(u32::MAX),
        memory_limit: raw.memory_limit,
        processing: raw.processing,
        memory_tasks: raw.memory_tasks,
        memory_bytes: raw.memory_bytes,
    }
}

fn workers(raw: Vec<RawWorker>) -> Vec<WorkerStatus> {
    raw.into_iter().take(WORKERS).map(worker).collect()
}

fn scheduler_report(value: Value) -> Result<SchedulerReport, serde_json::Error> {
    let raw: RawSchedulerReport = serde_json::from_value(value)?;
    Ok(SchedulerReport {
        tasks: Tasks {
            waiting: raw.tasks.waiting,
            queued: raw.tasks.queued,
            processing: raw.tasks.processing,
            memory: raw.tasks.memory,
            erred: raw.tasks.erred,
            no_worker: raw.tasks.no_worker,
        },
        workers: raw.workers,
        clients: raw.clients,
        idle_seconds: raw.idle_seconds.filter(|s| s.is_finite()).map(|s| s.max(0.0)),
        detail: workers(raw.workers_detail),
    })
}

/// Reads one line; `kind` is the speaker's once it has said hello. `None`: a
/// message of a newer guard, or one that tells nothing.
///
/// # Errors
/// [`Bad`]; what it says is fit for a log.
pub fn parse(line: &[u8], kind: Option<PeerKind>) -> Result<Option<Message>, Bad> {
    let bad = |e: &serde_json::Error| {
        // serde's texts may quote the line; the place is enough.
        let what = match e.classify() {
            serde_json::error::Category::Data => "wrong types",
            _ => "no JSON",
        };
        Bad::Malformed(format!("{what} at column {}", e.column()))
    };
    let line: Line = serde_json::from_slice(line).map_err(|e| bad(&e))?;
    if let Some(h) = line.hello {
        if h.v != PROTOCOL {
            return Err(Bad::Version(h.v));
        }
        return Ok(Some(Message::Hello(Hello {
            kind: h.kind,
            pid: h.pid,
            address: cut(h.address, NAME),
            name: cut(h.name, NAME),
            versions: Versions {
                python: cut(h.python, NAME),
                dask: cut(h.dask, NAME),
                distributed: cut(h.distributed, NAME),
            },
            workers: workers(h.workers),
        })));
    }
    if let Some(reply) = line.reply {
        let result = match (reply.ok, reply.error) {
            (_, Some(error)) => Err(cut(error, MESSAGE)),
            (Some(value), None) => Ok(value),
            (None, None) => return Err(Bad::Malformed("a reply without a result".into())),
        };
        return Ok(Some(Message::Reply(Reply { id: reply.id, result })));
    }
    if let Some(p) = line.problem {
        return Ok(Some(Message::Problem {
            code: cut(p.code, NAME),
            message: cut(p.message, MESSAGE),
        }));
    }
    if let Some(w) = line.worker_added {
        return Ok(Some(Message::WorkerAdded(worker(w))));
    }
    if let Some(w) = line.worker_removed {
        return Ok(Some(Message::WorkerRemoved {
            name: cut(w.name, NAME),
            address: cut(w.address, NAME),
        }));
    }
    let Some(report) = line.report else { return Ok(None) };
    Ok(match kind {
        Some(PeerKind::Scheduler) => Some(Report::Scheduler(scheduler_report(report).map_err(|e| bad(&e))?)),
        Some(PeerKind::Worker) => Some(Report::Worker(serde_json::from_value(report).map_err(|e| bad(&e))?)),
        Some(PeerKind::Nanny) | None => None,
    }
    .map(Message::Report))
}

#[cfg(test)]
mod tests {
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
}
