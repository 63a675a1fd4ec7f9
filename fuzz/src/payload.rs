//! The framing of a snapshot, against a reader that has the whole input and takes it apart line by line.

use super::cuts;
use rbuddy_core::replication::payload::{PayloadError, PayloadReader};

/// What an input comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ends before the snapshot does; this much of it was certain.
    Incomplete { snapshot: Vec<u8>, announced: Option<u64> },
    /// The snapshot, and how many bytes of the input it took with its framing.
    Whole { snapshot: Vec<u8>, announced: Option<u64>, used: usize },
    /// No payload.
    Failed(PayloadError),
}

pub fn check(input: &[u8]) {
    let expected = reference(input);
    for pieces in cuts::ways(input) {
        assert_same(&read(&pieces), &expected);
    }
}

/// The reader under test.
pub fn read(pieces: &[&[u8]]) -> Outcome {
    let mut reader = PayloadReader::new();
    let (mut snapshot, mut used) = (Vec::new(), 0);
    for piece in pieces {
        match reader.feed(piece, |bytes| snapshot.extend_from_slice(bytes)) {
            Ok(count) => used += count,
            Err(error) => return Outcome::Failed(error),
        }
    }
    let announced = reader.announced_bytes();
    if reader.is_done() { Outcome::Whole { snapshot, announced, used } } else { Outcome::Incomplete { snapshot, announced } }
}

/// The same, the simple way.
pub fn reference(input: &[u8]) -> Outcome {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let end = rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        if end.unwrap_or(rest.len()) > LINE_BYTES_MAX {
            return bad_header(rest);
        }
        let Some(end) = end else { return Outcome::Incomplete { snapshot: Vec::new(), announced: None } };
        let line = rest[..end - 1].strip_suffix(b"\r").unwrap_or(&rest[..end - 1]);
        at += end;
        let behind = &input[at..];
        if line.is_empty() {
            continue;
        } else if line[0] == b'-' {
            return Outcome::Failed(PayloadError::Aborted(String::from_utf8_lossy(&line[1..]).into_owned()));
        } else if let Some(mark) = line.strip_prefix(b"$EOF:") {
            if mark.len() != MARK_BYTES {
                return bad_header(line);
            }
            return match behind.windows(MARK_BYTES).position(|window| window == mark) {
                Some(found) => Outcome::Whole { snapshot: behind[..found].to_vec(), announced: None, used: at + found + MARK_BYTES },
                None => Outcome::Incomplete { snapshot: behind.to_vec(), announced: None },
            };
        }
        let digits = line.strip_prefix(b"$").and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(length) = digits.and_then(|digits| digits.parse::<u64>().ok()).filter(|length| *length > 0) else {
            return bad_header(line);
        };
        return match usize::try_from(length).ok().and_then(|length| behind.get(..length)) {
            Some(snapshot) => Outcome::Whole { snapshot: snapshot.to_vec(), announced: Some(length), used: at + snapshot.len() },
            None => Outcome::Incomplete { snapshot: behind.to_vec(), announced: Some(length) },
        };
    }
}

/// Equal, but for the last bytes before a mark has come: they may be its beginning, so they are not given out yet.
pub fn assert_same(found: &Outcome, expected: &Outcome) {
    match (found, expected) {
        (Outcome::Incomplete { snapshot: given, announced: None }, Outcome::Incomplete { snapshot: arrived, announced: None }) => {
            assert!(arrived.starts_with(given) && arrived.len() - given.len() < MARK_BYTES, "{given:?} of {arrived:?}")
        }
        (found, expected) => assert_eq!(found, expected),
    }
}

fn bad_header(line: &[u8]) -> Outcome {
    Outcome::Failed(PayloadError::BadHeader(String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned()))
}

pub const MARK_BYTES: usize = 40;
const LINE_BYTES_MAX: usize = 256;
