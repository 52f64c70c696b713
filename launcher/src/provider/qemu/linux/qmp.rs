//! QMP, QEMU's own control channel: JSON lines over a Unix socket.
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// QEMU answers within milliseconds; the rest is for busy computers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest line that is read.
const LINE_MAX: u64 = 1024 * 1024;

/// A connection; QEMU takes one at a time.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    until: Instant,
}

impl Qmp {
    /// Connects and gets ready for commands.
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            until: Instant::now() + PATIENCE,
        };
        // Its greeting comes once the one before us has gone.
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other("this is no QMP"));
        }
        qmp.call("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command; gives what it returns.
    pub(super) fn call(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        self.until = Instant::now() + PATIENCE;
        let mut text = json!({"execute": command, "arguments": arguments}).to_string();
        text.push('\n');
        let stream = self.reader.get_mut();
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(text.as_bytes())?;
        loop {
            let mut line = self.line()?;
            if let Some(answer) = line.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = line.get("error") {
                let said = error["desc"].as_str().unwrap_or("an error without words");
                return Err(io::Error::other(format!("{command}: {said}")));
            }
            // What is neither is an event.
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.reader.get_mut().set_read_timeout(Some(left))?;
        let mut text = String::new();
        if (&mut self.reader).take(LINE_MAX).read_line(&mut text)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// A place at hub 0 for the machine that connects to `socket`; one of an
    /// earlier machine there is taken away first.
    pub(super) fn plug(&mut self, index: u32, socket: &Path) -> io::Result<()> {
        self.unplug(index);
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let address = json!({"type": "unix", "path": socket});
        let stream = json!({"type": "stream", "id": format!("s{index}"), "server": true, "addr": address});
        self.call("netdev_add", &stream)?;
        let port = json!({"type": "hubport", "id": format!("h{index}"), "hubid": 0, "netdev": format!("s{index}")});
        self.call("netdev_add", &port).map(|_| ())
    }

    /// Takes such a place away, if it is there.
    pub(super) fn unplug(&mut self, index: u32) {
        for id in [format!("h{index}"), format!("s{index}")] {
            if let Err(e) = self.call("netdev_del", &json!({"id": id})) {
                tracing::debug!("{e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers each line with the next of these texts.
    fn peer(dir: &Path, answers: &'static [&'static str]) -> std::path::PathBuf {
        let path = dir.join("q");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for (i, answer) in answers.iter().enumerate() {
                if i > 0 && reader.read_line(&mut String::new()).unwrap_or(0) == 0 {
                    return;
                }
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        path
    }

    #[test]
    fn answers_are_told_from_events_and_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = peer(
            dir.path(),
            &[
                "{\"QMP\": {}}\n",
                "{\"return\": {}}\n",
                "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such id\"}}\n",
            ],
        );
        let mut qmp = Qmp::open(&path).unwrap();
        assert_eq!(qmp.call("query-status", &json!({})).unwrap()["status"], "running");
        let e = qmp.call("netdev_del", &json!({"id": "x"})).unwrap_err();
        assert!(e.to_string().contains("no such id"), "{e}");
        assert!(qmp.call("quit", &json!({})).is_err(), "it has gone");
    }

    #[test]
    fn what_is_no_qmp_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Qmp::open(&peer(dir.path(), &["{\"hello\": 1}\n"])).is_err());
        assert!(Qmp::open(&dir.path().join("none")).is_err());
    }
}
