//! Hetzner Cloud's metadata service.
//!
//! Hetzner Cloud API documentation, "Server Metadata": plain GETs below
//! `/hetzner/v1/`. User-data (at most 32 KiB, perhaps in base64) is fixed when the
//! server is made.

use super::Text;
use super::metadata::{Fault, Metadata};

const USER_DATA: &str = "/hetzner/v1/userdata";

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let content = metadata.get(USER_DATA, &[]).await?.content(USER_DATA)?;
    Ok(content.map(|c| Text::new("Hetzner user-data", c)).into_iter().collect())
}
