//! OpenStack's metadata: the service, or a drive labelled `config-2`.
//!
//! OpenStack Nova documentation, "Metadata": `/openstack/latest/user_data` is what the
//! machine's maker gave, `/openstack/latest/meta_data.json` has the server's key-value
//! pairs as `meta`. A config drive (vfat or iso9660) holds the same files.

use std::collections::BTreeMap;

use herdsman_wire::ApiError;
use serde::Deserialize;

use super::metadata::{Fault, Metadata};
use super::seed::Drive;
use super::{Text, tags};

const USER_DATA: &str = "openstack/latest/user_data";
const META_DATA: &str = "openstack/latest/meta_data.json";
/// What is read of a config drive.
pub(super) const DRIVE: [&str; 2] = [USER_DATA, META_DATA];
/// Label of a config drive.
pub const LABEL: &str = "config-2";

#[derive(Deserialize)]
struct MetaData {
    #[serde(default)]
    meta: BTreeMap<String, String>,
}

fn of_meta_data(json: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let data: MetaData = serde_json::from_slice(json).map_err(|_| Fault::Garbage("meta_data.json"))?;
    Ok(tags::joined(data.meta))
}

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let get = async |path: &str| {
        let path = format!("/{path}");
        metadata.get(&path, &[]).await?.content(&path)
    };
    let mut found = Vec::new();
    if let Some(content) = get(USER_DATA).await? {
        found.push(Text::new("OpenStack user-data", content));
    }
    if let Some(json) = get(META_DATA).await? {
        let pieces = of_meta_data(&json)?;
        found.extend(pieces.map(|content| Text::new("the OpenStack metadata `herdsman-join…`", content)));
    }
    Ok(found)
}

/// The same of a config drive.
///
/// # Errors
/// When a file cannot be read.
pub fn of_drive(drive: &Drive) -> Result<Vec<Text>, ApiError> {
    let mut found = Vec::new();
    if let Some(content) = drive.file(USER_DATA)? {
        found.push(Text::new("the config drive's user_data", content));
    }
    if let Some(json) = drive.file(META_DATA)? {
        let pieces = of_meta_data(&json).map_err(|e| e.told("OpenStack"))?;
        found.extend(pieces.map(|content| Text::new("the config drive's metadata `herdsman-join…`", content)));
    }
    Ok(found)
}
