//! Checked settings: what the rest of the launcher works with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::{ClusterName, Code, Secret};
use ipnet::IpNet;

use crate::bootstrap::{Arch, Mirror, Sha256, UserDataForm};
use crate::provider::cloud::{Common, Gpus, MachineWish};

use super::check::{self, fault};
use super::choice::{Accel, Allow, EnvMode, EnvSource, LocalNetwork, ProviderName, Wait, WorkerRange};
use super::defaults;
use super::error::ConfigError;
use super::merge::{Merged, MergedMachine, MergedManual, MergedQemu};
use super::origin::{Origin, Sourced};
use super::proxy::Program;
use super::value::{Limit, Threads};
use super::vars::Env;
use super::{name, security};

/// The user's own certificates for Dask's traffic, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificates {
    /// Certificates that Dask trusts.
    pub ca: PathBuf,
    /// The scheduler's chain and key.
    pub scheduler: (PathBuf, PathBuf),
    /// The workers' chain and key.
    pub worker: (PathBuf, PathBuf),
    /// The client's chain and key.
    pub client: (PathBuf, PathBuf),
}

/// What only provider `manual` has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manual {
    /// Folder for user-data; absent: the cluster's own.
    pub user_data_dir: Option<PathBuf>,
    /// The scheduler as workers reach it, if known before it exists.
    pub scheduler_address: Option<IpAddr>,
    /// The scheduler as this computer reaches it, if that is another address.
    pub public_address: Option<IpAddr>,
    /// Program and arguments that make a machine.
    pub create: Option<Vec<String>>,
    /// Program and arguments that delete a machine.
    pub delete: Option<Vec<String>>,
    /// Program and arguments that list machines.
    pub list: Option<Vec<String>>,
    /// Program and arguments that show a console.
    pub console: Option<Vec<String>>,
    /// How long each of them may take.
    pub timeout: Option<Duration>,
    /// Form of user-data.
    pub form: UserDataForm,
}

/// What only provider `qemu` has, with the sizes of its machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qemu {
    /// Image that machines start from.
    pub image: Option<PathBuf>,
    /// What the image must be: SHA-256, lower-case hex.
    pub sha256: Option<String>,
    /// How instructions are carried out.
    pub accel: Accel,
    /// Kernel of an image that has no boot loader, and its initial file system.
    pub kernel: Option<(PathBuf, Option<PathBuf>)>,
    /// Form of user-data.
    pub form: UserDataForm,
    /// The scheduler's machine.
    pub scheduler: MachineSize,
    /// A worker's machine.
    pub worker: MachineSize,
}

/// A machine's size as far as it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineSize {
    /// Processors.
    pub cpus: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub disk: Option<u64>,
}

/// Checked settings of a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Whether somebody chose the name.
    pub named: bool,
    /// What makes the machines.
    pub provider: ProviderName,
    /// How many workers.
    pub workers: WorkerRange,
    /// What `up` waits for.
    pub wait: Wait,
    /// Longest start.
    pub start_timeout: Duration,
    /// Keep what was made when `up` fails.
    pub keep_failed: bool,
    /// End after this long without a task.
    pub idle: Option<Duration>,
    /// End after this long without a client.
    pub no_client: Option<Duration>,
    /// End this long after the start.
    pub lifetime: Option<Duration>,
    /// Worker processes on each node.
    pub workers_per_node: u16,
    /// Threads of each worker process; absent: the machine's share.
    pub threads: Option<u16>,
    /// Memory of a worker's node, bytes.
    pub memory: Option<u64>,
    /// Abstract resources of each worker process.
    pub resources: BTreeMap<String, f64>,
    /// Class of worker processes.
    pub worker_class: Option<String>,
    /// Further arguments of `dask worker`.
    pub worker_options: Vec<String>,
    /// Further arguments of `dask scheduler`.
    pub scheduler_options: Vec<String>,
    /// Where the environment comes from.
    pub env: EnvSource,
    /// Interpreter or environment that was asked for.
    pub python: Option<PathBuf>,
    /// Further code.
    pub include: Vec<PathBuf>,
    /// Packages to leave out.
    pub ignore: Vec<String>,
    /// Further package indexes.
    pub indexes: Vec<String>,
    /// Commands before Dask starts.
    pub setup: Vec<String>,
    /// Environment of Dask's processes; values of secret ones were read here.
    pub variables: BTreeMap<String, Secret>,
    /// The user's own certificates.
    pub own: Option<OwnCertificates>,
    /// Plain TCP for Dask's traffic.
    pub insecure: bool,
    /// Who may reach the cluster.
    pub allow: Vec<Allow>,
    /// Where nodes come from whose address cannot be known before they enrol.
    pub join: Vec<IpNet>,
    /// Further tags.
    pub tags: BTreeMap<String, String>,
    /// Where machines get their agent, if the user says so.
    pub agent_url: Vec<Mirror>,
    /// What that agent must be.
    pub agent_sha256: BTreeMap<Arch, Sha256>,
    /// Shell lines that machines run before their agent starts.
    pub extra_bootstrap: Vec<String>,
    /// How local nodes are joined.
    pub local_network: LocalNetwork,
    /// Program that leads to the hub, and its arguments.
    pub proxy_command: Option<Vec<String>>,
    /// Interpreter of the machines' image.
    pub image_python: Option<PathBuf>,
    /// Machines that somebody else makes.
    pub manual: Manual,
    /// Virtual machines on this computer.
    pub qemu: Qemu,
    /// Machines of a cloud.
    pub cloud: Common,
    /// Once the estimate passes this, in the provider's currency.
    pub max_cost: Option<f64>,
}

impl Settings {
    /// Checks merged values against each other. The texts are warnings.
    pub(super) fn check(m: Merged, env: &Env) -> Result<(Self, Vec<String>), ConfigError> {
        let named = m.name.value != defaults::NAME;
        let name = name::fill(&m.name.value, env, &m.name.base).map_err(|e| e.key("name").at(m.name.origin.clone()))?;
        let warnings = check::check(&m)?;
        let resources = m.resources.iter().map(|(k, v)| (k.clone(), v.value)).collect();
        let own = security::check(&m.insecure, &m.tls)?;
        let variables = variables(&m, env)?;
        let cloud = cloud(&m, env);
        let env_source = source(&m)?;
        let threads = match m.threads.value {
            Threads::Auto => None,
            Threads::Count(n) => Some(n.get()),
        };
        let paths = |list: Option<Sourced<Vec<PathBuf>>>| {
            list.map_or_else(Vec::new, |s| s.value.iter().map(|p| s.base.join(p)).collect())
        };
        let settings = Self {
            name,
            named,
            provider: m.provider.value,
            workers: m.count.value,
            wait: m.wait.value,
            start_timeout: m.start_timeout.value.get(),
            keep_failed: m.keep_failed.value,
            idle: span(m.idle.value),
            no_client: span(m.no_client.value),
            lifetime: span(m.lifetime.value),
            workers_per_node: m.per_node.value.get(),
            threads,
            memory: m.worker.memory.as_ref().map(|s| s.value.bytes()),
            resources,
            worker_class: m.class.map(|c| c.value),
            worker_options: m.worker_options.into_iter().map(|o| o.value).collect(),
            scheduler_options: m.scheduler_options.into_iter().map(|o| o.value).collect(),
            env: env_source,
            python: m.python.as_ref().map(python),
            include: paths(m.include),
            ignore: m.ignore.map(|s| s.value).unwrap_or_default(),
            indexes: m.indexes.map(|s| s.value).unwrap_or_default(),
            setup: m.setup.map(|s| s.value).unwrap_or_default(),
            variables,
            own,
            insecure: m.insecure.value,
            allow: m.allow.value,
            join: m.join.map(|s| s.value).unwrap_or_default(),
            tags: m.tags.into_iter().map(|(k, v)| (k, v.value)).collect(),
            agent_url: m.agent_url.map(|u| u.value).unwrap_or_default(),
            agent_sha256: m.agent_sha256.map(|h| h.value).unwrap_or_default(),
            extra_bootstrap: m.extra_bootstrap.map(|l| l.value).unwrap_or_default(),
            local_network: m.local_network.value,
            proxy_command: m.proxy_command.map(|c| c.value.argv().to_vec()),
            image_python: m.image_python.map(|p| p.value),
            qemu: qemu(&m.qemu, &m.scheduler, &m.worker),
            manual: manual(m.manual),
            cloud,
            max_cost: m.max_cost.map(|c| c.value),
        };
        Ok((settings, warnings))
    }
}

fn cloud(m: &Merged, env: &Env) -> Common {
    fn value<T: Clone>(s: &Option<Sourced<T>>) -> Option<T> {
        s.as_ref().map(|s| s.value.clone())
    }
    let wish = |m: &MergedMachine| MachineWish {
        cpus: value(&m.cpu),
        memory: m.memory.as_ref().map(|s| s.value.bytes()),
        types: value(&m.types).unwrap_or_default(),
        disk: m.disk.as_ref().map(|s| s.value.bytes()),
        gpus: Gpus {
            // A kind alone means one of it.
            count: value(&m.gpus).unwrap_or_else(|| u32::from(m.gpu_type.is_some())),
            kind: value(&m.gpu_type),
        },
    };
    let nets = m.allow.value.iter().filter_map(|a| match a {
        Allow::Net(net) => Some(*net),
        Allow::Me | Allow::None => None,
    });
    Common {
        region: value(&m.region),
        zones: value(&m.zones).unwrap_or_default(),
        private: m.private.value,
        network: value(&m.network),
        subnets: value(&m.subnets).unwrap_or_default(),
        security_groups: value(&m.security_groups).unwrap_or_default(),
        allow: nets.collect(),
        allow_me: m.allow.value.contains(&Allow::Me),
        image: value(&m.image),
        disk_type: value(&m.disk_type),
        ssh_key: value(&m.ssh_key),
        role: value(&m.role),
        scheduler: wish(&m.scheduler),
        worker: wish(&m.worker),
        spot: value(&m.spot).unwrap_or(super::Spot::Never),
        lifetime: span(m.lifetime.value),
        table: m.table.clone(),
        base: m.table_base.clone(),
        env: env.clone(),
    }
}

fn manual(m: MergedManual) -> Manual {
    let program = |p: Option<Sourced<Program>>| p.map(|p| program(&p));
    Manual {
        user_data_dir: m.user_data_dir.map(|d| d.base.join(d.value)),
        scheduler_address: m.scheduler_address.map(|a| a.value),
        public_address: m.public_address.map(|a| a.value),
        create: program(m.create),
        delete: program(m.delete),
        list: program(m.list),
        console: program(m.console),
        timeout: m.timeout.map(|t| t.value.get()),
        form: m.form.value,
    }
}

/// A program with a folder before its name lies where the file that names it
/// does; a bare name is found on the path.
fn program(program: &Sourced<Program>) -> Vec<String> {
    let mut argv = program.value.argv().to_vec();
    if let Some(first) = argv.first_mut()
        && PathBuf::from(&*first).components().count() > 1
        && let Ok(full) = program.base.join(&*first).into_os_string().into_string()
    {
        *first = full;
    }
    argv
}

fn qemu(m: &MergedQemu, scheduler: &MergedMachine, worker: &MergedMachine) -> Qemu {
    let size = |m: &MergedMachine| MachineSize {
        cpus: m.cpu.as_ref().map(|c| c.value),
        memory: m.memory.as_ref().map(|s| s.value.bytes()),
        disk: m.disk.as_ref().map(|s| s.value.bytes()),
    };
    let path = |p: &Option<Sourced<PathBuf>>| p.as_ref().map(|p| p.base.join(&p.value));
    Qemu {
        image: path(&m.image),
        kernel: path(&m.kernel).map(|k| (k, path(&m.initrd))),
        sha256: m.sha256.as_ref().map(|h| h.value.to_ascii_lowercase()),
        accel: m.accel.value,
        form: m.form.value,
        scheduler: size(scheduler),
        worker: size(worker),
    }
}

fn span(limit: Limit) -> Option<Duration> {
    limit.seconds().map(Duration::from_secs)
}

/// A path from where it was written; a bare word that is no file there is a
/// program to be found, like `python3.12`.
fn python(python: &Sourced<PathBuf>) -> PathBuf {
    let full = python.base.join(&python.value);
    if python.value.components().count() == 1 && !full.exists() {
        return python.value.clone();
    }
    full
}

fn source(m: &Merged) -> Result<EnvSource, ConfigError> {
    match (&m.mode.value, &m.lock) {
        // The file alone says enough.
        (_, Some(lock)) if m.mode.origin == Origin::BuiltIn => Ok(EnvSource::Lock(lock.base.join(&lock.value))),
        (EnvMode::Source(EnvSource::Lock(file)), _) => Ok(EnvSource::Lock(m.mode.base.join(file))),
        (EnvMode::Source(source), _) => Ok(source.clone()),
        (EnvMode::Lock, Some(lock)) => Ok(EnvSource::Lock(lock.base.join(&lock.value))),
        (EnvMode::Lock, None) => Err(fault(&m.mode, "env.mode", "mode lock needs the lock file".into())
            .hint("write env.lock = \"uv.lock\", or mode = \"lock:uv.lock\"")),
    }
}

fn variables(m: &Merged, env: &Env) -> Result<BTreeMap<String, Secret>, ConfigError> {
    let mut all: BTreeMap<String, Secret> = m
        .variables
        .iter()
        .map(|(k, v)| (k.clone(), Secret::new(v.value.as_str())))
        .collect();
    for name in &m.secrets {
        let value = env.get(&name.value).ok_or_else(|| {
            fault(name, "env.secrets", format!("{} is not set in this shell", name.value))
                .code(Code::NotFound)
                .hint(format!(
                    "export {}=…             then run the command again",
                    name.value
                ))
        })?;
        all.insert(name.value.clone(), Secret::new(value));
    }
    Ok(all)
}
