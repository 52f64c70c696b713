//! Calling the user's programs: one JSON document on standard input, the answer
//! on standard output, a deadline, and no shell.
//!
//! ```text
//! in    {"version": 1, "verb": "create", "cluster": {"name": "demo", "id": "…"},
//!        "node": "demo-w0", "role": "worker", "id": null, "tags": {…},
//!        "user_data": "/path/of/a/file"}
//! out   create   {"id": "i-0a1", "address": "10.0.0.5", "public_address": null}
//!       list     {"machines": [{"id", "node", "address", "running", "tags"}]}
//!       delete   nothing; done when the machine is gone, or was
//!       console  text
//! ```
//!
//! An exit code other than 0 is a failure, and standard error says why.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::{ClusterName, Code, NodeName, Role};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::super::{ClusterRef, Machine, ProviderError, Tags};
use super::fail;
use super::record::Remembered;

/// Version of the documents.
const VERSION: u32 = 1;
/// No answer of ours is near this large.
const OUT_MAX: u64 = 4 * 1024 * 1024;
/// Of what a program says of its failure, the end.
const ERR_MAX: usize = 4096;
/// Of an answer that is none, the beginning.
const SHOWN: usize = 200;
/// A program that has ended may leave children that hold its output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a program shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Create,
    Delete,
    List,
    Console,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Console => "console",
        }
    }
}

/// What a program is told.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Request<'a> {
    version: u32,
    verb: Verb,
    cluster: Option<&'a ClusterRef>,
    node: Option<&'a NodeName>,
    role: Option<Role>,
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_data: Option<&'a Path>,
}

impl<'a> Request<'a> {
    /// To make what is remembered.
    pub(super) fn create(record: &'a Remembered) -> Self {
        Self {
            version: VERSION,
            verb: Verb::Create,
            cluster: Some(&record.cluster),
            node: Some(&record.node),
            role: Some(record.role),
            id: record.id.as_deref(),
            tags: record.tags.clone(),
            user_data: Some(&record.user_data),
        }
    }

    /// All machines of ours.
    pub(super) const fn list(cluster: Option<&'a ClusterRef>) -> Self {
        Self {
            version: VERSION,
            verb: Verb::List,
            cluster,
            node: None,
            role: None,
            id: None,
            tags: Tags::new(),
            user_data: None,
        }
    }

    /// About a machine. Its id is only told where the program gave it.
    pub(super) fn of_machine(verb: Verb, machine: &'a Machine, record: Option<&'a Remembered>) -> Self {
        let known = record.map_or(Some(machine.id.as_str()), |r| r.id.as_deref());
        Self {
            version: VERSION,
            verb,
            cluster: Some(&machine.cluster),
            node: Some(&machine.node),
            role: Some(machine.role),
            id: known,
            tags: machine.tags.clone(),
            user_data: None,
        }
    }

    fn what(&self) -> String {
        match self.node {
            Some(node) => format!("`{}` for {node}", self.verb.as_str()),
            None => format!("`{}`", self.verb.as_str()),
        }
    }
}

/// Answer of `create`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Created {
    pub(super) id: String,
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    #[serde(default)]
    pub(super) public_address: Option<IpAddr>,
}

/// Answer of `list`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) machines: Vec<ListedMachine>,
}

/// One machine of it. Tags are needed where this computer remembers nothing.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ListedMachine {
    pub(super) id: String,
    pub(super) node: NodeName,
    #[serde(default)]
    pub(super) cluster: Option<ClusterName>,
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    #[serde(default)]
    pub(super) public_address: Option<IpAddr>,
    #[serde(default = "yes")]
    pub(super) running: bool,
    #[serde(default)]
    pub(super) tags: Tags,
}

const fn yes() -> bool {
    true
}

/// Calls a program whose answer is a document.
///
/// # Errors
/// `E-PROVIDER` with the program's words, `E-DEADLINE` when it took too long.
pub(super) async fn json<T: DeserializeOwned>(
    argv: &[String],
    request: &Request<'_>,
    within: Duration,
) -> Result<T, ProviderError> {
    let text = text(argv, request, within).await?;
    serde_json::from_str(&text).map_err(|e| {
        let shown: String = text.trim().chars().take(SHOWN).collect();
        let shown = if shown.is_empty() {
            "nothing".to_owned()
        } else {
            format!("{shown:?}")
        };
        ProviderError {
            hint: vec![format!(
                "it must answer one JSON document on standard output, such as {}",
                match request.verb {
                    Verb::List => r#"{"machines": []}"#,
                    _ => r#"{"id": "m1", "address": "10.0.0.5"}"#,
                }
            )],
            ..fail(
                Code::Provider,
                format!("{} ({}) answered {shown}: {e}", request.what(), name(argv)),
            )
        }
    })
}

/// Calls a program; gives what it printed.
///
/// # Errors
/// As [`json`].
pub(super) async fn text(argv: &[String], request: &Request<'_>, within: Duration) -> Result<String, ProviderError> {
    let what = format!("{} ({})", request.what(), name(argv));
    let document = serde_json::to_vec(request).map_err(|e| fail(Code::Internal, e.to_string()))?;
    let mut running = Running::start(argv).map_err(|e| ProviderError {
        hint: vec!["check the program's name in the table [manual]".into()],
        ..fail(Code::NotFound, format!("{what} cannot be started: {e}"))
    })?;
    let (out, err, status) = match tokio::time::timeout(within, running.finish(&document)).await {
        Ok(done) => done.map_err(|e| fail(Code::Provider, format!("{what}: {e}")))?,
        Err(_) => {
            return Err(ProviderError {
                hint: vec!["give it longer with manual.timeout, or see what it waits for".into()],
                ..fail(
                    Code::Deadline,
                    format!("{what} did not end within {} s and was ended", within.as_secs()),
                )
            });
        }
    };
    if status.success() {
        return Ok(out);
    }
    let said = err.trim();
    let said = if said.is_empty() {
        "it said nothing on standard error".to_owned()
    } else {
        said.replace('\n', "\n  ")
    };
    Err(fail(Code::Provider, format!("{what} ended with {status}: {said}")))
}

/// The program without its arguments, which may hold what is nobody's business.
fn name(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}

/// A program and whatever it starts: all of it ends when this is dropped before
/// the program has ended.
struct Running {
    child: Child,
    #[cfg(unix)]
    group: Option<nix::unistd::Pid>,
}

impl Running {
    fn start(argv: &[String]) -> std::io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own: Ctrl-C is ours to hear, and children can be ended.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        Ok(Self {
            #[cfg(unix)]
            group: child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(nix::unistd::Pid::from_raw),
            child,
        })
    }

    async fn finish(&mut self, document: &[u8]) -> std::io::Result<(String, String, std::process::ExitStatus)> {
        let (stdin, stdout, stderr) = (
            self.child.stdin.take(),
            self.child.stdout.take(),
            self.child.stderr.take(),
        );
        let mut out = Vec::new();
        let mut err = Vec::new();
        let status = {
            let send = async {
                if let Some(mut stdin) = stdin {
                    // One that reads nothing may still do its work.
                    let _ = stdin.write_all(document).await;
                }
            };
            let mut streams =
                Box::pin(async { tokio::join!(send, read_all(stdout, &mut out), read_end(stderr, &mut err)) });
            tokio::select! {
                status = self.child.wait() => {
                    let _ = tokio::time::timeout(LAST_WORDS, &mut streams).await;
                    status?
                }
                _ = &mut streams => self.child.wait().await?,
            }
        };
        // What it has started on purpose, a machine perhaps, lives on.
        #[cfg(unix)]
        {
            self.group = None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&out), text(&err), status))
    }
}

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        // The leader is not reaped yet, so the number is still its group's.
        if let Some(group) = self.group {
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(from) = from {
        let _ = from.take(OUT_MAX).read_to_end(into).await;
    }
}

/// The last of what a stream says.
async fn read_end(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        into.extend_from_slice(&buffer[..n]);
        let over = into.len().saturating_sub(ERR_MAX);
        into.drain(..over);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_document_goes_in_and_the_answer_comes_out() {
        let script = r#"read -r d; case $d in *'"version":1,"verb":"list"'*) echo '{"machines": []}' ;; esac"#;
        let listed: Listed = json(&sh(script), &Request::list(None), LONG).await.unwrap();
        assert!(listed.machines.is_empty());
        // One that reads nothing, and one that prints much on both.
        assert_eq!(text(&sh("echo x"), &Request::list(None), LONG).await.unwrap(), "x\n");
        let much = "i=0; while [ $i -lt 20000 ]; do echo aaaaaaaaaaaaaaaa; echo bbbbbbbb >&2; i=$((i+1)); done";
        let out = text(&sh(much), &Request::list(None), LONG).await.unwrap();
        assert_eq!(out.len(), 20000 * 17);
    }

    #[tokio::test]
    async fn failures_have_the_programs_own_words() {
        let e = text(&sh("echo no more credit >&2; exit 3"), &Request::list(None), LONG).await;
        let e = e.unwrap_err();
        assert_eq!(e.code, Code::Provider);
        assert!(
            e.message.contains("exit status: 3") && e.message.contains("no more credit"),
            "{e}"
        );
        for (script, wanted) in [
            ("echo hello", "\"hello\""),
            ("true", "nothing"),
            ("echo '{}'", "missing field"),
        ] {
            let e = json::<Listed>(&sh(script), &Request::list(None), LONG)
                .await
                .unwrap_err();
            assert!(e.code == Code::Provider && e.message.contains(wanted), "{script}: {e}");
            assert!(!e.hint.is_empty());
        }
        let e = text(&["/no/such/program".to_owned()], &Request::list(None), LONG).await;
        assert_eq!(e.unwrap_err().code, Code::NotFound);
        let e = text(&[], &Request::list(None), LONG).await.unwrap_err();
        assert_eq!(e.code, Code::NotFound);
    }

    #[tokio::test]
    async fn what_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! >{}; wait", file.display());
        let e = text(&sh(&script), &Request::list(None), Duration::from_secs(2)).await;
        assert_eq!(e.unwrap_err().code, Code::Deadline);
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        for _ in 0..600 {
            if ended() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the child of a program that was ended lives on");
    }

    #[tokio::test]
    async fn a_machine_that_holds_the_output_does_not_hold_us() {
        let started = tokio::time::Instant::now();
        let out = text(&sh("sleep 30 & echo ok"), &Request::list(None), LONG)
            .await
            .unwrap();
        assert_eq!(out, "ok\n");
        assert!(started.elapsed() < Duration::from_secs(25));
    }
}
