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
#[path = "guard_message_tests.rs"]
mod tests;
