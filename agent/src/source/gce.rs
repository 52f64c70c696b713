//! Google Compute Engine's metadata server.
//!
//! Google Cloud documentation, "About VM metadata" and "View and query VM metadata":
//! every request carries `Metadata-Flavor: Google`, and so does every answer; an
//! answer without it comes from somebody else. Custom metadata of the machine is
//! below `/computeMetadata/v1/instance/attributes/`; a value may have 256 KiB, and all
//! of them can be changed while the machine runs.

use bytes::Bytes;
use hyper::StatusCode;

use super::Text;
use super::metadata::{Answer, Fault, Metadata};

/// Header of requests and answers.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// The server on machines without IPv4.
const V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);

/// The answer to a GET below `/computeMetadata/v1/`, certain to be Google's.
///
/// # Errors
/// [`Fault`].
pub async fn answer(metadata: &Metadata, path: &str) -> Result<Answer, Fault> {
    let metadata = metadata.clone().or_at(V6);
    let path = format!("/computeMetadata/v1/{path}");
    let answer = metadata.get(&path, &[FLAVOR]).await?;
    let flavor = answer.headers.get(FLAVOR.0).map(|v| v.as_bytes());
    let says_something = answer.status.is_success() || answer.status == StatusCode::NOT_FOUND;
    if says_something && flavor != Some(FLAVOR.1.as_bytes()) {
        return Err(Fault::Garbage("GCE's metadata"));
    }
    Ok(answer)
}

async fn value(metadata: &Metadata, path: &str) -> Result<Option<Bytes>, Fault> {
    answer(metadata, path).await?.content(path)
}

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let mut found = Vec::new();
    // An attribute of our own can be given to a machine that runs; `user-data` is
    // cloud-init's, `startup-script` that of Google's own images.
    for (name, place) in [
        ("herdsman-join", "the GCE attribute `herdsman-join`"),
        ("user-data", "the GCE attribute `user-data`"),
        ("startup-script", "the GCE attribute `startup-script`"),
    ] {
        if let Some(content) = value(metadata, &format!("instance/attributes/{name}")).await? {
            found.push(Text::new(place, content));
        }
    }
    Ok(found)
}
