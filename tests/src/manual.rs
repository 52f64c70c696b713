//! Machines for provider `manual`: an agent each, in a folder and with a loopback
//! address of its own, made by a program as the user of the provider has one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::home::{Home, program};

/// The program; see its own words.
const MACHINES: &str = include_str!("manual/machines.py");

/// The user's machines.
#[derive(Debug)]
pub struct Machines {
    folder: PathBuf,
    command: Vec<String>,
}

impl Machines {
    /// Puts the program into a home.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(home: &Home) -> Result<Self> {
        let script = home.path().join("machines.py");
        std::fs::write(&script, MACHINES)?;
        let folder = home.path().join("m");
        let command = [
            home.python().to_owned(),
            script,
            folder.clone(),
            program("herdsman-agent")?,
        ];
        let text = |p: PathBuf| p.into_os_string().into_string().ok().context("a path that is no UTF-8");
        Ok(Self {
            command: command.into_iter().map(text).collect::<Result<_>>()?,
            folder,
        })
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The program with its arguments, as a list of TOML.
    #[must_use]
    pub fn program(&self) -> String {
        toml_list(&self.command)
    }

    /// Writes a project's file whose provider is `manual`, with these programs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn project(&self, home: &Home, programs: &[(&str, String)]) -> Result<()> {
        let mut text = format!(
            "provider = \"manual\"\n[env]\nmode = \"image\"\nimage_python = \"{}\"\n[manual]\nform = \"json\"\n",
            home.python().display()
        );
        for (verb, program) in programs {
            text += &format!("{verb} = {program}\n");
        }
        std::fs::write(home.path().join("herdsman.toml"), text)?;
        Ok(())
    }

    /// As [`Machines::project`], with all verbs by this program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn whole_project(&self, home: &Home) -> Result<()> {
        let verbs = ["create", "delete", "list", "console"];
        self.project(home, &verbs.map(|v| (v, self.program())))
    }

    /// What the program was asked so far.
    #[must_use]
    pub fn requests(&self, verb: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("requests")).unwrap_or_default();
        let all = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        all.filter(|r| r["verb"] == verb).collect()
    }

    /// Makes a machine as somebody at a console would, from a file.
    ///
    /// # Errors
    /// With what the program says.
    pub fn make(&self, home: &Home, node: &str, user_data: &std::path::Path) -> Result<Value> {
        let role = if node.ends_with("-scheduler") {
            "scheduler"
        } else {
            "worker"
        };
        let request = serde_json::json!({
            "version": 1, "verb": "create", "node": node, "role": role, "user_data": user_data, "tags": {},
        });
        self.call(home, &request)
    }

    /// Deletes such a machine.
    ///
    /// # Errors
    /// With what the program says.
    pub fn delete(&self, home: &Home, node: &str) -> Result<()> {
        let role = if node.ends_with("-scheduler") {
            "scheduler"
        } else {
            "worker"
        };
        let request = serde_json::json!({"version": 1, "verb": "delete", "node": node, "role": role});
        self.call(home, &request).map(|_| ())
    }

    fn call(&self, home: &Home, request: &Value) -> Result<Value> {
        use std::io::Write as _;
        let (program, arguments) = self.command.split_first().context("no program")?;
        let mut child = std::process::Command::new(program)
            .args(arguments)
            .current_dir(home.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(request.to_string().as_bytes())?;
        drop(stdin);
        let out = child.wait_with_output()?;
        anyhow::ensure!(out.status.success(), "{request}: {out:?}");
        Ok(serde_json::from_slice(&out.stdout).unwrap_or_default())
    }
}

/// A list of texts as TOML has it.
#[must_use]
pub fn toml_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", quoted.join(", "))
}
