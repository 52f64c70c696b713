//! Ctrl-C while something is being made or waited for.

use herdsman_wire::Code;

use crate::ui::{Error, Exit};

/// Runs `work` until it ends or the user interrupts it; then what was under way
/// is dropped.
///
/// # Errors
/// Those of `work`, or [`Code::Interrupted`].
pub(super) async fn interruptible<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        result = work => result,
        (signal, exit) = interrupted() => Err(Error::new(Code::Interrupted, format!("interrupted ({signal})")).with_exit(exit)),
    }
}

#[cfg(unix)]
async fn interrupted() -> (&'static str, Exit) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => ("Ctrl-C", Exit::Interrupted),
        _ = term.recv() => ("SIGTERM", Exit::Terminated),
        _ = hup.recv() => ("the terminal was closed", Exit::Interrupted),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> (&'static str, Exit) {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    ("Ctrl-C", Exit::Interrupted)
}
