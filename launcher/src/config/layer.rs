//! One source of settings each: flags, a file, the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::command::cli::{Global, UpArgs};

use super::choice::EnvMode;
use super::error::{ConfigError, nearest};
use super::file::{File, Variables};
use super::given::{self, Part};
use super::origin::Origin;
use super::places::Lines;
use super::vars::{self, Env};
use super::{parse, secrets};

/// A source of settings: what it says, and where each key stands in it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) file: File,
    /// Folder that relative paths start from.
    pub(crate) base: PathBuf,
    pub(crate) source: Source,
}

#[derive(Clone, Debug)]
pub(crate) enum Source {
    Flags,
    Env(BTreeMap<String, String>),
    File { path: PathBuf, lines: Lines },
    Profile { name: String, path: PathBuf, lines: Lines },
    User { path: PathBuf, lines: Lines },
    Given(Part),
}

impl Layer {
    /// Where this source says what it says about `key`.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        let line = |lines: &Lines, prefix: &str| {
            let path = |key: &str| lines.get(&format!("{prefix}{key}")).copied();
            // The one key with two names.
            path(key).or_else(|| path(&key.replace("workers_per_vm", "workers_per_node")))
        };
        match &self.source {
            Source::Flags => Origin::Flag { flag: flag_of(key) },
            Source::Given(part) => given::origin(*part, key),
            Source::Env(names) => {
                let table = key.rsplit_once('.').map(|(t, _)| t);
                let name = names.get(key).or_else(|| names.get(table?));
                Origin::Env {
                    variable: name.cloned().unwrap_or_else(|| vars::DASK_PREFIX.into()),
                }
            }
            Source::File { path, lines } => Origin::File {
                path: path.clone(),
                line: line(lines, ""),
            },
            Source::Profile { name, path, lines } => Origin::Profile {
                profile: name.clone(),
                path: path.clone(),
                line: line(lines, &format!("profiles.{name}.")),
            },
            Source::User { path, lines } => Origin::User {
                path: path.clone(),
                line: line(lines, "defaults.").or_else(|| line(lines, "default_")),
            },
        }
    }
}

/// The flag that sets a key.
fn flag_of(key: &str) -> &'static str {
    if key.starts_with("tags.") {
        return "--tag";
    }
    if key.starts_with("env.variables.") {
        return "--env-var";
    }
    FLAGS.iter().find(|(k, _)| *k == key).map_or("--set", |(_, flag)| flag)
}

/// Keys and the flags that set them.
pub(crate) const FLAGS: &[(&str, &str)] = &[
    ("name", "NAME"),
    ("provider", "--provider"),
    ("profile", "--profile"),
    ("wait", "--wait"),
    ("keep_failed", "--keep-failed"),
    ("place.allow", "--allow"),
    ("place.join", "--join"),
    ("place.region", "--region"),
    ("place.zones", "--zone"),
    ("place.private", "--private"),
    ("place.network", "--network"),
    ("place.subnets", "--subnet"),
    ("place.security_groups", "--security-group"),
    ("place.image", "--image"),
    ("place.disk_type", "--disk-type"),
    ("place.ssh_key", "--ssh-key"),
    ("place.role", "--role"),
    ("scheduler.cpu", "--scheduler-cpu"),
    ("scheduler.memory", "--scheduler-memory"),
    ("scheduler.type", "--scheduler-type"),
    ("scheduler.disk", "--scheduler-disk"),
    ("scheduler.gpus", "--scheduler-gpus"),
    ("scheduler.gpu_type", "--scheduler-gpu-type"),
    ("workers.cpu", "--cpu"),
    ("workers.type", "--type"),
    ("workers.disk", "--disk"),
    ("workers.gpus", "--gpus"),
    ("workers.gpu_type", "--gpu-type"),
    ("workers.spot", "--spot"),
    ("scheduler.options", "--scheduler-option"),
    ("workers.count", "--workers"),
    ("workers.threads", "--threads"),
    ("workers.memory", "--memory"),
    ("workers.workers_per_vm", "--workers-per-node"),
    ("workers.class", "--worker-class"),
    ("workers.options", "--worker-option"),
    ("env.mode", "--env"),
    ("env.lock", "--env"),
    ("env.python", "--python"),
    ("env.secrets", "--secret"),
    ("limits.idle", "--idle"),
    ("limits.no_client", "--no-client"),
    ("limits.lifetime", "--lifetime"),
    ("limits.max_workers", "--max-workers"),
    ("limits.start_timeout", "--start-timeout"),
    ("local.network", "--local-network"),
    ("manual.user_data_dir", "--user-data-dir"),
    ("manual.scheduler_address", "--scheduler-address"),
    ("connect.proxy_command", "--proxy-command"),
    ("security.insecure", "--insecure"),
    ("security.tls_ca_file", "--tls-ca-file"),
    ("security.tls_cert", "--tls-cert"),
    ("security.tls_key", "--tls-key"),
    ("security.tls_scheduler_cert", "--tls-scheduler-cert"),
    ("security.tls_scheduler_key", "--tls-scheduler-key"),
    ("security.tls_worker_cert", "--tls-worker-cert"),
    ("security.tls_worker_key", "--tls-worker-key"),
    ("security.tls_client_cert", "--tls-client-cert"),
    ("security.tls_client_key", "--tls-client-key"),
];

/// The flags as a source. Lists that were not given are absent, not empty.
pub(crate) fn of_flags(up: &UpArgs, global: &Global, cwd: &Path) -> Result<Layer, ConfigError> {
    fn given<T: Clone>(list: &[T]) -> Option<Vec<T>> {
        (!list.is_empty()).then(|| list.to_vec())
    }
    let mut file = File {
        name: up.name.as_ref().map(ToString::to_string),
        provider: up.provider,
        profile: global.profile.clone(),
        wait: up.wait,
        keep_failed: up.keep_failed.then_some(true),
        ..File::default()
    };
    file.place.allow = given(&up.allow);
    file.place.join = given(&up.join);
    let at = &up.machines;
    file.place.region.clone_from(&at.region);
    file.place.zones = given(&at.zone);
    file.place.private = at.private.then_some(true);
    file.place.network.clone_from(&at.network);
    file.place.subnets = given(&at.subnet);
    file.place.security_groups = given(&at.security_group);
    file.place.image.clone_from(&at.image);
    file.place.disk_type.clone_from(&at.disk_type);
    file.place.ssh_key.clone_from(&at.ssh_key);
    file.place.role.clone_from(&at.role);
    file.scheduler.cpu = at.scheduler_cpu;
    file.scheduler.memory = at.scheduler_memory;
    file.scheduler.types = given(&at.scheduler_type);
    file.scheduler.disk = at.scheduler_disk;
    file.scheduler.gpus = at.scheduler_gpus;
    file.scheduler.gpu_type.clone_from(&at.scheduler_gpu_type);
    file.scheduler.options = given(&up.scheduler_option);
    let group = file.workers_mut();
    group.count = up.workers;
    group.threads = up.threads;
    group.memory = up.memory;
    group.cpu = at.cpu;
    group.types = given(&at.types);
    group.disk = at.disk;
    group.gpus = at.gpus;
    group.gpu_type.clone_from(&at.gpu_type);
    group.spot = at.spot;
    group.workers_per_vm = up.workers_per_node;
    group.class.clone_from(&up.worker_class);
    group.options = given(&up.worker_option);
    file.env.mode = up.env.clone().map(EnvMode::Source);
    file.env.python.clone_from(&up.python);
    let names: Vec<String> = up.secret.iter().map(|s| s.as_str().to_owned()).collect();
    file.env.secrets = given(&names);
    file.env.variables = (!up.env_var.is_empty()).then(|| {
        let pairs = up.env_var.iter().map(|v| (v.name.clone(), v.value.clone()));
        Variables(pairs.collect())
    });
    file.limits.idle = up.idle;
    file.limits.no_client = up.no_client;
    file.limits.lifetime = up.lifetime;
    file.limits.max_workers = up.max_workers;
    file.limits.start_timeout = up.start_timeout;
    file.local.network = up.local_network;
    file.manual.user_data_dir.clone_from(&up.user_data_dir);
    file.manual.scheduler_address = up.scheduler_address;
    file.connect.proxy_command.clone_from(&global.proxy_command);
    file.tags = up.tag.iter().map(|t| (t.key.clone(), t.value.clone())).collect();
    let tls = &up.tls;
    file.security.insecure = tls.insecure.then_some(true);
    file.security.tls_ca_file.clone_from(&tls.tls_ca_file);
    file.security.tls_cert.clone_from(&tls.tls_cert);
    file.security.tls_key.clone_from(&tls.tls_key);
    file.security.tls_scheduler_cert.clone_from(&tls.tls_scheduler_cert);
    file.security.tls_scheduler_key.clone_from(&tls.tls_scheduler_key);
    file.security.tls_worker_cert.clone_from(&tls.tls_worker_cert);
    file.security.tls_worker_key.clone_from(&tls.tls_worker_key);
    file.security.tls_client_cert.clone_from(&tls.tls_client_cert);
    file.security.tls_client_key.clone_from(&tls.tls_client_key);
    for pair in &up.set {
        set(&mut file, &pair.key, &pair.value).map_err(|e| e.at(Origin::Flag { flag: "--set" }))?;
    }
    Ok(Layer {
        file,
        base: cwd.to_owned(),
        source: Source::Flags,
    })
}

/// The environment as a source: `HERDSMAN_IDLE`, `DASK_HERDSMAN__LIMITS__IDLE`
/// and the Python class's names, `DASK_HERDSMAN__IDLE_TIMEOUT`; the first of
/// them that is set wins.
pub(crate) fn of_env(env: &Env, cwd: &Path) -> Result<Option<Layer>, ConfigError> {
    let mut file = File::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let ours = vars::SETTINGS
        .iter()
        .filter_map(|(variable, key)| Some(((*variable).to_owned(), (*key).to_owned(), env.get(variable)?)));
    let dasks = env
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .filter_map(|(variable, value)| {
            let rest = variable.strip_prefix(vars::DASK_PREFIX)?;
            Some((variable.to_owned(), key_of(rest)?, value))
        });
    for (variable, key, value) in ours.chain(dasks) {
        if names.contains_key(&key) {
            continue;
        }
        let origin = Origin::Env {
            variable: variable.clone(),
        };
        if let Some(kind) = secrets::look(&key, value) {
            return Err(ConfigError::new(format!("the value looks like {kind}"))
                .key(&key)
                .at(origin)
                .hint(secrets::right_place(&key)));
        }
        set(&mut file, &key, value).map_err(|e| {
            let mut known = e.at(origin);
            if known.message.starts_with("unknown") {
                known = known.hint("`herdsman config get` lists all keys");
            }
            known
        })?;
        names.insert(key, variable);
    }
    if names.is_empty() {
        return Ok(None);
    }
    Ok(Some(Layer {
        file,
        base: cwd.to_owned(),
        source: Source::Env(names),
    }))
}

/// The key that the rest of a `DASK_HERDSMAN__` variable stands for; `None` for
/// what only Python reads.
fn key_of(rest: &str) -> Option<String> {
    let parts: Vec<&str> = rest.split("__").collect();
    let lower = rest.to_ascii_lowercase();
    if vars::PYTHON_ONLY.contains(&lower.as_str()) {
        return None;
    }
    if let Some((_, key)) = vars::PYTHON_NAMES.iter().find(|(name, _)| *name == lower) {
        return Some((*key).to_owned());
    }
    // Names of variables and tags keep their case, unlike our keys.
    let keeps = |i: usize| {
        let table: Vec<String> = parts[..i].iter().map(|p| p.to_ascii_lowercase()).collect();
        matches!(table.join(".").as_str(), "env.variables" | "tags" | "workers.resources")
    };
    for i in 1..parts.len() {
        if keeps(i) {
            let table: Vec<String> = parts[..i].iter().map(|p| p.to_ascii_lowercase()).collect();
            return Some(format!("{}.{}", table.join("."), parts[i..].join("__")));
        }
    }
    Some(
        parts
            .iter()
            .map(|p| p.to_ascii_lowercase())
            .collect::<Vec<_>>()
            .join("."),
    )
}

/// Sets one key from a text, whatever type it has.
pub(crate) fn set(file: &mut File, key: &str, text: &str) -> Result<(), ConfigError> {
    // The types know best: try the text as TOML (numbers, lists, booleans),
    // then as a plain text, then as a list separated by commas.
    let as_text = toml::Value::String(text.to_owned());
    let as_list = toml::Value::Array(text.split(',').map(|t| t.trim().into()).collect());
    let as_toml = toml::de::ValueDeserializer::parse(text)
        .ok()
        .and_then(|d| <toml::Value as serde::Deserialize>::deserialize(d).ok());
    let mut first: Option<ConfigError> = None;
    let mut forms = [Some(as_text), as_toml, Some(as_list)];
    if is_of_cloud(key) {
        // Its table takes anything here; its own types look at it later.
        forms.swap(0, 1);
    }
    for value in forms.into_iter().flatten() {
        match parse::one(file, key, &value) {
            Ok(changed) => {
                *file = changed;
                return Ok(());
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_else(|| ConfigError::new("cannot be set").key(key)))
}

/// Whether a key stands in the table of a cloud.
fn is_of_cloud(key: &str) -> bool {
    let table = key.split('.').next().unwrap_or_default();
    ["gcp", "aws", "azure", "digitalocean", "hetzner", "openstack"].contains(&table)
}

/// Warnings about variables that look like ours but are not.
pub(crate) fn strays(env: &Env) -> Vec<String> {
    let known = || {
        vars::SETTINGS
            .iter()
            .map(|(v, _)| *v)
            .chain(vars::OTHERS.iter().copied())
    };
    env.iter()
        .filter(|(name, _)| name.starts_with("HERDSMAN_") && !known().any(|k| k == *name))
        .filter_map(|(name, _)| {
            let like = nearest(name, known())?;
            Some(format!(
                "environment variable {name} is not known (did you mean {like}?)"
            ))
        })
        .collect()
}
