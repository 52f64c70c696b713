//! Amazon EC2's metadata service, version 2 only.
//!
//! Amazon EC2 User Guide, "Use the Instance Metadata Service to access instance
//! metadata": a PUT to `/latest/api/token` with the header
//! `X-aws-ec2-metadata-token-ttl-seconds` (1 to 21600) gives a token, which every GET
//! carries in `X-aws-ec2-metadata-token`. 400: a header is missing; 401: the token is
//! invalid or expired; 403: the service is off. Answers travel one hop by default.
//!
//! User-data can only be changed while the machine is stopped. Tags can be changed
//! at any time; they are shown here where the machine's metadata options allow it.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::Mutex;

use super::metadata::{Answer, Fault, Metadata};
use super::{Text, tags};

const TOKEN: &str = "/latest/api/token";
/// Life of a token in seconds: as long as one look takes, with much to spare.
const LIFE: &str = "600";
/// The service on machines without IPv4.
const V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The service and the token of the session with it.
#[derive(Debug)]
pub struct Ec2 {
    metadata: Metadata,
    token: Mutex<Option<String>>,
}

impl Ec2 {
    /// A session with the service.
    #[must_use]
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata: metadata.or_at(V6),
            token: Mutex::default(),
        }
    }

    /// A fact; `None` when the machine has none such.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Off`] when the service is switched off.
    pub async fn fact(&self, path: &str) -> Result<Option<Bytes>, Fault> {
        let answer = self.metadata.patiently(|| self.ask(path)).await?;
        match answer.status {
            StatusCode::FORBIDDEN => Err(Fault::Off("its metadata options")),
            _ => answer.content(path),
        }
    }

    /// Asks with a token, and once more with a new one if that had expired.
    async fn ask(&self, path: &str) -> Result<Answer, Fault> {
        let mut token = self.token.lock().await;
        for fresh in [false, true] {
            if fresh {
                *token = None;
            }
            let value = match &*token {
                Some(value) => value.clone(),
                None => token.insert(self.new_token().await?).clone(),
            };
            let headers = [("x-aws-ec2-metadata-token", value.as_str())];
            let answer = self.metadata.once(Method::GET, path, &headers, Bytes::new()).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
        }
        Err(Fault::Status(401, path.to_owned()))
    }

    async fn new_token(&self) -> Result<String, Fault> {
        let headers = [("x-aws-ec2-metadata-token-ttl-seconds", LIFE)];
        let answer = self.metadata.once(Method::PUT, TOKEN, &headers, Bytes::new()).await?;
        match answer.status {
            StatusCode::FORBIDDEN => Err(Fault::Off("its metadata options")),
            StatusCode::OK => {
                let token = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
                let is_token = !token.is_empty() && token.len() < 1024 && token.chars().all(|c| c.is_ascii_graphic());
                is_token.then(|| token.to_owned()).ok_or(Fault::Garbage("a token"))
            }
            s => Err(Fault::Status(s.as_u16(), TOKEN.into())),
        }
    }
}

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let service = Ec2::new(metadata.clone());
    let mut found = Vec::new();
    if let Some(content) = service.fact("/latest/user-data").await? {
        found.push(Text::new("EC2 user-data", content));
    }
    // 404 as well where tags are not shown.
    let list = "/latest/meta-data/tags/instance";
    let keys = service.fact(list).await?.unwrap_or_default();
    let mut ours = Vec::new();
    for key in String::from_utf8_lossy(&keys).lines().filter(|k| tags::is_ours(k)) {
        if let Some(value) = service.fact(&format!("{list}/{key}")).await? {
            ours.push((key.to_owned(), String::from_utf8_lossy(&value).into_owned()));
        }
    }
    found.extend(tags::joined(ours).map(|content| Text::new("the EC2 tags `herdsman-join…`", content)));
    Ok(found)
}
