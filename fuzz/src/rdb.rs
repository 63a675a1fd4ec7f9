//! The checks of a snapshot. A fuzzer does not guess a CRC, so each input is looked at as it is, and as the content of a snapshot with a right CRC and
//! of one without.

use super::cuts::{self, Dice};
use rbuddy_core::replication::rdb::{Checksum, RdbCheck, RdbError, RdbFacts};
use rbuddy_core::types::{Offset, Position, RdbVersion, ReplId};

type Judgement = Result<RdbFacts, RdbError>;

pub fn check(input: &[u8]) {
    let (as_it_is, announced) = judge(input);
    let Some(version) = input.first_chunk().and_then(RdbVersion::from_header) else {
        assert!(as_it_is.is_err(), "no header, and yet {as_it_is:?}");
        return;
    };
    if let Ok(facts) = as_it_is {
        assert_end_is_right(input, &facts);
        assert_no_flipped_bit_passes(input, announced);
    }
    let content = [input, &[END]].concat();
    let sum = crc(&content);
    let (with_crc, announced) = judge(&[&content[..], &sum.to_le_bytes()].concat());
    let facts = with_crc.expect("a header, an end, and the right CRC");
    let checksum = if sum == 0 { Checksum::Disabled } else { Checksum::Verified };
    assert_eq!((facts.version, facts.bytes, facts.checksum), (version, content.len() as u64 + 8, checksum));
    assert_no_flipped_bit_passes(&[&content[..], &sum.to_le_bytes()].concat(), announced);
    let (without, _) = judge(&[&content[..], &[0; 8]].concat());
    assert_eq!(without.map(|facts| (facts.version, facts.checksum)), Ok((version, Checksum::Disabled)));
}

/// The one judgement of all ways to cut it, with the position announced that it names itself, if it names one.
fn judge(rdb: &[u8]) -> (Judgement, Position) {
    let elsewhere = Position::new(ReplId::NONE, Offset::ZERO);
    match judge_as(rdb, elsewhere) {
        Err(RdbError::OtherPosition { found, announced }) => {
            assert_eq!(announced, elsewhere);
            assert_ne!(found, elsewhere);
            (judge_as(rdb, found), found)
        }
        judgement => (judgement, elsewhere),
    }
}

fn judge_as(rdb: &[u8], announced: Position) -> Judgement {
    let mut judgements = cuts::ways(rdb).map(|pieces| judge_pieces(&pieces, announced));
    let first = judgements.next().expect("at least one way");
    judgements.for_each(|other| assert_eq!(other, first));
    first
}

fn judge_pieces(pieces: &[&[u8]], announced: Position) -> Judgement {
    let mut check = RdbCheck::new();
    let mut seen = 0;
    for piece in pieces {
        check.feed(piece);
        seen += piece.len();
        assert!(seen >= 9 || check.version().is_none(), "a format told from {seen} bytes");
    }
    let version = check.version();
    let judgement = check.finish(announced);
    if let Ok(facts) = &judgement {
        assert_eq!((Some(facts.version), facts.bytes), (version, seen as u64));
    }
    judgement
}

fn assert_end_is_right(rdb: &[u8], facts: &RdbFacts) {
    let (content, sum) = rdb.split_last_chunk::<8>().expect("long enough");
    let stored = u64::from_le_bytes(*sum);
    assert_eq!(content.last(), Some(&END));
    match facts.checksum {
        Checksum::Verified => assert_eq!(stored, crc(content)),
        Checksum::Disabled => assert_eq!(stored, 0),
    }
}

fn assert_no_flipped_bit_passes(rdb: &[u8], announced: Position) {
    let trailer = rdb.len() - 8;
    if rdb[trailer..] == [0; 8] {
        return;
    }
    let mut dice = Dice::of(rdb);
    for _ in 0..FLIPS {
        let mut broken = rdb.to_vec();
        broken[dice.below(rdb.len())] ^= 1 << dice.below(8);
        // The one hole in the format: a CRC of a single bit that is lost reads as "no checksum".
        if broken[trailer..] != [0; 8] {
            let judgement = judge_pieces(&[&broken], announced);
            assert!(judgement.is_err(), "broken, and yet {judgement:?}");
        }
    }
}

/// CRC-64/Jones bit by bit, as the facts write it.
fn crc(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| (0..8).fold(sum ^ u64::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 }))
}

const POLYNOMIAL: u64 = 0x95AC_9329_AC4B_C9B5;
const END: u8 = 0xff;
const FLIPS: usize = 8;
