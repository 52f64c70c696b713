//! User-data: a script that makes a stock machine a node, in the form that the
//! machine's first boot takes.
//!
//! ```text
//! join configuration ─▶ /var/lib/herdsman/join.json (0600)
//! extra lines        ─▶ run by sh
//! mirrors, SHA-256   ─▶ /usr/local/bin/herdsman-agent, checked before it may run
//!                       herdsman-agent install
//! ```
//!
//! It runs in any POSIX shell, twice as well as once, and says on the console
//! what goes wrong, in lines that begin with `herdsman:`.

use std::fmt::Write as _;
use std::time::Duration;

use herdsman_wire::{ApiError, Code, Secret};
use serde::{Deserialize, Serialize};

use super::download::{ARCH, Arch, Download};

/// EC2 takes no more than this, and the others take more; bytes.
pub const USER_DATA_MAX: usize = 16 * 1024;

/// Line before the join configuration; the agent of a baked image looks for it.
pub const JOIN_BEGIN: &str = "#HERDSMAN-JOIN-BEGIN";
/// Line after the join configuration.
pub const JOIN_END: &str = "#HERDSMAN-JOIN-END";
/// Line after the user's own lines.
const EXTRA_END: &str = "#HERDSMAN-EXTRA-END";

/// In which form a machine is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UserDataForm {
    /// The join configuration alone, for machines that have an agent.
    Json,
    /// A shell script.
    Script,
    /// A cloud-config around the same script.
    #[default]
    CloudConfig,
}

/// What a machine is told.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The join configuration, one line of JSON.
    pub join: &'a Secret,
    /// The agent.
    pub download: &'a Download,
    /// Lines of the user's own, run by `sh` before the agent starts.
    pub extra: &'a [String],
    /// How long the download is tried.
    pub patience: Duration,
}

/// Puts user-data together.
///
/// # Errors
/// [`Code::TooLarge`] naming what is large, or [`Code::Usage`] naming a line that
/// cannot be sent.
pub fn user_data(parts: Parts<'_>, form: UserDataForm) -> Result<Secret, ApiError> {
    let text = match form {
        UserDataForm::Json => return Ok(parts.join.clone()),
        UserDataForm::Script => script(parts)?,
        UserDataForm::CloudConfig => cloud_config(&script(parts)?),
    };
    if text.len() > USER_DATA_MAX {
        return Err(too_large(&parts, text.len()));
    }
    Ok(Secret::new(text))
}

fn too_large(parts: &Parts<'_>, all: usize) -> ApiError {
    let join = parts.join.reveal().len();
    let extra: usize = parts.extra.iter().map(|l| l.len() + 1).sum();
    let urls: usize = parts.download.mirrors.iter().map(|m| m.to_string().len() + 1).sum();
    let rest = all.saturating_sub(join + extra + urls);
    let error = ApiError::new(
        Code::TooLarge,
        format!(
            "user-data has {all} bytes, the limit is {USER_DATA_MAX}: extra_bootstrap {extra}, \
             certificates and cluster {join}, agent.url {urls}, our script {rest}"
        ),
    );
    if extra > urls {
        error.with_hint("put long scripts on a server or into the image, and only call them in extra_bootstrap")
    } else {
        error.with_hint("name fewer or shorter addresses in agent.url")
    }
}

fn script(parts: Parts<'_>) -> Result<String, ApiError> {
    let mut out = begin(parts.patience);
    // The key in it is worthless once the machine is a node.
    let _ = write!(
        out,
        "sed 1d >$J/.join <<'{JOIN_END}' && mv -f $J/.join $J/join.json || die \"cannot write $J/join.json\"\n\
         {JOIN_BEGIN}\n{}\n{JOIN_END}\n",
        parts.join.reveal()
    );
    out += &rest(parts.download, parts.extra, "")?;
    Ok(out)
}

/// Puts together what makes an image of a machine: the agent and the user's lines, and
/// nothing of any cluster. A machine that starts from it is told to join as any other,
/// and finds its agent there.
///
/// # Errors
/// [`Code::Usage`] naming a line that cannot be sent, or that no agent is known.
pub fn image(
    download: &Download,
    extra: &[String],
    patience: Duration,
    form: UserDataForm,
) -> Result<String, ApiError> {
    let mut out = begin(patience);
    out += &rest(download, extra, " --no-start")?;
    match form {
        UserDataForm::Script => Ok(out),
        UserDataForm::CloudConfig => Ok(cloud_config(&out)),
        UserDataForm::Json => Err(ApiError::new(
            Code::Usage,
            "an image is told nothing of a cluster, which is all that the form json has",
        )
        .with_hint("--form script   or cloud-config")),
    }
}

fn begin(patience: Duration) -> String {
    let mut out = String::from("#!/bin/sh\n# herdsman\n");
    let _ = writeln!(out, "W={}", patience.as_secs());
    out += &dense(include_str!("script.sh"));
    out
}

fn rest(download: &Download, lines: &[String], flags: &str) -> Result<String, ApiError> {
    let mut out = extra(lines)?;
    out += &agent(download)?;
    out += &dense(include_str!("finish.sh"));
    let _ = writeln!(out, "\"$B\" install{flags} || die \"herdsman-agent install: exit $?\"");
    Ok(out)
}

/// Without comments and indentation: user-data is small, and nobody edits it.
fn dense(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    for line in template.lines() {
        let line = line.trim_start_matches('\t');
        if !line.starts_with('#') {
            out += line;
            out.push('\n');
        }
    }
    out
}

/// The user's lines, as a program of their own: a slip in one of them must not
/// keep the machine from joining.
fn extra(lines: &[String]) -> Result<String, ApiError> {
    if lines.is_empty() {
        return Ok(String::new());
    }
    let mut out = format!("cat >$J/.extra <<'{EXTRA_END}'\n");
    for line in lines.iter().flat_map(|l| l.lines()) {
        if line == EXTRA_END
            || line == JOIN_BEGIN
            || line == JOIN_END
            || line.chars().any(|c| c.is_control() && c != '\t')
        {
            let shown: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(ApiError::new(
                Code::Usage,
                format!("extra_bootstrap: the line {shown:?} cannot be sent"),
            )
            .with_hint("it is a mark of ours, or holds a control character"));
        }
        out += line;
        out.push('\n');
    }
    let _ = write!(
        out,
        "{EXTRA_END}\n(umask 022; exec sh $J/.extra </dev/null) || say \"extra_bootstrap: exit $?\"\nrm -f $J/.extra\n"
    );
    Ok(out)
}

fn agent(download: &Download) -> Result<String, ApiError> {
    let missing = |what: &str| ApiError::new(Code::Usage, format!("no {what} of the agent is known"));
    if download.sha256.is_empty() {
        return Err(missing("SHA-256"));
    }
    if download.mirrors.is_empty() {
        return Err(missing("address"));
    }
    let mut out = String::from("case $(uname -m) in\n");
    for (arch, hash) in &download.sha256 {
        let names = match arch {
            Arch::Aarch64 => "aarch64|arm64",
            Arch::X86_64 => "x86_64|amd64",
        };
        let _ = writeln!(out, "{names}) a={} H={hash} ;;", arch.as_str());
    }
    out += "*) die \"there is no agent for $(uname -m)\" ;;\nesac\n";
    let mirrors: Vec<String> = download
        .mirrors
        .iter()
        .map(|m| m.to_string().replace(ARCH, "$a"))
        .collect();
    let _ = writeln!(out, "U=\"{}\"", mirrors.join(" "));
    Ok(out)
}

/// Takes a runcmd, which cloud-init copies into its own script as it is: nothing
/// of it stands on a command line.
fn cloud_config(script: &str) -> String {
    let mut out = String::from("#cloud-config\nruncmd:\n- |\n");
    for line in script.lines() {
        // One space is the least that YAML takes.
        let indent = if line.is_empty() { "" } else { " " };
        let _ = writeln!(out, "{indent}{line}");
    }
    out
}
