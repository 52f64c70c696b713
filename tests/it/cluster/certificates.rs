//! Certificates of the user's own carry Dask's traffic.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use herdsman_tests::home::{Home, Ran};

use super::computes;

/// A certificate authority as people make one: by the openssl program.
struct Authority<'a>(&'a Path);

fn openssl(folder: &Path, args: &[&str]) -> Result<()> {
    let ran: Ran = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("openssl")?
        .into();
    ensure!(ran.code == 0, "openssl {args:?}: {ran:?}");
    Ok(())
}

const CONFIG: &str = "\
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
";

/// Arguments of `openssl req` for a new key in this file.
fn new_key(file: &str) -> [&str; 7] {
    [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        file,
    ]
}

impl<'a> Authority<'a> {
    fn make(folder: &'a Path, name: &str) -> Result<Self> {
        std::fs::create_dir(folder)?;
        std::fs::write(folder.join("ca.cnf"), CONFIG)?;
        std::fs::write(folder.join("index.txt"), "")?;
        std::fs::write(folder.join("serial"), "01")?;
        let subject = format!("/CN={name}");
        let rest = ["-out", "ca.pem", "-days", "2", "-subj", &subject];
        openssl(folder, &[&["req", "-x509"], &new_key("ca.key")[..], &rest[..]].concat())?;
        Ok(Self(folder))
    }

    /// `NAME.pem` and `NAME.key`; dates are such as `20200101000000Z`.
    fn leaf(&self, name: &str, [from, until]: [&str; 2]) -> Result<[PathBuf; 2]> {
        let [pem, key, csr] = ["pem", "key", "csr"].map(|e| format!("{name}.{e}"));
        let subject = format!("/CN={name}");
        openssl(
            self.0,
            &[&["req"], &new_key(&key)[..], &["-new", "-out", &csr, "-subj", &subject]].concat(),
        )?;
        let signer = [
            "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-batch", "-notext",
        ];
        let dates = ["-startdate", from, "-enddate", until, "-in", &csr, "-out", &pem];
        openssl(self.0, &[&["ca"], &signer[..], &dates[..]].concat())?;
        Ok([self.0.join(pem), self.0.join(key)])
    }

    fn root(&self) -> PathBuf {
        self.0.join("ca.pem")
    }
}

const NOW: [&str; 2] = ["20200101000000Z", "20490101000000Z"];
const OVER: [&str; 2] = ["20200101000000Z", "20200201000000Z"];
const TO_COME: [&str; 2] = ["20480101000000Z", "20490101000000Z"];

fn up<'a>(ca: &'a Path, [pem, key]: &'a [PathBuf; 2]) -> Result<Vec<&'a str>> {
    let mut args = vec!["up", "demo", "--workers", "1"];
    for (flag, path) in [("--tls-ca-file", ca), ("--tls-cert", pem), ("--tls-key", key)] {
        args.extend([flag, path.to_str().context("path")?]);
    }
    Ok(args)
}

/// Whom the scheduler's certificate is from, as a stranger sees it.
fn issuer(address: &str) -> Result<String> {
    let out = Command::new("openssl")
        .args(["s_client", "-connect", address, "-showcerts"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with("issuer="));
    Ok(line.with_context(|| format!("{out:?}"))?.to_owned())
}

#[test]
fn own_certificates_carry_dasks_traffic() -> Result<()> {
    let home = Home::new()?;
    let folder = home.path().join("ca");
    let ca = Authority::make(&folder, "Behaviour Authority")?;
    let leaf = ca.leaf("all", NOW)?;
    let root = ca.root();
    let up = home.json(&up(&root, &leaf)?)?;
    let address = up["scheduler"].as_str().context("scheduler")?;
    let address = address.strip_prefix("tls://").context("no TLS")?;
    let issuer = issuer(address)?;
    ensure!(issuer.contains("Behaviour Authority"), "{issuer}");
    computes(&home, "demo")?;
    let scaled = home.json(&["scale", "demo", "2"])?;
    ensure!(scaled["ready"] == 2, "{scaled}");
    // Workers accept each other as well.
    let program = "
from dask.distributed import Client
c = Client()
a = c.submit(lambda: b'x' * 10**6, workers=['demo-w0'], pure=False)
print(c.submit(len, a, workers=['demo-w1'], pure=False).result())";
    let out = home.compute("demo", program)?;
    ensure!(out.trim() == "1000000", "{out}");
    // What protects it is settled; nothing may quietly pretend otherwise.
    let ran = home.run(&["up", "demo", "--workers", "2"])?;
    ensure!(
        ran.code == 8 && ran.err.contains("certificates of your own") && ran.err.contains("try: "),
        "{ran:?}"
    );
    computes(&home, "demo")?;
    // Files travel and secrets stay: the key is on no command line.
    for (_, line) in home.processes() {
        ensure!(!line.contains("PRIVATE KEY") && !line.contains("all.key"), "{line}");
    }
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn own_certificates_come_with_the_cluster_or_not_at_all() -> Result<()> {
    let home = Home::new()?;
    let folder = home.path().join("ca");
    let ca = Authority::make(&folder, "Late Authority")?;
    let leaf = ca.leaf("all", NOW)?;
    home.ok(&["up", "demo", "--workers", "1"])?;
    let ran = home.run(&up(&ca.root(), &leaf)?)?;
    ensure!(
        ran.code == 8 && ran.err.contains("certificates of the cluster's own"),
        "{ran:?}"
    );
    // Clients still get the certificates that the cluster knows.
    computes(&home, "demo")?;
    home.ok(&["down", "demo"])?;
    home.assert_clean()
}

#[test]
fn own_certificates_that_cannot_work_are_refused_before_anything_is_made() -> Result<()> {
    let home = Home::new()?;
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    let (ca, other) = (Authority::make(&one, "One")?, Authority::make(&two, "Two")?);
    let [pem, key] = ca.leaf("all", NOW)?;
    let [_, stranger] = ca.leaf("stranger", NOW)?;
    let over = ca.leaf("over", OVER)?;
    let to_come = ca.leaf("to-come", TO_COME)?;
    let foreign = other.leaf("foreign", NOW)?;
    let no_key = home.path().join("no-key.pem");
    std::fs::write(
        &no_key,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )?;
    let locked = home.path().join("locked.key");
    std::fs::write(
        &locked,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )?;
    let missing = home.path().join("missing.pem");
    let cases: [([PathBuf; 2], &str); 8] = [
        ([pem.clone(), stranger], "stranger.key"),
        (over, "expired"),
        (to_come, "not valid before"),
        (foreign, "foreign.pem"),
        ([pem.clone(), no_key], "no-key.pem"),
        ([pem.clone(), locked], "password"),
        ([pem, missing], "missing.pem"),
        ([key.clone(), key], "no certificate"),
    ];
    for (leaf, word) in cases {
        let ran = home.run(&up(&ca.root(), &leaf)?)?;
        ensure!(matches!(ran.code, 2 | 3) && ran.err.contains(word), "`{word}`: {ran:?}");
        ensure!(!ran.err.contains("BEGIN"), "a key is told: {ran:?}");
        home.assert_clean().with_context(|| format!("`{word}`"))?;
    }
    Ok(())
}
