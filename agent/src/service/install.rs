//! `herdsman-agent install`: makes this machine, or an image of one, run the
//! agent as a service. May be run again at any time.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use herdsman_wire::join::Paths;
use herdsman_wire::{ApiError, Code};

use super::{accounts, unit};
use crate::files::{io_error, write_mode};

const USAGE: &str = "usage: herdsman-agent install [--root DIR] [--no-start]\n";

/// Largest agent that copies itself, bytes; ours has a tenth of it, a build for
/// debugging more.
const PROGRAM_MAX: usize = 512 << 20;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    root: PathBuf,
    start: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut options = Self {
            root: "/".into(),
            start: true,
        };
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--no-start") => options.start = false,
                Some("--root") => {
                    options.root = args.next()?.into();
                    options.start = false;
                }
                _ => return None,
            }
        }
        options.root.is_absolute().then_some(options)
    }
}

/// Runs the command; says in one line what is wrong.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut err = std::io::stderr();
    let Some(options) = Options::parse(args) else {
        let _ = err.write_all(USAGE.as_bytes());
        return ExitCode::from(2);
    };
    match install(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(err, "herdsman-agent: {}", e.message);
            for hint in &e.hint {
                let _ = writeln!(err, "try: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn install(options: &Options) -> Result<(), ApiError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ApiError::new(Code::Usage, "only root can install the agent"));
    }
    let root = options.root.as_path();
    let user = accounts::ensure(root)?;
    let paths = Paths::default();
    for (folder, mode) in [
        // Passable for Dask, whose own folders are below; what is not Dask's is 0600.
        (paths.state.as_path(), 0o711),
        (Path::new("/opt/herdsman"), 0o755),
        (Path::new("/opt/herdsman/bin"), 0o755),
        (paths.environments.as_path(), 0o755),
        (Path::new(unit::FOLDER), 0o755),
    ] {
        make(&below(root, folder), mode)?;
    }
    let home = below(root, Path::new(accounts::HOME));
    make(&home, 0o700)?;
    chown(&home, Some(user.uid), Some(user.gid)).map_err(|e| io_error("change the owner of", &home, &e))?;
    program(root)?;
    let folder = below(root, Path::new(unit::FOLDER));
    write_mode(&folder.join(unit::NAME), unit::TEXT.as_bytes(), 0o644)?;
    enable(&folder)?;
    if options.start { start() } else { Ok(()) }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Folders that are there keep their mode, but for our own ones.
fn make(path: &Path, mode: u32) -> Result<(), ApiError> {
    let existed = path.is_dir();
    std::fs::create_dir_all(path).map_err(|e| io_error("make the folder", path, &e))?;
    if existed && !path.to_string_lossy().contains("herdsman") {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| io_error("change the mode of", path, &e))
}

/// This program at its place, unless it is there.
fn program(root: &Path) -> Result<(), ApiError> {
    let to = below(root, Path::new(unit::PROGRAM));
    let own = std::env::current_exe().map_err(|e| ApiError::new(Code::Internal, format!("our own program: {e}")))?;
    if to.canonicalize().ok() == own.canonicalize().ok() && to.exists() {
        return Ok(());
    }
    let bytes = crate::files::read_limited(&own, PROGRAM_MAX)?
        .ok_or_else(|| ApiError::new(Code::Internal, "our own program is gone"))?;
    if let Some(folder) = to.parent() {
        make(folder, 0o755)?;
    }
    write_mode(&to, &bytes, 0o755)?;
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))
        .map_err(|e| io_error("change the mode of", &to, &e))
}

/// As `systemctl enable` does, which an image that is not running cannot be asked for.
fn enable(folder: &Path) -> Result<(), ApiError> {
    let wants = folder.join(unit::TARGET);
    make(&wants, 0o755)?;
    let link = wants.join(unit::NAME);
    match symlink(Path::new(unit::FOLDER).join(unit::NAME), &link) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io_error("write", &link, &e)),
        _ => Ok(()),
    }
}

fn start() -> Result<(), ApiError> {
    // The folder that systemd itself says to look for, see sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(ApiError::new(
            Code::Usage,
            "the agent is installed, but this machine does not run systemd",
        )
        .with_hint("herdsman-agent run          starts it by hand"));
    }
    systemctl(&["daemon-reload"])?;
    // Not waited for: what runs user-data may itself be waited for by others.
    systemctl(&["start", "--no-block", unit::NAME])
}

fn systemctl(args: &[&str]) -> Result<(), ApiError> {
    let failed = |why: String| ApiError::new(Code::Internal, format!("systemctl {}: {why}", args.join(" ")));
    let output = Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Option<Options> {
        Options::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn options_are_read() {
        let both = parse(&["--root", "/image"]).unwrap();
        assert_eq!((both.root.as_path(), both.start), (Path::new("/image"), false));
        assert!(parse(&[]).unwrap().start);
        assert!(!parse(&["--no-start"]).unwrap().start);
        for bad in [&["--root"][..], &["--root", "here"], &["x"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_image_gets_all_it_needs_and_nothing_twice() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may give files away");
            return;
        }
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let options = Options {
            root: dir.path().to_owned(),
            start: false,
        };
        install(&options).unwrap();
        install(&options).unwrap();
        let meta = |p: &str| std::fs::metadata(dir.path().join(p)).unwrap();
        assert_eq!(meta("usr/local/bin/herdsman-agent").mode() & 0o7777, 0o755);
        assert_eq!(meta("var/lib/herdsman").mode() & 0o7777, 0o711);
        assert_eq!(meta("var/lib/herdsman/home").mode() & 0o7777, 0o700);
        assert_eq!(meta("var/lib/herdsman/home").uid(), 999);
        let unit = dir.path().join("etc/systemd/system");
        let link = std::fs::read_link(unit.join("multi-user.target.wants/herdsman-agent.service")).unwrap();
        assert_eq!(link, Path::new("/etc/systemd/system/herdsman-agent.service"));
        assert!(unit.join(unit::NAME).is_file());
    }
}
