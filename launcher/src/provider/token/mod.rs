//! What clouds with plain tokens share: where a token is looked for, how a call
//! carries it, and waiting with an end.

mod doctl;
mod hcloud;
mod patience;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use herdsman_wire::{Code, Secret};
use http::{HeaderValue, Request, header};

use super::ProviderError;
use super::cloud::{Common, error};
use crate::config::Env;

pub(super) use patience::Patience;

/// Finds a token and its context's name in the text of a file.
type Read = fn(&str, Option<&str>) -> Option<(String, String)>;

/// Whose token it is, and where the vendor's tools keep it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vendor {
    /// Name of our provider.
    pub(super) cloud: &'static str,
    /// Variables that hold a token, in order.
    pub(super) variables: &'static [&'static str],
    /// The vendor's command line tool.
    tool: &'static str,
    /// Variable that names the tool's file, if it has one.
    file_variable: Option<&'static str>,
    /// Variable that names one of its contexts, if it has one.
    context_variable: Option<&'static str>,
    /// The tool's file below the user's configuration folder.
    below: &'static str,
    /// Finds a context's token in that file; without a name the one in use. Gives
    /// the context's name as well.
    read: Read,
    /// Where a token is made.
    page: &'static str,
}

/// `DigitalOcean`: the variables of its own clients and of its tool `doctl`.
pub(super) const DIGITALOCEAN: Vendor = Vendor {
    cloud: "digitalocean",
    variables: &["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN"],
    tool: "doctl",
    file_variable: None,
    context_variable: Some("DIGITALOCEAN_CONTEXT"),
    below: "doctl/config.yaml",
    read: doctl::token,
    page: "https://cloud.digitalocean.com/account/api/tokens, scopes: herdsman render iam --provider digitalocean",
};

/// Hetzner: the variables of its tool `hcloud`.
pub(super) const HETZNER: Vendor = Vendor {
    cloud: "hetzner",
    variables: &["HCLOUD_TOKEN"],
    tool: "hcloud",
    file_variable: Some("HCLOUD_CONFIG"),
    context_variable: Some("HCLOUD_CONTEXT"),
    below: "hcloud/cli.toml",
    read: hcloud::token,
    page: "https://console.hetzner.com, the project, Security, API tokens: Read & Write",
};

/// A token and where it was found.
pub(super) struct Token {
    secret: Secret,
    /// For people: `HCLOUD_TOKEN`, `hcloud context work`.
    pub(super) from: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Its last four characters, by which people know it from others.
    pub(super) fn end(&self) -> String {
        let text = self.secret.reveal();
        let from = text.len().saturating_sub(4).max(text.len() / 2);
        text.get(from..).unwrap_or_default().to_owned()
    }
}

/// A token that is looked for when the first call needs it.
#[derive(Debug)]
pub(super) struct Bearer {
    vendor: Vendor,
    context: Option<String>,
    file: Option<PathBuf>,
    env: Env,
    found: OnceLock<Result<Token, ProviderError>>,
}

impl Bearer {
    /// `context` and `file` are from the cloud's own table, and count more than
    /// variables: who names one means it.
    pub(super) fn new(vendor: Vendor, common: &Common, context: Option<&str>, file: Option<&str>) -> Self {
        Self {
            vendor,
            context: context.map(str::to_owned),
            file: file.map(|f| at_home(&common.env, &common.base, f)),
            env: common.env.clone(),
            found: OnceLock::new(),
        }
    }

    /// The token.
    ///
    /// # Errors
    /// `E-CREDENTIALS` with where was looked.
    pub(super) fn token(&self) -> Result<&Token, ProviderError> {
        self.found.get_or_init(|| self.search()).as_ref().map_err(Clone::clone)
    }

    /// Puts it into a request, hidden from logs.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub(super) fn authorize(&self, request: &mut Request<Bytes>) -> Result<(), ProviderError> {
        let token = self.token()?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.secret.reveal())).map_err(|_| {
            error(
                Code::Credentials,
                format!("the token of {} has characters that no token has", token.from),
            )
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
        Ok(())
    }

    fn search(&self) -> Result<Token, ProviderError> {
        let mut looked = Vec::new();
        if let Some(file) = &self.file {
            return self.of_file(file);
        }
        if self.context.is_none() {
            for name in self.vendor.variables {
                if let Some(token) = self.env.get(name) {
                    return Ok(token_of(token, (*name).to_owned()));
                }
                looked.push((*name).to_owned());
            }
        }
        let tool = self.vendor.tool;
        let named = self
            .context
            .as_deref()
            .or_else(|| self.env.get(self.vendor.context_variable?));
        for path in self.tools_files() {
            let text = fs_err::read_to_string(&path).ok();
            if let Some((token, name)) = text.and_then(|t| (self.vendor.read)(&t, named)) {
                return Ok(token_of(&token, format!("{tool} context {name}")));
            }
            looked.push(format!(
                "{} ({tool} context{})",
                path.display(),
                named.map(|n| format!(" {n}")).unwrap_or_default()
            ));
        }
        looked.push(format!("[{}] token_file", self.vendor.cloud));
        let first = self.vendor.variables[0];
        Err(
            error(Code::Credentials, format!("no token. Looked at: {}", looked.join(", ")))
                .with_hint(format!("export {first}=…   ({})", self.vendor.page)),
        )
    }

    fn of_file(&self, file: &Path) -> Result<Token, ProviderError> {
        let bad = |why: String| error(Code::Credentials, format!("[{}] token_file: {why}", self.vendor.cloud));
        let text = fs_err::read_to_string(file).map_err(|e| bad(e.to_string()))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs_err::metadata(file)
                .map_err(|e| bad(e.to_string()))?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                let path = file.display();
                return Err(bad(format!("others may read {path}")).with_hint(format!("chmod 600 {path}")));
            }
        }
        match text.trim() {
            "" => Err(bad(format!("{} is empty", file.display()))),
            token => Ok(token_of(token, file.display().to_string())),
        }
    }

    /// Where the vendor's tool may have its file.
    fn tools_files(&self) -> Vec<PathBuf> {
        if let Some(named) = self.vendor.file_variable.and_then(|v| self.env.get(v)) {
            return vec![PathBuf::from(named)];
        }
        let mut all: Vec<PathBuf> = self
            .env
            .config_home()
            .map(|d| d.join(self.vendor.below))
            .into_iter()
            .collect();
        if cfg!(target_os = "macos")
            && let Some(home) = self.env.get(crate::config::vars::HOME)
        {
            all.push(
                Path::new(home)
                    .join("Library/Application Support")
                    .join(self.vendor.below),
            );
        }
        all
    }
}

fn token_of(text: &str, from: String) -> Token {
    Token {
        secret: Secret::new(text.trim().to_owned()),
        from,
    }
}

/// A path as people write it: `~/` is their home, and others start at the file
/// that names it.
fn at_home(env: &Env, base: &Path, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env.get(crate::config::vars::HOME)) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => base.join(path),
    }
}

#[cfg(test)]
mod tests;
