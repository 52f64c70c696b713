use herdsman_wire::ClusterId;
use herdsman_wire::pki::{self, Authority};

use super::*;

#[test]
fn the_agent_reads_what_is_written_and_the_only_key_is_the_bootstrap_key() {
    let cluster = ClusterRef {
        name: "demo".parse().unwrap(),
        id: "aaaaaaaaaa".parse::<ClusterId>().unwrap(),
    };
    let now = Timestamp::now();
    let life = limits::BOOTSTRAP_LIFE;
    let roots = crate::pki::Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE).unwrap();
    let name: NodeName = "demo-w0".parse().unwrap();
    let (bootstrap, _) = roots.bootstrap(Role::Worker, &name, now, life).unwrap();
    let text = join_configuration(Node {
        cluster: &cluster,
        name: Some(&name),
        role: Role::Worker,
        hub: Some("10.0.0.2:8785".parse().unwrap()),
        placement: &Placement::default(),
        roots: &roots.pems,
        bootstrap,
        deadline: now.plus(life),
        allow: &[],
    })
    .unwrap();
    let join = JoinConfig::parse(text.reveal().as_bytes()).unwrap();
    assert_eq!((join.node, join.role), (Some(name), Role::Worker));
    assert_eq!(
        text.reveal().matches("PRIVATE KEY").count(),
        2,
        "begin and end of one key"
    );
    assert!(text.reveal().len() < 6 * 1024, "{} bytes", text.reveal().len());
}

const HASH: &str = "0f343b0931126a20f133d67c2b018a3b5e2a6a1f8f0b1d6a4ad32c1f0c4f6d21";

/// What a worker of a real cluster is told, with certificates of real sizes.
fn boot(mirrors: &[&str], extra: &[&str]) -> (Secret, Boot) {
    boot_by(mirrors, extra, false)
}

/// As the hub makes it: under the control root stands its issuing certificate, whose
/// name and extensions are in what it signs.
fn by_hub(root: &crate::pki::Roots, cluster: &ClusterId, node: &NodeName, now: Timestamp) -> Bootstrap {
    let keys: [_; 3] = std::array::from_fn(|_| pki::new_key().unwrap());
    let csr = |n: usize, a| pki::new_issuing_csr(cluster, a, &keys[n]).unwrap();
    let requests = herdsman_wire::api::CsrReply {
        issue_control: csr(0, Authority::Control),
        issue_scheduler: csr(1, Authority::Scheduler),
        issue_node: csr(2, Authority::Node),
        facts: Default::default(),
    };
    let [control, ..] = root.sign(&requests, now).unwrap().0;
    let [key, ..] = keys;
    let issuer = rcgen::Issuer::from_ca_cert_pem(&control, key).unwrap();
    let identity = herdsman_wire::Identity {
        cluster: cluster.clone(),
        kind: herdsman_wire::Kind::Boot(Role::Worker),
    };
    let what = pki::SignRequest {
        identity: &identity,
        node: Some(node.as_str()),
        now,
        not_after: now.plus(limits::BOOTSTRAP_LIFE),
    };
    let (chain, key) = pki::leaf_with_key(&what, &issuer).unwrap();
    Bootstrap {
        certificate: chain.certificate,
        key,
    }
}

fn boot_by(mirrors: &[&str], extra: &[&str], hub: bool) -> (Secret, Boot) {
    let cluster = ClusterRef {
        name: "a-name-of-a-cluster".parse().unwrap(),
        id: "aaaaaaaaaa".parse::<ClusterId>().unwrap(),
    };
    let now = Timestamp::now();
    let roots = crate::pki::Roots::generate(&cluster.id, now, limits::CLUSTER_LIFE).unwrap();
    let name: NodeName = "a-name-of-a-cluster-w1234".parse().unwrap();
    let (mut bootstrap, _) = roots
        .bootstrap(Role::Worker, &name, now, limits::BOOTSTRAP_LIFE)
        .unwrap();
    if hub {
        bootstrap = by_hub(&roots, &cluster.id, &name, now);
    }
    let join = join_configuration(Node {
        cluster: &cluster,
        name: Some(&name),
        role: Role::Worker,
        hub: Some("192.168.100.200:8785".parse().unwrap()),
        placement: &Placement::default(),
        roots: &roots.pems,
        bootstrap,
        deadline: now.plus(limits::BOOTSTRAP_LIFE),
        allow: &[],
    });
    let both = [Arch::Aarch64, Arch::X86_64].map(|a| (a, HASH.parse().unwrap()));
    let boot = Boot {
        download: Ok(Download {
            mirrors: mirrors.iter().map(|m| m.parse().unwrap()).collect(),
            sha256: both.into(),
        }),
        extra: extra.iter().map(|&l| l.to_owned()).collect(),
    };
    (join.unwrap(), boot)
}

fn render(join: &Secret, boot: &Boot, form: UserDataForm) -> Result<Secret, ApiError> {
    let parts = Parts {
        join,
        download: boot.download.as_ref().unwrap(),
        extra: &boot.extra,
        patience: limits::BOOTSTRAP_LIFE,
    };
    user_data(parts, form)
}

const RELEASE: &str = "https://github.com/some-organisation/herdsman/releases/download/v10.20.30/herdsman-agent-{arch}";

/// Sizes in bytes as of this writing: join configuration 3100, script 5900,
/// cloud-config 6100.
#[test]
fn all_forms_are_small_with_real_certificates() {
    let mut sizes = Vec::new();
    for hub in [false, true] {
        let (join, boot) = boot_by(&[RELEASE], &[], hub);
        for form in [UserDataForm::Json, UserDataForm::Script, UserDataForm::CloudConfig] {
            let size = render(&join, &boot, form).unwrap().reveal().len();
            sizes.push((form, size));
        }
    }
    println!("{sizes:?}");
    assert!(sizes.iter().all(|(_, size)| *size <= 6 * 1024), "{sizes:?}");
}

#[test]
fn what_is_too_large_is_named() {
    let line = "x".repeat(1000);
    let lines = vec![line.as_str(); 12];
    let (join, boot) = boot(&[RELEASE], &lines);
    let e = render(&join, &boot, UserDataForm::CloudConfig).unwrap_err();
    assert_eq!(e.code, Code::TooLarge);
    assert!(e.message.contains("extra_bootstrap 12012"), "{}", e.message);
    assert!(!e.message.contains("PRIVATE"));
    let eleven = Boot {
        extra: boot.extra[..9].to_vec(),
        ..boot
    };
    render(&join, &eleven, UserDataForm::CloudConfig).unwrap();
}

#[test]
fn the_users_lines_cannot_break_ours() {
    for line in ["#HERDSMAN-EXTRA-END", "a\n#HERDSMAN-JOIN-END", "a\u{1b}[0m", "a\rb"] {
        let (join, boot) = boot(&[RELEASE], &[line]);
        let e = render(&join, &boot, UserDataForm::Script).unwrap_err();
        assert_eq!(e.code, Code::Usage, "{line:?}");
    }
}

#[test]
fn addresses_with_meaning_for_a_shell_are_refused() {
    for bad in [
        "ftp://host/a",
        "https://",
        "https://host/$HOME",
        "https://host/`id`",
        "https://host/a b",
        "https://host/\"",
        "https://host/'",
        "https://host/a\\b",
        "https://user:pw@host/a",
        "https://host/{a}",
    ] {
        assert!(bad.parse::<Mirror>().is_err(), "{bad}");
    }
    for good in ["http://[fd00::1]:80/a-{arch}?x=1&y=(2)", "https://host/~me/a%20b;v=1"] {
        assert_eq!(good.parse::<Mirror>().unwrap().to_string(), good);
    }
}

#[test]
fn the_join_configuration_stands_between_its_lines() {
    let (join, boot) = boot(&[RELEASE], &["echo hello"]);
    for form in [UserDataForm::Script, UserDataForm::CloudConfig] {
        let text = render(&join, &boot, form).unwrap();
        let mut lines = text.reveal().lines().map(str::trim_start);
        assert!(lines.any(|l| l == JOIN_BEGIN));
        let found = lines.next().unwrap();
        assert_eq!(found, join.reveal());
        JoinConfig::parse(found.as_bytes()).unwrap();
        assert_eq!(lines.next(), Some(JOIN_END));
    }
}

#[test]
fn what_makes_an_image_has_nothing_of_a_cluster() {
    let (_, boot) = boot(&[RELEASE], &["apt-get install -y gdal-bin"]);
    let download = boot.download.as_ref().unwrap();
    let of = |form| image(download, &boot.extra, limits::BOOTSTRAP_LIFE, form);
    for form in [UserDataForm::Script, UserDataForm::CloudConfig] {
        let text = of(form).unwrap();
        assert!(text.contains("install --no-start ||") && text.contains("apt-get install -y gdal-bin"));
        assert!(!text.contains("join.json") && !text.contains(JOIN_BEGIN) && !text.contains("PRIVATE KEY"));
    }
    assert!(of(UserDataForm::CloudConfig).unwrap().starts_with("#cloud-config\n"));
    assert_eq!(of(UserDataForm::Json).unwrap_err().code, Code::Usage);
}

#[test]
fn the_script_is_as_it_was() {
    let (join, boot) = boot(&[RELEASE, "http://10.0.0.1/agent"], &["apt-get install -y libgdal32"]);
    let text = render(&join, &boot, UserDataForm::CloudConfig).unwrap();
    insta::assert_snapshot!(text.reveal().replace(join.reveal(), "{…}"));
}

#[test]
fn an_own_agent_is_known_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let mut elf = b"\x7fELF\x02\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 183;
    std::fs::write(&path, &elf).unwrap();
    let (arch, hash) = download::of_program(&path).unwrap();
    assert_eq!(arch, Arch::Aarch64);
    let digest = ring::digest::digest(&ring::digest::SHA256, &elf);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash.to_string(), hex);
    for other in [&b"#!/bin/sh\n"[..], b"", b"MZ", b"\x7fELF\x01\x01"] {
        std::fs::write(&path, other).unwrap();
        assert_eq!(download::of_program(&path).unwrap_err().code, Code::Usage);
    }
    std::fs::write(&path, &elf).unwrap();
    let mirror: Mirror = "https://host/a".parse().unwrap();
    let own = Download::new(&[mirror], &std::collections::BTreeMap::new(), || Ok(path)).unwrap();
    assert_eq!(own.sha256.keys().collect::<Vec<_>>(), [&Arch::Aarch64]);
}

/// With the linter, where it is installed: CI has it.
#[test]
fn the_script_is_posix_and_clean() {
    use std::io::Write as _;
    let (join, boot) = boot(&[RELEASE, "http://10.0.0.1/agent"], &["echo hello"]);
    let text = render(&join, &boot, UserDataForm::Script).unwrap();
    for shell in ["sh", "dash"] {
        // SC2015: what follows the second is a report of either's failure.
        // SC2086: paths of ours without anything to split.
        let child = std::process::Command::new("shellcheck")
            .args(["-s", shell, "-e", "SC2015,SC2086", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: shellcheck is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(text.reveal().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
