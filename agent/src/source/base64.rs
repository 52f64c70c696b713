//! Base64 as people and clouds write it: with or without line ends.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Decodes; blanks and line ends do not count.
#[must_use]
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let packed: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    (!packed.is_empty()).then(|| STANDARD.decode(packed).ok()).flatten()
}
