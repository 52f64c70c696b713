//! Gzip as users of EC2 and NoCloud pack their user-data (RFC 1952).

use miniz_oxide::inflate::decompress_to_vec_with_limit;

/// What is wrong with a gzip stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GzipError {
    /// It ends too early, or its header is none.
    #[error("its gzip data is cut off or damaged")]
    Damaged,
    /// Its content has more bytes than allowed.
    #[error("its gzip data has more than {0} bytes unpacked")]
    TooLarge(usize),
}

/// Whether this is gzip with the only method there is.
#[must_use]
pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b, 8])
}

/// Unpacks at most `limit` bytes and checks them against the stream's own sum.
///
/// # Errors
/// [`GzipError`].
pub(super) fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, GzipError> {
    let packed = bytes.get(header(bytes).ok_or(GzipError::Damaged)?..);
    let packed = packed.ok_or(GzipError::Damaged)?;
    let content = decompress_to_vec_with_limit(packed, limit).map_err(|e| match e.status {
        miniz_oxide::inflate::TINFLStatus::HasMoreOutput => GzipError::TooLarge(limit),
        _ => GzipError::Damaged,
    })?;
    // Members behind the first are not used by anybody; the last eight bytes are
    // the sum and the length of what was just unpacked.
    let tail = packed.len().checked_sub(8).and_then(|at| packed.get(at..));
    let sum = tail.and_then(|t| t.first_chunk::<4>()).ok_or(GzipError::Damaged)?;
    if u32::from_le_bytes(*sum) != crc32(&content) {
        return Err(GzipError::Damaged);
    }
    Ok(content)
}

/// Length of the header with its optional fields.
fn header(bytes: &[u8]) -> Option<usize> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const SUM: u8 = 2;
    let flags = *bytes.get(3)?;
    let mut at = 10;
    if flags & EXTRA != 0 {
        let length = bytes.get(at..at + 2)?.first_chunk::<2>()?;
        at += 2 + usize::from(u16::from_le_bytes(*length));
    }
    for field in [NAME, COMMENT] {
        if flags & field != 0 {
            at += bytes.get(at..)?.iter().position(|b| *b == 0)? + 1;
        }
    }
    Some(if flags & SUM != 0 { at + 2 } else { at })
}

/// CRC-32 as in RFC 1952 section 8. Small before fast: it is used once a boot.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Packs as `gzip -n` does, with a file name if there is one.
    pub(in crate::source) fn pack(content: &[u8], name: Option<&str>) -> Vec<u8> {
        let mut out = vec![0x1f, 0x8b, 8, if name.is_some() { 8 } else { 0 }, 0, 0, 0, 0, 0, 3];
        if let Some(name) = name {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        }
        out.extend(miniz_oxide::deflate::compress_to_vec(content, 6));
        out.extend(crc32(content).to_le_bytes());
        out.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        out
    }

    #[test]
    fn the_sum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn unpacks_what_gzip_packs_and_nothing_else() {
        let content = b"#cloud-config\n".repeat(100);
        for name in [None, Some("user-data")] {
            let packed = pack(&content, name);
            assert!(is_gzip(&packed));
            assert_eq!(unpack(&packed, 10_000).unwrap(), content);
            assert_eq!(unpack(&packed, 100), Err(GzipError::TooLarge(100)));
            for cut in 0..packed.len() {
                assert_eq!(unpack(&packed[..cut], 10_000), Err(GzipError::Damaged), "{cut}");
            }
            let mut other = packed;
            let sum = other.len() - 7;
            other[sum] ^= 1;
            assert_eq!(unpack(&other, 10_000), Err(GzipError::Damaged));
        }
    }

    #[test]
    fn a_bomb_stays_small() {
        let packed = pack(&vec![0; 64 * 1024 * 1024], None);
        assert!(packed.len() < 100_000);
        assert_eq!(unpack(&packed, 1 << 20), Err(GzipError::TooLarge(1 << 20)));
    }
}
