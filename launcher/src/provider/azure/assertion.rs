//! A statement signed by an application's certificate, which stands for its secret
//! (<https://learn.microsoft.com/entra/identity-platform/certificate-credentials>).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// How long it is good for; it is used at once.
const LIFE: Duration = Duration::from_secs(300);

/// The statement that `client` is who it says, for the token endpoint at `audience`.
///
/// # Errors
/// Why the text is no certificate with an RSA key.
pub(super) fn sign(pem: &str, client: &str, audience: &str, now: SystemTime) -> Result<String, &'static str> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it holds no certificate in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it holds no private key in PEM")?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("its key is no RSA key"),
    }
    .map_err(|_| "its key is no RSA key of 2048 bits or more")?;
    let thumbprint = digest(&SHA256, &certificate);
    let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": encode(thumbprint.as_ref())});
    let random = SystemRandom::new();
    let mut id = [0; 16];
    random.fill(&mut id).map_err(|_| "the system gives no randomness")?;
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({
        "aud": audience, "iss": client, "sub": client, "jti": encode(&id),
        "nbf": second, "exp": second + LIFE.as_secs(),
    });
    let text = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PSS_SHA256, &random, text.as_bytes(), &mut signature)
        .map_err(|_| "nothing can be signed with its key")?;
    Ok(format!("{text}.{}", encode(&signature)))
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

    /// A certificate with its key, of a moment ago: none lies about in the sources.
    fn made() -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        let ended = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2",
            ])
            .args([std::ffi::OsStr::new("-keyout"), path.as_os_str()])
            .stderr(std::process::Stdio::null())
            .output()
            .unwrap();
        std::fs::read_to_string(&path).unwrap() + &String::from_utf8(ended.stdout).unwrap()
    }

    #[test]
    fn a_statement_is_signed_by_the_certificates_key() {
        let pem = made();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let signed = sign(&pem, "client", "https://login.example/t/oauth2/v2.0/token", now).unwrap();
        let (text, signature) = signed.rsplit_once('.').unwrap();
        let decode = |t: &str| BASE64_URL_SAFE_NO_PAD.decode(t).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        let key = parsed.public_key().subject_public_key.data.clone();
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
            .verify(text.as_bytes(), &decode(signature))
            .unwrap();
        let (header, claims) = text.split_once('.').unwrap();
        let header: serde_json::Value = serde_json::from_slice(&decode(header)).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&decode(claims)).unwrap();
        assert_eq!(header["alg"], "PS256");
        assert_eq!(decode(header["x5t#S256"].as_str().unwrap()).len(), 32);
        assert_eq!(claims["sub"], "client");
        assert_eq!(claims["exp"], 1_700_000_300);
    }

    #[test]
    fn what_is_no_certificate_is_said_without_showing_it() {
        let pem = made();
        let half = &pem[pem.find("-----BEGIN CERT").unwrap()..];
        for (bad, why) in [("SECRET", "certificate"), (half, "private key")] {
            let e = sign(bad, "c", "a", SystemTime::now()).unwrap_err();
            assert!(e.contains(why), "{e}");
        }
    }
}
