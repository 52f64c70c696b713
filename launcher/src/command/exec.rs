//! `herdsman exec`: a command on a node, through the hub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herdsman_wire::report::ClusterStatus;
use herdsman_wire::session::{ExecFrame, StreamRequest};
use herdsman_wire::{ApiError, Code, NodeName, Role};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::cli::ExecArgs;
use super::context::Session;
use super::signals::interruptible;
use crate::link::{Link, SOON, frame};
use crate::ui::Error;

/// Exit code when the command never ran, as docker and ssh have it.
const NOT_RUN: u8 = 125;
/// Bytes of input in one frame.
const CHUNK: usize = 32 * 1024;

pub(super) async fn run(session: &Session, args: &ExecArgs) -> Result<u8, Error> {
    match interruptible(exec(session, args)).await {
        Ok(code) => Ok(code),
        Err(e) if e.exit.is_interrupted() => Err(e),
        Err(e) => {
            session.printer.error(&e);
            Ok(NOT_RUN)
        }
    }
}

async fn exec(session: &Session, args: &ExecArgs) -> Result<u8, Error> {
    let (_, access) = session.open(args.name.as_ref()).await?;
    let nodes = nodes(&access.link, args).await?;
    let many = nodes.len() > 1;
    let mut worst = 0;
    for node in nodes {
        if many {
            session.printer.note(&format!("== {node}"));
        }
        let code = one(&access.link, &node, &args.command, !many).await?;
        worst = worst.max(code);
    }
    Ok(worst)
}

async fn nodes(link: &Link, args: &ExecArgs) -> Result<Vec<NodeName>, Error> {
    if let Some(node) = &args.node {
        return Ok(vec![node.clone()]);
    }
    let status: ClusterStatus = link.get("/v1/status", SOON).await?;
    let wanted = |role| args.all || role == Role::Scheduler;
    Ok(status
        .nodes
        .into_iter()
        .filter(|n| wanted(n.role) && n.seen.is_some())
        .map(|n| n.name)
        .collect())
}

async fn one(link: &Link, node: &NodeName, command: &[String], with_input: bool) -> Result<u8, Error> {
    let request = StreamRequest::Exec { argv: command.to_vec() };
    let io = link.node_stream(node, &request).await?;
    let (mut from, mut to) = tokio::io::split(io);
    let (tx, mut rx) = mpsc::channel::<Vec<u8>>(4);
    if with_input {
        tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut chunk = vec![0; CHUNK];
            while let Ok(n) = stdin.read(&mut chunk).await {
                if tx.send(chunk[..n].to_vec()).await.is_err() || n == 0 {
                    return;
                }
            }
        });
    } else {
        let _ = tx.send(Vec::new()).await;
    }
    let input = async {
        while let Some(bytes) = rx.recv().await {
            let last = bytes.is_empty();
            let sent = frame::write(&mut to, &ExecFrame::Stdin(STANDARD.encode(bytes))).await;
            if last || sent.is_err() {
                break;
            }
        }
        // The stream stays open for the output.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        code = output(&mut from) => code,
        () = input => Ok(NOT_RUN),
    }
}

async fn output(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<u8, Error> {
    let broken = || ApiError::new(Code::Unreachable, "the connection broke before the command ended");
    loop {
        match frame::read(from).await?.ok_or_else(broken)? {
            ExecFrame::Stdout(text) => write(&mut std::io::stdout().lock(), &text)?,
            ExecFrame::Stderr(text) => write(&mut std::io::stderr().lock(), &text)?,
            ExecFrame::Exit(code) => return Ok(u8::try_from(code & 0xff).unwrap_or(NOT_RUN)),
            ExecFrame::Failed(e) => return Err(e.into()),
            ExecFrame::Stdin(_) => {}
        }
    }
}

fn write(to: &mut impl std::io::Write, text: &str) -> Result<(), Error> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|e| Error::new(Code::Malformed, format!("output of the command: {e}")))?;
    // A reader that went away is no failure of the command.
    let _ = to.write_all(&bytes).and_then(|()| to.flush());
    Ok(())
}
