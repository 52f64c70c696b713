//! Streams that a node serves: its logs, and a command's input and output.

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use herdsman_wire::session::ExecFrame;
use herdsman_wire::{ApiError, Code};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::frame;

/// Where and as what commands run.
#[derive(Clone, Debug)]
pub struct ExecSettings {
    /// Folders before the machine's own `PATH`: the environment's programs.
    pub path: Vec<PathBuf>,
    /// Working folder.
    pub cwd: PathBuf,
    /// Further environment.
    pub variables: Vec<(String, String)>,
    /// User and group that it runs as; absent: the agent's own.
    pub user: Option<(u32, u32)>,
}

const CHUNK: usize = 32 * 1024;

/// Runs a command and carries its three streams and its end over `io`. When the
/// other side goes, the command is killed.
pub async fn exec<IO: AsyncRead + AsyncWrite>(io: IO, argv: &[String], settings: &ExecSettings) {
    let (mut from, mut to) = tokio::io::split(io);
    let mut child = match spawn(argv, settings) {
        Ok(child) => child,
        Err(e) => {
            let _ = frame::write(&mut to, &ExecFrame::Failed(e)).await;
            return;
        }
    };
    let (tx, mut rx) = mpsc::channel::<ExecFrame>(16);
    let mut stdin = child.stdin.take();
    let out = pump(child.stdout.take(), tx.clone(), ExecFrame::Stdout);
    let err = pump(child.stderr.take(), tx.clone(), ExecFrame::Stderr);
    let input = async {
        while let Ok(Some(message)) = frame::read::<ExecFrame>(&mut from).await {
            let ExecFrame::Stdin(text) = message else { continue };
            let bytes = STANDARD.decode(text).unwrap_or_default();
            if bytes.is_empty() {
                stdin = None;
            } else if let Some(pipe) = &mut stdin
                && pipe.write_all(&bytes).await.is_err()
            {
                stdin = None;
            }
        }
    };
    let run = async {
        let ((), (), status) = tokio::join!(out, err, child.wait());
        let code = match status {
            Ok(s) => s.code().unwrap_or_else(|| {
                use std::os::unix::process::ExitStatusExt;
                128 + s.signal().unwrap_or(0)
            }),
            Err(_) => 125,
        };
        let _ = tx.send(ExecFrame::Exit(code)).await;
        drop(tx);
        std::future::pending::<()>().await;
    };
    let output = async {
        while let Some(message) = rx.recv().await {
            let last = matches!(message, ExecFrame::Exit(_));
            if frame::write(&mut to, &message).await.is_err() || last {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::select! {
        () = output => {}
        () = run => {}
        () = input => {}
    }
    // kill_on_drop ends the command when the operator went first.
}

fn spawn(argv: &[String], settings: &ExecSettings) -> Result<tokio::process::Child, ApiError> {
    let (program, args) = argv
        .split_first()
        .ok_or_else(|| ApiError::new(Code::Usage, "no command was given"))?;
    let system = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let path = std::env::join_paths(settings.path.iter().cloned().chain(std::env::split_paths(&system)))
        .map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", path)
        .envs(settings.variables.iter().map(|(k, v)| (k, v)))
        .current_dir(&settings.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = settings.user {
        command.uid(uid).gid(gid);
    }
    command
        .spawn()
        .map_err(|e| ApiError::new(Code::NotFound, format!("cannot run `{program}`: {e}")))
}

async fn pump(from: Option<impl AsyncRead + Unpin>, to: mpsc::Sender<ExecFrame>, make: impl Fn(String) -> ExecFrame) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 || to.send(make(STANDARD.encode(&chunk[..n]))).await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ExecSettings {
        ExecSettings {
            path: vec![],
            cwd: "/".into(),
            variables: vec![("GREETING".into(), "hi".into())],
            user: None,
        }
    }

    async fn run(argv: &[&str], input: &[u8]) -> (Vec<u8>, Vec<u8>, Option<ExecFrame>) {
        let argv: Vec<String> = argv.iter().map(|s| (*s).to_owned()).collect();
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        let task = tokio::spawn(async move { exec(theirs, &argv, &settings()).await });
        frame::write(&mut ours, &ExecFrame::Stdin(STANDARD.encode(input)))
            .await
            .unwrap();
        frame::write(&mut ours, &ExecFrame::Stdin(String::new())).await.unwrap();
        let (mut out, mut err, mut end) = (vec![], vec![], None);
        while let Some(f) = frame::read::<ExecFrame>(&mut ours).await.unwrap() {
            match f {
                ExecFrame::Stdout(t) => out.extend(STANDARD.decode(t).unwrap()),
                ExecFrame::Stderr(t) => err.extend(STANDARD.decode(t).unwrap()),
                other => end = Some(other),
            }
        }
        task.await.unwrap();
        (out, err, end)
    }

    #[tokio::test]
    async fn carries_all_three_streams_and_the_code() {
        let (out, err, end) = run(&["sh", "-c", "cat; echo $GREETING >&2; exit 7"], b"abc").await;
        assert_eq!(
            (out.as_slice(), err.as_slice()),
            (b"abc".as_slice(), b"hi\n".as_slice())
        );
        assert_eq!(end, Some(ExecFrame::Exit(7)));
        let (_, _, end) = run(&["sh", "-c", "kill -TERM $$"], b"").await;
        assert_eq!(end, Some(ExecFrame::Exit(143)));
        let (_, _, end) = run(&["no-such-program-anywhere"], b"").await;
        assert!(matches!(end, Some(ExecFrame::Failed(e)) if e.code == Code::NotFound));
    }
}
