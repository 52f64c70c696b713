//! What a user's own arguments and variables for Dask must not touch, because
//! the firewall, the certificates or the supervisor count on it. Refused with
//! a name instead of silently losing to ours, or winning over them.

use crate::{ApiError, Code, Role};

/// An option of Dask's command line that is not the user's.
struct Reserved {
    flag: &'static str,
    why: &'static str,
}

const fn r(flag: &'static str, why: &'static str) -> Reserved {
    Reserved { flag, why }
}

const TLS: &str = "herdsman gives Dask its certificates; own ones are set by the security settings";
const ADDRESS: &str = "addresses and ports are fixed, as the firewall and the certificates know them";
const DASHBOARD: &str = "the dashboard is reached through herdsman only";
const PROCESS: &str = "herdsman supervises the process itself";
const THREADS: &str = "use --threads";
const MEMORY: &str = "use --memory";
const PROCESSES: &str = "use --workers-per-node";
const RESOURCES: &str = "use the setting workers.resources of herdsman.toml";
const CLASS: &str = "use --worker-class";

const BOTH: &[Reserved] = &[
    r("--tls-ca-file", TLS),
    r("--tls-cert", TLS),
    r("--tls-key", TLS),
    r("--host", ADDRESS),
    r("--interface", ADDRESS),
    r("--protocol", ADDRESS),
    r("--dashboard", DASHBOARD),
    r("--no-dashboard", DASHBOARD),
    r("--dashboard-address", DASHBOARD),
    r("--dashboard-prefix", DASHBOARD),
    r("--pid-file", PROCESS),
    r("--scheduler-file", PROCESS),
    r("--version", PROCESS),
    r("--help", PROCESS),
];

const SCHEDULER: &[Reserved] = &[
    r("--port", ADDRESS),
    r("--jupyter", "it gives a shell to everyone who reaches the dashboard"),
    r(
        "--idle-timeout",
        "an ended scheduler is started again; use the cluster's idle limit",
    ),
];

const WORKER: &[Reserved] = &[
    r("--worker-port", ADDRESS),
    r("--nanny-port", ADDRESS),
    r("--listen-address", ADDRESS),
    r("--contact-address", ADDRESS),
    r("--scheduler-sni", TLS),
    r("--name", "a worker is named after its node"),
    r("--nthreads", THREADS),
    r("--nworkers", PROCESSES),
    r("--memory-limit", MEMORY),
    r("--resources", RESOURCES),
    r("--worker-class", CLASS),
];

/// Checks a user's further arguments for Dask's command line.
///
/// # Errors
/// [`Code::Usage`] naming the argument and the reason.
pub fn check_args(role: Role, args: &[String]) -> Result<(), ApiError> {
    let own = match role {
        Role::Scheduler => SCHEDULER,
        Role::Worker => WORKER,
    };
    for arg in args {
        let flag = arg.split_once('=').map_or(arg.as_str(), |(flag, _)| flag);
        let refuse = |why: &str| Err(refused(role, flag, why));
        if let Some(found) = BOTH.iter().chain(own).find(|r| r.flag == flag) {
            return refuse(found.why);
        }
        if arg == "--" {
            return refuse("it would end the options");
        }
        if arg.contains('\0') {
            return refuse("it holds a zero byte");
        }
    }
    Ok(())
}

fn refused(role: Role, flag: &str, why: &str) -> ApiError {
    let kind = match role {
        Role::Scheduler => "scheduler",
        Role::Worker => "worker",
    };
    let flag: String = flag.chars().filter(|c| !c.is_control()).take(80).collect();
    ApiError::new(
        Code::Usage,
        format!("argument `{flag}` for Dask's {kind} is not allowed: {why}"),
    )
    .with_hint(format!("take `{flag}` out of the {kind}'s arguments"))
}

/// Beginnings of variables that are herdsman's own, and variables that undo what
/// it sets. Dask reads its configuration from the environment in any case.
const VARIABLES: [&str; 4] = [
    "HERDSMAN_",
    "DASK_DISTRIBUTED__COMM__TLS__",
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION",
    "DASK_DISTRIBUTED__SCHEDULER__PRELOAD",
];

/// Checks the name of a user's environment variable.
///
/// # Errors
/// [`Code::Usage`] naming it.
pub fn check_variable(name: &str, value: &str) -> Result<(), ApiError> {
    let bad = |why: &str| {
        let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        Err(ApiError::new(
            Code::Usage,
            format!("environment variable `{name}` for Dask is not allowed: {why}"),
        ))
    };
    if name.is_empty() || name.contains(['=', '\0']) {
        return bad("it is no name");
    }
    if value.contains('\0') {
        return bad("its value holds a zero byte");
    }
    let upper = name.to_ascii_uppercase().replace('-', "_");
    if VARIABLES.iter().any(|v| upper.starts_with(v)) {
        return bad("herdsman sets it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(role: Role, args: &[&str]) -> Result<(), ApiError> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        check_args(role, &args)
    }

    #[test]
    fn ours_are_refused_by_name_in_both_spellings() {
        for args in [
            &["--tls-key", "/k"][..],
            &["--lifetime", "1h", "--host=0.0.0.0"],
            &["--worker-port=1:2"],
            &["--nthreads", "2"],
            &["--"],
        ] {
            let e = check(Role::Worker, args).unwrap_err();
            assert_eq!(e.code, Code::Usage, "{args:?}");
        }
        let e = check(Role::Scheduler, &["--jupyter"]).unwrap_err();
        assert!(
            e.message.contains("`--jupyter`") && e.message.contains("scheduler"),
            "{e}"
        );
        let e = check(Role::Scheduler, &["--port=1"]).unwrap_err();
        assert!(e.message.contains("`--port`"), "{e}");
    }

    #[test]
    fn the_others_pass() {
        let worker = [
            "--lifetime",
            "1h",
            "--preload",
            "mine.py",
            "--preload-nanny=x",
            "--no-nanny",
        ];
        check(Role::Worker, &worker).unwrap();
        check(Role::Worker, &["--local-directory=/mnt/ssd", "--death-timeout", "60"]).unwrap();
        check(Role::Scheduler, &["--preload", "mine.py"]).unwrap();
        check(Role::Worker, &["--port", "1"]).unwrap();
    }

    #[test]
    fn variables_that_weaken_are_refused() {
        check_variable("OMP_NUM_THREADS", "1").unwrap();
        check_variable("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "30s").unwrap();
        for name in [
            "",
            "A=B",
            "HERDSMAN_GUARD_TLS",
            "herdsman_node",
            "DASK_DISTRIBUTED__COMM__REQUIRE-ENCRYPTION",
            "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION",
        ] {
            assert_eq!(check_variable(name, "x").unwrap_err().code, Code::Usage, "{name}");
        }
        let e = check_variable("A", "secret\0").unwrap_err();
        assert!(!e.message.contains("secret"));
    }
}
