//! The systemd unit.

/// Name of the unit.
pub const NAME: &str = "herdsman-agent.service";
/// Where the agent lies on a machine.
pub const PROGRAM: &str = "/usr/local/bin/herdsman-agent";
/// Folder of units that an administrator, here us, puts on a machine.
pub const FOLDER: &str = "/etc/systemd/system";
/// What the unit is started by.
pub const TARGET: &str = "multi-user.target.wants";

/// An agent that hangs for this long is killed and started again; seconds.
pub const WATCHDOG: u64 = 60;

/// The unit's text.
///
/// Left out on purpose: `MemoryDenyWriteExecute` (numba), `PrivateDevices` and
/// `ProtectClock` (GPUs: any list of devices closes the rest), `PrivateTmp`
/// (removed under a running Dask when the agent restarts), `PrivateUsers` (the
/// agent gives files away).
pub const TEXT: &str = include_str!("herdsman-agent.service");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_and_spares_dask() {
        for line in [
            &format!("ExecStart={PROGRAM} run"),
            &format!("ExecStartPre=+-{PROGRAM} {}", crate::source::seed::SUBCOMMAND),
            "KillMode=process",
            "Delegate=yes",
            "NoNewPrivileges=yes",
            "RestartPreventExitStatus=3",
        ] {
            assert!(TEXT.lines().any(|l| l == line), "{line}");
        }
        assert!(TEXT.lines().all(|l| !l.starts_with("PrivateTmp")));
    }
}
