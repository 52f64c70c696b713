//! The systemd unit.

use std::path::Path;

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

/// The unit's text for an agent at `program`.
///
/// Left out on purpose: `MemoryDenyWriteExecute` (numba), `PrivateDevices` and
/// `ProtectClock` (GPUs: any list of devices closes the rest), `PrivateTmp`
/// (removed under a running Dask when the agent restarts), `PrivateUsers` (the
/// agent gives files away).
#[must_use]
pub fn text(program: &Path) -> String {
    let program = program.display();
    format!(
        "\
[Unit]
Description=herdsman agent: this machine as a node of a Dask cluster
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStartPre=-{program} guard-upgrade
ExecStart={program} run
Restart=on-failure
RestartSec=2
# A configuration that is refused is not better the second time.
RestartPreventExitStatus=3
# A restart is no goodbye: the agent lets go of Dask, and the next one takes it over.
RestartKillSignal=SIGUSR1
KillMode=process
# Longer, for as long as the agent says that it is at work.
TimeoutStopSec=60
StandardOutput=journal+console
StandardError=journal+console
SyslogIdentifier=herdsman-agent
UMask=0022
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-900
OOMPolicy=continue
# The rest keeps the machine alive when Dask asks for more than there is.
MemoryMax=95%
Delegate=yes

NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_ADMIN CAP_SETGID CAP_SETUID CAP_SYS_PTRACE CAP_SYS_RESOURCE
LockPersonality=yes
ProtectControlGroups=no
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=full
ReadWritePaths=-/usr/local/bin
RemoveIPC=no
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap

[Install]
WantedBy=multi-user.target
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_and_spares_dask() {
        let unit = text(Path::new(PROGRAM));
        for line in [
            "ExecStart=/usr/local/bin/herdsman-agent run",
            "KillMode=process",
            "Delegate=yes",
            "NoNewPrivileges=yes",
            "RestartPreventExitStatus=3",
        ] {
            assert!(unit.lines().any(|l| l == line), "{line}");
        }
        assert!(unit.lines().all(|l| !l.starts_with("PrivateTmp")));
    }
}
