//! Recognises values that should not stand in a file or on a command line.
//!
//! Two signs: the shape of well-known tokens, and a key that says what it holds
//! (`password`, `token` …) with any value at all. A long random-looking text is
//! a third, kept strict enough to leave hashes, image names and paths alone.

/// Beginnings of well-known tokens and what they are.
const PREFIXES: &[(&str, &str)] = &[
    ("AKIA", "an AWS access key"),
    ("ASIA", "an AWS session key"),
    ("dop_v1_", "a DigitalOcean token"),
    ("doo_v1_", "a DigitalOcean token"),
    ("ghp_", "a GitHub token"),
    ("gho_", "a GitHub token"),
    ("ghs_", "a GitHub token"),
    ("github_pat_", "a GitHub token"),
    ("glpat-", "a GitLab token"),
    ("ya29.", "a Google access token"),
    ("AIza", "a Google API key"),
    ("pypi-", "a PyPI token"),
    ("hf_", "a Hugging Face token"),
    ("xoxb-", "a Slack token"),
    ("xoxp-", "a Slack token"),
    ("sk-", "an API key"),
    ("Bearer ", "a bearer token"),
];

/// Shortest text that counts as a token by its beginning alone; shorter ones
/// are names that happen to begin like that.
const PREFIX_MIN: usize = 20;

/// Shortest text that counts as a token by looking random.
const RANDOM_MIN: usize = 40;

/// Last words of keys that hold secrets.
const KEYS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api_key",
    "private_key",
    "access_key",
    "secret_key",
    "credential_secret",
    "client_secret",
    "auth_key",
];

/// Says what kind of secret the value of `key` looks like, if it does.
/// The last part of a dotted key counts.
#[must_use]
pub fn look(key: &str, value: &str) -> Option<&'static str> {
    let trimmed = value.trim();
    if trimmed.is_empty() {
        return None;
    }
    if trimmed.contains("-----BEGIN ") && trimmed.contains("PRIVATE KEY") {
        return Some("a private key");
    }
    let one_word = !trimmed.contains(char::is_whitespace);
    if trimmed.len() >= PREFIX_MIN
        && (one_word || trimmed.starts_with("Bearer "))
        && let Some((_, kind)) = PREFIXES.iter().find(|(p, _)| trimmed.starts_with(p))
    {
        return Some(kind);
    }
    if has_password(trimmed) {
        return Some("an address with a password");
    }
    if one_word && trimmed.starts_with("eyJ") && trimmed.split('.').count() == 3 && trimmed.len() >= RANDOM_MIN {
        return Some("a signed token");
    }
    let name = key
        .rsplit('.')
        .next()
        .unwrap_or(key)
        .to_ascii_lowercase()
        .replace('-', "_");
    // `token_file = "…"` and `secret_name = "…"` say where, not what.
    if KEYS.iter().any(|k| name == *k || name.ends_with(&format!("_{k}"))) {
        return Some("a secret");
    }
    looks_random(trimmed).then_some("a token")
}

/// Whether a URL carries a password: `https://user:password@host`.
fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .and_then(|(user, _)| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
}

/// One long word of letters in both cases and digits, with few repetitions:
/// no path, no hash in hex, no sentence.
fn looks_random(value: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'=' | b'_' | b'-');
    if value.len() < RANDOM_MIN || !value.bytes().all(allowed) {
        return false;
    }
    let upper = value.bytes().filter(u8::is_ascii_uppercase).count();
    let lower = value.bytes().filter(u8::is_ascii_lowercase).count();
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let enough = value.len() / 10;
    let distinct = value.bytes().collect::<std::collections::BTreeSet<_>>().len();
    upper >= enough && lower >= enough && digits >= enough.min(2) && distinct >= 16
}

/// Where a secret belongs instead.
#[must_use]
pub fn right_place(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    if key.starts_with("env.variables.") {
        return format!("export {last} and list it by name: env.secrets = [\"{last}\"] (or --secret {last})");
    }
    if key.starts_with("env.indexes") {
        return "keep the password in ~/.netrc or the keyring; the address alone goes here".into();
    }
    if key.starts_with("security.") {
        return "name the file that holds it: security.tls_key = \"FILE\"".into();
    }
    "keep it in an environment variable or in the provider's own login; name it under env.secrets if Dask needs it"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tokens_and_keys() {
        for (key, value) in [
            ("x", "-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----"),
            ("x", "-----BEGIN OPENSSH PRIVATE KEY-----"),
            ("x", "AKIAIOSFODNN7EXAMPLE"),
            ("x", "dop_v1_0123456789abcdef0123456789abcdef"),
            ("x", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
            ("x", "wJalrXUtnFEMIaK7MDENGabPxRfiCYEXAMPLEKEY1"),
            ("x", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijkl"),
            ("x", "https://user:hunter2@index.example/simple"),
            ("digitalocean.token", "abc"),
            ("hetzner.api-token", "abc"),
            ("env.variables.DB_PASSWORD", "abc"),
        ] {
            assert!(look(key, value).is_some(), "{key}={value}");
        }
    }

    #[test]
    fn leaves_ordinary_values_alone() {
        for (key, value) in [
            ("env.variables.OMP_NUM_THREADS", "1"),
            ("env.variables.DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING", "False"),
            ("gcp.image", "projects/debian-cloud/global/images/family/debian-12"),
            ("aws.ami", "ami-0123456789abcdef0"),
            (
                "x",
                "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            ("x", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("x", "https://index.example/simple"),
            ("x", "https://user@index.example/simple"),
            ("x", "https://user:${TOKEN}@index.example/simple"),
            ("openstack.token_file", "/run/token"),
            ("security.tls_key", "keys/client.pem"),
            (
                "x",
                "/home/Somebody/Projects/Very/Long/Path/With/Many/Parts/2026/file.toml",
            ),
            ("digitalocean.token", ""),
            ("x", "sk-1"),
        ] {
            assert_eq!(look(key, value), None, "{key}={value}");
        }
    }
}
