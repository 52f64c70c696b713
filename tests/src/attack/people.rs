//! Who calls a hub, and how.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use herdsman_agent::client::HubClient;
use herdsman_agent::identity::NewKeys;
use herdsman_wire::api::Issued;
use herdsman_wire::{ApiError, NodeName, Secret, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Answer, Hub, answer, request};

/// Who calls: from where, with which certificate.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Source address.
    pub from: IpAddr,
    /// Chain, PEM.
    pub chain: String,
    /// Key, PEM.
    pub key: Secret,
}

/// A machine that may enrol.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: NodeName,
    /// Serial of its bootstrap certificate.
    pub serial: String,
    /// How it calls before it has enrolled.
    pub caller: Caller,
}

/// A machine that has enrolled.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its keys.
    pub keys: NewKeys,
    /// What the hub answered.
    pub issued: Issued,
    /// Its address.
    pub from: IpAddr,
}

impl Member {
    /// Calls with the agent's certificate.
    #[must_use]
    pub fn agent(&self) -> Caller {
        Caller {
            from: self.from,
            chain: self.issued.agent_chain.clone(),
            key: self.keys.agent.clone(),
        }
    }

    /// Calls with Dask's certificate.
    #[must_use]
    pub fn dask(&self) -> Caller {
        Caller {
            from: self.from,
            chain: self.issued.dask_chain.clone(),
            key: self.keys.dask.clone(),
        }
    }
}

impl Hub {
    /// The agent's own client with this certificate.
    ///
    /// # Errors
    /// When the certificate does not parse.
    pub fn client(&self, caller: &Caller) -> Result<HubClient, ApiError> {
        let config = tls::client_config(&self.roots.pems.control, &caller.chain, &caller.key)
            .map_err(|e| ApiError::new(herdsman_wire::Code::Certificate, e.to_string()))?;
        Ok(HubClient {
            hub: self.address,
            bind: Some(caller.from),
            name: self.cluster.id.hub_dns(),
            config: Arc::new(config),
        })
    }

    /// The owner as a caller.
    #[must_use]
    pub fn owner(&self) -> Caller {
        Caller {
            from: self.node_address(250),
            chain: self.operator.chain.clone(),
            key: self.operator.key.clone(),
        }
    }

    /// A TCP connection from an address.
    ///
    /// # Errors
    /// As the system says.
    pub async fn tcp(&self, from: IpAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(self.address).await
    }

    /// A TLS connection with a configuration of one's own.
    ///
    /// # Errors
    /// When the handshake fails on our side; what the hub thinks of us comes with
    /// the first read.
    pub async fn tls(&self, from: IpAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.cluster.id.hub_dns()).map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, self.tcp(from).await?).await
    }

    /// A TLS connection of a caller.
    ///
    /// # Errors
    /// As [`Hub::tls`].
    pub async fn connect(&self, caller: &Caller) -> std::io::Result<TlsStream<TcpStream>> {
        let config = tls::client_config(&self.roots.pems.control, &caller.chain, &caller.key);
        self.tls(caller.from, Arc::new(config.map_err(std::io::Error::other)?))
            .await
    }

    /// Sends bytes over a connection of its own; gives the answer.
    ///
    /// # Errors
    /// When the connection broke, before the answer was whole.
    pub async fn send(&self, caller: &Caller, request: &[u8]) -> std::io::Result<Answer> {
        let mut tls = self.connect(caller).await?;
        tls.write_all(request).await?;
        // TLS keeps what did not fit into the socket until then.
        tls.flush().await?;
        answer(&mut tls).await
    }

    /// Asks as a good client does.
    ///
    /// # Errors
    /// As [`Hub::send`].
    pub async fn ask(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> std::io::Result<Answer> {
        let body = serde_json::to_vec(body)?;
        self.send(caller, &request(method, path, &body)).await
    }
}
