//! The user's own certificates in place of the cluster's.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use herdsman_tests::home::Home;

fn openssl(folder: &Path, args: &str) -> Result<()> {
    let out = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()?;
    ensure!(
        out.status.success(),
        "openssl {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// An authority `NAME.pem` and a leaf of it, `NAME-leaf.pem`, as a company's own
/// PKI would give them.
fn authority(folder: &Path, name: &str, days: &str) -> Result<()> {
    for key in [name.to_owned(), format!("{name}-leaf")] {
        openssl(
            folder,
            &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {key}.key"),
        )?;
    }
    openssl(
        folder,
        &format!("req -x509 -new -key {name}.key -subj /CN={name} -days 2 -out {name}.pem"),
    )?;
    openssl(
        folder,
        &format!("req -new -key {name}-leaf.key -subj /CN={name}-leaf -out {name}-leaf.csr"),
    )?;
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}-leaf.csr -CA {name}.pem -CAkey {name}.key -CAcreateserial -days {days} -out {name}-leaf.pem"
        ),
    )
}

fn up<'a>(ca: &'a str, cert: &'a str, key: &'a str) -> Vec<&'a str> {
    vec![
        "up",
        "demo",
        "--workers",
        "1",
        // So that a test may reach the workers' ports too.
        "--local-network",
        "loopback",
        "--tls-ca-file",
        ca,
        "--tls-cert",
        cert,
        "--tls-key",
        key,
    ]
}

#[test]
fn own_certificates_travel_and_are_what_dask_uses() -> Result<()> {
    let home = Home::new()?;
    authority(home.path(), "acme", "1")?;
    home.ok(&up("acme.pem", "acme-leaf.pem", "acme-leaf.key"))?;
    home.ok(&["scale", "demo", "2"])?;
    // What the scheduler shows, asked with a client that knows nothing of herdsman.
    let said = home.compute(
        "demo",
        "
import os, socket, ssl
from dask.distributed import Client
client = Client()
client.wait_for_workers(2, timeout=60)
print(sum(client.gather(client.map(abs, range(-5, 0)))))
print({w['name'] for w in client.scheduler_info()['workers'].values()} == {'demo-w0', 'demo-w1'})
get = lambda name: os.environ['DASK_DISTRIBUTED__COMM__TLS__' + name]
context = ssl.create_default_context(cafile=get('CA_FILE'))
context.check_hostname = False
context.load_cert_chain(get('CLIENT__CERT'), get('CLIENT__KEY'))
for address in [client.scheduler.address, *client.scheduler_info()['workers']]:
    host, port = address.removeprefix('tls://').split(':')
    with socket.create_connection((host, int(port)), 10) as tcp, context.wrap_socket(tcp) as tls:
        print(dict(x[0] for x in tls.getpeercert()['issuer'])['commonName'])
",
    )?;
    ensure!(
        said.split_whitespace().collect::<Vec<_>>() == ["15", "True", "acme", "acme", "acme"],
        "{said}"
    );
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn certificates_that_cannot_work_are_refused_before_anything_is_made() -> Result<()> {
    let home = Home::new()?;
    authority(home.path(), "acme", "1")?;
    authority(home.path(), "other", "1")?;
    std::fs::write(home.path().join("empty.pem"), "nothing\n")?;
    for (files, wanted) in [
        (["acme.pem", "acme-leaf.pem", "other-leaf.key"], "other-leaf.key"),
        (["other.pem", "acme-leaf.pem", "acme-leaf.key"], "acme-leaf.pem"),
        (["empty.pem", "acme-leaf.pem", "acme-leaf.key"], "empty.pem"),
        (["acme.pem", "empty.pem", "acme-leaf.key"], "empty.pem"),
        (["acme.pem", "nowhere.pem", "acme-leaf.key"], "nowhere.pem"),
    ] {
        let [ca, cert, key] = files;
        let ran = home.run(&up(ca, cert, key))?;
        ensure!(
            matches!(ran.code, 2 | 3) && ran.err.contains(wanted) && ran.err.contains("error[E-"),
            "{files:?}: {ran:?}"
        );
        ensure!(!ran.err.contains("PRIVATE KEY"), "{}", ran.err);
        home.assert_clean()?;
    }
    Ok(())
}
