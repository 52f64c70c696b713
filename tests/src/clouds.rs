//! Emulated clouds on loopback: programs under `tests/clouds/`, each with a log of
//! all requests, which are held against the vendor's own model, and faults on demand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::home::{Home, Ran};

/// Longest answer to a question of a test.
const ANSWER: Duration = Duration::from_secs(60);

/// Address that clouds see this computer with in tests.
pub const LAPTOP: &str = "203.0.113.7";

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    /// Absent for a copy of another's.
    child: Option<Child>,
    port: u16,
    cloud: &'static str,
}

/// One request that it got.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The vendor's name of the call.
    pub action: String,
    /// Its status; absent while it is held back.
    pub status: Option<u64>,
    /// What else is known of it.
    pub facts: Value,
}

/// The interpreter that has the emulators' packages: `HERDSMAN_TEST_CLOUDS_PYTHON`, or
/// that of the environment which `scripts/test` makes.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let named = std::env::var_os("HERDSMAN_TEST_CLOUDS_PYTHON").map(PathBuf::from);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clouds-venv/bin/python");
    named.or(Some(made)).filter(|p| p.exists())
}

impl Emulator {
    /// Starts the emulator of a cloud: `tests/clouds/<script>`. `None`, with a line that
    /// says so, where its packages are missing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(cloud: &'static str, script: &str, args: &[&str]) -> Result<Option<Self>> {
        let Some(python) = python() else {
            let _ = crate::machines::skipped("no Python with the emulators' packages; scripts/test makes one");
            return Ok(None);
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clouds");
        let mut child = Command::new(python)
            .arg(folder.join(script))
            .args(args)
            .current_dir(&folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("{script} said {line:?}"))?;
        let port = said["port"].as_u64().and_then(|p| u16::try_from(p).ok());
        Ok(Some(Self {
            child: Some(child),
            port: port.context("no port")?,
            cloud,
        }))
    }

    /// A cloud as this one is now, with everything that is in it. What is done to one of
    /// the two is not done to the other. It ends no later than this one.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn fork(&self) -> Result<Self> {
        let said = self.ask("fork", &Value::Null)?;
        let port = said["port"].as_u64().and_then(|p| u16::try_from(p).ok());
        Ok(Self {
            child: None,
            port: port.context("no port")?,
            cloud: self.cloud,
        })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A command of the launcher that uses it. Its machines never answer: nothing is
    /// sent to the addresses that an emulator makes up, which may be somebody's.
    ///
    /// # Errors
    /// When the launcher was not built.
    pub fn command(&self, home: &Home, args: &[&str]) -> Result<Command> {
        let mut command = home.command(args)?;
        let endpoint = format!("HERDSMAN_{}_ENDPOINT", self.cloud.to_ascii_uppercase());
        command
            .env(endpoint, self.url())
            .env("HERDSMAN_PROVIDER", self.cloud)
            .env("HERDSMAN_MY_ADDRESS", LAPTOP)
            .env("HERDSMAN_PROXY_COMMAND", "false")
            .env("HERDSMAN_ENV", "none");
        Ok(command)
    }

    /// Runs the launcher to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, home: &Home, args: &[&str]) -> Result<Ran> {
        Ok(self.command(home, args)?.output()?.into())
    }

    /// Asks one of the paths for tests.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, path: &str, given: &Value) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let body = given.to_string();
        write!(
            stream,
            "POST /_/{path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").context("no answer")?;
        serde_json::from_str(body).with_context(|| body.to_owned())
    }

    /// All requests so far, in order.
    ///
    /// # Errors
    /// When one of them is not what the vendor's model says.
    pub fn asked(&self) -> Result<Vec<Asked>> {
        let Value::Array(log) = self.ask("log", &Value::Null)? else {
            bail!("the log is no list");
        };
        let mut all = Vec::new();
        for entry in log {
            let action = entry["action"].as_str().unwrap_or_default().to_owned();
            let wrong = entry["violations"].as_array().map_or(0, Vec::len);
            ensure!(
                wrong == 0,
                "{action} is not as the vendor's model says: {:#}",
                entry["violations"]
            );
            all.push(Asked {
                status: entry["status"].as_u64(),
                facts: entry["facts"].clone(),
                action,
            });
        }
        Ok(all)
    }

    /// Names of all calls so far, in order.
    ///
    /// # Errors
    /// As [`Self::asked`].
    pub fn actions(&self) -> Result<Vec<String>> {
        Ok(self.asked()?.into_iter().map(|a| a.action).collect())
    }

    /// Forgets log and faults; what was made stays.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn reset(&self) -> Result<()> {
        self.ask("reset", &Value::Null).map(drop)
    }

    /// Faults of the next calls; each has `action`, `status`, `code`, and maybe
    /// `times`, `skip`, `where`, `late`, `drop`, `share`.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn faults(&self, faults: &[Value]) -> Result<()> {
        self.ask("faults", &json!(faults)).map(drop)
    }

    /// Holds back the answers of this call and all later ones, which are carried out
    /// all the same.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn hold(&self, nth: u64) -> Result<()> {
        self.ask("hold", &json!(nth)).map(drop)
    }

    /// Whether an answer is held back; waits so long for it.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn is_held(&self, within: Duration) -> Result<bool> {
        Ok(self.ask("held", &json!(within.as_secs_f64()))?.as_bool() == Some(true))
    }

    /// Lets answers go again.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn release(&self) -> Result<()> {
        self.ask("release", &Value::Null).map(drop)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            None => drop(self.ask("end", &Value::Null)),
        }
    }
}

/// Runs a command, kills it once its `nth` call was carried out but not answered, and
/// tells whether it got that far. What it left is the test's to look at.
///
/// # Errors
/// When it cannot be started.
pub fn killed_after(emulator: &Emulator, command: &mut Command, nth: u64) -> Result<bool> {
    emulator.reset()?;
    emulator.hold(nth)?;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let held = loop {
        if emulator.is_held(Duration::from_millis(200))? {
            break true;
        }
        if child.try_wait()?.is_some() {
            break false;
        }
    };
    child.kill()?;
    child.wait()?;
    emulator.release()?;
    Ok(held)
}
