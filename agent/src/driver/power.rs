//! Powering the machine off when its node has ended for good. A machine that does
//! nothing still costs money.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::Timestamp;
use herdsman_wire::join::{AtEnd, JoinConfig};
use herdsman_wire::limits::BOOTSTRAP_LIFE_MAX;
use nix::sys::reboot::{RebootMode, reboot};
use tokio::signal::unix::{SignalKind, signal};

/// systemd's own mark that it runs the machine.
const SYSTEMD: &str = "/run/systemd/system";
/// Where distributions have it; `PATH` is not to be trusted with this.
const SYSTEMCTL: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];
/// systemd takes the order at once and the machine ends later.
const ORDER: Duration = Duration::from_secs(30);

/// Whether a node's machine is powered off at its end.
pub(super) fn is_wanted(at_end: &AtEnd, has_machine: bool) -> bool {
    at_end.power_off.unwrap_or(has_machine)
}

/// Keeps a machine whose node was refused up until its deadline, so that its user can
/// look at it. `false` when somebody ended the agent meanwhile.
pub(super) async fn linger(join: &JoinConfig) -> bool {
    let left = left(join.deadline, Timestamp::now());
    if left.is_zero() {
        return true;
    }
    tracing::info!(
        "this machine stays up for {} s to be looked at, then it is powered off",
        left.as_secs()
    );
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return false;
    };
    tokio::select! {
        () = tokio::time::sleep(left) => true,
        _ = terminate.recv() => false,
    }
}

/// Until a deadline, by a clock that may be why the node was refused: no deadline is
/// further off than a bootstrap certificate lives.
fn left(deadline: Timestamp, now: Timestamp) -> Duration {
    deadline.since(now).min(BOOTSTRAP_LIFE_MAX)
}

/// Powers the machine off: by systemd, so that everything on it ends in order, or
/// where there is none by the kernel.
pub(super) async fn off(why: &str) {
    tracing::warn!("powering this machine off: {why}");
    if Path::new(SYSTEMD).is_dir() {
        match by_systemd().await {
            Ok(()) => return,
            Err(e) => tracing::error!("systemd does not power off: {e}"),
        }
    }
    nix::unistd::sync();
    // Comes back only with an error.
    let Err(e) = reboot(RebootMode::RB_POWER_OFF);
    tracing::error!("this machine cannot be powered off and goes on costing money: {e}");
}

async fn by_systemd() -> std::io::Result<()> {
    let program = SYSTEMCTL.iter().find(|p| Path::new(p).is_file());
    let program = program.ok_or(std::io::ErrorKind::NotFound)?;
    let order = tokio::process::Command::new(program)
        .args(["--no-block", "--no-ask-password", "poweroff"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let status = tokio::time::timeout(ORDER, order).await.map_err(|_| late())??;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("systemctl ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_clock_keeps_no_machine_for_hours() {
        let (now, minute) = (Timestamp::now(), Duration::from_secs(60));
        assert_eq!(left(now.plus(minute), now), minute);
        assert_eq!(left(now.minus(minute), now), Duration::ZERO);
        assert_eq!(left(now.plus(140 * minute), now), BOOTSTRAP_LIFE_MAX);
    }

    #[test]
    fn machines_are_powered_off_and_folders_are_not_unless_asked() {
        let asked = |power_off| AtEnd {
            power_off,
            no_contact_seconds: None,
        };
        assert!(is_wanted(&asked(None), true));
        assert!(!is_wanted(&asked(None), false));
        assert!(is_wanted(&asked(Some(true)), false));
        assert!(!is_wanted(&asked(Some(false)), true));
    }
}
