//! What a verb works with: settings, the provider, the state folder.

use std::path::{Path, PathBuf};

use herdsman_wire::{ApiError, ClusterName, Code};

use super::cli::{Global, UpArgs};
use crate::bootstrap::{Boot, Download, UserDataForm};
use crate::cluster::{self, Access, Context};
use crate::config::{self, Accel, Env, Loaded, LocalNetwork, MachineSize, ProviderName, Settings, vars};
use crate::provider::{LocalSettings, Machine, Provider, cloud, local, manual, qemu};
use crate::state::{Record, Store};
use crate::ui::{Error, Printer};

/// Providers whose records lie on this computer.
const ON_THIS_COMPUTER: [ProviderName; 3] = [ProviderName::Local, ProviderName::Qemu, ProviderName::Manual];

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// What there is.
    Look,
    /// What only the user can delete is gone, they say.
    Forget,
}

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
        let ctx = self.context_on(settings, settings.provider, Wish::Look)?;
        Ok(self.with_boot(ctx, settings))
    }

    /// The provider that was named, or that of the settings.
    pub(super) fn provider_of(&self, named: Option<ProviderName>) -> Result<ProviderName, Error> {
        match named {
            Some(name) => Ok(name),
            None => Ok(self.load(&UpArgs::default())?.settings.provider),
        }
    }

    /// One provider, with the settings for it.
    pub(super) fn provider(&self, name: ProviderName, region: Option<&str>) -> Result<Context, Error> {
        let settings = self.load(&on(name, region))?.settings;
        self.context_on(&settings, name, Wish::Look)
    }

    fn context_on(&self, settings: &Settings, provider: ProviderName, wish: Wish) -> Result<Context, Error> {
        let store = self.store()?;
        let provider = match provider {
            ProviderName::Local => Provider::Local(local::Local::new(self.local(&store, settings.local_network)?)),
            ProviderName::Manual => Provider::Manual(manual::Manual::new(manual_settings(&store, settings, wish))),
            ProviderName::Qemu => Provider::Qemu(qemu::Qemu::new(self.qemu(&store, settings))),
            other => Provider::Cloud(cloud::open(other, settings.cloud.clone())?),
        };
        Ok(Context {
            provider,
            store,
            user: self.user(),
            proxy: settings.proxy_command.clone(),
            boot: Boot {
                download: Err(ApiError::new(Code::Internal, "these machines download no agent")),
                extra: settings.extra_bootstrap.clone(),
            },
        })
    }

    /// With what machines are told besides who they are, where they are told that:
    /// the agent's program is not read for nothing.
    fn with_boot(&self, ctx: Context, settings: &Settings) -> Context {
        match ctx.provider.user_data_form() {
            UserDataForm::Json => ctx,
            UserDataForm::Script | UserDataForm::CloudConfig => Context {
                boot: self.boot(settings),
                ..ctx
            },
        }
    }

    /// All providers that may have machines of this user, that of the settings
    /// first. One that cannot be used here has none.
    pub(super) fn contexts(&self) -> Result<Vec<Context>, Error> {
        self.contexts_for(&UpArgs::default())
    }

    /// [`Self::contexts`] with flags that may name another provider or region.
    pub(super) fn contexts_for(&self, flags: &UpArgs) -> Result<Vec<Context>, Error> {
        let settings = self.load(flags)?.settings;
        self.contexts_with(&settings, Wish::Look)
    }

    /// The provider that a record names, in the region that it names.
    fn context_of(&self, record: &Record, wish: Wish) -> Option<Context> {
        let name = <ProviderName as clap::ValueEnum>::from_str(&record.provider, false).ok()?;
        let settings = self.load(&on(name, record.region.as_deref())).ok()?.settings;
        Some(self.with_boot(self.context_on(&settings, name, wish).ok()?, &settings))
    }

    fn contexts_with(&self, settings: &Settings, wish: Wish) -> Result<Vec<Context>, Error> {
        let mut all = vec![self.context_on(settings, settings.provider, wish)?];
        for other in ON_THIS_COMPUTER {
            if other != settings.provider {
                all.extend(self.context_on(settings, other, wish));
            }
        }
        // Clouds, and regions of them, that clusters of this computer are in.
        let Some(store) = all.first().map(|ctx| ctx.store.clone()) else {
            return Ok(all);
        };
        for name in store.names()? {
            let Ok(Some(record)) = store.load(&name) else { continue };
            let known = |c: &Context| {
                c.provider.name() == record.provider && (record.region.is_none() || record.region == region_of(c))
            };
            if !all.iter().any(known) {
                all.extend(self.context_of(&record, wish));
            }
        }
        Ok(all)
    }

    /// The cluster that a command means: the one it names, the project's, or the
    /// only one there is; with the provider that has it, which its record says, or
    /// else whoever knows machines of it.
    pub(super) async fn find(&self, named: Option<&ClusterName>, wish: Wish) -> Result<(Context, ClusterName), Error> {
        self.find_with(&UpArgs::default(), named, wish).await
    }

    /// [`Self::find`] with flags that may name another provider or region.
    pub(super) async fn find_with(
        &self,
        flags: &UpArgs,
        named: Option<&ClusterName>,
        wish: Wish,
    ) -> Result<(Context, ClusterName), Error> {
        let settings = self.load(flags)?.settings;
        let contexts = self.contexts_with(&settings, wish)?;
        let name = match named {
            Some(name) => name.clone(),
            None if settings.named => settings.name.clone(),
            None => only(&contexts).await?,
        };
        let recorded = contexts.first().and_then(|ctx| ctx.store.load(&name).ok()?);
        let mut contexts = contexts.into_iter();
        let Some(first) = contexts.next() else {
            return Err(Error::new(Code::Internal, "there is no provider"));
        };
        let same =
            |r: &Record| r.provider == first.provider.name() && (r.region.is_none() || r.region == region_of(&first));
        if recorded.as_ref().is_some_and(same) {
            return Ok((self.with_boot(first, &settings), name));
        }
        if let Some(record) = &recorded
            && let Some(ctx) = self.context_of(record, wish)
        {
            return Ok((ctx, name));
        }
        for ctx in contexts {
            let has = match &recorded {
                Some(record) => record.provider == ctx.provider.name(),
                None => ctx.provider.list(Some(&name)).await.is_ok_and(|m| !m.is_empty()),
            };
            if has {
                return Ok((self.with_boot(ctx, &settings), name));
            }
        }
        Ok((self.with_boot(first, &settings), name))
    }

    /// What machines are told besides who they are.
    pub(super) fn boot(&self, settings: &Settings) -> Boot {
        let own = || self.agent().map_err(|e| ApiError::new(e.code, e.message));
        Boot {
            download: Download::new(&settings.agent_url, &settings.agent_sha256, own),
            extra: settings.extra_bootstrap.clone(),
        }
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

    fn qemu(&self, store: &Store, settings: &Settings) -> qemu::QemuSettings {
        let q = settings.qemu.clone();
        let size = |asked: MachineSize| {
            let default = qemu::Size::default();
            qemu::Size {
                cpus: asked.cpus.unwrap_or(default.cpus),
                memory: asked.memory.unwrap_or(default.memory),
                disk: asked.disk.unwrap_or(default.disk),
            }
        };
        qemu::QemuSettings {
            base: store.folder().join("qemu"),
            run_base: run_base(&self.env).join("qemu"),
            image: q.image,
            sha256: q.sha256,
            kernel: q.kernel,
            form: q.form,
            accel: match q.accel {
                Accel::Auto => qemu::Accel::Auto,
                Accel::Kvm => qemu::Accel::Kvm,
                Accel::Tcg => qemu::Accel::Tcg,
            },
            scheduler: size(q.scheduler),
            worker: size(q.worker),
        }
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

    /// An existing cluster, ready to be talked to.
    pub(super) async fn open(&self, named: Option<&ClusterName>) -> Result<(Context, Access), Error> {
        let (ctx, name) = self.find(named, Wish::Look).await?;
        let access = cluster::open(&ctx, &name).await?;
        Ok((ctx, access))
    }
}

/// Flags that name a provider and a region.
fn on(provider: ProviderName, region: Option<&str>) -> UpArgs {
    UpArgs {
        provider: Some(provider),
        machines: super::cli::MachineArgs {
            region: region.map(str::to_owned),
            ..super::cli::MachineArgs::default()
        },
        ..UpArgs::default()
    }
}

fn region_of(ctx: &Context) -> Option<String> {
    ctx.provider.cloud()?.region()
}

/// The only cluster that anybody knows of.
async fn only(contexts: &[Context]) -> Result<ClusterName, Error> {
    let names = all_names(contexts).await?;
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

/// Names of all clusters, remembered or seen. Of other providers than that of the
/// settings only what they can tell counts.
pub(super) async fn all_names(contexts: &[Context]) -> Result<Vec<ClusterName>, Error> {
    let mut names = Vec::new();
    for (i, ctx) in contexts.iter().enumerate() {
        if i == 0 {
            names.extend(ctx.store.names()?);
        }
        names.extend(machines_of(ctx, i == 0).await?.into_iter().map(|m| m.cluster.name));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// All machines of a provider; an error counts only where the settings chose it.
pub(super) async fn machines_of(ctx: &Context, chosen: bool) -> Result<Vec<Machine>, Error> {
    match ctx.provider.list(None).await {
        Ok(machines) => Ok(machines),
        Err(e) if chosen => Err(e.into()),
        Err(e) => {
            tracing::warn!("provider {}: {}", ctx.provider.name(), e.message);
            Ok(Vec::new())
        }
    }
}

fn manual_settings(store: &Store, settings: &Settings, wish: Wish) -> manual::ManualSettings {
    let m = settings.manual.clone();
    manual::ManualSettings {
        base: store.folder().join("manual"),
        programs: manual::Programs {
            create: m.create,
            delete: m.delete,
            list: m.list,
            console: m.console,
        },
        user_data_dir: m.user_data_dir,
        scheduler_address: m.scheduler_address,
        public_address: m.public_address,
        timeout: m.timeout,
        form: m.form,
        patience: settings.start_timeout,
        forget: wish == Wish::Forget,
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
