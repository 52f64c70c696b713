//! The settings as files hold them: `herdsman.toml`, `[tool.herdsman]` in
//! `pyproject.toml`, and the user's `config.toml`. Everything is optional; what
//! is not listed is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bootstrap::{Arch, Mirror, Sha256, UserDataForm};

use super::choice::{Accel, Allow, EnvMode, LocalNetwork, ProviderName, Spot, Wait, WorkerRange};
use super::pair::check_variable_name;
use super::proxy::{Program, ProxyCommand};
use super::value::{Limit, Period, Size, Threads, ValueError};

/// Version of the files that this build reads.
pub const VERSION: u32 = 1;

/// A project's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// [`VERSION`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The cluster's name; `{user}` and `{branch}` are filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What makes the machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// Profile of the user's settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What `up` waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Keep what was made when `up` fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_failed: Option<bool>,
    /// Where the machines stand and who may reach them.
    #[serde(skip_serializing_if = "is_default")]
    pub place: Place,
    /// The scheduler's machine.
    #[serde(skip_serializing_if = "is_default")]
    pub scheduler: Scheduler,
    /// Groups of workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<Workers>>,
    /// The Python environment.
    #[serde(skip_serializing_if = "is_default")]
    pub env: Environment,
    /// When the cluster ends by itself, and other bounds.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Certificates of Dask's own traffic.
    #[serde(skip_serializing_if = "is_default")]
    pub security: Security,
    /// How this computer reaches the cluster.
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Connect,
    /// Tags of everything that is made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Where machines get their agent.
    #[serde(skip_serializing_if = "is_default")]
    pub agent: Agent,
    /// Shell lines that machines run before their agent starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_bootstrap: Option<Vec<String>>,
    /// What only provider `local` has.
    #[serde(skip_serializing_if = "is_default")]
    pub local: Local,
    /// What only provider `manual` has.
    #[serde(skip_serializing_if = "is_default")]
    pub manual: Manual,
    /// What only provider `qemu` has.
    #[serde(skip_serializing_if = "is_default")]
    pub qemu: Qemu,
    /// What only this provider has; read by its own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcp: Option<toml::Table>,
    /// See `gcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws: Option<toml::Table>,
    /// See `gcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<toml::Table>,
    /// See `gcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digitalocean: Option<toml::Table>,
    /// See `gcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hetzner: Option<toml::Table>,
    /// See `gcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openstack: Option<toml::Table>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl File {
    /// The table of a provider that reads its own.
    #[must_use]
    pub const fn table(&self, provider: ProviderName) -> Option<&toml::Table> {
        match provider {
            ProviderName::Local | ProviderName::Manual | ProviderName::Qemu => None,
            ProviderName::Gcp => self.gcp.as_ref(),
            ProviderName::Aws => self.aws.as_ref(),
            ProviderName::Azure => self.azure.as_ref(),
            ProviderName::DigitalOcean => self.digitalocean.as_ref(),
            ProviderName::Hetzner => self.hetzner.as_ref(),
            ProviderName::OpenStack => self.openstack.as_ref(),
        }
    }

    /// The group of workers at an index, made when it is missing.
    pub(crate) fn workers_mut(&mut self) -> &mut Workers {
        let groups = self.workers.get_or_insert_with(Vec::new);
        if groups.is_empty() {
            groups.push(Workers::default());
        }
        &mut groups[0]
    }

    /// The first group of workers.
    pub(crate) fn group(&self) -> Option<&Workers> {
        self.workers.as_ref()?.first()
    }
}

/// Declares a table whose fields are all optional.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$attr])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)*
        }
    };
}

table! {
    /// Where machines stand and who may reach them.
    Place {
        /// Region of the provider.
        region: String,
        /// Zones, tried in order.
        zones: Vec<String>,
        /// No public address anywhere.
        private: bool,
        /// Who may reach the cluster's ports.
        allow: Vec<Allow>,
        /// Where nodes come from whose address cannot be known before they enrol.
        join: Vec<IpNet>,
        /// An existing network, by id or name.
        network: String,
        /// Existing parts of it, tried in order.
        subnets: Vec<String>,
        /// Existing firewalls that machines get besides our own.
        security_groups: Vec<String>,
        /// Image that machines start from, in the provider's words.
        image: String,
        /// Kind of disk, in the provider's words.
        disk_type: String,
        /// A key that the provider knows, for people who log in.
        ssh_key: String,
        /// What machines may do at the provider: an instance profile, a service
        /// account or a managed identity.
        role: String,
    }
}

table! {
    /// The scheduler's machine and process.
    Scheduler {
        /// Processors.
        cpu: u32,
        /// Memory.
        memory: Size,
        /// Exact types, first available wins.
        #[serde(rename = "type")]
        types: Vec<String>,
        /// Disk.
        disk: Size,
        /// Graphics processors.
        gpus: u32,
        /// Their kind.
        gpu_type: String,
        /// Further arguments of `dask scheduler`.
        options: Vec<String>,
    }
}

table! {
    /// A group of workers.
    Workers {
        /// The group's name.
        name: String,
        /// How many.
        count: WorkerRange,
        /// Processors of each machine.
        cpu: u32,
        /// Memory of each machine.
        memory: Size,
        /// Exact types, first available wins.
        #[serde(rename = "type")]
        types: Vec<String>,
        /// Disk of each machine.
        disk: Size,
        /// Graphics processors of each machine.
        gpus: u32,
        /// Their kind.
        gpu_type: String,
        /// Machines that the provider may take away.
        spot: Spot,
        /// Worker processes on each machine.
        #[serde(alias = "workers_per_node")]
        workers_per_vm: std::num::NonZeroU16,
        /// Threads of each worker process.
        threads: Threads,
        /// Abstract resources of each worker process.
        resources: BTreeMap<String, f64>,
        /// Class of worker processes under the nanny.
        class: String,
        /// Further arguments of `dask worker`.
        options: Vec<String>,
    }
}

table! {
    /// The Python environment.
    Environment {
        /// `auto`, `lock`, `lock:FILE`, `image` or `none`.
        mode: EnvMode,
        /// Lock file of mode `lock`.
        lock: PathBuf,
        /// Environment or interpreter to copy.
        python: PathBuf,
        /// Further code.
        include: Vec<PathBuf>,
        /// Packages to leave out.
        ignore: Vec<String>,
        /// Further package indexes, without passwords.
        indexes: Vec<String>,
        /// Environment of Dask's processes.
        variables: Variables,
        /// Names of variables whose values are secret.
        secrets: Vec<String>,
        /// Commands before Dask starts.
        setup: Vec<String>,
        /// Interpreter of the machines' image, with mode `image` or `none`.
        image_python: PathBuf,
    }
}

table! {
    /// When a cluster ends by itself, and other bounds.
    Limits {
        /// After this long without a task.
        idle: Limit,
        /// After this long without a client.
        no_client: Limit,
        /// This long after its start.
        lifetime: Limit,
        /// Once the estimate passes this, in the provider's currency.
        max_cost: f64,
        /// Most workers there may ever be.
        max_workers: u32,
        /// How long a node may take to start.
        start_timeout: Period,
    }
}

table! {
    /// Certificates of Dask's own traffic. Files, never their content.
    Security {
        /// Plain TCP for Dask's own traffic.
        insecure: bool,
        /// Certificates that Dask trusts.
        tls_ca_file: PathBuf,
        /// Chain of all roles without one of their own.
        tls_cert: PathBuf,
        /// Its key.
        tls_key: PathBuf,
        /// The scheduler's chain.
        tls_scheduler_cert: PathBuf,
        /// Its key.
        tls_scheduler_key: PathBuf,
        /// The workers' chain.
        tls_worker_cert: PathBuf,
        /// Its key.
        tls_worker_key: PathBuf,
        /// The client's chain.
        tls_client_cert: PathBuf,
        /// Its key.
        tls_client_key: PathBuf,
    }
}

table! {
    /// How this computer reaches the cluster.
    Connect {
        /// Program whose standard input and output lead to the hub; `%h` and
        /// `%p` are its address and port.
        proxy_command: ProxyCommand,
    }
}

table! {
    /// Where machines get their agent.
    Agent {
        /// Addresses, tried in order; `{arch}` is the machine's architecture.
        url: Vec<Mirror>,
        /// SHA-256 of the file for each architecture.
        sha256: BTreeMap<Arch, Sha256>,
    }
}

table! {
    /// What only provider `local` has.
    Local {
        /// How nodes are joined.
        network: LocalNetwork,
    }
}

table! {
    /// What only provider `manual` has: machines that somebody else makes.
    Manual {
        /// Folder that user-data is written to, for whoever makes the machines.
        user_data_dir: PathBuf,
        /// The scheduler's address as its workers reach it.
        scheduler_address: IpAddr,
        /// The scheduler's address as this computer reaches it, where that is
        /// another one.
        public_address: IpAddr,
        /// Makes a machine.
        create: Program,
        /// Deletes a machine.
        delete: Program,
        /// Lists machines.
        list: Program,
        /// Shows a machine's console.
        console: Program,
        /// How long each of these programs may take.
        timeout: Period,
        /// Form of user-data.
        form: UserDataForm,
    }
}

table! {
    /// What only provider `qemu` has: virtual machines on this computer.
    Qemu {
        /// Disk image that all machines start from.
        image: PathBuf,
        /// SHA-256 of the image, in hex.
        sha256: String,
        /// How instructions are carried out.
        accel: Accel,
        /// Kernel of an image that has no boot loader.
        kernel: PathBuf,
        /// Initial file system of that kernel.
        initrd: PathBuf,
        /// Form of user-data.
        form: UserDataForm,
    }
}

/// Environment variables, with names that a shell would take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Variables(pub BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Variables {
    type Error = ValueError;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, ValueError> {
        map.keys().try_for_each(|name| check_variable_name(name))?;
        Ok(Self(map))
    }
}

impl From<Variables> for BTreeMap<String, String> {
    fn from(v: Variables) -> Self {
        v.0
    }
}

/// The user's own settings, `~/.config/herdsman/config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserFile {
    /// [`VERSION`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Provider where neither flag nor project names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_provider: Option<ProviderName>,
    /// Profile where neither flag nor project names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_profile: Option<String>,
    /// Price by the hour above which `up` asks, such as `1.00 USD/h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_above: Option<String>,
    /// Accounts and whatever else belongs together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, File>,
    /// The same tables as in a project's file.
    #[serde(skip_serializing_if = "is_default")]
    pub defaults: File,
}
