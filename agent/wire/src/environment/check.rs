//! What each text of a manifest may hold. Everything here ends up in a file or
//! an argument that an installer reads.

use super::{Wheel, is_sha256, normalize};
use crate::limits;

/// A full version of Python: `3.11.7`, `3.15.0rc1`.
pub(super) fn python(text: &str) -> Result<(), String> {
    let refuse = || Err(format!("field `python`: {text:?} is no full version such as 3.11.7"));
    let parts: Vec<&str> = text.split('.').collect();
    let [major, minor, patch] = parts[..] else {
        return refuse();
    };
    let number = |t: &str| (1..=3).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    let patch_fits = (1..=12).contains(&patch.len())
        && patch.starts_with(|c: char| c.is_ascii_digit())
        && patch
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'+');
    if number(major) && number(minor) && patch_fits {
        Ok(())
    } else {
        refuse()
    }
}

/// One word that cannot be an option or a path.
pub(super) fn word(field: &str, text: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits {
        Ok(())
    } else {
        Err(format!("field `{field}`: {text:?} is not allowed"))
    }
}

/// A package's version as PEP 440 spells them.
pub(super) fn version(text: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'!' | b'_' | b'-'));
    if fits {
        Ok(())
    } else {
        Err(format!("{text:?} is no version"))
    }
}

/// A wheel's file name, hash and size; gives the package's normal name.
pub(super) fn wheel(wheel: &Wheel) -> Result<String, String> {
    let Wheel { file, sha256, size } = wheel;
    let refuse = || format!("field `wheels`: {file:?} is no wheel's file name");
    let stem = file.strip_suffix(".whl").ok_or_else(refuse)?;
    let parts: Vec<&str> = stem.split('-').collect();
    let chars = stem
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b'!'));
    if !matches!(parts.len(), 5 | 6) || parts.iter().any(|p| p.is_empty()) || !chars || file.len() > 255 {
        return Err(refuse());
    }
    word("wheels", parts[0])?;
    if !is_sha256(sha256) {
        return Err(format!("field `wheels`: {file} has no SHA-256 in hex"));
    }
    if *size > limits::BLOB {
        return Err(format!(
            "field `wheels`: {file} has {size} bytes; the limit is {}",
            limits::BLOB
        ));
    }
    Ok(normalize(parts[0]))
}

/// An index's URL: http or https, no user, no password.
pub(super) fn index(url: &str) -> Result<(), String> {
    let scheme = url.starts_with("https://") || url.starts_with("http://");
    let chars = url
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'<' | b'>'));
    if !scheme || !chars || url.len() > 2048 || super::index_host(url).is_none() {
        return Err("field `indexes`: not an http or https URL".to_owned());
    }
    let authority = url.split("://").nth(1).and_then(|r| r.split(['/', '?', '#']).next());
    if authority.is_some_and(|a| a.contains('@')) {
        // The URL itself stays out of the text: it holds a password.
        return Err("field `indexes`: a URL carries credentials; they travel apart".to_owned());
    }
    Ok(())
}
