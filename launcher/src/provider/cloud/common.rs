//! Settings that all clouds know. What a cloud alone has stands in its own table,
//! which its folder reads.

use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::Env;

pub use crate::config::Spot;

/// Graphics processors of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// How many; 0: none.
    pub count: u32,
    /// Of which kind, in the vendor's words.
    pub kind: Option<String>,
}

/// A machine as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineWish {
    /// At least so many processors.
    pub cpus: Option<u32>,
    /// At least so many bytes.
    pub memory: Option<u64>,
    /// Exact types, tried in order; they count more than the others.
    pub types: Vec<String>,
    /// Bytes of disk.
    pub disk: Option<u64>,
    /// Graphics processors.
    pub gpus: Gpus,
}

/// Settings that all clouds know.
#[derive(Clone, Debug)]
pub struct Common {
    /// Region; absent: what the vendor's own tools would use.
    pub region: Option<String>,
    /// Zones, tried in order; empty: any.
    pub zones: Vec<String>,
    /// No public address anywhere.
    pub private: bool,
    /// An existing network, by id or name.
    pub network: Option<String>,
    /// Existing parts of it, tried in order.
    pub subnets: Vec<String>,
    /// Existing firewalls that machines get besides our own.
    pub security_groups: Vec<String>,
    /// Networks that are let in.
    pub allow: Vec<IpNet>,
    /// Whether this computer is.
    pub allow_me: bool,
    /// Image: an id, a name or a family, in the vendor's words.
    pub image: Option<String>,
    /// Kind of disk, in the vendor's words.
    pub disk_type: Option<String>,
    /// A key that the vendor knows, for people who want to log in.
    pub ssh_key: Option<String>,
    /// What machines may do at the vendor: instance profile, service account,
    /// managed identity.
    pub role: Option<String>,
    /// The scheduler's machine.
    pub scheduler: MachineWish,
    /// A worker's machine.
    pub worker: MachineWish,
    /// Whether workers may be of the kind that is taken away.
    pub spot: Spot,
    /// After this long a machine is to go, whatever happens.
    pub lifetime: Option<std::time::Duration>,
    /// The cloud's own table.
    pub table: toml::Table,
    /// Folder that relative paths in that table start from.
    pub base: PathBuf,
    /// The environment: tokens, profiles, the vendor's files.
    pub env: Env,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            region: None,
            zones: Vec::new(),
            private: false,
            network: None,
            subnets: Vec::new(),
            security_groups: Vec::new(),
            allow: Vec::new(),
            allow_me: true,
            image: None,
            disk_type: None,
            ssh_key: None,
            role: None,
            scheduler: MachineWish::default(),
            worker: MachineWish::default(),
            spot: Spot::Never,
            lifetime: None,
            table: toml::Table::new(),
            base: PathBuf::new(),
            env: Env::default(),
        }
    }
}

impl Common {
    /// The cloud's own table as its type, which should have
    /// `#[serde(deny_unknown_fields, default)]`.
    ///
    /// # Errors
    /// `E-USAGE` naming the table and the key.
    pub fn own<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, super::ProviderError> {
        self.table.clone().try_into().map_err(|e: toml::de::Error| {
            let what = e.message().trim().replace('\n', ", ");
            super::error(herdsman_wire::Code::Usage, format!("[{name}]: {what}"))
        })
    }

    /// Where the vendor's API is, if that was said: in the cloud's table as
    /// `endpoint`, or in `HERDSMAN_<CLOUD>_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self, cloud: &str) -> Option<String> {
        let named = format!("HERDSMAN_{}_ENDPOINT", cloud.to_ascii_uppercase());
        let given = self.env.get(&named).map(str::to_owned);
        given.or_else(|| Some(self.table.get("endpoint")?.as_str()?.to_owned()))
    }

    /// The wish for a role.
    #[must_use]
    pub const fn wish(&self, role: herdsman_wire::Role) -> &MachineWish {
        match role {
            herdsman_wire::Role::Scheduler => &self.scheduler,
            herdsman_wire::Role::Worker => &self.worker,
        }
    }
}
