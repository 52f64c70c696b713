//! The SSH key of machines. The vendor makes none without a key or a password; whoever
//! wants to log in names his own, and everybody else gets one whose other half is
//! forgotten before the machine exists.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herdsman_wire::Code;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::error;
use super::api::version;
use super::{Azure, names};

const KIND: &str = "Microsoft.Compute/sshPublicKeys";
/// RFC 8709.
const ALGORITHM: &str = "ssh-ed25519";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Found {
    properties: Properties,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    public_key: String,
}

impl Azure {
    /// The key that machines get.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when the user's cannot be found.
    pub(super) async fn public_key(&self) -> Result<String, ProviderError> {
        let Some(wanted) = &self.settings.common.ssh_key else {
            return forgotten();
        };
        if is_key(wanted) {
            return Ok(wanted.trim().to_owned());
        }
        if wanted.ends_with(".pub") {
            let path = self.settings.path(wanted);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if is_key(&text) {
                return Ok(text.trim().to_owned());
            }
            return Err(error(Code::NotFound, format!("{} holds no public key", path.display())));
        }
        let group = match &self.settings.group {
            Some(group) => group.clone(),
            None if wanted.contains('/') => String::new(),
            None => {
                let text = format!("SSH key {wanted}: its resource group is not known");
                return Err(error(Code::Usage, text).with_hint("--ssh-key GROUP/NAME, or a file NAME.pub"));
            }
        };
        let id = self.id(self.subscription()?, &group, KIND, wanted);
        let found: Found = self.api.get("SshPublicKeys_Get", &id, version::COMPUTE, &[]).await?;
        if !is_key(&found.properties.public_key) {
            let text = format!(
                "{} has no public key yet",
                names::part(&id, "sshPublicKeys").unwrap_or(wanted)
            );
            return Err(error(Code::NotFound, text));
        }
        Ok(found.properties.public_key.trim().to_owned())
    }
}

fn is_key(text: &str) -> bool {
    text.starts_with("ssh-") && text.contains(' ') && !text.contains("PRIVATE")
}

/// A public key whose private half is dropped here.
fn forgotten() -> Result<String, ProviderError> {
    let failed = || error(Code::Internal, "the system gives no randomness");
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed())?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| failed())?;
    let mut blob = Vec::new();
    for part in [ALGORITHM.as_bytes(), pair.public_key().as_ref()] {
        let length = u32::try_from(part.len()).map_err(|_| failed())?;
        blob.extend(length.to_be_bytes());
        blob.extend(part);
    }
    Ok(format!("{ALGORITHM} {} nobody", BASE64_STANDARD.encode(blob)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_another_half_is_new_each_time() {
        let (a, b) = (forgotten().unwrap(), forgotten().unwrap());
        assert_ne!(a, b);
        assert!(is_key(&a));
        let blob = BASE64_STANDARD.decode(a.split(' ').nth(1).unwrap()).unwrap();
        assert_eq!(&blob[..15], b"\0\0\0\x0bssh-ed25519");
        assert_eq!(blob.len(), 4 + 11 + 4 + 32);
    }
}
