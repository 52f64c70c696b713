//! From sources in order to one value for each key, with its origin.
//!
//! A value replaces the same key's value of a weaker source. Tables whose keys
//! the user chooses (`tags`, `env.variables`, `workers.resources`) are merged
//! key by key; names of secrets add up; options of Dask's commands add up too,
//! the stronger source's last, where Dask lets them win. Other lists replace,
//! `place.allow` above all: who says whom to let in says it completely.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::bootstrap::{Arch, Mirror, Sha256, UserDataForm};

use super::choice::{Accel, Allow, EnvMode, LocalNetwork, ProviderName, Spot, Wait, WorkerRange};
use super::defaults;
use super::error::{ConfigError, nearest};
use super::file::{self, File};
use super::layer::{FLAGS, Layer};
use super::origin::{Origin, Sourced};
use super::proxy::{Program, ProxyCommand};
use super::value::{Limit, Period, Size, Threads};

/// A value in force, and what it won against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The value as a file would hold it.
    pub value: serde_json::Value,
    /// Where it came from.
    pub origin: Origin,
    /// What weaker sources said, the strongest first.
    pub instead_of: Vec<(Origin, serde_json::Value)>,
}

/// All values in force by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Entries(BTreeMap<String, Entry>);

impl Entries {
    /// A key's value.
    ///
    /// # Errors
    /// When there is no such key, or it has no value; says which.
    pub fn get(&self, key: &str) -> Result<&Entry, ConfigError> {
        // The second name of the same key.
        let key = super::key::plain(key).replace("workers_per_node", "workers_per_vm");
        if let Some(entry) = self.0.get(&key) {
            return Ok(entry);
        }
        let known = || self.0.keys().map(String::as_str).chain(FLAGS.iter().map(|(k, _)| *k));
        if known().any(|k| k == key) {
            return Err(ConfigError::new(format!("{key} has no value")).code(herdsman_wire::Code::NotFound));
        }
        let like = nearest(&key, known()).map_or_else(String::new, |k| format!(" (did you mean {k:?}?)"));
        Err(ConfigError::new(format!("unknown key {key:?}{like}")).hint("`herdsman config get` lists all keys"))
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(k, e)| (k.as_str(), e))
    }

    /// The values as one document of the file's shape.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        let mut root = serde_json::Map::new();
        root.insert("version".into(), file::VERSION.into());
        let mut group = serde_json::Map::new();
        for (key, entry) in &self.0 {
            let (place, key) = match key.strip_prefix("workers.") {
                Some(key) => (&mut group, key),
                None => (&mut root, key.as_str()),
            };
            // Names of tags may hold dots of their own, so tables are two deep.
            let parts: Vec<&str> = if key.starts_with("env.variables.") {
                key.splitn(3, '.')
            } else {
                key.splitn(2, '.')
            }
            .collect();
            insert(place, &parts, &entry.value);
        }
        root.insert("workers".into(), vec![serde_json::Value::Object(group)].into());
        root.into()
    }
}

fn insert(table: &mut serde_json::Map<String, serde_json::Value>, parts: &[&str], value: &serde_json::Value) {
    match parts {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value.clone());
        }
        [first, rest @ ..] => {
            let below = table.entry(*first).or_insert_with(|| serde_json::Map::new().into());
            if let Some(below) = below.as_object_mut() {
                insert(below, rest, value);
            }
        }
    }
}

/// One value for each key, not yet checked against each other.
#[expect(dead_code, reason = "some keys are read by providers that are not here yet")]
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) name: Sourced<String>,
    pub(crate) provider: Sourced<ProviderName>,
    pub(crate) profile: Option<Sourced<String>>,
    pub(crate) wait: Sourced<Wait>,
    pub(crate) keep_failed: Sourced<bool>,
    pub(crate) region: Option<Sourced<String>>,
    pub(crate) zones: Option<Sourced<Vec<String>>>,
    pub(crate) private: Sourced<bool>,
    pub(crate) allow: Sourced<Vec<Allow>>,
    pub(crate) join: Option<Sourced<Vec<IpNet>>>,
    pub(crate) network: Option<Sourced<String>>,
    pub(crate) subnets: Option<Sourced<Vec<String>>>,
    pub(crate) security_groups: Option<Sourced<Vec<String>>>,
    pub(crate) image: Option<Sourced<String>>,
    pub(crate) disk_type: Option<Sourced<String>>,
    pub(crate) ssh_key: Option<Sourced<String>>,
    pub(crate) role: Option<Sourced<String>>,
    pub(crate) scheduler: MergedMachine,
    pub(crate) scheduler_options: Vec<Sourced<String>>,
    pub(crate) group: Option<Sourced<String>>,
    pub(crate) count: Sourced<WorkerRange>,
    pub(crate) worker: MergedMachine,
    pub(crate) spot: Option<Sourced<Spot>>,
    pub(crate) per_node: Sourced<std::num::NonZeroU16>,
    pub(crate) threads: Sourced<Threads>,
    pub(crate) resources: BTreeMap<String, Sourced<f64>>,
    pub(crate) class: Option<Sourced<String>>,
    pub(crate) worker_options: Vec<Sourced<String>>,
    pub(crate) mode: Sourced<EnvMode>,
    pub(crate) lock: Option<Sourced<PathBuf>>,
    pub(crate) python: Option<Sourced<PathBuf>>,
    pub(crate) include: Option<Sourced<Vec<PathBuf>>>,
    pub(crate) ignore: Option<Sourced<Vec<String>>>,
    pub(crate) indexes: Option<Sourced<Vec<String>>>,
    pub(crate) variables: BTreeMap<String, Sourced<String>>,
    pub(crate) secrets: Vec<Sourced<String>>,
    pub(crate) setup: Option<Sourced<Vec<String>>>,
    pub(crate) image_python: Option<Sourced<PathBuf>>,
    pub(crate) idle: Sourced<Limit>,
    pub(crate) no_client: Sourced<Limit>,
    pub(crate) lifetime: Sourced<Limit>,
    pub(crate) max_cost: Option<Sourced<f64>>,
    pub(crate) max_workers: Option<Sourced<u32>>,
    pub(crate) start_timeout: Sourced<Period>,
    pub(crate) insecure: Sourced<bool>,
    /// By the key's last part, such as `tls_cert`.
    pub(crate) tls: BTreeMap<&'static str, Sourced<PathBuf>>,
    pub(crate) tags: BTreeMap<String, Sourced<String>>,
    pub(crate) agent_url: Option<Sourced<Vec<Mirror>>>,
    pub(crate) agent_sha256: Option<Sourced<BTreeMap<Arch, Sha256>>>,
    pub(crate) extra_bootstrap: Option<Sourced<Vec<String>>>,
    pub(crate) local_network: Sourced<LocalNetwork>,
    pub(crate) proxy_command: Option<Sourced<ProxyCommand>>,
    pub(crate) manual: MergedManual,
    pub(crate) qemu: MergedQemu,
    pub(crate) table: toml::Table,
    pub(crate) table_base: PathBuf,
}

#[derive(Debug)]
pub(crate) struct MergedManual {
    pub(crate) user_data_dir: Option<Sourced<PathBuf>>,
    pub(crate) scheduler_address: Option<Sourced<IpAddr>>,
    pub(crate) public_address: Option<Sourced<IpAddr>>,
    pub(crate) create: Option<Sourced<Program>>,
    pub(crate) delete: Option<Sourced<Program>>,
    pub(crate) list: Option<Sourced<Program>>,
    pub(crate) console: Option<Sourced<Program>>,
    pub(crate) timeout: Option<Sourced<Period>>,
    pub(crate) form: Sourced<UserDataForm>,
}

#[derive(Debug)]
pub(crate) struct MergedQemu {
    pub(crate) image: Option<Sourced<PathBuf>>,
    pub(crate) sha256: Option<Sourced<String>>,
    pub(crate) accel: Sourced<Accel>,
    pub(crate) kernel: Option<Sourced<PathBuf>>,
    pub(crate) initrd: Option<Sourced<PathBuf>>,
    pub(crate) form: Sourced<UserDataForm>,
}

#[derive(Debug)]
pub(crate) struct MergedMachine {
    pub(crate) cpu: Option<Sourced<u32>>,
    pub(crate) memory: Option<Sourced<Size>>,
    pub(crate) types: Option<Sourced<Vec<String>>>,
    pub(crate) disk: Option<Sourced<Size>>,
    pub(crate) gpus: Option<Sourced<u32>>,
    pub(crate) gpu_type: Option<Sourced<String>>,
}

/// Sources in order, the strongest first, and what was taken from them.
struct Merger<'l> {
    layers: &'l [Layer],
    entries: Entries,
}

impl Merger<'_> {
    fn note(&mut self, key: &str, found: Vec<(Origin, serde_json::Value)>) {
        let mut found = found.into_iter();
        if let Some((origin, value)) = found.next() {
            let instead_of = found.collect();
            self.entries.0.insert(
                key.to_owned(),
                Entry {
                    value,
                    origin,
                    instead_of,
                },
            );
        }
    }

    fn pick<T: Serialize>(&mut self, key: &str, get: impl Fn(&File) -> Option<T>) -> Option<Sourced<T>> {
        let layers = self.layers;
        let mut found: Vec<Sourced<T>> = layers.iter().filter_map(|l| sourced(l, key, get(&l.file))).collect();
        self.note(key, found.iter().map(|s| (s.origin.clone(), json(&s.value))).collect());
        if found.is_empty() {
            None
        } else {
            Some(found.swap_remove(0))
        }
    }

    fn pick_or<T: Serialize>(&mut self, key: &str, get: impl Fn(&File) -> Option<T>, default: T) -> Sourced<T> {
        let built_in = (Origin::BuiltIn, json(&default));
        let picked = self.pick(key, get);
        match self.entries.0.get_mut(key) {
            Some(entry) => entry.instead_of.push(built_in),
            None => self.note(key, vec![built_in]),
        }
        picked.unwrap_or_else(|| Sourced {
            value: default,
            origin: Origin::BuiltIn,
            base: PathBuf::new(),
        })
    }

    /// Tables that are merged key by key.
    fn pick_map<T: Serialize>(
        &mut self,
        table: &str,
        get: impl Fn(&File) -> Option<BTreeMap<String, T>>,
    ) -> BTreeMap<String, Sourced<T>> {
        let maps: Vec<_> = self.layers.iter().map(|l| get(&l.file).unwrap_or_default()).collect();
        let names: BTreeSet<&String> = maps.iter().flat_map(BTreeMap::keys).collect();
        let mut found: BTreeMap<String, Vec<Sourced<T>>> = names.into_iter().map(|n| (n.clone(), Vec::new())).collect();
        for (layer, map) in self.layers.iter().zip(maps) {
            for (name, value) in map {
                let key = format!("{table}.{name}");
                found.entry(name).or_default().extend(sourced(layer, &key, Some(value)));
            }
        }
        let mut out = BTreeMap::new();
        for (name, mut all) in found {
            self.note(
                &format!("{table}.{name}"),
                all.iter().map(|s| (s.origin.clone(), json(&s.value))).collect(),
            );
            if !all.is_empty() {
                out.insert(name, all.swap_remove(0));
            }
        }
        out
    }

    /// Lists that add up, the weakest source first.
    fn pick_all(&mut self, key: &str, get: impl Fn(&File) -> Option<Vec<String>>) -> Vec<Sourced<String>> {
        let mut all = Vec::new();
        for layer in self.layers.iter().rev() {
            let values = get(&layer.file).unwrap_or_default();
            all.extend(values.into_iter().filter_map(|v| sourced(layer, key, Some(v))));
        }
        if let Some(strongest) = all.last() {
            let values: Vec<&String> = all.iter().map(|s| &s.value).collect();
            let entry = (strongest.origin.clone(), json(&values));
            self.note(key, vec![entry]);
        }
        all
    }
}

fn sourced<T>(layer: &Layer, key: &str, value: Option<T>) -> Option<Sourced<T>> {
    Some(Sourced {
        value: value?,
        origin: layer.origin(key),
        base: layer.base.clone(),
    })
}

/// A value as JSON; ours are texts, numbers and lists of them, which always are.
fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Merges sources, the strongest first.
pub(crate) fn merge(layers: &[Layer], cpus: usize) -> (Merged, Entries) {
    let mut m = Merger {
        layers,
        entries: Entries::default(),
    };
    let provider = m.pick_or("provider", |f| f.provider, defaults::PROVIDER);
    let workers = match provider.value {
        ProviderName::Local => defaults::local_workers(cpus),
        _ => defaults::WORKERS,
    };
    let patience = match provider.value {
        ProviderName::Manual => defaults::MANUAL_START_TIMEOUT,
        _ => defaults::START_TIMEOUT,
    };
    let mut tls = BTreeMap::new();
    for (name, get) in TLS {
        if let Some(path) = m.pick(&format!("security.{name}"), |f| get(&f.security).clone()) {
            tls.insert(*name, path);
        }
    }
    let mut table = toml::Table::new();
    let mut table_base = PathBuf::new();
    for layer in layers.iter().rev() {
        if let Some(own) = layer.file.table(provider.value) {
            table.extend(own.clone());
            table_base.clone_from(&layer.base);
        }
    }
    for key in table.keys() {
        let key = format!("{}.{key}", provider.value);
        let name = key.split_once('.').map_or("", |(_, k)| k);
        m.pick(&key, |f| f.table(provider.value)?.get(name).cloned());
    }
    let per_node = std::num::NonZeroU16::new(defaults::WORKERS_PER_NODE).unwrap_or(std::num::NonZeroU16::MIN);
    let merged = Merged {
        name: m.pick_or("name", |f| f.name.clone(), defaults::NAME.into()),
        profile: m.pick("profile", |f| f.profile.clone()),
        wait: m.pick_or("wait", |f| f.wait, defaults::WAIT),
        keep_failed: m.pick_or("keep_failed", |f| f.keep_failed, false),
        region: m.pick("place.region", |f| f.place.region.clone()),
        zones: m.pick("place.zones", |f| f.place.zones.clone()),
        private: m.pick_or("place.private", |f| f.place.private, false),
        allow: m.pick_or("place.allow", |f| f.place.allow.clone(), vec![defaults::ALLOW]),
        join: m.pick("place.join", |f| f.place.join.clone()),
        network: m.pick("place.network", |f| f.place.network.clone()),
        subnets: m.pick("place.subnets", |f| f.place.subnets.clone()),
        security_groups: m.pick("place.security_groups", |f| f.place.security_groups.clone()),
        image: m.pick("place.image", |f| f.place.image.clone()),
        disk_type: m.pick("place.disk_type", |f| f.place.disk_type.clone()),
        ssh_key: m.pick("place.ssh_key", |f| f.place.ssh_key.clone()),
        role: m.pick("place.role", |f| f.place.role.clone()),
        scheduler: MergedMachine {
            cpu: m.pick("scheduler.cpu", |f| f.scheduler.cpu),
            memory: m.pick("scheduler.memory", |f| f.scheduler.memory),
            types: m.pick("scheduler.type", |f| f.scheduler.types.clone()),
            disk: m.pick("scheduler.disk", |f| f.scheduler.disk),
            gpus: m.pick("scheduler.gpus", |f| f.scheduler.gpus),
            gpu_type: m.pick("scheduler.gpu_type", |f| f.scheduler.gpu_type.clone()),
        },
        scheduler_options: m.pick_all("scheduler.options", |f| f.scheduler.options.clone()),
        group: m.pick("workers.name", |f| f.group()?.name.clone()),
        count: m.pick_or("workers.count", |f| f.group()?.count, WorkerRange::fixed(workers)),
        worker: MergedMachine {
            cpu: m.pick("workers.cpu", |f| f.group()?.cpu),
            memory: m.pick("workers.memory", |f| f.group()?.memory),
            types: m.pick("workers.type", |f| f.group()?.types.clone()),
            disk: m.pick("workers.disk", |f| f.group()?.disk),
            gpus: m.pick("workers.gpus", |f| f.group()?.gpus),
            gpu_type: m.pick("workers.gpu_type", |f| f.group()?.gpu_type.clone()),
        },
        spot: m.pick("workers.spot", |f| f.group()?.spot),
        per_node: m.pick_or("workers.workers_per_vm", |f| f.group()?.workers_per_vm, per_node),
        threads: m.pick_or("workers.threads", |f| f.group()?.threads, Threads::Auto),
        resources: m.pick_map("workers.resources", |f| f.group()?.resources.clone()),
        class: m.pick("workers.class", |f| f.group()?.class.clone()),
        worker_options: m.pick_all("workers.options", |f| f.group()?.options.clone()),
        mode: m.pick_or("env.mode", |f| f.env.mode.clone(), EnvMode::Source(defaults::ENV)),
        lock: m.pick("env.lock", |f| f.env.lock.clone()),
        python: m.pick("env.python", |f| f.env.python.clone()),
        include: m.pick("env.include", |f| f.env.include.clone()),
        ignore: m.pick("env.ignore", |f| f.env.ignore.clone()),
        indexes: m.pick("env.indexes", |f| f.env.indexes.clone()),
        variables: m.pick_map("env.variables", |f| f.env.variables.clone().map(|v| v.0)),
        secrets: m.pick_all("env.secrets", |f| f.env.secrets.clone()),
        setup: m.pick("env.setup", |f| f.env.setup.clone()),
        image_python: m.pick("env.image_python", |f| f.env.image_python.clone()),
        idle: m.pick_or(
            "limits.idle",
            |f| f.limits.idle,
            Limit::After(Period::new(defaults::IDLE)),
        ),
        no_client: m.pick_or("limits.no_client", |f| f.limits.no_client, Limit::Off),
        lifetime: m.pick_or(
            "limits.lifetime",
            |f| f.limits.lifetime,
            Limit::After(Period::new(defaults::LIFETIME)),
        ),
        max_cost: m.pick("limits.max_cost", |f| f.limits.max_cost),
        max_workers: m.pick("limits.max_workers", |f| f.limits.max_workers),
        start_timeout: m.pick_or(
            "limits.start_timeout",
            |f| f.limits.start_timeout,
            Period::new(patience),
        ),
        insecure: m.pick_or("security.insecure", |f| f.security.insecure, false),
        tls,
        tags: m.pick_map("tags", |f| Some(f.tags.clone())),
        proxy_command: m.pick("connect.proxy_command", |f| f.connect.proxy_command.clone()),
        agent_url: m.pick("agent.url", |f| f.agent.url.clone()),
        agent_sha256: m.pick("agent.sha256", |f| f.agent.sha256.clone()),
        extra_bootstrap: m.pick("extra_bootstrap", |f| f.extra_bootstrap.clone()),
        manual: MergedManual {
            user_data_dir: m.pick("manual.user_data_dir", |f| f.manual.user_data_dir.clone()),
            scheduler_address: m.pick("manual.scheduler_address", |f| f.manual.scheduler_address),
            public_address: m.pick("manual.public_address", |f| f.manual.public_address),
            create: m.pick("manual.create", |f| f.manual.create.clone()),
            delete: m.pick("manual.delete", |f| f.manual.delete.clone()),
            list: m.pick("manual.list", |f| f.manual.list.clone()),
            console: m.pick("manual.console", |f| f.manual.console.clone()),
            timeout: m.pick("manual.timeout", |f| f.manual.timeout),
            form: m.pick_or("manual.form", |f| f.manual.form, UserDataForm::CloudConfig),
        },
        qemu: MergedQemu {
            image: m.pick("qemu.image", |f| f.qemu.image.clone()),
            sha256: m.pick("qemu.sha256", |f| f.qemu.sha256.clone()),
            accel: m.pick_or("qemu.accel", |f| f.qemu.accel, Accel::Auto),
            kernel: m.pick("qemu.kernel", |f| f.qemu.kernel.clone()),
            initrd: m.pick("qemu.initrd", |f| f.qemu.initrd.clone()),
            form: m.pick_or("qemu.form", |f| f.qemu.form, UserDataForm::CloudConfig),
        },
        local_network: m.pick_or("local.network", |f| f.local.network, LocalNetwork::Auto),
        table,
        table_base,
        provider,
    };
    (merged, m.entries)
}

type GetPath = fn(&file::Security) -> &Option<PathBuf>;

/// Files of the user's own certificates.
const TLS: &[(&str, GetPath)] = &[
    ("tls_ca_file", |s| &s.tls_ca_file),
    ("tls_cert", |s| &s.tls_cert),
    ("tls_key", |s| &s.tls_key),
    ("tls_scheduler_cert", |s| &s.tls_scheduler_cert),
    ("tls_scheduler_key", |s| &s.tls_scheduler_key),
    ("tls_worker_cert", |s| &s.tls_worker_cert),
    ("tls_worker_key", |s| &s.tls_worker_key),
    ("tls_client_cert", |s| &s.tls_client_cert),
    ("tls_client_key", |s| &s.tls_client_key),
];
