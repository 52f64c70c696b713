//! DigitalOcean's metadata service.
//!
//! DigitalOcean documentation, "Droplet Metadata API": plain GETs below
//! `/metadata/v1/`, no header asked for. User-data (at most 64 KiB) is fixed when the
//! Droplet is made.

use super::Text;
use super::metadata::{Fault, Metadata};

const USER_DATA: &str = "/metadata/v1/user-data";

/// Where a join configuration may be.
///
/// # Errors
/// [`Fault`].
pub async fn texts(metadata: &Metadata) -> Result<Vec<Text>, Fault> {
    let content = metadata.get(USER_DATA, &[]).await?.content(USER_DATA)?;
    Ok(content
        .map(|c| Text::new("DigitalOcean user-data", c))
        .into_iter()
        .collect())
}
