//! Netlink messages of nf_tables: building them and taking them apart.
//! Numbers and layout are those of `include/uapi/linux/netlink.h`,
//! `nfnetlink.h` and `nf_tables.h`; netlink(7).

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BATCH: [u16; 2] = [0x10, 0x11];
/// Header of netlink and of nfnetlink.
const HEADER: usize = 16 + 4;
/// Bit of an attribute that holds others.
const NESTED: u16 = 1 << 15;
/// `NFPROTO_INET`.
const INET: u8 = 1;

/// Flags of a message.
pub(super) mod flag {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const ACK: u16 = 4;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const CREATE: u16 = 0x400;
    /// Without it the kernel puts a rule before the others.
    pub(in super::super) const APPEND: u16 = 0x800;
    /// A dump that changes met; on messages of the kernel.
    pub(in super::super) const INTERRUPTED: u16 = 0x10;
}

/// A message on its way to the kernel.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// What it is about, for errors.
    pub(super) what: String,
}

impl Message {
    /// An empty message of nf_tables.
    pub(super) fn new(kind: u16, flags: u16, what: impl Into<String>) -> Self {
        Self::start(SUBSYSTEM << 8 | kind, flags, INET, 0, what.into())
    }

    /// Begins a batch, which the kernel applies as a whole or not at all.
    pub(super) fn begin() -> Self {
        Self::start(BATCH[0], flag::REQUEST, 0, SUBSYSTEM, "begin".into())
    }

    /// Ends a batch.
    pub(super) fn end() -> Self {
        Self::start(BATCH[1], flag::REQUEST, 0, SUBSYSTEM, "end".into())
    }

    fn start(kind: u16, flags: u16, family: u8, resource: u16, what: String) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | flag::REQUEST).to_ne_bytes());
        // Sequence number and port, then family, version, resource.
        bytes.extend([0; 8]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self { bytes, what }
    }

    /// Adds an attribute.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a name with its final zero.
    pub(super) fn name(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds a number, which nf_tables has in network order.
    pub(super) fn number(&mut self, kind: u16, n: u32) -> &mut Self {
        self.put(kind, &n.to_be_bytes())
    }

    /// Adds a long number, likewise.
    pub(super) fn long(&mut self, kind: u16, n: u64) -> &mut Self {
        self.put(kind, &n.to_be_bytes())
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// The finished message with this number.
    pub(super) fn finish(mut self, number: u32, more_flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&number.to_ne_bytes());
        self.bytes
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    /// Type: of the control messages, or of nf_tables with its subsystem.
    pub(super) kind: u16,
    /// Flags.
    pub(super) flags: u16,
    /// Number of the message that it answers.
    pub(super) number: u32,
    /// All behind netlink's header.
    pub(super) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// Attributes of an nf_tables message.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(HEADER - 16..).unwrap_or_default())
    }
}

/// Takes what was read from a socket apart.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Received<'_>> {
    let mut found = Vec::new();
    while let (Some(len), Some(kind), Some(flags), Some(number)) =
        (array::<4>(bytes, 0), array(bytes, 4), array(bytes, 6), array(bytes, 8))
    {
        let len = u32::from_ne_bytes(len) as usize;
        if len < 16 || len > bytes.len() {
            break;
        }
        found.push(Received {
            kind: u16::from_ne_bytes(kind),
            flags: u16::from_ne_bytes(flags),
            number: u32::from_ne_bytes(number),
            body: &bytes[16..len],
        });
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// Bytes at a place, where there are so many.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Attributes in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The first of a type.
    pub(super) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// Those in one of a type.
    pub(super) fn inside(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// Those in a value.
    pub(super) const fn of(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// A name.
    pub(super) fn name(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// A number.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        array(self.get(kind)?, 0).map(u32::from_be_bytes)
    }

    /// A long number.
    pub(super) fn long(self, kind: u16) -> Option<u64> {
        array(self.get(kind)?, 0).map(u64::from_be_bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(array(self.0, 0)?));
        let kind = u16::from_ne_bytes(array(self.0, 2)?) & !NESTED;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let mut m = Message::new(6, flag::CREATE, "x");
        m.name(1, "abc")
            .number(2, 7)
            .nest(3, |m| {
                m.long(1, 1 << 40).put(2, &[1, 2, 3]);
            })
            .number(4, 9);
        let bytes = m.finish(77, flag::ACK);
        assert_eq!(bytes.len() % 4, 0);
        let all = messages(&bytes);
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.kind, one.number), (10 << 8 | 6, 77));
        assert_eq!(one.flags, flag::REQUEST | flag::CREATE | flag::ACK);
        let a = one.attributes();
        assert_eq!((a.name(1), a.number(2), a.number(4)), (Some("abc"), Some(7), Some(9)));
        assert_eq!(a.inside(3).long(1), Some(1 << 40));
        assert_eq!(a.inside(3).get(2), Some(&[1, 2, 3][..]));
        assert_eq!(a.get(9), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for m in messages(&bytes) {
                for (_, value) in m.attributes() {
                    let _ = Attributes::of(value).count();
                }
            }
        }
    }
}
