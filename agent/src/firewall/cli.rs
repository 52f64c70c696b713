//! `herdsman-agent firewall`: what root can do on the machine itself, above all
//! let the owner in again whose address changed while nobody was inside.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use herdsman_wire::{ApiError, Code};
use ipnet::IpNet;
use tokio::time::Instant;

use super::keep::{self, full};
use super::{Error, Firewall, Policy, table};
use crate::files;

const USAGE: &str = "\
usage: herdsman-agent firewall --show             print the rules in force, as `nft` would
       herdsman-agent firewall --allow CIDR       let a network in, such as 203.0.113.7/32
       herdsman-agent firewall --deny CIDR        let it in no longer
       herdsman-agent firewall --remove           take the rules away; a running agent puts them back
       herdsman-agent firewall --render [--allow CIDR]
                                                  print the rules of a new node, and touch nothing
                          [--run DIR]             the node's folder in memory, /run/herdsman
";

/// What root asks of a running agent, beside its policy.
const ASKED: &str = "firewall-asked.json";
/// Largest file of that.
const ASKED_MOST: usize = 64 * 1024;
/// An agent looks twice a second.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// Networks that root on this machine lets in or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// To let in.
    #[serde(default)]
    pub allow: BTreeSet<IpNet>,
    /// To let in no longer.
    #[serde(default)]
    pub deny: BTreeSet<IpNet>,
}

impl Asked {
    /// Takes what was asked, if anything was.
    #[must_use]
    pub fn take(run: &Path) -> Option<Self> {
        let path = run.join(ASKED);
        let bytes = files::read_limited(&path, ASKED_MOST).ok()??;
        std::fs::remove_file(&path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|e| tracing::warn!("{}: {e}", path.display()))
            .ok()
    }

    fn apply(&self, policy: &mut Policy) {
        policy.owners.extend(&self.allow);
        policy.owners.retain(|n| !self.deny.contains(n));
    }
}

enum Verb {
    Show,
    Render(Asked),
    Remove,
    Ask(Asked),
}

/// Runs `herdsman-agent firewall …`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some((verb, run)) = parse(args) else {
        let _ = std::io::stderr().write_all(USAGE.as_bytes());
        return ExitCode::from(2);
    };
    let result = match verb {
        Verb::Show => show(&run),
        Verb::Render(asked) => {
            let mut policy = Policy::default();
            asked.apply(&mut policy);
            Ok(table(&policy).to_string())
        }
        Verb::Remove => keep::remove(&run)
            .map(|()| "the rules are taken away\n".to_owned())
            .map_err(|e| error(&e)),
        Verb::Ask(asked) => wait(ask(&run, &asked)),
    };
    match result {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(e) => {
            let mut text = format!("error[{}]: {}\n", e.code, e.message);
            for hint in &e.hint {
                text += &format!("  try: {hint}\n");
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ApiError::new(Code::Internal, format!("no runtime: {e}")))?
        .block_on(work)
}

fn parse(args: impl Iterator<Item = OsString>) -> Option<(Verb, PathBuf)> {
    let mut run = herdsman_wire::join::Paths::default().run;
    let mut verb = None;
    let mut asked = Asked::default();
    let mut args = args.map(|a| a.into_string().ok());
    while let Some(arg) = args.next() {
        match arg?.as_str() {
            "--show" => verb = Some(Verb::Show),
            "--render" => verb = Some(Verb::Render(Asked::default())),
            "--remove" => verb = Some(Verb::Remove),
            "--allow" => drop(asked.allow.insert(network(&args.next()??)?)),
            "--deny" => drop(asked.deny.insert(network(&args.next()??)?)),
            "--run" => run = args.next()??.into(),
            _ => return None,
        }
    }
    match (verb, asked == Asked::default()) {
        (Some(Verb::Render(_)), _) => Some((Verb::Render(asked), run)),
        (Some(verb), true) => Some((verb, run)),
        (None, false) => Some((Verb::Ask(asked), run)),
        _ => None,
    }
}

/// A network, or one address.
fn network(text: &str) -> Option<IpNet> {
    let net = text
        .parse()
        .ok()
        .or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)));
    net.map(|n: IpNet| n.trunc())
}

/// An error of the kernel's as users see it.
pub(crate) fn error(e: &Error) -> ApiError {
    let said = ApiError::new(Code::Firewall, full(e));
    if e.is_permission() {
        return said.with_hint("root, with the capability CAP_NET_ADMIN, may do this");
    }
    said.with_hint(
        "the kernel needs nf_tables with `ct count` (modules nf_tables, nft_ct, nft_connlimit), Linux 5.4 or newer",
    )
}

/// What a running agent has applied, with the counts.
fn show(run: &Path) -> Result<String, ApiError> {
    let policy = keep::load(&run.join(keep::SAVED)).unwrap_or_default();
    let mut text = table(&policy).to_string();
    match keep::counts() {
        Ok(Some(counts)) => {
            for (name, n) in counts {
                let empty = format!("counter {name} {{\n\t\tpackets 0 bytes 0");
                text = text.replace(&empty, &format!("counter {name} {{\n\t\tpackets {} bytes {}", n.0, n.1));
            }
            Ok(text)
        }
        Ok(None) => Err(ApiError::new(Code::NotFound, "there is no table `inet herdsman` here")
            .with_hint("systemctl status herdsman-agent       says whether the agent runs")),
        Err(e) => Err(error(&e)),
    }
}

/// Leaves the wish to the running agent, which remembers it; where none runs, it
/// is done here and left to the next one.
async fn ask(run: &Path, asked: &Asked) -> Result<String, ApiError> {
    let path = run.join(ASKED);
    let text = serde_json::to_vec(asked).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    files::write_atomic(&path, &text)?;
    let until = Instant::now() + TAKEN_WITHIN;
    while Instant::now() < until {
        if !path.exists() {
            return Ok("done\n".into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut firewall = Firewall::close(run).map_err(|e| error(&e))?;
    let mut policy = firewall.policy().clone();
    asked.apply(&mut policy);
    firewall.apply(policy).map_err(|e| error(&e))?;
    Ok("done; no agent runs now, and the next one is told\n".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(Verb, PathBuf)> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn one_wish_at_a_time() {
        assert!(matches!(parsed("--show"), Some((Verb::Show, _))));
        assert!(matches!(parsed("--render --allow 10.0.0.0/8"), Some((Verb::Render(a), _)) if a.allow.len() == 1));
        assert!(matches!(parsed("--remove --run /x"), Some((Verb::Remove, run)) if run == Path::new("/x")));
        let Some((Verb::Ask(asked), _)) = parsed("--allow 203.0.113.7 --deny 10.1.2.3/8") else {
            panic!()
        };
        assert_eq!(asked.allow, BTreeSet::from(["203.0.113.7/32".parse().unwrap()]));
        assert_eq!(asked.deny, BTreeSet::from(["10.0.0.0/8".parse().unwrap()]));
        for wrong in [
            "",
            "--allow",
            "--allow example.org",
            "--show --allow 1.2.3.4",
            "--surprise",
        ] {
            assert!(parsed(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_wish_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Asked {
            allow: BTreeSet::from(["203.0.113.7/32".parse().unwrap()]),
            ..Asked::default()
        };
        files::write_atomic(&dir.path().join(ASKED), &serde_json::to_vec(&asked).unwrap()).unwrap();
        assert_eq!(Asked::take(dir.path()), Some(asked));
        assert_eq!(Asked::take(dir.path()), None);
    }
}
