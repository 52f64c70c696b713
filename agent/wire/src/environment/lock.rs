//! The lock's text: requirements with hashes, in the one form that we write.
//!
//! ```text
//! dask==2026.8.0 \
//!     --hash=sha256:8a94… \
//!     --hash=sha256:ccc0…
//! ```

use super::{check, is_sha256, normalize};

/// Most packages of one lock.
const MAX_PINS: usize = 5000;

/// One locked package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Normal name.
    pub name: String,
    /// Exact version.
    pub version: String,
    /// SHA-256 of the files that may be installed, lower-case hex, at least one.
    pub hashes: Vec<String>,
}

/// Reads a lock's text. Only pins, hashes and comments are allowed: no options,
/// no URLs, no paths, no markers, no package without a hash.
///
/// # Errors
/// A sentence naming the line.
pub fn parse_lock(text: &str) -> Result<Vec<Pin>, String> {
    let mut pins: Vec<Pin> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    // Whether the line before ended with a backslash.
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let refuse = |why: &str| format!("field `lock`, line {}: {why}", number + 1);
        if !line.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
            return Err(refuse("not plain text"));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            if open {
                return Err(refuse("a requirement is not finished"));
            }
            continue;
        }
        let (body, continues) = match line.strip_suffix('\\') {
            Some(body) => (body.trim_end(), true),
            None => (line, false),
        };
        if open {
            let hash = body
                .strip_prefix("--hash=sha256:")
                .filter(|h| is_sha256(h))
                .ok_or_else(|| refuse("not a SHA-256"))?;
            if let Some(pin) = pins.last_mut() {
                pin.hashes.push(hash.to_owned());
            }
        } else {
            let (name, version) = body
                .split_once("==")
                .ok_or_else(|| refuse("not of the form name==version"))?;
            check::word("lock", name).map_err(|_| refuse("not a package's name"))?;
            check::version(version).map_err(|_| refuse("not an exact version"))?;
            if !continues {
                return Err(refuse("a package without a hash"));
            }
            let name = normalize(name);
            if !seen.insert(name.clone()) {
                return Err(refuse("a package that was named before"));
            }
            if pins.len() == MAX_PINS {
                return Err(refuse("too many packages"));
            }
            pins.push(Pin {
                name,
                version: version.to_owned(),
                hashes: Vec::new(),
            });
        }
        open = continues;
    }
    if open {
        return Err("field `lock`: the last requirement is not finished".to_owned());
    }
    Ok(pins)
}
