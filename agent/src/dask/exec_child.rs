//! The step between the agent's child and the supervised program: this binary
//! again, under a hidden subcommand. It waits for its instructions, gives up
//! rights and becomes the program, all with safe calls and before any thread.
//!
//! Order matters: the group is joined and limits are raised while the rights for
//! it are there; the user changes after that; `no_new_privs` comes last.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

use super::spec::{Instructions, User};

/// The hidden subcommand of the agent's binary.
pub const SUBCOMMAND: &str = "exec-child";

/// Exit code when no instructions came: the agent died before it sent them.
pub const ABANDONED: u8 = 125;
/// Exit code when the program could not be prepared or started.
pub const CANNOT_START: u8 = 126;
/// Exit code when the program is not there.
pub const NOT_FOUND: u8 = 127;

/// Largest instructions, bytes; environments are bounded by the kernel anyway.
const MAX_INSTRUCTIONS: u64 = 8 << 20;

/// Reads instructions from standard input to its end and becomes the program.
/// Comes back only with a failure, told in one line on standard error.
#[must_use]
pub fn run() -> ExitCode {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INSTRUCTIONS).read_to_end(&mut text);
    // Cut instructions are those of an agent that died while it wrote them.
    let Some(instructions) = read.ok().and_then(|_| serde_json::from_slice(&text).ok()) else {
        return fail(ABANDONED, "the agent ended before it gave instructions");
    };
    // Holds secrets; what is left in freed memory goes with the exec.
    zeroize::Zeroize::zeroize(&mut text);
    let (code, why) = become_program(&instructions);
    fail(code, &why)
}

fn fail(code: u8, why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "herdsman-agent: {why}");
    ExitCode::from(code)
}

fn become_program(i: &Instructions) -> (u8, String) {
    if let Err(why) = prepare(i) {
        return (CANNOT_START, why);
    }
    // `exec` also gives SIGPIPE and the signal mask their defaults back.
    let error = Command::new(&i.program)
        .args(&i.args)
        .env_clear()
        .envs(i.env.iter().map(|(name, value)| (name, value.reveal())))
        .stdin(Stdio::null())
        .exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        CANNOT_START
    };
    let whose = i
        .user
        .as_ref()
        .map_or_else(String::new, |u| format!(" as user {}", u.uid));
    (code, format!("cannot start {}{whose}: {error}", i.program.display()))
}

fn prepare(i: &Instructions) -> Result<(), String> {
    if let Some(group) = &i.cgroup {
        let file = group.join("cgroup.procs");
        write_existing(&file, "0").map_err(|e| format!("cannot join the control group {}: {e}", group.display()))?;
    }
    // A session of its own: no terminal, and no signal that is meant for the agent's group.
    nix::unistd::setsid().map_err(|e| format!("cannot start a session: {e}"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(i.umask));
    limit_files(i.nofile)?;
    // Raising it needs no rights, lowering does; a refusal is no reason not to start.
    let _ = write_existing(
        Path::new("/proc/self/oom_score_adj"),
        &i.oom_score.clamp(-1000, 1000).to_string(),
    );
    if let Some(user) = &i.user {
        become_user(user)?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|e| format!("cannot set no_new_privs: {e}"))?;
    std::env::set_current_dir(&i.cwd).map_err(|e| format!("cannot change to {}: {e}", i.cwd.display()))
}

/// Writes into a file of the kernel's, which is never created.
fn write_existing(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn limit_files(wanted: Option<u64>) -> Result<(), String> {
    let failed = |e: nix::Error| format!("cannot set the limit of open files: {e}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let wanted = wanted.unwrap_or(hard);
    // Above the hard limit only root may go, and not above the kernel's own.
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).map_err(failed)
}

fn become_user(user: &User) -> Result<(), String> {
    let own = nix::unistd::geteuid();
    if !own.is_root() && own.as_raw() == user.uid {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (user.uid, user.gid);
    nix::unistd::setgroups(&groups).map_err(|e| format!("cannot set the groups of user {uid}: {e}"))?;
    nix::unistd::setgid(Gid::from_raw(gid)).map_err(|e| format!("cannot become group {gid}: {e}"))?;
    nix::unistd::setuid(Uid::from_raw(uid)).map_err(|e| format!("cannot become user {uid}: {e}"))
}
