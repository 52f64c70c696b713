use herdsman_wire::spec::{OwnCertificate, f64Eq};

use super::*;

fn with<T>(role: Role, spec: &DaskSpec, then: impl FnOnce(Start<'_>) -> T) -> T {
    let tls = TlsFiles {
        certificate: "/run/h/tls/dask.pem".into(),
        ca: "/run/h/tls/ca.pem".into(),
        crl: "/run/h/tls/crl.pem".into(),
    };
    then(Start {
        cluster: &"abcdefghij".parse().unwrap(),
        node: &"w-1".parse().unwrap(),
        role,
        own: "10.0.0.7".parse().unwrap(),
        scheduler: "10.0.0.5:8786".parse().unwrap(),
        spec,
        tls: &tls,
        python: Path::new("/opt/env/bin/python"),
        modules: &["/work/src".into()],
        path: "/usr/bin:/bin",
        state: Path::new("/var/lib/h"),
        run: Path::new("/run/h"),
        user: None,
        cgroup: None,
    })
}

fn build(role: Role, spec: &DaskSpec) -> Result<ProcessSpec, ApiError> {
    with(role, spec, |s| process(&s))
}

fn changed(change: impl FnOnce(&mut DaskSpec)) -> DaskSpec {
    let mut spec = DaskSpec::default();
    change(&mut spec);
    spec
}

fn own() -> DaskSecurity {
    let pair = OwnCertificate {
        certificate: "C".into(),
        key: Secret::new("K"),
    };
    DaskSecurity::Own {
        ca: "A".into(),
        scheduler: pair.clone(),
        worker: pair,
    }
}

#[test]
fn a_scheduler() {
    let p = build(Role::Scheduler, &DaskSpec::default()).unwrap();
    assert_eq!(p.program, Path::new("/opt/env/bin/python"));
    assert_eq!(
        p.args.join(" "),
        "-m distributed.cli.dask_scheduler --host tls://10.0.0.7 --port 8786 \
         --dashboard-address 127.0.0.1:8787 --preload /run/h/guard/herdsman_preload.py \
         --tls-ca-file /run/h/tls/ca.pem --tls-cert /run/h/tls/dask.pem --tls-key /run/h/tls/dask.pem"
    );
    let env: Vec<_> = p.env.iter().map(|(k, v)| format!("{k}={}", v.reveal())).collect();
    assert_eq!(
        env,
        [
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True",
            "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION=1.3",
            "DASK_TEMPORARY_DIRECTORY=/var/lib/h/dask-scratch",
            "HERDSMAN_GUARD_CRL=/run/h/tls/crl.pem",
            "HERDSMAN_GUARD_FILE=/run/h/guard/herdsman_guard.py",
            "HERDSMAN_GUARD_NODE=w-1",
            "HERDSMAN_GUARD_SOCKET=/run/h/guard.sock",
            "PATH=/opt/env/bin:/usr/bin:/bin",
            "PYTHONPATH=/work/src",
            "PYTHONUNBUFFERED=1",
        ]
    );
    assert_eq!(p.marker, "abcdefghij/w-1");
    assert_eq!(p.output, Path::new("/var/lib/h/logs/dask.log"));
    assert_eq!(p.pid_file, Path::new("/run/h/dask.pid"));
}

#[test]
fn a_plain_worker() {
    let p = build(Role::Worker, &DaskSpec::default()).unwrap();
    assert_eq!(
        p.args.join(" "),
        "-m distributed.cli.dask_worker tls://10.0.0.5:8786 --host 10.0.0.7 --worker-port 8788 \
         --nanny-port 8838 --preload-nanny /run/h/guard/herdsman_preload.py --preload /run/h/guard/herdsman_preload.py \
         --dashboard-address 127.0.0.1:0 --name w-1 --local-directory /var/lib/h/dask-scratch \
         --tls-ca-file /run/h/tls/ca.pem --tls-cert /run/h/tls/dask.pem --tls-key /run/h/tls/dask.pem"
    );
}

#[test]
fn several_workers_with_everything() {
    let spec = changed(|s| {
        s.workers_per_node = 4;
        s.threads = Some(2);
        s.memory_limit = Some("4GiB".into());
        s.resources.insert("GPU".into(), f64Eq(1.0));
        s.resources.insert("MEM".into(), f64Eq(2.5));
        s.worker_class = Some("dask_cuda.CUDAWorker".into());
        s.worker_args = vec!["--lifetime".into(), "1h".into()];
    });
    let args = build(Role::Worker, &spec).unwrap().args;
    let line = args.join(" ");
    for part in [
        "--worker-port 8788:8791",
        "--nanny-port 8838:8841",
        "--nworkers 4",
        "--nthreads 2",
        "--memory-limit 4GiB",
        "--resources GPU=1 MEM=2.5",
        "--worker-class dask_cuda.CUDAWorker",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(args.contains(&"GPU=1 MEM=2.5".to_owned()));
    assert!(line.ends_with("--lifetime 1h"));
}

#[test]
fn without_tls_there_is_no_trace_of_it_and_own_files_have_no_crl() {
    for role in [Role::Scheduler, Role::Worker] {
        let p = build(role, &changed(|s| s.security = DaskSecurity::None)).unwrap();
        let line = p.args.join(" ");
        assert!(line.contains("tcp://10.0.0.") && !line.contains("tls"), "{line}");
        assert_eq!(p.env["HERDSMAN_GUARD_TLS"].reveal(), "0");
        assert!(
            !p.env
                .keys()
                .any(|k| k.starts_with("DASK_DISTRIBUTED") || k == "HERDSMAN_GUARD_CRL")
        );
        let p = build(role, &changed(|s| s.security = own())).unwrap();
        assert!(p.args.contains(&"--tls-key".to_owned()));
        assert!(p.env.contains_key("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"));
        assert!(!p.env.contains_key("HERDSMAN_GUARD_CRL"));
        assert!(!p.env.contains_key("HERDSMAN_GUARD_TLS"));
    }
}

#[test]
fn a_loopback_node_has_its_dashboard_on_its_own_address_and_v6_is_bracketed() {
    let spec = DaskSpec::default();
    let args = |own: &str| {
        with(Role::Scheduler, &spec, |mut s| {
            s.own = own.parse().unwrap();
            process(&s).unwrap().args.join(" ")
        })
    };
    assert!(args("127.0.0.3").contains("--dashboard-address 127.0.0.3:8787"));
    assert!(args("::1").contains("--host tls://[::1] --port 8786 --dashboard-address 127.0.0.1:8787"));
    assert!(args("fd00::1").contains("--host tls://[fd00::1] --port 8786 --dashboard-address 127.0.0.1:8787"));
}

#[test]
fn without_a_nanny_there_are_no_options_of_one() {
    let spec = changed(|s| s.worker_args = vec!["--no-nanny".into()]);
    let line = build(Role::Worker, &spec).unwrap().args.join(" ");
    assert!(!line.contains("--nanny-port") && line.ends_with("--no-nanny"));
    let spec = changed(|s| {
        s.worker_args = vec!["--no-nanny".into()];
        s.workers_per_node = 2;
    });
    assert!(build(Role::Worker, &spec).unwrap_err().message.contains("2"));
}

#[test]
fn variables_are_the_users_but_for_ours() {
    let spec = changed(|s| {
        s.variables.insert("PYTHONPATH".into(), Secret::new("/theirs"));
        s.variables.insert("TOKEN".into(), Secret::new("hunter2"));
        s.variables.insert("PATH".into(), Secret::new("/p"));
    });
    let p = build(Role::Worker, &spec).unwrap();
    assert_eq!(p.env["PYTHONPATH"].reveal(), "/work/src:/theirs");
    assert_eq!(p.env["PATH"].reveal(), "/p");
    assert_eq!(p.env["TOKEN"].reveal(), "hunter2");
    assert!(!p.args.join(" ").contains("hunter2") && !format!("{p:?}").contains("hunter2"));
    let home = with(Role::Worker, &spec, |mut s| {
        s.user = Some(User {
            uid: 7,
            gid: 7,
            groups: vec![],
        });
        process(&s).unwrap().env["HOME"].reveal().to_owned()
    });
    assert_eq!(home, "/var/lib/herdsman/home");
}

#[test]
fn nonsense_is_refused_with_its_name() {
    type Change = fn(&mut DaskSpec);
    let cases: [(Change, &str); 12] = [
        (|s| s.workers_per_node = 0, "0 workers"),
        (|s| s.workers_per_node = 51, "51 workers"),
        (|s| s.worker_port = 65_535, ""),
        (|s| s.nanny_port = 8789, "overlap"),
        (|s| s.worker_port = 8785, "8785"),
        (|s| s.worker_port = 0, "port 0"),
        (|s| s.threads = Some(0), "thread"),
        (|s| s.memory_limit = Some("--x y".into()), "--x y"),
        (|s| s.resources = [("a b".into(), f64Eq(1.0))].into(), "`a b`"),
        (|s| s.resources = [("A".into(), f64Eq(f64::NAN))].into(), "`A`"),
        (|s| s.worker_class = Some("os.system('x')".into()), "os.system"),
        (|s| s.worker_args = vec!["--name=x".into()], "`--name`"),
    ];
    for (change, named) in cases {
        let spec = changed(|s| {
            s.workers_per_node = 2;
            change(s);
        });
        let e = build(Role::Worker, &spec).unwrap_err();
        assert_eq!(e.code, Code::Usage);
        assert!(e.message.contains(named), "{e}");
    }
    let e = build(Role::Scheduler, &changed(|s| s.dashboard_port = 8786)).unwrap_err();
    assert!(e.message.contains("8786"));
}
