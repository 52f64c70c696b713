//! The agent's end of the link with Dask's guards: a unix socket, JSON lines.
//!
//! Several processes connect: the scheduler, or each nanny and each worker of a
//! node. They say hello, then tell what happens and obey calls. They run users'
//! code, so each is trusted with its own connection and no more: lines have a
//! limit, connections have a number, and a peer that keeps sending nonsense is
//! cut off. A process that is cut off, or an agent that starts anew, is met again
//! by the guard's next attempt, with everything told from the start.

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use herdsman_wire::{ApiError, Code};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use super::guard_event::GuardEvent;
pub use super::guard_message::{Hello, PeerKind, Report, SchedulerReport, WorkerReport};
use super::guard_message::{MAX_LINE, Message, Reply, parse};
use super::spec::User;
use crate::files::io_error;

/// Most connections at once: a nanny and a worker for each of a node's workers,
/// and some that are about to go.
const PEERS: usize = 256;
/// Time for a hello, and for the write of one line.
const PATIENCE: Duration = Duration::from_secs(10);
/// Malformed lines after which a peer is cut off.
const NONSENSE: usize = 16;
/// Events that may wait for the driver before guards have to wait, too.
const EVENTS: usize = 1024;
/// Calls that may wait for one peer.
const CALLS: usize = 64;

/// The link; clones are the same link. It ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct GuardLink {
    shared: Arc<Shared>,
    _accepting: Arc<Accepting>,
}

#[derive(Debug)]
struct Accepting {
    task: tokio::task::AbortHandle,
    path: PathBuf,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    events: mpsc::Sender<GuardEvent>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    peers: HashMap<u64, Peer>,
    calls: HashMap<u64, (u64, Answer)>,
}

type Answer = oneshot::Sender<Result<Value, ApiError>>;

#[derive(Debug)]
struct Peer {
    kind: PeerKind,
    name: String,
    lines: mpsc::Sender<Vec<u8>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the driver; `false` when there is none any more.
    async fn tell(&self, event: GuardEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

impl GuardLink {
    /// Listens at `path`. Only root, the agent's own user and `user` may connect.
    /// To be called before Dask starts.
    ///
    /// # Errors
    /// [`Code::Usage`] when the path is too long for a socket, or as the file
    /// system says.
    pub fn bind(path: &Path, user: Option<&User>) -> Result<(Self, mpsc::Receiver<GuardEvent>), ApiError> {
        // sockaddr_un has room for 107 bytes.
        if path.as_os_str().len() > 107 {
            return Err(ApiError::new(
                Code::Usage,
                format!("{} is too long for a socket's path", path.display()),
            )
            .with_hint("choose a shorter folder for sockets"));
        }
        // Left by an agent that was killed.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error("remove", path, &e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|e| io_error("listen at", path, &e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| io_error("change the mode of", path, &e))?;
        let mut allowed = vec![0, nix::unistd::geteuid().as_raw()];
        if let Some(user) = user {
            chown(path, Some(user.uid), Some(user.gid)).map_err(|e| io_error("change the owner of", path, &e))?;
            allowed.push(user.uid);
        }
        let (events, received) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            events,
        });
        let task = tokio::spawn(accept(listener, shared.clone(), allowed)).abort_handle();
        let path = path.to_owned();
        let accepting = Arc::new(Accepting { task, path });
        Ok((
            Self {
                shared,
                _accepting: accepting,
            },
            received,
        ))
    }

    /// Asks one process of this kind, the one that connected last. `args` is an
    /// object; its fields go beside `op`.
    ///
    /// # Errors
    /// [`Code::Dask`] when none is connected, goes meanwhile, or answers with an
    /// error; [`Code::Deadline`]; [`Code::TooLarge`].
    pub async fn call(&self, kind: PeerKind, op: &str, args: Value, within: Duration) -> Result<Value, ApiError> {
        let peer = {
            let state = self.shared.state();
            let of_kind = state.peers.iter().filter(|(_, p)| p.kind == kind);
            of_kind.map(|(id, _)| *id).max()
        };
        match peer {
            Some(peer) => self.call_peer(peer, op, args, within).await,
            None => Err(ApiError::new(
                Code::Dask,
                format!("Dask's {} does not run, or its guard is not connected", kind.as_str()),
            )),
        }
    }

    /// Asks all connected processes at the same time. Gives kind, name and
    /// result of each.
    pub async fn call_all(
        &self,
        op: &str,
        args: Value,
        within: Duration,
    ) -> Vec<(PeerKind, String, Result<Value, ApiError>)> {
        let peers: Vec<_> = {
            let state = self.shared.state();
            let all = state.peers.iter();
            all.map(|(id, p)| (*id, p.kind, p.name.clone())).collect()
        };
        let calls = peers.into_iter().map(|(peer, kind, name)| {
            let args = args.clone();
            async move { (kind, name, self.call_peer(peer, op, args, within).await) }
        });
        join_all(calls).await
    }

    /// How many processes of a kind are connected.
    #[must_use]
    pub fn connected(&self, kind: PeerKind) -> usize {
        self.shared.state().peers.values().filter(|p| p.kind == kind).count()
    }

    async fn call_peer(&self, peer: u64, op: &str, args: Value, within: Duration) -> Result<Value, ApiError> {
        let (answer, answered) = oneshot::channel();
        let (id, lines) = {
            let mut state = self.shared.state();
            state.last += 1;
            let id = state.last;
            let Some(lines) = state.peers.get(&peer).map(|p| p.lines.clone()) else {
                return Err(went());
            };
            state.calls.insert(id, (peer, answer));
            (id, lines)
        };
        // Also when this future is dropped, nothing is left in the table.
        let _entry = Entry {
            shared: &self.shared,
            id,
        };
        let line = call_line(id, op, args)?;
        let asked = async {
            lines.send(line).await.map_err(|_| went())?;
            answered.await.map_err(|_| went())?
        };
        match timeout(within, asked).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::new(
                Code::Deadline,
                format!("Dask did not answer `{op}` within {} s", within.as_secs_f32()),
            )),
        }
    }
}

/// A call's place in the table.
struct Entry<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.state().calls.remove(&self.id);
    }
}

fn went() -> ApiError {
    ApiError::new(Code::Dask, "Dask's process went before it answered")
}

fn call_line(id: u64, op: &str, args: Value) -> Result<Vec<u8>, ApiError> {
    let mut call = match args {
        Value::Object(fields) => fields,
        Value::Null => serde_json::Map::new(),
        _ => {
            return Err(ApiError::new(
                Code::Internal,
                format!("arguments of `{op}` are no object"),
            ));
        }
    };
    call.insert("id".into(), id.into());
    call.insert("op".into(), op.into());
    let mut line = json!({ "call": call }).to_string().into_bytes();
    line.push(b'\n');
    // The guard's reader wants room for the end of the line.
    if line.len() >= MAX_LINE {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("call `{op}` of {} bytes; the limit is {MAX_LINE}", line.len()),
        ));
    }
    Ok(line)
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, allowed: Vec<u32>) {
    // Connections end with the link.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, most likely: wait, others may be given back.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
            () = shared.events.closed() => return,
        };
        let uid = stream.peer_cred().map(|c| c.uid());
        if !uid.is_ok_and(|uid| allowed.contains(&uid)) || connections.len() >= PEERS {
            continue;
        }
        connections.spawn(serve(stream, shared.clone()));
    }
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let (from, to) = stream.into_split();
    let (lines, queue) = mpsc::channel(CALLS);
    let peer = {
        let mut state = shared.state();
        state.last += 1;
        state.last
    };
    tokio::select! {
        () = read(from, peer, &shared, lines) => {}
        () = write(to, queue) => {}
    }
    let known = {
        let mut state = shared.state();
        // Dropping the senders tells the callers.
        state.calls.retain(|_, (of, _)| *of != peer);
        state.peers.remove(&peer)
    };
    if let Some(Peer { kind, name, .. }) = known {
        shared.tell(GuardEvent::Gone { peer, kind, name }).await;
    }
}

async fn write(mut to: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = queue.recv().await {
        if !matches!(timeout(PATIENCE, to.write_all(&line)).await, Ok(Ok(()))) {
            return;
        }
    }
    // The reader holds the sender until its hello; after that the table does.
    std::future::pending::<()>().await;
}

/// Reads one line without its end; `None` at the end of the stream, or when the
/// line is too long.
async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut limited = from.take(MAX_LINE as u64);
    limited.read_until(b'\n', &mut line).await.ok()?;
    (line.pop()? == b'\n').then_some(line)
}

async fn read(from: OwnedReadHalf, peer: u64, shared: &Shared, lines: mpsc::Sender<Vec<u8>>) {
    let mut from = BufReader::new(from);
    let mut kind = None;
    let mut lines = Some(lines);
    let mut nonsense = 0;
    loop {
        let next = line(&mut from);
        let got = match kind {
            Some(_) => next.await,
            None => timeout(PATIENCE, next).await.ok().flatten(),
        };
        let Some(got) = got else { return };
        let message = match parse(&got, kind) {
            Ok(message) => message,
            Err(bad) => {
                let (code, message) = ("guard-link".to_owned(), bad.to_string());
                nonsense += 1;
                let last = nonsense >= NONSENSE || kind.is_none();
                // Once is enough for people; the rest is counted.
                if nonsense == 1 && !shared.tell(GuardEvent::Problem { kind, code, message }).await || last {
                    return;
                }
                continue;
            }
        };
        // Before its hello nobody is listened to.
        if kind.is_none() && !matches!(message, Some(Message::Hello(_))) {
            return;
        }
        let event = match message {
            None => continue,
            Some(Message::Hello(hello)) => {
                // A second one would be another process on the same connection.
                let Some(lines) = lines.take() else { return };
                kind = Some(hello.kind);
                let name = hello.name.clone();
                let known = Peer {
                    kind: hello.kind,
                    name,
                    lines,
                };
                shared.state().peers.insert(peer, known);
                GuardEvent::Connected { peer, hello }
            }
            Some(Message::Reply(Reply { id, result })) => {
                answer(shared, peer, id, result);
                continue;
            }
            Some(Message::WorkerAdded(worker)) if kind == Some(PeerKind::Scheduler) => GuardEvent::WorkerAdded(worker),
            Some(Message::WorkerRemoved { name, address }) if kind == Some(PeerKind::Scheduler) => {
                GuardEvent::WorkerRemoved { name, address }
            }
            // Only the scheduler knows of workers.
            Some(Message::WorkerAdded(_) | Message::WorkerRemoved { .. }) => continue,
            Some(Message::Report(report)) => GuardEvent::Report { peer, report },
            Some(Message::Problem { code, message }) => GuardEvent::Problem { kind, code, message },
        };
        if !shared.tell(event).await {
            return;
        }
    }
}

/// Hands an answer to its caller, if the call was made to this very peer.
fn answer(shared: &Shared, peer: u64, id: u64, result: Result<Value, String>) {
    let mut state = shared.state();
    if state.calls.get(&id).is_some_and(|(of, _)| *of == peer)
        && let Some((_, caller)) = state.calls.remove(&id)
    {
        let _ = caller.send(result.map_err(|e| ApiError::new(Code::Dask, format!("Dask: {e}"))));
    }
}

#[cfg(test)]
#[path = "guard_link_tests.rs"]
mod tests;
