//! Framing of a full resync's payload: newlines while the primary prepares it, then `$<length>` or `$EOF:<mark>`, then the snapshot.
//!
//! Incremental: fed with whatever a read brought, it gives the same result however the bytes were cut. Not here: what is in the snapshot
//! ([`super::rdb`]).

/// Takes a payload apart.
///
/// ```text
/// Line ──`$n`────► Counted ──n bytes──► Done
///   └───`$EOF:`──► Marked ───mark─────► Done
/// ```
#[derive(Debug)]
pub struct PayloadReader {
    state: State,
}

#[derive(Debug)]
enum State {
    Line(Vec<u8>),
    Counted { announced: u64, left: u64 },
    Marked { mark: [u8; MARK_BYTES], tail: Vec<u8> },
    Done { announced: Option<u64> },
}

/// A payload that cannot be taken apart; the connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The primary gave up: a `-` line in place of the header.
    #[error("the primary gave up the snapshot: {0}")]
    Aborted(String),
    /// The line in place of the header is neither `$<length>` nor `$EOF:<mark>`.
    #[error("expected a snapshot's header, found {0:?}")]
    BadHeader(String),
}

impl PayloadReader {
    /// A reader for what follows a `+FULLRESYNC` line.
    #[expect(clippy::new_without_default, reason = "a payload in progress has no default; it begins at one place of the protocol")]
    pub fn new() -> PayloadReader {
        PayloadReader { state: State::Line(Vec::new()) }
    }

    /// Takes bytes from `input`, gives the snapshot's bytes to `out` and returns how many of `input` were used: all, until the payload is
    /// complete. What is left belongs to the stream.
    pub fn feed(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) -> Result<usize, PayloadError> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            match &mut self.state {
                State::Line(line) => {
                    used += take_line(line, rest)?;
                    if let Some(next) = parse_line(line)? {
                        self.state = next;
                    }
                }
                State::Counted { announced, left } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    out(&rest[..count]);
                    *left -= count as u64;
                    used += count;
                    if *left == 0 {
                        self.state = State::Done { announced: Some(*announced) };
                    }
                }
                State::Marked { mark, tail } => match take_until_mark(mark, tail, rest, &mut out) {
                    Some(count) => {
                        used += count;
                        self.state = State::Done { announced: None };
                    }
                    None => used = input.len(),
                },
                State::Done { .. } => break,
            }
        }
        Ok(used)
    }

    /// Whether the whole snapshot was given out.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done { .. })
    }

    /// The snapshot's length, where the header told it.
    pub fn announced_bytes(&self) -> Option<u64> {
        match self.state {
            State::Counted { announced, .. } => Some(announced),
            State::Done { announced } => announced,
            State::Line(_) | State::Marked { .. } => None,
        }
    }
}

/// Adds to `line` up to and with its line feed.
fn take_line(line: &mut Vec<u8>, rest: &[u8]) -> Result<usize, PayloadError> {
    let count = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
    let kept = count.min(LINE_BYTES_MAX - line.len());
    line.extend_from_slice(&rest[..kept]);
    if kept < count { Err(bad_header(line)) } else { Ok(count) }
}

/// What a complete line leads to; an empty one is a sign of life, and the next line is awaited.
fn parse_line(line: &mut Vec<u8>) -> Result<Option<State>, PayloadError> {
    let Some(text) = line.strip_suffix(b"\n") else { return Ok(None) };
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let next = match text {
        [] => {
            line.clear();
            return Ok(None);
        }
        [b'-', words @ ..] => return Err(PayloadError::Aborted(String::from_utf8_lossy(words).into_owned())),
        [b'$', b'E', b'O', b'F', b':', mark @ ..] => {
            let mark = mark.try_into().map_err(|_| bad_header(text))?;
            State::Marked { mark, tail: Vec::with_capacity(MARK_BYTES) }
        }
        [b'$', digits @ ..] => {
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            let announced: u64 = length.filter(|length| *length > 0).ok_or_else(|| bad_header(text))?;
            State::Counted { announced, left: announced }
        }
        [..] => return Err(bad_header(text)),
    };
    Ok(Some(next))
}

/// Gives out everything before the mark. `tail` holds the last bytes, which may be the mark's beginning. Returns how many bytes of `rest` were used
/// if the mark was found.
// The servers look for the mark at the end of what they received; the primary is silent behind it until the first ACK (protocol fact 2.2), so
// looking anywhere finds the same place, and does not depend on how reads were cut.
fn take_until_mark(mark: &[u8; MARK_BYTES], tail: &mut Vec<u8>, rest: &[u8], out: &mut impl FnMut(&[u8])) -> Option<usize> {
    let before = tail.len();
    tail.extend_from_slice(&rest[..rest.len().min(MARK_BYTES - 1)]);
    if let Some(at) = memchr::memmem::find(tail, mark) {
        out(&tail[..at]);
        return Some(at + MARK_BYTES - before);
    }
    if rest.len() >= MARK_BYTES {
        // Nothing that began in the tail is the mark: it all belongs to the snapshot.
        tail.truncate(before);
        out(tail);
        tail.clear();
        if let Some(at) = memchr::memmem::find(rest, mark) {
            out(&rest[..at]);
            return Some(at + MARK_BYTES);
        }
        let (sure, kept) = rest.split_at(rest.len() - (MARK_BYTES - 1));
        out(sure);
        tail.extend_from_slice(kept);
    } else {
        let sure = tail.len().saturating_sub(MARK_BYTES - 1);
        out(&tail[..sure]);
        tail.drain(..sure);
    }
    None
}

fn bad_header(line: &[u8]) -> PayloadError {
    PayloadError::BadHeader(String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned())
}

const MARK_BYTES: usize = 40;
/// Replicas read at most this much as a line.
const LINE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Feeds `input` cut at `cuts`; gives the snapshot and what was left for the stream.
    fn read(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, bool), PayloadError> {
        let mut reader = PayloadReader::new();
        let (mut snapshot, mut stream) = (Vec::new(), Vec::new());
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            let part = &input[at..end];
            let used = reader.feed(part, |bytes| snapshot.extend_from_slice(bytes))?;
            stream.extend_from_slice(&part[used..]);
            at = end;
        }
        Ok((snapshot, stream, reader.is_done()))
    }

    #[test]
    fn a_counted_payload_is_read_however_it_is_cut() {
        let input = b"\n\n$10\r\n0123456789*1\r\n";
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let found = read(input, &[first, second]).expect("sound");
                assert_eq!(found, (b"0123456789".to_vec(), b"*1\r\n".to_vec(), true), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_marked_payload_is_read_however_it_is_cut() {
        // The snapshot ends with the beginning of the mark, the hardest case.
        let snapshot = format!("REDIS0010 {}{}", &MARK[..20], &MARK[..39]);
        let input = format!("\r\n$EOF:{MARK}\r\n{snapshot}{MARK}");
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let found = read(input.as_bytes(), &[first, second]).expect("sound");
                assert_eq!(found, (snapshot.clone().into_bytes(), Vec::new(), true), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        for input in
            ["-ERR no\r\n", "$0\r\n", "$x\r\n", "$-1\r\n", "$EOF:short\r\n", "+OK\r\n", "$99999999999999999999\r\n", &"a".repeat(300)]
        {
            assert!(read(input.as_bytes(), &[]).is_err(), "{input}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_shown_however_it_is_cut() {
        let input = [b'a'; 300];
        for cut in 0..=input.len() {
            assert_eq!(read(&input, &[cut]), Err(PayloadError::BadHeader("a".repeat(64))), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_cuts_are_read_back(snapshot in proptest::collection::vec(any::<u8>(), 1..2000), cuts in proptest::collection::vec(0usize..4000, 0..12), counted: bool) {
            let mut input = if counted { format!("${}\r\n", snapshot.len()).into_bytes() } else { format!("$EOF:{MARK}\r\n").into_bytes() };
            input.extend_from_slice(&snapshot);
            if !counted { input.extend_from_slice(MARK.as_bytes()); }
            let found = read(&input, &cuts).expect("sound");
            prop_assert_eq!(found, (snapshot, Vec::new(), true));
        }

        #[test]
        fn no_input_makes_it_panic(input in proptest::collection::vec(any::<u8>(), 0..600), cuts in proptest::collection::vec(0usize..600, 0..6)) {
            let _ = read(&input, &cuts);
        }
    }
}
