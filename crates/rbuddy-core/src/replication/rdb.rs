//! Checks of a snapshot (RDB) that need no parser of its data: header, the AUX fields behind it, the end opcode, the CRC (protocol facts 2.4, 2.5).
//!
//! A replica that is given a broken snapshot exits, and has by then replaced its own dump file. So nothing is offered before
//! [`RdbCheck::finish`] said that it is whole. Not here: decoding keys, and storing bytes.

use crate::types::{Offset, Position, RdbVersion, ReplId};
use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Serialize};

/// Looks at a snapshot while it passes.
#[derive(Debug)]
pub struct RdbCheck {
    head: Vec<u8>,
    tail: Vec<u8>,
    crc: Digest,
    bytes: u64,
}

/// What is known of a snapshot that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdbFacts {
    /// Its format.
    pub version: RdbVersion,
    /// Its length.
    pub bytes: u64,
    /// How its content was proven.
    pub checksum: Checksum,
    /// Keys, and keys with a TTL, that its first RESIZEDB announces.
    pub keys_hint: Option<(u64, u64)>,
}

/// How a snapshot's content was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// The CRC at its end is right.
    Verified,
    /// The primary writes none (`rdbchecksum no`): only the framing vouches for it.
    Disabled,
}

/// A snapshot that must not be offered to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// Too short to be one.
    #[error("the snapshot has {0} bytes, too few to be one")]
    TooShort(u64),
    /// Not a header that is known.
    #[error("the snapshot starts with {0:?}, which is no header of an RDB")]
    UnknownHeader(String),
    /// The end opcode is not where it must be.
    #[error("the snapshot does not end with an end opcode")]
    NoEnd,
    /// The content is not what the primary wrote.
    #[error("the snapshot's CRC is {found:016x}, it says {stored:016x}")]
    WrongCrc {
        /// Of the bytes that arrived.
        found: u64,
        /// As the snapshot says.
        stored: u64,
    },
    /// The snapshot says that it is another dataset than the primary announced.
    #[error("the snapshot names itself {found}, the primary announced {announced}")]
    OtherPosition {
        /// In its AUX fields.
        found: Position,
        /// In `+FULLRESYNC`.
        announced: Position,
    },
}

impl RdbCheck {
    /// Before the first byte.
    #[expect(clippy::new_without_default, reason = "a check in progress has no default")]
    pub fn new() -> RdbCheck {
        RdbCheck { head: Vec::new(), tail: Vec::with_capacity(2 * HELD_BYTES), crc: Digest::new(CrcAlgorithm::Crc64Redis), bytes: 0 }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let missing = HEAD_BYTES_MAX - self.head.len();
        self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        // The CRC is over everything but itself, and which bytes are last is known only at the end: so the last eight, and the end opcode before
        // them, are always held back.
        if let Some(body) = bytes.len().checked_sub(HELD_BYTES) {
            self.crc.update(&self.tail);
            self.crc.update(&bytes[..body]);
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[body..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(HELD_BYTES);
            self.crc.update(&self.tail[..excess]);
            self.tail.drain(..excess);
        }
    }

    /// The format, as soon as the first nine bytes were seen.
    pub fn version(&self) -> Option<RdbVersion> {
        RdbVersion::from_header(self.head.first_chunk()?)
    }

    /// Judges the whole. `announced` is what `+FULLRESYNC` said.
    pub fn finish(mut self, announced: Position) -> Result<RdbFacts, RdbError> {
        if self.bytes < (HEADER_BYTES + 1 + TRAILER_BYTES) as u64 {
            return Err(RdbError::TooShort(self.bytes));
        }
        let shown = || String::from_utf8_lossy(&self.head[..HEADER_BYTES]).into_owned();
        let version = self.version().ok_or_else(|| RdbError::UnknownHeader(shown()))?;
        let (end, stored) = self.tail.split_first().ok_or(RdbError::NoEnd)?;
        let stored = u64::from_le_bytes(stored.try_into().map_err(|_| RdbError::NoEnd)?);
        if *end != OPCODE_EOF {
            return Err(RdbError::NoEnd);
        }
        self.crc.update(&[*end]);
        let found = self.crc.finalize();
        if stored != 0 && stored != found {
            return Err(RdbError::WrongCrc { found, stored });
        }
        let aux = Aux::read(&self.head[HEADER_BYTES..]);
        // Since 4.0 a snapshot for a replica carries its own position. Where it does, it must be the announced one: a mix-up here would give a
        // replica wrong data under a right name, for ever.
        if let (Some(replid), Some(offset)) = (aux.replid, aux.offset)
            && Position::new(replid, offset) != announced
        {
            return Err(RdbError::OtherPosition { found: Position::new(replid, offset), announced });
        }
        let checksum = if stored == 0 { Checksum::Disabled } else { Checksum::Verified };
        Ok(RdbFacts { version, bytes: self.bytes, checksum, keys_hint: aux.keys })
    }
}

/// What stands before the first key, as far as it is easily read.
#[derive(Debug, Default)]
struct Aux {
    replid: Option<ReplId>,
    offset: Option<Offset>,
    keys: Option<(u64, u64)>,
}

impl Aux {
    fn read(head: &[u8]) -> Aux {
        let mut aux = Aux::default();
        // An end of what was kept, or something unknown, ends the reading: these are cross-checks and hints, the CRC is the proof.
        let _ = aux.fill(&mut Cursor(head));
        aux
    }

    fn fill(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        loop {
            match cursor.byte()? {
                OPCODE_AUX => {
                    let key = cursor.string()?;
                    let value = cursor.string()?;
                    match key.as_slice() {
                        b"repl-id" => self.replid = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()),
                        b"repl-offset" => self.offset = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()),
                        _ => {}
                    }
                }
                OPCODE_FUNCTION => {
                    cursor.string()?;
                }
                OPCODE_SELECTDB => {
                    cursor.length()?;
                }
                OPCODE_RESIZEDB => {
                    self.keys = Some((cursor.length()?, cursor.length()?));
                    return Some(());
                }
                _ => return None,
            }
        }
    }
}

/// Reads the encodings of lengths and strings. `None` at the end of input and at anything unknown.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: u64) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N as u64)?.try_into().ok()
    }

    fn length(&mut self) -> Option<u64> {
        let first = self.byte()?;
        self.length_from(first)
    }

    fn length_from(&mut self, first: u8) -> Option<u64> {
        match first >> 6 {
            0 => Some(u64::from(first & 0x3f)),
            1 => Some(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => self.array().map(u32::from_be_bytes).map(u64::from),
            2 if first == 0x81 => self.array().map(u64::from_be_bytes),
            _ => None,
        }
    }

    /// A string, numbers as their digits; a compressed one is skipped and comes out empty.
    fn string(&mut self) -> Option<Vec<u8>> {
        let first = self.byte()?;
        match first {
            0xc0 => self.array().map(i8::from_le_bytes).map(|number| number.to_string().into_bytes()),
            0xc1 => self.array().map(i16::from_le_bytes).map(|number| number.to_string().into_bytes()),
            0xc2 => self.array().map(i32::from_le_bytes).map(|number| number.to_string().into_bytes()),
            0xc3 => {
                let compressed = self.length()?;
                self.length()?;
                self.bytes(compressed)?;
                Some(Vec::new())
            }
            _ => {
                let length = self.length_from(first)?;
                self.bytes(length).map(<[u8]>::to_vec)
            }
        }
    }
}

const HEADER_BYTES: usize = 9;
const TRAILER_BYTES: usize = 8;
const HELD_BYTES: usize = 1 + TRAILER_BYTES;
/// Enough for every AUX field seen and moderate functions behind them.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const OPCODE_FUNCTION: u8 = 0xf5;
const OPCODE_AUX: u8 = 0xfa;
const OPCODE_RESIZEDB: u8 = 0xfb;
const OPCODE_SELECTDB: u8 = 0xfe;
const OPCODE_EOF: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u64) -> Position {
        Position::new("ab".repeat(20).parse().expect("an id"), Offset::new(offset).expect("in range"))
    }

    /// The example of protocol fact 2.5, with a right CRC.
    fn snapshot() -> Vec<u8> {
        let mut rdb =
            b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x0erepl-stream-db\xc0\x00\xfa\x07repl-id\x28".to_vec();
        rdb.extend_from_slice("ab".repeat(20).as_bytes());
        rdb.extend_from_slice(b"\xfa\x0brepl-offset\xc1\x2c\x01\xfa\x08aof-base\xc0\x00\xfe\x00\xfb\x41\x00\x03\x00\x01a\xc0\x01\xff");
        let crc = crc_fast::checksum(CrcAlgorithm::Crc64Redis, &rdb);
        rdb.extend_from_slice(&crc.to_le_bytes());
        rdb
    }

    fn check(rdb: &[u8], piece: usize, announced: Position) -> Result<RdbFacts, RdbError> {
        let mut check = RdbCheck::new();
        rdb.chunks(piece).for_each(|bytes| check.feed(bytes));
        check.finish(announced)
    }

    #[test]
    fn the_crc_is_the_one_that_servers_use() {
        assert_eq!(crc_fast::checksum(CrcAlgorithm::Crc64Redis, b"123456789"), 0xE9C6_D914_C4B8_D9CA);
    }

    #[test]
    fn a_whole_snapshot_passes_however_it_arrives() {
        let rdb = snapshot();
        for piece in 1..=rdb.len() {
            let facts = check(&rdb, piece, at(300)).expect("whole");
            assert_eq!(
                (facts.checksum, facts.keys_hint, facts.bytes),
                (Checksum::Verified, Some((256, 3)), rdb.len() as u64),
                "pieces of {piece}"
            );
            assert_eq!(facts.version.to_string(), "REDIS0010");
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let rdb = snapshot();
        for index in 0..rdb.len() {
            let mut broken = rdb.clone();
            broken[index] ^= 1;
            assert!(check(&broken, 7, at(300)).is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_truncated_snapshot_never_passes() {
        let rdb = snapshot();
        for length in 0..rdb.len() {
            assert!(check(&rdb[..length], 5, at(300)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_snapshot_without_a_checksum_passes_by_its_framing() {
        let mut rdb = snapshot();
        let end = rdb.len() - 8;
        rdb[end..].fill(0);
        assert_eq!(check(&rdb, 16, at(300)).expect("whole").checksum, Checksum::Disabled);
    }

    #[test]
    fn a_snapshot_of_another_position_is_refused() {
        assert_eq!(check(&snapshot(), 64, at(301)), Err(RdbError::OtherPosition { found: at(300), announced: at(301) }));
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let mut rdb = b"REDIS0011".to_vec();
            rdb.extend_from_slice(&bytes);
            let _ = check(&rdb, piece, at(0));
            let _ = check(&bytes, piece, at(0));
        }
    }
}
