//! What a verb works with: settings, the provider, the state folder.

use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, ClusterName, Code};

use super::cli::{Global, UpArgs};
use crate::bootstrap::{Boot, Download, UserDataForm};
use crate::cluster::{self, Access, Context};
use crate::config::{self, Env, Loaded, LocalNetwork, ProviderName, Settings, vars};
use crate::provider::{LocalSettings, Provider, local};
use crate::state::Store;
use crate::ui::{Error, Printer};

/// One run of the program.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) global: Global,
    pub(super) env: Env,
    pub(super) printer: Printer,
}

impl Session {
    pub(super) const fn new(global: Global, env: Env, printer: Printer) -> Self {
        Self { global, env, printer }
    }

    /// Whether the user wants no call over the network.
    pub(super) fn offline(&self) -> bool {
        self.global.offline || self.env.is_on(vars::OFFLINE)
    }

    /// The working folder.
    pub(super) fn cwd(&self) -> Result<PathBuf, Error> {
        std::env::current_dir().map_err(|e| Error::new(Code::Disk, format!("no working folder: {e}")))
    }

    /// Settings with these flags.
    pub(super) fn load(&self, up: &UpArgs) -> Result<Loaded, Error> {
        let loaded = config::load(up, &self.global, &self.env, &self.cwd()?)?;
        for warning in &loaded.warnings {
            self.printer.warn(warning);
        }
        Ok(loaded)
    }

    /// The state folder.
    pub(super) fn store(&self) -> Result<Store, Error> {
        Ok(Store::open(config::state_dir(&self.env)?)?)
    }

    /// Provider and state for settings.
    pub(super) fn context(&self, settings: &Settings) -> Result<Context, Error> {
        let store = self.store()?;
        let provider = match settings.provider {
            ProviderName::Local => Provider::Local(local::Local::new(self.local(&store, settings.local_network)?)),
            other => {
                return Err(Error::new(
                    Code::Usage,
                    format!("provider `{other}` is not part of this release yet; `local` is"),
                ));
            }
        };
        let boot = match provider.user_data_form() {
            // These have the program itself, which is not to be read for nothing.
            UserDataForm::Json => Boot {
                download: Err(ApiError::new(Code::Internal, "these machines download no agent")),
                extra: settings.extra_bootstrap.clone(),
            },
            UserDataForm::Script | UserDataForm::CloudConfig => self.boot(settings),
        };
        Ok(Context {
            provider,
            store,
            user: self.user(),
            proxy: settings.proxy_command.clone(),
            boot,
        })
    }

    /// What machines are told besides who they are.
    pub(super) fn boot(&self, settings: &Settings) -> Boot {
        let own = || self.agent().map_err(|e| ApiError::new(e.code, e.message));
        Boot {
            download: Download::new(&settings.agent_url, &settings.agent_sha256, own),
            extra: settings.extra_bootstrap.clone(),
        }
    }

    /// Provider and state for an existing cluster, whose record knows the rest.
    pub(super) fn plain_context(&self) -> Result<Context, Error> {
        self.context(&self.load(&UpArgs::default())?.settings)
    }

    /// The user's name as it may stand in certificates.
    fn user(&self) -> String {
        let name: String = self
            .env
            .user()
            .unwrap_or("user")
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '+' | '-'))
            .take(64)
            .collect();
        if name.is_empty() { "user".to_owned() } else { name }
    }

    fn local(&self, store: &Store, network: LocalNetwork) -> Result<LocalSettings, Error> {
        let network = match network {
            LocalNetwork::Auto => local::Network::Auto,
            LocalNetwork::Namespace => local::Network::Namespace,
            LocalNetwork::Loopback => local::Network::Loopback,
        };
        Ok(LocalSettings {
            agent: self.agent()?,
            base: store.folder().join("local"),
            run_base: run_base(&self.env),
            network,
        })
    }

    /// The agent's program: named, beside ours, or on the path.
    pub(super) fn agent(&self) -> Result<PathBuf, Error> {
        if let Some(named) = self.env.get(vars::AGENT) {
            let path = PathBuf::from(named);
            if path.is_file() {
                return Ok(std::path::absolute(&path).unwrap_or(path));
            }
            return Err(Error::new(
                Code::NotFound,
                format!("{} names {named}, which is no file", vars::AGENT),
            ));
        }
        let name = format!("herdsman-agent{}", std::env::consts::EXE_SUFFIX);
        let own = std::env::current_exe().ok().and_then(|p| p.canonicalize().ok());
        let beside = own.as_deref().and_then(Path::parent).map(|d| d.join(&name));
        let path = self.env.get("PATH").unwrap_or_default();
        beside
            .into_iter()
            .chain(std::env::split_paths(path).map(|d| d.join(&name)))
            .find(|p| p.is_file())
            .ok_or_else(|| {
                Error::new(
                    Code::NotFound,
                    format!("the program {name} is not beside herdsman, nor on the path"),
                )
                .with_hint("scripts/build-agent          builds it")
                .with_hint(format!("export {}=/path/to/{name}", vars::AGENT))
            })
    }

    /// The cluster that a command means: the one it names, the project's, or
    /// the only one there is.
    pub(super) async fn cluster(&self, ctx: &Context, named: Option<&ClusterName>) -> Result<ClusterName, Error> {
        if let Some(name) = named {
            return Ok(name.clone());
        }
        let settings = self.load(&UpArgs::default())?.settings;
        if settings.named {
            return Ok(settings.name);
        }
        let mut names = ctx.store.names()?;
        names.extend(ctx.provider.list(None).await?.into_iter().map(|m| m.cluster.name));
        names.sort();
        names.dedup();
        match names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Error::new(Code::NotFound, "there is no cluster").with_hint("herdsman up demo     makes one")),
            many => {
                let list: Vec<&str> = many.iter().map(ClusterName::as_str).collect();
                Err(Error::new(
                    Code::Usage,
                    format!("there are {} clusters; name one: {}", many.len(), list.join(", ")),
                ))
            }
        }
    }

    /// An existing cluster, ready to be talked to.
    pub(super) async fn open(&self, named: Option<&ClusterName>) -> Result<(Context, Access), Error> {
        let ctx = self.plain_context()?;
        let name = self.cluster(&ctx, named).await?;
        let access = cluster::open(&ctx, &name).await?;
        Ok((ctx, access))
    }
}

/// A folder in memory that is the user's alone.
fn run_base(env: &Env) -> PathBuf {
    if let Some(dir) = env.get("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_dir()) {
        return dir.join("herdsman");
    }
    #[cfg(unix)]
    {
        let uid = nix::unistd::getuid();
        for base in ["/run", "/dev/shm"] {
            let is_ours = uid.is_root() || base == "/dev/shm";
            if is_ours && Path::new(base).is_dir() {
                return Path::new(base).join(if uid.is_root() {
                    "herdsman-local".to_owned()
                } else {
                    format!("herdsman-{uid}")
                });
            }
        }
    }
    std::env::temp_dir().join("herdsman")
}
