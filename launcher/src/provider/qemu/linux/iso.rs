//! A file system for a few small files, as cloud-init's `NoCloud` source takes it:
//! ISO 9660 (ECMA-119), one folder, volume `cidata`. The names have a hyphen, which
//! the standard does not allow and Linux takes: it shows `USER-DATA.;1` as
//! `user-data`.
//!
//! ```text
//! sector 16 volume descriptor │ 17 end of descriptors │ 18, 19 path tables
//!        20 root folder       │ 21… files, each from a sector's beginning
//! ```

/// Bytes of a sector.
const SECTOR: usize = 2048;
const ROOT: u32 = 20;
const FIRST_FILE: u32 = 21;

/// A file system and where its files begin.
#[derive(Debug)]
pub(super) struct Iso {
    /// The whole image.
    pub(super) bytes: Vec<u8>,
    /// Offset and length of each file, in the order given.
    pub(super) files: Vec<(u64, usize)>,
}

/// Both byte orders, as the standard wants numbers.
fn both32(n: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&n.to_le_bytes());
    out[4..].copy_from_slice(&n.to_be_bytes());
    out
}

fn both16(n: u16) -> [u8; 4] {
    let mut out = [0; 4];
    out[..2].copy_from_slice(&n.to_le_bytes());
    out[2..].copy_from_slice(&n.to_be_bytes());
    out
}

/// A directory record, ECMA-119 9.1.
fn record(name: &[u8], at: u32, length: u32, folder: bool) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both32(at));
    r.extend(both32(length));
    // 1 January 2000: what is in it has no age.
    r.extend([100, 1, 1, 0, 0, 0, 0]);
    r.push(if folder { 2 } else { 0 });
    r.extend([0, 0]);
    r.extend(both16(1));
    r.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    r.extend(name);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r[0] = u8::try_from(r.len()).unwrap_or(u8::MAX);
    r
}

/// A text field, filled up with blanks.
fn field(text: &str, width: usize) -> Vec<u8> {
    let mut out: Vec<u8> = text.bytes().take(width).collect();
    out.resize(width, b' ');
    out
}

fn sectors(length: usize) -> u32 {
    u32::try_from(length.div_ceil(SECTOR)).unwrap_or(u32::MAX)
}

/// Writes the file system. Names are short and of plain letters; all of it is far
/// below the format's limits.
pub(super) fn write(volume: &str, files: &[(&str, &[u8])]) -> Iso {
    let mut at = FIRST_FILE;
    let mut places = Vec::new();
    for (name, content) in files {
        places.push((format!("{}.;1", name.to_ascii_uppercase()), at, *content));
        at += sectors(content.len()).max(1);
    }
    let end = at;
    // The standard wants them in order of names.
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut folder = record(&[0], ROOT, SECTOR as u32, true);
    folder.extend(record(&[1], ROOT, SECTOR as u32, true));
    for (name, at, content) in sorted {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        folder.extend(record(name.as_bytes(), *at, length, false));
    }

    let mut bytes = vec![0; end as usize * SECTOR];
    let mut put = |sector: u32, content: &[u8]| {
        let from = sector as usize * SECTOR;
        bytes[from..from + content.len()].copy_from_slice(content);
    };
    put(16, &descriptor(volume, end));
    put(17, b"\xffCD001\x01");
    for (sector, root) in [(18, ROOT.to_le_bytes()), (19, ROOT.to_be_bytes())] {
        let parent = if sector == 18 { [1, 0] } else { [0, 1] };
        let table: Vec<u8> = [&[1, 0][..], &root, &parent, &[0, 0]].concat();
        put(sector, &table);
    }
    put(ROOT, &folder);
    for (_, at, content) in &places {
        put(*at, content);
    }
    let files = places
        .iter()
        .map(|(_, at, content)| (u64::from(*at) * SECTOR as u64, content.len()))
        .collect();
    Iso { bytes, files }
}

/// The primary volume descriptor, ECMA-119 8.4.
fn descriptor(volume: &str, sectors: u32) -> Vec<u8> {
    let mut d = b"\x01CD001\x01\0".to_vec();
    d.extend(field("LINUX", 32));
    d.extend(field(volume, 32));
    d.extend([0; 8]);
    d.extend(both32(sectors));
    d.extend([0; 32]);
    d.extend(both16(1));
    d.extend(both16(1));
    d.extend(both16(SECTOR as u16));
    // Length and places of the path tables, without the optional second ones.
    d.extend(both32(10));
    d.extend(18u32.to_le_bytes());
    d.extend(0u32.to_le_bytes());
    d.extend(19u32.to_be_bytes());
    d.extend(0u32.to_be_bytes());
    d.extend(record(&[0], ROOT, SECTOR as u32, true));
    for width in [128, 128, 128, 128, 37, 37, 37] {
        d.extend(field("", width));
    }
    for _ in 0..2 {
        d.extend(b"2000010100000000\0");
    }
    for _ in 0..2 {
        d.extend(b"0000000000000000\0");
    }
    d.push(1);
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_standard_wants_them() {
        let long = vec![b'x'; 5000];
        let iso = write("cidata", &[("user-data", &long), ("meta-data", b"id")]);
        let d = &iso.bytes[16 * SECTOR..17 * SECTOR];
        assert_eq!(&d[..8], b"\x01CD001\x01\0");
        assert_eq!(&d[40..46], b"cidata");
        // Size, block size, root's place, file structure version: positions of the
        // standard less one.
        assert_eq!(
            d[80..84],
            u32::try_from(iso.bytes.len() / SECTOR).unwrap().to_le_bytes()
        );
        assert_eq!(d[128..130], 2048u16.to_le_bytes());
        assert_eq!((d[156], d[158]), (34, 20));
        assert_eq!(d[881], 1);
        assert_eq!(&iso.bytes[17 * SECTOR..17 * SECTOR + 7], b"\xffCD001\x01");
        let root = &iso.bytes[20 * SECTOR..21 * SECTOR];
        let at = |what: &[u8]| root.windows(what.len()).position(|w| w == what);
        assert!(at(b"META-DATA.;1") < at(b"USER-DATA.;1") && at(b"META-DATA.;1").is_some());
        let (from, length) = iso.files[0];
        assert_eq!((from, length), (21 * 2048, 5000));
        let (from, length) = iso.files[1];
        let from = usize::try_from(from).unwrap();
        assert_eq!(&iso.bytes[from..from + length], b"id");
        assert_eq!(iso.bytes.len() % SECTOR, 0);
    }
}
