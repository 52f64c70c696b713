//! Azure's Instance Metadata Service.
//!
//! Microsoft Learn, "Azure Instance Metadata Service for virtual machines": every
//! request carries `Metadata: true` and an `api-version`, and comes from the machine
//! itself, never through a proxy. `userData` is text in base64 and can be changed
//! while the machine runs, as can tags. What is given as `customData` is not shown
//! here: cloud-init runs it.

use bytes::Bytes;
use serde::Deserialize;

use super::metadata::{Fault, Metadata};
use super::{Text, tags};

/// Asked for by every request.
pub const HEADER: (&str, &str) = ("metadata", "true");
/// The first version that shows user-data.
const VERSION: &str = "2021-01-01";

#[derive(Deserialize)]
struct Tag {
    name: String,
    value: String,
}

async fn compute(metadata: &Metadata, what: &str) -> Result<Option<Bytes>, Fault> {
    let path = format!("/metadata/instance/compute/{what}api-version={VERSION}");
    metadata.get(&path, &[HEADER]).await?.content(&path)
}

/// The machine's name as scheduled events call it.
///
/// # Errors
/// [`Fault`].
pub async fn name(metadata: &Metadata) -> Result<Option<String>, Fault> {
    let name = compute(metadata, "name?format=text&").await?;
    Ok(name.map(|n| String::from_utf8_lossy(&n).trim().to_owned()))
}

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let mut found = Vec::new();
    if let Some(content) = compute(metadata, "userData?format=text&").await? {
        found.push(Text::new("Azure user data", content));
    }
    if let Some(list) = compute(metadata, "tagsList?").await? {
        let list: Vec<Tag> = serde_json::from_slice(&list).map_err(|_| Fault::Garbage("a list of tags"))?;
        let pieces = tags::joined(list.into_iter().map(|t| (t.name, t.value)));
        found.extend(pieces.map(|content| Text::new("the Azure tags `herdsman-join…`", content)));
    }
    Ok(found)
}
