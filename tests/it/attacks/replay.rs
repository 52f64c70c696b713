//! A node's user-data in other hands, as the cluster's owner sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use herdsman_agent::client::HubClient;
use herdsman_agent::identity::NewKeys;
use herdsman_agent::identity::enrol::facts;
use herdsman_tests::home::{Home, LONG};
use herdsman_tests::trouble::folders;
use herdsman_wire::api::{Enrol, Issued};
use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Code, tls};

/// Somebody with a copy of a node's join configuration.
struct Thief {
    client: HubClient,
    from: IpAddr,
}

impl Thief {
    /// Reads it where the node has it; calls from an address that no node has.
    fn of(home: &Home, node: &str) -> Result<Self> {
        let folder = folders(home, node).pop().context("no folder")?;
        let join = JoinConfig::parse(&std::fs::read(folder.join("join.json"))?)?;
        let hub: SocketAddr = join.hub.context("no hub")?;
        let mut octets = match hub.ip() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => anyhow::bail!("{ip} is no loopback address of ours"),
        };
        octets[3] = 250;
        let from = IpAddr::from(octets);
        let boot = &join.bootstrap;
        let config = tls::client_config(&join.roots.control, &boot.certificate, &boot.key)?;
        let client = HubClient {
            hub,
            bind: Some(from),
            name: join.cluster.hub_dns(),
            config: Arc::new(config),
        };
        Ok(Self { client, from })
    }

    async fn enrols(&self) -> Result<Issued, ApiError> {
        let (csr_agent, csr_dask) = NewKeys::generate()?.requests()?;
        let facts = facts();
        let ask = Enrol {
            csr_agent,
            csr_dask,
            facts,
        };
        self.client.post("/v1/enrol", &ask, LONG).await
    }
}

#[tokio::test]
async fn a_replayed_bootstrap_certificate_is_told_to_the_owner() -> Result<()> {
    let home = Home::new()?;
    home.ok(&["up", "treplay", "--workers", "1", "--local-network", "loopback"])?;
    let thief = Thief::of(&home, "treplay-w0")?;
    for _ in 0..3 {
        let e = thief.enrols().await.err().context("enrolled")?;
        ensure!(e.code == Code::EnrolSpent, "{e}");
    }
    let (status, doctor) = (home.ok(&["status", "treplay"])?, home.run(&["doctor", "treplay"])?);
    ensure!(doctor.code == 1, "{doctor:?}");
    let told = format!(
        "the bootstrap certificate of treplay-w0 was used again, with other keys, 3 times from {}, first at ",
        thief.from
    );
    for said in [&status.out, &doctor.out] {
        ensure!(said.contains(&told), "{said}");
        ensure!(said.contains("try: herdsman remove treplay treplay-w0 "), "{said}");
    }
    ensure!(doctor.out.contains(&format!("✗ {told}")), "{doctor:?}");
    let json = home.json(&["status", "treplay"])?;
    ensure!(json["status"]["incidents"][0]["count"] == 3, "{json:#}");

    // The owner acts; what is left is history.
    home.ok(&["remove", "treplay", "treplay-w0"])?;
    let e = thief.enrols().await.err().context("enrolled")?;
    ensure!(e.code == Code::Revoked, "{e}");
    let doctor = home.run(&["doctor", "treplay"])?.out;
    ensure!(
        doctor.contains(&format!("✓ refused, and the node is removed: {told}")),
        "{doctor}"
    );
    home.ok(&["down", "treplay"])?;
    home.assert_clean()
}
