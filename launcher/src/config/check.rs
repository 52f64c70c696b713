//! What single types could not check: values against their range, against each
//! other, and against the provider. Errors name where the value comes from.

use herdsman_wire::limits::{BOOTSTRAP_LIFE, CLUSTER_LIFE_MAX, MAX_WORKERS_PER_NODE};
use herdsman_wire::reserved::{check_args, check_variable};
use herdsman_wire::{ApiError, Role};

use super::choice::{Allow, EnvMode, EnvSource, ProviderName};
use super::error::ConfigError;
use super::merge::Merged;
use super::origin::{Origin, Sourced};
use super::pair::{check_resource, check_tag};
use super::secrets;
use super::value::Limit;

/// A Dask worker with nothing to do takes about half of this.
const MEMORY_MIN: u64 = 256 * 1024 * 1024;

/// Checks merged values; gives warnings about what works, but not as meant.
pub(super) fn check(m: &Merged) -> Result<Vec<String>, ConfigError> {
    counts(m)?;
    limits(m)?;
    allow(&m.allow)?;
    for (key, value) in &m.tags {
        check_tag(key, &value.value).map_err(|e| fault(value, &format!("tags.{key}"), e.to_string()))?;
    }
    environment(m)?;
    provider(m)?;
    arguments(Role::Scheduler, "scheduler.options", &m.scheduler_options)?;
    arguments(Role::Worker, "workers.options", &m.worker_options)?;
    Ok(warnings(m))
}

pub(super) fn fault<T>(value: &Sourced<T>, key: &str, message: String) -> ConfigError {
    ConfigError::new(message).key(key).at(value.origin.clone())
}

fn refused<T>(value: &Sourced<T>, key: &str, e: &ApiError) -> ConfigError {
    let error = fault(value, key, e.message.clone());
    e.hint.iter().fold(error, |error, hint| error.hint(hint))
}

fn counts(m: &Merged) -> Result<(), ConfigError> {
    if let Some(max) = &m.max_workers
        && m.count.value.max() > max.value
    {
        let message = format!(
            "{} workers are more than the most allowed, {} (limits.max_workers, {})",
            m.count.value, max.value, max.origin
        );
        return Err(fault(&m.count, "workers.count", message));
    }
    if m.per_node.value.get() > MAX_WORKERS_PER_NODE {
        let message = format!("at most {MAX_WORKERS_PER_NODE} on a node, for so many ports its firewall opens");
        return Err(fault(&m.per_node, "workers.workers_per_vm", message));
    }
    for (key, cpu) in [("scheduler.cpu", &m.scheduler.cpu), ("workers.cpu", &m.worker.cpu)] {
        if let Some(cpu) = cpu
            && cpu.value == 0
        {
            return Err(fault(cpu, key, "a machine has at least one processor".into()));
        }
    }
    for (name, amount) in &m.resources {
        check_resource(name, amount.value)
            .map_err(|e| fault(amount, &format!("workers.resources.{name}"), e.to_string()))?;
    }
    if let Some(class) = &m.class {
        let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !class.value.split('.').all(word) {
            let message = format!(
                "{:?} is no class of Python; write it like package.module.Class",
                class.value
            );
            return Err(fault(class, "workers.class", message));
        }
    }
    Ok(())
}

fn limits(m: &Merged) -> Result<(), ConfigError> {
    if let Limit::After(life) = m.lifetime.value
        && life.get() > CLUSTER_LIFE_MAX
    {
        let message = format!(
            "{life} is longer than a cluster's certificates can live: {}h",
            CLUSTER_LIFE_MAX.as_secs() / 3600
        );
        return Err(fault(&m.lifetime, "limits.lifetime", message));
    }
    if let Some(cost) = &m.max_cost
        && !(cost.value.is_finite() && cost.value > 0.0)
    {
        return Err(fault(
            cost,
            "limits.max_cost",
            "an amount of money is more than nothing".into(),
        ));
    }
    Ok(())
}

fn allow(allow: &Sourced<Vec<Allow>>) -> Result<(), ConfigError> {
    let message = match allow.value.as_slice() {
        [] => "an empty list lets nobody in; write none to mean that",
        list if list.len() > 1 && list.contains(&Allow::None) => "none stands alone",
        _ => return Ok(()),
    };
    Err(fault(allow, "place.allow", message.into()))
}

/// What only one provider has.
fn provider(m: &Merged) -> Result<(), ConfigError> {
    if let Some(hash) = &m.qemu.sha256
        && !(hash.value.len() == 64 && hash.value.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        let message = "a SHA-256 has 64 hexadecimal digits".to_owned();
        return Err(fault(hash, "qemu.sha256", message).hint("sha256sum IMAGE           shows it"));
    }
    if let Some(python) = &m.image_python
        && !python.value.is_absolute()
    {
        let message = format!(
            "{} is no absolute path; it lies on the machines",
            python.value.display()
        );
        return Err(fault(python, "env.image_python", message));
    }
    for (key, address) in [
        ("manual.scheduler_address", &m.manual.scheduler_address),
        ("manual.public_address", &m.manual.public_address),
    ] {
        if let Some(address) = address
            && (address.value.is_unspecified() || address.value.is_multicast())
        {
            let message = format!("{} is no machine's address", address.value);
            return Err(fault(address, key, message));
        }
    }
    Ok(())
}

fn environment(m: &Merged) -> Result<(), ConfigError> {
    if let Some(indexes) = &m.indexes {
        for index in &indexes.value {
            if let Some(kind) = secrets::look("", index) {
                let e = fault(indexes, "env.indexes", format!("the value looks like {kind}"));
                return Err(e.hint(secrets::right_place("env.indexes")));
            }
            let known = ["https://", "http://", "file://"];
            if !known.iter().any(|s| index.len() > s.len() && index.starts_with(s)) {
                let message = format!("{index:?} is no address of a package index; write it like https://host/simple");
                return Err(fault(indexes, "env.indexes", message));
            }
        }
    }
    for (name, value) in &m.variables {
        let key = format!("env.variables.{name}");
        if let Some(kind) = secrets::look(&key, &value.value) {
            return Err(fault(value, &key, format!("the value looks like {kind}")).hint(secrets::right_place(&key)));
        }
        check_variable(name, &value.value).map_err(|e| refused(value, &key, &e))?;
    }
    for secret in &m.secrets {
        if let Some(variable) = m.variables.get(&secret.value) {
            let message = format!("{} is both a variable for all to see and a secret", secret.value);
            let e = fault(secret, "env.secrets", message);
            return Err(e.hint(format!("the other stands at: {}", variable.origin)));
        }
        check_variable(&secret.value, "").map_err(|e| refused(secret, "env.secrets", &e))?;
    }
    Ok(())
}

/// Arguments of Dask's commands: none that are herdsman's own to give, and none
/// that a shell would have taken apart.
fn arguments(role: Role, key: &str, list: &[Sourced<String>]) -> Result<(), ConfigError> {
    for argument in list {
        let text = argument.value.as_str();
        let (option, value) = text.split_once(['=', ' ']).unwrap_or(("", text));
        if let Some(kind) = secrets::look(option.trim_start_matches('-'), value) {
            let message = format!("the value looks like {kind}");
            return Err(fault(argument, key, message)
                .hint("everybody on a node can see the arguments of its programs; use --secret"));
        }
        let words = text.starts_with('-') && text.split('=').next().is_some_and(|o| o.contains(' '));
        if words {
            let message = format!("{text:?} is two arguments in one");
            return Err(fault(argument, key, message).hint("write it as OPTION=VALUE, or as two items"));
        }
        check_args(role, std::slice::from_ref(&argument.value)).map_err(|e| refused(argument, key, &e))?;
    }
    Ok(())
}

fn warnings(m: &Merged) -> Vec<String> {
    let mut all = without_effect(m);
    if m.start_timeout.value.get() > BOOTSTRAP_LIFE {
        all.push(format!(
            "{}: limits.start_timeout: a node gives up after {} min in any case",
            m.start_timeout.origin,
            BOOTSTRAP_LIFE.as_secs() / 60
        ));
    }
    if let Some(memory) = &m.worker.memory {
        let each = memory.value.bytes() / u64::from(m.per_node.value.get());
        if each < MEMORY_MIN {
            all.push(format!(
                "{}: workers.memory: {} MiB for each worker process are hardly enough for Dask itself",
                memory.origin,
                each / 1024 / 1024
            ));
        }
    }
    all
}

/// A flag is about this call; a file's table may well be there for others.
fn by_flag<T>(value: &&Sourced<T>) -> bool {
    matches!(value.origin, Origin::Flag { .. } | Origin::Argument { .. })
}

/// Values that the provider has no use for. No error: the same file may serve
/// several providers.
fn without_effect(m: &Merged) -> Vec<String> {
    let mut found: Vec<(&str, &Origin)> = Vec::new();
    macro_rules! note {
        ($($key:literal => $value:expr),* $(,)?) => {
            $(if let Some(v) = &$value { found.push(($key, &v.origin)); })*
        };
    }
    note! { "workers.name" => m.group }
    if m.provider.value != ProviderName::Manual {
        note! {
            "manual.user_data_dir" => m.manual.user_data_dir.as_ref().filter(by_flag),
            "manual.scheduler_address" => m.manual.scheduler_address.as_ref().filter(by_flag),
        }
    }
    if m.provider.value == ProviderName::Qemu {
        note! {
            "place.region" => m.region, "place.zones" => m.zones, "place.network" => m.network,
            "place.subnets" => m.subnets, "place.security_groups" => m.security_groups,
            "place.image" => m.image, "place.disk_type" => m.disk_type, "place.ssh_key" => m.ssh_key,
            "place.role" => m.role, "scheduler.gpus" => m.scheduler.gpus, "workers.gpus" => m.worker.gpus,
            "scheduler.gpu_type" => m.scheduler.gpu_type, "workers.gpu_type" => m.worker.gpu_type,
            "scheduler.type" => m.scheduler.types, "workers.type" => m.worker.types,
            "workers.spot" => m.spot, "limits.max_cost" => m.max_cost,
        }
    }
    if m.provider.value == ProviderName::Manual {
        note! {
            "scheduler.cpu" => m.scheduler.cpu, "scheduler.memory" => m.scheduler.memory,
            "scheduler.type" => m.scheduler.types, "scheduler.disk" => m.scheduler.disk,
            "workers.cpu" => m.worker.cpu, "workers.type" => m.worker.types,
            "workers.disk" => m.worker.disk, "workers.spot" => m.spot,
            "limits.max_cost" => m.max_cost,
        }
    }
    if m.provider.value == ProviderName::Local {
        note! {
            "place.region" => m.region, "place.zones" => m.zones, "place.network" => m.network,
            "place.subnets" => m.subnets, "place.security_groups" => m.security_groups,
            "place.image" => m.image, "place.disk_type" => m.disk_type, "place.ssh_key" => m.ssh_key,
            "place.role" => m.role, "scheduler.gpus" => m.scheduler.gpus, "workers.gpus" => m.worker.gpus,
            "scheduler.gpu_type" => m.scheduler.gpu_type, "workers.gpu_type" => m.worker.gpu_type,
            "place.join" => m.join,
            "scheduler.cpu" => m.scheduler.cpu, "scheduler.memory" => m.scheduler.memory,
            "scheduler.type" => m.scheduler.types, "scheduler.disk" => m.scheduler.disk,
            "workers.cpu" => m.worker.cpu, "workers.type" => m.worker.types,
            "workers.disk" => m.worker.disk, "workers.spot" => m.spot,
            "limits.max_cost" => m.max_cost,
        }
        if m.private.value {
            found.push(("place.private", &m.private.origin));
        }
        // Nodes of this computer can be reached from nowhere else.
        if m.allow.value != [Allow::Me] {
            found.push(("place.allow", &m.allow.origin));
        }
        let copied = matches!(
            m.mode.value,
            EnvMode::Lock | EnvMode::Source(EnvSource::Copy | EnvSource::Lock(_))
        );
        let by_file = m.mode.origin == Origin::BuiltIn && m.lock.is_some();
        if !copied && !by_file {
            note! { "env.setup" => m.setup, "env.ignore" => m.ignore, "env.indexes" => m.indexes }
        }
    }
    let provider = m.provider.value;
    let line = |(key, origin): (&str, &Origin)| format!("{origin}: {key} has no effect with provider {provider}");
    found.into_iter().map(line).collect()
}
