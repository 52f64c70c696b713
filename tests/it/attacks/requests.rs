//! Certificate requests that ask for more than they may get, or are broken.

use anyhow::{Context, Result, ensure};
use herdsman_agent::identity::NewKeys;
use herdsman_tests::attack::{Hub, Machine};
use herdsman_wire::api::{Enrol, Issued};
use herdsman_wire::{Code, pki};
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

fn ask(csr_agent: &str, csr_dask: &str) -> Enrol {
    Enrol {
        csr_agent: csr_agent.into(),
        csr_dask: csr_dask.into(),
        facts: Default::default(),
    }
}

async fn refused(hub: &Hub, machine: &Machine, what: &str, ask: &Enrol) -> Result<()> {
    let answer = hub.ask(&machine.caller, "POST", "/v1/enrol", ask).await?;
    ensure!(answer.status == 400, "{what}: {answer:?}");
    let e = answer.error()?;
    ensure!(e.code == Code::EnrolRequest, "{what}: {e}");
    Ok(())
}

/// A request for everything that an attacker would like to have.
fn greedy(hub: &Hub, key: &KeyPair, ca: bool) -> Result<String> {
    let mut params = CertificateParams::default();
    let hub_name = hub.cluster.id.hub_dns();
    params.distinguished_name.push(DnType::CommonName, &hub_name);
    params.subject_alt_names = vec![
        SanType::DnsName(hub_name.as_str().try_into()?),
        SanType::DnsName("*.herdsman.internal".try_into()?),
        SanType::IpAddress(hub.address.ip()),
        SanType::URI(
            format!("herdsman://{}/operator/evil", hub.cluster.id)
                .as_str()
                .try_into()?,
        ),
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::OcspSigning];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if ca {
        // Basic constraints: CA, critical.
        let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
        constraints.set_criticality(true);
        params.custom_extensions = vec![constraints];
    }
    Ok(params.serialize_request(key)?.pem()?)
}

fn only_its_own(hub: &Hub, issued: &Issued) -> Result<()> {
    let own = hub.cluster.id.dns("demo-w0");
    for chain in [&issued.agent_chain, &issued.dask_chain] {
        let ders = pki::pem_chain(chain)?;
        let der = ders.first().context("no certificate")?;
        let (_, cert) = X509Certificate::from_der(der)?;
        ensure!(!cert.is_ca());
        let text = format!("{}", cert.subject());
        ensure!(text.contains("demo-w0") && !text.contains("scheduler"), "{text}");
        let names = cert.subject_alternative_name()?.context("no names")?;
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(n) => ensure!(*n == own, "{n}"),
                GeneralName::URI(u) => ensure!(!u.contains("operator") && u.contains("/worker"), "{u}"),
                other => anyhow::bail!("{other:?}"),
            }
        }
        let usage = cert.key_usage()?.context("no key usage")?;
        ensure!(usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign());
        let extended = cert.extended_key_usage()?.context("no extended key usage")?;
        let extended = extended.value;
        ensure!(extended.server_auth && extended.client_auth && !extended.any && !extended.ocsp_signing);
        let life = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
        ensure!(life <= 24 * 3600 + 600, "{life} s");
    }
    Ok(())
}

#[tokio::test]
async fn names_and_rights_in_a_request_are_not_believed() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let (a, d) = (pki::new_key()?, pki::new_key()?);
    // One that wants to be an authority is refused or not believed, and costs
    // nothing.
    let answer = hub
        .ask(
            &machine.caller,
            "POST",
            "/v1/enrol",
            &ask(&greedy(&hub, &a, true)?, &greedy(&hub, &d, true)?),
        )
        .await?;
    if answer.status == 200 {
        only_its_own(&hub, &answer.json()?)?;
    } else {
        ensure!(answer.error()?.code == Code::EnrolRequest, "{answer:?}");
    }
    let greedy = ask(&greedy(&hub, &a, false)?, &greedy(&hub, &d, false)?);
    let answer = hub.ask(&machine.caller, "POST", "/v1/enrol", &greedy).await?;
    ensure!(answer.status == 200, "{answer:?}");
    only_its_own(&hub, &answer.json()?)
}

#[tokio::test]
async fn keys_are_not_used_twice() -> Result<()> {
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let (agent, dask) = keys.requests()?;
    let boot = pki::new_csr("x", &KeyPair::from_pem(machine.caller.key.reveal())?)?;
    refused(&hub, &machine, "one key for both", &ask(&agent, &agent)).await?;
    refused(&hub, &machine, "the bootstrap key", &ask(&boot, &dask)).await?;
    refused(&hub, &machine, "the bootstrap key for Dask", &ask(&agent, &boot)).await?;
    let member = hub.enrol(&machine, &keys).await?;
    // Neither does a renewal keep a key.
    let mut same = NewKeys::generate()?;
    same.agent = keys.agent.clone();
    let e = hub
        .renew(&member, &same)
        .await
        .err()
        .context("renewed with an old key")?;
    ensure!(e.code == Code::EnrolRequest, "{e}");
    let mut same = NewKeys::generate()?;
    same.dask = keys.dask.clone();
    let e = hub
        .renew(&member, &same)
        .await
        .err()
        .context("renewed with Dask's old key")?;
    ensure!(e.code == Code::EnrolRequest, "{e}");
    hub.renew(&member, &NewKeys::generate()?).await?;
    Ok(())
}

fn openssl_csr(algorithm: &[&str]) -> Result<String> {
    let out = std::process::Command::new("openssl")
        .args(["req", "-new", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null"])
        .args(algorithm)
        .output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

fn pem(der: &[u8]) -> Result<String> {
    use std::io::Write as _;
    let mut openssl = std::process::Command::new("openssl")
        .args(["base64", "-e"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    openssl.stdin.take().context("no input")?.write_all(der)?;
    let text = String::from_utf8(openssl.wait_with_output()?.stdout)?;
    Ok(format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    ))
}

#[tokio::test]
async fn weak_broken_and_garbage_requests_cost_the_machine_nothing() -> Result<()> {
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    let hub = Hub::start().await?;
    let machine = hub.machine("demo-w0", 2)?;
    hub.expect(&machine).await?;
    let keys = NewKeys::generate()?;
    let (agent, dask) = keys.requests()?;
    let good = CertificateSigningRequestDer::from_pem_slice(dask.as_bytes())?;
    // The signature is at the end; the key is in the middle.
    let mut forged = good.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut other_key = good.to_vec();
    let middle = last / 2;
    other_key[middle] ^= 1;
    let cases = [
        ("RSA 1024", openssl_csr(&["-newkey", "rsa:1024"])?),
        ("RSA 4096", openssl_csr(&["-newkey", "rsa:4096"])?),
        (
            "P-384",
            openssl_csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"])?,
        ),
        (
            "secp112r1",
            openssl_csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp112r1"])?,
        ),
        (
            "secp256k1, as long as ours",
            openssl_csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"])?,
        ),
        ("Ed25519", openssl_csr(&["-newkey", "ed25519"])?),
        ("broken signature", pem(&forged)?),
        ("another key than the one that signed", pem(&other_key)?),
        ("cut", pem(&good[..good.len() / 2])?),
        ("empty", String::new()),
        ("no PEM", "garbage".into()),
        ("PEM of nothing", pem(&[])?),
        ("a certificate", hub.roots.pems.control.clone()),
        ("nested", pem(&[0x30; 4000])?),
    ];
    for (what, csr) in &cases {
        refused(&hub, &machine, what, &ask(&agent, csr)).await?;
        refused(&hub, &machine, what, &ask(csr, &dask)).await?;
    }
    // The same serial is still good for a proper request.
    let member = hub.enrol(&machine, &keys).await?;
    for (what, csr) in &cases {
        let e = hub
            .ask(
                &member.agent(),
                "POST",
                "/v1/renew",
                &serde_json::json!({"csr_agent": agent_of()?, "csr_dask": csr}),
            )
            .await?
            .error()?;
        ensure!(e.code == Code::EnrolRequest, "{what}: {e}");
    }
    hub.renew(&member, &NewKeys::generate()?).await?;
    Ok(())
}

fn agent_of() -> Result<String> {
    Ok(NewKeys::generate()?.requests()?.0)
}

#[tokio::test]
async fn an_operators_requests_are_not_believed_either() -> Result<()> {
    let hub = Hub::start().await?;
    let (a, b) = (pki::new_key()?, pki::new_key()?);
    let body = serde_json::json!({
        "csr_operator": greedy(&hub, &a, false)?, "csr_client": greedy(&hub, &b, false)?,
    });
    let answer = hub.ask(&hub.owner(), "POST", "/v1/operator", &body).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let issued: herdsman_wire::api::OperatorIssued = answer.json()?;
    for (chain, who) in [
        (issued.operator_chain, "/operator/tester"),
        (issued.client_chain, "/dask/client/tester"),
    ] {
        let facts = pki::facts_of_pem(&chain)?;
        ensure!(
            facts.identity.to_string().ends_with(who) && facts.label.is_none(),
            "{facts:?}"
        );
    }
    // Names that would read as something else.
    for user in ["a/b", "", "x?generation=1", "../agent/worker", &"u".repeat(65), "a b"] {
        let body = serde_json::json!({
            "user": user, "csr_operator": pki::new_csr("x", &a)?, "csr_client": pki::new_csr("x", &b)?,
        });
        let e = hub.ask(&hub.owner(), "POST", "/v1/operator", &body).await?.error()?;
        ensure!(e.code == Code::Usage, "{user}: {e}");
    }
    Ok(())
}
