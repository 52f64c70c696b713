//! Everything that can happen to a node.

use herdsman_wire::report::DaskHealth;
use herdsman_wire::session::{Down, StreamRequest};
use herdsman_wire::{ApiError, Code};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::dask_side::Ready;
use crate::dask::guard_link::GuardEvent;
use crate::hub::SchedulerCall;
use crate::hub::server::InstallRequest;
use crate::identity::Identity;
use crate::node::session::News;
use crate::service::upgrade::Outcome;

/// A byte stream of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Signals that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Leave in order; a second one: at once.
    Terminate,
    /// End without touching Dask, for the next agent to take over.
    Detach,
}

/// Something that happened.
pub enum Input {
    /// Enrolment or renewal ended.
    Identity(Box<Result<Identity, ApiError>>),
    /// The environment is ready, or not.
    Environment(Result<Ready, ApiError>),
    /// Dask's process changed its state.
    Dask(DaskHealth),
    /// Dask's guard told something.
    Guard(GuardEvent),
    /// The session with the hub.
    Session(News),
    /// A message of the hub for this node, when the hub is in this process.
    Down(Down),
    /// A stream to serve.
    Stream(StreamRequest, Box<dyn Io>),
    /// The launcher installs this hub.
    Install(InstallRequest),
    /// The hub asks Dask's scheduler.
    Call(SchedulerCall),
    /// Another agent is in this one's place, or not; with the command's number.
    Upgraded(u64, Result<Outcome, ApiError>),
    /// A signal.
    Signal(Signal),
    /// Dask's process tree is gone, as asked.
    Ended,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Identity(_) => "identity",
            Self::Environment(_) => "environment",
            Self::Dask(_) => "dask",
            Self::Guard(_) => "guard",
            Self::Session(_) => "session",
            Self::Down(_) => "down",
            Self::Stream(..) => "stream",
            Self::Install(_) => "install",
            Self::Call(_) => "call",
            Self::Upgraded(..) => "upgraded",
            Self::Signal(_) => "signal",
            Self::Ended => "ended",
        };
        f.write_str(name)
    }
}

/// Turns signals into inputs.
///
/// # Errors
/// When the system refuses the handlers.
pub(super) fn signals(inputs: mpsc::Sender<Input>) -> Result<(), ApiError> {
    let watch = |kind| signal(kind).map_err(|e| ApiError::new(Code::Internal, format!("signal handler: {e}")));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut detach = watch(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::Terminate,
                _ = interrupt.recv() => Signal::Terminate,
                _ = detach.recv() => Signal::Detach,
            };
            if inputs.send(Input::Signal(signal)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
