//! Wheels written by us: zip files without compression, with fixed times and a
//! fixed order, so that the same content always has the same hash.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Files of a wheel by their path inside it.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The `WHEEL` file.
pub(super) fn wheel_file(pure: bool, tags: &[String]) -> Vec<u8> {
    let mut text = format!("Wheel-Version: 1.0\nGenerator: herdsman\nRoot-Is-Purelib: {pure}\n");
    for tag in tags {
        text.push_str(&format!("Tag: {tag}\n"));
    }
    text.into_bytes()
}

/// Adds `RECORD` in the `info` folder and packs everything.
pub(super) fn pack(mut files: Files, info: &str) -> Vec<u8> {
    let record_path = format!("{info}/RECORD");
    files.remove(&record_path);
    let mut record = String::new();
    for (path, content) in &files {
        let hash = ring::digest::digest(&ring::digest::SHA256, content);
        record.push_str(&format!(
            "{},sha256={},{}\n",
            quoted(path),
            URL_SAFE_NO_PAD.encode(hash),
            content.len()
        ));
    }
    record.push_str(&format!("{},,\n", quoted(&record_path)));
    // Installers read the metadata from the end of the file.
    let metadata = |path: &str| path.starts_with(&format!("{info}/"));
    let mut order: Vec<(&str, &[u8])> = files.iter().map(|(p, c)| (p.as_str(), c.as_slice())).collect();
    order.sort_by_key(|(path, _)| (metadata(path), *path));
    order.push((&record_path, record.as_bytes()));
    zip(&order)
}

/// A field of `RECORD`, which is CSV.
fn quoted(path: &str) -> String {
    if path.contains([',', '"', '\n']) {
        format!("\"{}\"", path.replace('"', "\"\""))
    } else {
        path.to_owned()
    }
}

/// A zip archive (APPNOTE 4.3): local headers with contents, central directory,
/// end record. Callers keep everything under 4 GiB and 65,535 files.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut central = Vec::new();
    for (name, content) in files {
        let offset = size32(out.len());
        let length = size32(content.len());
        let mut head = Vec::with_capacity(26);
        // Version 2.0, names in UTF-8, stored, 1 January 1980.
        for field in [20_u16, 0x0800, 0, 0, 0x0021] {
            head.extend(field.to_le_bytes());
        }
        for field in [crc32(content), length, length] {
            head.extend(field.to_le_bytes());
        }
        head.extend(size16(name.len()).to_le_bytes());
        head.extend(0_u16.to_le_bytes());

        out.extend(0x0403_4b50_u32.to_le_bytes());
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(*content);

        central.extend(0x0201_4b50_u32.to_le_bytes());
        // Made on Unix, so that the mode below counts.
        central.extend(0x0314_u16.to_le_bytes());
        central.extend(&head);
        // No comment, disk 0, no internal attributes, a plain file of mode 644.
        central.extend([0; 6]);
        central.extend((0o100_644_u32 << 16).to_le_bytes());
        central.extend(offset.to_le_bytes());
        central.extend(name.as_bytes());
    }
    let start = size32(out.len());
    let count = size16(files.len());
    out.extend(&central);
    out.extend(0x0605_4b50_u32.to_le_bytes());
    out.extend([0; 4]);
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(size32(central.len()).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

fn size32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn size16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc: u32, b| CRC[usize::from((crc as u8) ^ b)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_with_the_record_last() {
        let files = || -> Files {
            [
                ("x-1.dist-info/METADATA", "m"),
                ("zz/a,b.py", "1"),
                ("x-1.dist-info/RECORD", "old"),
            ]
            .map(|(p, c)| (p.to_owned(), c.as_bytes().to_vec()))
            .into()
        };
        let bytes = pack(files(), "x-1.dist-info");
        assert_eq!(bytes, pack(files(), "x-1.dist-info"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("\"zz/a,b.py\",sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s,1\n"));
        assert!(!text.contains("old"));
        assert!(text.find("zz/a,b.py").unwrap() < text.find("METADATA").unwrap());
    }
}
