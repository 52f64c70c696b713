//! The vendor's tool: its files, and tokens that it gives.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::{error, limited};
use super::auth::Token;
use crate::config::Env;

/// It is a program in Python, and may refresh a token on its way.
const ANSWER: Duration = Duration::from_secs(60);
/// A token without an end is taken to be good so long.
const UNSURE: Duration = Duration::from_secs(300);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Profile {
    subscriptions: Vec<Subscription>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subscription {
    id: String,
    is_default: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "accessToken")]
    token: String,
    expires_on: Option<u64>,
}

fn folder(env: &Env) -> Option<PathBuf> {
    let named = env.get("AZURE_CONFIG_DIR").map(PathBuf::from);
    named.or_else(|| {
        let home = env.get("HOME").or_else(|| env.get("USERPROFILE"))?;
        Some(PathBuf::from(home).join(".azure"))
    })
}

/// Whether somebody has logged in with it.
pub(super) fn is_there(env: &Env) -> bool {
    folder(env).is_some_and(|f| f.join("azureProfile.json").exists())
}

/// The subscription that it uses.
pub(super) fn subscription(env: &Env) -> Option<String> {
    let text = std::fs::read_to_string(folder(env)?.join("azureProfile.json")).ok()?;
    // It writes a mark of the byte order in front.
    let profile: Profile = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let used = profile.subscriptions.into_iter().find(|s| s.is_default)?;
    Some(used.id).filter(|id| !id.is_empty())
}

/// A setting of its file `config`, which is an INI.
pub(super) fn setting(env: &Env, section: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder(env)?.join("config")).ok()?;
    let mut here = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            here = name.trim() == section;
        } else if let Some((k, v)) = line.split_once('=')
            && here
            && k.trim() == key
        {
            return Some(v.trim().to_owned()).filter(|v| !v.is_empty());
        }
    }
    None
}

/// A token for the API.
///
/// # Errors
/// `E-CREDENTIALS` with the tool's own words.
pub(super) async fn token(resource: &str, subscription: Option<&str>, env: &Env) -> Result<Token, ProviderError> {
    let program = if cfg!(windows) { "az.cmd" } else { "az" };
    let mut command = tokio::process::Command::new(program);
    command
        .args([
            "account",
            "get-access-token",
            "--output",
            "json",
            "--resource",
            resource,
        ])
        .args(subscription.into_iter().flat_map(|s| ["--subscription", s]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .envs(env.iter())
        .kill_on_drop(true);
    let failed = |why: &str| {
        error(Code::Credentials, format!("az gives no token: {}", limited(why)))
            .with_hint("az login                              logs in again")
    };
    let ended = tokio::time::timeout(ANSWER, command.output())
        .await
        .map_err(|_| failed("it does not end"))?
        .map_err(|e| failed(&e.to_string()))?;
    if !ended.status.success() {
        return Err(failed(&String::from_utf8_lossy(&ended.stderr)));
    }
    // Its parser's own words would show a piece of the token.
    let answer: Answer = serde_json::from_slice(&ended.stdout).map_err(|_| failed("its answer is no token"))?;
    let end = answer.expires_on.map_or_else(
        || SystemTime::now() + UNSURE,
        |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s),
    );
    Ok(Token::new(answer.token, end))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a vendor's tool that is this script.
    fn tool(script: &str) -> std::io::Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        let az = dir.path().join("az");
        std::fs::write(&az, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755))?;
        Ok(dir)
    }

    async fn with(tool: &tempfile::TempDir) -> Result<Token, ProviderError> {
        let path = format!("{}:/usr/bin:/bin", tool.path().display());
        let env: Env = [("PATH", path.as_str())].into_iter().collect();
        token("https://management.azure.com/", Some("sub"), &env).await
    }

    #[tokio::test]
    async fn the_tools_token_is_taken_and_its_troubles_are_told() {
        let good = "test \"$*\" = 'account get-access-token --output json --resource https://management.azure.com/ --subscription sub' && \
                    echo '{\"accessToken\": \"abc\", \"expires_on\": 4000000000, \"tenant\": \"t\"}'";
        let token = with(&tool(good).unwrap()).await.unwrap();
        assert_eq!(token.reveal(), "abc");
        let e = with(&tool("echo 'Please run az login' >&2; exit 1").unwrap())
            .await
            .unwrap_err();
        assert_eq!(e.code, Code::Credentials);
        assert!(e.message.contains("Please run az login"), "{}", e.message);
        let e = with(&tool("echo SECRET").unwrap()).await.unwrap_err();
        assert!(!e.message.contains("SECRET"), "{}", e.message);
    }
}
