//! From what the cluster wants to the process that a node runs: a pure function.
//! What it needs on disk is made by [`super::prepare`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use herdsman_wire::spec::{DaskSecurity, DaskSpec};
use herdsman_wire::{ApiError, ClusterId, Code, NodeName, Role, Secret, limits};

use super::dashboard_address;
use super::spec::{GRACE, Group, ProcessSpec, User};
use crate::identity::TlsFiles;
use crate::service::accounts;
use herdsman_wire::reserved::{check_args, check_variable};

/// Everything that shapes a node's Dask.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The node; also the worker's name.
    pub node: &'a NodeName,
    /// What it runs.
    pub role: Role,
    /// Address at which peers reach this node.
    pub own: IpAddr,
    /// Dask's scheduler.
    pub scheduler: SocketAddr,
    /// How Dask runs.
    pub spec: &'a DaskSpec,
    /// Certificates, unless Dask speaks plain TCP.
    pub tls: &'a TlsFiles,
    /// Interpreter, absolute.
    pub python: &'a Path,
    /// Folders that come first in `PYTHONPATH`.
    pub modules: &'a [PathBuf],
    /// The machine's own `PATH`; the interpreter's folder goes before it.
    pub path: &'a str,
    /// State folder.
    pub state: &'a Path,
    /// Folder of sockets and process files.
    pub run: &'a Path,
    /// Whose rights Dask gets; absent: the agent's own.
    pub user: Option<User>,
    /// Control group.
    pub cgroup: Option<Group>,
}

impl Start<'_> {
    /// Dask's working folder, where workers spill to as well.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.state.join("dask-scratch")
    }

    /// Folder for temporary files of a Dask that has a user of its own, so that
    /// nobody else on the machine can reach them.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.state.join("dask-tmp")
    }

    /// File that Dask's output goes to.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        output(self.state)
    }
}

/// File of Dask's output below a state folder.
#[must_use]
pub fn output(state: &Path) -> PathBuf {
    state.join("logs").join("dask.log")
}

/// The guard's place below a folder: in one of its own, for Python lists the
/// folder that it imports from, and nobody else's files are to be listed.
#[must_use]
pub fn guard_file(run: &Path) -> PathBuf {
    run.join("guard").join("herdsman_guard.py")
}

/// The socket on which the agent listens for the guard.
#[must_use]
pub fn guard_socket(run: &Path) -> PathBuf {
    run.join("guard.sock")
}

/// The process that a node runs.
///
/// # Errors
/// [`Code::Usage`] naming the setting that makes no sense or is not the user's.
pub fn process(start: &Start<'_>) -> Result<ProcessSpec, ApiError> {
    let args = match start.role {
        Role::Scheduler => scheduler_args(start)?,
        Role::Worker => worker_args(start)?,
    };
    let scratch = start.scratch();
    let mut spec = ProcessSpec::new(
        start.python,
        format!("{}/{}", start.cluster, start.node),
        scratch.clone(),
    );
    spec.args = args;
    spec.env = environment(start, &scratch)?;
    spec.user.clone_from(&start.user);
    spec.cgroup.clone_from(&start.cgroup);
    // The kernel takes Dask before the agent and before the machine's own services.
    spec.oom_score = match start.role {
        Role::Scheduler => 300,
        Role::Worker => 500,
    };
    spec.output = start.output();
    spec.pid_file = start.run.join("dask.pid");
    spec.grace = GRACE;
    Ok(spec)
}

fn text(path: &Path) -> Result<String, ApiError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| usage(format!("the path {} is not UTF-8", path.display())))
}

fn usage(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Usage, message)
}

const fn protocol(spec: &DaskSpec) -> &'static str {
    match spec.security {
        DaskSecurity::None => "tcp",
        DaskSecurity::Cluster | DaskSecurity::Own { .. } => "tls",
    }
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Collects arguments.
struct Args(Vec<String>);

impl Args {
    fn put(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }

    fn tls(&mut self, start: &Start<'_>) -> Result<(), ApiError> {
        if matches!(start.spec.security, DaskSecurity::None) {
            return Ok(());
        }
        let certificate = text(&start.tls.certificate)?;
        self.put("--tls-ca-file", text(&start.tls.ca)?);
        self.put("--tls-cert", certificate.as_str());
        // Chain and key are in one file.
        self.put("--tls-key", certificate);
        Ok(())
    }
}

fn module(name: &str) -> Args {
    Args(vec!["-m".into(), format!("distributed.cli.{name}")])
}

fn scheduler_args(start: &Start<'_>) -> Result<Vec<String>, ApiError> {
    let spec = start.spec;
    check_args(Role::Scheduler, &spec.scheduler_args)?;
    if spec.scheduler_port == 0 || spec.scheduler_port == spec.dashboard_port {
        return Err(usage(format!(
            "the scheduler's port {} and the dashboard's port {} must be two, and not 0",
            spec.scheduler_port, spec.dashboard_port
        )));
    }
    let mut args = module("dask_scheduler");
    args.put("--host", format!("{}://{}", protocol(spec), host(start.own)));
    args.put("--port", spec.scheduler_port.to_string());
    args.put("--dashboard-address", dashboard(start, spec.dashboard_port));
    args.put("--preload", text(&guard_file(start.run))?);
    args.tls(start)?;
    args.0.extend(spec.scheduler_args.iter().cloned());
    Ok(args.0)
}

fn dashboard(start: &Start<'_>, port: u16) -> String {
    format!("{}:{port}", host(dashboard_address(start.own)))
}

/// Where a worker's own dashboard listens; several on one node take any port.
const WORKER_DASHBOARD: u16 = 0;

fn worker_args(start: &Start<'_>) -> Result<Vec<String>, ApiError> {
    let spec = start.spec;
    check_args(Role::Worker, &spec.worker_args)?;
    let count = spec.workers_per_node;
    let nanny = has_nanny(&spec.worker_args);
    if !nanny && count > 1 {
        return Err(usage(format!(
            "`--no-nanny` is for one worker a node; this cluster has {count}"
        )));
    }
    let (workers, nannies) = ports(spec)?;
    let guard = text(&guard_file(start.run))?;
    let mut args = module("dask_worker");
    let scheduler = SocketAddr::new(start.scheduler.ip(), start.scheduler.port());
    args.0.push(format!("{}://{scheduler}", protocol(spec)));
    args.put("--host", host(start.own));
    args.put("--worker-port", range(&workers));
    if nanny {
        args.put("--nanny-port", range(&nannies));
        args.put("--preload-nanny", guard.as_str());
    }
    args.put("--preload", guard);
    if count > 1 {
        args.put("--nworkers", count.to_string());
    }
    args.put("--dashboard-address", dashboard(start, WORKER_DASHBOARD));
    args.put("--name", start.node.as_str());
    if let Some(threads) = spec.threads {
        if threads == 0 {
            return Err(usage("a worker has at least one thread"));
        }
        args.put("--nthreads", threads.to_string());
    }
    if let Some(limit) = &spec.memory_limit {
        check_memory(limit)?;
        args.put("--memory-limit", limit.as_str());
    }
    if !spec.resources.is_empty() {
        args.put("--resources", resources(spec)?);
    }
    if let Some(class) = &spec.worker_class {
        check_class(class)?;
        args.put("--worker-class", class.as_str());
    }
    args.put("--local-directory", text(&start.scratch())?);
    args.tls(start)?;
    args.0.extend(spec.worker_args.iter().cloned());
    Ok(args.0)
}

/// Whether workers run under a nanny: the last word counts, as for Dask.
fn has_nanny(args: &[String]) -> bool {
    let last = args
        .iter()
        .rev()
        .find(|a| matches!(a.as_str(), "--nanny" | "--no-nanny"));
    last.is_none_or(|a| a == "--nanny")
}

fn range(ports: &Range<u32>) -> String {
    match ports.len() {
        1 => ports.start.to_string(),
        _ => format!("{}:{}", ports.start, ports.end - 1),
    }
}

/// Ports of workers and nannies, checked against each other and the fixed ones.
///
/// # Errors
/// [`Code::Usage`] naming what does not fit.
pub fn ports(spec: &DaskSpec) -> Result<(Range<u32>, Range<u32>), ApiError> {
    let count = spec.workers_per_node;
    if count == 0 || count > limits::MAX_WORKERS_PER_NODE {
        return Err(usage(format!(
            "{count} workers a node: 1 to {} are possible",
            limits::MAX_WORKERS_PER_NODE
        )));
    }
    let of = |what: &str, first: u16| {
        let all = u32::from(first)..u32::from(first) + u32::from(count);
        if first == 0 || all.end > 0x1_0000 {
            return Err(usage(format!("{count} {what} do not fit at port {first} and after it")));
        }
        for (other, port) in [
            ("the agent", limits::AGENT_PORT),
            ("Dask's scheduler", spec.scheduler_port),
            ("the dashboard", spec.dashboard_port),
        ] {
            if all.contains(&u32::from(port)) {
                return Err(usage(format!(
                    "the ports of the {what} hold {port}, which is for {other}"
                )));
            }
        }
        Ok(all)
    };
    let (workers, nannies) = (of("workers", spec.worker_port)?, of("nannies", spec.nanny_port)?);
    if workers.start < nannies.end && nannies.start < workers.end {
        return Err(usage(format!(
            "ports of workers ({}) and of nannies ({}) overlap",
            range(&workers),
            range(&nannies)
        )));
    }
    Ok((workers, nannies))
}

fn check_memory(limit: &str) -> Result<(), ApiError> {
    let ok = !limit.is_empty() && limit.len() <= 32 && limit.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    if ok {
        return Ok(());
    }
    Err(usage(format!("memory limit `{}` is not a size", limit.escape_debug()))
        .with_hint("use `auto`, `4GiB` or `0.5`"))
}

fn check_class(class: &str) -> Result<(), ApiError> {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with(|c: char| c.is_numeric()) && p.chars().all(|c| c == '_' || c.is_alphanumeric())
    };
    if class.split('.').all(part) {
        return Ok(());
    }
    Err(
        usage(format!("worker class `{}` is no Python name", class.escape_debug()))
            .with_hint("for example `dask_cuda.CUDAWorker`"),
    )
}

fn resources(spec: &DaskSpec) -> Result<String, ApiError> {
    let mut all = Vec::new();
    for (name, amount) in &spec.resources {
        // Dask splits at these.
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '=' | ',')) {
            return Err(usage(format!("`{}` is no name of a resource", name.escape_debug())));
        }
        if !amount.0.is_finite() || amount.0 < 0.0 {
            return Err(usage(format!("resource `{name}` has no sensible amount: {}", amount.0)));
        }
        all.push(format!("{name}={}", amount.0));
    }
    Ok(all.join(" "))
}

fn environment(start: &Start<'_>, scratch: &Path) -> Result<BTreeMap<String, Secret>, ApiError> {
    let mut env = BTreeMap::new();
    let variables = &start.spec.variables;
    for (name, value) in variables {
        check_variable(name, value.reveal())?;
        env.insert(name.clone(), value.clone());
    }
    let mut put = |name: &str, value: String| env.insert(name.to_owned(), Secret::new(value));
    put("HERDSMAN_GUARD_SOCKET", text(&guard_socket(start.run))?);
    put("HERDSMAN_GUARD_NODE", start.node.to_string());
    match start.spec.security {
        DaskSecurity::None => {
            put("HERDSMAN_GUARD_TLS", "0".into());
        }
        DaskSecurity::Cluster | DaskSecurity::Own { .. } => {
            put("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "True".into());
            put("DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION", "1.3".into());
        }
    }
    if matches!(start.spec.security, DaskSecurity::Cluster) {
        put("HERDSMAN_GUARD_CRL", text(&start.tls.crl)?);
    }
    put("PYTHONUNBUFFERED", "1".into());
    // The agent's own are not for another user.
    if start.user.is_some() {
        for (name, value) in [("HOME", PathBuf::from(accounts::HOME)), ("TMPDIR", start.temporary())] {
            if !variables.contains_key(name) {
                put(name, text(&value)?);
            }
        }
    }
    // A scheduler has no option for it, and would share `/tmp` with other clusters:
    // Dask clears away there what it takes for left over.
    if !variables.contains_key("DASK_TEMPORARY_DIRECTORY") {
        put("DASK_TEMPORARY_DIRECTORY", text(scratch)?);
    }
    let theirs = variables
        .get("PYTHONPATH")
        .map(Secret::reveal)
        .filter(|p| !p.is_empty());
    let ours = start.modules.iter().map(|m| text(m)).collect::<Result<Vec<_>, _>>()?;
    if let Some(colon) = ours.iter().find(|p| p.contains(':')) {
        return Err(usage(format!(
            "the folder {colon} cannot be in PYTHONPATH: it holds a colon"
        )));
    }
    let path: Vec<&str> = ours.iter().map(String::as_str).chain(theirs).collect();
    if !path.is_empty() {
        put("PYTHONPATH", path.join(":"));
    }
    // Programs of the environment are found by tasks that start them by name.
    if !variables.contains_key("PATH") {
        let folder = start.python.parent().map(text).transpose()?;
        let all: Vec<String> = folder
            .into_iter()
            .chain(std::iter::once(start.path.to_owned()))
            .filter(|p| !p.is_empty())
            .collect();
        put("PATH", all.join(":"));
    }
    Ok(env)
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
